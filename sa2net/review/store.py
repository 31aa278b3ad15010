"""Reviews on disk: every save is a new file, none is ever written over, and a damaged one hides no other."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sa2net.errors import DataError, StorageError
from sa2net.review.record import Review

REVIEWS = "reviews"
_LARGEST = 1_000_000  # bytes


class ConflictError(StorageError):
    """Another version was saved since the reader opened the scan.

    Attributes:
        newest: Number of the newest version.
    """

    def __init__(self, opened: int, newest: int) -> None:
        super().__init__(
            "another version of this review exists",
            evidence=f"version {newest} was saved, you opened {opened or 'the scan without a review'}",
            action="Look at it, then save yours as the next version.",
        )
        self.newest = newest


@dataclass(frozen=True)
class Latest:
    """The newest review of a scan that can be read.

    Attributes:
        review: None where there is none.
        newest: Number of the newest file, readable or not; 0 without any.
        problems: What is wrong with files that cannot be read, in words.
    """

    review: Review | None
    newest: int
    problems: tuple[str, ...]


def review_files(root: Path, name: str) -> list[tuple[int, Path]]:
    """Number and path of every saved version, rising.

    Args:
        root: Folder that `sa2net measure` wrote.
        name: Name of a scan; one plain file name.

    Raises:
        DataError: The name is a path.
    """
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise DataError(f"{name!r} is no name of a scan", action="Rename its files, and measure again.")
    found = (root / REVIEWS / name).glob("[0-9][0-9][0-9][0-9].json")
    return sorted((int(path.stem), path) for path in found)


def read_review(path: Path) -> Review:
    """Read one version.

    Raises:
        DataError: Not readable, or no review of this number.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("larger than any review")
        review = Review.model_validate_json(path.read_text(encoding="utf-8"))
        if review.version != int(path.stem):
            raise ValueError(f"holds version {review.version}")
    except (OSError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(
            f"{path} cannot be read", evidence=said, action="Restore it from a backup, or move it away."
        ) from error
    return review


def latest_review(root: Path, name: str) -> Latest:
    """The newest version that can be read; arguments as in `review_files`."""
    files = review_files(root, name)
    problems: list[str] = []
    newest = files[-1][0] if files else 0
    for number, path in reversed(files):
        try:
            return Latest(read_review(path), newest, tuple(problems))
        except DataError as error:
            problems.append(f"{number:04d}.json: {error.evidence}")
    return Latest(None, newest, tuple(problems))


def save_review(root: Path, name: str, review: Review, *, opened: int) -> Path:
    """Save a version, whole or not at all.

    Args:
        root: Folder that `sa2net measure` wrote.
        name: Name of a scan.
        review: Its version must be `opened + 1`.
        opened: Number of the newest version that the reader has seen; 0 without any.

    Raises:
        ConflictError: Another version was saved since.
        ValueError: The version is not the next one.
    """
    if review.version != opened + 1:
        raise ValueError(f"version {review.version} does not follow {opened}")
    files = review_files(root, name)
    if files and files[-1][0] != opened:
        raise ConflictError(opened, files[-1][0])
    folder = root / REVIEWS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{review.version:04d}.json"
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".review.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            content = review.model_dump(mode="json")
            stream.write(json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        _place(Path(temporary), path)
    except FileExistsError as error:
        raise ConflictError(opened, review.version) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _place(temporary: Path, path: Path) -> None:
    """Give a file its name, which nobody may have yet: a link never replaces, unlike a rename.

    Raises:
        FileExistsError: Somebody has it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then fill it
        with path.open("xb"):
            pass
        temporary.replace(path)
