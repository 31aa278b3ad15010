"""Asking the gate about a version: with the kept scores of the champion, or with fresh ones where these do not fit."""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sa2net.artifacts import Scores
from sa2net.config import RegisterConfig
from sa2net.registry import scored
from sa2net.registry.audit import Log, digest
from sa2net.registry.decision import Decision, Reason, ScoredVersion
from sa2net.registry.gate import decide
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version, fetch, find_number, set_version_tags

log = logging.getLogger(__name__)

Rescore = Callable[[Path, Path, Scores], None]
"""Scores a model folder (first) on today's data into a new folder (second), as the candidate was (third)."""

EVALUATOR_TAG = "evaluator_sha256"
"""Tag of a version: the code that made its first scores."""
FIRST_SCORES = "evaluation"
"""Folder of the registering run with the scores that a version came with; a champion's later ones lie in `champion`."""


class Judge:
    """Asks the gate about one version, again for each champion that it meets."""

    def __init__(
        self,
        client: MlflowClient,
        cfg: RegisterConfig,
        version: Version,
        candidate: Evaluation,
        *,
        run_id: str,
        rescore: Rescore,
    ) -> None:
        """Take what is needed.

        Args:
            client: The store.
            cfg: The register section.
            version: The version in question.
            candidate: Its evaluation.
            run_id: Run that keeps fresh scores of a champion.
            rescore: Scores a champion whose scores are of other data.
        """
        self._client, self._cfg, self._version, self._candidate = client, cfg, version, candidate
        self._run_id, self._rescore = run_id, rescore

    def decide(self, found: Log, *, by_hand: bool = False) -> Decision:
        """Compare the version with the champion that the log names.

        Args:
            found: The log.
            by_hand: A person asks, who may bring back what was rolled back.
        """
        champion = find_number(self._client, self._cfg.name, found.state.champion)
        withdrawn = not by_hand and self._version.number in found.withdrawn()
        candidate = self._candidate.of(f"version {self._version.number}")
        decision = decide(candidate, self._kept(champion), self._cfg, withdrawn=withdrawn)
        if decision.verdict == "score the champion again" and champion is not None:
            log.info("%s The champion is scored again.", decision.reasons[0].text)
            return decide(candidate, self._score_again(champion), self._cfg, withdrawn=withdrawn)
        return replace(decision, reasons=(*decision.reasons, *self._evaluators(champion)))

    def _evaluators(self, champion: Version | None) -> tuple[Reason, ...]:
        """A note if the kept scores of the champion were made by other code than those of the candidate."""
        mine = find_number(self._client, self._cfg.name, self._version.number)
        if champion is None or mine is None or champion.number == mine.number:
            return ()
        theirs, ours = (version.tags.get(EVALUATOR_TAG, "") for version in (champion, mine))
        if not theirs or not ours or theirs == ours or champion.tags.get(scored.SCORED_PATH_TAG) != FIRST_SCORES:
            return ()
        text = (
            f"version {champion.number} was scored by other code ({theirs[:12]}) than version {mine.number} ({ours[:12]}): "
            "if that code counts otherwise, evaluate both again and compare them with `sa2net compare`."
        )
        return (Reason("note", "", True, text),)

    def document(self, decision: Decision) -> dict[str, Any]:
        """The content of `decision.json`."""
        return {
            **decision.to_dict(),
            "name": self._version.name,
            "version": self._version.number,
            "model_sha256": self._version.model_sha256,
            "data_md5": self._candidate.scores.data_md5,
            "split": self._candidate.scores.split,
        }

    def _kept(self, champion: Version | None) -> ScoredVersion | None:
        if champion is None:
            return None
        name = f"version {champion.number}"
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            kept = scored.kept_evaluation(self._client, champion, Path(scratch))
            if kept is not None:
                return kept.of(name)
        # Nothing is known of it: an empty table of no data set, which the gate takes for other data.
        return ScoredVersion.from_rows([], name=name, model_sha256=champion.model_sha256, data_md5="", split="")

    def _score_again(self, champion: Version) -> ScoredVersion:
        folder = fetch(self._client, champion)
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            fresh = Path(scratch) / "evaluation"
            self._rescore(folder, fresh, self._candidate.scores)
            evaluation = Evaluation.read(fresh, model_sha256=scored.model_identity(folder))
            tags = scored.keep_evaluation(self._client, self._run_id, evaluation, "champion")
            set_version_tags(self._client, champion, tags)
            return evaluation.of(f"version {champion.number}")


def told(document: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """What the audit log says of a decision: where it is kept, its hash, and what spoke against."""
    return {
        "decision_run": run_id,
        "decision_sha256": digest(json.dumps(document, sort_keys=True)),
        "against": [reason["text"] for reason in document["reasons"] if not reason["holds"]],
    }
