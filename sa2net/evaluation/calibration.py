"""Whether the network's confidence means what it says: of the pixels it is 80 % sure of, are 80 % right?

Counts are added scan by scan, so that no probabilities are kept.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import IGNORE_INDEX

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels whose confidence lies in (low, high].

    Attributes:
        low: Lower edge of the bin.
        high: Upper edge.
        pixels: Pixels in it.
        confidence: Their mean confidence; 0 where the bin is empty.
        accuracy: Share of them that is right; 0 where the bin is empty.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


class Calibration:
    """Confidence of the predicted class against its accuracy, over pixels.

    The expected calibration error is the mean gap |accuracy - confidence| over equal-width bins, weighted by pixels
    (Guo et al., On Calibration of Modern Neural Networks, 2017). Most pixels of a scan are sure background, which
    keeps the number small: read it beside the table.

    Args:
        bins: Equal-width bins between 0 and 1.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = bins
        self._pixels = np.zeros(bins, dtype=np.int64)
        self._correct = np.zeros(bins, dtype=np.int64)
        self._confidence = np.zeros(bins, dtype=np.float64)

    def add(self, probabilities: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> None:
        """Count one scan.

        Args:
            probabilities: Softmax over the classes. # (K, H, W)
            truth: Class ids, 255 = ignored. # (H, W)

        Raises:
            ValueError: The two are not of one size.
        """
        if probabilities.shape[1:] != truth.shape:
            raise ValueError(f"probabilities {probabilities.shape} do not fit the truth {truth.shape}")
        valid = truth != IGNORE_INDEX
        confidence = probabilities.max(axis=0)[valid].astype(np.float64)
        correct = probabilities.argmax(axis=0)[valid] == truth[valid]
        index = np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        self._pixels += np.bincount(index, minlength=self.bins)
        self._correct += np.bincount(index[correct], minlength=self.bins)
        self._confidence += np.bincount(index, weights=confidence, minlength=self.bins)

    @property
    def pixels(self) -> int:
        """Pixels counted so far."""
        return int(self._pixels.sum())

    def error(self) -> float:
        """Expected calibration error, 0-1; 0 before the first pixel."""
        return float(np.abs(self._correct - self._confidence).sum() / max(self.pixels, 1))

    def table(self) -> list[ReliabilityBin]:
        """The bins, from unsure to sure."""
        filled = np.maximum(self._pixels, 1)
        edges = np.arange(self.bins + 1) / self.bins
        return [
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                pixels=int(self._pixels[index]),
                confidence=float(self._confidence[index] / filled[index]),
                accuracy=float(self._correct[index] / filled[index]),
            )
            for index in range(self.bins)
        ]
