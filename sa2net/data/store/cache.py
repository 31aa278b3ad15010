"""Objects of DVC on this machine: kept by their md5, whole and verified, in the layout of DVC's own cache.

Several processes may use one folder at once: an object appears whole, under the name of its content, or not at all.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sa2net.data.store.identity import file_md5
from sa2net.data.store.objects import MissingObjectError, ObjectStore, TransientError, written_whole
from sa2net.errors import DataError, StorageError

Moved = Callable[[int], None]
"""Is told how many more bytes of an object have come; a negative number takes back those of a failed attempt."""

_ABANDONED_SECONDS = 24 * 3600
"""After so long nobody is writing an unfinished file any more."""


@dataclass(frozen=True)
class ObjectCache:
    """Verified objects in a folder.

    Attributes:
        folder: May be shared, and may be DVC's own cache.
        mode: Permissions of an object.
    """

    folder: Path
    mode: int = 0o444

    def path(self, md5: str) -> Path:
        """Where an object lies.

        Args:
            md5: Of its content; with `.dir` for a list of files.
        """
        return self.folder / object_name(md5)

    def holds(self, md5: str) -> bool:
        """Whether an object is here and whole; a damaged one is dropped."""
        path = self.path(md5)
        if not path.is_file():
            return False
        if file_md5(path) == md5[:32]:
            return True
        path.unlink(missing_ok=True)
        return False

    def bring(self, store: ObjectStore, md5: str, moved: Moved, *, limit: int | None = None) -> bool:
        """See that an object is here: from before, else from a remote.

        Args:
            store: The remote.
            md5: Which object.
            moved: Is told of every piece, and of the whole where it was here.
            limit: Bytes; a larger object is refused.

        Returns:
            Whether it had to be pulled.

        Raises:
            StorageError: The remote lacks it, gives other bytes, or does not answer.
            DataError: It is larger than it may be.
        """
        if self.holds(md5):
            moved(self.path(md5).stat().st_size)
            return False
        store.retry(lambda: self._pull(store, md5, moved, limit))
        return True

    def _pull(self, store: ObjectStore, md5: str, moved: Moved, limit: int | None) -> None:
        name, digest, size = object_name(md5), hashlib.md5(usedforsecurity=False), 0
        try:
            with written_whole(self.path(md5), mode=self.mode) as stream:
                for chunk in store.chunks(name):
                    if store.retry.stopped.is_set():
                        raise TransientError("the pull was stopped", action="Fetch again: it goes on from here.")
                    size += len(chunk)
                    moved(len(chunk))
                    if limit is not None and size > limit:
                        raise DataError(
                            f"{store.address_of(name)} is larger than the pointer allows",
                            evidence=f"more than {limit} bytes",
                            action="Add and push the data set again with DVC, or check the remote.",
                        )
                    digest.update(chunk)
                    stream.write(chunk)
                if digest.hexdigest() != md5[:32]:
                    raise StorageError(
                        f"{store.address_of(name)} does not hold what its name says",
                        evidence=f"its {size} bytes have the md5 {digest.hexdigest()}",
                        action="Delete the object there, and run `dvc push` where the data set was added.",
                    )
        except MissingObjectError as error:
            raise StorageError(
                f"the DVC remote {store.address} lacks an object of the data set",
                evidence=f"{name}: {error.evidence}",
                action="Whoever added the data set runs `dvc push` to this remote; or correct the setting `remote`.",
            ) from error
        except BaseException:
            moved(-size)
            raise

    def sweep(self) -> None:
        """Take away what killed processes left unfinished long ago."""
        for path in self.folder.glob("files/md5/*/.sa2net-unfinished.*"):
            try:
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer, or another sweep, was quicker


def object_name(md5: str) -> str:
    """Name of an object in a DVC 3 remote or cache."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"
