"""Plan of a batch: which scans, which version of the model, which part does what. Never cached."""

from kfp import dsl
from kfp.dsl import Artifact, Output


@dsl.component(base_image="python", install_kfp_package=False)
def predict_plan(
    scans: str, results: str, model: str, settings: dict, defaults: dict, plan: Output[Artifact]
) -> list[str]:
    """Write the plan; return the numbers of its parts, since names of scans are no parameters for all to see."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.config import BatchConfig, as_section
    from sa2net.steps.batch import plan as step
    from sa2net.steps.batch.results import write_plan

    handover.begin()
    cfg = as_section(BatchConfig, defaults, settings)
    made = step.run(cfg, scans=scans, results=results, model=model)
    write_plan(Path(plan.path), made)
    facts = {"model": made.model.address, "sha256": made.model.sha256, "done_before": len(made.done)}
    handover.hand_on(plan.metadata, facts, Path(plan.path))
    return made.parts
