"""Two models side by side on the same scans: what `sa2net compare` says, as plain values.

Unlike the gate this asks no question with an answer fixed beforehand: differences are second - first, tested from both
sides, and nothing is decided by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import SCORES, folder_sha256, read_scores
from sa2net.config import EvaluateConfig
from sa2net.evaluation.statistics import Interval, PairedBootstrap, holm, mean_interval, paired_bootstrap
from sa2net.registry import store
from sa2net.registry.decision import CLASSES, MEAN, SUBJECTS, Floats, ScoredVersion, rounded
from sa2net.registry.paired import other_scans, paired_columns
from sa2net.registry.scored import Evaluation, kept_evaluation
from sa2net.registry.versions import Version, fetch, find_number, resolve, with_alias

FIRST_BETTER, SECOND_BETTER, NO_DIFFERENCE = "A better", "B better", "no difference shown"


@dataclass(frozen=True)
class Contender:
    """One of the two models, or the scores of one.

    Attributes:
        label: What pages and tables call it: `sa2net 3`, or the start of the sha256 of a model folder.
        folder: Its model folder; that of its evaluation where it does not predict.
        model_sha256: Identity of the model, or of the label maps that were scored.
        kept: The evaluation that the registry keeps, or that was named; None where there is none.
        predicts: Whether there is a model that can be scored again and drawn.
    """

    label: str
    folder: Path
    model_sha256: str
    kept: Evaluation | None
    predicts: bool = True


def contender(address: str, scratch: Path) -> Contender:
    """Find a model and what is known of its scores.

    Args:
        address: A model folder, an evaluation folder, `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.
        scratch: Folder that takes the kept evaluation.

    Raises:
        ConfigError: None of these.
        StorageError: No such version, or it cannot be fetched.
    """
    if not address.startswith("models:") and (Path(address) / SCORES).is_file():
        scores = read_scores(Path(address) / SCORES)
        source = scores.inference.get("source", "scores")
        label = f"{source} {scores.model_sha256[:8]}"
        return Contender(label, Path(address), scores.model_sha256, Evaluation(Path(address), scores), predicts=False)
    folder = resolve(address)
    if not address.startswith("models:"):
        sha256 = folder_sha256(folder)
        return Contender(f"model {sha256[:8]}", folder, sha256, None)
    client = store.connect()
    with store.storage_errors(f"give {address}"):
        version = _version(client, address)
        if version is None:  # `resolve` found it a moment ago: an alias was removed meanwhile
            return Contender(address.removeprefix("models:/"), folder, folder_sha256(folder), None)
        folder = fetch(client, version)
        kept = kept_evaluation(client, version, scratch)
    return Contender(f"{version.name} {version.number}", folder, folder_sha256(folder), kept)


def why_not_kept(first: Contender, second: Contender) -> str:
    """Why the kept evaluations cannot be compared scan by scan; empty if they can."""
    if first.kept is None or second.kept is None:
        without = [item.label for item in (first, second) if item.kept is None]
        return f"no scores are kept of {' and '.join(without)}"
    ours, theirs = first.kept.of(first.label), second.kept.of(second.label)
    if any("source" in side.kept.scores.inference for side in (first, second) if side.kept is not None):
        theirs = replace(theirs, settings=ours.settings)  # how label maps came about is not known, and is no obstacle
    return other_scans(theirs, ours).rstrip(".")


def compared(first: Evaluation, second: Evaluation, labels: tuple[str, str], cfg: EvaluateConfig) -> dict[str, Any]:
    """Compare two evaluations of the same scans.

    Args:
        first: The evaluation of A.
        second: The evaluation of B.
        labels: What the two models are called.
        cfg: Confidence, resamples and seed of the intervals.

    Returns:
        The content of `compare.json`. `table`: the mean and each class, with Dice of both, the difference B - A, its
        two-sided p-value (Holm over the classes) and a word. `scans`: each scan with its change, largest first.
    """
    ours, theirs = first.of(labels[0]), second.of(labels[1])
    scores = second.scores
    return {
        "schema_version": 1,
        "first": {"label": labels[0], "model_sha256": ours.model_sha256},
        "second": {"label": labels[1], "model_sha256": theirs.model_sha256},
        "split": scores.split,
        "data_md5": scores.data_md5,
        "inference": _inference(first.scores.inference, scores.inference),
        "phantom": scores.phantom,
        "subjects": len(set(theirs.subjects)),
        "confidence": cfg.confidence,
        "bootstrap_samples": cfg.bootstrap_samples,
        "table": _table(ours, theirs, cfg),
        "scans": _scans(ours, theirs),
    }


def _inference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """How both were predicted; each by itself where they differ."""
    if first == second:
        return second
    return {
        side: ", ".join(f"{name} {value}" for name, value in sorted(how.items()))
        for side, how in (("A", first), ("B", second))
    }


def most_changed(document: Mapping[str, Any], count: int) -> list[str]:
    """Names of the scans whose Dice changed most, the largest change first; unchanged ones are left out."""
    return [row["name"] for row in document["scans"] if row.get("change")][:count]


def _version(client: Any, address: str) -> Version | None:
    name, _, alias = address.removeprefix("models:/").partition("@")
    if alias:
        return with_alias(client, name, alias)
    name, _, number = name.partition("/")
    return find_number(client, name, int(number))


def _table(first: ScoredVersion, second: ScoredVersion, cfg: EvaluateConfig) -> list[dict[str, Any]]:
    pairs = {
        name: paired_bootstrap(ours, theirs, second.subjects, samples=cfg.bootstrap_samples, seed=cfg.seed)
        for name, (ours, theirs) in paired_columns(second, first).items()
    }
    classes = [name for name in CLASSES if pairs[name].subjects > 0]
    adjusted = dict(zip(classes, holm([pairs[name].two_sided_p_value() for name in classes]), strict=True))
    adjusted[MEAN] = pairs[MEAN].two_sided_p_value()
    return [
        {
            "subject": name,
            "first": _estimate(_dice(first, name, cfg)),
            "second": _estimate(_dice(second, name, cfg)),
            "difference": _estimate(pairs[name].interval(cfg.confidence)),
            **({"p_value": rounded(adjusted[name])} if name in adjusted else {}),
            "says": _word(pairs[name], adjusted.get(name, 1.0), cfg),
        }
        for name in SUBJECTS
    ]


def _dice(version: ScoredVersion, name: str, cfg: EvaluateConfig) -> Interval:
    return mean_interval(
        version.column(name), version.subjects, samples=cfg.bootstrap_samples, confidence=cfg.confidence, seed=cfg.seed
    )


def _word(pair: PairedBootstrap, p_value: float, cfg: EvaluateConfig) -> str:
    if p_value > 1.0 - cfg.confidence or not pair.mean_difference:
        return NO_DIFFERENCE
    return SECOND_BETTER if pair.mean_difference > 0.0 else FIRST_BETTER


def _estimate(interval: Interval) -> dict[str, float]:
    """Value and ends of an interval; what is not known has no key."""
    found = {"value": rounded(interval.mean), "low": rounded(interval.low), "high": rounded(interval.high)}
    return {name: value for name, value in found.items() if value is not None}


def _scans(first: ScoredVersion, second: ScoredVersion) -> list[dict[str, Any]]:
    columns = paired_columns(second, first)
    theirs, ours = columns[MEAN]
    changes = theirs - ours
    rows = []
    for index in np.lexsort((np.array(second.scans), -np.nan_to_num(np.abs(changes), nan=-1.0))):
        row: dict[str, Any] = {
            "name": second.scans[index],
            "subject": second.subjects[index],
            "first": _at(first.column(MEAN), index),
            "second": _at(second.column(MEAN), index),
            "change": _at(changes, index),
            "classes": {
                item.name: _known(
                    {"first": _at(first.column(item.name), index), "second": _at(second.column(item.name), index)}
                )
                for item in FOREGROUND
            },
        }
        rows.append(_known(row))
    return rows


def _at(values: Floats, index: int) -> float | None:
    return rounded(float(values[index]))


def _known(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}
