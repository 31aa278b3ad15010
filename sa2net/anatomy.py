"""The classes of a label map: ids, names and colours, written once for the whole project."""

from dataclasses import dataclass

IGNORE_INDEX = 255
"""Mask value of pixels that neither train nor score the network."""


@dataclass(frozen=True)
class AnatomicalClass:
    """One class of the label map.

    Attributes:
        id: Value in the mask and channel of the logits.
        name: Key in every JSON and CSV file.
        label: Words for people.
        colour: RGB, 0-255, distinguishable with the common colour-vision deficiencies.
    """

    id: int
    name: str
    label: str
    colour: tuple[int, int, int]


CLASSES = (
    AnatomicalClass(0, "background", "background", (0, 0, 0)),
    AnatomicalClass(1, "rib", "rib", (230, 159, 0)),
    AnatomicalClass(2, "thoracic_process", "thoracic process", (0, 158, 115)),
    AnatomicalClass(3, "lumbar_lump", "lumbar lump", (86, 180, 233)),
)
FOREGROUND = CLASSES[1:]
NUM_CLASSES = len(CLASSES)
CLASS_NAMES = tuple(item.name for item in CLASSES)
