"""How often the gate promotes, refuses and cannot tell: its verdicts on simulated subjects with a known difference.

Prints one table: for each number of subjects and each true difference candidate - champion the share of the three
verdicts of `sa2net.registry.gate.decide` itself. Each subject is one scan. The champion has the same Dice in all
classes on average; the difference of a subject is

    true difference of the class + spread * (sqrt(shared) * z + sqrt(1 - shared) * z_class),  z standard normal,

so that `spread` is the standard deviation of a class's difference over subjects and `shared` its correlation between
two classes. Both can be measured on two evaluations of one split, or given:

    python -m benchmarks.gate_power
    python -m benchmarks.gate_power --spread 0.05
    python -m benchmarks.gate_power --measure build/evaluate/per_scan.csv build/other/per_scan.csv
    python -m benchmarks.gate_power --shapes

The last prints another table: how often the one-sided 5 % test behind the gate finds a gain where there is none, for
differences that are not normal.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sa2net.config import RegisterConfig
from sa2net.evaluation.statistics import paired_bootstrap
from sa2net.registry.decision import CLASSES, MEAN, ScoredVersion
from sa2net.registry.gate import decide

Floats = npt.NDArray[np.float64]

LEVEL = 0.85
"""Mean Dice of the champion, in every class."""
LEVEL_SPREAD = 0.04
"""Standard deviation of its Dice over subjects. Only differences decide, so that it changes no verdict."""
DIFFERENCES = (-0.05, -0.03, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.03, 0.05)
ONE_WORSE = (0.04, 0.04, -0.05)
AT_THE_MARGIN = (0.04, 0.04, -0.02)
VERDICTS = ("promote", "refuse", "cannot tell")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--trials", type=int, default=1000, help="simulated decisions a cell")
    parser.add_argument("--spread", type=float, default=0.024, help="sd of a class's difference over subjects, Dice")
    parser.add_argument("--shared", type=float, default=0.25, help="its correlation between two classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--measure", type=Path, nargs=2, metavar="PER_SCAN_CSV", help="take spread and shared from two evaluations"
    )
    parser.add_argument("--picture", type=Path, help="also draw the curves of `promote` to this SVG or PNG")
    parser.add_argument("--shapes", action="store_true", help="print the table of false alarms by shape instead")
    arguments = parser.parse_args()
    if arguments.shapes:
        false_alarms(arguments.trials, RegisterConfig(), np.random.default_rng(arguments.seed))
        return
    spread, shared = arguments.spread, arguments.shared
    if arguments.measure:
        spread, shared = measured(*arguments.measure)
    cfg = RegisterConfig()
    print(
        f"spread {spread:.4f}, shared {shared:.2f}, {arguments.trials} trials a cell, margin {cfg.margin}, "
        f"confidence {cfg.confidence}, {cfg.bootstrap_samples} resamples, seed {arguments.seed}\n"
    )
    scenarios = {f"all classes {difference:+.3f}": (difference,) * len(CLASSES) for difference in DIFFERENCES}
    scenarios["two +0.04, one -0.02"] = AT_THE_MARGIN
    scenarios["two +0.04, one -0.05"] = ONE_WORSE
    words = [f"{count}: {verdict}" for count in arguments.subjects for verdict in VERDICTS]
    print(f"| {'true difference':20} | {' | '.join(words)} |\n|{'---|' * (1 + len(words))}")
    curves: dict[int, list[float]] = {count: [] for count in arguments.subjects}
    for index, (label, truth) in enumerate(scenarios.items()):
        cells: list[str] = []
        for count in arguments.subjects:
            generator = np.random.default_rng([arguments.seed, index, count])
            shares = verdicts(truth, count, arguments.trials, spread, shared, cfg, generator)
            curves[count].append(shares["promote"])
            cells += [f"{shares[verdict]:.3f}" for verdict in VERDICTS]
        row = " | ".join(f"{cell:>{len(word)}}" for cell, word in zip(cells, words, strict=True))
        print(f"| {label:20} | {row} |", flush=True)
    if arguments.picture:
        draw(arguments.picture, {count: values[: len(DIFFERENCES)] for count, values in curves.items()}, cfg)


def verdicts(
    truth: Sequence[float],
    subjects: int,
    trials: int,
    spread: float,
    shared: float,
    cfg: RegisterConfig,
    generator: np.random.Generator,
) -> dict[str, float]:
    """Share of each verdict over so many simulated test sets.

    Args:
        truth: True difference of each class.
        subjects: Subjects of a test set, one scan each.
        trials: Test sets.
        spread: Standard deviation of a class's difference over subjects.
        shared: Correlation of the differences between two classes.
        cfg: Of the gate.
        generator: Of the scores.
    """
    names = tuple(f"{index:04d}" for index in range(subjects))
    counts: Counter[str] = Counter()
    for _ in range(trials):
        champion = LEVEL + LEVEL_SPREAD * generator.standard_normal((subjects, len(CLASSES)))
        common, own = generator.standard_normal((subjects, 1)), generator.standard_normal((subjects, len(CLASSES)))
        change = np.asarray(truth) + spread * (np.sqrt(shared) * common + np.sqrt(1.0 - shared) * own)
        decision = decide(version("new", champion + change, names), version("old", champion, names), cfg)
        counts[decision.verdict] += 1
    return {verdict: counts[verdict] / trials for verdict in VERDICTS}


def version(name: str, dice: Floats, names: tuple[str, ...]) -> ScoredVersion:
    """A version with these scores, each scan a subject of its own."""
    return ScoredVersion(name, name, "data", "test", names, names, dice, calibration_error=0.0)


def false_alarms(trials: int, cfg: RegisterConfig, generator: np.random.Generator) -> None:
    """Print how often the lower bound is above 0 where the true mean difference is 0."""
    shapes: dict[str, Callable[[int], Floats]] = {
        "normal": lambda count: generator.normal(0.0, 1.0, count),
        "heavy tails (t, 3 degrees)": lambda count: generator.standard_t(3, count),
        "small gains, larger losses (2 - gamma 2)": lambda count: 2.0 - generator.gamma(2.0, 1.0, count),
        "small losses, larger gains (gamma 2 - 2)": lambda count: generator.gamma(2.0, 1.0, count) - 2.0,
        "one subject in 20 fails by 10 sd": lambda count: (
            generator.normal(0.5, 1.0, count) - 10.0 * (generator.random(count) < 0.05)
        ),
    }
    sizes = (6, 10, 30, 100)
    print(f"| differences | {' | '.join(f'{count} subjects' for count in sizes)} |\n|---|{'---|' * len(sizes)}")
    for label, draw in shapes.items():
        cells = []
        for count in sizes:
            names, nothing = [f"{index:03d}" for index in range(count)], np.zeros(count)
            found = 0
            for _ in range(trials):
                pair = paired_bootstrap(draw(count), nothing, names, samples=cfg.bootstrap_samples, seed=cfg.seed)
                found += pair.lower_bound(cfg.confidence) > 0.0
            cells.append(f"{found / trials:.3f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def measured(champion: Path, candidate: Path) -> tuple[float, float]:
    """Spread and shared part of the differences between two `per_scan.csv` of one split, and a line on each class."""
    old, new = _dice(champion), _dice(candidate)
    if old.keys() != new.keys():
        raise SystemExit(f"{champion} and {candidate} are not of the same scans")
    names = sorted(old)
    differences = np.array([new[name] for name in names]) - np.array([old[name] for name in names])
    differences = differences[~np.isnan(differences).any(axis=1)]
    spreads = differences.std(axis=0, ddof=1)
    correlations = np.corrcoef(differences.T)[np.triu_indices(len(CLASSES), 1)]
    for name, mean, spread in zip(CLASSES, differences.mean(axis=0), spreads, strict=True):
        print(f"{name:18} mean difference {mean:+.4f}, sd over {len(differences)} scans {spread:.4f}")
    print(f"{MEAN:18} sd over scans {differences.mean(axis=1).std(ddof=1):.4f}")
    print(f"correlation between classes: {', '.join(f'{value:.2f}' for value in correlations)}")
    return float(np.sqrt((spreads**2).mean())), float(np.clip(correlations.mean(), 0.0, 1.0))


def _dice(path: Path) -> dict[str, list[float]]:
    """Scan -> Dice of the classes in order; NaN = not scored."""
    found: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            scan = found.setdefault(row["name"], [float("nan")] * len(CLASSES))
            if row["dice"]:
                scan[CLASSES.index(row["class"])] = float(row["dice"])
    return found


def draw(path: Path, curves: dict[int, list[float]], cfg: RegisterConfig) -> None:
    """The share of `promote` against the true difference of all classes, one curve a number of subjects."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for (count, values), style, mark in zip(curves.items(), ("-", "--", ":", "-."), "osv^", strict=False):
        axes.plot(DIFFERENCES, values, style, marker=mark, color="#0a6a92", label=f"{count} subjects")
    axes.axhline(1.0 - cfg.confidence, color="#888888", linewidth=0.8)
    axes.axvline(0.0, color="#888888", linewidth=0.8)
    axes.text(DIFFERENCES[0], 1.0 - cfg.confidence + 0.01, f"{1.0 - cfg.confidence:.0%}", color="#555555", fontsize=9)
    axes.set(xlabel="true difference of Dice, candidate - champion", ylabel="share promoted", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="center right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
