"""What the header of a DICOM scan says: which kind of file it is, how its picture is coded, how large a pixel is.

Only the elements named here are read at all; private ones never.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sa2net.data.checks import SPACING_MM
from sa2net.errors import ConfigError, DataError, Sa2NetError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

Spacing = tuple[float, float]

KINDS = {
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "multi-frame grayscale byte secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "multi-frame grayscale word secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "multi-frame true colour secondary capture",
    "1.2.840.10008.5.1.4.1.1.6.1": "ultrasound image",
    "1.2.840.10008.5.1.4.1.1.3.1": "ultrasound multi-frame image",
}
"""SOP classes that are read."""

IDENTIFIERS = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "InstanceNumber",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
]
"""Elements that a file about this scan repeats, so that an archive can file it: patient and study, no free text."""

PICTURE = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
]
_DECODING = [
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
]
_SIZE = [
    "PixelSpacing",
    "PixelAspectRatio",
    "SequenceOfUltrasoundRegions",
    "NominalScannedPixelSpacing",
    "ImagerPixelSpacing",
]

_ABOUT = ["ManufacturerModelName", "BurnedInAnnotation"]
_SCAN = [*IDENTIFIERS, *PICTURE, *_DECODING, *_SIZE, *_ABOUT]

NAME_NOTE = (
    "the name of the file holds the patient's name, number, birth date or a UID, and so do the names of its results"
)

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SAME_SIZE = 0.01  # relative
_CENTIMETRES = 3  # PS3.3 C.8.5.5.1.15
_SHORTEST_IDENTIFIER = 4
_SHORTEST_NAME = 3
_LONGEST_MODEL = 64


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from warning and logging: both quote values of elements. Values are not validated."""
    try:
        from pydicom.config import disable_value_validation
    except ModuleNotFoundError as error:
        raise packages_missing(error) from error
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)  # children without a level of their own follow
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def packages_missing(error: ModuleNotFoundError) -> ConfigError:
    """What to say where the extra `dicom` is not installed."""
    return ConfigError(
        "DICOM files need packages that are not installed",
        evidence=f"no module {error.name}",
        action="Install them: pip install 'sa2net[dicom]'.",
    )


def fault(path: Path, reason: str, action: str) -> DataError:
    """The error about a file that cannot be used."""
    return DataError(f"{path} cannot be used", evidence=reason, action=action)


@contextmanager
def guarded(path: Path, reason: str) -> Iterator[None]:
    """Turn whatever pydicom or a decoder raises on a hostile file into a fault that quotes nothing of it."""
    try:
        yield
    except Sa2NetError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise fault(path, f"{reason} ({kind})", "Export or copy the file again.") from None


def kind_of(path: Path) -> str:
    """UID of the kind of a DICOM file, by its file header alone; empty where that cannot be read."""
    with quiet():
        from pydicom.filereader import read_file_meta_info

        try:
            return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", "")) if path.is_file() else ""
        except Exception:  # whatever a hostile file brings about; reading it whole says what is wrong
            return ""


def parse(path: Path, content: bytes, wanted: Sequence[str] = _SCAN) -> tuple["Dataset", "UID"]:
    """Elements of the file that are needed, pixels not decoded, and its transfer syntax."""
    from pydicom import dcmread
    from pydicom.uid import UID, ExplicitVRLittleEndian

    if _DEFLATED in content:  # pydicom would inflate the file whole, whatever its size
        raise fault(path, "the deflated transfer syntax is not read", "Export it uncompressed.")
    dataset = dcmread(BytesIO(content), specific_tags=list(wanted))
    dataset.remove_private_tags()  # those inside of sequences
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)))
    return dataset, syntax


def check_kind(path: Path, dataset: "Dataset") -> None:
    """Refuse everything but one of `KINDS` with pixels. The name of a known kind is told, an unknown UID is not."""
    found = str(dataset.get("SOPClassUID", ""))
    if found not in KINDS:
        from pydicom.uid import UID

        name = UID(found).name
        said = f"it is of the kind {name}" if found and name != found else "it does not say a known kind"
        raise fault(path, said, "Export the scan as a secondary capture or an ultrasound image.")
    if "PixelData" not in dataset:
        raise fault(path, "it holds no pixels", "Export the picture, not its headers alone.")


def check_shape(path: Path, dataset: "Dataset", max_pixels: int) -> None:
    """Judge what the header says of the picture."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise fault(path, f"it holds {frames} frames", "Export the one picture that is to be looked at.")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= max_pixels:
        raise fault(path, f"{columns} x {rows} px, allowed are 1 to {max_pixels} px", "Check the file.")
    samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
    colour, stored = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    mono = colour in ("MONOCHROME1", "MONOCHROME2") and samples == 1 and bits in (8, 16) and 1 < stored <= bits
    coloured = (colour == "RGB" or colour.startswith("YBR_")) and samples == 3 and bits == stored == 8
    if not (mono or coloured):
        known = ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"]
        kind = colour.replace("_", " ") if colour in [*known, "PALETTE COLOR"] else "another colour space"
        raise fault(
            path,
            f"{kind}, {samples} samples a pixel, {stored} of {bits} bits",
            "Export it as grey of 8 or 16 bits, or as RGB of 8 bits with equal channels.",
        )


def read_spacing(dataset: "Dataset") -> tuple[Spacing | None, bool, list[str]]:
    """Pixel size, whether pixels may be taken for squares where there is none, and what was found wrong."""
    notes: list[str] = []
    found: dict[str, Spacing] = {}
    for keyword in ("PixelSpacing", "SequenceOfUltrasoundRegions", "NominalScannedPixelSpacing", "ImagerPixelSpacing"):
        if keyword == "SequenceOfUltrasoundRegions":
            regions = dataset.get(keyword) or ()
            sizes = [size for region in regions if (size := _region_size(region)) is not None]
        else:
            sizes = [pair[::-1] for pair in _pairs(dataset, keyword)]  # row spacing first
        if not all(SPACING_MM[0] <= side <= SPACING_MM[1] for size in sizes for side in size):
            notes.append(f"{keyword} of the file is no plausible pixel size and was not taken")
        elif not all(_same_size(size, sizes[0]) for size in sizes):
            notes.append("the ultrasound regions of the file give different pixel sizes: none was taken")
        elif sizes:
            found[keyword] = sizes[0]
    if not found:
        square = all(abs(down - across) <= _SAME_SIZE * down for down, across in _pairs(dataset, "PixelAspectRatio"))
        return None, square, notes
    (taken, spacing), *others = found.items()
    notes += [
        f"{keyword} of the file gives another pixel size, {size[0]:.4g} x {size[1]:.4g} mm, than {taken}, which is used"
        for keyword, size in others
        if not _same_size(size, spacing)
    ]
    return spacing, True, notes


def _same_size(one: Spacing, other: Spacing) -> bool:
    return bool(np.allclose(one, other, rtol=_SAME_SIZE, atol=0.0))


def _pairs(dataset: "Dataset", keyword: str) -> list[Spacing]:
    """The two numbers of an element, vertical first; empty where there are none, not numbers where they make no sense."""
    try:
        value = dataset.get(keyword)
        numbers = [] if value in (None, "") else [float(number) for number in value]
    except (TypeError, ValueError):
        return [(math.nan, math.nan)]
    if not numbers:
        return []
    return [(numbers[0], numbers[1])] if len(numbers) == 2 else [(math.nan, math.nan)]


def _region_size(region: "Dataset") -> Spacing | None:
    """Pixel size of an ultrasound region in mm; None where its axes are no lengths. A step may be negative."""
    if (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")) != (_CENTIMETRES, _CENTIMETRES):
        return None
    return round(10.0 * abs(float(region.PhysicalDeltaX)), 9), round(10.0 * abs(float(region.PhysicalDeltaY)), 9)


def name_note(path: Path, dataset: "Dataset") -> list[str]:
    """Results are called after the file: say where its name holds what the header holds of the patient."""
    texts = [str(dataset.get(keyword, "")) for keyword in IDENTIFIERS if keyword.endswith(("InstanceUID", "PatientID"))]
    names = re.split(r"[\^=\s]+", str(dataset.get("PatientName", "")))
    numbers = [str(dataset.get("AccessionNumber", "")), str(dataset.get("PatientBirthDate", ""))]
    known = [text.strip().casefold() for text in (*texts, *names, *numbers)]
    stem = path.name.casefold()
    if not any(len(text) >= _SHORTEST_IDENTIFIER and text in stem for text in known):
        return []
    return [NAME_NOTE]


def number_holds_name(header: "Dataset") -> bool:
    """Whether the patient's number holds a part of the patient's name: some devices fill in both alike."""
    number = str(header.get("PatientID", "")).casefold()
    names = re.split(r"[\^=\s]+", str(header.get("PatientName", "")).casefold())
    return any(len(name) >= _SHORTEST_NAME and name in number for name in names)


def model_of(dataset: "Dataset") -> str:
    """The manufacturer's model of the device, in printable characters; empty where the file does not say."""
    said = str(dataset.get("ManufacturerModelName") or "")
    return " ".join("".join(sign if sign.isprintable() else " " for sign in said).split())[:_LONGEST_MODEL]


def annotated(dataset: "Dataset") -> bool:
    """Whether the file says that its picture shows of whom it is (BurnedInAnnotation, PS3.3 C.7.6.1)."""
    return str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES"


def header_of(dataset: "Dataset") -> "Dataset":
    """A data set of its own with what other files may repeat."""
    from pydicom import Dataset

    header = Dataset()
    for keyword in (*IDENTIFIERS, *PICTURE):
        if keyword in dataset:
            header[keyword] = dataset[keyword]
    header.NumberOfFrames = 1
    return header
