"""Objects that are the files of a folder: a disk, a share, a volume."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sa2net.data.store.objects import (
    CHUNK,
    UNFINISHED,
    MissingObjectError,
    ObjectStore,
    Retry,
    StoredObject,
    written_whole,
)
from sa2net.errors import ConfigError, StorageError


class FolderStore(ObjectStore):
    """Objects that are the files of a folder."""

    def __init__(self, address: str, retry: Retry, root: Path) -> None:
        super().__init__(address, retry)
        self._root = root

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `ObjectStore.chunks`."""
        path = self._path(name)
        with self._errors(name, "read"):
            kind = path.stat().st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, "a folder, not a file")
            if not stat.S_ISREG(kind):
                raise OSError(0, "not a regular file")  # a pipe would never end
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        folder, _, _ = prefix.rpartition("/")
        start = self._path(folder) if folder else self._root
        with self._errors(prefix, "listed"):
            if not start.exists():
                return
            for place, _, names in os.walk(start, onerror=_raise):
                for path in (Path(place, name) for name in names if not name.startswith(UNFINISHED)):
                    name = path.relative_to(self._root).as_posix()
                    found = self._find(name) if name.startswith(prefix) else None
                    if found is not None:
                        yield found

    def _find(self, name: str) -> StoredObject | None:
        path = self._path(name)
        with self._errors(name, "looked at"):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return StoredObject(name, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def _put(self, file: Path, name: str) -> None:
        with self._errors(name, "written"), file.open("rb") as source, written_whole(self._path(name)) as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)

    def _write(self, name: str, content: bytes) -> None:
        with self._errors(name, "written"), written_whole(self._path(name)) as target:
            target.write(content)

    def _delete(self, name: str) -> None:
        with self._errors(name, "deleted"), contextlib.suppress(NotADirectoryError, IsADirectoryError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if "\0" in name or any(part in ("", ".", "..") or part.startswith(UNFINISHED) for part in parts):
            raise ConfigError(
                f"{name!a} cannot be the name of an object in a folder", action="Name a path below the folder."
            )
        return self._root.joinpath(*parts)

    @contextlib.contextmanager
    def _errors(self, name: str, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            evidence = error.strerror or str(error)
            if verb == "read" and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                if not self._root.is_dir():
                    evidence = f"there is no folder {self._root}"
                raise MissingObjectError(
                    f"{self.address_of(name)} does not exist", evidence=evidence, action="Check the address."
                ) from error
            raise StorageError(
                f"{self.address_of(name)} cannot be {verb}",
                evidence=evidence,
                action="Check the place, its permissions and its room.",
            ) from error


def _raise(error: OSError) -> None:
    raise error
