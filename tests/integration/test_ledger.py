"""Writers of the audit log in a real registry: one at a time, whoever dies, and whatever others do to the aliases."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from database import what_is_missing
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from servers import mlflow_server

from sa2net.errors import StorageError
from sa2net.registry import audit, ledger, store, witness
from sa2net.registry.audit import Log, State
from sa2net.registry.ledger import Ledger, Proposal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ledger") / "var"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SA2NET_AUDIT_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("SA2NET_VAR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def client(var: Path) -> MlflowClient:
    return store.connect()


@pytest.fixture
def name(client: MlflowClient, request: pytest.FixtureRequest) -> str:
    """A registered model with three versions."""
    made = re.sub(r"\W", "-", request.node.name)
    client.create_registered_model(made)
    for _ in range(3):
        client.create_model_version(made, "sa2net:/nothing", await_creation_for=0)
    return made


def to(champion: int, previous: int = 0) -> Proposal:
    return Proposal("promote", champion, State(champion=champion, previous=previous, candidate=champion))


def test_aliases_follow_the_log(client: MlflowClient, name: str):
    own = Ledger(client, name, by="anna")
    first = own.append(lambda found: to(1))
    assert first is not None and first.entry.by == "anna"
    own.append(lambda found: to(2, found.state.champion))
    assert audit.aliases(client, name) == State(champion=2, previous=1, candidate=2) == own.read().state
    assert own.append(lambda found: None) is None
    assert all(placed.applied for placed in own.read().chain)
    own.append(lambda found: Proposal("rollback", 1, State(champion=1, candidate=2), {"from": 2}))
    assert client.get_registered_model(name).aliases == {"champion": 1, "candidate": 2}
    witnessed = witness.path_of(name).read_text(encoding="utf-8")
    assert own.read().head_hash in witnessed


def test_whoever_loses_the_race_is_asked_again(client: MlflowClient, name: str):
    fast, slow = Ledger(client, name, by="fast"), Ledger(client, name, by="slow")
    seen: list[int] = []

    def propose(found: Log) -> Proposal:
        if not seen:
            fast.append(lambda log: to(1))  # between the reading and the writing of the other
        seen.append(found.state.champion)
        return to(2, found.state.champion)

    placed = slow.append(propose)
    assert placed is not None and placed.entry.state == State(champion=2, previous=1, candidate=2)
    assert seen == [0, 1]
    log = slow.read()
    assert ([entry.by for entry in log.entries], log.void, log.faults) == (["fast", "slow"], 1, ())


def test_an_alias_set_by_other_means_is_taken_into_the_log(client: MlflowClient, name: str):
    own = Ledger(client, name)
    own.append(lambda found: to(1))
    client.set_registered_model_alias(name, "champion", "3")
    own.append(lambda found: Proposal("decide", 2, found.state))
    entries = own.read().entries
    assert [entry.action for entry in entries] == ["promote", "adopt", "decide"]
    assert entries[1].state == State(champion=3, previous=1, candidate=1) == audit.aliases(client, name)


class Died(BaseException):
    """What a killed process looks like from within."""


@pytest.mark.parametrize("alone", [True, False], ids=["on this machine", "elsewhere"])
@pytest.mark.parametrize("method", ["set_registered_model_alias", "set_model_version_tag"])
def test_what_a_dead_writer_began_is_finished(
    client: MlflowClient, name: str, alone: bool, method: str, monkeypatch: pytest.MonkeyPatch
):
    Ledger(client, name).append(lambda found: to(1))

    def dies(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, dies)
        with pytest.raises(Died):
            Ledger(client, name, by="dead").append(lambda found: to(2, 1))
    started = time.monotonic()
    own = Ledger(client, name, by="next", lease=2.0, alone=alone)
    own.append(lambda found: Proposal("decide", 3, found.state))
    assert (time.monotonic() - started < 2.0) == alone
    log = own.read()
    assert [(entry.by, entry.action) for entry in log.entries[1:]] == [
        ("dead", "promote"),
        ("next", "finish"),
        ("next", "decide"),
    ]
    assert audit.aliases(client, name) == State(champion=2, previous=1, candidate=2) == log.state


def test_a_writer_that_was_held_up_does_not_write_over_its_successor(
    client: MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
):
    """It wins its place, sleeps for longer than the lease, and wakes when others have gone on."""
    real = Ledger._set_aliases

    def held_up(self: Ledger, state: State, deadline: float) -> None:
        if self.by == "sleeper" and state.champion == 1:
            other = Ledger(client, name, by="other", lease=1.0)
            other.append(lambda found: to(2, found.state.champion))  # waits for the lease, finishes, goes on
        real(self, state, deadline)

    monkeypatch.setattr(Ledger, "_set_aliases", held_up)
    placed = Ledger(client, name, by="sleeper", lease=1.0).append(lambda found: to(1))
    assert placed is not None
    log = Ledger(client, name).read()
    assert [(entry.by, entry.action) for entry in log.entries] == [
        ("sleeper", "promote"),
        ("other", "finish"),
        ("other", "promote"),
    ]
    assert audit.aliases(client, name) == State(champion=2, previous=1, candidate=2) == log.state


def test_nothing_is_written_to_a_log_that_is_not_whole_until_a_person_accepts_it(client: MlflowClient, name: str):
    own = Ledger(client, name, by="anna")
    for champion in (1, 2):
        own.append(lambda found, champion=champion: to(champion, found.state.champion))
    text = own.read().chain[0].text
    client.set_model_version_tag(audit.log_name(name), "1", audit.ENTRY_TAG, text.replace("anna", "bert"))
    with pytest.raises(StorageError, match="cannot be trusted: entry 1 was changed"):
        own.append(lambda found: to(3))
    assert audit.aliases(client, name).champion == 2
    own.accept("restored by the admin")
    own.append(lambda found: to(3, found.state.champion))
    log = own.read()
    assert log.state == State(champion=3, previous=2, candidate=3)
    assert len(log.accepted) == 2
    client.delete_model_version(audit.log_name(name), str(log.chain[-1].number))
    with pytest.raises(StorageError, match="the log was cut"):
        own.read()


def test_a_busy_store_is_tried_again_and_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def busy() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise MlflowException("database is locked", error_code=TEMPORARILY_UNAVAILABLE)
        return "done"

    assert ledger.patiently(busy, 5.0) == "done"

    def refuses() -> str:
        calls.append(1)
        raise MlflowException.invalid_parameter_value("no")

    calls.clear()
    with pytest.raises(MlflowException, match="no"):
        ledger.patiently(refuses, 5.0)
    assert len(calls) == 1
    started = time.monotonic()

    def away() -> str:
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        ledger.patiently(away, 0.5)
    assert time.monotonic() - started < 2.0


def test_the_log_works_through_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with mlflow_server(tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
        client = store.connect()
        client.create_registered_model("served")
        client.create_model_version("served", "sa2net:/nothing", await_creation_for=0)
        own = Ledger(client, "served")
        own.append(lambda found: to(1))
        assert audit.aliases(client, "served").champion == 1
        assert own.read().faults == ()
        page = client.get_model_version("served.audit", "1").description
        assert "made version 1 champion" in page


def fight(*words: str) -> str:
    command = [sys.executable, "-m", "benchmarks.promoters", *words]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SA2NET_"))}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_promoters_at_once_of_which_some_are_killed(kind: str):
    if kind == "postgres" and (missing := what_is_missing()):
        pytest.skip(missing)
    printed = fight("--rounds", "2", "--promoters", "9", "--span", "12", "--lease", "30", "--store", kind)
    total = printed.splitlines()[-1].split()
    assert total[:2] == [kind, "all"]
    assert int(total[2]) > 0, printed
    assert int(total[-1]) == 0, printed
