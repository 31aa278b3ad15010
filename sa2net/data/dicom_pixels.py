"""The pixels of a DICOM scan: judged before they are decoded, then brought to grey values as they would be displayed."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sa2net.data.dicom_header import fault, guarded

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

Grey = npt.NDArray[np.uint8]

_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_MOST_ENCODED = 32 << 20  # bytes; a run of RLE grows 64-fold
_SAME_GREY = 2  # levels between channels that lossy compression may leave
_DARK = 128


def check_encoded(path: Path, dataset: "Dataset", syntax: "UID") -> None:
    """Judge the coded pixels: their length, what they say of their size, and whether a decoder is there."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    if not syntax.is_transfer_syntax or syntax.is_private:
        raise fault(path, "an unknown transfer syntax", "Export it uncompressed.")
    raw = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * (int(dataset.BitsAllocated) // 8)
    if dataset.PhotometricInterpretation == "YBR_FULL_422" and not syntax.is_compressed:
        raw = raw * 2 // 3
    length = len(dataset.PixelData)
    if not syntax.is_compressed:
        if length < raw:
            raise fault(path, f"truncated: {length} bytes of pixels, {raw} are needed", "Copy the file again.")
        return
    if length > min(raw + raw // 16 + (64 << 10), _MOST_ENCODED):
        raise fault(path, f"{length} bytes of compressed pixels for {raw} bytes of picture", "Export it uncompressed.")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise fault(path, f"no decoder exists here for {syntax.name}", "Export it uncompressed.") from None
    if not decoder.is_available:
        needed = "; ".join(decoder.missing_dependencies)
        raise fault(
            path,
            f"no decoder is installed for {syntax.name} ({needed})",
            "Install one of these packages, or export it uncompressed.",
        )
    if syntax in _JPEG_LS:
        said = _jpeg_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if said != (dataset.Columns, dataset.Rows):
            raise fault(path, "the compressed picture is of another size than the header says", "Export it again.")


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in the first frame header of a JPEG or JPEG-LS stream; None where there is none (ITU T.87)."""
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[place + 7 : place + 9]), int.from_bytes(frame[place + 5 : place + 7])
        place += 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None


def decode(path: Path, dataset: "Dataset") -> npt.NDArray[np.integer]:
    """Stored values. # (H, W) or (H, W, 3)."""
    with guarded(path, "the pixels are damaged and cannot be decoded"):
        pixels = np.asarray(dataset.pixel_array)
    shape = (int(dataset.Rows), int(dataset.Columns)) + ((3,) if dataset.SamplesPerPixel == 3 else ())
    if pixels.shape != shape:
        raise fault(path, "the pixels are not of the size that the header says", "Export it again.")
    return pixels


def to_grey(path: Path, dataset: "Dataset", pixels: npt.NDArray[np.integer]) -> tuple[Grey, list[str]]:
    """Stored values to grey values as they would be displayed, and what is to be said of that. # (H, W)."""
    if pixels.ndim == 3:
        return _equal_channels(path, pixels), []
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    bits = int(dataset.BitsStored)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0.0, 2.0**bits - 1)
    values = apply_modality_lut(pixels, dataset)
    if dataset.get("ModalityLUTSequence"):
        low, high = _table_range(dataset.ModalityLUTSequence[0])
    elif (slope := dataset.get("RescaleSlope")) is not None and dataset.get("RescaleIntercept") is not None:
        if not float(slope) > 0.0:
            raise fault(path, "its rescale slope is not positive", "Export it as 8-bit grey.")
        low, high = (value * float(slope) + float(dataset.RescaleIntercept) for value in (low, high))
    windowed = bool(dataset.get("VOILUTSequence")) or "WindowWidth" in dataset
    if windowed:
        values = apply_voi_lut(values, dataset)
        if dataset.get("VOILUTSequence"):
            low, high = _table_range(dataset.VOILUTSequence[0])
    share = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if not np.isfinite(share).all():
        raise fault(path, "its rescaling or window gives no finite grey values", "Export it as 8-bit grey.")
    grey = np.rint(255.0 * np.clip(share, 0.0, 1.0)).astype(np.uint8)
    notes = []
    if bits > 8 and not windowed and (brightest := int(grey.max())) < _DARK:
        notes.append(
            f"the file gives no window: {bits}-bit values are scaled by their full range, and the brightest becomes "
            f"{brightest} of 255"
        )
    return (255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey), notes


def _table_range(table: "Dataset") -> tuple[float, float]:
    """What may come out of a lookup table (PS3.3 C.11.1.1.1)."""
    return 0.0, 2.0 ** int(table.LUTDescriptor[2]) - 1


def _equal_channels(path: Path, pixels: npt.NDArray[np.integer]) -> Grey:
    """The mean of three channels that are equal but for what lossy compression leaves. # (H, W)."""
    apart = np.ptp(pixels, axis=2)
    coloured = apart > _SAME_GREY
    if coloured.any():
        share = 100.0 * float(coloured.mean())
        raise fault(
            path,
            f"it is a colour picture: {share:.2g} % of the pixels are coloured, channels differ by up to {int(apart.max())}",
            "Export it in grey, without coloured marks and overlays.",
        )
    return np.asarray(np.rint(pixels.mean(axis=2)), dtype=np.uint8)
