"""What each part and each mended fault of SA2Net is worth on phantoms, at an equal number of small steps.

Every arm trains the same number of steps at CPU size (about a minute of one quiet core), with three seeds. Rows are kept
in benchmarks/results/ablation.csv, so that the run goes on where it was.

    python -m benchmarks.ablation            # train what is missing, then print the table
    python -m benchmarks.ablation --report   # the table alone
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.arms import RESULTS, Grid, Table, report, run

GRID = Grid(
    width=320,
    train=24,
    val=6,
    test=30,
    seeds=(0, 1, 2),
    common=(
        "train.iterations=288",
        "train.validate_every=2",
        "train.sweep_width=96",
        "train.crops_per_scan=2",
        "train.batch_size=2",
        "train.augment.crop_height=256",
        "train.augment.crop_width=160",
        "train.model.channels=32",
        "train.device=cpu",
        "train.threads=1",
        "train.loss.kind=released",  # so that "released" and what is mended differ in nothing else
    ),
)
FAULTS: Mapping[str, tuple[str, ...]] = {
    "affinity": ("train.model.affinity=released",),
    "logits": ("train.model.logits=released",),
    "sizes": ("train.model.sizes=released",),
    "mean of the loss": ("train.loss.ignored=released",),
    "rate": ("train.schedule=constant", "train.warmup_epochs=0"),
    "decay": ("train.decayed=released",),
    "padding": ("train.augment.fill=released",),
}
"""Each published behaviour that changes numbers, as settings."""
EVERY_FAULT = tuple(setting for faults in FAULTS.values() for setting in faults)
NO_BRANCHES = ("train.model.channel_branch=false", "train.model.position_branch=false", "train.model.structure=false")


def mended(name: str) -> tuple[str, ...]:
    """All faults but one."""
    return tuple(setting for fault, faults in FAULTS.items() if fault != name for setting in faults)


ARMS: Mapping[str, tuple[str, ...]] = {
    "all mended": (),
    "released": EVERY_FAULT,
    **{f"released + mended {name}": mended(name) for name in FAULTS},
    "affinity mean": ("train.model.affinity=mean",),
    "affinity cosine": ("train.model.affinity=cosine",),
    "64 channels": ("train.model.channels=64",),
    "128 channels": ("train.model.channels=128",),
    "without channel branch": NO_BRANCHES[:1],
    "without position branch": NO_BRANCHES[1:2],
    "without structure affinity": NO_BRANCHES[2:],
    "pyramid alone": NO_BRANCHES,
    "loss mixing": ("train.loss.kind=mixing",),
    "loss cross entropy + Dice": ("train.loss.kind=sum",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="print the table of what is there; train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS / "ablation.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time (default: one a core)")
    args = parser.parse_args()
    table = Table(args.results) if args.report else run(GRID, ARMS, args.results, jobs=args.jobs)
    print(report(GRID, ARMS, table, reference="all mended"))


if __name__ == "__main__":
    main()
