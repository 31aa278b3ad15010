"""What the ready weights are worth: as they are, and as a start for small data sets of a kind they have not seen.

    python -m benchmarks.ready                       # the ready weights on phantoms, then fine-tuning; rows are kept
    python -m benchmarks.ready --report              # without training anything
    python -m benchmarks.ready --model FOLDER        # other weights than those of the project

The held-out phantoms show at least one artefact family that the weights were kept from. Fine-tuning: the laptop's
network and settings with few steps, on 5, 10 or 24 scans that show the held-out families, from the ready weights and
from scratch, three seeds. Rows are kept in benchmarks/results/fine_tuning.csv, so that the run goes on where it was.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.arms import CACHE, RESULTS, SAMPLES, Grid, Phantoms, Table, dice_of, fingerprint, report, run
from sa2net.anatomy import FOREGROUND
from sa2net.config import Config, EvaluateConfig
from sa2net.data.layout import Case, read_cases
from sa2net.data.phantom import ARTEFACT_FAMILIES, DEFAULT_ARTEFACTS, draw_dataset
from sa2net.evaluation.statistics import mean_interval
from sa2net.inference.predictor import Predictor
from sa2net.registry.versions import resolve

SEED, SCANS = 6300, 40
HELD_OUT = tuple(Config.load(Path(__file__).parents[1] / "recipes" / "pretrain.yaml").train.stream.held_out)
SIZES = (5, 10, 24)


def arms(model: str) -> dict[str, tuple[str, ...]]:
    """What a small data set may be learnt from."""
    ready = f"train.init_from={model}"
    return {
        "from scratch": ("train.init_from=",),
        "from the ready weights": (ready,),
    }


def grid(scans: int) -> Grid:
    """A small data set whose scans show the held-out families too."""
    # Crops of each scan so that an epoch has about as many steps with any number of scans.
    crops = 240 // scans
    common = (
        f"train.crops_per_scan={crops}",
        "train.iterations=240",
        "train.validate_every=1",
        "train.warmup_epochs=0.25",
        "train.device=cpu",
        "train.threads=1",
    )
    families = (*DEFAULT_ARTEFACTS, *HELD_OUT)
    return Grid(640, scans, val=4, test=20, seeds=(0, 1, 2), common=common, artefacts=families, shown=families)


def phantoms(name: str, artefacts: Sequence[str], shown: Sequence[str]) -> list[Case]:
    """Full-scale phantoms; where `shown` is not empty, those that show one of these families."""
    folder = CACHE / f"ready-{name}"
    if not folder.exists():
        draw_dataset(folder, train=0, val=0, test=SCANS, seed=SEED, artefacts=artefacts)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    cases = read_cases(folder, ("test",))
    return [case for case in cases if not shown or set(shown) & set(truth[case.name]["artefacts"])]


def scored(model: Path) -> str:
    """A Markdown table of the weights as they are."""
    predict = Predictor.for_settings(model, EvaluateConfig(device="cpu"))
    kinds = {
        "families of the pretraining": phantoms(
            "seen", [family for family in ARTEFACT_FAMILIES if family not in HELD_OUT], ()
        ),
        f"held-out families ({', '.join(HELD_OUT)})": phantoms("held-out", (*DEFAULT_ARTEFACTS, *HELD_OUT), HELD_OUT),
    }
    lines = [
        "| Phantoms | scans | " + " | ".join(item.name.replace("_", " ") for item in FOREGROUND) + " | mean |",
        "|---|---|" + "---|" * (len(FOREGROUND) + 1),
    ]
    for kind, cases in kinds.items():
        dice = np.array([list(dice_of(predict, case).values()) for case in tqdm(cases, desc="score", unit="scan")])
        names = [case.name for case in cases]
        columns = [*dice.T, np.nanmean(dice, axis=1)]
        found = [mean_interval(column, names, samples=SAMPLES, confidence=0.95, seed=0) for column in columns]
        cells = " | ".join(f"{item.mean:.3f} ({item.low:.3f}-{item.high:.3f})" for item in found)
        lines.append(f"| {kind} | {len(cases)} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--model", default="ready", help="model folder; default: the weights of the project")
    parser.add_argument("--results", type=Path, default=RESULTS / "fine_tuning.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time (default: one a core)")
    args = parser.parse_args()
    model = resolve(args.model)
    print(scored(model))
    for scans in SIZES:
        chosen = grid(scans)
        named = arms(args.model)
        table = Table(args.results) if args.report else run(chosen, named, args.results, starting=True, jobs=args.jobs)
        if table.has("from scratch", 0, fingerprint(chosen, named["from scratch"])):
            print(f"\n{scans} scans\n\n{report(chosen, named, table, reference='from scratch')}")
    test = read_cases(Phantoms(grid(SIZES[0])).test, ("test",))
    predict = Predictor.for_settings(model, EvaluateConfig(device="cpu"))
    dice = np.mean([list(dice_of(predict, case).values()) for case in test])
    print(f"\nThe ready weights on the same {len(test)} test phantoms, without fine-tuning: {dice:.3f}")


if __name__ == "__main__":
    main()
