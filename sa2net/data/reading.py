"""One way to read a scan that a user names, whatever file it comes in: a PNG, or a DICOM file that knows its pixel size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sa2net.data.dicom import DicomScan, Grey, Spacing, is_dicom, read_dicom
from sa2net.data.pictures import MAX_PIXELS, read_scan
from sa2net.errors import DataError

_SAME = 0.005  # relative; a header rounds


@dataclass(frozen=True, eq=False)
class NamedScan:
    """A scan as it was read.

    Attributes:
        grey: Grey values. # (H, W)
        spacing_mm: Size of a pixel (x, y), mm; None where nobody says.
        from_header: Whether the file itself gave it.
        notes: What a reader of the result should know, as sentences.
        dicom: The DICOM file behind it; None for a PNG.
    """

    grey: Grey
    spacing_mm: Spacing | None
    from_header: bool = False
    notes: tuple[str, ...] = ()
    dicom: DicomScan | None = None


def read_named_scan(path: Path, spacing_mm: Spacing | None = None, *, max_pixels: int = MAX_PIXELS) -> NamedScan:
    """Read a scan from a PNG or DICOM file.

    Args:
        path: The file; what `is_dicom` says decides how it is read.
        spacing_mm: Size of a pixel (x, y), mm, as the user gave it: it wins over the file's own.
        max_pixels: Largest picture that is decoded.

    Raises:
        DataError: The file cannot be used, or its pixels are not square and nobody says how large they are.
    """
    if not is_dicom(path):
        return NamedScan(read_scan(path, max_pixels=max_pixels), spacing_mm)
    found = read_dicom(path, max_pixels=max_pixels)
    if spacing_mm is None:
        if found.spacing_mm is None and not found.square:
            raise DataError(
                f"{path} cannot be used",
                evidence="; ".join(
                    (*found.notes, "it says that its pixels are not square, and not how large they are")
                ),
                action="Give their size with --spacing X Y.",
            )
        return NamedScan(found.grey, found.spacing_mm, found.spacing_mm is not None, found.notes, found)
    notes = found.notes
    if found.spacing_mm is not None and not np.allclose(found.spacing_mm, spacing_mm, rtol=_SAME, atol=0.0):
        notes += (
            f"the pixel spacing that was given is used, {_mm(spacing_mm)}; the header of the file says "
            f"{_mm(found.spacing_mm)}",
        )
    return NamedScan(found.grey, spacing_mm, notes=notes, dicom=found)


def _mm(spacing_mm: Spacing) -> str:
    return f"{spacing_mm[0]:.4g} x {spacing_mm[1]:.4g} mm"
