"""DVC on this machine: its repository, configuration, cache, remotes and locks. The only home of dvc.

No data pass through DVC itself here: `pull` reads a remote without it.
"""

import json
from pathlib import Path
from typing import Any

import psutil

from sa2net.artifacts import write_text
from sa2net.data.store.identity import pointer_remote
from sa2net.errors import StorageError

_REMOTE_KEYS = {"remote": "url", "endpoint_url": "endpointurl", "region": "region"}


def repository(path: Path) -> Path | None:
    """The nearest folder, `path` or above, that holds a DVC repository; None where there is none."""
    path = path.resolve()
    return next((folder for folder in (path, *path.parents) if (folder / ".dvc").is_dir()), None)


def dvc_cache_dir(root: Path) -> Path | None:
    """The DVC cache that links in a data set may lead to; None outside a DVC repository.

    Raises:
        StorageError: The DVC configuration cannot be read.
    """
    home = repository(root)
    if home is None:
        return None
    configured = _dvc_config(home).get("cache", {}).get("dir")
    return (home / ".dvc" / Path(configured or "cache").expanduser()).resolve()


def outside_remotes(path: Path) -> list[str]:
    """Names of the DVC remotes that lie outside the repository of `path`, the default one first.

    A folder inside the repository is no place for scans of patients: it would be committed with the code.

    Raises:
        StorageError: The DVC configuration cannot be read.
    """
    home = repository(path)
    if home is None:
        return []
    config = _dvc_config(home)
    default = config.get("core", {}).get("remote")
    names = [name for name, remote in config.get("remote", {}).items() if _is_outside(str(remote["url"]), home)]
    return sorted(names, key=lambda name: (name != default, name))


def remote_settings(pointer: Path, name: str = "") -> dict[str, str]:
    """Where the objects of a data set are, in the words of the section `fetch`, from the DVC configuration here.

    Keys that the configuration may hold are left where they are.

    Args:
        pointer: A `data.dvc` in a DVC repository.
        name: The remote; empty = the one that the pointer names, else the default one.

    Returns:
        `remote`, and `endpoint_url` and `region` where they are configured; empty where there is no such remote.

    Raises:
        StorageError: The DVC configuration cannot be read.
    """
    home = repository(pointer.parent)
    if home is None:
        return {}
    config = _dvc_config(home)
    name = name or pointer_remote(pointer.with_suffix("")) or config.get("core", {}).get("remote")
    remote = config.get("remote", {}).get(name, {})
    found = {ours: remote.get(theirs) for ours, theirs in _REMOTE_KEYS.items()}
    return {key: str(value) for key, value in found.items() if value} if remote.get("url") else {}


def _is_outside(url: str, home: Path) -> bool:
    if "://" in url and not url.startswith("file://"):
        return True
    return not (home / ".dvc" / url.removeprefix("file://")).resolve().is_relative_to(home)


def _dvc_config(home: Path) -> dict[str, Any]:
    from dvc.config import Config, ConfigError

    try:
        return dict(Config(str(home / ".dvc")))
    except ConfigError as error:
        raise StorageError(
            f"the DVC configuration of {home} cannot be read", evidence=str(error), action="Mend .dvc/config."
        ) from error


def clear_dead_locks(path: Path) -> int:
    """Drop the read and write locks of DVC processes that were killed; living ones keep theirs.

    DVC writes its locks into a file and never takes those of a dead process back: after a crash every `dvc repro`
    would end with "is busy".

    Args:
        path: A folder in the DVC repository.

    Returns:
        How many dead processes held locks.
    """
    home = repository(path)
    file = home / ".dvc" / "tmp" / "rwlock" if home else None
    if file is None or not file.is_file():
        return 0
    try:
        locks = json.loads(file.read_text(encoding="utf-8"))
        held = [entry for group in locks.values() for entries in group.values() for entry in _as_list(entries)]
        processes = {int(entry["pid"]) for entry in held}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return 0  # another version of DVC writes something else: it says itself what is wrong
    dead = {process for process in processes if not _is_dvc(process)}
    if not dead:
        return 0
    kept: dict[str, dict[str, Any]] = {}
    for kind, group in locks.items():
        for place, entries in group.items():
            living = [entry for entry in _as_list(entries) if int(entry["pid"]) not in dead]
            if living:
                kept.setdefault(kind, {})[place] = living if isinstance(entries, list) else living[0]
    write_text(file, json.dumps(kept))
    return len(dead)


def _as_list(entries: Any) -> list[dict[str, Any]]:
    return entries if isinstance(entries, list) else [entries]


def _is_dvc(process: int) -> bool:
    """Whether a process lives and is DVC: the number of a dead one may be given to another."""
    try:
        return any("dvc" in part for part in psutil.Process(process).cmdline())
    except psutil.Error:
        return False
