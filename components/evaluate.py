"""Evaluate: the model on the test split, with intervals and a report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python", install_kfp_package=False)
def evaluate(
    data: Input[Dataset],
    model: Input[Model],
    settings: dict,
    defaults: dict,
    experiment: str,
    evaluation: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
) -> None:
    """Score the model; `evaluation` is the folder that registration reads."""
    from pathlib import Path

    from sa2net.artifacts import EVALUATION_REPORT, SCORES, handover
    from sa2net.config import EvaluateConfig, as_section
    from sa2net.data.layout import data_root
    from sa2net.steps import evaluate as step

    handover.begin(experiment)
    cfg, out, root = as_section(EvaluateConfig, defaults, settings), Path(evaluation.path), data_root(Path(data.path))
    result = step.run(cfg, data=root, model=Path(model.path) / "model", out=out, progress=False)
    handover.place_page(out / EVALUATION_REPORT, Path(report.path))
    for name, value in handover.score_metrics(out).items():
        metrics.log_metric(name, value)
    confusion.log_confusion_matrix(*handover.confusion_matrix(out))
    facts = {"data_md5": result.scores.data_md5, "phantom": result.scores.phantom} | handover.provenance(out)
    handover.hand_on(evaluation.metadata, facts, out / SCORES, Path(report.path))
