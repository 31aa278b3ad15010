"""Validate: the data set against its contract; a broken one stops the line here."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output


@dsl.component(base_image="python", install_kfp_package=False)
def validate(
    data: Input[Dataset],
    settings: dict,
    defaults: dict,
    experiment: str,
    validation: Output[Artifact],
    page: Output[HTML],
    metrics: Output[Metrics],
) -> None:
    """Check the data set; `validation` is the folder that training reads."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.config import ValidateConfig, as_section
    from sa2net.data.layout import data_root
    from sa2net.steps import validate as step

    handover.begin(experiment)
    cfg = as_section(ValidateConfig, defaults, settings)
    result = step.run(cfg, data=data_root(Path(data.path)), out=Path(validation.path), progress=False)
    handover.place_page(result.page, Path(page.path))
    metrics.log_metric("scans", result.scans)
    metrics.log_metric("warnings", len(result.warnings))
    facts = {"data_md5": result.data_md5} | handover.provenance(Path(validation.path))
    handover.hand_on(validation.metadata, facts, result.report, result.manifest, Path(page.path))
