"""Statistics of phantoms beside those of a real scan: the evidence that a phantom is the same kind of picture.

One table: for each statistic the real scan, the median and range over phantoms, and whether the median lies within
the tolerance. Definitions:

- *sweep*: `sa2net.data.sweep.sweep_mask`; every statistic looks inside it alone.
- *autocorrelation*: of the grey less its local mean, a Gaussian of 16 px at full scale normalised to the sweep, at
  least 8 px away from the sweep's edge; both pixels of a pair must lie inside.
- *surroundings* of a class: unlabelled pixels of the sweep within 25 px of it.
- *midline width*: width of the darkest trough near the spine at half of its depth, on the mean profile across bands
  of 40 rows that follow the spine; median over the bands of the upper thorax (rows at 5-20 % of the sweep's length),
  the middle (30-50 %) and the lumbar part (62-85 %). The trough is the minimum of the smoothed profile in the middle
  half of the sweep; its depth is measured from the median of the profile.
- *components* of a class: 8-connected.

Lengths and areas in px are brought to full scale (640 px wide) first.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from sa2net.anatomy import FOREGROUND
from sa2net.data.phantom import draw_phantom
from sa2net.data.sweep import sweep_mask

Grey = NDArray[np.uint8]
Floats = NDArray[np.float64]
Statistics = dict[str, float]

FULL_WIDTH = 640
GREY_TOLERANCE = 12.0
CORRELATION_TOLERANCE = 0.08
SIZE_TOLERANCE = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare phantoms with a real scan.")
    parser.add_argument("--count", type=int, default=20, help="phantoms drawn")
    parser.add_argument("--width", type=int, default=FULL_WIDTH, help="width of the phantoms, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--real",
        type=Path,
        default=os.environ.get("SA2NET_REAL_SCAN"),
        help="folder with demo.png and demo_bone_3.png (default: SA2NET_REAL_SCAN)",
    )
    parser.add_argument("--out", type=Path, help="also write phantoms and the real scan side by side to this PNG")
    arguments = parser.parse_args()

    phantoms = [
        draw_phantom(np.random.default_rng([arguments.seed, index]), width=arguments.width)
        for index in range(arguments.count)
    ]
    measured = [statistics(item.scan, item.mask) for item in phantoms]
    real = None
    pictures = [item.scan for item in phantoms[:5]]
    if arguments.real:
        scan, mask = (
            np.array(Image.open(arguments.real / name).convert("L")) for name in ("demo.png", "demo_bone_3.png")
        )
        height = round(scan.shape[0] * arguments.width / scan.shape[1])
        real = statistics(*_at_width(scan, mask, arguments.width, height))
        pictures.insert(0, scan)
    print(table(measured, real))
    if arguments.out:
        _side_by_side(pictures, arguments.out)


def table(measured: list[Statistics], real: Statistics | None) -> str:
    """The one table."""
    lines = [f"{'statistic':36s} {'real':>8s} {'phantoms':>9s} {'lowest':>9s} {'highest':>9s}  verdict"]
    inside = 0
    for name in measured[0]:
        values = np.array([item[name] for item in measured])
        median = float(np.nanmedian(values))
        reference = real[name] if real else float("nan")
        verdict = _verdict(name, median, reference)
        inside += verdict.startswith("within")
        lines.append(
            f"{name:36s} {reference:8.2f} {median:9.2f} {np.nanmin(values):9.2f} {np.nanmax(values):9.2f}  {verdict}"
        )
    lines.append(f"{inside} of {len(measured[0])} within tolerance, {len(measured)} phantoms")
    return "\n".join(lines)


def _verdict(name: str, value: float, reference: float) -> str:
    """Whether a median lies near enough to the real scan."""
    if not np.isfinite(reference):
        return "no real scan"
    if name.startswith("grey"):
        limit, words = GREY_TOLERANCE, f"{GREY_TOLERANCE:g} levels"
    elif name.startswith("autocorrelation"):
        limit, words = CORRELATION_TOLERANCE, f"{CORRELATION_TOLERANCE:g}"
    else:
        limit, words = SIZE_TOLERANCE * abs(reference), f"{SIZE_TOLERANCE:.0%}"
    return f"{'within' if abs(value - reference) <= limit else 'BEYOND'} {words}"


def statistics(scan: Grey, mask: Grey) -> Statistics:
    """All statistics of one scan; lengths and areas at full scale."""
    scale = FULL_WIDTH / scan.shape[1]
    sweep = sweep_mask(scan)
    grey = scan.astype(np.float64)
    found: Statistics = {f"grey p{share}": float(np.percentile(grey[sweep], share)) for share in (5, 25, 50, 75, 95)}
    for item in FOREGROUND:
        found |= _class_statistics(grey, mask == item.id, (mask > 0), sweep, item.label, scale)
    found |= _autocorrelation(grey, sweep, scale)
    found |= _midline_widths(grey, sweep, scale)
    return found


def _class_statistics(
    grey: Floats,
    member: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
    sweep: NDArray[np.bool_],
    label: str,
    scale: float,
) -> Statistics:
    """Area, grey and contrast, components of one class."""
    inside = member & sweep
    near = ndimage.distance_transform_edt(~member) <= 25.0 / scale
    around = grey[near & sweep & ~labelled]
    parts, _ = ndimage.label(member, structure=np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:] * scale**2
    sizes = sizes[sizes >= 20]
    boxes = [box for box in ndimage.find_objects(parts) if box is not None]
    widths = [(box[1].stop - box[1].start) * scale for box in boxes]
    heights = [(box[0].stop - box[0].start) * scale for box in boxes]
    return {
        f"area share {label}": float(inside.sum() / sweep.sum()),
        f"grey mean {label}": float(grey[inside].mean()),
        f"grey std {label}": float(grey[inside].std()),
        f"grey less surroundings {label}": float(grey[inside].mean() - around.mean()),
        f"count {label}": float(len(sizes)),
        f"median area {label}": float(np.median(sizes)),
        f"median width {label}": float(np.median(widths)),
        f"median height {label}": float(np.median(heights)),
    }


def _autocorrelation(grey: Floats, sweep: NDArray[np.bool_], scale: float) -> Statistics:
    """Correlation of neighbouring pixels once the local mean is taken away."""
    sigma = 16.0 / scale
    weight = ndimage.gaussian_filter(sweep.astype(np.float64), sigma)
    rest = grey - ndimage.gaussian_filter(grey * sweep, sigma) / np.maximum(weight, 1e-3)
    core = ndimage.binary_erosion(sweep, iterations=max(round(8 / scale), 1))
    found = {}
    for direction, steps in (("along rows", (0, 1)), ("across rows", (1, 0))):
        for lag in (1, 4):
            down, right = steps[0] * lag, steps[1] * lag
            height, width = grey.shape
            first, second = np.s_[: height - down, : width - right], np.s_[down:, right:]
            both = core[first] & core[second]
            value = np.corrcoef(rest[first][both], rest[second][both])[0, 1]
            found[f"autocorrelation {direction}, lag {lag}"] = float(value)
    return found


def _midline_widths(grey: Floats, sweep: NDArray[np.bool_], scale: float) -> Statistics:
    """Width of the dark spinous column at half depth, in three parts of the spine."""
    rows = np.flatnonzero(sweep.any(axis=1))
    top, length = int(rows[0]), int(rows[-1] - rows[0])
    band = max(round(40 / scale), 1)
    found = {}
    for part, low, high in (("upper", 0.05, 0.2), ("middle", 0.3, 0.5), ("lumbar", 0.62, 0.85)):
        starts = range(top + round(low * length), top + round(high * length), band)
        widths = [_trough_width(grey[start : start + band], sweep[start : start + band], scale) for start in starts]
        found[f"midline width {part}"] = float(np.nanmedian(widths))
    return found


def _trough_width(grey: Floats, sweep: NDArray[np.bool_], scale: float) -> float:
    """Width of the trough in the mean profile of a band of rows, px at full scale; NaN where there is none."""
    columns = np.flatnonzero(sweep.all(axis=0))
    if len(columns) < 8:
        return float("nan")
    profile = ndimage.gaussian_filter1d(grey[:, columns].mean(axis=0), 4.0 / scale)
    quarter = len(profile) // 4
    lowest = quarter + int(np.argmin(profile[quarter:-quarter]))
    half = 0.5 * (profile[lowest] + np.median(profile))
    left = right = lowest
    while left > 0 and profile[left - 1] < half:
        left -= 1
    while right < len(profile) - 1 and profile[right + 1] < half:
        right += 1
    return (right - left + 1) * scale


def _at_width(scan: Grey, mask: Grey, width: int, height: int) -> tuple[Grey, Grey]:
    """Bring the real scan to the width of the phantoms."""
    if scan.shape == (height, width):
        return scan, mask
    size = (width, height)
    return (
        np.array(Image.fromarray(scan).resize(size, Image.Resampling.BOX)),
        np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)),
    )


def _side_by_side(pictures: list[Grey], path: Path) -> None:
    """Write pictures next to each other, the real scan first, each 320 px wide."""
    small = [
        Image.fromarray(item).resize((320, round(item.shape[0] * 320 / item.shape[1])), Image.Resampling.BOX)
        for item in pictures
    ]
    sheet = Image.new("L", (330 * len(small), max(item.height for item in small)), 40)
    for place, item in enumerate(small):
        sheet.paste(item, (330 * place, 0))
    sheet.save(path)


if __name__ == "__main__":
    main()
