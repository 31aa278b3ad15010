"""What becomes of the aliases: pure rules from the log as it is to the entry that comes next.

`champion` is the version in use, `previous` the one that a rollback goes to, `challenger` one that contends for the place (the
scans could not tell, or it waits for approval), `candidate` the newest that was decided on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow import MlflowClient

from sa2net.config import RegisterConfig
from sa2net.errors import ConfigError, NegativeAnswerError
from sa2net.registry import keys
from sa2net.registry.audit import ALIASES, Log, Placed, State
from sa2net.registry.ledger import Proposal
from sa2net.registry.versions import Version, with_alias

CHAMPION = "champion"
PREVIOUS = "previous"

__all__ = ["ALIASES", "CHAMPION", "PREVIOUS", "after_decision", "aliases_of", "approval", "rollback", "with_alias"]


def aliases_of(client: MlflowClient, version: Version) -> tuple[str, ...]:
    """Our aliases that point to a version."""
    found = client.get_registered_model(version.name).aliases
    return tuple(alias for alias in ALIASES if str(found.get(alias, "")) == str(version.number))


def after_decision(log: Log, number: int, verdict: str, cfg: RegisterConfig, facts: Mapping[str, Any]) -> Proposal:
    """What follows from the gate's verdict on a version.

    Args:
        log: As it is.
        number: The version.
        verdict: What the gate says.
        cfg: Whether the champion may move, and whether that wants approval.
        facts: What the entry says of the decision.
    """
    state = replace(log.state, candidate=max(log.state.candidate, number))
    facts = {**facts, "verdict": verdict}
    if verdict == "promote" and cfg.promote and not cfg.require_approval:
        return Proposal("promote", number, _enthroned(state, number), facts)
    if verdict == "promote" and cfg.promote:
        return Proposal("request", number, replace(state, challenger=number), facts)
    if verdict in ("promote", "cannot tell") and number != state.champion:
        return Proposal("decide", number, replace(state, challenger=number), facts)
    if verdict == "refuse" and state.challenger == number:
        state = replace(state, challenger=0)
    return Proposal("decide", number, state, facts)


def override(log: Log, number: int, verdict: str, cfg: RegisterConfig, facts: Mapping[str, Any]) -> Proposal:
    """What follows from a person's word against the gate; that wants approval too where any does."""
    facts = {**facts, "verdict": verdict, "override": True}
    if cfg.require_approval:
        return Proposal("request", number, replace(log.state, challenger=number), facts)
    return Proposal("override", number, _enthroned(log.state, number), facts)


def rollback(log: Log, number: int, reason: str) -> Proposal:
    """Back to an earlier champion.

    Args:
        log: As it is.
        number: One of `log.champions()`, not the last.
        reason: Why; may be empty.
    """
    earlier = log.champions()
    before = earlier[: earlier.index(number)]
    state = replace(log.state, champion=number, previous=before[-1] if before else 0)
    return Proposal("rollback", number, state, {"reason": reason, "from": log.state.champion})


def pending_request(log: Log, number: int) -> Placed | None:
    """The request for a version that still waits: nothing was decided on it, and no champion made, since."""
    for placed in reversed(log.chain):
        entry = placed.entry
        if entry.action == "request" and entry.version == number:
            return placed
        if entry.state.champion != log.state.champion or entry.version == number:
            return None
    return None


def approval(log: Log, number: int, cfg: RegisterConfig) -> Proposal:
    """What follows when a second person approves.

    Args:
        log: As it is.
        number: The version.
        cfg: Who may approve.

    Raises:
        ConfigError: No key, or one that may not approve this.
        NegativeAnswerError: Nothing waits for approval.
    """
    request = pending_request(log, number)
    if request is None:
        raise NegativeAnswerError(
            f"no request for version {number} waits for approval",
            evidence=f"champion {log.state.champion or 'none'}, challenger {log.state.challenger or 'none'}",
            action="Ask for it first: `sa2net promote NAME VERSION --require-approval`.",
        )
    if request.entry.state.champion != log.state.champion:
        raise NegativeAnswerError(
            f"version {number} was compared with another champion",
            evidence=f"then {request.entry.state.champion or 'none'}, now {log.state.champion or 'none'}",
            action="Ask again: `sa2net promote NAME VERSION --require-approval`.",
        )
    signed = _signature(request, cfg)
    facts = {name: value for name, value in request.entry.facts.items() if name != "reason"}
    action = "override" if facts.get("override") else "promote"
    return Proposal(action, number, _enthroned(log.state, number), {**facts, "approval": signed})


def _signature(request: Placed, cfg: RegisterConfig) -> dict[str, str]:
    key = keys.approval_key()
    public = keys.public_text(key)
    name = keys.owner(public, cfg.approvers)
    if not name:
        raise ConfigError(
            f"the key in {keys.APPROVAL_KEY} may not approve",
            evidence=f"register.approvers names {', '.join(item.partition(':')[0] for item in cfg.approvers) or 'nobody'}",
            action=f"Add NAME:{public} to register.approvers, if that is right.",
        )
    if public == request.entry.signer or name == request.entry.by:
        raise ConfigError(
            "nobody approves a request of their own",
            evidence=f"asked by {request.entry.by}",
            action="Ask a second person.",
        )
    return {"by": name, "key": public, "request": request.hash, "signature": keys.sign(key, request.hash)}


def _enthroned(state: State, number: int) -> State:
    return replace(
        state,
        champion=number,
        previous=state.champion if state.champion != number else state.previous,
        challenger=0 if state.challenger == number else state.challenger,
        candidate=max(state.candidate, number),
    )
