"""Scans that come as DICOM files: grey values and pixel size, judged before anything is decoded.

A DICOM file holds who was scanned. What is read of that stays in memory, and no message holds a value of it: what
pydicom says when it fails is not passed on, for it quotes values. Files about a scan are written by
`sa2net.steps.dicom_results`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sa2net.data.dicom_header import (
    Spacing,
    annotated,
    check_kind,
    check_shape,
    fault,
    guarded,
    header_of,
    model_of,
    name_note,
    packages_missing,
    parse,
    quiet,
    read_spacing,
)
from sa2net.data.dicom_pixels import Grey, check_encoded, decode, to_grey
from sa2net.data.pictures import MAX_PIXELS, read_bytes

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["DicomScan", "Grey", "Spacing", "is_dicom", "packages_missing", "quiet", "read_dicom"]

_PREAMBLE = 128
_MAGIC = b"DICM"


@dataclass(frozen=True, eq=False)
class DicomScan:
    """One scan out of a DICOM file.

    Attributes:
        grey: Grey values, 0-255, bright is 255. # (H, W)
        spacing_mm: Size of a pixel (x, y), mm; None where the file does not say, or not in a way to rely on.
        square: False where the file says that pixels are not square, and not how large they are.
        notes: What a reader of the result should know, as sentences; they hold nothing of the patient.
        device: The manufacturer's model of the device; empty where the file does not say.
        annotated: Whether the file says that the picture itself shows of whom it is.
        header: Elements of `dicom_header.IDENTIFIERS` and how the picture is coded, for files that refer to this one.
            Never shown.
    """

    grey: Grey
    spacing_mm: Spacing | None
    square: bool
    notes: tuple[str, ...]
    device: str
    annotated: bool
    header: "Dataset" = field(repr=False)


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by its suffix `.dcm`, or else (but for `.png`) by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in (".dcm", ".png"):
        return suffix == ".dcm"
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def read_dicom(path: Path, *, max_pixels: int = MAX_PIXELS) -> DicomScan:
    """Read a scan from a DICOM file.

    Grey values: modality LUT or rescaling, then VOI LUT or the first window, as pydicom applies them (PS3.3 C.11.1,
    C.11.2); what may come out of that is mapped to 0-255. Without a window 8-bit values stay as they are, others are
    mapped by the full range of their stored bits. MONOCHROME1 is inverted. RGB is taken where its channels are equal.

    Args:
        path: The file.
        max_pixels: Largest picture that is decoded.

    Raises:
        DataError: Not a DICOM file of one grey picture of `KINDS`, damaged, or too large.
        ConfigError: pydicom is not installed.
    """
    content = read_bytes(path, max_pixels=max_pixels)
    if content[_PREAMBLE : _PREAMBLE + len(_MAGIC)] != _MAGIC:
        raise fault(path, "not a DICOM file (no DICM after the preamble)", "Name a DICOM file, or a PNG as NAME.png.")
    with quiet(), guarded(path, "damaged or truncated DICOM"):
        dataset, syntax = parse(path, content)
        check_kind(path, dataset)
        check_shape(path, dataset, max_pixels)
        check_encoded(path, dataset, syntax)
        grey, said = to_grey(path, dataset, decode(path, dataset))
        spacing, square, found = read_spacing(dataset)
        notes = (*said, *found, *name_note(path, dataset))
        header = header_of(dataset)
        device, shows = model_of(dataset), annotated(dataset)
    return DicomScan(grey, spacing, square, notes, device, shows, header)
