"""The gate: whether a scored model becomes champion. A pure function; its reasons are kept with the version.

A challenger is promoted only if every floor and limit holds, no class is worse by more than the margin, and the mean is
better, both beyond chance on the same scans. Where the scans cannot tell, the champion stays, and the decision says how
many subjects could.

All of these must hold, so that a wrong promotion has at most the probability that one test allows, without any
correction (an intersection-union test; Berger, Technometrics 24, 1982). Holm's correction over the classes is asked for
on top of it, so that the sentences on the single classes are all true together with the stated confidence, also where
not all of them speak for the candidate. It makes the gate a little slower to promote, never quicker.
"""

import math
from dataclasses import replace

from sa2net.config import RegisterConfig
from sa2net.evaluation.statistics import smallest_p_value, subjects_needed
from sa2net.registry.decision import (
    CLASSES,
    MEAN,
    SUBJECTS,
    Comparison,
    Decision,
    Reason,
    ScoredVersion,
    Verdict,
    label_of,
    mean_of,
    rounded,
)
from sa2net.registry.limits import BELOW, floor_verdict, limit_rows, musts, note_on
from sa2net.registry.paired import BETTER, NOT_WORSE, OPEN, WORSE, Paired, other_scans

__all__ = ["Comparison", "Decision", "Reason", "ScoredVersion", "decide"]

_SAME = "same weights"


def decide(
    candidate: ScoredVersion, champion: ScoredVersion | None, cfg: RegisterConfig, *, withdrawn: bool = False
) -> Decision:
    """Decide whether the candidate becomes champion.

    Args:
        candidate: The model in question.
        champion: Who holds the place; None if nobody does.
        cfg: Floors, limits, margin, confidence, resamples, seed.
        withdrawn: Whether the candidate was champion and was rolled back: only a person brings it back.
    """
    if champion is not None and candidate.model_sha256 == champion.model_sha256:
        return _same(candidate, champion, cfg)
    other = "" if champion is None else other_scans(candidate, champion)
    if champion is None or (other and withdrawn):
        decision = _alone(candidate, champion, other, cfg)
    elif other:
        reason = Reason("data", "", False, other)
        return _decision(candidate, champion, cfg, "score the champion again", (reason,), ())
    else:
        decision = _compare(candidate, champion, cfg)
    return _withdrawn(decision, cfg) if withdrawn else decision


def _same(candidate: ScoredVersion, champion: ScoredVersion, cfg: RegisterConfig) -> Decision:
    text = f"{candidate.name} has the very weights of the champion, {champion.name}: the champion stays."
    reasons = (Reason("identity", "", False, text), *note_on(candidate, cfg))
    rows = tuple(replace(row, verdict=_SAME) for row in _rows_alone(candidate, cfg))
    return _decision(candidate, champion, cfg, "cannot tell", reasons, rows)


def _alone(candidate: ScoredVersion, champion: ScoredVersion | None, other: str, cfg: RegisterConfig) -> Decision:
    """By floors and limits, without a comparison."""
    must = musts(candidate, cfg)
    holds = all(reason.holds for reason in must)
    last = Reason("data", "", False, other)
    if champion is None:
        last = Reason("champion", "", holds, "There is no champion yet: floors and limits alone decide.")
    verdict: Verdict = "promote" if holds and champion is None else "refuse"
    rows = (*_rows_alone(candidate, cfg), *limit_rows(candidate, champion, cfg))
    return _decision(candidate, champion, cfg, verdict, (*must, last), rows)


def _compare(candidate: ScoredVersion, champion: ScoredVersion, cfg: RegisterConfig) -> Decision:
    must = musts(candidate, cfg)
    paired = Paired.of(candidate, champion, cfg)
    subjects = paired.mean.subjects
    obstacle = _obstacle(paired, cfg)
    words = {name: OPEN if obstacle else paired.word(name) for name in SUBJECTS}

    verdict: Verdict = "cannot tell"
    if not all(reason.holds for reason in must) or WORSE in words.values():
        verdict = "refuse"
    elif words[MEAN] == BETTER and all(words[name] == NOT_WORSE for name in paired.classes):
        verdict = "promote"

    questions = (*(_non_inferior(name, paired) for name in paired.classes), _superior(paired))
    reasons = (*must, *obstacle, *questions)
    needed = None
    if verdict == "cannot tell" and not any(reason.check == "resamples" for reason in obstacle):
        needed = _needed(candidate, paired, questions, cfg)
        reasons = (*reasons, _undecided(subjects, needed))
    reasons = (*reasons, *note_on(champion, cfg))
    rows = tuple(_row(candidate, champion, name, paired, words[name], cfg) for name in SUBJECTS)
    decision = _decision(candidate, champion, cfg, verdict, reasons, (*rows, *limit_rows(candidate, champion, cfg)))
    return replace(decision, subjects=subjects, subjects_needed=needed)


def _withdrawn(decision: Decision, cfg: RegisterConfig) -> Decision:
    number = decision.candidate.rpartition(" ")[2]
    text = (
        f"{decision.candidate} was champion and was rolled back; a person may promote it: "
        f"sa2net promote {cfg.name} {number}."
    )
    reasons = (Reason("withdrawn", "", False, text), *decision.reasons)
    return replace(decision, verdict="refuse", reasons=reasons, subjects_needed=None)


def _decision(
    candidate: ScoredVersion,
    champion: ScoredVersion | None,
    cfg: RegisterConfig,
    verdict: Verdict,
    reasons: tuple[Reason, ...],
    table: tuple[Comparison, ...],
) -> Decision:
    return Decision(
        verdict=verdict,
        reasons=reasons,
        table=table,
        candidate=candidate.name,
        champion="" if champion is None else champion.name,
        champion_sha256="" if champion is None else champion.model_sha256,
        subjects=len(set(candidate.subjects)),
        subjects_needed=None,
        confidence=cfg.confidence,
        margin=cfg.margin,
        phantom=candidate.phantom,
    )


def _obstacle(paired: Paired, cfg: RegisterConfig) -> tuple[Reason, ...]:
    """Why no result on so many subjects, with so many resamples, could be significant; empty if one could."""
    scarcest = min(paired.pairs, key=lambda name: paired.pairs[name].subjects)
    subjects, least = paired.pairs[scarcest].subjects, _least_subjects(cfg)
    where = "" if scarcest == MEAN else f"{label_of(scarcest)}: "
    if subjects < least:
        text = f"{subjects} subjects are too few for {cfg.confidence:.0%} confidence, which needs at least {least}."
        return (Reason("subjects", scarcest if where else "", False, where + text),)
    if smallest_p_value(cfg.bootstrap_samples, subjects) > (1.0 - cfg.confidence) / len(CLASSES):
        text = (
            f"{cfg.bootstrap_samples} resamples are too few for {cfg.confidence:.0%} confidence with {subjects} "
            "subjects: raise register.bootstrap_samples."
        )
        return (Reason("resamples", "", False, text),)
    return ()


def _least_subjects(cfg: RegisterConfig) -> int:
    """Subjects below which no result could be significant.

    With n subjects an exact one-sided sign test has no p-value below 2**-n, and Holm asks the smallest one of the
    classes to be below (1 - confidence) / classes.
    """
    return math.ceil(math.log2(len(CLASSES) / (1.0 - cfg.confidence)) - 1e-9)


def _non_inferior(name: str, paired: Paired) -> Reason:
    word = paired.word(name)
    outcome, p_value = {
        NOT_WORSE: ("not worse by more than", paired.not_worse[name]),
        WORSE: ("worse by more than", paired.worse[name]),
        OPEN: ("it cannot be told whether worse by more than", paired.not_worse[name]),
    }[word]
    text = (
        f"{label_of(name)}: difference {paired.pairs[name].mean_difference:+.3f}, {outcome} the margin of "
        f"{paired.margin:.3f} (Holm p = {p_value:.3f}, allowed {1.0 - paired.confidence:.3f})."
    )
    return Reason("non-inferior", name, word == NOT_WORSE, text)


def _superior(paired: Paired) -> Reason:
    word, pair = paired.word(MEAN), paired.mean
    outcome = {BETTER: "better", WORSE: "worse", OPEN: "neither better nor worse"}[word]
    lower, upper = pair.lower_bound(paired.confidence), pair.upper_bound(paired.confidence)
    text = (
        f"{label_of(MEAN)}: difference {pair.mean_difference:+.3f}, {outcome} at {paired.confidence:.0%} confidence "
        f"(one-sided bounds {lower:+.3f} and {upper:+.3f}, {pair.subjects} subjects)."
    )
    return Reason("superior", MEAN, word == BETTER, text)


def _needed(candidate: ScoredVersion, paired: Paired, questions: tuple[Reason, ...], cfg: RegisterConfig) -> int | None:
    """Subjects that would settle every open question; None if one of them points the wrong way."""
    least = max(_least_subjects(cfg), paired.mean.subjects + 1)
    for reason in questions:
        if reason.holds:
            continue
        mean = reason.subject == MEAN
        number = subjects_needed(
            paired.differences[reason.subject],
            candidate.subjects,
            confidence=cfg.confidence if mean else 1.0 - (1.0 - cfg.confidence) / len(paired.classes),
            margin=0.0 if mean else cfg.margin,
        )
        if number is None:
            return None
        least = max(least, number)
    return least


def _undecided(subjects: int, needed: int | None) -> Reason:
    text = "More subjects would not help a candidate that is not ahead: the champion stays."
    if needed is not None:
        text = f"The champion stays; about {needed} subjects instead of {subjects} would tell."
    return Reason("undecided", "", False, text)


def _row(
    candidate: ScoredVersion, champion: ScoredVersion, name: str, paired: Paired, word: str, cfg: RegisterConfig
) -> Comparison:
    row = Comparison(
        subject=name,
        candidate=rounded(mean_of(candidate.column(name))),
        champion=rounded(mean_of(champion.column(name))),
        verdict=BELOW if floor_verdict(candidate, name, cfg) == BELOW else word,
        floor=float(getattr(cfg.floors, name)),
    )
    pair = paired.pairs.get(name)
    if pair is None:  # a class that no scan has
        return row
    return replace(
        row,
        difference=rounded(pair.mean_difference),
        lower=rounded(pair.lower_bound(cfg.confidence)),
        upper=rounded(pair.upper_bound(cfg.confidence)),
        p_value=rounded(pair.p_value(0.0) if name == MEAN else paired.not_worse[name]),
    )


def _rows_alone(candidate: ScoredVersion, cfg: RegisterConfig) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            subject=name,
            candidate=rounded(mean_of(candidate.column(name))),
            champion=None,
            verdict=floor_verdict(candidate, name, cfg),
            floor=float(getattr(cfg.floors, name)),
        )
        for name in SUBJECTS
    )
