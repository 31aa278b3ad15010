"""Drift without labels: whether new scans look, and are segmented, as those that a model is known on.

Nothing here needs a mask by hand. Each scan is described by a few numbers (`describe_scan`); the numbers of new scans
are held against those of reference scans, device by device (`compare`). The chance of even one false alarm among all
signals and devices is at most the stated level, also with few scans: the tests are exact or permutation tests, joined
by Holm's rule. Where so few scans could not give an alarm whatever they look like, the answer is *cannot tell*.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from sa2net.anatomy import FOREGROUND
from sa2net.config import MeasureConfig
from sa2net.data.sweep import THRESHOLD, sweep_mask, width_of
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

_RESAMPLES = 19_999
_SEED = 0
FEWEST = 3
"""Known values on each side without which a signal is not tested."""


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
        p_holm: The same after Holm's rule over all signals and devices.
    """

    device: str
    signal: str
    reference: tuple[float, ...]
    new: tuple[float, ...]
    p: float
    p_holm: float
    drifted: bool


@dataclass(frozen=True)
class DeviceVerdict:
    """The answer for the scans of one device.

    Attributes:
        known: Whether the reference has enough scans of the device; otherwise it is held against all of them.
        reason: Why nothing can be told; empty where something can.
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
    inside = scan[sweep]
    low, high = np.percentile(inside, (5, 95))
    best = prediction.probabilities.max(axis=0)[sweep]
    sure = prediction.probabilities[:, sweep].astype(np.float64)
    said = measure(prediction.mask, cfg=cfg, scan=scan, probabilities=prediction.probabilities, spacing_mm=spacing_mm)
    masks = {item.name: (prediction.mask == item.id) & sweep for item in FOREGROUND}
    return {
        "sweep_width": width_of(sweep),
        "sweep_length": float(np.count_nonzero(sweep.any(axis=1))),
        "dropout_share": float(np.mean(inside <= THRESHOLD)),
        "grey_mean": float(inside.mean()),
        "grey_sd": float(inside.std()),
        "grey_p05": float(low),
        "grey_p95": float(high),
        **{f"area_{name}": float(mask.sum() / sweep.sum()) for name, mask in masks.items()},
        **{f"grey_{name}": float(scan[mask].mean()) if mask.any() else math.nan for name, mask in masks.items()},
        "pairs": float(sum(level.kind == "process" and level.tilt_deg is not None for level in said.levels)),
        "lumps": float(sum(level.kind == "lump" for level in said.levels)),
        "confidence": float(best.mean()),
        "entropy": float(-(sure * np.log(np.maximum(sure, 1e-12))).sum(axis=0).mean()),
        REFUSED: float(said.status == "refused"),
    }


def compare(reference: Sequence[Described], new: Sequence[Described], *, alpha: float, min_scans: int) -> Drift:
    """Hold new scans against reference scans, device by device; the order of the scans changes nothing.

    Args:
        reference: Scans that the model is known on; for signals of the network, scans that it was not trained on.
        new: Scans to judge.
        alpha: Chance of one false alarm or more among everything compared.
        min_scans: With fewer new scans of a device, or fewer reference scans, nothing is told.
    """
    groups = []
    for device in sorted({item.device for item in new}):
        theirs = [item for item in new if item.device == device]
        same = [item for item in reference if item.device == device]
        known = len(same) >= min_scans
        groups.append((device, theirs, same if known else list(reference), known))
    tests = len(SIGNALS) * len(groups)
    raw: list[tuple[str, str, tuple[float, ...], tuple[float, ...], float]] = []
    verdicts: dict[str, tuple[int, int, bool, str]] = {}
    for device, theirs, ours, known in groups:
        reason = _too_few(len(ours), len(theirs), alpha=alpha, tests=tests, min_scans=min_scans)
        verdicts[device] = (len(theirs), len(ours), known, reason)
        for signal in SIGNALS:
            old, now = _values(ours, signal), _values(theirs, signal)
            raw.append((device, signal, old, now, 1.0 if reason else p_value(old, now, binary=signal == REFUSED)))
    adjusted = holm([item[4] for item in raw])
    compared = tuple(Compared(*item, p_holm=p, drifted=p <= alpha) for item, p in zip(raw, adjusted, strict=True))
    alarmed = {item.device for item in compared if item.drifted}
    devices = tuple(
        DeviceVerdict(
            device,
            "cannot tell" if reason else "drift" if device in alarmed else "no drift found",
            scans,
            references,
            known,
            reason,
        )
        for device, (scans, references, known, reason) in verdicts.items()
    )
    return Drift(alpha, devices, compared, _outliers(groups))


def p_value(reference: Sequence[float], new: Sequence[float], *, binary: bool = False) -> float:
    """Two-sided p of Mann-Whitney's test (Mann & Whitney 1947), of Fisher's exact test for zeros and ones.

    Exact where no values are equal, by permutation where some are: both hold their level with few values.
    """
    old, now = (np.asarray(values, dtype=np.float64) for values in (reference, new))
    if min(len(old), len(now)) < FEWEST:
        return 1.0
    if binary:
        table = np.array([[values.sum(), len(values) - values.sum()] for values in (old, now)], dtype=np.intp)
        return float(stats.fisher_exact(table).pvalue)
    pooled = np.concatenate([old, now])
    if np.ptp(pooled) == 0.0:
        return 1.0
    if len(np.unique(pooled)) == len(pooled):
        exact = len(pooled) <= 200
        return float(stats.mannwhitneyu(old, now, method="exact" if exact else "asymptotic").pvalue)
    permuted = stats.PermutationMethod(n_resamples=_RESAMPLES, batch=2000, random_state=np.random.default_rng(_SEED))
    return float(stats.mannwhitneyu(old, now, method=permuted).pvalue)


def scans_needed(reference: int, *, alpha: float, tests: int) -> int:
    """Fewest new scans with which the largest difference there can be would be an alarm; 0 where no number is enough."""
    return next((new for new in range(1, 10_001) if 2 / math.comb(reference + new, new) * tests <= alpha), 0)


def _too_few(reference: int, new: int, *, alpha: float, tests: int, min_scans: int) -> str:
    """Why nothing can be told with so many scans; empty where something can."""
    needed = scans_needed(reference, alpha=alpha, tests=tests)
    if reference < FEWEST or needed == 0:
        return f"{reference} reference scans are too few for any test at {alpha:g}"
    if reference < min_scans or new < max(min_scans, needed):
        return (
            f"{new} new and {reference} reference scans; needed are {max(min_scans, needed)} new "
            f"and {min_scans} reference scans"
        )
    return ""


def _values(scans: Sequence[Described], signal: str) -> tuple[float, ...]:
    """Known values in order of size, so that the order of the scans changes nothing; rounded as they are written."""
    return tuple(sorted(round(value, 6) for item in scans if not math.isnan(value := item.signals[signal])))


def _outliers(groups: Sequence[tuple[str, list[Described], list[Described], bool]]) -> tuple[Outlier, ...]:
    found = []
    for _, theirs, ours, _ in groups:
        for signal in SIGNALS:
            seen = _values(ours, signal)
            if signal == REFUSED or len(seen) < FEWEST:
                continue
            pad = 0.5 * (seen[-1] - seen[0])
            low, high = seen[0] - pad, seen[-1] + pad
            found += [
                Outlier(item.name, signal, round(value, 6), low, high)
                for item in theirs
                if not low <= (value := item.signals[signal]) <= high and not math.isnan(value)
            ]
    return tuple(sorted(found, key=lambda item: (item.name, item.signal)))
