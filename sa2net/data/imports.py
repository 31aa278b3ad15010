"""Bring a folder of one's own into the project: checked first, copied whole or not at all, pseudonymised on demand.

Scans of patients must never be one command away from a public commit. So this module says what to do next, and
suggests a push only to a DVC remote outside of the repository.
"""

import csv
import dataclasses
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sa2net.artifacts import write_json
from sa2net.config import ValidateConfig
from sa2net.data import store
from sa2net.data.angles import copy_table
from sa2net.data.dicom_folder import COLUMNS, LaidOut, lay_out
from sa2net.data.dicom_sources import holds_dicom
from sa2net.data.examination import examine
from sa2net.data.layout import SCANS_TABLE, SPLITS, TRUTH, Case, list_path, mask_path, read_cases, read_truth, scan_path
from sa2net.data.manifest import Row
from sa2net.data.pictures import decode, read_bytes, write_png
from sa2net.errors import ConfigError, DataError


@dataclass(frozen=True)
class ImportResult:
    """What came in.

    Attributes:
        out: The new data root.
        scans: Scans copied.
        key: File that leads from pseudonyms back to names; None where nothing was replaced.
        warnings: What a person should look at.
        advice: What to do next, one command or sentence each.
    """

    out: Path
    scans: int
    key: Path | None
    warnings: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def message(self) -> str:
        """All of it, as lines for a person."""
        warnings = [f"To look at: {warning}" for warning in self.warnings]
        steps = [f"  {line}" for line in self.advice]
        return "\n".join([f"{self.scans} scans copied to {self.out}.", *warnings, "Next:", *steps])


def import_data(
    source: Path | Sequence[Path],
    out: Path,
    *,
    pseudonymise: bool = False,
    key: Path | None = None,
    test_fraction: float | None = None,
    cfg: ValidateConfig | None = None,
    progress: bool = True,
) -> ImportResult:
    """Check a data set and copy it into the project.

    Listed scans, their masks, the lists, `scans.csv` and `truth.json` are copied; other files are not. With
    `pseudonymise`, names and subjects are replaced by random ones, files are written anew without metadata (text in a
    PNG can hold a name), lists and table are put in the order of the pseudonyms, and `scans.csv` keeps only the
    columns this project reads - `device` among them, which the user must judge.

    DICOM scans are first laid out as such a data set, in a private folder that is removed again
    (`sa2net.data.dicom_folder`).

    Args:
        source: Folder that holds `dataset/` and `groundtruth/`; or folders and files that hold DICOM scans.
        out: New data root; absent or empty.
        pseudonymise: Replace names and subjects.
        key: Where the key to the pseudonyms is written, outside of every repository; default in `~/sa2net-keys`.
        test_fraction: DICOM scans without lists: share of the subjects that becomes the test split.
        cfg: What the data set must fulfil; default settings where None.
        progress: Show a progress bar.

    Raises:
        DataError: The data set fails a check, `out` is not empty, or the key would lie in a repository.
        ConfigError: Packages that read DICOM are missing, or nothing says how DICOM scans are split.
    """
    sources = (source,) if isinstance(source, Path) else tuple(source)
    for path in sources:
        _check_place(path, out)
    place = _key_place(key, out) if pseudonymise else None
    cfg = cfg or ValidateConfig()
    with _as_data_set(sources, cfg, test_fraction, nameless=pseudonymise, progress=progress) as (root, laid):
        found = dataclasses.replace(examine(cfg, root, progress=progress), data=sources[0])
        found.require_passed(hint="Nothing was copied.")
        if laid is not None:
            laid.reveal()
        cases = read_cases(root)
        digests = {(row.scan, row.mask): row for row in found.rows}
        with _fresh_folder(out) as folder:
            names = _pseudonyms("scan", (case.name for case in cases)) if pseudonymise else {}
            subjects = _pseudonyms("subject", (case.subject for case in cases)) if pseudonymise else {}
            for case in cases:
                row = digests[case.scan.relative_to(root).as_posix(), case.mask.relative_to(root).as_posix()]
                name = names.get(case.name, case.name)
                _copy_case(case, row, folder, name, clean=pseudonymise, max_pixels=cfg.max_pixels)
            _write_texts(root, folder, cases, names, subjects)
            if place is not None:
                _write_key(place, cases, names, subjects)
    warnings = (*(laid.warnings if laid is not None else ()), *found.warnings)
    warnings = tuple(_renamed(warning, names | subjects) for warning in warnings)
    return ImportResult(out, len(cases), place, warnings, _advice(out, place))


@contextmanager
def _as_data_set(
    sources: Sequence[Path], cfg: ValidateConfig, test_fraction: float | None, *, nameless: bool, progress: bool
) -> Iterator[tuple[Path, LaidOut | None]]:
    """Root of the data set; DICOM scans are laid out as one, in a folder that only their owner can read."""
    if not holds_dicom(sources):
        if len(sources) > 1 or test_fraction is not None:
            raise ConfigError(
                "several sources and --test-fraction are for DICOM scans, and here are none",
                action="Name one folder that holds dataset/ and groundtruth/ with their lists.",
            )
        yield sources[0], None
        return
    with tempfile.TemporaryDirectory(prefix="sa2net-import-") as name:
        laid = lay_out(sources, Path(name), cfg, test_fraction=test_fraction, nameless=nameless, progress=progress)
        yield laid.folder, laid


def _check_place(source: Path, out: Path) -> None:
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise DataError(f"{out} and {source} lie in each other", action="Name another folder with --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty", action="Name a new folder, or move the old one away first.")


def _key_place(key: Path | None, out: Path) -> Path:
    """Where the key goes; refused where it could be committed or shared with the data."""
    key = key or Path.home() / "sa2net-keys" / f"{out.resolve().name}-{secrets.token_hex(4)}.csv"
    place = key.resolve()
    homes = [folder for folder in place.parents if (folder / ".git").exists() or (folder / ".dvc").exists()]
    if place.is_relative_to(store.tracked_folder(out)) or homes:
        raise DataError(
            f"the key {key} would lie with the data or in a repository",
            evidence=str(homes[0]) if homes else str(out),
            action="Name a place outside of it with --key.",
        )
    if os.path.lexists(key):
        raise DataError(f"the key {key} exists already", action="Name another file: an old key is never overwritten.")
    return place


@contextmanager
def _fresh_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; on an error nothing is left of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".partial"))
    try:
        yield fresh
        fresh.chmod(0o755)
        fresh.rename(out)  # replaces an empty folder, refuses one that was filled meanwhile
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _pseudonyms(kind: str, originals: Iterable[str]) -> dict[str, str]:
    """Random and distinct: nothing can be computed back."""
    unique = dict.fromkeys(originals)
    drawn: set[str] = set()
    while len(drawn) < len(unique):
        drawn.add(f"{kind}_{secrets.token_hex(5)}")
    return dict(zip(unique, drawn, strict=True))


def _renamed(text: str, pseudonyms: Mapping[str, str]) -> str:
    """A sentence with pseudonyms in place of names: it is printed, and terminals are logged."""
    if not pseudonyms:
        return text
    longest_first = sorted(pseudonyms, key=len, reverse=True)
    names = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")
    return names.sub(lambda found: pseudonyms[found[1]], text)


def _copy_case(case: Case, row: Row, folder: Path, name: str, *, clean: bool, max_pixels: int) -> None:
    pairs = (
        (case.scan, row.scan_sha256, scan_path(folder, case.split, name)),
        (case.mask, row.mask_sha256, mask_path(folder, case.split, name)),
    )
    for path, digest, target in pairs:
        content = read_bytes(path, max_pixels=max_pixels)
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(f"{path} changed while it was copied", action="Import again when nobody writes there.")
        if clean:
            write_png(target, decode(path, content, max_pixels=max_pixels))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _write_texts(
    source: Path, folder: Path, cases: Sequence[Case], names: Mapping[str, str], subjects: Mapping[str, str]
) -> None:
    """Lists, table and truth, under the new names where there are some."""
    for split in SPLITS:
        listed = [names.get(case.name, case.name) for case in cases if case.split == split]
        if listed:
            lines = "".join(f"{name}\n" for name in (sorted(listed) if names else listed))
            list_path(folder, split).write_text(lines, encoding="utf-8")
    copy_table(source, folder, names)
    if not names:
        for name in (SCANS_TABLE, TRUTH):
            if (source / name).exists():
                (folder / name).write_bytes((source / name).read_bytes())
        return
    if truth := read_truth(source):
        write_json(
            folder / TRUTH,
            {names.get(name, name): truth[name] for name in truth if name in names or name == "schema_version"},
        )
    if not (source / SCANS_TABLE).exists():
        return
    with (folder / SCANS_TABLE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in sorted(cases, key=lambda case: names[case.name]):
            spacing = case.spacing_mm or ("", "")
            writer.writerow((names[case.name], subjects[case.subject], case.device, *spacing))


def _write_key(key: Path, cases: Sequence[Case], names: Mapping[str, str], subjects: Mapping[str, str]) -> None:
    """Readable by its owner alone; created, never overwritten."""
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("pseudonym", "name", "subject_pseudonym", "subject"))
        writer.writerows((names[case.name], case.name, subjects[case.subject], case.subject) for case in cases)


def _advice(out: Path, key: Path | None) -> tuple[str, ...]:
    """What to do next; a push is suggested only to a remote outside of the repository."""
    lines = []
    if key is not None:
        lines.append(f"{key} leads back to the names: keep it where patients' data belong, apart from {out}.")
    home = store.repository(out)
    if home is None:
        return (*lines, f"{out} lies in no DVC repository: its identity is computed from its content.")
    tracked = store.tracked_folder(out)
    where = tracked.relative_to(home).as_posix()
    lines.append(f"dvc add {where}")
    remotes = store.outside_remotes(out)
    if not remotes:
        lines.append(
            "No remote lies outside of this repository. Before any push, set one up:"
            " dvc remote add hospital s3://BUCKET/PATH (or a folder outside of the repository)."
        )
        return tuple(lines)
    if (named := store.pointer_remote(out)) and named not in remotes:
        lines.append(
            f"In {where}.dvc, write `remote: {remotes[0]}` in place of `remote: {named}`, which lies inside the repository,"
            " and remove `push: false`: with it a push uploads nothing, and says that all is well."
        )
    lines.append(f"dvc push --remote {remotes[0]} {where}.dvc")
    return tuple(lines)
