"""Objects in a folder or below an S3 prefix, behind one small interface: names in, files and bytes out.

Who reads a data set, writes the results of a batch or probes a bucket need not know which of the two it is. Errors say
what to do; a store that does not answer is tried again a bounded number of times, and never waited for without end.
"""

import contextlib
import logging
import os
import random
import re
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from sa2net.errors import ConfigError, StorageError

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

CHUNK = 1 << 20
"""Bytes that are read or written at once."""

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, at most."""

UNFINISHED = ".sa2net-unfinished."
"""How the name of a file begins that is still being written; no object of a folder is called so."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class TransientError(StorageError):
    """A store that did not answer, or answered that it cannot just now: worth another try."""


class MissingObjectError(StorageError):
    """There is no such object."""


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing shows it.

    Attributes:
        name: Path below the address of the store, with `/`.
        size: Bytes.
        etag: What the store knows of the content; another content has another one.
    """

    name: str
    size: int
    etag: str


@dataclass
class Retry:
    """How often what failed in passing is tried again.

    Attributes:
        retries: Further attempts after the first.
        backoff_seconds: Pause after the first attempt; doubles, up to `LONGEST_PAUSE`, and is shortened at random by up
            to half, so that many clients do not come back at once.
        stopped: Once set, nobody waits for another attempt.
    """

    retries: int = 2
    backoff_seconds: float = 0.5
    stopped: threading.Event = field(default_factory=threading.Event)

    def __call__(self, attempt: Callable[[], Answer]) -> Answer:
        """Do it, again where that may help.

        Raises:
            TransientError: The last attempt failed too.
        """
        for number in range(self.retries + 1):
            try:
                return attempt()
            except TransientError as error:
                pause = min(self.backoff_seconds * 2**number, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
                if number == self.retries or self.stopped.is_set():
                    raise
                # Without the name of the object: names of scans may be those of patients.
                log.warning("attempt %d failed (%s); the next in %.1f s", number + 1, error.evidence, pause)
                if self.stopped.wait(pause):
                    raise
        raise AssertionError("a loop over at least one attempt has ended without one")


class ObjectStore(ABC):
    """Objects below an address.

    Safe to use from several threads. An object appears whole or not at all. Every method but `chunks` tries again what
    failed in passing.

    Args:
        address: `s3://BUCKET/PREFIX` or a folder, for messages.
        retry: How often what failed in passing is tried again.

    Raises:
        MissingObjectError: From `chunks`, `get` and `read`: no such object.
        TransientError: The store does not answer, after all attempts.
        StorageError: The store refuses us: no keys, no permission, no such bucket.
        ConfigError: A name or setting that cannot be used.
    """

    def __init__(self, address: str, retry: Retry) -> None:
        self.address, self.retry = address.rstrip("/") or "/", retry

    def address_of(self, name: str) -> str:
        """The address of an object, for messages."""
        return f"{self.address.rstrip('/')}/{name}"

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """The objects whose names start with `prefix`, by name; none where the prefix or folder does not exist.

        Args:
            prefix: Start of the names, not necessarily a whole folder: `a` finds `a/b` and `ab`.
        """
        return iter(self.retry(lambda: sorted(self._list(prefix), key=lambda item: item.name)))

    def find(self, name: str) -> StoredObject | None:
        """What the store knows of an object; None where there is none."""
        return self.retry(lambda: self._find(name))

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.find(name) is not None

    @abstractmethod
    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of an object, piece by piece. One attempt, which may fail in the middle."""

    def get(self, name: str, file: Path) -> None:
        """Copy an object into a file, which is replaced; it appears whole or not at all."""

        def attempt() -> None:
            with written_whole(file) as stream:
                for chunk in self.chunks(name):
                    stream.write(chunk)

        self.retry(attempt)

    def read(self, name: str, *, limit: int = 64 << 20) -> bytes:
        """The content of a small object.

        Args:
            name: The object.
            limit: Bytes; a larger object is refused.
        """

        def attempt() -> bytes:
            content = bytearray()
            for chunk in self.chunks(name):
                content += chunk
                if len(content) > limit:
                    raise StorageError(
                        f"{self.address_of(name)} is too large for what it should be",
                        evidence=f"more than {limit} bytes",
                        action="Check the address.",
                    )
            return bytes(content)

        return self.retry(attempt)

    def put(self, file: Path, name: str) -> None:
        """Copy a file into an object, which is replaced."""
        self.retry(lambda: self._put(file, name))

    def write(self, name: str, content: bytes) -> None:
        """Put a small object, which is replaced."""
        self.retry(lambda: self._write(name, content))

    def delete(self, name: str) -> None:
        """Take an object away; nothing happens where there is none."""
        self.retry(lambda: self._delete(name))

    def stop(self) -> None:
        """No further attempts from now on: who waits for one gives up."""
        self.retry.stopped.set()

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[StoredObject]: ...

    @abstractmethod
    def _find(self, name: str) -> StoredObject | None: ...

    @abstractmethod
    def _put(self, file: Path, name: str) -> None: ...

    @abstractmethod
    def _write(self, name: str, content: bytes) -> None: ...

    @abstractmethod
    def _delete(self, name: str) -> None: ...


def open_store(
    address: str,
    *,
    endpoint_url: str = "",
    region: str = "",
    retries: int = 2,
    backoff_seconds: float = 0.5,
    connections: int = 16,
) -> ObjectStore:
    """The store behind an address. Nothing is asked yet: an S3 server may be away.

    Keys, and what is not given here, come from the AWS settings of the environment.

    Args:
        address: `s3://BUCKET/PREFIX`, a folder, or `file:///FOLDER`.
        endpoint_url: Address of the S3 server; empty = that of the AWS settings.
        region: Region of the bucket; empty = that of the AWS settings.
        retries: Further attempts after one that failed in passing.
        backoff_seconds: Pause before the second attempt; doubles.
        connections: Connections to the S3 server, at most.

    Raises:
        ConfigError: An address that is neither.
    """
    retry = Retry(retries, backoff_seconds)
    if address.startswith("s3://"):
        from sa2net.data.store.s3 import S3Store, connect

        bucket, prefix = split_s3(address)
        client = connect(endpoint_url, region, connections=connections)
        return S3Store(address, retry, client, bucket, prefix)
    from sa2net.data.store.folder import FolderStore

    return FolderStore(address, retry, local_path(address))


def split_s3(address: str) -> tuple[str, str]:
    """Bucket and key of `s3://BUCKET/KEY`; the key may be empty.

    Raises:
        ConfigError: Not such an address.
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:  # what stands before it may be a secret: it is not repeated
        raise ConfigError(
            "an S3 address holds keys", action="Write s3://BUCKET/PREFIX; keys come from the environment."
        )
    if scheme != "s3" or not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{address!a} is no S3 address", action="Write s3://BUCKET/PREFIX.")
    return bucket, key.strip("/")


def local_path(address: str) -> Path:
    """The path that a local address means.

    Raises:
        ConfigError: Not a local address.
    """
    if address.startswith("file://"):
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(f"{address} names no place on this machine", action="Write file:///FOLDER.")
        return Path(unquote(parts.path))
    if "://" in address or not address.strip() or "\0" in address:
        scheme, _, rest = address.partition("://")
        shown = ascii(address) if "@" not in rest else f"an address of the kind {scheme}://"
        raise ConfigError(f"{shown} cannot be read here", action="Write s3://BUCKET/PREFIX, or a path.")
    return Path(address).expanduser()


@contextlib.contextmanager
def written_whole(file: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all.

    Args:
        file: Is replaced; its folder is made.
        mode: Its permissions.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(name).chmod(mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
