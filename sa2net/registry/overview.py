"""What a release owner sees at a glance: the versions of a model with what is known of each, and the state of its log."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow import MlflowClient

from sa2net.errors import StorageError
from sa2net.registry import audit, store, witness
from sa2net.registry.audit import ALIASES, Log
from sa2net.registry.versions import Version, as_version

_ACTIONS = {"promote": "promoted", "override": "promoted by override", "request": "waits for approval"}


@dataclass(frozen=True)
class Row:
    """One version.

    Attributes:
        version: Its number.
        aliases: Our aliases that point to it.
        dice: Mean foreground Dice, with its interval where it has one; empty if it was never scored.
        data: Start of the md5 of the data set that it was scored on; `phantom` before it where that holds phantoms.
        revision: Start of the code's commit, with `+` for uncommitted changes.
        decision: The last that was decided or done about it.
        by: Who did that.
        time: When, ISO 8601 in UTC.
        withdrawn: Whether it was rolled back.
    """

    version: int
    aliases: tuple[str, ...]
    dice: str
    data: str
    revision: str
    decision: str
    by: str
    time: str
    withdrawn: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "aliases": list(self.aliases)}


@dataclass(frozen=True)
class Audit:
    """The log, and everything that is wrong or worth a word.

    Attributes:
        log: As it was read.
        faults: What is wrong, as sentences.
        notes: What a person should know, as sentences.
    """

    log: Log
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def rows(client: MlflowClient, name: str, found: Log) -> list[Row]:
    """All versions of a model, the newest first.

    Raises:
        StorageError: There is no such model.
    """
    with store.storage_errors(f"list the versions of {name}"):
        versions = [as_version(item) for item in _all_versions(client, name)]
        if not versions:
            raise StorageError(
                f"the registry has no version of {name}",
                evidence=store.public_uri(store.registry_uri()),
                action="Run `make run` first, or name another model.",
            )
        really = audit.aliases(client, name)
    withdrawn = found.withdrawn()
    ordered = sorted(versions, key=lambda version: -version.number)
    return [_row(version, really, found, version.number in withdrawn) for version in ordered]


def inspect(client: MlflowClient, name: str, *, signers: Sequence[str] = (), approvers: Sequence[str] = ()) -> Audit:
    """Read the log and compare it with the aliases and with what this machine has seen before.

    Args:
        client: The store.
        name: Registered model.
        signers: NAME:KEY of those who may write; empty = anybody whose signature is right.
        approvers: NAME:KEY of those who may approve.
    """
    with store.storage_errors(f"read the audit log of {name}"):
        found = audit.read_log(client, name, signers=signers)
        really = audit.aliases(client, name)
    faults = [*(found.faults or witness.compare(found))]
    notes = []
    at_work = found.head is not None and not found.head.applied
    if really != found.state and found.chain and not at_work and not found.faults:
        pairs = [(alias, getattr(found.state, alias), getattr(really, alias)) for alias in ALIASES]
        texts = [
            f"{alias} is {is_now or 'none'}, the log says {said or 'none'}"
            for alias, said, is_now in pairs
            if said != is_now
        ]
        faults.append(f"aliases were changed by other means: {', '.join(texts)}")
    if at_work:
        notes.append(
            "the last entry is not carried out: somebody is at work, or was interrupted; the next command finishes it"
        )
    if found.chain and not witness.is_kept(name):
        notes.append("this machine sees this log for the first time: that its end was not cut cannot be told")
    notes += [
        f"a key that was not seen here before: {key}, used by {by}" for key, by in witness.new_signers(found).items()
    ]
    notes += _unknown_approvers(found, approvers)
    notes += [f"accepted by a person: {fault}" for fault in found.accepted]
    return Audit(found, tuple(faults), tuple(notes))


def _unknown_approvers(found: Log, approvers: Sequence[str]) -> list[str]:
    known = {item.partition(":")[2] for item in approvers}
    return [
        f"entry {placed.number} was approved by {approval['by']}, whose key register.approvers does not name"
        for placed in found.chain
        if (approval := placed.entry.facts.get("approval")) and approval["key"] not in known
    ]


def _all_versions(client: MlflowClient, name: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _row(version: Version, really: audit.State, found: Log, withdrawn: bool) -> Row:
    tags, entries = version.tags, found.about(version.number)
    dice = tags.get("dice_mean", "")[:5]
    if "dice_mean_low" in tags:
        dice += f" ({tags['dice_mean_low'][:5]}-{tags['dice_mean_high'][:5]})"
    last = entries[-1] if entries else None
    decision = "" if last is None else _ACTIONS.get(last.action, str(last.facts.get("verdict", last.action)))
    if withdrawn:
        undone = next(entry for entry in reversed(found.entries) if entry.facts.get("from") == version.number)
        last, decision = undone, "rolled back"
    elif last is not None and last.action == "rollback":
        decision = "restored by rollback"
    phantom = "phantom " if tags.get("phantom") == "true" else ""
    return Row(
        version=version.number,
        aliases=tuple(alias for alias in ALIASES if getattr(really, alias) == version.number),
        dice=dice,
        data=f"{phantom}{tags.get('data_md5', '')[:8]}",
        revision=tags.get("revision", "")[:8] + ("+" if tags.get("dirty") == "true" else ""),
        decision=decision,
        by="" if last is None else last.by,
        time="" if last is None else last.time,
        withdrawn=withdrawn,
    )
