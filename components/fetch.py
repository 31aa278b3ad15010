"""Fetch: the data set that a pointer names, verified object by object, on a node without a checkout."""

from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="python", install_kfp_package=False)
def fetch(pointer: str, settings: dict, defaults: dict, experiment: str, data: Output[Dataset]) -> None:
    """Pull the data set; `data` holds the pointer and the tree beside it."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.config import FetchConfig, as_section
    from sa2net.steps import fetch as step

    handover.begin(experiment)
    cfg = as_section(FetchConfig, defaults, settings)
    result = step.run(cfg, pointer=pointer, out=Path(data.path), progress=False)
    facts = {"md5": result.data_md5, "files": result.files, "bytes": result.size, "classes": handover.class_names()}
    handover.hand_on(data.metadata, facts | handover.provenance(result.out), result.out)
