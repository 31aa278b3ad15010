"""Register: the model as a version; the gate decides whether it becomes champion. Never cached."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output


@dsl.component(base_image="python", install_kfp_package=False)
def register(
    data: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    settings: dict,
    defaults: dict,
    experiment: str,
    registered_model: str,
    decision: Output[Artifact],
) -> NamedTuple("Registered", [("version", int), ("verdict", str), ("uri", str)]):  # type: ignore[valid-type]
    """Make the model a version and decide; a model that is not promoted is no error."""
    from pathlib import Path

    from sa2net.artifacts import DECISION, handover
    from sa2net.config import RegisterConfig, as_section
    from sa2net.data.layout import data_root
    from sa2net.steps import register as step

    handover.begin(experiment)
    cfg = as_section(RegisterConfig, defaults, {"name": registered_model}, settings)
    folders = {"model": Path(model.path) / "model", "evaluation": Path(evaluation.path), "out": Path(decision.path)}
    result = step.run(cfg, data=data_root(Path(data.path)), **folders)
    facts = {"version": result.uri, "aliases": ", ".join(result.aliases), "verdict": result.verdict}
    handover.hand_on(decision.metadata, facts | handover.provenance(folders["out"]), folders["out"] / DECISION)
    return (result.version, result.verdict, result.uri)
