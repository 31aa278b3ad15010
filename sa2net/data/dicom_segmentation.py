"""Masks that come as DICOM segmentations: which scan a file speaks of, and which class each of its segments is.

A class is known by the label of the segment or by its codes; what is neither is refused and not guessed. Labels are
free text: no message holds one.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import CLASSES, IGNORE_INDEX
from sa2net.data.dicom_header import fault, guarded, parse, quiet
from sa2net.data.pictures import MAX_PIXELS, read_bytes

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.sr.coding import Code

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"

CodeParts = tuple[str, str, str]
"""Value, scheme and meaning of a DICOM code."""

SEGMENT_CODES: dict[str, tuple[CodeParts, CodeParts]] = {
    "rib": (("113197003", "SCT", "Rib"), ("122495006", "SCT", "Thoracic spine")),
    "thoracic_process": (
        ("73400003", "SCT", "Transverse process of vertebra"),
        ("122495006", "SCT", "Thoracic spine"),
    ),
    "lumbar_lump": (("51282000", "SCT", "Vertebra"), ("122496007", "SCT", "Lumbar spine")),
}
"""Class -> what it shows, and where. No code means a *lump*, the blurred back of a lumbar vertebra."""

_LABELS = {
    "background": 0,
    "rib": 1,
    "ribs": 1,
    "thoracic process": 2,
    "thoracic processes": 2,
    "lumbar lump": 3,
    "lumbar lumps": 3,
    "ignore": IGNORE_INDEX,
    "ignored": IGNORE_INDEX,
}
_IDS = {item.name: item.id for item in CLASSES}
_WANTED = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SegmentationType",
    "SegmentSequence",
    "ReferencedSeriesSequence",
    "SourceImageSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
]
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # implicit and explicit little endian

Plane = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A DICOM segmentation, its pixels not yet looked at.

    Attributes:
        path: The file.
        classes: Number of a segment -> class id.
        frames: UID of a scan -> its frames, each with the number of its segment; None where a frame holds all of them.
    """

    path: Path
    classes: dict[int, int]
    frames: dict[str, tuple[tuple[int, int | None], ...]]


def read_segmentation(path: Path, *, max_pixels: int = MAX_PIXELS) -> Segmentation:
    """Read which scans a segmentation speaks of, and what its segments are.

    Args:
        path: The file.
        max_pixels: Largest frame that will be decoded.

    Raises:
        DataError: Not a segmentation of a kind that is read, damaged, or with a segment that is no class.
        ConfigError: pydicom is not installed.
    """
    with quiet(), guarded(path, "damaged or truncated DICOM segmentation"):
        dataset = _parsed(path, max_pixels)
        return Segmentation(path, _classes(path, dataset), _frames(path, dataset))


def decode_segmentation(found: Segmentation, scan: str, *, max_pixels: int = MAX_PIXELS) -> dict[int, Plane]:
    """The planes of the classes in the mask of one scan; a class that is described and nowhere seen is empty.

    Args:
        found: What `read_segmentation` returned.
        scan: UID of a scan in its `frames`.
        max_pixels: Largest frame that is decoded.

    Returns:
        Class id -> where it is. # each (H, W)

    Raises:
        DataError: The pixels are damaged, or a value is no segment.
    """
    path = found.path
    with quiet(), guarded(path, "the pixels are damaged and cannot be decoded"):
        dataset = _parsed(path, max_pixels)
        shape = int(dataset.Rows), int(dataset.Columns)
        planes = {label: np.zeros(shape, dtype=np.bool_) for label in set(found.classes.values())}
        for index, segment in found.frames.get(scan, ()):
            if segment is not None:
                planes[found.classes[segment]] |= _bits(dataset, index)
                continue
            values = _values(dataset, index)
            for value in map(int, np.unique(values)):
                if value and value not in found.classes:
                    raise fault(path, f"a pixel has the value {value}, which is no segment", "Export it again.")
                if value:
                    planes[found.classes[value]] |= values == value
    planes.pop(0, None)
    return planes


def join_planes(path: Path, parts: list[dict[int, Plane]]) -> npt.NDArray[np.uint8]:
    """One mask out of the planes of one or several segmentations. # (H, W).

    Args:
        path: The scan, for messages.
        parts: Planes of each segmentation, at least one.

    Raises:
        DataError: They are of several sizes, two of them hold the same class, or a pixel is of two classes.
    """
    shapes = {plane.shape for planes in parts for plane in planes.values()}
    if len(shapes) != 1:
        raise fault(path, "its segmentations have no class, or are of several sizes", "Export them again.")
    mask = np.zeros(shapes.pop(), dtype=np.uint8)
    for planes in parts:
        for label, plane in planes.items():
            if sum(label in others for others in parts) > 1:
                raise fault(path, "two segmentations hold the same class of it", "Keep the one that is right.")
            if twice := int((mask[plane] != 0).sum()):
                raise fault(
                    path, f"{twice} pixels of its mask are of two classes", "Draw segments that do not overlap."
                )
            mask[plane] = label
    return mask


def _bits(dataset: "Dataset", index: int) -> Plane:
    """One frame of single bits, lowest first, without a gap between frames (PS3.5 8.1.1). # (H, W).

    pydicom refuses a single frame that does not begin with a byte, and unpacks all of them at once else.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    first, last = index * rows * columns, (index + 1) * rows * columns
    content = np.frombuffer(dataset.PixelData, dtype=np.uint8)[first // 8 : -(-last // 8)]
    bits = np.unpackbits(content, bitorder="little")[first % 8 :][: rows * columns]
    return bits.reshape(rows, columns).astype(np.bool_)


def _values(dataset: "Dataset", index: int) -> npt.NDArray[np.integer]:
    """One frame of a label map. # (H, W)."""
    from pydicom.pixels.utils import pixel_array

    return np.asarray(pixel_array(dataset, index=index)).reshape(int(dataset.Rows), int(dataset.Columns))


def _parsed(path: Path, max_pixels: int) -> "Dataset":
    dataset, syntax = parse(path, read_bytes(path, max_pixels=max_pixels), _WANTED)
    if str(syntax) not in _PLAIN:
        raise fault(path, "a segmentation that is compressed or big-endian", "Export it uncompressed.")
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        said = "a fractional segmentation" if kind == "FRACTIONAL" else "a segmentation of an unknown type"
        raise fault(path, said, "Export it as a binary segmentation.")
    size = int(dataset.Rows) * int(dataset.Columns)
    if not 0 < size <= max_pixels:
        raise fault(path, f"frames of {size} px, allowed are 1 to {max_pixels} px", "Check the file.")
    if "PixelData" not in dataset:
        raise fault(path, "it holds no pixels", "Export the segmentation, not its headers alone.")
    bits = int(dataset.BitsAllocated)
    if bits not in ((1,) if kind == "BINARY" else (8, 16)) or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise fault(path, f"{bits} bits a pixel do not fit its type", "Export it again.")
    needed = -(-size * int(dataset.get("NumberOfFrames") or 1) * bits // 8)
    if len(dataset.PixelData) < needed:
        said = f"truncated: {len(dataset.PixelData)} bytes of pixels, {needed} are needed"
        raise fault(path, said, "Copy the file again.")
    return dataset


def _classes(path: Path, dataset: "Dataset") -> dict[int, int]:
    classes: dict[int, int] = {}
    for segment in dataset.SegmentSequence:
        number = int(segment.SegmentNumber)
        by_label, by_code = _label_class(segment), _code_class(segment)
        if by_label is None and by_code is None:
            raise fault(
                path,
                f"segment {number} is no class by its label, nor by its codes",
                "Label segments rib, thoracic process, lumbar lump, background or ignored, or write the mask as PNG.",
            )
        if by_label is not None and by_code is not None and by_label != by_code:
            raise fault(path, f"segment {number} has the label of one class and the codes of another", "Mend either.")
        classes[number] = by_label if by_label is not None else int(by_code or 0)
    return classes


def _label_class(segment: "Dataset") -> int | None:
    words = re.sub(r"[\s_-]+", " ", str(segment.get("SegmentLabel", ""))).strip().casefold()
    return _LABELS.get(words)


def _code_class(segment: "Dataset") -> int | None:
    """The class whose codes a segment has. A region may be absent, but for a vertebra, which may be any."""
    from pydicom.sr.coding import Code

    kind, region = _code(segment, "SegmentedPropertyTypeCodeSequence"), _code(segment, "AnatomicRegionSequence")
    for name, (wanted_kind, wanted_region) in SEGMENT_CODES.items():
        here = name != "lumbar_lump" if region is None else region == Code(*wanted_region)
        if here and kind is not None and kind == Code(*wanted_kind):
            return _IDS[name]
    return None


def _code(segment: "Dataset", keyword: str) -> "Code | None":
    """The first code of an element; None where there is none. Codes of retired SNOMED RT equal those of SNOMED CT."""
    from pydicom.sr.coding import Code

    items = segment.get(keyword) or ()
    if not items:
        return None
    return Code(str(items[0].get("CodeValue", "")), str(items[0].get("CodingSchemeDesignator", "")), "")


def _frames(path: Path, dataset: "Dataset") -> dict[str, tuple[tuple[int, int | None], ...]]:
    """Which frames speak of which scan: by the sources of the frame, else by the only scan that the file refers to."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise fault(path, f"{count} frames, and {len(groups)} of them described", "Export it again.")
    only = _references(dataset)
    whole = dataset.SegmentationType == "LABELMAP"
    frames: dict[str, list[tuple[int, int | None]]] = {}
    for index, group in enumerate(groups):
        scans = _sources(group) or _sources(shared) or only
        if len(scans) != 1:
            raise fault(path, f"frame {index + 1} does not say of which one scan it is", "Export it again.")
        segment = None if whole else _segment(group, shared)
        frames.setdefault(scans.copy().pop(), []).append((index, segment))
    return {scan: tuple(members) for scan, members in frames.items()}


def _segment(*groups: "Dataset | None") -> int:
    """Number of the segment that a frame shows, by its own group or the shared one."""
    said = [
        int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for group in groups
        if group is not None and "SegmentIdentificationSequence" in group
    ]
    return said[0]


def _sources(group: "Dataset | None") -> set[str]:
    """UIDs of the scans that a frame was drawn on."""
    derivations = () if group is None else group.get("DerivationImageSequence") or ()
    return {
        str(source.ReferencedSOPInstanceUID)
        for derivation in derivations
        for source in derivation.get("SourceImageSequence") or ()
    }


def _references(dataset: "Dataset") -> set[str]:
    """UIDs of all scans that the file refers to as a whole."""
    series = dataset.get("ReferencedSeriesSequence") or ()
    items = [item for one in series for item in one.get("ReferencedInstanceSequence") or ()]
    items += dataset.get("SourceImageSequence") or ()
    return {str(item.ReferencedSOPInstanceUID) for item in items}
