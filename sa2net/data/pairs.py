"""A scan together with its mask: of one size, and with the labels that the project knows."""

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import IGNORE_INDEX, NUM_CLASSES
from sa2net.data.layout import Case
from sa2net.data.pictures import read_mask, read_scan
from sa2net.errors import DataError

Picture = npt.NDArray[np.uint8]


def read_pair(case: Case) -> tuple[Picture, Picture]:
    """The scan and the mask of a case. # 2 x (H, W).

    Raises:
        DataError: One cannot be used, the two differ in size, or the mask holds a label that no class has.
    """
    scan, truth = read_scan(case.scan), read_mask(case.mask)
    if scan.shape != truth.shape:
        evidence = f"scan {scan.shape[1]} x {scan.shape[0]} px, mask {truth.shape[1]} x {truth.shape[0]} px"
        raise DataError(f"scan and mask of {case.name} differ in size", evidence=evidence, action="Export them again.")
    strange = sorted(set(np.unique(truth).tolist()) - set(range(NUM_CLASSES)) - {IGNORE_INDEX})
    if strange:
        raise DataError(
            f"{case.mask} holds labels that no class has",
            evidence=", ".join(map(str, strange)),
            action="Run `sa2net validate` and mend the mask.",
        )
    return scan, truth
