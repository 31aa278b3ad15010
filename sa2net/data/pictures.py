"""Picture files of a data set: how a scan and a mask are read and written, and what a user is told of a bad one.

Every reader of a scan comes through here (of a DICOM file by way of `reading`), so that one place decides what a scan
file must be.
"""

import io
import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from sa2net.errors import DataError

MAX_PIXELS = 100_000_000

PICTURE_FAULTS = {
    "missing": "Put the file there, or take its name out of the list.",
    "unreadable": "Make it a regular file with read permission (chmod u+r), or copy it again.",
    "damaged": "Export or copy the file again.",
    "format": "Convert it to an 8-bit single-channel grey PNG without palette or alpha.",
    "size": "Check the file; raise validate.max_pixels if it is right.",
}
"""What can be wrong with a picture file -> what to do about it."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # the last chunk, the same in every file; Pillow takes half of it for whole
_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class PictureError(DataError):
    """A scan or mask file that cannot be used.

    Attributes:
        kind: One of `PICTURE_FAULTS`.
        reason: What is wrong, without the path, for a table.
    """

    def __init__(self, path: Path, kind: str, reason: str) -> None:
        super().__init__(f"{path} cannot be used", evidence=reason, action=PICTURE_FAULTS[kind])
        self.kind, self.reason = kind, reason


def read_scan(path: Path, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a scan, to the last byte.

    Args:
        path: An 8-bit grey PNG.
        max_pixels: Largest picture that is decoded.

    Returns:
        Grey values, 0-255. # (H, W)

    Raises:
        PictureError: The file is anything else; the message names it and the cure.
    """
    return decode(path, read_bytes(path, max_pixels=max_pixels), max_pixels=max_pixels)


def read_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a mask: as `read_scan`, the values are class ids. # (H, W)."""
    return read_scan(path, max_pixels=max_pixels)


def read_bytes(path: Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """The content of a picture file, not yet decoded.

    Raises:
        PictureError: No such file, not readable, not a regular file, empty, or far larger than its pixels can be.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(path, "unreadable", "not a regular file")
        if status.st_size == 0:
            raise PictureError(path, "damaged", "zero bytes")
        if status.st_size > 2 * max_pixels + (1 << 20):
            reason = f"{status.st_size} bytes, more than {max_pixels} px can need"
            raise PictureError(path, "size", reason)
        return path.read_bytes()
    except FileNotFoundError as error:
        reason = "a link to nothing" if path.is_symlink() else "no such file"
        raise PictureError(path, "missing", reason) from error
    except OSError as error:
        raise PictureError(path, "unreadable", f"cannot be read ({error.strerror})") from error


def decode(path: Path, content: bytes, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode the content of an 8-bit grey PNG; `path` is for messages only. # (H, W).

    The header is judged before anything is decoded, and the checksum of every chunk is verified: zlib alone does
    not notice damage behind the last row.

    Raises:
        PictureError: Anything but a whole 8-bit grey PNG of at most `max_pixels`.
    """
    header = _check_header(path, content, max_pixels)
    if _END not in content:
        raise PictureError(path, "damaged", "truncated or damaged PNG (no end)")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(content)) as picture:
            if (picture.mode, picture.size) != ("L", header):  # Pillow believes the last of several headers
                raise PictureError(path, "damaged", "more than one header")
            picture.verify()
        with PngImagePlugin.PngImageFile(io.BytesIO(content)) as picture:
            pixels = np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise PictureError(path, "damaged", f"truncated or damaged PNG ({error})") from error
    return pixels


def _check_header(path: Path, content: bytes, max_pixels: int) -> tuple[int, int]:
    """Judge the first header; return width and height, px."""
    if not content.startswith(_SIGNATURE):
        raise PictureError(path, "format", "not a PNG")
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise PictureError(path, "damaged", "truncated or damaged PNG (no header)")
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    if width * height > max_pixels or width == 0 or height == 0:
        reason = f"{width} x {height} px, allowed are 1 to {max_pixels} px"
        raise PictureError(path, "size", reason)
    if (depth, colour) != (8, 0):
        reason = f"{depth}-bit {_COLOUR_TYPES.get(colour, 'unknown')}, needed is 8-bit grey"
        raise PictureError(path, "format", reason)
    return width, height


def write_png(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Write an 8-bit PNG (grey or RGB), atomically and without metadata. # (H, W) or (H, W, 3)."""
    if array.dtype != np.uint8:
        raise TypeError(f"a PNG of this project is 8-bit, not {array.dtype}")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            Image.fromarray(array).save(stream, format="PNG", optimize=False, compress_level=6)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
