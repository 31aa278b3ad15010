"""Writing to the audit log, and the aliases after it: one at a time, through the server alone.

MLflow sets an alias whatever it was before. So nobody sets one who has not first won a place in the log:

1. Read the log. If its head is not applied, its writer is at work: wait. If that takes longer than the lease, place an entry
   `finish` behind it, with the same state.
2. Place an entry behind the head. The server numbers entries; of those behind one head the lowest number stands.
3. Read again. If the own entry is void, begin anew: the decision was made against a champion that may have changed.
4. Bring the aliases to the state of the entry, and mark it applied.

An entry that stands and is not applied is the lease, its number the fencing token. Nobody takes a clock's word for its age:
everyone measures how long he himself has seen it, as leader election in Kubernetes does. The writer stops setting
aliases after half of the lease, so that a process that was held up does not write over a successor.
"""

import getpass
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from filelock import FileLock
from mlflow import MlflowClient

from sa2net.artifacts import write_text
from sa2net.errors import StorageError
from sa2net.registry import audit, keys, store, witness
from sa2net.registry.audit import Entry, Log, Placed, State

LEASE = 60.0
"""Seconds; more than twice what a request to the server may take."""
PATIENCE = 120.0
"""Seconds for which a call is tried again while the store is away or busy."""
USER = "SA2NET_USER"

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """What somebody wants to write.

    Attributes:
        action: One of `audit.ACTIONS`.
        version: The version that it is about.
        state: Aliases after it.
        facts: Everything else; plain JSON types.
    """

    action: str
    version: int
    state: State
    facts: Mapping[str, Any] = field(default_factory=dict)


class LostLeaseError(Exception):
    """Setting the aliases took longer than half of the lease."""


class Ledger:
    """The log of a registered model, to read and to write."""

    def __init__(
        self,
        client: MlflowClient,
        name: str,
        *,
        signers: Sequence[str] = (),
        by: str = "",
        lease: float = 0.0,
        patience: float = PATIENCE,
        alone: bool = False,
    ) -> None:
        """Open the log.

        Args:
            client: The store.
            name: Registered model.
            signers: NAME:KEY of those who may write; empty = anybody whose signature is right.
            by: Who writes; empty = `$SA2NET_USER`, else the user of this process.
            lease: Seconds after which an entry is finished by others; 0 = `LEASE`. All writers of a log use the same.
            patience: Seconds for which a call is tried again.
            alone: The caller holds the lock of this machine, so that an earlier writer from here is dead for sure.
        """
        self._alone = alone
        self._client, self.name, self._signers = client, name, tuple(signers)
        self.by, self._lease, self._patience = by or user(), lease or LEASE, patience

    def read(self) -> Log:
        """Read the log and remember it.

        Raises:
            StorageError: It is not whole, or not the one that this machine has seen.
        """
        found = self._patiently(lambda: audit.read_log(self._client, self.name, signers=self._signers))
        faults = (*found.faults, *witness.compare(found))
        if faults:
            raise StorageError(
                f"the audit log of {self.name} cannot be trusted",
                evidence="; ".join(faults[:3]) + (f"; {len(faults) - 3} more" if len(faults) > 3 else ""),
                action=f"Look at `sa2net audit {self.name}`; once you know why, `sa2net audit {self.name} --accept REASON`.",
            )
        witness.keep(found)
        return found

    def append(self, propose: Callable[[Log], Proposal | None]) -> Placed | None:
        """Write an entry and bring the aliases to its state.

        Args:
            propose: Gets the log and says what to write behind its head, or None for nothing. It is asked again whenever
                somebody else was faster.

        Returns:
            The entry as it stands; None if there was nothing to write.

        Raises:
            StorageError: The log is not whole.
        """
        self._patiently(lambda: audit.ensure_log(self._client, self.name))
        while True:
            found = self.settled()
            really = self._patiently(lambda: audit.aliases(self._client, self.name))
            if really != found.state:  # somebody changed them by other means
                adoption = _adoption(found.state, really)
                self._commit(found, adoption, nothing=adoption.state == really)
                continue
            proposal = propose(found)
            if proposal is None:
                return None
            placed = self._commit(found, proposal, nothing=proposal.state == really)
            if placed is not None:
                return placed

    def accept(self, reason: str) -> Placed:
        """Let the log go on behind its faults, and remember it as it is.

        Raises:
            StorageError: Somebody else wrote meanwhile.
        """
        self._patiently(lambda: audit.ensure_log(self._client, self.name))
        found = self._patiently(lambda: audit.read_log(self._client, self.name, signers=self._signers))
        faults = [*found.faults, *witness.compare(found)]
        state = self._patiently(lambda: audit.aliases(self._client, self.name))
        stored = self._patiently(lambda: audit.read_stored(self._client, self.name))
        entry = self._entry(found, Proposal("accept", 0, state, {"reason": reason, "faults": faults}))
        entry = Entry(**{**vars(entry), "previous": audit.everything(stored, below=max(stored, default=0) + 1)})
        audit.place(self._client, self.name, entry, keys.sign(keys.audit_key(), entry.text()), applied=True)
        after = self._patiently(lambda: audit.read_log(self._client, self.name, signers=self._signers))
        head = after.head
        if head is None or head.text != entry.text() or after.faults:
            raise StorageError(
                f"the faults in the audit log of {self.name} were not accepted",
                evidence="somebody wrote to it at the same time, or the key that signs is none of register.signers",
                action="Look at it again, then repeat the command.",
            )
        witness.keep(after, anew=True)
        return head

    def settled(self) -> Log:
        """The log, once nobody is at work; what a dead writer left is finished."""
        seen, since, told = 0, now(), False
        while True:
            found = self.read()
            head = found.head
            if head is None or head.applied:
                return found
            if head.number != seen:
                seen, since = head.number, now()
            if now() - since >= self._lease or (self._alone and head.entry.place == place()):
                self._commit(found, Proposal("finish", head.entry.version, head.entry.state, {"of": head.number}))
                continue
            if not told and now() - since > 2.0:
                log.info("waiting for %s, who is changing the aliases of %s", head.entry.by, self.name)
                told = True
            time.sleep(min(0.2, self._lease / 10))

    def _commit(self, found: Log, proposal: Proposal, *, nothing: bool = False) -> Placed | None:
        """Place an entry behind the head and apply it; None if somebody else was faster.

        Args:
            found: The log.
            proposal: What to write.
            nothing: Whether the aliases are as it wants them.
        """
        entry, started = self._entry(found, proposal), now()
        text = entry.text()
        signature = keys.sign(keys.audit_key(), text)
        try:
            audit.place(self._client, self.name, entry, signature, applied=nothing)
        except Exception as error:
            if not store.is_outage(error):
                raise
            log.debug("it is not known whether an entry was placed: %s", error)
        fresh = self.read()
        mine = next((placed for placed in reversed(fresh.chain) if placed.text == text), None)
        if mine is None:
            time.sleep(0.05)
            return None
        if not mine.applied:
            self._apply(mine, deadline=started + self._lease / 2)
        return mine

    def _apply(self, placed: Placed, *, deadline: float) -> None:
        try:
            self._set_aliases(placed.entry.state, deadline)
            if self._fenced(lambda: self.read(), deadline).head == placed:
                self._fenced(lambda: audit.mark_applied(self._client, self.name, placed.number), deadline)
                return
        except LostLeaseError:
            pass
        log.warning("setting the aliases of %s took too long; it is done again", self.name)
        found = self.settled()
        if self._patiently(lambda: audit.aliases(self._client, self.name)) != found.state:
            self._commit(found, Proposal("finish", placed.entry.version, found.state, {"of": placed.number}))

    def _set_aliases(self, state: State, deadline: float) -> None:
        really = self._fenced(lambda: audit.aliases(self._client, self.name), deadline)
        for alias in ("previous", "champion", "challenger", "candidate"):
            wanted, is_now = int(getattr(state, alias)), int(getattr(really, alias))
            if wanted == is_now:
                continue
            if wanted:
                self._fenced(
                    lambda alias=alias, wanted=wanted: self._client.set_registered_model_alias(  # type: ignore[misc]
                        self.name, alias, str(wanted)
                    ),
                    deadline,
                )
            else:
                self._fenced(
                    lambda alias=alias: self._client.delete_registered_model_alias(self.name, alias),  # type: ignore[misc]
                    deadline,
                )

    def _entry(self, found: Log, proposal: Proposal) -> Entry:
        return Entry(
            count=len(found.chain) + 1,
            previous=found.head_hash,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            by=self.by,
            action=proposal.action,
            version=proposal.version,
            state=proposal.state,
            facts=dict(proposal.facts),
            signer=keys.public_text(keys.audit_key()),
            nonce=uuid.uuid4().hex,
            place=place(),
        )

    def _fenced(self, call: Callable[[], Result], deadline: float) -> Result:
        """Call while the lease is surely held."""
        if now() >= deadline:
            raise LostLeaseError
        return patiently(call, deadline - now(), over=LostLeaseError)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        return patiently(call, self._patience)


def _adoption(wanted: State, really: State) -> Proposal:
    """Take aliases that were changed by other means into the log; `previous` follows where it was forgotten."""
    state = really
    if really.champion != wanted.champion and really.previous == wanted.previous:
        state = replace(really, previous=wanted.champion)
    return Proposal("adopt", really.champion, state, {"reason": "the aliases were set by other means than this log"})


def patiently(call: Callable[[], Result], seconds: float, *, over: type[Exception] | None = None) -> Result:
    """Call, again and again while the store is away or busy.

    Args:
        call: May be repeated without harm.
        seconds: For so long.
        over: Raised when the time is over; None = what the call raised.
    """
    until, pause, told = now() + seconds, 0.05, False
    while True:
        try:
            return call()
        except Exception as error:
            if isinstance(error, StorageError) or not store.is_outage(error) or store.is_denied(error):
                raise
            if now() + pause > until:
                if over is None:
                    raise
                raise over from error
            if pause > 2.0 and not told:
                log.warning("the MLflow store is away or busy, trying again: %s", " ".join(str(error).split())[:200])
                told = True
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def place() -> str:
    """A random name for this machine with this `var/`; no name or path can be read from it."""
    path = store.var_folder() / "audit" / "place"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_text(path, uuid.uuid4().hex + "\n")
    return audit.digest(f"{path.read_text(encoding='utf-8')}{platform.node()}")[:16]


def now() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def user() -> str:
    """Who is writing: `$SA2NET_USER`, else the user of this process."""
    named = os.environ.get(USER, "").strip()
    if named:
        return named[:100]
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):  # a container without an entry for its user
        return "unknown"
