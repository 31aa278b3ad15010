"""The folder that `sa2net measure` wrote, as the review page needs it: scans by an id, pictures for a browser."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.artifacts import file_sha256, read_json
from sa2net.data.pictures import read_mask, read_scan
from sa2net.errors import DataError
from sa2net.scoliosis import Measurement
from sa2net.scoliosis.band import Band, find_band
from sa2net.scoliosis.folder import RESULT, mask_file, scan_file

THUMBNAIL = 96
"""Width of a small picture, px."""
_KEPT = 600
_IGNORED = (200, 200, 200)


@dataclass(frozen=True)
class Measured:
    """A measurement and the file that it was read from.

    Attributes:
        measurement: What it says.
        sha256: Of its file.
    """

    measurement: Measurement
    sha256: str


class Results:
    """A folder of measurements.

    Attributes:
        root: The folder.
        names: Id -> name of a scan, in the order of the names.
    """

    def __init__(self, root: Path) -> None:
        """Look which scans there are.

        Raises:
            DataError: None.
        """
        found = sorted(path.name.removesuffix(RESULT) for path in root.glob(f"*{RESULT}")) if root.is_dir() else []
        if not found:
            raise DataError(
                f"{root} holds no measurement",
                evidence=f"no NAME{RESULT} in it" if root.is_dir() else "no such folder",
                action=f"Run `sa2net measure SCANS --out {root}` first, or name the folder that it wrote.",
            )
        self.root = root
        self.names = {scan_id(name): name for name in found}
        self._small: OrderedDict[str, bytes] = OrderedDict()
        self._bands: dict[str, Band | None] = {}
        self._lock = threading.Lock()

    def measured(self, name: str) -> Measured:
        """The measurement of a scan.

        Raises:
            DataError: It cannot be read.
        """
        path = self.root / f"{name}{RESULT}"
        try:
            return Measured(Measurement.model_validate(read_json(path)), file_sha256(path))
        except (ValidationError, OSError) as error:
            raise DataError(
                f"{path.name} is no measurement", evidence=str(error).splitlines()[0], action="Measure the scan again."
            ) from error

    def scan(self, name: str) -> npt.NDArray[np.uint8]:
        """The grey picture (H, W)."""
        return read_scan(scan_file(self.root, name))

    def mask(self, name: str) -> npt.NDArray[np.uint8]:
        """The label map (H, W)."""
        return read_mask(mask_file(self.root, name))

    def band(self, name: str, measurement: Measurement) -> Band | None:
        """The sweep, in units of the measurement; found once."""
        if name not in self._bands:
            spacing = measurement.spacing
            scale = (spacing.x_mm or 1.0, spacing.y_mm or 1.0)
            self._bands[name] = find_band(self.mask(name), self.scan(name), scale)
        return self._bands[name]

    def scan_png(self, name: str) -> bytes:
        """The scan for a browser: drawn anew, so that nothing but pixels of the file reaches it."""
        return _png(Image.fromarray(self.scan(name)))

    def mask_png(self, name: str) -> bytes:
        """The label map in the colours of its classes, background transparent."""
        return mask_as_png(self.mask(name))

    def thumbnail(self, name: str) -> bytes:
        """The scan, small; the last few hundred are kept in memory."""
        with self._lock:
            if name in self._small:
                self._small.move_to_end(name)
                return self._small[name]
        picture = Image.fromarray(self.scan(name))
        picture.thumbnail((THUMBNAIL, 4 * THUMBNAIL))
        content = _png(picture)
        with self._lock:
            self._small[name] = content
            while len(self._small) > _KEPT:
                self._small.popitem(last=False)
        return content


def scan_id(name: str) -> str:
    """What a scan is called in addresses: nothing of its name, which may be anything."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]


def mask_as_png(mask: npt.NDArray[np.uint8]) -> bytes:
    """A label map (H, W) in the colours of its classes, background transparent."""
    colours = np.zeros((256, 4), np.uint8)
    for item in FOREGROUND:
        colours[item.id] = (*item.colour, 255)
    colours[IGNORE_INDEX] = (*_IGNORED, 255)
    return _png(Image.fromarray(colours[mask]))


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
