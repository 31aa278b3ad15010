"""What lies in a folder of DICOM scans: which files are scans, which hold masks, and which mask belongs to which scan."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa2net.data.dicom import is_dicom
from sa2net.data.dicom_header import fault, kind_of
from sa2net.data.dicom_segmentation import LABEL_MAP, SEGMENTATION, Segmentation, read_segmentation
from sa2net.data.layout import MASK_SUFFIX
from sa2net.data.pictures import MAX_PIXELS
from sa2net.errors import DataError

_SUFFIXES = (".dcm", ".dicom", ".ima")
_NO_PICTURES = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.", "1.2.840.10008.1.3.10")
"""Reports, presentation states and directories: they lie beside scans and are passed over."""


@dataclass(frozen=True)
class SourceFiles:
    """What lies in the sources.

    Attributes:
        scans: File -> name of the scan in the data set.
        segmentations: Masks as DICOM files.
        masks: Name of a scan's file, without suffix -> masks as PNG files.
        passed_over: Number of files that are neither.
        faults: What is wrong with segmentations that could not be read, as sentences.
    """

    scans: Mapping[Path, str]
    segmentations: tuple[Segmentation, ...]
    masks: Mapping[str, tuple[Path, ...]]
    passed_over: int
    faults: tuple[str, ...]


def holds_dicom(sources: Sequence[Path]) -> bool:
    """Whether the sources are DICOM scans: some file is one, and no PNG scan lies in the place that the layout has for it."""
    if any(True for source in sources for _ in (source / "dataset").glob("*/*.png")):
        return False
    return any(is_dicom(path) for path in _walk(sources))


def find_files(sources: Sequence[Path], *, max_pixels: int = MAX_PIXELS) -> SourceFiles:
    """Sort the files of folders, looked through whole, and files that are named themselves. No scan is read.

    Args:
        sources: Folders and files.
        max_pixels: Largest frame of a segmentation.

    Raises:
        DataError: A source is absent.
        ConfigError: pydicom is not installed.
    """
    scans: list[Path] = []
    segmentations: list[Segmentation] = []
    faults: list[str] = []
    masks: dict[str, tuple[Path, ...]] = {}
    passed_over = 0
    ending = f"{MASK_SUFFIX}.png"
    if absent := [str(source) for source in sources if not source.exists()]:
        raise DataError("there are no such files or folders", evidence=", ".join(absent), action="Check the paths.")
    for path in _walk(sources):
        if path.name.endswith(ending):
            name = path.name.removesuffix(ending)
            masks[name] = (*masks.get(name, ()), path)
            continue
        kind = kind_of(path) if is_dicom(path) else None
        if kind in (SEGMENTATION, LABEL_MAP):
            try:
                segmentations.append(read_segmentation(path, max_pixels=max_pixels))
            except DataError as error:
                faults.append(str(error))
        elif kind is not None and not kind.startswith(_NO_PICTURES):
            scans.append(path)
        elif kind is not None or path.suffix.lower() == ".png":
            passed_over += 1
    return SourceFiles(_names(scans, sources), tuple(segmentations), masks, passed_over, tuple(faults))


def masks_of(path: Path, uid: str, files: SourceFiles) -> tuple[Path | None, list[Segmentation]]:
    """The PNG mask of a scan and the segmentations that refer to it, at least one of them.

    Of several PNG masks of one name, that is taken whose folder is called as the scan's: `groundtruth/train` belongs to
    `dataset/train`, and each of several folders holds its own.

    Raises:
        DataError: There is none, or no telling which one.
    """
    stem = _stem(path)
    pictures = files.masks.get(stem, ())
    if (count := len(pictures)) > 1:
        pictures = tuple(picture for picture in pictures if picture.parent.name == path.parent.name)
        if len(pictures) != 1:
            said = f"there are {count} PNG masks of its name, and {len(pictures)} in a folder called as its own"
            raise fault(path, said, "Keep the one that is right, or put each beside its scan.")
    drawn = [found for found in files.segmentations if uid and uid in found.frames]
    if not pictures and not drawn:
        cure = f"Put {stem}{MASK_SUFFIX}.png, or a DICOM segmentation that refers to it, beside the scans."
        raise fault(path, "it has no mask", cure)
    return (pictures[0] if pictures else None), drawn


def _walk(sources: Sequence[Path]) -> Iterable[Path]:
    """All files of the sources, in a stable order."""
    for source in sources:
        if not source.is_dir():
            yield source
            continue
        for place, folders, names in os.walk(source):
            folders.sort()
            yield from (Path(place) / name for name in sorted(names))


def _stem(path: Path) -> str:
    """The name without a suffix that means DICOM; a name of numbers and points has none."""
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def _names(scans: Sequence[Path], sources: Sequence[Path]) -> dict[Path, str]:
    """File -> name in the data set: the file's own, with its folders before it where several files are called alike."""
    times = Counter(_stem(path).casefold() for path in scans)
    names = {}
    for path in scans:
        name = _stem(path)
        if times[name.casefold()] > 1:
            home = next((source for source in sources if source in path.parents), path.parent)
            name = "-".join((*path.parent.relative_to(home).parts, name))
        names[path] = name
    return names
