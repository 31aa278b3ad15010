"""What the tables of trained networks share: the phantoms, one training of one arm, its scores, and the table.

An arm is a name and overrides of the settings. Every arm is trained with every seed on the same phantoms with the
starter set's artefacts, and scored on phantoms of other seeds that show the artefact families which training never saw
(low contrast, shadows, gaps, kinks) beside the usual ones. Rows are kept in a CSV file, so that an interrupted run goes
on where it was; a row of other overrides, phantoms or scales is not taken for one of these. That a default or the code
has changed since is not seen: to train an arm again, delete its rows. The pages say of when their rows are.
"""

import csv
import dataclasses
import hashlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sa2net.anatomy import CLASS_NAMES, FOREGROUND
from sa2net.artifacts import MANIFEST, VALIDATION_REPORT, WEIGHTS, ModelInfo, file_sha256, read_validation
from sa2net.config import Config, TrainConfig, ValidateConfig
from sa2net.data.framing import Grey
from sa2net.data.layout import Case, read_cases
from sa2net.data.manifest import read_manifest
from sa2net.data.phantom import ARTEFACT_FAMILIES, DEFAULT_ARTEFACTS, draw_dataset
from sa2net.data.pictures import read_mask, read_scan
from sa2net.evaluation.metrics import score_scan
from sa2net.evaluation.statistics import Interval, mean_interval, paired_bootstrap
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.inference.predictor import Predictor
from sa2net.model.network import build
from sa2net.registry.starting import starting_weights
from sa2net.registry.versions import resolve
from sa2net.steps import validate
from sa2net.training.loop import fit
from sa2net.training.schedule import with_epochs

CACHE = Path("build/arms")
RESULTS = Path(__file__).parent / "results"
SEED_OF_TRAIN, SEED_OF_TEST, DRAWS_APART = 4100, 5200, 10_000
SAMPLES = 4000
"""Resamples of the scans behind an interval."""
LATER = ("artefacts", "shown", "draw")
"""Parts of a grid that there are rows from before of."""
COLUMNS = ("arm", "seed", "settings", "steps", "seconds", "scan", *(item.name for item in FOREGROUND))


@dataclass(frozen=True)
class Grid:
    """What every arm of a table has in common.

    Attributes:
        width: Width of the phantoms, px.
        train, val, test: How many of each; `val` chooses the epoch.
        seeds: Of the trainings.
        common: Overrides of every arm, before its own.
        artefacts: Families that may show in what is learnt from.
        shown: Families that may show in the test phantoms.
        draw: Another one has other phantoms of the same kind.
    """

    width: int
    train: int
    val: int
    test: int
    seeds: tuple[int, ...]
    common: tuple[str, ...]
    artefacts: tuple[str, ...] = DEFAULT_ARTEFACTS
    shown: tuple[str, ...] = ARTEFACT_FAMILIES
    draw: int = 0


class Phantoms:
    """The data of a grid, drawn once below `CACHE`."""

    def __init__(self, grid: Grid) -> None:
        name = f"{grid.width}-{grid.train}-{grid.val}-{grid.test}"
        if _unusual(grid):
            name += "-" + hashlib.sha256(json.dumps(_unusual(grid)).encode()).hexdigest()[:6]
        self.train, self.test, self.checked = (CACHE / name / part for part in ("train", "test", "validate"))
        if not self.train.exists():  # a data set has a test list, of which nothing is read here
            train, val, seed = grid.train, grid.val, SEED_OF_TRAIN + DRAWS_APART * grid.draw
            draw_dataset(
                self.train, train=train, val=val, test=1, seed=seed, width=grid.width, artefacts=grid.artefacts
            )
        if not self.test.exists():
            seed = SEED_OF_TEST + DRAWS_APART * grid.draw
            draw_dataset(self.test, train=0, val=0, test=grid.test, seed=seed, width=grid.width, artefacts=grid.shown)
        if not (self.checked / MANIFEST).exists():
            validate.check(ValidateConfig(workers=1), data=self.train, out=self.checked, data_docs=None, progress=False)
        self.report = read_validation(self.checked / VALIDATION_REPORT)

    def cases(self, split: str) -> list[Case]:
        """Of the train data: `train` or `val`."""
        return [case for case in read_manifest(self.checked / MANIFEST, self.train) if case.split == split]

    def info(self, cfg: TrainConfig) -> ModelInfo:
        """What a model folder would say of a training on these."""
        scale = self.report.sweep_width / cfg.sweep_width
        return ModelInfo(
            model=cfg.model,
            class_names=CLASS_NAMES,
            normalisation=self.report.normalisation,
            sweep_width=cfg.sweep_width,
            spacing_mm=tuple(size * scale for size in self.report.spacing_mm),
            bounds=self.report.bounds,
            data_md5=self.report.data_md5,
            params={},
        )


class Silent:
    """An observer of a training whom nothing is told."""

    def epoch_ended(self, row: Mapping[str, float]) -> None:
        """Nothing."""

    def validated(self, case: Case, scan: Grey, truth: Grey, prediction: Grey, epoch: int) -> None:
        """Nothing."""


def settings(grid: Grid, overrides: Sequence[str], seed: int) -> TrainConfig:
    """The settings of one training."""
    return Config.load(None, [*grid.common, *overrides, f"train.seed={seed}"]).train


def train_and_score(
    cfg: TrainConfig, phantoms: Phantoms, initial: dict[str, torch.Tensor] | None = None
) -> Iterator[dict[str, object]]:
    """Train once, and give the Dice of each class of each test scan (without `arm`, `seed` and `settings`).

    Args:
        cfg: Its settings; of `init_from` only the learning rate takes notice.
        phantoms: The data.
        initial: Weights to start from.
    """
    train_cases, val_cases = phantoms.cases("train"), phantoms.cases("val")
    cfg = with_epochs(cfg, cfg.crops_per_scan * len(train_cases))
    info = phantoms.info(cfg)
    started = time.perf_counter()
    fitted = fit(
        cfg, info, train_cases, val_cases, checkpoints=None, observer=Silent(), initial=initial, progress=False
    )
    seconds = time.perf_counter() - started
    network = build(cfg.model.model_copy(update={"pretrained": False}))
    network.load_state_dict(fitted.weights)
    device = resolve_device(cfg.device)
    predict = Predictor(
        network.to(device), info, flip=True, device=device, precision=resolve_precision(cfg.precision, device)
    )
    steps = cfg.epochs * -(-cfg.crops_per_scan * len(train_cases) // cfg.batch_size)
    for case in read_cases(phantoms.test, ("test",)):
        yield {"steps": steps, "seconds": round(seconds, 1), "scan": case.name, **dice_of(predict, case)}


def dice_of(predict: Predictor, case: Case) -> dict[str, float]:
    """Dice of each class of a scan."""
    predicted = predict(read_scan(case.scan), case.spacing_mm)
    scores = score_scan(predicted, read_mask(case.mask), spacing_mm=None, tolerance_mm=1.0, tolerance_px=1.0)
    return {score.name: round(score.dice, 5) for score in scores}


def fingerprint(grid: Grid, overrides: Sequence[str]) -> str:
    """What determines the rows of an arm but its seed."""
    shared = {key: value for key, value in dataclasses.asdict(grid).items() if key not in LATER}
    starts = [
        start for key, _, start in (override.partition("=") for override in overrides) if key == "train.init_from"
    ]
    weights = [_sha256(start) for start in starts if start]
    parts = json.dumps([shared | _unusual(grid) | {"seeds": []}, list(overrides), *weights], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:10]


@cache
def _sha256(model: str) -> str:
    """Of the weights behind a name: other ready weights make other rows."""
    return file_sha256(resolve(model) / WEIGHTS)


def _unusual(grid: Grid) -> dict[str, object]:
    """Families and draw, where they are not the usual ones; rows from before they could be chosen do not name them."""
    usual = {item.name: item.default for item in dataclasses.fields(Grid) if item.name in LATER}
    return {name: getattr(grid, name) for name, value in usual.items() if getattr(grid, name) != value}


class Table:
    """The rows of a CSV file.

    Args:
        path: Its place; made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, arm: str, seed: int, mark: str) -> bool:
        """Whether this training is there."""
        return any((row["arm"], row["seed"], row["settings"]) == (arm, str(seed), mark) for row in self.rows)

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Append all rows of one training at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)
        self.rows += [{key: str(value) for key, value in row.items()} for row in rows]

    def scores(self, arm: str, mark: str) -> tuple[np.ndarray, list[str], list[int]]:
        """Dice (seeds, scans, classes) of an arm, the scans' names, and the seeds."""
        rows = [row for row in self.rows if row["arm"] == arm and row["settings"] == mark]
        seeds, scans = (sorted({row[key] for row in rows}) for key in ("seed", "scan"))
        found = {(row["seed"], row["scan"]): [float(row[item.name]) for item in FOREGROUND] for row in rows}
        dice = np.array([[found[seed, scan] for scan in scans] for seed in seeds])
        return dice, scans, [int(seed) for seed in seeds]

    def steps(self, arm: str, mark: str) -> list[int]:
        """Steps of each of an arm's trainings."""
        found = {row["seed"]: int(row["steps"]) for row in self.rows if (row["arm"], row["settings"]) == (arm, mark)}
        return list(found.values())


def run(
    grid: Grid,
    arms: Mapping[str, Sequence[str]],
    path: Path,
    *,
    prepare: Callable[[TrainConfig], TrainConfig] | None = None,
    starting: bool = False,
    jobs: int = 1,
) -> Table:
    """Train what the file does not hold yet: all arms of the first seed, then of the next.

    Args:
        grid: What the arms share.
        arms: Their own overrides.
        path: The file.
        prepare: Makes the settings of a training final; a function that a process can be sent.
        starting: Start from what `train.init_from` names; else every training starts from scratch.
        jobs: Trainings at a time, each in a process of its own.
    """
    phantoms, table = Phantoms(grid), Table(path)
    marks = {arm: fingerprint(grid, overrides) for arm, overrides in arms.items()}
    missing = [(arm, seed) for seed in grid.seeds for arm in arms if not table.has(arm, seed, marks[arm])]
    # Spawned: a forked process would share torch's threads with its parent.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        started = {
            pool.submit(_train_arm, settings(grid, arms[arm], seed), phantoms, prepare, starting): (arm, seed)
            for arm, seed in missing
        }
        for training in tqdm(as_completed(started), total=len(started), unit="training", desc=path.stem):
            arm, seed = started[training]
            table.add([{"arm": arm, "seed": seed, "settings": marks[arm], **row} for row in training.result()])
    return table


def _train_arm(
    cfg: TrainConfig, phantoms: Phantoms, prepare: Callable[[TrainConfig], TrainConfig] | None, starting: bool
) -> list[dict[str, object]]:
    cfg = cfg if starting else cfg.model_copy(update={"init_from": ""})
    initial = starting_weights(cfg)[0]
    return list(train_and_score(prepare(cfg) if prepare else cfg, phantoms, initial))


def report(grid: Grid, arms: Mapping[str, Sequence[str]], table: Table, *, reference: str) -> str:
    """A Markdown table: Dice of each class and their mean with 95 % intervals, and differences to the reference.

    Intervals are bootstraps by scan of the Dice averaged over the seeds; `SD of seeds` is the standard deviation of the
    mean Dice over the seeds, which those intervals do not hold.
    """
    base, names, _ = table.scores(reference, fingerprint(grid, arms[reference]))
    lines = [
        "| Arm | steps | "
        + " | ".join(item.name.replace("_", " ") for item in FOREGROUND)
        + f" | mean | SD of seeds | minus {reference} |",
        "|---|" + "---|" * (len(FOREGROUND) + 4),
    ]
    for arm in arms:
        dice, scans, seeds = table.scores(arm, fingerprint(grid, arms[arm]))
        if len(seeds) < len(grid.seeds):
            continue
        by_class = [_interval(dice[:, :, index].mean(0), scans) for index in range(len(FOREGROUND))]
        mean = _interval(dice.mean((0, 2)), scans)
        spread = float(dice.mean((1, 2)).std(ddof=1)) if len(seeds) > 1 else float("nan")
        if arm == reference or scans != names:
            difference = ""
        else:
            pairs = paired_bootstrap(dice.mean((0, 2)), base.mean((0, 2)), scans, samples=SAMPLES, seed=0)
            difference = _signed(pairs.interval())
        cells = " | ".join(_shown(item) for item in (*by_class, mean))
        steps = statistics.median(table.steps(arm, fingerprint(grid, arms[arm])))
        lines.append(f"| {arm} | {steps:g} | {cells} | {spread:.3f} | {difference} |")
    return "\n".join(lines)


def _interval(values: np.ndarray, scans: Sequence[str]) -> Interval:
    return mean_interval(values, scans, samples=SAMPLES, confidence=0.95, seed=0)


def _shown(item: Interval) -> str:
    return f"{item.mean:.3f} ({item.low:.3f}-{item.high:.3f})"


def _signed(item: Interval) -> str:
    return f"{item.mean:+.3f} ({item.low:+.3f} to {item.high:+.3f})"
