"""A model folder with untrained weights, for tests that need any model at all."""

from pathlib import Path

import numpy as np
import torch
from factories import draw_case

from sa2net.anatomy import CLASS_NAMES
from sa2net.artifacts import DataBounds, ModelInfo, Normalisation, Range, write_model
from sa2net.config import Config
from sa2net.model.network import build


def write_random_model(folder: Path, spacing_mm: tuple[float, ...] = ()) -> None:
    """A model folder with untrained weights, whose running statistics fit a scan."""
    cfg = Config.load(
        None, ["train.model.channels=16", "train.augment.crop_height=64", "train.augment.crop_width=64"]
    ).train
    torch.manual_seed(0)
    network = build(cfg.model)
    scan, _ = draw_case(0)
    with torch.no_grad():  # give the batch norms statistics that a scan produces
        for _ in range(3):
            network(torch.from_numpy((scan.astype(np.float32) - 80) / 60)[None, None].repeat(2, 1, 1, 1))
    info = ModelInfo(
        model=cfg.model,
        class_names=CLASS_NAMES,
        normalisation=Normalisation(mean=80, std=60),
        sweep_width=48,
        spacing_mm=spacing_mm,
        bounds=DataBounds(sweep_width=Range(low=0, high=1000), area={}, grey={}),
        data_md5="none",
        params={"train": cfg.model_dump(mode="json")},
    )
    write_model(folder, info, network.state_dict())
