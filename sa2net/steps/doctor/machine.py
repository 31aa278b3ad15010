"""The machine itself: Python and packages, settings, room on disk and in shared memory."""

import importlib.metadata
import platform
import re
import shutil
import tempfile
from pathlib import Path

from sa2net.config import Config
from sa2net.errors import ConfigError
from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok

_PROJECT = Path(__file__).resolve().parents[3]
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the one place where Linux keeps it
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([^\s;#]+)")
_PARTS = {"mlflow": "registry", "dvc": "data", "great-expectations": "data", "torch": "train", "kfp": "pipeline"}
"""What shows that an optional part is installed -> its name."""
_SHOWN = 4


def check_python(_: Options, constraints: Path = _PROJECT / "constraints.txt") -> Finding:
    """Whether the packages are those that were tested together."""
    installed = _installed()
    start = f"Python {platform.python_version()}"
    parts = sorted({part for package, part in _PARTS.items() if package not in installed})
    absent = f", without the parts {', '.join(parts)}" if parts else ""
    if not constraints.is_file():
        return ok(f"{start}, {len(installed)} packages, no constraints.txt to compare with{absent}")
    locked = pinned_versions(constraints.read_text(encoding="utf-8"))
    common = locked.keys() & installed.keys()
    differing = sorted(name for name in common if installed[name].partition("+")[0] != locked[name].partition("+")[0])
    if differing:
        shown = ", ".join(f"{name} {installed[name]} for {locked[name]}" for name in differing[:_SHOWN])
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        return note(
            f"{start}, {len(differing)} of {len(common)} packages are not as locked: {shown}{more}{absent}",
            "pip install --constraint constraints.txt --editable '.[dev]' (in a clone: touch constraints.txt; make setup)",
        )
    return ok(f"{start}, {len(common)} packages as locked{absent}")


def _installed() -> dict[str, str]:
    return {
        _normal(name): item.version for item in importlib.metadata.distributions() if (name := item.metadata["Name"])
    }


def pinned_versions(text: str) -> dict[str, str]:
    """Normalised package name -> version, of the lines `name==version`."""
    matches = (_PINNED.match(line) for line in text.splitlines())
    return {_normal(match[1]): match[2] for match in matches if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_settings(options: Options) -> Finding:
    """Whether the settings can be used."""
    if not options.params.exists():
        return ok(f"no {options.params} here: the defaults hold")
    try:
        Config.load(options.params)
    except ConfigError as error:
        return fail(f"{error.what}: {error.evidence}" if error.evidence else error.what, error.action)
    return ok(f"{options.params} can be used")


def check_disk(options: Options) -> Finding:
    """Whether the places that runs write to can be written and have room."""
    from sa2net.registry.store import var_folder

    places = (
        (f"{options.build}/", options.build.absolute(), options.free_gb),
        (f"{var_folder().name}/", var_folder(), options.free_gb),
        ("temp", Path(tempfile.gettempdir()), options.free_temp_gb),
    )
    seen, faults, cures = [], [], []
    for label, folder, needed in places:
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            free = shutil.disk_usage(place).free / 1e9
            with tempfile.TemporaryFile(dir=place) as probe:
                probe.write(bytes(4096))
        except OSError as error:
            faults.append(f"{label} cannot be written: {place}: {error.strerror or error}")
            cures.append(f"Make {place} a writable folder with room, or work elsewhere.")
            continue
        seen.append(f"{label} {free:.0f}" if free >= 10 else f"{label} {free:.1f}")
        if free < needed:
            faults.append(f"{label} {free:.1f} GB free of {needed:g} needed ({place})")
            cures.append(_room(label))
    if faults:
        return fail("; ".join(faults), " ".join(dict.fromkeys(cures)))
    return ok(f"GB free: {', '.join(seen)}")


def _room(label: str) -> str:
    if label == "temp":
        return "Free the temp folder, or set TMPDIR to another."
    return "`make clean`, `dvc gc -w`, remove old var/checkpoints; or set SA2NET_VAR to another disk."


def check_shared_memory(options: Options, folder: Path = _SHARED_MEMORY) -> Finding:
    """Whether DataLoader workers can hand batches over."""
    if not folder.is_dir():
        return ok(f"this system has no {folder}")
    usage = shutil.disk_usage(folder)
    size = f"{folder}: {usage.free / 1e9:.2f} GB free of {usage.total / 1e9:.2f}"
    if usage.free / 1e9 >= options.free_shm_gb:
        return ok(size)
    cure = (
        "docker run --shm-size 8g; on a cluster shared_memory in infra/environments.yaml; else set train.workers=0, "
        "with which training needs none."
    )
    workers = _workers(options.params)
    evidence = f"{size}, below {options.free_shm_gb:g}; train.workers is {workers}"
    return fail(evidence, cure) if workers else note(evidence, cure)


def _workers(params: Path) -> int:
    try:
        return Config.load(params if params.exists() else None).train.workers
    except ConfigError:
        return 0  # check_settings says it
