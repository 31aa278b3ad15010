"""The audit log of a registered model: what was decided and done, in order, and which version holds which alias.

The log lies in the registry itself, as the versions of a registered model `NAME.audit`: the server gives the numbers, never
one twice, and an entry is made whole in one call. Each entry carries the hash of the one before, and the state of the
aliases after it; so the log says what the aliases should be, and they follow it. Two entries may be placed behind the same
one; the lower number stands, the other is void, as if it had never been made. That is a compare-and-swap through a
server that offers none; `sa2net.registry.ledger` builds on it.

Entries are signed (Ed25519). Their hashes are also kept outside of the registry (`sa2net.registry.witness`), so that a log
that was cut or written anew is found.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sa2net.registry import keys, store

ALIASES = ("champion", "previous", "challenger", "candidate")
ACTIONS = ("adopt", "decide", "request", "promote", "override", "rollback", "finish", "accept")
ENTRY_TAG = "entry"
SIGNATURE_TAG = "signature"
APPLIED_TAG = "applied"
_SOURCE = "sa2net:/audit-entry"
_ABOUT = "Audit log: one version an entry. Never change or delete any of it; read it with `sa2net audit`."


@dataclass(frozen=True)
class State:
    """Which version holds which alias; 0 = none.

    Attributes:
        champion: In use.
        previous: Champion before it, to which a rollback goes.
        challenger: Contends for the place: the scans could not tell, or it waits for approval.
        candidate: The newest version that was decided on.
    """

    champion: int = 0
    previous: int = 0
    challenger: int = 0
    candidate: int = 0


@dataclass(frozen=True)
class Entry:
    """One entry of the log.

    Attributes:
        count: Position in the chain, from 1.
        previous: Hash of the entry before; empty for the first.
        time: When it was made by its writer's clock, ISO 8601 in UTC.
        by: Who made it.
        action: `decide` (moves nothing in use), `promote`, `override` (promoted against the gate), `rollback`, `request`
            (waits for approval), `adopt` (aliases that were changed by other means), `finish` (brings the aliases to the
            state of an entry whose writer died), `accept` (faults of the log).
        version: The version that it is about; 0 = none.
        state: Aliases after it.
        facts: Verdict, reason, approval and so on; plain JSON types.
        signer: Public key of the writer.
        nonce: Makes every entry another text.
        place: The machine and folder that it was written from, as a random name.
        schema_version: Of this form.
    """

    count: int
    previous: str
    time: str
    by: str
    action: str
    version: int
    state: State
    signer: str
    nonce: str
    place: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = 1

    def text(self) -> str:
        """The one form that is stored, hashed and signed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Read an entry.

        Raises:
            ValueError: It is not one.
        """
        try:
            content = json.loads(text)
            entry = cls(**{**content, "state": State(**content["state"])})
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError("it is not an entry") from error
        numbers = (entry.count, entry.version, *asdict(entry.state).values())
        words = (entry.previous, entry.time, entry.by, entry.signer, entry.place)
        if (
            entry.action not in ACTIONS
            or not all(isinstance(number, int) for number in numbers)
            or not all(isinstance(word, str) for word in words)
            or not isinstance(entry.facts, dict)
        ):
            raise ValueError("it is not an entry")
        return entry


@dataclass(frozen=True)
class Placed:
    """An entry as it lies in the registry.

    Attributes:
        number: Version of `NAME.audit`; only grows, so that it serves as fencing token.
        text: The stored text.
        entry: Its content.
        applied: Whether the aliases were brought to its state.
    """

    number: int
    text: str
    entry: Entry
    applied: bool

    @property
    def hash(self) -> str:
        """The sha256 of the text, in hex."""
        return digest(self.text)


@dataclass(frozen=True)
class Log:
    """The log as it was read.

    Attributes:
        name: Registered model that it is about.
        chain: Entries that stand, in order.
        void: How many lost a race.
        faults: What is wrong with it, as sentences; empty for a whole log.
        accepted: Faults that a person accepted.
    """

    name: str
    chain: tuple[Placed, ...] = ()
    void: int = 0
    faults: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    @property
    def head(self) -> Placed | None:
        """The last entry."""
        return self.chain[-1] if self.chain else None

    @property
    def head_hash(self) -> str:
        """Hash of the last entry; empty where there is none."""
        return self.chain[-1].hash if self.chain else ""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What the entries say."""
        return tuple(placed.entry for placed in self.chain)

    @property
    def state(self) -> State:
        """What the aliases should be."""
        return self.chain[-1].entry.state if self.chain else State()

    def about(self, version: int) -> tuple[Entry, ...]:
        """The entries about a version."""
        return tuple(entry for entry in self.entries if entry.version == version)

    def champions(self) -> tuple[int, ...]:
        """Champions that a rollback can go back through, the present one last."""
        stack: list[int] = []
        for entry in self.entries:
            champion = entry.state.champion
            if entry.action == "rollback" and champion in stack:
                del stack[stack.index(champion) + 1 :]
            elif champion and stack[-1:] != [champion]:
                stack = [*(number for number in stack if number != champion), champion]
        return tuple(stack)

    def withdrawn(self) -> frozenset[int]:
        """Versions that were rolled back and not made champion since."""
        found: set[int] = set()
        before = 0
        for entry in self.entries:
            if entry.action == "rollback":
                found.add(before)
            found.discard(entry.state.champion)
            before = entry.state.champion
        return frozenset(found - {0})


def digest(text: str) -> str:
    """The sha256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def log_name(name: str) -> str:
    """The registered model that holds the log of another one (whose name has no dot)."""
    return f"{name}.audit"


def read_log(client: MlflowClient, name: str, *, signers: Sequence[str] = ()) -> Log:
    """Read and verify the log.

    Args:
        client: The store.
        name: Registered model that it is about.
        signers: NAME:KEY of those who may write; empty = anybody whose signature is right.
    """
    return follow(name, read_stored(client, name), signers=signers)


def read_stored(client: MlflowClient, name: str) -> dict[int, tuple[str, str, bool]]:
    """What lies in the registry: number -> text, signature, whether it was applied."""
    stored: dict[int, tuple[str, str, bool]] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name = '{log_name(name)}'", page_token=token)
        for item in page:
            applied = item.tags.get(APPLIED_TAG) == "true"
            stored[int(item.version)] = (item.tags.get(ENTRY_TAG, ""), item.tags.get(SIGNATURE_TAG, ""), applied)
        token = page.token
        if not token:
            return stored


def follow(name: str, stored: Mapping[int, tuple[str, str, bool]], *, signers: Sequence[str] = ()) -> Log:
    """Follow the chain through what is stored; pure.

    Args:
        name: Registered model that the log is about.
        stored: Number -> text, signature, whether it was applied.
        signers: As in `read_log`.
    """
    chain: list[Placed] = []
    hashes = {""}
    void, last = 0, 0
    faults: list[str] = []
    accepted: list[str] = []
    for number in sorted(stored):
        faults += [f"entry {gone} was deleted" for gone in range(last + 1, number)]
        last = number
        text, signature, applied = stored[number]
        try:
            entry = Entry.parse(text)
        except ValueError as error:
            faults.append(f"entry {number} was changed: {error}")
            continue
        faults += _forged(number, entry, text, signature, signers)
        placed = Placed(number, text, entry, applied)
        if entry.action == "accept" and entry.previous == everything(stored, below=number):
            accepted, faults = [*accepted, *faults], []
        elif entry.previous != (chain[-1].hash if chain else ""):
            if entry.previous in hashes:
                void += 1
            else:
                faults.append(f"entry {number} follows an entry that is not there as it was")
            continue
        approval = entry.facts.get("approval")
        if approval and approval.get("request") not in hashes:
            faults.append(f"entry {number} approves a request that is not in the log")
        chain.append(placed)
        hashes.add(placed.hash)
    return Log(name, tuple(chain), void, tuple(faults), tuple(accepted))


def everything(stored: Mapping[int, tuple[str, str, bool]], *, below: int) -> str:
    """The hash that an entry carries which accepts all that lies before it as it is."""
    lines = [f"{number} {digest(text)}" for number, (text, _, _) in sorted(stored.items()) if number < below]
    return digest("\n".join(["accepted", *lines]))


def _forged(number: int, entry: Entry, text: str, signature: str, signers: Sequence[str]) -> list[str]:
    if not keys.verify(entry.signer, signature, text):
        return [f"entry {number} was changed: its signature does not fit"]
    if signers and not keys.owner(entry.signer, signers):
        return [f"entry {number} was signed by a key that register.signers does not name (by {entry.by!r})"]
    approval = entry.facts.get("approval")
    if approval and not keys.verify(
        str(approval.get("key", "")), str(approval.get("signature", "")), str(approval.get("request", ""))
    ):
        return [f"entry {number} carries an approval whose signature does not fit"]
    return []


def place(client: MlflowClient, name: str, entry: Entry, signature: str, *, applied: bool) -> int:
    """Put an entry into the registry; whether it stands only a later reading tells.

    Args:
        client: The store.
        name: Registered model that it is about.
        entry: The entry.
        signature: Of its text.
        applied: Whether there is nothing to apply.

    Returns:
        Its number.
    """
    tags = {ENTRY_TAG: entry.text(), SIGNATURE_TAG: signature, APPLIED_TAG: str(applied).lower()}
    made = client.create_model_version(
        log_name(name), source=_SOURCE, tags=tags, description=describe(entry), await_creation_for=0
    )
    return int(made.version)


def mark_applied(client: MlflowClient, name: str, number: int) -> None:
    """Note that the aliases are as an entry wants them."""
    client.set_model_version_tag(log_name(name), str(number), APPLIED_TAG, "true")


def ensure_log(client: MlflowClient, name: str) -> None:
    """Make the place for the log, unless it is there."""
    try:
        client.create_registered_model(log_name(name), description=_ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def aliases(client: MlflowClient, name: str) -> State:
    """What the aliases really are."""
    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as error:
        if store.is_absent(error):
            return State()
        raise
    return State(**{alias: int(found.get(alias, 0)) for alias in ALIASES})


def describe(entry: Entry) -> str:
    """An entry as one line for people."""
    facts = entry.facts
    words = {
        "adopt": "found aliases that were set by other means",
        "decide": f"decided on version {entry.version}: {facts.get('verdict', '')}",
        "request": f"asks for approval of version {entry.version}",
        "promote": f"made version {entry.version} champion",
        "override": f"made version {entry.version} champion against the gate ({facts.get('verdict', '')})",
        "rollback": f"went back to version {entry.state.champion or 'none'}",
        "finish": f"finished what entry {facts.get('of', '')} began",
        "accept": "accepted the faults before this entry",
    }
    text = f"{entry.time} {entry.by} {words[entry.action]}"
    approval = facts.get("approval")
    if approval:
        text += f", approved by {approval['by']}"
    return f"{text}: {facts['reason']}" if facts.get("reason") else text


def signer_names(entries: Iterable[Entry]) -> dict[str, str]:
    """Key -> who first used it."""
    found: dict[str, str] = {}
    for entry in entries:
        found.setdefault(entry.signer, entry.by)
    return found
