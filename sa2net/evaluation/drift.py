"""Drift without labels: whether new scans look, and are segmented, as those that a model is known on.

Nothing here needs a mask by hand. Each scan is described by a few numbers (`describe_scan`); the numbers of new scans
are held against those of reference scans, device by device (`compare`). The chance of even one false alarm among all
signals and devices is at most the stated level, also with few scans: the tests are exact, joined by Holm's rule. Where so few scans could not give an alarm whatever they look like, the answer is *cannot tell*.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import DeviceReference, Reference
from sa2net.config import MeasureConfig
from sa2net.data.sweep import THRESHOLD, sweep_mask, width_of
from sa2net.errors import DataError
from sa2net.evaluation.drift_tests import FEWEST, can_alarm, difference, scans_needed
from sa2net.evaluation.statistics import holm
from sa2net.inference.predictor import Prediction
from sa2net.scoliosis import measure

Picture = npt.NDArray[np.uint8]
Verdict = Literal["drift", "no drift found", "cannot tell"]

REFUSED = "refused"
SIGNALS: Mapping[str, str] = {
    "sweep_width": "width of the sweep, px",
    "sweep_length": "length of the sweep, px",
    "dropout_share": "black inside the sweep, share",
    "grey_mean": "mean grey inside the sweep",
    "grey_sd": "spread of the grey inside the sweep",
    "grey_p05": "grey inside the sweep, 5th percentile",
    "grey_p95": "grey inside the sweep, 95th percentile",
    **{f"area_{item.name}": f"{item.label}, share of the sweep" for item in FOREGROUND},
    **{f"grey_{item.name}": f"mean grey of {item.label}" for item in FOREGROUND},
    "pairs": "pairs of processes found",
    "lumps": "lumbar lumps found",
    "confidence": "mean softmax of the class taken, inside the sweep",
    "entropy": "mean entropy of the softmax inside the sweep, nats",
    REFUSED: "no angle can be measured (1 = refused)",
}
"""Signal -> what it is, for people. How far a grey histogram lies from another is covered by its moments and ends."""

PICTURE_SIGNALS = tuple(SIGNALS)[:7]
"""Those that need no network."""
OCCASIONAL = frozenset((REFUSED, *(f"grey_{item.name}" for item in FOREGROUND)))
"""Those that some scans do not have, or that are all alike: that they cannot be told keeps nothing from an answer."""


@dataclass(frozen=True)
class Described:
    """One scan and its signals; NaN where a class was not found."""

    name: str
    device: str
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """One signal of one device.

    Attributes:
        p: Chance of such a difference without drift; 1 where too few values are known.
        p_holm: The same after Holm's rule over all signals and devices that can be told; 1 where this one cannot.
        tested: Whether so many values could give an alarm at all.
    """

    device: str
    signal: str
    reference: tuple[float, ...]
    new: tuple[float, ...]
    p: float
    p_holm: float
    tested: bool
    drifted: bool


@dataclass(frozen=True)
class DeviceVerdict:
    """The answer for the scans of one device.

    Attributes:
        known: Whether the reference has enough scans of the device; otherwise it is held against all of them.
        reason: Why something cannot be told; empty where all can.
    """

    device: str
    verdict: Verdict
    scans: int
    reference_scans: int
    known: bool
    reason: str


@dataclass(frozen=True)
class Outlier:
    """A new scan whose signal lies outside of everything seen in the reference, widened by half its range."""

    name: str
    signal: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Drift:
    """The whole answer."""

    alpha: float
    devices: tuple[DeviceVerdict, ...]
    compared: tuple[Compared, ...]
    outliers: tuple[Outlier, ...]

    @property
    def verdict(self) -> Verdict:
        """Drift where any device drifted; cannot tell where nothing could be told of one."""
        found = {item.verdict for item in self.devices}
        order: tuple[Verdict, ...] = ("drift", "cannot tell", "no drift found")
        return next((verdict for verdict in order if verdict in found), "cannot tell")


def describe_picture(scan: Picture, sweep: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The signals of one scan that need no network.

    Args:
        scan: Grey values. # (H, W)
        sweep: Where its sweep lies, as `sweep_mask` finds it. # (H, W)

    Raises:
        DataError: There is no sweep.
    """
    inside = scan[sweep]
    if not inside.size:
        raise DataError(
            "the picture holds no sweep",
            evidence="no region is brighter than black",
            action="Check that the file is a volume projection image.",
        )
    low, high = np.percentile(inside, (5, 95))
    return {
        "sweep_width": width_of(sweep),
        "sweep_length": float(np.count_nonzero(sweep.any(axis=1))),
        "dropout_share": float(np.mean(inside <= THRESHOLD)),
        "grey_mean": float(inside.mean()),
        "grey_sd": float(inside.std()),
        "grey_p05": float(low),
        "grey_p95": float(high),
    }


def describe_scan(
    scan: Picture, prediction: Prediction, cfg: MeasureConfig, spacing_mm: tuple[float, float] | None = None
) -> dict[str, float]:
    """The signals of one scan.

    Args:
        scan: Grey values. # (H, W)
        prediction: What the network says of it.
        cfg: Limits of refusal.
        spacing_mm: Size of its pixels (x, y), mm, where known.
    """
    sweep = sweep_mask(scan)
    sure = prediction.probabilities[:, sweep]  # (K, pixels of the sweep)
    unsure = -(sure * np.log(np.maximum(sure, 1e-12))).sum(axis=0)
    said = measure(prediction.mask, cfg=cfg, scan=scan, probabilities=prediction.probabilities, spacing_mm=spacing_mm)
    masks = {item.name: (prediction.mask == item.id) & sweep for item in FOREGROUND}
    return {
        **describe_picture(scan, sweep),
        **{f"area_{name}": float(mask.sum() / sweep.sum()) for name, mask in masks.items()},
        **{f"grey_{name}": float(scan[mask].mean()) if mask.any() else math.nan for name, mask in masks.items()},
        "pairs": float(sum(level.kind == "process" and level.tilt_deg is not None for level in said.levels)),
        "lumps": float(sum(level.kind == "lump" for level in said.levels)),
        "confidence": float(sure.max(axis=0).mean(dtype=np.float64)),
        "entropy": float(unsure.mean(dtype=np.float64)),
        REFUSED: float(said.status == "refused"),
    }


def collect(scans: Sequence[Described], settings: Mapping[str, Any]) -> Reference:
    """A reference of described scans: of each device and signal the known values, in order of size.

    Args:
        scans: For signals of the network, scans that it was not trained on; what is not known of a scan may be left out.
        settings: How the network was used.
    """
    groups = {name: [item for item in scans if item.device == name] for name in sorted({item.device for item in scans})}
    return Reference(
        settings=dict(settings),
        devices=tuple(
            DeviceReference(
                device=name, scans=len(items), signals={signal: _values(items, signal) for signal in SIGNALS}
            )
            for name, items in groups.items()
        ),
    )


def compare(reference: Reference, new: Sequence[Described], *, alpha: float, min_scans: int) -> Drift:
    """Hold new scans against reference scans, device by device; the order of the scans changes nothing.

    Comparisons that could not be an alarm with so few values, whatever these are, are left out of Holm's rule (R. E.
    Tarone, Biometrics 46, 1990, 515-522): which they are depends on how many there are, not on what is in them.

    Args:
        reference: Scans that the model is known on.
        new: Scans to judge.
        alpha: Chance of one false alarm or more among everything compared.
        min_scans: With fewer new scans of a device, or fewer reference scans, nothing is told.
    """
    groups = [_group(reference, new, device, min_scans) for device in sorted({item.device for item in new})]
    raw = []
    for group in groups:
        for signal in SIGNALS:
            old, now = group.known[signal], _values(group.new, signal)
            p, smallest = difference(old, now, binary=signal == REFUSED) if group.enough else (1.0, 1.0)
            raw.append((group.device, signal, old, now, p, smallest))
    family = can_alarm([item[-1] for item in raw], alpha)
    adjusted = dict(zip(family, holm([raw[index][4] for index in family]), strict=True))
    compared = tuple(
        Compared(
            *item[:5],
            p_holm=adjusted.get(index, 1.0),
            tested=index in adjusted,
            drifted=adjusted.get(index, 1.0) <= alpha,
        )
        for index, item in enumerate(raw)
    )
    tests = len(SIGNALS) * len(groups)
    devices = tuple(
        _judged(group, [item for item in compared if item.device == group.device], alpha, tests, min_scans)
        for group in groups
    )
    found = [outlier for group in groups for item in group.new for outlier in outside(item, group.known)]
    return Drift(alpha, devices, compared, tuple(sorted(found, key=lambda item: (item.name, item.signal))))


def outside(scan: Described, known: Mapping[str, Sequence[float]], fewest: int = FEWEST) -> list[Outlier]:
    """Signals of one scan that lie outside of everything that is known, widened by half its range.

    Args:
        scan: A new scan.
        known: Signal -> values of the reference, ascending.
        fewest: Of a signal with fewer known values nothing is said.
    """
    found = []
    for signal, values in known.items():
        value = round(scan.signals.get(signal, math.nan), 6)
        if signal == REFUSED or len(values) < fewest or math.isnan(value):
            continue
        pad = 0.5 * (values[-1] - values[0])
        low, high = values[0] - pad, values[-1] + pad
        if not low <= value <= high:
            found.append(Outlier(scan.name, signal, value, low, high))
    return found


def merged(devices: Sequence[DeviceReference]) -> dict[str, tuple[float, ...]]:
    """Signal -> values of all these devices, ascending."""
    return {
        signal: tuple(sorted(value for item in devices for value in item.signals.get(signal, ()))) for signal in SIGNALS
    }


@dataclass(frozen=True)
class _Group:
    """New scans of one device, and the values that they are held against."""

    device: str
    new: list[Described]
    known: Mapping[str, tuple[float, ...]]
    reference_scans: int
    same_device: bool
    enough: bool


def _group(reference: Reference, new: Sequence[Described], device: str, min_scans: int) -> _Group:
    theirs = [item for item in new if item.device == device]
    same = [item for item in reference.devices if item.device == device and item.scans >= min_scans]
    used = same or list(reference.devices)
    scans = sum(item.scans for item in used)
    return _Group(device, theirs, merged(used), scans, bool(same), min(scans, len(theirs)) >= min_scans)


def _judged(group: _Group, compared: Sequence[Compared], alpha: float, tests: int, min_scans: int) -> DeviceVerdict:
    """The answer for one device: signals that every scan should have must all be told, else nothing is ruled out."""
    untold = [item for item in compared if not item.tested and item.signal not in OCCASIONAL]
    verdict: Verdict = (
        "drift" if any(item.drifted for item in compared) else "cannot tell" if untold else "no drift found"
    )
    reason = _untold(group, compared, untold, alpha, tests, min_scans) if untold else ""
    return DeviceVerdict(group.device, verdict, len(group.new), group.reference_scans, group.same_device, reason)


def _untold(
    group: _Group, compared: Sequence[Compared], untold: Sequence[Compared], alpha: float, tests: int, min_scans: int
) -> str:
    """Why these cannot be told, and with how many new scans they could."""
    known = min(len(item.reference) for item in untold) if group.enough else group.reference_scans
    needed = 0 if known < FEWEST else scans_needed(known, alpha=alpha, tests=tests)
    if any(item.tested for item in compared):
        rest = f": {needed} new scans can tell" if needed else f", too few for any test at {alpha:g}"
        return f"{len(untold)} signals have only {known} reference values{rest}"
    if needed == 0:
        return f"{known} reference scans are too few for any test at {alpha:g}"
    return (
        f"{len(group.new)} new and {known} reference scans; needed are {max(min_scans, needed)} new "
        f"and {min_scans} reference scans"
    )


def _values(scans: Sequence[Described], signal: str) -> tuple[float, ...]:
    """Known values in order of size, so that the order of the scans changes nothing; rounded as they are written."""
    known = (item.signals.get(signal, math.nan) for item in scans)
    return tuple(sorted(round(value, 6) for value in known if not math.isnan(value)))
