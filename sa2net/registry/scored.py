"""Scores of versions, from an evaluation folder or from the registry, and decisions as they are kept there.

The run that registers a model keeps the table of Dice per scan, so that a later challenger can be compared with it scan
by scan, and the decision. The version's tags say which run that is.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import (
    DECISION,
    PER_SCAN,
    SCORES,
    TIMING_JSON,
    Estimate,
    Scores,
    file_sha256,
    folder_sha256,
    read_json,
    read_per_scan,
    read_scores,
)
from sa2net.config import RegisterConfig
from sa2net.errors import DataError
from sa2net.registry import decision_page, store
from sa2net.registry.decision import AngleAgreement, Decision, ScoredVersion
from sa2net.registry.versions import Version

SCORED_RUN_TAG = "scored_run"
SCORED_PATH_TAG = "scored_path"
DECISION_KEY_TAG = "decision_key"
DECISION_RUN_TAG = "decision_run"
DECISION_TAG = "decision"
APPLIED_TAG = "decision_applied"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation folder.

    Attributes:
        folder: Where it lies.
        scores: Its `scores.json`.
    """

    folder: Path
    scores: Scores

    @classmethod
    def read(cls, folder: Path, *, model_sha256: str) -> "Evaluation":
        """Read an evaluation folder.

        Raises:
            DataError: It cannot be read, or is of another model.
        """
        scores = read_scores(folder / SCORES)
        if scores.model_sha256 != model_sha256:
            raise DataError(
                f"{folder} is not an evaluation of this model",
                evidence=f"scored {scores.model_sha256[:12]}, given {model_sha256[:12]}",
                action="Run `sa2net evaluate` with this model folder.",
            )
        return cls(folder, scores)

    def of(self, name: str) -> ScoredVersion:
        """What the gate reads."""
        scores = self.scores
        return ScoredVersion.from_rows(
            read_per_scan(self.folder / PER_SCAN),
            name=name,
            model_sha256=scores.model_sha256,
            data_md5=scores.data_md5,
            split=scores.split,
            settings=json.dumps(scores.inference, sort_keys=True),
            calibration_error=scores.calibration.ece,
            seconds_per_scan=self.seconds_per_scan(),
            phantom=scores.phantom,
            angles=self.angles(),
        )

    def angles(self) -> AngleAgreement:
        """Agreement of the angles; NaN where it is not in `scores.json`."""
        found = self.scores.angles
        if found is None:
            return AngleAgreement()
        return AngleAgreement(
            mad=math.nan if found.mad is None else found.mad.value,
            icc=math.nan if found.icc is None else found.icc.value,
            refused=math.nan if found.refused_share is None else found.refused_share,
        )

    def seconds_per_scan(self) -> float:
        """Median time of a prediction, s; NaN where `timing.json` is not there (DVC restores a folder without it).

        Raises:
            DataError: The file is there and cannot be used.
        """
        path = self.folder / TIMING_JSON
        if not path.is_file():
            return math.nan
        try:
            return float(read_json(path)["seconds_per_scan"]["median"])
        except (KeyError, TypeError, ValueError) as error:
            action = "Run `sa2net evaluate` again, or remove the file."
            raise DataError(f"{path} holds no time of a scan", evidence=repr(error), action=action) from error

    def tags(self) -> dict[str, str]:
        """Scores as tags of a version."""
        estimates = {"mean": self.scores.mean.dice}
        estimates |= {item.name: self.scores.per_class[item.name].dice for item in FOREGROUND}
        tags = {
            "data_md5": self.scores.data_md5,
            "split": self.scores.split,
            "phantom": str(self.scores.phantom).lower(),
        }
        for name, estimate in estimates.items():
            if estimate is not None:
                tags |= _estimate_tags(f"dice_{name}", estimate)
        known = vars(self.angles())
        return tags | {f"angle_{name}": f"{value:.4f}" for name, value in known.items() if not math.isnan(value)}

    def headline(self) -> dict[str, float]:
        """The numbers by which executions are compared."""
        found = {"dice_mean": self.scores.mean.dice}
        found |= {f"dice_{item.name}": self.scores.per_class[item.name].dice for item in FOREGROUND}
        return {name: estimate.value for name, estimate in found.items() if estimate is not None}


_DECIDES_NOTHING = frozenset(("promote", "require_approval", "approvers", "signers"))
"""Settings of who may carry a decision out, and whether that is done: they change no decision."""


def decision_key(evaluation: Evaluation, cfg: RegisterConfig) -> str:
    """Identity of everything that a decision is made from, except for the champion."""
    parts = [
        evaluation.scores.model_sha256,
        file_sha256(evaluation.folder / SCORES),
        file_sha256(evaluation.folder / PER_SCAN),
        cfg.model_dump_json(exclude=set(_DECIDES_NOTHING)),
    ]
    if cfg.max_seconds_per_scan > 0.0:
        parts.append(repr(evaluation.seconds_per_scan()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def keep_evaluation(client: MlflowClient, run_id: str, evaluation: Evaluation, path: str) -> dict[str, str]:
    """Store the tables of an evaluation, and its times where they are known, with a run.

    Returns:
        The tags by which a version points to them.
    """
    for name in (SCORES, PER_SCAN, TIMING_JSON):
        if name != TIMING_JSON or (evaluation.folder / name).is_file():
            client.log_artifact(run_id, str(evaluation.folder / name), path)
    return {SCORED_RUN_TAG: run_id, SCORED_PATH_TAG: path}


def kept_evaluation(client: MlflowClient, version: Version, scratch: Path) -> Evaluation | None:
    """The evaluation that a version points to; None if it is gone or of other weights."""
    run_id, path = version.tags.get(SCORED_RUN_TAG, ""), version.tags.get(SCORED_PATH_TAG, "")
    if not run_id or not path:
        return None
    try:
        folder = Path(client.download_artifacts(run_id, path, str(scratch)))
        return Evaluation.read(folder, model_sha256=version.model_sha256)
    except DataError:
        return None
    except Exception as error:
        if store.is_gone(error) or isinstance(error, OSError):
            return None
        raise


def keep_decision(client: MlflowClient, run_id: str, decision: Mapping[str, Any], key: str) -> dict[str, str]:
    """Store a decision with a run, as JSON and as a page.

    Returns:
        The tags by which a version points to it, and that hold it.
    """
    client.log_dict(run_id, dict(decision), DECISION)
    client.log_text(run_id, decision_page.render(decision), decision_page.FILE)
    return decision_tags(decision, run_id, key)


def decision_tags(decision: Mapping[str, Any], run_id: str, key: str) -> dict[str, str]:
    """A decision as tags of a version, whole, so that it outlives its run.

    The key comes last: where setting the tags is interrupted, no key stands beside another decision.
    """
    return {
        "verdict": str(decision["verdict"]),
        DECISION_RUN_TAG: run_id,
        DECISION_TAG: json.dumps(decision, sort_keys=True, allow_nan=False),
        DECISION_KEY_TAG: key,
    }


def kept_decision(client: MlflowClient, version: Version, key: str) -> dict[str, Any] | None:
    """The decision that was made from the same things before; None if there is none."""
    if version.tags.get(DECISION_KEY_TAG) != key:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            return read_json(Path(client.download_artifacts(version.tags[DECISION_RUN_TAG], DECISION, scratch)))
    except (DataError, KeyError):
        return _tagged_decision(version)
    except Exception as error:
        if store.is_gone(error) or isinstance(error, OSError):
            return _tagged_decision(version)
        raise


def _tagged_decision(version: Version) -> dict[str, Any] | None:
    """The decision that a version carries itself, where the run that made it is gone; None if it carries none."""
    try:
        content = json.loads(version.tags.get(DECISION_TAG, ""))
    except ValueError:
        return None
    return content if isinstance(content, dict) and "verdict" in content else None


def describe(evaluation: Evaluation, decision: Decision, revision: str) -> str:
    """What the registry's page says of a version, in Markdown."""
    scores = evaluation.scores
    kind = "phantoms" if scores.phantom else "scans"
    lines = [
        f"**{decision.verdict}** - scored on {scores.scans} {kind} of {scores.subjects} subjects ({scores.split} split, "
        f"data {scores.data_md5[:12]}); code {revision[:12] or 'unknown'}.",
        "",
        f"| class | Dice | {scores.confidence:.0%} interval |",
        "|---|---|---|",
    ]
    rows = [("mean", scores.mean.dice), *((item.label, scores.per_class[item.name].dice) for item in FOREGROUND)]
    for label, estimate in rows:
        if estimate is not None:
            interval = "" if estimate.low is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
            lines.append(f"| {label} | {estimate.value:.3f} | {interval} |")
    lines += _angle_lines(scores, kind)
    return "\n".join([*lines, "", *(f"- {reason.text}" for reason in decision.reasons)])


def _angle_lines(scores: Scores, kind: str) -> list[str]:
    """A sentence on angles; empty where no truth was known."""
    angles = scores.angles
    if angles is None:
        return []
    said = f"Angles of {angles.pairs} {kind}"
    if angles.mad is not None:
        said += f": mean absolute difference {angles.mad.value:.1f} degrees"
    if angles.icc is not None:
        said += f", ICC(2,1) {angles.icc.value:.3f}"
    return ["", f"{said}; {angles.refused} of {angles.compared} with a curve were refused an angle."]


def model_identity(model: Path) -> str:
    """The sha256 of a model folder.

    Raises:
        DataError: There is no such folder.
    """
    if not model.is_dir():
        raise DataError(f"{model} is not a model folder", action="Run `sa2net train`, or name the right folder.")
    return folder_sha256(model)


def _estimate_tags(name: str, estimate: Estimate) -> dict[str, str]:
    tags = {name: f"{estimate.value:.4f}"}
    if estimate.low is not None and estimate.high is not None:
        tags |= {f"{name}_low": f"{estimate.low:.4f}", f"{name}_high": f"{estimate.high:.4f}"}
    return tags
