"""What a champion must reach whatever it is compared with: floors of Dice, limits of calibration, speed and angles."""

import math
from dataclasses import dataclass, replace

from sa2net.config import RegisterConfig
from sa2net.registry.decision import (
    ANGLE_ICC,
    ANGLE_MAD,
    ANGLE_REFUSED,
    ANGLES,
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


@dataclass(frozen=True)
class _AngleLimit:
    """What may be asked of angles.

    Attributes:
        subject: What it is called in a decision.
        setting: Where it is set, in the section `register`.
        off: The value that asks for nothing.
        words: What it is about.
        unit: Of its value, with a space before it.
        at_least: Whether it must be reached; else it may not be exceeded.
    """

    subject: str
    setting: str
    off: float
    words: str
    unit: str = ""
    at_least: bool = False

    def of(self, cfg: RegisterConfig) -> float:
        """Its value in the settings."""
        return float(getattr(cfg, self.setting))

    def verdict(self, value: float, cfg: RegisterConfig) -> str:
        """The word for a value."""
        if self.at_least and not math.isnan(value):
            return _REACHES if round(value, DECIMALS) >= self.of(cfg) else BELOW
        return _limit_verdict(value, self.of(cfg))


_ANGLE_LIMITS = (
    _AngleLimit(ANGLE_MAD, "max_angle_mad", 0.0, "mean absolute difference", " degrees"),
    _AngleLimit(ANGLE_ICC, "min_angle_icc", 0.0, "ICC(2,1)", at_least=True),
    _AngleLimit(ANGLE_REFUSED, "max_angle_refused", 1.0, "share of refused scans"),
)


def musts(version: ScoredVersion, cfg: RegisterConfig) -> tuple[Reason, ...]:
    """Floors and limits of a version; all must hold."""
    speed = (_speed(version, cfg),) if cfg.max_seconds_per_scan > 0.0 else ()
    angles = (_angle(version, limit, cfg) for limit in _angle_limits(cfg))
    return (*(_floor(version, name, cfg) for name in SUBJECTS), _calibration(version, cfg), *speed, *angles)


def note_on(champion: ScoredVersion, cfg: RegisterConfig) -> tuple[Reason, ...]:
    """A note if the champion would not be promoted today; it speaks for the candidate and decides nothing."""
    known = [reason for reason in musts(champion, cfg) if _is_known(champion, reason.check)]
    missed = [reason.text.rstrip(".") for reason in known if not reason.holds]
    if not missed:
        return ()
    text = f"{champion.name}, the champion, does not meet today's floors and limits itself: {'; '.join(missed)}."
    return (Reason("note", "", True, text),)


def floor_verdict(candidate: ScoredVersion, name: str, cfg: RegisterConfig) -> str:
    """The word for a line of Dice without a champion."""
    return _REACHES if _reaches(mean_of(candidate.column(name)), name, cfg) else BELOW


def limit_rows(candidate: ScoredVersion, champion: ScoredVersion | None, cfg: RegisterConfig) -> tuple[Comparison, ...]:
    """The lines of calibration and, where these have a limit, of speed and angles."""
    rows = [_row(CALIBRATION, candidate, champion, cfg.max_calibration_error)]
    if cfg.max_seconds_per_scan > 0.0:
        rows.append(_row(SPEED, candidate, champion, cfg.max_seconds_per_scan))
    return (*rows, *(_angle_row(limit, candidate, champion, cfg) for limit in _angle_limits(cfg)))


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


def _angle_limits(cfg: RegisterConfig) -> tuple[_AngleLimit, ...]:
    """Those that are set."""
    return tuple(limit for limit in _ANGLE_LIMITS if limit.of(cfg) != limit.off)


def _angle(version: ScoredVersion, limit: _AngleLimit, cfg: RegisterConfig) -> Reason:
    value = _value(version, limit.subject)
    verdict = limit.verdict(value, cfg)
    where = "angles (phantoms)" if version.phantom else "angles"
    relation = verdict if verdict == _REACHES else f"is {verdict}"
    text = f"{where}: {limit.words} {value:.3f}{limit.unit} {relation} of {limit.of(cfg):.3f}."
    if verdict == _UNKNOWN:
        text = (
            f"{where}: the {limit.words} is not known, since the scores hold too few angles with a truth, or none. Put "
            f"true curves into angles.csv beside dataset/ and run `sa2net evaluate` again, or set "
            f"register.{limit.setting} to {limit.off:g}."
        )
    return Reason(limit.subject, "", verdict in (_WITHIN, _REACHES), text)


def _angle_row(
    limit: _AngleLimit, candidate: ScoredVersion, champion: ScoredVersion | None, cfg: RegisterConfig
) -> Comparison:
    row = _row(limit.subject, candidate, champion, limit.of(cfg))
    verdict = limit.verdict(_value(candidate, limit.subject), cfg)
    if limit.at_least:
        return replace(row, verdict=verdict, floor=row.limit, limit=None)
    return replace(row, verdict=verdict)


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
    return {
        CALIBRATION: version.calibration_error,
        SPEED: version.seconds_per_scan,
        ANGLE_MAD: version.angles.mad,
        ANGLE_ICC: version.angles.icc,
        ANGLE_REFUSED: version.angles.refused,
    }[subject]


def _limit_verdict(value: float, limit: float) -> str:
    if math.isnan(value):
        return _UNKNOWN
    return _WITHIN if round(value, DECIMALS) <= limit else _ABOVE


def _is_known(version: ScoredVersion, check: str) -> bool:
    """Whether a version could be asked; times and angles are not known of each that was scored before."""
    return check not in (SPEED, *ANGLES) or not math.isnan(_value(version, check))
