"""A part of a batch: segment its scans, go on where an earlier attempt was ended. Never cached."""

from kfp import dsl
from kfp.dsl import Artifact, Input


@dsl.component(base_image="python", install_kfp_package=False)
def predict_shard(plan: Input[Artifact], shard: str) -> str:
    """Segment the scans of one part; the results go to the address that the plan names."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.steps.batch import shard as step
    from sa2net.steps.batch.results import read_plan

    handover.begin()
    step.run(read_plan(Path(plan.path)), int(shard))
    return shard
