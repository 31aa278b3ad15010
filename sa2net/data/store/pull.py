"""Pull a data set from a DVC remote, without git and without a DVC repository.

Done here and not by DVC, because every object has to be verified, tried again and resumed on a node that holds nothing
but a pointer; DVC takes a changed object for right unless the remote's own configuration says otherwise.
"""

import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from sa2net.artifacts import RUN_JSON, check_replaceable, write_text
from sa2net.data.store.cache import ObjectCache
from sa2net.data.store.identity import data_md5, pointer_md5, pointer_path
from sa2net.data.store.objects import ObjectStore
from sa2net.data.store.pointer import ListedFile, Pointer, parse_listing, parse_pointer, read_pointer
from sa2net.errors import ConfigError, DataError, StorageError

__all__ = ["Pointer", "Pulled", "parse_pointer", "pull", "read_pointer"]

log = logging.getLogger(__name__)
LARGEST_LISTING = 1 << 30
"""Bytes: the list of some ten million files."""


@dataclass(frozen=True)
class Pulled:
    """A data set that is here now.

    Attributes:
        tree: Its folder; the pointer lies beside it.
        files: Number of files.
        size: Bytes of all files.
        pulled: Objects that came from the remote this time, the list of files included; the others were here.
    """

    tree: Path
    files: int
    size: int
    pulled: int


def pull(
    pointer: Pointer, store: ObjectStore, out: Path, *, cache: Path | None = None, jobs: int = 4, progress: bool = True
) -> Pulled:
    """Bring a data set here: `out/NAME` and `out/NAME.dvc`.

    `out` appears whole or not at all. What has been pulled when this ends before its time is used by the next attempt:
    from `cache`, or without one from a folder `.OUT.partial` beside `out`.

    Args:
        pointer: Which data set.
        store: The DVC remote.
        out: New folder, or one that an earlier pull wrote and nobody changed.
        cache: Folder that keeps the objects; may be shared.
        jobs: Objects pulled at once.
        progress: Show a progress bar.

    Raises:
        DataError: The list of files is refused, its size is not the pointer's, or `out` holds other files.
        StorageError: The remote lacks an object, gives other bytes, or does not answer; or there is no room here.
        ConfigError: `out` cannot be replaced by a folder.
    """
    out = out.resolve()
    tree = out / pointer.name
    if _is_there(pointer, out):
        log.info("%s is there already", tree)
        count, size = _check_size(pointer, tree)
        write_text(pointer_path(tree), pointer.text)
        return Pulled(tree, count, size, pulled=0)
    _check_out(pointer, out)
    try:
        with _workplace(out) as work:
            kept = ObjectCache(cache.expanduser().absolute()) if cache else ObjectCache(work / "objects", mode=0o644)
            kept.sweep()
            files, pulled = _bring(pointer, store, kept, jobs=jobs, progress=progress)
            fresh = work / "out"
            shutil.rmtree(fresh, ignore_errors=True)
            _put_together(files, kept, fresh / pointer.name, link=cache is None)
            write_text(pointer_path(fresh / pointer.name), pointer.text)
            _check_identity(pointer, fresh / pointer.name)
            count, size = _check_size(pointer, fresh / pointer.name)
            _place(fresh, out, work / "old")
            return Pulled(tree, count, size, pulled)
    except OSError as error:
        raise StorageError(
            f"the data set cannot be written to {out}",
            evidence=f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "),
            action="Check permissions and room; --out names a folder in a folder that can be written.",
        ) from error


def _is_there(pointer: Pointer, out: Path) -> bool:
    tree = out / pointer.name
    return tree.is_dir() and pointer_md5(tree) == pointer.md5 and data_md5(tree) == pointer.md5


def _check_out(pointer: Pointer, out: Path) -> None:
    """Refuse to replace anything but what a pull wrote and nobody changed."""
    if not out.name:
        raise ConfigError(f"{out} cannot be replaced", action="Name a folder with --out.")
    tree = out / pointer.name
    check_replaceable(out, {pointer.name, pointer_path(tree).name, RUN_JSON})
    if tree.exists() and (pointer_md5(tree) is None or data_md5(tree) != pointer_md5(tree)):
        raise DataError(
            f"{tree} would be replaced, and is not as it was fetched",
            evidence=f"it is not what {pointer_path(tree).name} beside it names",
            action="Name a new folder with --out, or move it away.",
        )


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is this process's alone; goes when all is done, stays for the next attempt if not."""
    work = out.with_name(f".{out.name}.partial")
    lock = FileLock(work / "lock")
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(
                f"another process is fetching into {out}", action="Wait for it, or name another folder with --out."
            ) from error
        except FileNotFoundError:
            continue
        if (work / "lock").exists():
            break
        lock.release()  # the one before us has just cleared the folder away, and this lock with it
    try:
        yield work
        shutil.rmtree(work)
    finally:
        if not (work / "objects").exists():  # nothing here that the next attempt could use
            shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _bring(
    pointer: Pointer, store: ObjectStore, kept: ObjectCache, *, jobs: int, progress: bool
) -> tuple[Sequence[ListedFile], int]:
    """See that all objects are here; return the files and how many objects were pulled."""
    pulled = int(kept.bring(store, pointer.md5, lambda _: None, limit=LARGEST_LISTING))
    files = parse_listing(kept.path(pointer.md5).read_bytes(), pointer)
    copies, counting = Counter(file.md5 for file in files), threading.Lock()
    with (
        tqdm(total=pointer.size, unit="B", unit_scale=True, desc="fetch", disable=not progress) as bar,
        ThreadPoolExecutor(jobs, thread_name_prefix="pull") as pool,
    ):

        def one(md5: str) -> bool:
            def moved(size: int) -> None:
                with counting:
                    bar.update(size * copies[md5])

            return kept.bring(store, md5, moved, limit=pointer.size)

        futures = [pool.submit(one, md5) for md5 in copies]
        try:
            pulled += sum(future.result() for future in as_completed(futures))
        except BaseException:
            store.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return files, pulled


def _put_together(files: Sequence[ListedFile], kept: ObjectCache, tree: Path, *, link: bool) -> None:
    """Make the tree of the objects.

    Args:
        files: What it consists of.
        kept: Where the objects are.
        tree: New folder.
        link: Whether the objects are nobody else's, so that the first file of each may be the object itself.
    """
    tree.mkdir(parents=True)
    used: set[str] = set()
    for file in files:
        target, source = tree / file.path, kept.path(file.md5)
        target.parent.mkdir(parents=True, exist_ok=True)
        if link and file.md5 not in used and _linked(source, target):
            used.add(file.md5)
        else:
            shutil.copyfile(source, target)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        return False
    return True


def _check_identity(pointer: Pointer, tree: Path) -> None:
    """The last look, at what lies on the disk."""
    found = data_md5(tree)
    if found != pointer.md5:
        raise StorageError(
            f"what was put together is not the data set {pointer.md5}",
            evidence=f"its md5 is {found}",
            action="Fetch again; if it stays so, look at the disk, or for names that it does not tell apart.",
        )


def _check_size(pointer: Pointer, tree: Path) -> tuple[int, int]:
    """Number of files and bytes of a tree, which must be those of the pointer."""
    sizes = [path.stat().st_size for path in tree.rglob("*") if path.is_file()]
    files, size = len(sizes), sum(sizes)
    if pointer.files not in (None, files) or pointer.size not in (None, size):
        raise DataError(
            f"{pointer.name} is not as large as its pointer says",
            evidence=f"{files} files with {size} bytes, the pointer says {pointer.files} files with {pointer.size} bytes",
            action="Add the data set again with DVC, and give the new pointer.",
        )
    return files, size


def _place(fresh: Path, out: Path, old: Path) -> None:
    """Put the finished folder where it belongs; an earlier one goes only when the new one is there."""
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        raise
