"""SA2Net beside its usual rivals on phantoms, at an equal time of training.

Every network has the same backbone, data, loop and evaluator, and trains for the same processor time on one core: the
number of its steps is that time over the processor time of one of its steps, measured before. Processor time, since
other programs on the machine change it little; one core, since several wait for each other, and waiting counts. Rows
are kept in benchmarks/results/rivals.csv, so that the run goes on where it was.

    python -m benchmarks.rivals              # train what is missing, then print the table
    python -m benchmarks.rivals --report     # the table alone
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.arms import RESULTS, Grid, Phantoms, Table, fingerprint, report, run
from sa2net.artifacts import Normalisation
from sa2net.config import TrainConfig
from sa2net.config.network import Architecture
from sa2net.data.dataset import CropDataset, FramedScan
from sa2net.data.phantom import ARTEFACT_FAMILIES, DEFAULT_ARTEFACTS
from sa2net.model.losses import build_loss
from sa2net.model.network import build
from sa2net.training.schedule import make_optimiser

SECONDS = 240.0
"""Of one core: two minutes of two."""


@dataclass(frozen=True)
class TimedGrid(Grid):
    """Trainings of an equal time, which belongs to what a row is of; the steps that it buys differ from run to run.

    Attributes:
        seconds: Processor time of a training.
    """

    seconds: float = SECONDS


GRID = TimedGrid(
    width=640,
    train=24,
    val=6,
    test=30,
    seeds=(0, 1, 2),
    common=("train.validate_every=4", "train.device=cpu", "train.threads=1"),
)
ARMS: Mapping[str, tuple[str, ...]] = {
    "SA2Net": (),
    **{
        name.removeprefix("smp/"): (f"train.model.architecture={name}",)
        for name in get_args(Architecture)
        if name.startswith("smp/")
    },
}


_PYRAMID_ALONE = tuple(f"train.model.{part}=false" for part in ("position_branch", "channel_branch", "structure"))
PARTS: Mapping[str, tuple[str, ...]] = {
    "SA2Net": (),
    "without position branch": ("train.model.position_branch=false",),
    "pyramid alone": _PYRAMID_ALONE,
    "pyramid alone, 960 steps": (*_PYRAMID_ALONE, "train.iterations=960"),
}
"""Where SA2Net's distance to the first comes from: what it would be without its branches, in equal time and steps."""

SECOND: Mapping[str, tuple[str, ...]] = {
    "SA2Net": ("train.iterations=1008",),
    "unet": ("train.model.architecture=smp/unet", "train.iterations=816"),
    "SA2Net, cross entropies": ("train.loss.kind=released", "train.iterations=1008"),
}
"""On a second draw of phantoms: the steps are those that the time paid on the first, whatever this machine does."""

SECOND_GRID = dataclasses.replace(GRID, draw=1)
TABLES: tuple[tuple[TimedGrid, Mapping[str, tuple[str, ...]]], ...] = (
    (GRID, ARMS),
    (GRID, PARTS),
    (SECOND_GRID, SECOND),
)


def seconds_of_step(cfg: TrainConfig) -> float:
    """Processor time of one step: drawing its crops, forward, backward, update."""
    torch.set_num_threads(cfg.threads)
    torch.manual_seed(0)
    scan = FramedScan(torch.randint(0, 255, (1, 600, 150), dtype=torch.uint8), torch.randint(0, 4, (600, 150)).byte())
    drawn = CropDataset([scan], Normalisation(mean=100.0, std=50.0), cfg.augment, crops_per_scan=100, seed=0)
    network = build(cfg.model).to(memory_format=torch.channels_last)
    optimiser, loss = make_optimiser(network, cfg), build_loss(cfg.loss)
    seconds = []
    for step in range(8):
        started = time.process_time()
        crops = [drawn[step * cfg.batch_size + index] for index in range(cfg.batch_size)]
        picture, mask = (torch.stack(parts) for parts in zip(*crops, strict=True))
        loss(network(picture.to(memory_format=torch.channels_last)), mask)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[2:])


def bought(seconds: float, cfg: TrainConfig) -> TrainConfig:
    """The settings with as many steps as the time pays; an arm that names its steps keeps them."""
    return cfg if cfg.iterations else cfg.model_copy(update={"iterations": max(1, int(seconds / seconds_of_step(cfg)))})


def by_family(grid: Grid, table: Table) -> str:
    """A Markdown table: mean Dice of the scans that show a family which training never saw, and of those that do not."""
    unseen = [family for family in ARTEFACT_FAMILIES if family not in DEFAULT_ARTEFACTS]
    truth = json.loads((Phantoms(grid).test / "truth.json").read_text(encoding="utf-8"))
    lines = [
        "| Arm | " + " | ".join(f"{family}: shows, not" for family in unseen) + " |",
        "|---|" + "---|" * len(unseen),
    ]
    for arm, overrides in ARMS.items():
        dice, scans, _ = table.scores(arm, fingerprint(grid, overrides))
        if not scans:
            continue
        means = dice.mean((0, 2))
        shows = np.array([[family in truth[scan]["artefacts"] for family in unseen] for scan in scans])
        cells = [f"{means[column].mean():.3f}, {means[~column].mean():.3f}" for column in shows.T]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="print the table of what is there; train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS / "rivals.csv")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="processor time of a training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time (default: one a core)")
    args = parser.parse_args()
    tables = [(dataclasses.replace(grid, seconds=args.seconds), arms) for grid, arms in TABLES]
    if not args.report:
        for grid, arms in tables:
            run(grid, arms, args.results, prepare=functools.partial(bought, args.seconds), jobs=args.jobs)
    table = Table(args.results)
    print(f"{args.seconds:g} s of one core each, {len(GRID.seeds)} seeds, {GRID.test} test phantoms")
    for grid, arms in tables:
        print(f"\n{report(grid, arms, table, reference='SA2Net')}")
    print(f"\n{by_family(tables[0][0], table)}")


if __name__ == "__main__":
    main()
