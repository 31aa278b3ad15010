"""The gate: whether a scored model becomes champion. A pure function; its reasons are kept with the version.

A challenger is promoted only if every floor holds, no class is worse by more than the margin, and the mean is better,
both beyond chance on the same scans. Where the scans cannot tell, the champion stays, and the decision says how many
subjects could. Differences are resampled by subject; all classes must pass, with Holm's correction over them.
"""

import math
from collections.abc import Sequence

import numpy as np

from sa2net.anatomy import FOREGROUND
from sa2net.config import RegisterConfig
from sa2net.evaluation.statistics import PairedBootstrap, holm, paired_bootstrap, subjects_needed
from sa2net.registry.decision import MEAN, Comparison, Decision, Floats, Reason, ScoredVersion, Verdict

__all__ = ["Comparison", "Decision", "Reason", "ScoredVersion", "decide"]

_DECIMALS = 6


def decide(candidate: ScoredVersion, champion: ScoredVersion | None, cfg: RegisterConfig) -> Decision:
    """Decide whether the candidate becomes champion.

    Args:
        candidate: The model in question.
        champion: Who holds the place; None if nobody does.
        cfg: Floors, margin, confidence, resamples, seed.
    """
    floors = _floors(candidate, cfg)
    holds = all(reason.holds for reason in floors)
    if champion is None:
        alone = Reason("champion", "", holds, "There is no champion yet: the floors alone decide.")
        table = tuple(_row(candidate, None, name, cfg) for name in _subjects())
        return Decision("promote" if holds else "refuse", (*floors, alone), table, candidate.name)
    if candidate.model_sha256 == champion.model_sha256:
        same = Reason("identity", "", False, f"{candidate.name} has the very weights of the champion, {champion.name}.")
        return Decision("same weights", (same,), (), candidate.name, champion.name)
    other = _other_scans(candidate, champion)
    if other:
        reason = Reason("data", "", False, other)
        return Decision("score the champion again", (reason,), (), candidate.name, champion.name)
    return _compare(candidate, champion, cfg, floors)


def _compare(
    candidate: ScoredVersion, champion: ScoredVersion, cfg: RegisterConfig, floors: tuple[Reason, ...]
) -> Decision:
    pairs = {name: _pair(candidate, champion, name, cfg) for name in _subjects()}
    classes = [name for name in _subjects() if name != MEAN and pairs[name].subjects > 0]
    adjusted = dict(zip(classes, holm([pairs[name].p_value(-cfg.margin) for name in classes]), strict=True))
    enough = _enough_subjects(pairs[MEAN].subjects, cfg)
    per_class = tuple(_non_inferior(name, pairs[name], adjusted[name], cfg) for name in classes)
    mean = _superior(pairs[MEAN], cfg)
    worse = _upper(pairs[MEAN], cfg) < 0.0 or any(_upper(pairs[name], cfg) < -cfg.margin for name in classes)

    verdict: Verdict = "cannot tell"
    if not all(reason.holds for reason in floors) or (enough.holds and worse):
        verdict = "refuse"
    elif enough.holds and mean.holds and all(reason.holds for reason in per_class):
        verdict = "promote"
    needed = _needed(candidate, champion, per_class, mean, enough, cfg) if verdict == "cannot tell" else None
    reasons = (*floors, *(() if enough.holds else (enough,)), *per_class, mean)
    if verdict == "cannot tell":
        reasons = (*reasons, _undecided(pairs[MEAN].subjects, needed))
    p_values = {**adjusted, MEAN: pairs[MEAN].p_value(0.0)}
    table = tuple(_row(candidate, champion, name, cfg, pairs[name], p_values.get(name)) for name in _subjects())
    return Decision(verdict, reasons, table, candidate.name, champion.name, pairs[MEAN].subjects, needed)


def _floors(candidate: ScoredVersion, cfg: RegisterConfig) -> tuple[Reason, ...]:
    reasons = []
    for name in _subjects():
        floor, value = float(getattr(cfg.floors, name)), _mean(candidate.column(name))
        if math.isnan(value):
            holds, text = False, f"{_label(name)}: no scan of the {candidate.split} split has a score."
        else:
            holds = round(value, _DECIMALS) >= floor
            relation = "reaches" if holds else "is below"
            text = f"{_label(name)}: Dice {value:.3f} {relation} the floor of {floor:.3f}."
        reasons.append(Reason("floor", name, holds, text))
    return tuple(reasons)


def _other_scans(candidate: ScoredVersion, champion: ScoredVersion) -> str:
    """Why the two cannot be compared scan by scan; empty if they can."""
    if candidate.data_md5 != champion.data_md5:
        was, now = champion.data_md5[:8], candidate.data_md5[:8]
        return f"{champion.name} was scored on the data set {was}, {candidate.name} on {now}."
    if candidate.split != champion.split:
        return f"{champion.name} was scored on the {champion.split} split, {candidate.name} on {candidate.split}."
    if candidate.settings != champion.settings:
        return f"{champion.name} was scored with other settings ({champion.settings}) than {candidate.name}."
    if (candidate.scans, candidate.subjects) != (champion.scans, champion.subjects):
        odd = len(set(candidate.scans) ^ set(champion.scans))
        return (
            f"{odd} scans were scored for one of {champion.name} and {candidate.name} only, or changed their subject."
        )
    return ""


def _pair(candidate: ScoredVersion, champion: ScoredVersion, name: str, cfg: RegisterConfig) -> PairedBootstrap:
    return paired_bootstrap(
        candidate.column(name),
        champion.column(name),
        candidate.subjects,
        samples=cfg.bootstrap_samples,
        seed=cfg.seed,
    )


def _upper(pair: PairedBootstrap, cfg: RegisterConfig) -> float:
    """One-sided upper bound of the mean difference: the lower bound seen from the other side."""
    return -PairedBootstrap(-pair.mean_difference, -pair.draws, pair.subjects).lower_bound(cfg.confidence)


def _enough_subjects(subjects: int, cfg: RegisterConfig) -> Reason:
    least = _least_subjects(cfg)
    text = f"{subjects} subjects are too few for {cfg.confidence:.0%} confidence, which needs at least {least}."
    return Reason("subjects", "", subjects >= least, text)


def _least_subjects(cfg: RegisterConfig) -> int:
    """Subjects below which no result could be significant.

    With n subjects an exact one-sided sign test has no p-value below 2**-n, and Holm asks the smallest one of the
    classes to be below (1 - confidence) / classes.
    """
    return math.ceil(math.log2(len(FOREGROUND) / (1.0 - cfg.confidence)) - 1e-9)


def _non_inferior(name: str, pair: PairedBootstrap, adjusted: float, cfg: RegisterConfig) -> Reason:
    holds = adjusted <= 1.0 - cfg.confidence
    outcome = "not worse" if holds else "not shown to be not worse"
    text = (
        f"{_label(name)}: difference {pair.mean_difference:+.3f}, {outcome} than the margin of {cfg.margin:.3f} "
        f"(Holm p = {adjusted:.3f}, allowed {1.0 - cfg.confidence:.3f})."
    )
    return Reason("non-inferior", name, holds, text)


def _superior(pair: PairedBootstrap, cfg: RegisterConfig) -> Reason:
    lower, upper = pair.lower_bound(cfg.confidence), _upper(pair, cfg)
    holds = lower > 0.0
    outcome = "better" if holds else "worse" if upper < 0.0 else "neither better nor worse"
    text = (
        f"{_label(MEAN)}: difference {pair.mean_difference:+.3f}, {outcome} at {cfg.confidence:.0%} confidence "
        f"(one-sided bounds {lower:+.3f} and {upper:+.3f}, {pair.subjects} subjects)."
    )
    return Reason("superior", MEAN, holds, text)


def _needed(
    candidate: ScoredVersion,
    champion: ScoredVersion,
    per_class: Sequence[Reason],
    mean: Reason,
    enough: Reason,
    cfg: RegisterConfig,
) -> int | None:
    """Subjects that would settle every open question; None if one of them points the wrong way."""
    least = 0 if enough.holds else _least_subjects(cfg)
    for reason in (mean, *per_class):
        if reason.holds:
            continue
        number = subjects_needed(
            candidate.column(reason.subject) - champion.column(reason.subject),
            candidate.subjects,
            confidence=cfg.confidence,
            margin=0.0 if reason.subject == MEAN else cfg.margin,
        )
        if number is None:
            return None
        least = max(least, number)
    return least


def _undecided(subjects: int, needed: int | None) -> Reason:
    text = "More subjects would not help a candidate that is not ahead: the champion stays."
    if needed is not None:
        text = f"The champion stays; about {max(needed, subjects + 1)} subjects instead of {subjects} would tell."
    return Reason("undecided", "", False, text)


def _row(
    candidate: ScoredVersion,
    champion: ScoredVersion | None,
    name: str,
    cfg: RegisterConfig,
    pair: PairedBootstrap | None = None,
    p_value: float | None = None,
) -> Comparison:
    return Comparison(
        subject=name,
        candidate=_rounded(_mean(candidate.column(name))),
        champion=None if champion is None else _rounded(_mean(champion.column(name))),
        floor=float(getattr(cfg.floors, name)),
        difference=None if pair is None else _rounded(pair.mean_difference),
        lower=None if pair is None else _rounded(pair.lower_bound(cfg.confidence)),
        upper=None if pair is None else _rounded(_upper(pair, cfg)),
        p_value=None if p_value is None else _rounded(p_value),
    )


def _subjects() -> tuple[str, ...]:
    return (MEAN, *(item.name for item in FOREGROUND))


def _label(name: str) -> str:
    labels = {item.name: item.label for item in FOREGROUND}
    return labels.get(name, "mean over the classes")


def _mean(values: Floats) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else math.nan


def _rounded(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None
