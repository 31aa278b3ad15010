"""The data set on this machine: fetched, and as its DVC pointer says?"""

import os
from pathlib import Path

from sa2net.data.store.identity import UNTRACKED_FOLDERS, data_md5
from sa2net.data.store.pointer import Pointer, parse_pointer
from sa2net.errors import DataError
from sa2net.steps.doctor.findings import Finding, Options, note, ok

HASHED_UP_TO = 500_000_000
"""Bytes: a larger data set is only counted here, since reading it takes longer than a check may."""


def read_pointer(file: Path) -> Pointer:
    """Read the pointer of the data set.

    Raises:
        DataError: It cannot be read, or is none.
    """
    try:
        return parse_pointer(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read", evidence=str(error), action=f"git checkout {file}") from error


def check_data(options: Options) -> Finding:
    """Whether the data set is here, and as the pointer says."""
    if not options.pointer.exists():
        return note(f"no {options.pointer} here", "Run this in the project's folder; for your own data: dvc add data")
    pointer = read_pointer(options.pointer)
    folder = options.pointer.parent / pointer.name
    told = f"{'?' if pointer.files is None else pointer.files} files, {megabytes(pointer.size)}"
    if not folder.is_dir():
        return note(f"{folder} is not fetched ({told})", f"dvc pull {options.pointer}")
    files, size = counted(folder)
    changed = f"`dvc add {folder}` records it, `dvc checkout {folder}` brings the recorded one back"
    if pointer.files not in (None, files) or pointer.size not in (None, size):
        return note(f"{folder} has {files} files, {megabytes(size)}; the pointer says {told}", changed)
    if size > HASHED_UP_TO:
        return ok(f"{folder}: {files} files, {megabytes(size)}, as the pointer says; content not compared")
    md5 = data_md5(folder)
    if md5 != pointer.md5:
        return note(f"{folder} has changed since `dvc add` ({md5[:8]}, pointer {pointer.md5[:8]})", changed)
    return ok(f"{folder}: {files} files, {megabytes(size)}, as the pointer says ({md5[:8]})")


def counted(folder: Path) -> tuple[int, int]:
    """Files below a folder that DVC would track, and their bytes."""
    sizes = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in UNTRACKED_FOLDERS]
        sizes += [Path(place, name).stat().st_size for name in files if name != ".git"]
    return len(sizes), sum(sizes)


def megabytes(size: int | None) -> str:
    """A size for people."""
    if size is None:
        return "? MB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
