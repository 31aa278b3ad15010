"""What a champion must reach whatever it is compared with: floors of Dice, limits of calibration and of speed."""

import math

from sa2net.config import RegisterConfig
from sa2net.registry.decision import (
    CALIBRATION,
    DECIMALS,
    SPEED,
    SUBJECTS,
    Comparison,
    Reason,
    ScoredVersion,
    label_of,
    mean_of,
    rounded,
)

BELOW = "below the floor"
_REACHES = "reaches the floor"
_WITHIN = "within the limit"
_ABOVE = "above the limit"
_UNKNOWN = "not known"


def musts(version: ScoredVersion, cfg: RegisterConfig) -> tuple[Reason, ...]:
    """Floors and limits of a version; all must hold."""
    speed = (_speed(version, cfg),) if cfg.max_seconds_per_scan > 0.0 else ()
    return (*(_floor(version, name, cfg) for name in SUBJECTS), _calibration(version, cfg), *speed)


def note_on(champion: ScoredVersion, cfg: RegisterConfig) -> tuple[Reason, ...]:
    """A note if the champion would not be promoted today; it speaks for the candidate and decides nothing."""
    known = [reason for reason in musts(champion, cfg) if reason.check != SPEED or _is_known(champion)]
    missed = [reason.text.rstrip(".") for reason in known if not reason.holds]
    if not missed:
        return ()
    text = f"{champion.name}, the champion, does not meet today's floors and limits itself: {'; '.join(missed)}."
    return (Reason("note", "", True, text),)


def floor_verdict(candidate: ScoredVersion, name: str, cfg: RegisterConfig) -> str:
    """The word for a line of Dice without a champion."""
    return _REACHES if _reaches(mean_of(candidate.column(name)), name, cfg) else BELOW


def limit_rows(candidate: ScoredVersion, champion: ScoredVersion | None, cfg: RegisterConfig) -> tuple[Comparison, ...]:
    """The lines of calibration and, where it has a limit, of speed."""
    rows = [_row(CALIBRATION, candidate, champion, cfg.max_calibration_error)]
    if cfg.max_seconds_per_scan > 0.0:
        rows.append(_row(SPEED, candidate, champion, cfg.max_seconds_per_scan))
    return tuple(rows)


def _floor(version: ScoredVersion, name: str, cfg: RegisterConfig) -> Reason:
    floor, value = float(getattr(cfg.floors, name)), mean_of(version.column(name))
    if math.isnan(value):
        text = f"{label_of(name)}: no scan of the {version.split} split has a score."
        return Reason("floor", name, False, text)
    holds = _reaches(value, name, cfg)
    relation = "reaches" if holds else "is below"
    return Reason("floor", name, holds, f"{label_of(name)}: Dice {value:.3f} {relation} the floor of {floor:.3f}.")


def _reaches(value: float, name: str, cfg: RegisterConfig) -> bool:
    return round(value, DECIMALS) >= float(getattr(cfg.floors, name))  # NaN reaches nothing


def _calibration(version: ScoredVersion, cfg: RegisterConfig) -> Reason:
    error, limit = version.calibration_error, cfg.max_calibration_error
    verdict = _limit_verdict(error, limit)
    text = f"calibration: expected error {error:.3f} is {verdict} of {limit:.3f}."
    if verdict == _UNKNOWN:
        text = "calibration: the expected error is not known; run `sa2net evaluate` again."
    return Reason(CALIBRATION, "", verdict == _WITHIN, text)


def _speed(version: ScoredVersion, cfg: RegisterConfig) -> Reason:
    seconds, limit = version.seconds_per_scan, cfg.max_seconds_per_scan
    verdict = _limit_verdict(seconds, limit)
    text = f"speed: {seconds:.3f} s a scan is {verdict} of {limit:.3f} s; it depends on the machine that scored it."
    if verdict == _UNKNOWN:
        text = (
            "speed: the time of a scan is not known, since the evaluation folder holds no timing.json. Score the model "
            "again on the machine that register.max_seconds_per_scan is meant for: sa2net evaluate, or "
            "dvc repro --force --single-item evaluate; or set the limit to 0."
        )
    return Reason(SPEED, "", verdict == _WITHIN, text)


def _row(subject: str, candidate: ScoredVersion, champion: ScoredVersion | None, limit: float) -> Comparison:
    value = _value(candidate, subject)
    other = math.nan if champion is None else _value(champion, subject)
    return Comparison(
        subject=subject,
        candidate=rounded(value),
        champion=rounded(other),
        verdict=_limit_verdict(value, limit),
        limit=limit,
        difference=rounded(value - other),
    )


def _value(version: ScoredVersion, subject: str) -> float:
    return version.calibration_error if subject == CALIBRATION else version.seconds_per_scan


def _limit_verdict(value: float, limit: float) -> str:
    if math.isnan(value):
        return _UNKNOWN
    return _WITHIN if round(value, DECIMALS) <= limit else _ABOVE


def _is_known(version: ScoredVersion) -> bool:
    return not math.isnan(version.seconds_per_scan)
