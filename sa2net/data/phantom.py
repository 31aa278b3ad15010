"""Phantoms: synthetic volume projection images of spines whose curve is known, with their masks.

They exist because patients' scans cannot be handed out: with them the whole pipeline runs anywhere, and an angle can
be compared with the truth. They show that the pipeline works, not how it does on patients.
"""

import csv
import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sa2net.anatomy import CLASSES
from sa2net.artifacts import replaced_folder, write_json, write_text
from sa2net.data.phantom_anatomy import FULL_WIDTH, draw_anatomy, paint_mask
from sa2net.data.phantom_artefacts import (
    ARTEFACT_FAMILIES,
    DEFAULT_ARTEFACTS,
    Canvas,
    check_families,
    draw_artefacts,
)
from sa2net.data.phantom_texture import LOOKS, Look, paint_grey
from sa2net.data.phantom_truth import SCHEMA_VERSION, describe
from sa2net.errors import ConfigError, DataError

__all__ = ["ARTEFACT_FAMILIES", "DEFAULT_ARTEFACTS", "Phantom", "draw_dataset", "draw_phantom"]

logger = logging.getLogger(__name__)

LARGEST_ANGLE = 80.0
_SMALLEST_WIDTH = 64
_GOLDEN = 0.6180339887498949
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Phantom:
    """One synthetic scan.

    Attributes:
        scan: (H, W) grey.
        mask: (H, W) class ids 0-3.
        truth: What is true of it, as `phantom_truth` documents it; JSON types only.
        spacing_mm: Size of a pixel (x, y), mm.
        device: Invented device name.
        severity: straight, mild, moderate or severe, by the largest true angle.
    """

    scan: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    truth: dict[str, Any]
    spacing_mm: tuple[float, float]
    device: str
    severity: str


def draw_phantom(
    rng: np.random.Generator,
    *,
    width: int = FULL_WIDTH,
    artefacts: Sequence[str] = DEFAULT_ARTEFACTS,
    max_angle: float = 60.0,
    angle: float | None = None,
    look: Look | None = None,
) -> Phantom:
    """Draw one phantom; the same state of `rng` gives the same bytes.

    It is drawn at full scale and brought to `width` by averaging, so that texture and artefacts shrink as those of a
    real scan would. The choice of artefacts changes nothing else in the picture.

    Args:
        rng: Source of chance.
        width: Width of the picture, px; the height follows, 2400-2750 px at width 640.
        artefacts: Families that may show, from ARTEFACT_FAMILIES.
        max_angle: The largest curve is drawn evenly from 0 to this angle, degrees.
        angle: Takes the place of the drawn angle, degrees.
        look: Takes the place of the drawn one of `LOOKS`.

    Raises:
        ConfigError: An unknown family, a width below 64 px or an angle outside 0-80 degrees.
    """
    check_families(artefacts)
    _check_limits(width, max_angle if angle is None else angle)
    sources = [np.random.default_rng(seed) for seed in rng.integers(0, 2**63 - 1, size=4)]
    drawn_angle = max_angle * float(sources[0].random())
    usual = LOOKS[int(sources[0].integers(len(LOOKS)))]
    look = look or usual
    anatomy = draw_anatomy(sources[1], drawn_angle if angle is None else angle)
    canvas = Canvas(anatomy=anatomy, tissue=paint_grey(sources[2], anatomy, look), mask=paint_mask(anatomy))
    shown = draw_artefacts(sources[3], canvas, artefacts)

    height = round(anatomy.height * width / FULL_WIDTH)
    truth = describe(canvas, look, width, height, shown)
    return Phantom(
        scan=_resized_grey(canvas.grey, width, height),
        mask=_resized_mask(canvas.mask, width, height),
        truth=truth,
        spacing_mm=(truth["spacing_mm"][0], truth["spacing_mm"][1]),
        device=look.name,
        severity=truth["severity"],
    )


def draw_dataset(
    out: Path,
    *,
    train: int,
    val: int,
    test: int,
    seed: int,
    width: int = FULL_WIDTH,
    artefacts: Sequence[str] = DEFAULT_ARTEFACTS,
    progress: bool = True,
    workers: int = 0,
) -> None:
    """Write a data set of phantoms: scans, masks, lists, `scans.csv`, `truth.json`; whole or not at all.

    Every scan depends on the seed, its split and its index alone. Within a split the largest angles are spread evenly
    over 0-60 degrees. A split of no scans gets neither folder nor list.

    Args:
        out: Folder that will hold `dataset/` and `groundtruth/`; must not exist or be empty.
        train: Scans for training.
        val: Scans for validation.
        test: Scans for testing.
        seed: Seed, not negative.
        width: Width of the scans, px.
        artefacts: Families that may show.
        progress: Show a bar on stderr.
        workers: Threads that draw; 0 = all cores.

    Raises:
        ConfigError: Negative counts, no scan at all, an unknown family, a width or seed that cannot be used.
        DataError: `out` is not an empty folder.
    """
    counts = dict(zip(_SPLITS, (train, val, test), strict=True))
    _check_request(counts, seed, workers)
    check_families(artefacts)
    _check_limits(width, 0.0)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out} is not an empty folder",
            action="Name a folder that does not exist yet, or remove its content first.",
        )
    jobs = [(split, index) for split in _SPLITS for index in range(counts[split])]
    with replaced_folder(out, ()) as fresh:
        for split in {split for split, _ in jobs}:
            (fresh / "dataset" / split).mkdir(parents=True)
            (fresh / "groundtruth" / split).mkdir(parents=True)

        def draw(job: tuple[str, int]) -> dict[str, Any]:
            return _draw_and_write(fresh, *job, seed=seed, width=width, artefacts=artefacts)

        with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
            truths = list(tqdm(pool.map(draw, jobs), total=len(jobs), unit="scan", disable=not progress))
        _write_lists(fresh, jobs, truths)
    logger.info("wrote %d phantoms to %s", len(jobs), out)


def _draw_and_write(
    folder: Path, split: str, index: int, *, seed: int, width: int, artefacts: Sequence[str]
) -> dict[str, Any]:
    """Draw one scan of the data set and write its two pictures; returns its truth."""
    number = _SPLITS.index(split)
    begin = float(np.random.default_rng([seed, number]).random())  # where the even spread of this split begins
    angle = 60.0 * ((begin + index * _GOLDEN) % 1.0)
    phantom = draw_phantom(np.random.default_rng([seed, number, index]), width=width, artefacts=artefacts, angle=angle)
    name = _name(split, index)
    Image.fromarray(phantom.scan).save(folder / "dataset" / split / f"{name}.png", optimize=True)
    Image.fromarray(phantom.mask).save(folder / "groundtruth" / split / f"{name}_bone_3.png", optimize=True)
    return phantom.truth


def _name(split: str, index: int) -> str:
    return f"phantom-{split}-{index:04d}"


def _write_lists(folder: Path, jobs: Sequence[tuple[str, int]], truths: Sequence[dict[str, Any]]) -> None:
    """Write the lists of the splits, `scans.csv` and `truth.json`."""
    for split in dict.fromkeys(split for split, _ in jobs):
        names = [_name(split, index) for listed, index in jobs if listed == split]
        write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in names))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        ["name", "subject", "device", "spacing_x_mm", "spacing_y_mm", "severity", "largest_angle_deg", "artefacts"]
    )
    named = {_name(*job): truth for job, truth in zip(jobs, truths, strict=True)}
    for name, truth in named.items():
        shown = " ".join(truth["artefacts"])
        spacing = truth["spacing_mm"]
        row = [name, name, truth["device"], *spacing, truth["severity"], truth["largest_angle_deg"], shown]
        writer.writerow(row)
    write_text(folder / "scans.csv", table.getvalue())
    write_json(folder / "truth.json", {"schema_version": SCHEMA_VERSION, **named})


def _check_limits(width: int, angle: float) -> None:
    if width < _SMALLEST_WIDTH:
        raise ConfigError(
            f"a phantom {width} px wide cannot be drawn", action=f"Choose a width of at least {_SMALLEST_WIDTH} px."
        )
    if not 0.0 <= angle <= LARGEST_ANGLE:
        raise ConfigError(
            f"a curve of {angle:g} degrees cannot be drawn", action=f"Choose an angle from 0 to {LARGEST_ANGLE:g}."
        )


def _check_request(counts: dict[str, int], seed: int, workers: int) -> None:
    asked = ", ".join(f"{split} {count}" for split, count in counts.items())
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ConfigError(
            "the sizes of the splits cannot be used",
            evidence=asked,
            action="Give counts of at least 0, and at least one scan in all.",
        )
    if seed < 0 or workers < 0:
        raise ConfigError(
            "seed and workers cannot be negative", evidence=f"seed {seed}, workers {workers}", action="Give 0 or more."
        )


def _resized_grey(grey: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """Bring grey values to another size: by averaging where it shrinks, smoothly where it grows."""
    picture = Image.fromarray(grey)
    if picture.size != (width, height):
        method = Image.Resampling.BOX if width < FULL_WIDTH else Image.Resampling.BICUBIC
        picture = picture.resize((width, height), method)
    return np.asarray(np.clip(np.rint(np.asarray(picture)), 0, 255), dtype=np.uint8)


def _resized_mask(mask: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Bring a label map to another size: each pixel takes the class that covers most of it."""
    if mask.shape == (height, width):
        return mask
    method = Image.Resampling.BOX if width < FULL_WIDTH else Image.Resampling.BILINEAR
    shares = [
        np.asarray(Image.fromarray((mask == item.id).astype(np.uint8) * np.uint8(255)).resize((width, height), method))
        for item in CLASSES
    ]
    return np.asarray(np.argmax(np.stack(shares), axis=0), dtype=np.uint8)
