"""Reading a backup, of which nothing is believed.

Names are judged before a path is made of them, contents are hashed before they are used, sizes are those of the manifest,
and nothing is unpickled.
"""

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from sa2net.errors import ConfigError, StorageError
from sa2net.registry.backup.manifest import KIND, LARGEST_DOCUMENT, MANIFEST, SCHEMA_VERSION, Item, Manifest, is_safe

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OverflowError, NotImplementedError, RuntimeError, ValueError)
"""What reading a damaged zip may raise."""


class Reader:
    """A backup that is there."""

    def __init__(self, file: Path, archive: zipfile.ZipFile) -> None:
        """Read its manifest.

        Raises:
            StorageError: There is none, or it is not about what lies in the file.
        """
        self.file, self._zip = file, archive
        self.manifest, self.identity = self._read_manifest()

    @property
    def size(self) -> int:
        """Bytes that are stored, before compression."""
        return sum(item.size for item in self.manifest.files.values() if not item.member)

    def verify(self, *, progress: bool = False) -> None:
        """Read all of it and compare it with the manifest.

        Args:
            progress: Show a progress bar.

        Raises:
            StorageError: Something was changed.
        """
        with tqdm(total=self.size, desc="verify", unit="B", unit_scale=True, disable=not progress) as bar:
            for name, item in self.manifest.files.items():
                if not item.member:
                    for chunk in self.chunks(name):
                        bar.update(len(chunk))

    def files(self, prefix: str) -> dict[str, Item]:
        """The files below a prefix (with a slash at its end), by their names below it, in order."""
        found = self.manifest.files
        return {name.removeprefix(prefix): found[name] for name in sorted(found) if name.startswith(prefix)}

    def text(self, name: str) -> str:
        """A text file whole.

        Raises:
            StorageError: There is none, or it is damaged or far too large.
        """
        item = self.manifest.files.get(name)
        if item is None or item.size > LARGEST_DOCUMENT:
            raise damaged(self.file, f"{name} is {'missing' if item is None else 'too large'}")
        with damage(self.file):
            return b"".join(self.chunks(name)).decode("utf-8")

    def lines(self, name: str) -> Iterator[str]:
        """A text file line by line, however long it is.

        Raises:
            StorageError: It is damaged, or a line is far too long.
        """
        rest = b""
        for chunk in self.chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise damaged(self.file, f"{name} has a line that is too long")
            for line in whole:
                with damage(self.file):
                    text = line.decode("utf-8")
                yield text

    def extract(self, prefix: str, folder: Path) -> dict[str, Item]:
        """Write all files below a prefix into a folder.

        Args:
            prefix: With a slash at its end.
            folder: Made if it is not there.

        Returns:
            What was written, as `files` says it.

        Raises:
            StorageError: There is no room for them, or the backup is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = self.files(prefix)
        needed, free = sum(item.size for item in found.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise StorageError(
                "there is no room to unpack a part of the backup",
                evidence=f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
                action="Name a folder with more room with TMPDIR.",
            )
        for name in found:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                for chunk in self.chunks(prefix + name):
                    stream.write(chunk)
        return found

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a file, in pieces.

        Raises:
            StorageError: After the last piece: it is not what the manifest says.
        """
        item = self.manifest.files[name]
        digest, size = hashlib.sha256(), 0
        with damage(self.file), self._zip.open(item.member or name) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        if size != item.size or digest.hexdigest() != item.sha256:
            raise damaged(self.file, f"{name} is not what the manifest says")

    def _read_manifest(self) -> tuple[Manifest, str]:
        stored = {info.filename: info.file_size for info in self._zip.infolist()}
        if len(stored) != len(self._zip.infolist()):
            raise damaged(self.file, "it holds a name twice")
        if stored.pop(MANIFEST, LARGEST_DOCUMENT + 1) > LARGEST_DOCUMENT:
            raise damaged(self.file, f"it holds no {MANIFEST} that can be read")
        with damage(self.file):
            content = self._zip.read(MANIFEST)
            self._check_form(json.loads(content))
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise damaged(self.file, f"{MANIFEST}: {first_problem(error)}") from error
        self._check_files(manifest.files, stored)
        return manifest, hashlib.sha256(content).hexdigest()

    def _check_form(self, content: Any) -> None:
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise damaged(self.file, f"its {MANIFEST} is of something else")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise StorageError(
                f"{self.file} was written in another form",
                evidence=f"schema_version {content.get('schema_version')}, this version reads {SCHEMA_VERSION}",
                action="Import it with the version of this project that wrote it.",
            )

    def _check_files(self, files: dict[str, Item], stored: dict[str, int]) -> None:
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        for name, item in files.items():
            if not is_safe(name) or name in folders or name == MANIFEST:
                raise damaged(self.file, f"the name {name!r} cannot be used")
            kept = files.get(item.member or name)
            if kept is None or kept.member or (kept.sha256, kept.size) != (item.sha256, item.size):
                raise damaged(self.file, f"{name} is the copy of a file that is not there")
        wanted = {name: item.size for name, item in files.items() if not item.member}
        for name in sorted(wanted.keys() - stored.keys()):
            raise damaged(self.file, f"{name} is missing")
        for name in sorted(dict(stored.items() ^ wanted.items())):
            raise damaged(self.file, f"{name} is not what the manifest says")


@contextmanager
def reading(file: Path) -> Iterator[Reader]:
    """Open a backup.

    Raises:
        ConfigError: There is no such file.
        StorageError: It is none, or damaged, or of another form.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not a file", action="Name what `sa2net registry export` wrote.")
    with damage(file):
        archive = zipfile.ZipFile(file)
    with archive:
        yield Reader(file, archive)


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Turn what a damaged file raises into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise damaged(file, error.strerror or str(error)) from error
    except _DAMAGE as error:
        raise damaged(file, " ".join(str(error).split()) or type(error).__name__) from error


def damaged(file: Path, evidence: str) -> StorageError:
    """What is raised for a file of which not all is right."""
    action = "Take another copy of the file, or an earlier backup."
    return StorageError(f"{file} is no whole backup", evidence=evidence, action=action)


def first_problem(error: ValidationError) -> str:
    """What pydantic minds first, in a line without the value."""
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
