"""Tiny valid data sets for tests, drawn with numpy alone: no test of another room needs the phantom generator."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sa2net.data.layout import list_path, mask_path, scan_path
from sa2net.data.pictures import write_png

Picture = npt.NDArray[np.uint8]


def draw_case(seed: int, width: int = 96, height: int = 256) -> tuple[Picture, Picture]:
    """A scan-like picture and its mask: sweep, curved spine, all three foreground classes. # 2 x (H, W).

    The classes can be told apart by grey and place, so that a small network learns them; each seed gives another curve.
    """
    generator = np.random.default_rng([seed, 20260])
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    along = rows / height
    phase, lobes, depth = generator.uniform(0, 2 * np.pi), generator.uniform(0.6, 1.8), generator.uniform(0.03, 0.09)
    spine = width * (0.5 + depth * np.sin(2 * np.pi * lobes * along + phase))
    offset = (columns - spine) / width  # signed distance from the spine, share of the width
    sweep = (np.abs(columns / width - 0.5 - 0.03 * np.sin(5 * along + phase)) < 0.31) & (along > 0.04) & (along < 0.96)
    grey = 140 + 30 * generator.standard_normal((height, width))
    grey += 50 * np.sin(2 * np.pi * (generator.uniform(2, 5) * along + generator.uniform(0, 1))) * np.sign(offset)
    grey[np.abs(offset) < 0.05] -= 80
    mask = np.zeros((height, width), dtype=np.uint8)
    levels = generator.uniform(0.11, 0.14) + 0.09 * np.arange(6)
    for level in levels + generator.uniform(-0.01, 0.01, 6):
        for side in (-1, 1):
            place = level + side * generator.uniform(-0.015, 0.015)
            mask[(along - place) ** 2 / 0.025**2 + (offset - side * 0.14) ** 2 / 0.06**2 < 1] = 2
            mask[(np.abs(along - place - 0.01) < 0.03) & (side * offset > 0.22) & sweep] = 1
    for level in (0.72, 0.85):
        mask[(np.abs(along - level - 0.6 * offset**2) < 0.028) & (np.abs(offset) < 0.2)] = 3
    mask[~sweep] = 0
    for label, change in ((1, -50), (2, 35), (3, -90)):
        grey[mask == label] += change
    scan = np.where(sweep, np.clip(grey, 12, 255), 0).astype(np.uint8)
    return scan, mask


def write_data_set(
    root: Path,
    *,
    train: int = 4,
    val: int = 0,
    test: int = 2,
    size: tuple[int, int] = (96, 256),
    spacing_mm: tuple[float, float] | None = (0.4, 0.4),
    subjects: Mapping[str, str] | None = None,
    scans_csv: bool = True,
    seed: int = 0,
) -> Path:
    """Write a valid data set and return its root.

    Args:
        root: Folder to fill; made where absent.
        train: Scans in the train list, named train_000 and so on; val and test likewise. 0 writes no list.
        val: Scans in the val list.
        test: Scans in the test list.
        size: Width and height of every scan, px.
        spacing_mm: Pixel spacing (x, y) written to scans.csv; None leaves it empty.
        subjects: Scan name -> subject, where it is not the default (one subject a scan).
        scans_csv: Write `scans.csv`.
        seed: Another seed, another data set.
    """
    table = ["name,subject,device,spacing_x_mm,spacing_y_mm"]
    spacing = ("", "") if spacing_mm is None else spacing_mm
    counter = 1000 * seed
    for split, count in (("train", train), ("val", val), ("test", test)):
        names = [f"{split}_{index:03d}" for index in range(count)]
        for name in names:
            add_case(root, split, name, *draw_case(counter, *size))
            subject = (subjects or {}).get(name, f"subject_{name}")
            table.append(f"{name},{subject},factory,{spacing[0]},{spacing[1]}")
            counter += 1
        if names:
            write_list(root, split, names)
    if scans_csv:
        (root / "scans.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return root


def add_case(root: Path, split: str, name: str, scan: Picture, mask: Picture) -> None:
    """Write one scan and its mask; the lists stay as they are."""
    write_png(scan_path(root, split, name), scan)
    write_png(mask_path(root, split, name), mask)


def write_list(root: Path, split: str, names: Sequence[str]) -> None:
    """Write the list of a split."""
    list_path(root, split).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
