"""Registering a scored model: version, decision, aliases - once, however often and wherever it is interrupted.

What was decided is kept with the run first; the entry in the audit log then carries it out. A repetition finds the version
and makes none, and finds the entry and repeats none. A champion that somebody chose by hand afterwards stays, since a
decision is not carried out twice.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sa2net.artifacts import DECISION, RUN_JSON, read_model_info, write_json
from sa2net.config import RegisterConfig
from sa2net.registry import environment, promotion, provenance, scored, store, tracking
from sa2net.registry.audit import Log
from sa2net.registry.decision import Decision
from sa2net.registry.judgement import FIRST_SCORES, Judge, Rescore, told
from sa2net.registry.ledger import Ledger, Proposal
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version, find_version, lock, register_version, set_version_tags

__all__ = ["RegisterResult", "Rescore", "register"]

log = logging.getLogger(__name__)


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
        ledger = Ledger(client, cfg.name, signers=cfg.signers, alone=True)
        result = _repeated(client, ledger, cfg, sha256, key)
        if result is None:
            result = _register(client, ledger, cfg, model, candidate, key, out, rescore)
        elif not (out / RUN_JSON).exists():
            run = {"schema_version": 1, "step": "register", "run_id": result.run_id, "version": result.version}
            write_json(out / RUN_JSON, run)
    write_json(out / DECISION, result.decision)
    log.info("%s: %s; aliases: %s", result.uri, result.verdict, ", ".join(result.aliases) or "none")
    return result


def _repeated(
    client: MlflowClient, ledger: Ledger, cfg: RegisterConfig, sha256: str, key: str
) -> RegisterResult | None:
    """What an earlier registration from the same things came to; None if there was none."""
    version = find_version(client, ledger.name, sha256)
    decision = None if version is None else scored.kept_decision(client, version, key)
    if version is None or decision is None or not _is_carried_out(ledger.settled(), version, key, cfg):
        return None
    return _result(client, version, decision, decided=False, run_id=version.tags[scored.DECISION_RUN_TAG])


def _is_carried_out(found: Log, version: Version, key: str, cfg: RegisterConfig) -> bool:
    """Whether the log knows the decision; one to promote that was only noted does not count once it may move something."""
    return any(
        entry.facts.get("decision_key") == key
        and not (cfg.promote and entry.action == "decide" and entry.facts.get("verdict") == "promote")
        for entry in found.about(version.number)
    )


def _register(
    client: MlflowClient,
    ledger: Ledger,
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
            "register_run": tracker.run_id,
        }
        version = register_version(client, model, name=cfg.name, run_id=tracker.run_id, tags=known)
        known |= scored.keep_evaluation(client, tracker.run_id, candidate, FIRST_SCORES)
        section = cfg.model_dump(mode="json")
        known |= provenance.keep(client, tracker.run_id, model=model, evaluation=candidate.folder, register=section)
        said = version.tags if version.created else {}  # by nobody else, and a request less each
        set_version_tags(client, version, {name: text for name, text in known.items() if said.get(name) != text})
        judge = Judge(client, cfg, version, candidate, run_id=tracker.run_id, rescore=rescore)
        document: dict[str, Any] = {}

        def propose(found: Log) -> Proposal:
            decision = judge.decide(found)
            document.clear()
            document.update(judge.document(decision))
            noted = _keep(client, version, candidate, decision, document, key, tracker.run_id, facts.revision.commit)
            return promotion.after_decision(found, version.number, decision.verdict, cfg, noted)

        ledger.append(propose)
        tracker.set_tags({"sa2net.version": f"{cfg.name}/{version.number}", "sa2net.verdict": document["verdict"]})
        head = ledger.read()
        seen = {"audit_count": len(head.chain), "audit_head": head.head_hash}
        environment.write_run_json(out, tracker, version=version.number, **seen)
        return _result(client, version, document, decided=True, run_id=tracker.run_id)


def _keep(
    client: MlflowClient,
    version: Version,
    candidate: Evaluation,
    decision: Decision,
    document: dict[str, Any],
    key: str,
    run_id: str,
    revision: str,
) -> dict[str, Any]:
    """Write a decision down; return what the audit log says of it."""
    tags = scored.keep_decision(client, run_id, document, key)
    text = scored.describe(candidate, decision, revision)
    client.update_model_version(version.name, str(version.number), description=text)
    set_version_tags(client, version, tags)
    return {**told(document, run_id), "decision_key": key}


def _result(
    client: MlflowClient, version: Version, decision: dict[str, Any], *, decided: bool, run_id: str
) -> RegisterResult:
    aliases = promotion.aliases_of(client, version)
    return RegisterResult(version.name, version.number, version.created, decided, aliases, decision, run_id)
