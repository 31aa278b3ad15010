"""Writing a backup: streamed, each content once, at its place only when it is whole."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sa2net.errors import ConfigError, StorageError
from sa2net.registry.backup.manifest import MANIFEST, Item, Manifest, is_safe

_CHUNK = 1 << 20
_COMPRESSED = frozenset((".csv", ".diff", ".html", ".json", ".jsonl", ".md", ".py", ".txt", ".yaml", ""))
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Writer:
    """A backup that is being written."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        """Begin.

        Args:
            file: Its place, for messages.
            stream: Where the bytes go.
        """
        self._file, self._zip = file, zipfile.ZipFile(stream, "w", allowZip64=True)
        self._files: dict[str, Item] = {}
        self._stored: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(self, path: Path, name: str) -> None:
        """Add a file.

        Args:
            path: The file.
            name: Its name in the backup.

        Raises:
            StorageError: The name cannot be used, or the backup cannot be written.
        """
        if not is_safe(name) or name in self._files:
            raise StorageError(
                "the store holds a file whose name cannot be used",
                evidence=repr(name),
                action="Rename or delete it in the artifact store.",
            )
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            member = self._stored.setdefault(sha256, name)
            self._files[name] = Item(sha256=sha256, size=size, member="" if member == name else member)
            if member == name:
                stream.seek(0)
                self._store(stream, name, size)

    def add_text(self, text: str, name: str) -> None:
        """Add a text file."""
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            path = Path(scratch) / "text"
            path.write_bytes(text.encode())
            self.add(path, name)

    def add_folder(self, folder: Path, prefix: str) -> int:
        """Add all files below a folder.

        Returns:
            Bytes of them.
        """
        found = sorted(item for item in folder.rglob("*") if item.is_file())
        for path in found:
            self.add(path, f"{prefix}{path.relative_to(folder).as_posix()}")
        return sum(path.stat().st_size for path in found)

    def close(self, name: str, *, made_with: dict[str, str], faults: Sequence[str]) -> str:
        """Write the manifest, and with it end the file.

        Args:
            name: Registered model.
            made_with: Package -> version.
            faults: What is wrong with the registry, as sentences.

        Returns:
            The sha256 of the manifest: identity of the backup's content.
        """
        files = dict(sorted(self._files.items()))
        content = Manifest(name=name, made_with=made_with, faults=tuple(faults), files=files).model_dump(mode="json")
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()
        with _writable(self._file):
            self._zip.writestr(_info(MANIFEST, len(text)), text)
            self._zip.close()
        return hashlib.sha256(text).hexdigest()

    def abandon(self) -> None:
        """Let go of a file that was not finished."""
        self._zip.close()

    def _store(self, stream: BinaryIO, name: str, size: int) -> None:
        with _writable(self._file), self._zip.open(_info(name, size), "w") as target:
            while chunk := stream.read(_CHUNK):
                target.write(chunk)


@contextmanager
def writing(file: Path, *, force: bool) -> Iterator[Writer]:
    """Write a backup beside its place, and put it there once it is whole; only its owner may read it.

    Args:
        file: Its place.
        force: Whether a file that is there is replaced.

    Raises:
        ConfigError: It is there, or is a folder, or its folder is not there.
        StorageError: It cannot be written.
    """
    _check_place(file, force=force)
    with _writable(file):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    fresh, stream = Path(name), os.fdopen(descriptor, "wb")
    writer = Writer(file, stream)
    try:
        yield writer
        _check_place(file, force=force)  # somebody may have been faster
        with _writable(file):
            stream.flush()
            os.fsync(stream.fileno())
            fresh.replace(file)
    finally:
        with suppress(OSError):  # what went wrong is on its way already
            writer.abandon()
            stream.close()
        fresh.unlink(missing_ok=True)


def _check_place(file: Path, *, force: bool) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent} is not a folder", action="Make it, or name another place.")
    if file.is_dir():
        raise ConfigError(f"{file} is a folder", action="Name a file, such as sa2net-backup.zip.")
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already", action="Name another file, or replace it with --force.")


@contextmanager
def _writable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written",
            evidence=error.strerror or str(error),
            action="Free space there, or name another place.",
        ) from error


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr, info.file_size = 3, 0o644 << 16, size
    suffix = PurePosixPath(name).suffix.lower()
    info.compress_type = zipfile.ZIP_DEFLATED if suffix in _COMPRESSED else zipfile.ZIP_STORED
    return info
