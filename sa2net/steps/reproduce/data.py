"""The data set of a version: what lies here, if its content is the same, else pulled from its DVC remote and verified."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa2net.data.layout import data_root
from sa2net.data.store import data_md5, dvc_cache_dir, pointer_remote
from sa2net.data.store.dvc import remote_settings
from sa2net.data.store.objects import open_store
from sa2net.data.store.pull import Pointer, parse_pointer, pull
from sa2net.errors import DataError, Sa2NetError, StorageError

log = logging.getLogger(__name__)
_NAME_IT = "Name it with --data (the folder that holds dataset/ and groundtruth/); `dvc pull` brings it here."


@dataclass(frozen=True)
class Found:
    """A data set that is here.

    Attributes:
        root: Folder that holds dataset/ and groundtruth/.
        source: Where it was found, for people.
    """

    root: Path
    source: str


def obtain(md5: str, *, checkout: Path, project: Path, given: Sequence[Path], scratch: Path, progress: bool) -> Found:
    """Find the data set with an identity.

    Args:
        md5: Its identity.
        checkout: The project at the revision of the version: its pointer says which data set it was.
        project: The project here: its DVC configuration says where the remotes are. Nothing in it is changed.
        given: Folders that somebody named; one of them must be it.
        scratch: Where a data set is pulled to.
        progress: Show a progress bar.

    Raises:
        DataError: What is here, or what the pointer names, is another data set.
        StorageError: It is not here, and no remote gives it.
    """
    if given:
        contents = {data_md5(folder): folder for folder in given}
        if md5 not in contents:
            raise DataError(
                f"{', '.join(map(str, given))} is not the data set of this version",
                evidence=f"its content is {', '.join(contents)}, the version was made with {md5}",
                action="Name the folder as it was then, with its data.dvc beside the folder that DVC tracks.",
            )
        return Found(contents[md5], "named with --data")
    pointers = [(file, pointer) for file, pointer in _pointers(checkout) if pointer.md5 == md5]
    for file, pointer in pointers:
        here = project / file.relative_to(checkout).parent / pointer.name
        if here.is_dir() and (here.with_name(f"{here.name}.dvc")).is_file() and data_md5(here) == md5:
            return Found(data_root(here), "here already, of the same content")
    if not pointers:
        named = ", ".join(pointer.md5 for _, pointer in _pointers(checkout)) or "no pointer"
        raise DataError(
            f"the data set {md5} of this version cannot be found",
            evidence=f"its revision names {named}",
            action=_NAME_IT,
        )
    file, pointer = pointers[0]
    return _pulled(pointer, file, checkout, project, scratch, progress=progress)


def _pointers(checkout: Path) -> Iterator[tuple[Path, Pointer]]:
    """DVC's pointers of folders in a checkout."""
    for file in sorted(checkout.glob("*.dvc")):
        if file.is_file():
            try:
                yield file, parse_pointer(file.read_text(encoding="utf-8"))
            except (DataError, UnicodeDecodeError):
                continue  # the pointer of a single file, or of several


def _pulled(pointer: Pointer, file: Path, checkout: Path, project: Path, scratch: Path, *, progress: bool) -> Found:
    """Pull a data set from DVC's cache here, else from its remote; every object is verified."""
    failures: list[Sa2NetError] = []
    for address, endpoint_url, region in _places(file, checkout, project):
        try:
            done = pull(
                pointer,
                open_store(address, endpoint_url=endpoint_url, region=region),
                scratch / pointer.name,
                progress=progress,
            )
            return Found(data_root(done.tree), f"pulled from {address}")
        except (StorageError, DataError) as error:
            log.info("the data set is not at %s: %s", address, error)
            failures.append(error)
    evidence = f"{failures[-1]}" if failures else "no DVC remote is configured"
    raise StorageError(
        f"the data set {pointer.md5} of this version cannot be pulled", evidence=evidence, action=_NAME_IT
    )


def _places(file: Path, checkout: Path, project: Path) -> Iterator[tuple[str, str, str]]:
    """Where the objects may be (address, S3 server, region): DVC's cache, the remote as it is configured here, and as it was."""
    cache = dvc_cache_dir(project)
    if cache is not None and cache.is_dir():
        yield str(cache), "", ""
    name = pointer_remote(file.with_suffix("")) or ""
    for home in (project, checkout):
        settings = remote_settings(home / file.name, name)
        if settings:
            yield settings["remote"], settings.get("endpoint_url", ""), settings.get("region", "")
