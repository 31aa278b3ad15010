"""Two versions for the tests of what is written about a lineage: one of which everything is known, one of which nothing is."""

from pathlib import Path

import numpy as np
from registry_cases import write_evaluation

from sa2net.artifacts import SCORES, Estimate, read_json
from sa2net.registry.lineage import Lineage
from sa2net.registry.lineage.trace import Subgroup
from sa2net.registry.provenance import Provenance
from sa2net.registry.records import Record
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version

PACKAGES = ("numpy==2.4.6", "ruamel.yaml==0.19.1", "Torch_thing==2.0+cpu")
ENVIRONMENT = {
    "revision": "c" * 40,
    "dirty": "false",
    "sa2net_version": "0.1.0",
    "python": "3.11.2",
    "lock_sha256": "1" * 64,
    "package.torch": "2.14.1",
    "cpu": "Example CPU",
    "cpu_capability": "AVX2",
    "cores": "2",
    "memory_gb": "25.3",
    "device": "cpu",
    "threads": "2",
    "started": "2026-01-02T03:04:05+00:00",
    "ended": "2026-01-02T03:14:05+00:00",
}
TRAINING = Record(
    run_id="a" * 32,
    facts={**ENVIRONMENT, "epochs": "9", "resumed_after_epoch": "4", "processes": "2", "manifest_sha256": "2" * 64}
    | {"train_scans": "24", "train_subjects": "20", "val_scans": "6", "val_subjects": "5"},
)
EVALUATION = Record(run_id="b" * 32, facts={**ENVIRONMENT, "evaluator_sha256": "e" * 64, "scores_sha256": "5" * 64})
SECRET = "/home/somebody/models/first"


def lineage(folder: Path, **changes: object) -> Lineage:
    """A version that was fine-tuned, interrupted once, and scored on phantoms."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    table = np.clip(np.random.default_rng(0).normal(0.8, 0.05, (6, 3)), 0, 1)
    scored = write_evaluation(folder / "evaluation", model, table, data_md5="d" * 32 + ".dir")
    evaluation = Evaluation.read(scored, model_sha256=read_json(scored / SCORES)["model_sha256"])
    origin = Provenance(
        model_sha256="3" * 64,
        weights_sha256="4" * 64,
        data_md5="d" * 32 + ".dir",
        manifest_sha256="2" * 64,
        scored_data_md5="d" * 32 + ".dir",
        split="test",
        phantom=True,
        network={"backbone": "resnet10t", "channels": 48, "pretrained": False},
        class_names=("background", "rib", "thoracic_process", "lumbar_lump"),
        sweep_width=112,
        spacing_mm=(0.5, 0.5),
        params={
            "validate": {"split_seed": 3},
            "train": {"epochs": 9, "learning_rate": 1e-05, "seed": 7, "init_from": SECRET, "loss": {"dice": 0.7}},
            "evaluate": {"seed": 1, "scales": [1.0, 1.5]},
            "register": {},
        },
        init_from=SECRET,
        parent_model="6" * 64,
        parent_version="models:/sa2net/1",
        earlier_runs=("f" * 32,),
        training=TRAINING,
        evaluation=EVALUATION,
    )
    groups = tuple(
        Subgroup(column, group, 3, 2, "mean", Estimate(value=0.8, low=0.7, high=0.9))
        for column, group in (("device", "<b>A|B</b>"), ("device", "C"), ("severity", "mild"))
    )
    known = {
        "version": Version("sa2net", 2, "3" * 64, tags={"register_run": "9" * 32, "decision_run": "9" * 32}),
        "aliases": ("champion",),
        "registered": "2026-01-02T04:00:00+00:00",
        "provenance": origin,
        "packages": PACKAGES,
        "diffs": {},
        "evaluation": evaluation,
        "subgroups": groups,
        "decision": {"verdict": "promote", "reasons": [{"text": "rib: <script>alert(1)</script> | 0.8."}]},
        "history": (("2026-01-02T04:00:01+00:00", "override"),),
    }
    return Lineage(**{**known, **changes})  # type: ignore[arg-type]


def nothing_known(folder: Path) -> Lineage:
    """A version whose runs and scores are all lost."""
    full = lineage(folder)
    origin = full.provenance.model_copy(
        update={
            "manifest_sha256": "",
            "params": {"validate": {}, "train": {}, "evaluate": {}, "register": {}},
            "init_from": "",
            "parent_model": "",
            "parent_version": "",
            "earlier_runs": (),
            "training": Record(),
            "evaluation": Record(),
            "phantom": False,
        }
    )
    return lineage(
        folder / "again", provenance=origin, packages=(), evaluation=None, subgroups=(), decision={}, history=()
    )
