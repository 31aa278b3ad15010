"""Train on several nodes: the train task of an environment with `gpu.nodes` above 1. Its pod has no GPU and waits."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python", install_kfp_package=False)
def train(
    data: Input[Dataset],
    validation: Input[Artifact],
    settings: dict,
    defaults: dict,
    experiment: str,
    checkpoints: str,
    nodes: dict,
    model: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Train in a TrainJob of several pods; `model` holds what the train task of one pod writes."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.config import TrainConfig, as_section
    from sa2net.data.layout import data_root
    from sa2net.steps import train_nodes as step
    from sa2net.training.nodes import NodesConfig

    handover.begin(experiment)
    cfg, root = as_section(TrainConfig, defaults, settings), data_root(Path(data.path))
    handover.require_fixed(cfg.init_from)
    result = step.run(
        cfg,
        nodes=as_section(NodesConfig, nodes),
        data=root,
        validation=Path(validation.path),
        out=Path(model.path),
        checkpoints=Path(checkpoints),
    )
    metrics.log_metric("best_val_dice", result.best_dice)
    metrics.log_metric("best_epoch", result.best_epoch)
    facts = handover.model_metadata(result.model)
    handover.hand_on(model.metadata, facts | handover.provenance(Path(model.path)), result.model)
    model.framework = "torch"
