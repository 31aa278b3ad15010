"""How files are written so that a reader finds them whole or not at all, and what identifies their content.

What is written is the same bytes for the same content: keys sorted, no times, no paths.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sa2net.errors import DataError


def folder_sha256(folder: Path) -> str:
    """Identity of a folder's content: sha256 over the sorted relative names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: sorted keys, no NaN, a last newline."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def plain_cell(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula; what is no text stays as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: No such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read",
            evidence=str(error),
            action="Run the step that writes it, or name the right folder.",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object", action="Run the step that writes it again.")
    return content


def check_replaceable(folder: Path, ours: Collection[str]) -> None:
    """Refuse to replace a folder that holds anything but what we write there.

    Args:
        folder: Where a step is about to write.
        ours: Names that the step may find and replace.

    Raises:
        DataError: A file, or a folder with something else in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file", action="Name a folder with --out.")
    foreign = sorted(item.name for item in folder.iterdir() if item.name not in ours)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DataError(
            f"{folder} would be replaced, and holds files that are not from this step",
            evidence=", ".join(foreign[:3]) + more,
            action="Name a new folder with --out, or move these files away.",
        )


@contextmanager
def replaced_folder(folder: Path, ours: Collection[str]) -> Iterator[Path]:
    """Fill a fresh folder beside `folder`, then put it in its place; on an error the old one stays.

    Args:
        folder: The folder to write.
        ours: See `check_replaceable`.
    """
    import shutil

    check_replaceable(folder, ours)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    old = fresh.with_name(fresh.name + ".old")
    fresh.chmod(0o755)
    try:
        yield fresh
        check_replaceable(folder, ours)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
