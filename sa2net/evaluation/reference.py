"""The reference of a training, for `sa2net monitor` and the served model: what its scans look like, and how it sees them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa2net.artifacts import ModelInfo, Reference
from sa2net.config import Device, EvaluateConfig
from sa2net.data.layout import Case
from sa2net.data.pictures import read_scan
from sa2net.data.sweep import sweep_mask
from sa2net.errors import ConfigError
from sa2net.evaluation.drift import (
    PICTURE_SIGNALS,
    SIGNALS,
    Described,
    Picture,
    collect,
    describe_picture,
    describe_scan,
    merged,
    outside,
)

if TYPE_CHECKING:
    import torch

MOST_PICTURES = 200
"""Train scans of a device that are looked at, evenly over their list: it is the end of a training."""
MOST_PREDICTED = 50
"""Validation scans of a device that are predicted, likewise."""
FEWEST_FOR_WARNING = 20
"""Scans from which on a single scan is warned of: of fewer, too many lie outside by chance."""
_SETTINGS = {"mode", "scales", "flip"}
_PRECISION = "float32"


def settings_of(cfg: EvaluateConfig) -> dict[str, Any]:
    """What decides the signals of a scan, besides the network itself; always computed in float32."""
    measure = {f"measure.{key}": value for key, value in cfg.measure.model_dump(mode="json").items()}
    return {**cfg.model_dump(mode="json", include=_SETTINGS), **measure, "precision": _PRECISION}


def check_settings(stored: Mapping[str, Any], cfg: EvaluateConfig, model: Path) -> EvaluateConfig:
    """The settings with which scans are to be described, so that a stored reference can be compared with.

    Raises:
        ConfigError: The settings ask for something else than the reference was made with.
    """
    asked = settings_of(cfg) | ({} if cfg.precision == "auto" else {"precision": cfg.precision})
    differing = [
        f"{key} {value} there, {asked.get(key)} here" for key, value in stored.items() if asked.get(key) != value
    ]
    if differing:
        raise ConfigError(
            f"the reference in {model} was made with other settings of the section evaluate",
            evidence="; ".join(differing),
            action="Set them to the same values (--set evaluate.KEY=VALUE), or name scans with --reference-scans.",
        )
    return cfg.model_copy(update={"precision": _PRECISION})


def describe_training(
    info: ModelInfo,
    networks: "Sequence[tuple[Mapping[str, torch.Tensor], Sequence[Case]]]",
    others: Sequence[Case] = (),
    *,
    device: Device,
    progress: bool = True,
) -> Reference:
    """The reference of a training: how each network sees its validation scans, and what all other pictures look like.

    A network knows its train scans: on them it is surer than on any others, and every later scan would seem to drift.

    Args:
        info: The `model.json` of the model; each network is one of its members.
        networks: The weights of each network, and its validation scans.
        others: Scans of which the pictures alone are described: the train scans, where there is one network.
        device: Where to compute.
        progress: Show a progress bar, where it takes some seconds.

    Raises:
        DataError: A scan cannot be read.
    """
    from tqdm import tqdm  # a served model, which reads this module, has none

    from sa2net.inference.device import resolve_device
    from sa2net.inference.predictor import Predictor
    from sa2net.model.network import build

    cfg, target = EvaluateConfig(), resolve_device(device)
    network = build(info.model.model_copy(update={"pretrained": False})).to(target)
    predictor = Predictor(network, info, mode=cfg.mode, scales=cfg.scales, flip=cfg.flip, device=target)
    most = -(-MOST_PREDICTED // len(networks))
    jobs: list[tuple[Case, Mapping[str, torch.Tensor] | None]] = [
        (case, None) for case in _chosen(others, MOST_PICTURES)
    ]
    jobs += [(case, weights) for weights, val in networks for case in _chosen(val, most)]
    described, loaded = [], None
    for case, weights in tqdm(jobs, desc="reference", unit="scan", delay=3, disable=not progress):
        scan = read_scan(case.scan)
        if weights is None:
            signals = describe_picture(scan, sweep_mask(scan))
        else:
            if weights is not loaded:
                network.load_state_dict(dict(weights))
                loaded = weights
            said = predictor.probabilities(scan, case.spacing_mm)
            signals = describe_scan(scan, said, cfg.measure, case.spacing_mm)
        described.append(Described(case.name, case.device, signals))
    return collect(described, settings_of(cfg))


class PictureRanges:
    """Whether the picture of a single scan is like those of a reference, whatever device it is of.

    Args:
        reference: None where there is none: then there are no warnings.
    """

    def __init__(self, reference: Reference | None) -> None:
        known = merged(reference.devices) if reference else {}
        self._known = {name: known[name] for name in PICTURE_SIGNALS if len(known.get(name, ())) >= FEWEST_FOR_WARNING}

    def warnings(self, scan: Picture) -> list[str]:
        """One line for each signal that lies outside of everything seen, widened by half its range. # (H, W)."""
        if not self._known:
            return []
        seen = Described("", "", describe_picture(scan, sweep_mask(scan)))
        return [
            f"{SIGNALS[item.signal]} is {item.value:.3g}, {self._known[item.signal][0]:.3g}-"
            f"{self._known[item.signal][-1]:.3g} in the reference scans"
            for item in outside(seen, self._known)
        ]


def _chosen(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many scans of each device, evenly over their list."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.device, []).append(case)
    return [
        items[place * len(items) // count]
        for items in groups.values()
        for count in [min(most, len(items))]
        for place in range(count)
    ]
