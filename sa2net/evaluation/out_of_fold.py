"""Out-of-fold scores: every scan as the network sees it that has learnt from no scan of its subject."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from sa2net.artifacts import ModelInfo
from sa2net.config import Device, EvaluateConfig
from sa2net.data.layout import Case
from sa2net.data.pictures import read_mask, read_scan
from sa2net.evaluation.metrics import mean_over_classes, score_scan
from sa2net.inference.device import resolve_device
from sa2net.inference.predictor import Predictor
from sa2net.model.network import build

if TYPE_CHECKING:
    import torch

DECIMALS = 6


def out_of_fold(
    info: ModelInfo,
    networks: "Sequence[tuple[Mapping[str, torch.Tensor], Sequence[Case]]]",
    *,
    device: Device,
    progress: bool = True,
) -> str:
    """Score each network on its own validation scans, as `evaluate` would by default.

    Args:
        info: The `model.json` of the model; each network is one of its members.
        networks: The weights of each network, and its validation scans.
        device: Where to compute.
        progress: Show a progress bar.

    Returns:
        CSV: `fold`, `scan`, `subject`, `dice_CLASS` of each class, `dice_mean`; empty where a class is in neither mask.
    """
    cfg, target = EvaluateConfig(), resolve_device(device)
    network = build(info.model.model_copy(update={"pretrained": False})).to(target)
    predict = Predictor(network, info, mode=cfg.mode, scales=cfg.scales, flip=cfg.flip, device=target)
    rows = []
    bar = tqdm(total=sum(len(val) for _, val in networks), desc="out of fold", unit="scan", disable=not progress)
    with bar:
        for fold, (weights, val) in enumerate(networks, start=1):
            network.load_state_dict(dict(weights))
            for case in val:
                scores = score_scan(
                    predict(read_scan(case.scan), case.spacing_mm),
                    read_mask(case.mask),
                    spacing_mm=None,
                    tolerance_mm=cfg.nsd_tolerance_mm,
                    tolerance_px=cfg.nsd_tolerance_px,
                )
                dice = {f"dice_{score.name}": score.dice for score in scores}
                row = {"fold": fold, "scan": case.name, "subject": case.subject, **dice}
                rows.append(row | {"dice_mean": mean_over_classes(scores, "dice")})
                bar.update()
    return pd.DataFrame(rows).round(DECIMALS).to_csv(index=False, lineterminator="\n")
