"""Summary of a batch, from the results themselves. Fails last, where the batch is not complete. Never cached."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Output


@dsl.component(base_image="python", install_kfp_package=False)
def predict_summary(
    plan: Input[Artifact],
    ended: list[str],
    summary: Output[Artifact],
    page: Output[HTML],
    metrics: Output[Metrics],
) -> None:
    """Write the summary to the results address, and show it; `ended` are the parts that did."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.steps.batch import summary as step
    from sa2net.steps.batch.results import read_plan

    handover.begin()
    result = step.run(read_plan(Path(plan.path)), Path(summary.path), ended=ended)
    handover.place_page(result.page, Path(page.path))
    for name, value in result.counts().items():
        metrics.log_metric(name, value)
    handover.hand_on(summary.metadata, result.counts(), Path(summary.path) / step.SUMMARY_JSON, Path(page.path))
    result.check()
