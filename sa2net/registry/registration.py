"""Registering a scored model: version, decision, aliases - once, however often and wherever it is interrupted.

What was decided is written down before it is carried out, and that it was carried out is written down last. A repetition
therefore finds the version and makes none, finds the decision and repeats none, and finishes what was left open. A champion
that somebody chose by hand afterwards stays, since the decision is not carried out twice.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sa2net.artifacts import DECISION, RUN_JSON, read_model_info, write_json
from sa2net.config import RegisterConfig
from sa2net.registry import environment, promotion, scored, store, tracking
from sa2net.registry.decision import Decision, ScoredVersion
from sa2net.registry.gate import decide
from sa2net.registry.scored import APPLIED_TAG, Evaluation
from sa2net.registry.versions import Version, fetch, find_version, lock, register_version, set_version_tags

log = logging.getLogger(__name__)

Rescore = Callable[[Path, Path], None]
"""Scores a model folder (first) on today's data, as the candidate was scored, into a new folder (second)."""

_ATTEMPTS = 3


@dataclass(frozen=True)
class RegisterResult:
    """What became of a model.

    Attributes:
        name: Registered model.
        version: Its version.
        created: Whether the version is new.
        decided: Whether the decision is new; else it is the one that was made from the same things before.
        aliases: Aliases that point to the version now.
        decision: The content of `decision.json`.
        run_id: Run that made the decision.
    """

    name: str
    version: int
    created: bool
    decided: bool
    aliases: tuple[str, ...]
    decision: dict[str, Any]
    run_id: str

    @property
    def verdict(self) -> str:
        """What the gate says."""
        return str(self.decision["verdict"])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, as sentences."""
        return tuple(reason["text"] for reason in self.decision["reasons"])

    @property
    def uri(self) -> str:
        """Address of the version."""
        return f"models:/{self.name}/{self.version}"


def register(cfg: RegisterConfig, *, model: Path, evaluation: Path, out: Path, rescore: Rescore) -> RegisterResult:
    """Register a scored model folder and decide whether it becomes champion.

    Args:
        cfg: The register section.
        model: Model folder.
        evaluation: Evaluation folder of that model.
        out: Folder that takes `decision.json` and `run.json`.
        rescore: Scores the champion where its scores are of other data.

    Raises:
        DataError: A folder cannot be used, or they do not belong together.
        StorageError: The registry cannot be reached or refuses.
    """
    sha256 = scored.model_identity(model)
    read_model_info(model)
    candidate = Evaluation.read(evaluation, model_sha256=sha256)
    key = scored.decision_key(candidate, cfg)
    client = store.connect()
    with lock(cfg.name), store.storage_errors("register the model"):
        result = _repeated(client, cfg, sha256, key)
        if result is None:
            result = _register(client, cfg, model, candidate, key, out, rescore)
        else:
            run = {"schema_version": 1, "step": "register", "run_id": result.run_id, "version": result.version}
            if not (out / RUN_JSON).exists():
                write_json(out / RUN_JSON, run)
    write_json(out / DECISION, result.decision)
    log.info("%s: %s; aliases: %s", result.uri, result.verdict, ", ".join(result.aliases) or "none")
    return result


def _repeated(client: MlflowClient, cfg: RegisterConfig, sha256: str, key: str) -> RegisterResult | None:
    """What an earlier registration from the same things came to; None if there was none."""
    version = find_version(client, cfg.name, sha256)
    decision = None if version is None else scored.kept_decision(client, version, key)
    if version is None or decision is None:
        return None
    if version.tags.get(APPLIED_TAG) != key:  # interrupted after it was written down
        _apply(client, cfg, version, str(decision["verdict"]), key)
    return _result(client, version, decision, decided=False, run_id=version.tags[scored.DECISION_RUN_TAG])


def _register(
    client: MlflowClient,
    cfg: RegisterConfig,
    model: Path,
    candidate: Evaluation,
    key: str,
    out: Path,
    rescore: Rescore,
) -> RegisterResult:
    facts = environment.describe()
    tags = {"sa2net.data_md5": candidate.scores.data_md5}
    with tracking.step_run("register", params=cfg.model_dump(mode="json"), tags=tags) as tracker:
        if not tracker.run_id:
            store.connect()  # says what is wrong
            raise ConnectionError("the MLflow server went away while the run was started")
        tracker.log_headline(candidate.headline())
        known = {
            **candidate.tags(),
            "revision": facts.revision.commit,
            "dirty": str(facts.revision.dirty).lower(),
            "training_run": scored.run_of(client, model, "train"),
            "evaluation_run": scored.run_of(client, candidate.folder, "evaluate"),
            "register_run": tracker.run_id,
        }
        version = register_version(client, model, name=cfg.name, run_id=tracker.run_id, tags=known)
        promotion.make_candidate(client, version)
        decision = _decide(client, cfg, version, candidate, tracker.run_id, rescore)
        scored_tags = scored.keep_evaluation(client, tracker.run_id, candidate, "evaluation")
        document = {
            **decision.to_dict(),
            "name": cfg.name,
            "version": version.number,
            "model_sha256": version.model_sha256,
            "data_md5": candidate.scores.data_md5,
            "split": candidate.scores.split,
        }
        decision_tags = scored.keep_decision(client, tracker.run_id, document, key)
        text = scored.describe(candidate, decision, facts.revision.commit)
        client.update_model_version(cfg.name, str(version.number), description=text)
        set_version_tags(client, version, {**known, **scored_tags, **decision_tags})
        _apply(client, cfg, version, decision.verdict, key)
        tracker.set_tags({"sa2net.version": f"{cfg.name}/{version.number}", "sa2net.verdict": decision.verdict})
        environment.write_run_json(out, tracker, version=version.number)
        return _result(client, version, document, decided=True, run_id=tracker.run_id)


def _decide(
    client: MlflowClient,
    cfg: RegisterConfig,
    version: Version,
    candidate: Evaluation,
    run_id: str,
    rescore: Rescore,
) -> Decision:
    """Ask the gate, again if the champion changed meanwhile (another machine promoted one)."""
    name = f"version {version.number}"
    for _ in range(_ATTEMPTS):
        champion = promotion.with_alias(client, cfg.name, promotion.CHAMPION)
        decision = decide(candidate.of(name), _champion_scores(client, champion), cfg)
        if decision.verdict == "score the champion again" and champion is not None:
            log.info("%s The champion is scored again.", decision.reasons[0].text)
            decision = decide(candidate.of(name), _score_again(client, champion, run_id, rescore), cfg)
        now = promotion.with_alias(client, cfg.name, promotion.CHAMPION)
        if (now and now.number) == (champion and champion.number):
            break
    return decision


def _champion_scores(client: MlflowClient, champion: Version | None) -> ScoredVersion | None:
    if champion is None:
        return None
    name = f"version {champion.number}"
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        kept = scored.kept_evaluation(client, champion, Path(scratch))
        if kept is not None:
            return kept.of(name)
    # Nothing is known of it: an empty table of no data set, which the gate takes for other data.
    return ScoredVersion.from_rows([], name=name, model_sha256=champion.model_sha256, data_md5="", split="")


def _score_again(client: MlflowClient, champion: Version, run_id: str, rescore: Rescore) -> ScoredVersion:
    folder = fetch(client, champion)
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        fresh = Path(scratch) / "evaluation"
        rescore(folder, fresh)
        evaluation = Evaluation.read(fresh, model_sha256=scored.model_identity(folder))
        tags = scored.keep_evaluation(client, run_id, evaluation, "champion")
        set_version_tags(client, champion, tags)
        return evaluation.of(f"version {champion.number}")


def _apply(client: MlflowClient, cfg: RegisterConfig, version: Version, verdict: str, key: str) -> None:
    """Carry a decision out; may be repeated."""
    promotion.make_candidate(client, version)
    if verdict == "promote" and cfg.promote:
        promotion.make_champion(client, version)
    set_version_tags(client, version, {APPLIED_TAG: key})


def _result(
    client: MlflowClient, version: Version, decision: dict[str, Any], *, decided: bool, run_id: str
) -> RegisterResult:
    aliases = promotion.aliases_of(client, version)
    return RegisterResult(version.name, version.number, version.created, decided, aliases, decision, run_id)
