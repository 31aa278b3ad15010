"""What test-time averaging gains and costs: the table of docs/reference/inference.md.

The grid is fixed here: the scan whole or in overlapping windows; one scale, three near it, or the six of the released
code; with the mirrored scan or without. Each setting runs in a process of its own, so that its peak memory is its own. Dice is the
mean over the foreground classes of a scan, then over scans; the difference to the default setting has a bootstrap
interval by subject, paired by scan. Seconds are medians by the clock; the ratio is of CPU time, which other work on the
machine changes less.

    python -m benchmarks.tta --model build/train/model --data data/scoliosis3classes
"""

import argparse
import resource
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from sa2net.config import EvaluateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_mask, read_scan
from sa2net.errors import DataError
from sa2net.evaluation.metrics import mean_over_classes, score_scan
from sa2net.evaluation.scoring import is_phantom
from sa2net.evaluation.statistics import paired_bootstrap
from sa2net.inference.predictor import Predictor

NEAR_SCALES = (0.85, 1.0, 1.15)
RELEASED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SAMPLES, SEED, CONFIDENCE = 2000, 0, 0.95
_WORDS = {1: "one", 3: "three", 6: "six"}
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Setting:
    """One row of the grid."""

    mode: Literal["whole", "sliding"]
    scales: tuple[float, ...]
    flip: bool

    @property
    def passes(self) -> int:
        """Passes of the network over the scan, at whatever scale."""
        return len(self.scales) * (1 + self.flip)


@dataclass(frozen=True)
class Measured:
    """What one setting did.

    Attributes:
        dice: Mean Dice of each scan; NaN = no class scored.
        seconds: Time of each prediction by the clock.
        cpu_seconds: The same on the CPU, all threads together.
        peak_mb: Peak memory of the process, libraries included.
    """

    dice: tuple[float, ...]
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_mb: float


DEFAULT = Setting(EvaluateConfig().mode, EvaluateConfig().scales, EvaluateConfig().flip)
GRID = tuple(
    Setting(mode, scales, flip)
    for mode in ("whole", "sliding")
    for scales in ((1.0,), NEAR_SCALES, RELEASED_SCALES)
    for flip in (False, True)
)


def measure(setting: Setting, model: Path, data: Path, split: Split, threads: int, limit: int) -> Measured:
    """Predict and score the scans of a split; run in a process of its own."""
    predictor = Predictor.load(
        model, mode=setting.mode, scales=setting.scales, flip=setting.flip, device="cpu", threads=threads
    )
    cases = read_cases(data, [split])[:limit]
    predictor(read_scan(cases[0].scan), cases[0].spacing_mm)  # warm up
    dice, seconds, cpu_seconds = [], [], []
    for case in cases:
        scan = read_scan(case.scan)
        started, cpu_started = time.perf_counter(), time.process_time()
        mask = predictor(scan, case.spacing_mm)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        scores = score_scan(mask, read_mask(case.mask), spacing_mm=None, tolerance_mm=1.0, tolerance_px=3.0)
        dice.append(mean_over_classes(scores, "dice"))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(tuple(dice), tuple(seconds), tuple(cpu_seconds), peak_kib * 1024 / 1e6)


def row(setting: Setting, found: Measured, default: Measured, subjects: Sequence[str]) -> str:
    """One line of the table."""
    ratio = statistics.median(found.cpu_seconds) / statistics.median(default.cpu_seconds)
    change = "-"
    if setting != DEFAULT:
        pairs = paired_bootstrap(found.dice, default.dice, subjects, samples=SAMPLES, seed=SEED).interval(CONFIDENCE)
        change = f"{pairs.mean:+.4f} ({pairs.low:+.4f} to {pairs.high:+.4f})"
    return (
        f"| {setting.mode} | {_WORDS[len(setting.scales)]} | {'yes' if setting.flip else 'no'} "
        f"| {setting.passes} | {np.nanmean(found.dice):.4f} | {change} | {statistics.median(found.seconds):.2f} | {ratio:.2f} | {found.peak_mb:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=1000, help="the first scans of the split alone")
    args = parser.parse_args(arguments)
    cases = read_cases(args.data, [args.split])[: args.limit]
    if not cases:
        raise DataError(f"the split {args.split} names no scan", action="Name another one with --split.")
    subjects = [case.subject for case in cases]
    print(
        f"{len(cases)} {'*phantoms*' if is_phantom(args.data, cases) else 'scans'} of {args.split}, "
        f"{len(set(subjects))} subjects, {args.threads} CPU threads\n\n"
        "| mode | scales | mirror | passes | Dice | against the default (95 %) | s a scan | CPU time, of the default | peak MB |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    found: dict[Setting, Measured] = {}
    for setting in (DEFAULT, *(setting for setting in GRID if setting != DEFAULT)):
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
            found[setting] = process.submit(
                measure, setting, args.model, args.data, args.split, args.threads, args.limit
            ).result()
        print(row(setting, found[setting], found[DEFAULT], subjects), flush=True)


if __name__ == "__main__":
    main()
