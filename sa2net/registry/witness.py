"""What this machine has seen of an audit log, kept outside of the registry in `var/audit/`.

Whoever can write the registry's database can cut the log's tail, or write all of it anew with keys of his own. Neither
shows from within; it shows against the hashes that somebody else kept.
"""

import logging
from pathlib import Path
from typing import Any

from filelock import FileLock

from sa2net.artifacts import read_json, write_json
from sa2net.registry import store
from sa2net.registry.audit import Log, digest, signer_names

log = logging.getLogger(__name__)


def path_of(name: str) -> Path:
    """The file that keeps the hashes of a log; one for each registry."""
    registry = digest(store.public_uri(store.registry_uri()))[:16]
    return store.var_folder() / "audit" / f"{name}-{registry}.json"


def compare(found: Log) -> tuple[str, ...]:
    """How a log differs from what this machine has seen of it, as sentences; empty if it does not."""
    seen: list[str] = _read(found.name).get("hashes", [])
    hashes = [placed.hash for placed in found.chain]
    for position, known in enumerate(seen):
        if position >= len(hashes):
            return (f"the log was cut: this machine has seen {len(seen)} entries, {len(hashes)} are left",)
        if hashes[position] != known:
            return (f"the log was written anew: entry {position + 1} of the chain is not the one seen here before",)
    return ()


def new_signers(found: Log) -> dict[str, str]:
    """Key -> who first used it, of keys that this machine has not seen yet; empty on a first look."""
    content = _read(found.name)
    known = content.get("signers", {})
    return {key: by for key, by in signer_names(found.entries).items() if content and key not in known}


def is_kept(name: str) -> bool:
    """Whether this machine has seen the log before."""
    return path_of(name).is_file()


def keep(found: Log, *, anew: bool = False) -> None:
    """Remember a log.

    Args:
        found: The log; nothing is kept of one that differs from what is known.
        anew: Forget what was known: a person has accepted the log as it is.
    """
    path = path_of(found.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = _read(found.name)
        hashes = [placed.hash for placed in found.chain]
        seen = known.get("hashes", [])
        if not anew and (seen != hashes[: len(seen)] or (known and len(seen) == len(hashes))):
            return  # another process saw more, or there is nothing new
        write_json(
            path,
            {
                "schema_version": 1,
                "name": found.name,
                "registry": store.public_uri(store.registry_uri()),
                "count": len(hashes),
                "head": found.head_hash,
                "hashes": hashes,
                "signers": signer_names(found.entries),
            },
        )


def _read(name: str) -> dict[str, Any]:
    path = path_of(name)
    return read_json(path) if path.is_file() else {}
