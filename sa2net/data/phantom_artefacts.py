"""Families of artefacts that a phantom may carry, each one selectable so that some can be held out of training.

Every family has its own source of chance, drawn before it is known which families are selected: leaving one out
changes nothing else in the picture. A family shows in most scans, not in all; what was drawn is written down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sa2net.data.phantom_anatomy import FULL_WIDTH, Anatomy
from sa2net.data.phantom_texture import squash
from sa2net.errors import ConfigError

Field = NDArray[np.float32]
Details = dict[str, Any]


@dataclass
class Canvas:
    """A phantom while it is being drawn, at full scale.

    Attributes:
        anatomy: What is where, before any motion.
        tissue: (H, 640) log-odds of the grey.
        grey: (H, 640) grey 0-255; empty until the sweep is cut out.
        mask: (H, 640) label map.
        slope: Rows that the top cut falls per column.
        shift: (H,) px by which motion has moved each row to the right.
    """

    anatomy: Anatomy
    tissue: Field
    mask: NDArray[np.uint8]
    grey: Field = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    slope: float = 0.0
    shift: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))

    def __post_init__(self) -> None:
        self.shift = np.zeros(self.anatomy.height, np.intp)

    def cut_sweep(self, rng: np.random.Generator) -> None:
        """Squash the tissue to grey and blacken everything outside the sweep."""
        sweep, columns = self.anatomy.sweep, np.arange(FULL_WIDTH, dtype=np.float32)
        self.grey = squash(self.tissue)
        left, right = (edge.astype(np.float32)[:, None] for edge in (sweep.left, sweep.right))
        self.grey *= np.clip((np.minimum(columns - left, right - columns) + 1.0) / 2.5, 0.0, 1.0)
        rows = np.arange(self.anatomy.height, dtype=np.float32)[:, None]
        middle = 0.5 * (left.mean() + right.mean())
        top = np.floor(sweep.top + self.slope * (columns - middle) + rng.normal(0.0, 0.3, size=FULL_WIDTH))
        last = np.clip((sweep.bottom - rows) / 22.0, 0.0, 1.0) ** 0.7
        self.grey *= (rows >= top) * last


def _low_contrast(rng: np.random.Generator, canvas: Canvas) -> Details:
    """Haze: everything is drawn towards one grey, as with poor coupling or too little gain."""
    factor, brightness = rng.uniform(0.4, 0.65), rng.uniform(-0.9, 0.3)
    canvas.tissue *= np.float32(factor)
    canvas.tissue += np.float32(brightness)
    return {"factor": factor, "brightness": brightness}


def _shadow(rng: np.random.Generator, canvas: Canvas) -> Details:
    """Lost contact on one side of the probe: a dark strip along the sweep over some hundred rows."""
    height, sweep = canvas.anatomy.height, canvas.anatomy.sweep
    length, row = rng.uniform(200.0, 900.0), rng.uniform(0.15, 0.85) * height
    width, depth, share = rng.uniform(25.0, 70.0), rng.uniform(1.2, 3.0), rng.uniform(0.0, 1.0)
    rows = np.arange(height)
    present = 1.0 / (1.0 + np.exp((np.abs(rows - row) - 0.5 * length) / 25.0))
    middle = sweep.left + share * (sweep.right - sweep.left) + 12.0 * np.sin(rows / rng.uniform(90.0, 200.0))
    across = np.exp(-0.5 * ((np.arange(FULL_WIDTH)[None, :] - middle[:, None]) / width) ** 2)
    canvas.tissue -= (depth * present[:, None] * across).astype(np.float32)
    return {"row": row / height, "length_px": length, "width_px": width, "depth": depth}


def _gain_fade(rng: np.random.Generator, canvas: Canvas) -> Details:
    """The end of the sweep runs out into darkness, and a stretch elsewhere may be dim."""
    height, sweep = canvas.anatomy.height, canvas.anatomy.sweep
    rows = np.arange(height)
    length, depth = rng.uniform(120.0, 420.0), rng.uniform(0.8, 1.9)
    loss = depth * np.clip((rows - (sweep.bottom - length)) / length, 0.0, 1.0) ** 1.3
    row, spread, dim = rng.uniform(0.0, 0.95) * height, rng.uniform(50.0, 160.0), rng.uniform(0.0, 0.8)
    loss += dim * np.exp(-0.5 * ((rows - row) / spread) ** 2)
    canvas.tissue -= loss[:, None].astype(np.float32)
    return {"length_px": length, "depth": depth, "dim_row": row / height, "dim_depth": dim}


def _white_rows(rng: np.random.Generator, canvas: Canvas) -> Details:
    """Single frames that are brighter than their neighbours, over part of the width, mostly near the top."""
    height, sweep = canvas.anatomy.height, canvas.anatomy.sweep
    columns = np.arange(FULL_WIDTH, dtype=np.float32)
    count = int(rng.integers(6, 26))
    rows = np.arange(height, dtype=np.float32)
    for _ in range(count):
        near_top = rng.random() < 0.6
        row = sweep.top + rng.gamma(1.5, 45.0) if near_top else rng.uniform(sweep.top, sweep.bottom)
        start = rng.uniform(sweep.left.min(), sweep.right.max())
        width, thickness, gain = rng.uniform(12.0, 55.0), rng.uniform(0.8, 2.6), rng.uniform(0.4, 1.9)
        first, last = int(max(row - 30, 0)), int(min(row + 30, height))
        line = row + 0.06 * (columns - start)
        streak = np.exp(-0.5 * ((rows[first:last, None] - line) / thickness) ** 2)
        canvas.tissue[first:last] += (gain * streak * np.exp(-0.5 * ((columns - start) / width) ** 2)).astype(
            np.float32
        )
    return {"count": count}


def _tilted_top(rng: np.random.Generator, canvas: Canvas) -> Details:
    """The sweep begins along a slanted frame instead of along a row."""
    canvas.slope = float(rng.normal(0.062, 0.012) * rng.choice([1.0, -1.0], p=[0.8, 0.2]))
    return {"slope": canvas.slope}


def _dashes(rng: np.random.Generator, canvas: Canvas) -> Details:
    """Where the probe moved too fast, rows stay unfilled: bands of short black dashes along slanted frames."""
    height = canvas.anatomy.height
    columns = np.arange(FULL_WIDTH)
    count = int(rng.integers(1, 4))
    centres = rng.uniform(0.12, 0.92, size=count) * height
    for centre in centres:
        spread = rng.gamma(1.6, 16.0) + 3.0
        lines = centre + spread * rng.standard_normal(int(np.clip(spread * rng.uniform(0.5, 1.4), 4, 60)))
        slope = rng.normal(0.06, 0.006) * rng.choice([1.0, -1.0], p=[0.85, 0.15])
        place = lines[:, None] + slope * (columns - FULL_WIDTH / 2)
        open_share = (
            rng.uniform(0.03, 0.6, size=(len(lines), 1)) * np.exp(-0.3 * ((lines - centre) / spread) ** 2)[:, None]
        )
        rows = np.floor(place).astype(np.intp)
        hit = (place - rows < open_share) & (rows >= 0) & (rows < height)
        canvas.grey[rows[hit], np.broadcast_to(columns, rows.shape)[hit]] = 0.0
    return {"rows": [float(centre) / height for centre in sorted(centres)]}


def _sweep_gap(rng: np.random.Generator, canvas: Canvas) -> Details:
    """The probe was lifted: a band of rows without any echo."""
    height, sweep = canvas.anatomy.height, canvas.anatomy.sweep
    rows, columns = np.arange(height)[:, None], np.arange(FULL_WIDTH)
    gaps = []
    for _ in range(int(rng.integers(1, 4))):
        row, thickness = rng.uniform(sweep.top + 100.0, sweep.bottom - 100.0), rng.uniform(6.0, 38.0)
        upper = np.floor(row + 0.06 * (columns - FULL_WIDTH / 2))
        canvas.grey *= ~((rows >= upper) & (rows < upper + thickness))
        gaps.append({"row": row / height, "thickness_px": thickness})
    return {"gaps": gaps}


def _motion_kink(rng: np.random.Generator, canvas: Canvas) -> Details:
    """The patient moved: from some row on everything lies further to one side; mask and landmarks move along."""
    height = canvas.anatomy.height
    rows = np.arange(height)
    total = np.zeros(height)
    kinks = []
    for _ in range(int(rng.integers(1, 3))):
        row, offset, length = rng.uniform(0.15, 0.85) * height, rng.uniform(6.0, 20.0), rng.uniform(2.0, 14.0)
        offset *= rng.choice([-1.0, 1.0])
        total += offset * expit((rows - row) / length)
        kinks.append({"row": row / height, "offset_px": offset})
    total -= 0.5 * (total.max() + total.min())
    canvas.shift = np.rint(total).astype(np.intp)
    source = np.arange(FULL_WIDTH)[None, :] - canvas.shift[:, None]
    inside = (source >= 0) & (source < FULL_WIDTH)
    source = np.clip(source, 0, FULL_WIDTH - 1)
    canvas.grey = np.take_along_axis(canvas.grey, source, axis=1) * inside
    canvas.mask = np.take_along_axis(canvas.mask, source, axis=1) * inside.astype(np.uint8)
    return {"kinks": kinks}


@dataclass(frozen=True)
class _Family:
    """One family: how often it shows when it is selected, and whether it works on the tissue or on the cut sweep."""

    draw: Callable[[np.random.Generator, Canvas], Details]
    odds: float
    after_cut: bool


_FAMILIES = {
    "dashes": _Family(_dashes, 0.8, after_cut=True),
    "white_rows": _Family(_white_rows, 0.7, after_cut=False),
    "gain_fade": _Family(_gain_fade, 0.85, after_cut=False),
    "tilted_top": _Family(_tilted_top, 0.9, after_cut=False),
    "low_contrast": _Family(_low_contrast, 0.7, after_cut=False),
    "shadow": _Family(_shadow, 0.7, after_cut=False),
    "sweep_gap": _Family(_sweep_gap, 0.7, after_cut=True),
    "motion_kink": _Family(_motion_kink, 0.7, after_cut=True),
}
ARTEFACT_FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Every family, in the order in which they are drawn."""
DEFAULT_ARTEFACTS: tuple[str, ...] = ("dashes", "white_rows", "gain_fade", "tilted_top")
"""The families that the measured real scan shows; the others are harder than it."""


def check_families(artefacts: Sequence[str]) -> None:
    """Raise a ConfigError for a family that does not exist."""
    unknown = sorted(set(artefacts) - set(ARTEFACT_FAMILIES))
    if unknown:
        raise ConfigError(
            "unknown artefact family",
            evidence=", ".join(unknown),
            action=f"Choose from: {', '.join(ARTEFACT_FAMILIES)}.",
        )


def draw_artefacts(rng: np.random.Generator, canvas: Canvas, artefacts: Sequence[str]) -> dict[str, Details]:
    """Cut the sweep out and draw the selected families.

    Returns:
        Family -> what was drawn; a selected family that does not show in this scan is absent.
    """
    cut_seed, *seeds = rng.integers(0, 2**63 - 1, size=1 + len(_FAMILIES))
    sources = {name: np.random.default_rng(seed) for name, seed in zip(_FAMILIES, seeds, strict=True)}
    drawn: dict[str, Details] = {}
    for after_cut in (False, True):
        if after_cut:
            canvas.cut_sweep(np.random.default_rng(cut_seed))
        for name, family in _FAMILIES.items():
            if family.after_cut == after_cut and name in artefacts and sources[name].random() < family.odds:
                drawn[name] = family.draw(sources[name], canvas)
    return drawn
