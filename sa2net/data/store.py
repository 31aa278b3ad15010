"""Where a data set is kept: its identity, its DVC pointer, cache and remotes. The only home of dvc.

A data set is known everywhere by the md5 that DVC gives its folder. It is computed here from the content with the
standard library, so that a machine without DVC, or a folder without a pointer, gets the same value.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import yaml

from sa2net.artifacts import write_text
from sa2net.errors import StorageError

_POINTER = ".dvc"
_UNTRACKED_FOLDERS = frozenset({".git", ".hg", ".dvc"})  # DVC never looks into these


def tracked_folder(root: Path) -> Path:
    """The folder whose md5 is the identity: the nearest one, root or above, with a `NAME.dvc` beside it; else root."""
    root = root.resolve()
    for folder in (root, *root.parents):
        if folder.name and pointer_path(folder).is_file():
            return folder
    return root


def pointer_path(folder: Path) -> Path:
    """Where DVC keeps the pointer of a folder."""
    return folder.with_name(folder.name + _POINTER)


def data_md5(root: Path) -> str:
    """The md5 that `dvc add` gives the tracked folder, computed from its content, with DVC's suffix `.dir`.

    DVC hashes a JSON list of every file's md5 and relative path. Patterns of a `.dvcignore` above the folder are not
    applied: everything that lies in the folder counts.

    Raises:
        StorageError: A file or folder cannot be read.
    """
    folder = tracked_folder(root)
    try:
        paths = list(_tracked_files(folder))
        with ThreadPoolExecutor() as pool:
            digests = pool.map(_md5, paths)
            entries = [
                {"md5": digest, "relpath": path.relative_to(folder).as_posix()}
                for path, digest in zip(paths, digests, strict=True)
            ]
    except OSError as error:
        raise StorageError(
            f"the identity of {folder} cannot be computed",
            evidence=str(error),
            action="Make every file in it readable.",
        ) from error
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def pointer_md5(root: Path) -> str | None:
    """The md5 that the DVC pointer names; None where there is no pointer."""
    return _pointer_value(root, "md5")


def pointer_remote(root: Path) -> str | None:
    """The remote that the DVC pointer names; None where it names none."""
    return _pointer_value(root, "remote")


def _pointer_value(root: Path, key: str) -> str | None:
    try:
        pointer = yaml.safe_load(pointer_path(tracked_folder(root)).read_text(encoding="utf-8"))
        return str(pointer["outs"][0][key])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def pointer_warning(root: Path, md5: str) -> str:
    """A sentence where the content (`md5`) is not what the DVC pointer names; empty where they agree or none is."""
    named = pointer_md5(root)
    if named is None or named == md5:
        return ""
    folder = tracked_folder(root)
    return (
        f"{folder.name} has changed since it was added to DVC (content {md5}, pointer {named}); "
        f"`dvc add {folder.name}` records it, `dvc checkout {folder.name}` brings the recorded one back."
    )


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


def _tracked_files(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if name not in _UNTRACKED_FOLDERS]
        yield from (Path(place, name) for name in files if name != ".git")


def _md5(path: Path) -> str:
    if not path.is_file():
        raise OSError(f"{path} is not a regular file")  # a pipe would never end
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


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
