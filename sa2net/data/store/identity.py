"""What a data set is known by everywhere: the md5 that DVC gives its folder, and the pointer that names it.

It is computed here from the content with the standard library, so that a machine without DVC, or a folder without a
pointer, gets the same value.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from sa2net.errors import DataError, StorageError

UNTRACKED_FOLDERS = frozenset({".git", ".hg", ".dvc"})
"""Folders that DVC never looks into."""

_POINTER = ".dvc"


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
        DataError: There is no such folder.
        StorageError: A file or folder cannot be read.
    """
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}", action="Name the folder that holds dataset/ and groundtruth/ with --data."
        )
    folder = tracked_folder(root)
    try:
        paths = list(_tracked_files(folder))
        with ThreadPoolExecutor() as pool:
            digests = pool.map(file_md5, paths)
            found = [(path.relative_to(folder).as_posix(), digest) for path, digest in zip(paths, digests, strict=True)]
    except OSError as error:
        raise StorageError(
            f"the identity of {folder} cannot be computed",
            evidence=str(error),
            action="Make every file in it readable.",
        ) from error
    return listing_md5(found)


def listing_md5(files: Iterable[tuple[str, str]]) -> str:
    """The md5 of a folder, with the suffix `.dir`, from the relative path and md5 of every file in it."""
    entries = [{"md5": digest, "relpath": relpath} for relpath, digest in sorted(files)]
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


def _tracked_files(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if name not in UNTRACKED_FOLDERS]
        yield from (Path(place, name) for name in files if name != ".git")


def file_md5(path: Path) -> str:
    """The md5 of a file's content.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    if not path.is_file():
        raise OSError(f"{path} is not a regular file")  # a pipe would never end
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
