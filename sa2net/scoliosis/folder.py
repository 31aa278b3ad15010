"""The folder that `sa2net measure` writes and `sa2net review` reads: which file lies where."""

from pathlib import Path

from sa2net.data.layout import MASK_SUFFIX

MEASURED = ".measure"
RESULT = f"{MEASURED}.json"
"""Behind the name of a scan: what was measured in it."""
PICTURE = f"{MEASURED}.png"
"""Behind the name of a scan: its picture with lines and angles."""


def scan_file(root: Path, name: str) -> Path:
    """The scan itself."""
    return root / "scans" / f"{name}.png"


def mask_file(root: Path, name: str) -> Path:
    """Its label map."""
    return root / "masks" / f"{name}{MASK_SUFFIX}.png"
