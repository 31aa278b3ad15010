"""The GPU: whether there is one, whether torch can use it, and what stands between the two."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok, shortened

_QUERY = ("--query-gpu=name,driver_version", "--format=csv,noheader")
_NVIDIA = "0x10de"
_SIDE = 64
"""Side of the matrices that are multiplied."""


@dataclass(frozen=True)
class Driver:
    """What the driver says, without torch.

    Attributes:
        cards: Names of the cards.
        version: Version of the driver.
        cuda: Newest CUDA version that it can run, as (major, minor); (0, 0) where it is not known.
        trouble: What `nvidia-smi` complained about; empty where it did not.
    """

    cards: tuple[str, ...] = ()
    version: str = ""
    cuda: tuple[int, int] = (0, 0)
    trouble: str = ""


def check_gpu(_: Options) -> Finding:
    """Whether torch computes correctly on each GPU."""
    driver = ask_driver()
    if importlib.util.find_spec("torch") is None:
        if driver.cards:
            return note(
                f"{_named(driver.cards)}, but torch is not installed", "pip install 'sa2net[train]' to train here."
            )
        return note(
            "torch is not installed, no GPU", "Nothing, where nothing is trained; else pip install 'sa2net[train]'."
        )
    import torch

    if not torch.cuda.is_available() or torch.cuda.device_count() == 0:
        built = torch.version.cuda or torch.version.hip or ""
        return explain_absence(torch.__version__, str(built), driver, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return try_devices(torch, driver)


def explain_absence(version: str, built: str, driver: Driver, visible: str | None) -> Finding:
    """Why torch sees no GPU.

    Args:
        version: Version of torch.
        built: CUDA or ROCm version that torch was built for; empty for a processor build.
        driver: What the driver says.
        visible: `$CUDA_VISIBLE_DEVICES`; None where it is not set.
    """
    if driver.trouble:
        return fail(
            f"the NVIDIA driver does not work: {driver.trouble}",
            "Load or reinstall the driver; then `nvidia-smi` must list the cards.",
        )
    if not driver.cards:
        return note(
            f"no GPU (torch {version}): training uses the processor",
            "Nothing where that is meant; else a machine with a GPU.",
        )
    cards = _named(driver.cards)
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return note(f"{cards}, hidden by CUDA_VISIBLE_DEVICES={visible!r}", "unset CUDA_VISIBLE_DEVICES")
    if not built:
        return fail(
            f"{cards}, but torch {version} was built without CUDA",
            "pip install --force-reinstall the CUDA build of torch, version as in constraints.txt.",
        )
    if driver.cuda != (0, 0) and driver.cuda[0] < _version(built)[0]:
        return fail(
            f"{cards}: driver {driver.version} runs CUDA up to {_dotted(driver.cuda)}, torch was built for {built}",
            f"Update the driver, or install torch built for CUDA {driver.cuda[0]}.",
        )
    return fail(
        f"{cards} (driver {driver.version}), but torch {version} for CUDA {built} cannot start it",
        "Restart the machine or container after a driver update; in a container check --gpus and the toolkit.",
    )


def try_devices(torch: Any, driver: Driver) -> Finding:
    """Multiply two matrices on each GPU, and look at the result."""
    seen = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        try:
            free, total = torch.cuda.mem_get_info(index)
            ones = torch.ones(_SIDE, _SIDE, device=f"cuda:{index}")
            result = float((ones @ ones).sum().item())
        except RuntimeError as error:
            return explain_fault(f"GPU {index} ({properties.name})", str(error), torch.cuda.get_arch_list())
        if result != float(_SIDE**3):
            return fail(
                f"GPU {index} ({properties.name}) computes wrongly: {result} for {_SIDE**3}",
                "Take this card out of service.",
            )
        seen.append(f"{properties.name} {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    below = f", driver {driver.version} up to CUDA {_dotted(driver.cuda)}" if driver.version else ""
    return ok(f"{_counted(seen)}; torch {torch.__version__} for {built}{below}")


def explain_fault(card: str, message: str, built_for: list[str]) -> Finding:
    """Why a GPU that torch sees did not compute."""
    if "out of memory" in message:
        return fail(f"{card} has no free memory", "`nvidia-smi` names the processes that hold it; end them or wait.")
    if "no kernel image" in message:
        return fail(
            f"{card} is none that torch was built for ({', '.join(built_for)})",
            "Install a torch build for this generation.",
        )
    return fail(
        f"{card} does not compute: {shortened(message)}",
        "`dmesg | grep -i xid`; restart, or take the card out of service.",
    )


def ask_driver(devices: Path = Path("/sys/bus/pci/devices")) -> Driver:
    """What the driver knows about cards.

    Args:
        devices: Where the system lists its devices: a driver that fails on a machine without a card is no trouble.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return Driver()
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, check=False, timeout=6)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired) as error:
        return Driver(trouble=shortened(error))
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        said = shortened(text or done.stderr.decode(errors="replace") or f"nvidia-smi ended with {done.returncode}")
        absent = "No devices were found" in said or not _may_have_card(devices)
        return Driver() if absent else Driver(trouble=said)
    rows = [line.rpartition(",") for line in text.splitlines() if "," in line]
    if not rows:
        return Driver()
    return Driver(tuple(row[0].strip() for row in rows), rows[0][2].strip(), _driver_cuda())


def _may_have_card(devices: Path) -> bool:
    """Whether the system lists an NVIDIA device, or lists none at all."""
    if not devices.is_dir():
        return True
    try:
        return any(file.read_text().strip() == _NVIDIA for file in devices.glob("*/vendor"))
    except OSError:
        return True


def _driver_cuda() -> tuple[int, int]:
    """Newest CUDA that the driver runs, asked without starting it."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
            return (0, 0)
    except (OSError, AttributeError):
        return (0, 0)
    return number.value // 1000, number.value % 1000 // 10


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit()) or (0,)


def _dotted(version: tuple[int, int]) -> str:
    return "unknown" if version == (0, 0) else f"{version[0]}.{version[1]}"


def _named(cards: tuple[str, ...]) -> str:
    return _counted([f"{card}" for card in cards]) + (" is there" if len(cards) == 1 else " are there")


def _counted(entries: list[str]) -> str:
    return entries[0] if len(entries) == 1 else f"{len(entries)} GPUs: {'; '.join(entries)}"
