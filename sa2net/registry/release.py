"""What the release owner does by hand: promote with the gate's consent or against it, approve, go back."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from sa2net.config import RegisterConfig
from sa2net.errors import ConfigError, NegativeAnswerError, StorageError
from sa2net.registry import promotion, scored, store, tracking
from sa2net.registry.audit import Entry, Log
from sa2net.registry.judgement import Judge, Rescore, told
from sa2net.registry.ledger import Ledger, Proposal
from sa2net.registry.versions import Version, fetch, find_number, lock

ACTION_WORDS = {
    "promote": "is champion",
    "override": "is champion, against the gate",
    "request": "waits for approval",
    "decide": "is not promoted",
    "rollback": "is champion again",
}


@dataclass(frozen=True)
class Release:
    """What came of a command.

    Attributes:
        version: The version that it was about.
        entry: The entry in the audit log.
        decision: What the gate said; empty where it was not asked.
    """

    version: Version
    entry: Entry
    decision: dict[str, Any]

    def sentence(self) -> str:
        """What became of the version."""
        return f"{self.version.name} {self.version.number} {ACTION_WORDS[self.entry.action]}"


def promote(cfg: RegisterConfig, number: int, *, rescore: Rescore, reason: str = "", against: bool = False) -> Release:
    """Ask the gate about a version now, and make it champion if it says so.

    Args:
        cfg: The register section; `promote` is taken for granted, since a person asks.
        number: The version.
        rescore: Scores the champion where its scores are of other data.
        reason: Why; needed for `against`.
        against: Make it champion whatever the gate says, recorded as an override.

    Raises:
        ConfigError: An override without a reason.
        NegativeAnswerError: It is champion already.
        StorageError: No such version, or nothing is known of its scores.
    """
    if against and not reason.strip():
        raise ConfigError("an override needs a reason", action='Give one: --override --reason "why".')
    cfg = cfg.model_copy(update={"promote": True})
    client = store.connect()
    with lock(cfg.name), store.storage_errors("promote a version"):
        version = _version(client, cfg.name, number)
        fetch(client, version)  # what cannot be had must not become champion
        params = {**cfg.model_dump(mode="json"), "version": number, "override": against}
        with tracking.step_run("promote", params=params) as tracker, tempfile.TemporaryDirectory() as scratch:
            if not tracker.run_id:
                store.connect()  # says what is wrong
            candidate = scored.kept_evaluation(client, version, Path(scratch))
            if candidate is None:
                raise StorageError(
                    f"nothing is known of the scores of {version.uri}",
                    action="Evaluate it and register it again: `sa2net evaluate --model MODEL`, `sa2net register`.",
                )
            judge = Judge(client, cfg, version, candidate, run_id=tracker.run_id, rescore=rescore)
            ledger = _ledger(client, cfg)
            document: dict[str, Any] = {}

            def propose(found: Log) -> Proposal:
                if found.state.champion == number:
                    raise NegativeAnswerError(
                        f"{version.uri} is champion already", action=f"Look at `sa2net registry {cfg.name}`."
                    )
                decision = judge.decide(found, by_hand=True)
                document.clear()
                document.update(judge.document(decision) | {"by": ledger.by, "reason": reason, "override": against})
                noted = _keep(client, tracker.run_id, document)
                if against:
                    return promotion.override(found, number, decision.verdict, cfg, noted)
                return promotion.after_decision(found, number, decision.verdict, cfg, noted)

            placed = ledger.append(propose)
            assert placed is not None  # noqa: S101 - `propose` always proposes
            tracker.set_tags({"sa2net.version": f"{cfg.name}/{number}", "sa2net.verdict": document["verdict"]})
            return Release(version, placed.entry, dict(document))


def approve(cfg: RegisterConfig, number: int) -> Release:
    """Sign the request for a version, and make it champion.

    Raises:
        ConfigError: No key, or one that may not approve this.
        NegativeAnswerError: Nothing waits for approval.
        StorageError: No such version.
    """
    client = store.connect()
    with lock(cfg.name), store.storage_errors("approve a version"):
        version = _version(client, cfg.name, number)
        fetch(client, version)
        placed = _ledger(client, cfg).append(lambda found: promotion.approval(found, number, cfg))
        assert placed is not None  # noqa: S101 - an approval is always proposed
        return Release(version, placed.entry, {})


def rollback(cfg: RegisterConfig, *, reason: str = "") -> Release:
    """Go back to the champion before; called again, further back.

    Args:
        cfg: The register section.
        reason: Why; may be empty.

    Raises:
        NegativeAnswerError: There was no champion before.
        StorageError: The version before is not what was registered.
    """
    client = store.connect()
    with lock(cfg.name), store.storage_errors("go back"):
        chosen: list[Version] = []

        def propose(found: Log) -> Proposal:
            for number in reversed(found.champions()[:-1]):
                version = find_number(client, cfg.name, number)
                if version is not None:
                    fetch(client, version)
                    chosen[:] = [version]
                    return promotion.rollback(found, number, reason)
            raise NegativeAnswerError(
                f"{cfg.name} has no champion to go back to",
                evidence=f"champion {found.state.champion or 'none'}, none before it",
                action=f"Choose a version of `sa2net registry {cfg.name}` and promote it.",
            )

        placed = _ledger(client, cfg).append(propose)
        assert placed is not None  # noqa: S101 - `propose` proposes or raises
        return Release(chosen[0], placed.entry, {})


def _ledger(client: MlflowClient, cfg: RegisterConfig) -> Ledger:
    return Ledger(client, cfg.name, signers=cfg.signers, alone=True)


def _version(client: MlflowClient, name: str, number: int) -> Version:
    version = find_number(client, name, number)
    if version is None:
        raise StorageError(
            f"there is no version {number} of {name}",
            evidence=f"registry {store.public_uri(store.registry_uri())}",
            action=f"Name one of `sa2net registry {name}`.",
        )
    return version


def _keep(client: MlflowClient, run_id: str, document: dict[str, Any]) -> dict[str, Any]:
    scored.keep_decision(client, run_id, document, "")
    return {**told(document, run_id), "reason": document["reason"]}
