"""DVC's pointer of a data set and its list of files, read as what they are: texts from outside.

Both name places on the disk of whoever reads them. Nothing is fetched or written before every name has been judged.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from sa2net.artifacts import RUN_JSON
from sa2net.data.layout import name_problem
from sa2net.data.store.identity import UNTRACKED_FOLDERS, listing_md5
from sa2net.data.store.objects import local_path, open_store
from sa2net.errors import ConfigError, DataError

LARGEST_POINTER = 64 << 10
"""Bytes; a pointer has a few lines."""

_DIRECTORY = re.compile(r"[0-9a-f]{32}\.dir")
_FILE = re.compile(r"[0-9a-f]{32}")
_LONGEST_PART, _LONGEST_PATH = 255, 3000  # bytes; the second leaves room for the folder below the system's 4096
_ADD = "Give the `data.dvc` that `dvc add` writes for the folder of a data set."


@dataclass(frozen=True)
class Pointer:
    """What a pointer says.

    Attributes:
        text: The pointer itself.
        name: Name of the folder.
        md5: Identity of its content, with the suffix `.dir`.
        size: Bytes of all files; None where it does not say.
        files: Number of files; None where it does not say.
    """

    text: str
    name: str
    md5: str
    size: int | None
    files: int | None


@dataclass(frozen=True)
class ListedFile:
    """A file of a data set: its path below the folder, and the md5 of its content."""

    path: str
    md5: str


def read_pointer(pointer: str, *, endpoint_url: str = "", region: str = "") -> str:
    """The text of a pointer, from the text itself or from where it lies.

    Args:
        pointer: The text, or the address of a `data.dvc`: a path, file:///PATH or s3://BUCKET/KEY.
        endpoint_url: Address of the S3 server; empty = that of the AWS settings.
        region: Region of the bucket; empty = that of the AWS settings.

    Raises:
        DataError: What is there is not the pointer of a data set.
        StorageError: Nothing is there, or it cannot be read.
        ConfigError: An address that cannot be used.
    """
    text = pointer
    if _is_address(pointer):
        address = pointer.strip()
        place = address if address.startswith("s3://") else str(local_path(address).absolute())
        folder, _, name = place.rpartition("/")
        if not name or folder == "s3:/":
            raise ConfigError(f"{address} names no file", action="Name the data.dvc itself.")
        store = open_store(folder or "/", endpoint_url=endpoint_url, region=region)
        try:
            text = store.read(name, limit=LARGEST_POINTER).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{address} is not a DVC pointer", evidence="it is no UTF-8 text", action=_ADD) from error
    parse_pointer(text)
    return text


def _is_address(pointer: str) -> bool:
    """Whether this is one word of YAML, and not a mapping of keys to values."""
    text = pointer.strip()
    return "\n" not in text and len(text) <= _LONGEST_PATH and isinstance(_yaml(text), str)


def parse_pointer(text: str) -> Pointer:
    """Read the text of a pointer.

    Raises:
        DataError: It is not the pointer of one folder whose content is known by its md5.
    """
    content = _yaml(text) if len(text) <= LARGEST_POINTER else None
    outs = content.get("outs") if isinstance(content, dict) else None
    if not isinstance(outs, list) or not all(isinstance(out, dict) for out in outs):
        raise _refused("it holds no list `outs`")
    if len(outs) != 1:
        raise _refused(f"it names {len(outs)} outputs, where a data set is one")
    out = outs[0]
    name, md5 = out.get("path"), out.get("md5")
    if md5 is None:
        raise _refused("it names no md5")
    if out.get("hash") != "md5":
        raise DataError(
            "the DVC pointer names its content in another way than by md5",
            evidence=f"hash: {out.get('hash', 'absent, as DVC 2 wrote it')!a}",
            action="Add the folder again with DVC 3 (`dvc add`), and push it.",
        )
    if not isinstance(md5, str) or not _DIRECTORY.fullmatch(md5):
        what = "a single file, which is no data set" if _FILE.fullmatch(str(md5)) else f"{md5!a}, which is no md5"
        raise _refused(f"it names {what}")
    problem = name_problem(name) if isinstance(name, str) else "is no name"
    if problem or name == RUN_JSON:
        raise _refused(f"its path {name!a} {problem or 'is a name of ours'}")
    return Pointer(text, str(name), md5, _count(out, "size"), _count(out, "nfiles"))


def parse_listing(content: bytes, pointer: Pointer) -> tuple[ListedFile, ...]:
    """Read DVC's list of the files of a folder.

    Args:
        content: The list, as the remote gave it.
        pointer: What it is the list of.

    Raises:
        DataError: It is not such a list, names a path that leads out of the folder or cannot be written, or has
            another identity or number of files than the pointer.
    """
    files = tuple(_listed(content))
    problem = next((problem for problem in map(_path_problem, files) if problem), "") or _collision(files)
    if problem:
        raise _list_refused(pointer, problem)
    if listing_md5((file.path, file.md5) for file in files) != pointer.md5:
        raise _list_refused(pointer, "its content has another md5 than the pointer")
    if pointer.files not in (None, len(files)):
        raise _list_refused(pointer, f"it holds {len(files)} files, the pointer says {pointer.files}")
    return files


def _listed(content: bytes) -> Iterable[ListedFile]:
    try:
        entries = json.loads(content)
        if not isinstance(entries, list):
            raise TypeError("its top level is no list")
        for entry in entries:
            path, md5 = entry["relpath"], entry["md5"]
            if not isinstance(path, str) or not isinstance(md5, str) or not _FILE.fullmatch(md5):
                raise TypeError(f"an entry is {ascii(entry)[:100]}")
            yield ListedFile(path, md5)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise DataError(
            "DVC's list of the files cannot be read", evidence=f"{type(error).__name__}: {error}", action=_ADD
        ) from error


def _path_problem(file: ListedFile) -> str:
    """Why a path cannot be written below the folder; empty where it can."""
    parts, shown = file.path.split("/"), ascii(file.path)[:100]
    if any(part in ("", ".", "..") for part in parts) or "\\" in file.path:
        return f"the path {shown} leads out of the folder"
    if not file.path.isprintable():
        return f"the path {shown} holds a control or invisible character"
    try:
        longest, whole = max(len(part.encode()) for part in parts), len(file.path.encode())
    except UnicodeEncodeError:
        return f"the path {shown} is no text"
    if longest > _LONGEST_PART or whole > _LONGEST_PATH:
        return f"the path {shown} is too long"
    if UNTRACKED_FOLDERS & set(parts):
        return f"the path {shown} lies where DVC never looks"
    return ""


def _collision(files: Iterable[ListedFile]) -> str:
    """Which path stands in the way of another; empty where none does."""
    paths = [file.path for file in files]
    known = set(paths)
    if len(known) < len(paths):
        return f"the path {next(path for path in known if paths.count(path) > 1)!a} is there twice"
    for path in paths:
        parts = path.split("/")
        above = next(
            ("/".join(parts[:depth]) for depth in range(1, len(parts)) if "/".join(parts[:depth]) in known), ""
        )
        if above:
            return f"the path {above!a} is a file and a folder"
    return ""


def _count(out: dict[str, Any], key: str) -> int | None:
    value = out.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise _refused(f"{key} is {value!a}")
    return value


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None


def _refused(evidence: str) -> DataError:
    return DataError("the text is not the DVC pointer of a data set", evidence=evidence, action=_ADD)


def _list_refused(pointer: Pointer, evidence: str) -> DataError:
    return DataError(
        f"DVC's list of the files of {pointer.name} ({pointer.md5}) is refused", evidence=evidence, action=_ADD
    )
