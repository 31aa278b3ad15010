"""Train: the network on checked data, on as many GPUs as its pod has."""

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
    processes: int,
    model: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Train or go on from the last checkpoint; `model` holds the model folder, the curves and `run.json`."""
    from pathlib import Path

    from sa2net.artifacts import handover
    from sa2net.config import TrainConfig, as_section
    from sa2net.data.layout import data_root
    from sa2net.steps import train as step

    handover.begin(experiment)
    cfg, root = as_section(TrainConfig, defaults, settings), data_root(Path(data.path))
    handover.require_fixed(cfg.init_from)
    result = step.run(
        cfg,
        data=root,
        validation=Path(validation.path),
        out=Path(model.path),
        checkpoints=Path(checkpoints),
        processes=processes,
        progress=False,
    )
    metrics.log_metric("best_val_dice", result.best_dice)
    metrics.log_metric("best_epoch", result.best_epoch)
    facts = handover.model_metadata(result.model)
    handover.hand_on(model.metadata, facts | handover.provenance(Path(model.path)), result.model)
    model.framework = "torch"
