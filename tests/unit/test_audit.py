"""The audit log: what is found when somebody changes it, which of two entries stands, and the rules for the aliases."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sa2net.config import RegisterConfig
from sa2net.errors import ConfigError, NegativeAnswerError
from sa2net.registry import audit, keys, promotion, witness
from sa2net.registry.audit import Entry, Log, State, follow

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
Stored = dict[int, tuple[str, str, bool]]


def add(
    stored: Stored,
    action: str,
    version: int,
    state: State,
    *,
    behind: str | None = None,
    key: Ed25519PrivateKey = KEY,
    by: str = "anna",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Place an entry behind the head, or behind a hash."""
    log = follow("m", stored)
    previous = log.head_hash if behind is None else behind
    entry = Entry(
        count=len(log.chain) + 1, previous=previous, time="2026-01-01T00:00:00+00:00", by=by, action=action, version=version,
        state=state, signer=keys.public_text(key), nonce=uuid.uuid4().hex, facts=dict(facts or {}),
    )  # fmt: skip
    stored[max(stored, default=0) + 1] = (entry.text(), keys.sign(key, entry.text()), True)


def four() -> Stored:
    """Versions 1, 2 and 3 became champion, then 2 again by a rollback."""
    stored: Stored = {}
    add(stored, "promote", 1, State(champion=1, candidate=1))
    add(stored, "promote", 2, State(champion=2, previous=1, candidate=2))
    add(stored, "promote", 3, State(champion=3, previous=2, candidate=3))
    add(stored, "rollback", 2, State(champion=2, previous=1, candidate=3), facts={"from": 3})
    return stored


def test_a_whole_log_has_no_fault_and_says_what_the_aliases_are():
    log = follow("m", four())
    assert (log.faults, log.void, len(log.chain)) == ((), 0, 4)
    assert log.state == State(champion=2, previous=1, candidate=3)
    assert log.champions() == (1, 2)
    assert log.withdrawn() == {3}
    assert [entry.action for entry in log.about(2)] == ["promote", "rollback"]
    assert [entry.count for entry in log.entries] == [1, 2, 3, 4]


def test_an_empty_log_is_whole():
    log = follow("m", {})
    assert (log.faults, log.state, log.head, log.champions()) == ((), State(), None, ())


def test_a_version_that_is_promoted_again_is_not_withdrawn_any_more():
    stored = four()
    add(stored, "override", 3, State(champion=3, previous=2, candidate=3))
    log = follow("m", stored)
    assert log.withdrawn() == frozenset()
    assert log.champions() == (1, 2, 3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_changed_character_anywhere_is_found(data: st.DataObject):
    stored = four()
    number = data.draw(st.integers(1, 4))
    text, signature, applied = stored[number]
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(codec="ascii").filter(lambda new: new != text[at]))
    stored[number] = (text[:at] + character + text[at + 1 :], signature, applied)
    assert follow("m", stored).faults


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_changed_signature_is_found(number: int):
    stored = four()
    text, _, applied = stored[number]
    stored[number] = (text, keys.sign(OTHER, text), applied)
    assert follow("m", stored).faults == (f"entry {number} was changed: its signature does not fit",)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_deleted_entry_is_found(number: int):
    stored = four()
    del stored[number]
    assert follow("m", stored).faults[0] == f"entry {number} was deleted"


def test_two_swapped_entries_are_found():
    stored = four()
    stored[2], stored[3] = stored[3], stored[2]
    assert follow("m", stored).faults


def test_of_two_entries_behind_one_the_lower_number_stands():
    stored = four()
    head = follow("m", stored).head_hash
    add(stored, "promote", 1, State(champion=1, previous=2, candidate=3), behind=head)
    add(stored, "promote", 3, State(champion=3, previous=2, candidate=3), behind=head)
    add(stored, "decide", 4, State(champion=1, previous=2, candidate=4))
    log = follow("m", stored)
    assert (log.faults, log.void) == ((), 1)
    assert log.state == State(champion=1, previous=2, candidate=4)


def test_a_late_entry_behind_an_old_head_is_void():
    stored = four()
    old = follow("m", stored).chain[0].hash
    add(stored, "promote", 3, State(champion=3), behind=old)
    log = follow("m", stored)
    assert (log.faults, log.void, log.state.champion) == ((), 1, 2)


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    monkeypatch.delenv(keys.AUDIT_KEY, raising=False)
    monkeypatch.delenv(keys.APPROVAL_KEY, raising=False)
    return tmp_path / "var"


def test_a_cut_tail_is_found_from_outside(var: Path):
    stored = four()
    assert not witness.is_kept("m")
    witness.keep(follow("m", stored))
    assert witness.compare(follow("m", stored)) == ()
    del stored[4]
    cut = follow("m", stored)
    assert cut.faults == ()
    assert witness.compare(cut) == ("the log was cut: this machine has seen 4 entries, 3 are left",)
    witness.keep(cut)  # what is known is not given up for it
    assert witness.compare(cut)


def test_a_full_rewrite_is_found_from_outside(var: Path):
    witness.keep(follow("m", four()))
    anew: Stored = {}
    for number in range(1, 6):
        add(anew, "promote", number, State(champion=number, candidate=number), key=OTHER, by="mallory")
    rewritten = follow("m", anew)
    assert rewritten.faults == ()
    assert witness.compare(rewritten) == (
        "the log was written anew: entry 1 of the chain is not the one seen here before",
    )
    assert witness.new_signers(rewritten) == {keys.public_text(OTHER): "mallory"}
    assert (
        follow("m", anew, signers=[f"anna:{keys.public_text(KEY)}"]).faults[0].startswith("entry 1 was signed by a key")
    )
    assert follow("m", four(), signers=[f"anna:{keys.public_text(KEY)}"]).faults == ()


def test_a_longer_log_is_remembered_and_a_shorter_memory_does_not_replace_it(var: Path):
    stored = four()
    witness.keep(follow("m", stored))
    short = follow("m", dict(stored))
    add(stored, "decide", 4, State(champion=2, previous=1, candidate=4))
    witness.keep(follow("m", stored))
    witness.keep(short)
    assert witness.compare(short)
    assert witness.compare(follow("m", stored)) == ()


def test_accepted_faults_stay_visible_and_any_further_change_is_found():
    stored = four()
    text, signature, applied = stored[2]
    stored[2] = (text.replace("anna", "bert"), signature, applied)
    broken = follow("m", stored)
    assert broken.faults
    head = audit.everything(stored, below=5)
    add(
        stored,
        "accept",
        0,
        State(champion=2, previous=1, candidate=3),
        behind=head,
        facts={"reason": "a typo by the admin"},
    )
    add(stored, "decide", 4, State(champion=2, previous=1, candidate=4))
    whole = follow("m", stored)
    assert whole.faults == ()
    assert whole.accepted == broken.faults
    assert whole.state.candidate == 4
    text, signature, applied = stored[1]
    stored[1] = (text.replace("anna", "carl"), signature, applied)
    assert follow("m", stored).faults


def cfg(**values: Any) -> RegisterConfig:
    return RegisterConfig(name="m", **values)


@pytest.mark.parametrize(
    ("verdict", "values", "action", "state"),
    [
        ("promote", {}, "promote", State(champion=5, previous=2, candidate=5)),
        ("promote", {"require_approval": True}, "request", State(champion=2, previous=1, challenger=5, candidate=5)),
        ("promote", {"promote": False}, "decide", State(champion=2, previous=1, challenger=5, candidate=5)),
        ("cannot tell", {}, "decide", State(champion=2, previous=1, challenger=5, candidate=5)),
        ("refuse", {}, "decide", State(champion=2, previous=1, candidate=5)),
    ],
)
def test_what_follows_from_a_verdict(verdict: str, values: dict[str, Any], action: str, state: State):
    proposal = promotion.after_decision(follow("m", four()), 5, verdict, cfg(**values), {"decision_key": "k"})
    assert (proposal.action, proposal.version, proposal.state) == (action, 5, state)
    assert proposal.facts == {"decision_key": "k", "verdict": verdict}


def test_a_tie_with_itself_makes_no_challenger_and_a_refused_challenger_is_none_any_more():
    log = follow("m", four())
    assert promotion.after_decision(log, 2, "cannot tell", cfg(), {}).state == log.state
    stored = four()
    add(stored, "decide", 5, State(champion=2, previous=1, challenger=5, candidate=5), facts={"verdict": "cannot tell"})
    log = follow("m", stored)
    assert promotion.after_decision(log, 5, "refuse", cfg(), {}).state.challenger == 0
    assert promotion.after_decision(log, 5, "promote", cfg(), {}).state == State(champion=5, previous=2, candidate=5)
    assert promotion.after_decision(log, 6, "refuse", cfg(), {}).state.challenger == 5


def test_rollback_goes_back_step_by_step():
    log = follow("m", four())
    assert promotion.rollback(log, 1, "why").state == State(champion=1, previous=0, candidate=3)
    assert promotion.rollback(log, 1, "why").facts == {"reason": "why", "from": 2}


def requested() -> Stored:
    stored = four()
    state = State(champion=2, previous=1, challenger=5, candidate=5)
    add(stored, "request", 5, state, facts={"verdict": "promote", "reason": "try", "decision_sha256": "d"})
    return stored


def pem(folder: Path, key: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    path = folder / "key.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(path)


def test_a_second_person_approves(tmp_path: Path, var: Path, monkeypatch: pytest.MonkeyPatch):
    stored = requested()
    log = follow("m", stored)
    approvers = cfg(approvers=[f"berta:{keys.public_text(OTHER)}"])
    with pytest.raises(ConfigError, match="SA2NET_APPROVAL_KEY is not set"):
        promotion.approval(log, 5, approvers)
    monkeypatch.setenv(keys.APPROVAL_KEY, pem(tmp_path, OTHER))
    proposal = promotion.approval(log, 5, approvers)
    assert (proposal.action, proposal.state) == ("promote", State(champion=5, previous=2, candidate=5))
    assert proposal.facts["approval"]["by"] == "berta"
    assert proposal.facts["decision_sha256"] == "d"
    add(stored, proposal.action, 5, proposal.state, facts=proposal.facts)
    approved = follow("m", stored)
    assert approved.faults == ()
    assert "approved by berta" in audit.describe(approved.entries[-1])

    with pytest.raises(ConfigError, match="may not approve"):
        promotion.approval(log, 5, cfg(approvers=[f"carl:{keys.public_text(KEY)}"]))
    with pytest.raises(NegativeAnswerError, match="no request for version 4"):
        promotion.approval(log, 4, approvers)
    with pytest.raises(NegativeAnswerError, match="no request for version 5"):
        promotion.approval(approved, 5, approvers)


@pytest.mark.parametrize("own", ["key", "name"])
def test_nobody_approves_a_request_of_their_own(own: str, tmp_path: Path, var: Path, monkeypatch: pytest.MonkeyPatch):
    key, name = (KEY, "anna's other name") if own == "key" else (OTHER, "anna")
    monkeypatch.setenv(keys.APPROVAL_KEY, pem(tmp_path, key))
    with pytest.raises(ConfigError, match="of their own"):
        promotion.approval(follow("m", requested()), 5, cfg(approvers=[f"{name}:{keys.public_text(key)}"]))


def test_a_request_against_another_champion_is_not_approved(tmp_path: Path, var: Path, monkeypatch: pytest.MonkeyPatch):
    stored = requested()
    add(stored, "promote", 6, State(champion=6, previous=2, challenger=5, candidate=6))
    monkeypatch.setenv(keys.APPROVAL_KEY, pem(tmp_path, OTHER))
    with pytest.raises(NegativeAnswerError):
        promotion.approval(follow("m", stored), 5, cfg(approvers=[f"berta:{keys.public_text(OTHER)}"]))


@pytest.mark.parametrize("fault", ["signature", "request"])
def test_a_false_approval_is_found(fault: str):
    stored = requested()
    hashed = follow("m", stored).head_hash if fault == "signature" else "f" * 64
    signed = keys.sign(KEY if fault == "signature" else OTHER, hashed)
    approval = {"by": "berta", "key": keys.public_text(OTHER), "request": hashed, "signature": signed}
    add(stored, "promote", 5, State(champion=5, previous=2), facts={"approval": approval})
    assert any("appro" in text for text in follow("m", stored).faults)


def test_a_machine_makes_its_key_once_and_for_itself_alone(var: Path):
    first = keys.public_text(keys.audit_key())
    path = var / "keys" / "audit.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.public_text(keys.audit_key()) == first


def test_a_key_from_the_environment_is_text_or_a_file(var: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = pem(tmp_path, KEY)
    for value in (path, Path(path).read_text()):
        monkeypatch.setenv(keys.AUDIT_KEY, value)
        assert keys.public_text(keys.audit_key()) == keys.public_text(KEY)
    secret = "MC4CAQAwBQYDK2VwBCIEIGtra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr"
    monkeypatch.setenv(keys.AUDIT_KEY, secret)
    with pytest.raises(ConfigError) as caught:
        keys.audit_key()
    assert secret not in str(caught.value)
    assert not (var / "keys").exists()


def test_what_is_no_key_or_no_signature_does_not_verify():
    public, signature = keys.public_text(KEY), keys.sign(KEY, "text")
    assert keys.verify(public, signature, "text")
    for wrong in (("", signature), (public, ""), (public, "no base64!"), ("QUJD", signature), (signature, signature)):
        assert not keys.verify(*wrong, "text")
    assert not keys.verify(public, signature, "texts")


def test_any_text_is_an_entry_or_refused_with_a_value_error():
    for text in ("", "{}", "[]", "null", '{"state": 1}', '{"state": {}}', '"entry"'):
        with pytest.raises(ValueError, match="not an entry"):
            Entry.parse(text)
    log = follow("m", {1: ("", "", True)})
    assert isinstance(log, Log)
    assert log.faults
