"""A data pointer and what comes with it are texts from outside: what is taken, what is refused, and with which words."""

import hashlib
import itertools
import json
import os
import threading
import time
from pathlib import Path

import pytest
from factories import write_data_set
from hypothesis import given
from hypothesis import strategies as st

from sa2net.config import FetchConfig, as_section
from sa2net.data.layout import data_root
from sa2net.data.store.folder import FolderStore
from sa2net.data.store.objects import (
    MissingObjectError,
    Retry,
    TransientError,
    local_path,
    open_store,
    split_s3,
)
from sa2net.data.store.pointer import Pointer, parse_listing, parse_pointer, read_pointer
from sa2net.errors import ConfigError, DataError, Sa2NetError, StorageError

MD5 = "ab289847a1a5fa8bfd0e64efeb72a9b4.dir"
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"
TEXT = f"""outs:
- md5: {MD5}
  size: 10339928
  nfiles: 125
  hash: md5
  path: data
  remote: starter
  push: false
"""


def listing(*files: tuple[str, str]) -> tuple[bytes, Pointer]:
    """A list as DVC writes it, and its pointer."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files)]
    content = json.dumps(entries, sort_keys=True).encode(errors="surrogatepass")
    return content, Pointer("", "data", hashlib.md5(content).hexdigest() + ".dir", None, None)


def test_a_pointer_says_name_identity_and_size() -> None:
    assert parse_pointer(TEXT) == Pointer(TEXT, "data", MD5, 10339928, 125)
    on_one_line = json.dumps({"outs": [{"md5": MD5, "hash": "md5", "path": "scans"}]})
    assert parse_pointer(on_one_line) == Pointer(on_one_line, "scans", MD5, None, None)


@pytest.mark.parametrize("form", ["{}", "{}\n", "file://{}"])
def test_a_pointer_is_read_from_where_it_lies(tmp_path: Path, form: str) -> None:
    (tmp_path / "my data.dvc").write_text(TEXT)
    assert read_pointer(form.format(tmp_path / "my data.dvc")) == TEXT
    assert read_pointer(TEXT) == TEXT
    one_line = json.dumps({"outs": [{"md5": MD5, "hash": "md5", "path": "data"}]})
    assert read_pointer(one_line) == one_line


def test_a_relative_path_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.dvc").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert read_pointer("data.dvc") == TEXT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no list"),
        ("# nothing\n\n", "holds no list"),
        ("[1, 2]\n- x\n", "holds no list"),
        ("outs:\n", "holds no list"),
        ("outs: [3]\n", "holds no list"),
        ("outs: []\n", "names 0 outputs"),
        (TEXT + TEXT.removeprefix("outs:\n"), "names 2 outputs"),
        (TEXT.replace(f"md5: {MD5}", "etag: abc", 1), "names no md5"),
        (TEXT.replace("hash: md5", "hash: sha256"), "hash: 'sha256'"),
        (TEXT.replace("  hash: md5\n", ""), "as DVC 2 wrote it"),
        (TEXT.replace(".dir", ""), "a single file, which is no data set"),
        (TEXT.replace(MD5, "../../etc.dir"), "which is no md5"),
        (TEXT.replace(MD5, MD5.upper()), "which is no md5"),
        (TEXT.replace(f"md5: {MD5}", "md5: 3", 1), "which is no md5"),
        (TEXT.replace("path: data", "path: ../data"), "is a path"),
        (TEXT.replace("path: data", "path: /data"), "is a path"),
        (TEXT.replace("path: data", "path: ''"), "is a path"),
        (TEXT.replace("path: data", "path: 3"), "is no name"),
        (TEXT.replace("path: data", 'path: "a\\u0007b"'), "control"),
        (TEXT.replace("path: data", "path: run.json"), "a name of ours"),
        (TEXT.replace("125", "-1"), "nfiles is -1"),
        (TEXT.replace("125", "true"), "nfiles is True"),
        (TEXT.replace("10339928", "big"), "size is 'big'"),
        ("outs: [\n", "holds no list"),
        ("[" * 5000 + "\n", "holds no list"),
        (TEXT + "# " + "x" * 70_000, "holds no list"),
    ],
)
def test_what_is_not_the_pointer_of_one_folder_is_refused(text: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pointer(text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 3
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("nowhere/data.dvc", StorageError, "does not exist"),
        ("gs://bucket/data.dvc", ConfigError, "cannot be read here"),
        ("s3://bucket", ConfigError, "names no file"),
        ("s3://bucket/", ConfigError, "names no file"),
        ("file://server/data.dvc", ConfigError, "no place on this machine"),
        ("/", ConfigError, "names no file"),
        (".", StorageError, "a folder, not a file"),
    ],
)
def test_an_address_without_a_pointer(address: str, kind: type[Sa2NetError], words: str) -> None:
    with pytest.raises(kind, match=words):
        read_pointer(address)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"x" * 70_000, b"just: text\n"])
def test_a_file_that_is_no_pointer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.dvc").write_bytes(content)
    with pytest.raises(Sa2NetError, match=r"pointer|too large"):
        read_pointer(str(tmp_path / "data.dvc"))


def test_a_list_of_files_worked_by_hand() -> None:
    # md5 of [{"md5": "60b725f10c9c85c70d97880dfe8191b3", "relpath": "a"}, {"md5": "d41d...427e", "relpath": "b/x"}]
    content, pointer = listing(("b/x", EMPTY), ("a", "60b725f10c9c85c70d97880dfe8191b3"))
    assert pointer.md5 == "ad14445233527030c720bb816942a133.dir"
    files = parse_listing(content, pointer)
    assert [(file.path, file.md5) for file in files] == [("a", "60b725f10c9c85c70d97880dfe8191b3"), ("b/x", EMPTY)]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["/etc/passwd"], "leads out"),
        (["../x"], "leads out"),
        (["a/../../x"], "leads out"),
        (["a//b"], "leads out"),
        (["a/./b"], "leads out"),
        ([""], "leads out"),
        (["a/"], "leads out"),
        (["a\\..\\b"], "leads out"),
        (["a\nb"], "control"),
        (["a\x00b"], "control"),
        (["a\u202eb"], "control"),
        (["\ud800"], "control|no text"),
        (["x" * 256], "too long"),
        (["/".join(["x" * 200] * 20)], "too long"),
        (["a", "a"], "twice"),
        (["a", "a/b"], "a file and a folder"),
        (["a/b", "a/b/c/d"], "a file and a folder"),
        ([".git/config"], "never looks"),
        (["a/.dvc/x"], "never looks"),
    ],
)
def test_a_list_that_names_what_must_not_be_written_is_refused(paths: list[str], words: str) -> None:
    content, pointer = listing(*((path, EMPTY) for path in paths))
    with pytest.raises(DataError, match=words) as caught:
        parse_listing(content, pointer)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'[{"md5": "x"}]', b'[{"md5": 3, "relpath": "a"}]', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_list_of_files_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="list of the files cannot be read"):
        parse_listing(content, Pointer("", "data", MD5, None, None))


def test_a_list_must_have_the_identity_and_the_number_of_the_pointer() -> None:
    content, pointer = listing(("a", EMPTY))
    with pytest.raises(DataError, match="another md5"):
        parse_listing(content, Pointer("", "data", MD5, None, None))
    more = content.replace(b'"relpath"', b'"isexec": true, "relpath"')
    with pytest.raises(DataError, match="another md5"):  # the tree could never have the identity of the pointer
        parse_listing(more, Pointer("", "data", hashlib.md5(more).hexdigest() + ".dir", None, None))
    with pytest.raises(DataError, match="1 files, the pointer says 2"):
        parse_listing(content, Pointer("", "data", pointer.md5, None, 2))


@given(st.lists(st.text(st.sampled_from("ab./\\ \n\u00e9"), max_size=8), max_size=4))
def test_a_list_is_refused_or_stays_in_its_folder(paths: list[str]) -> None:
    content, pointer = listing(*((path, EMPTY) for path in paths))
    root = Path("/root of the data")
    try:
        files = parse_listing(content, pointer)
    except DataError:
        return
    written = {Path(os.path.normpath(root / file.path)) for file in files}
    assert len(written) == len(paths)
    assert all(path.is_relative_to(root) and path != root for path in written)
    assert not any(path in other.parents for path in written for other in written)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"remote": ""}, "at least 1 character"),
        ({"remote": "gs://bucket/dvc"}, "of the kind gs://"),
        ({"remote": "s3://key:s3cr3t@bucket"}, "keys or a password"),
        ({"remote": "s3://b", "endpoint_url": "https://user:s3cr3t@s3.example"}, "keys or a password"),
        ({"remote": "s3://b", "jobs": 0}, "jobs"),
    ],
)
def test_settings_that_cannot_work_or_hold_a_secret_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        as_section(FetchConfig, settings)
    assert "s3cr3t" not in str(caught.value)


def test_settings_as_a_pipeline_gives_them() -> None:
    assert as_section(FetchConfig, {"remote": "/mnt/dvc"}, {"jobs": 8.0}).jobs == 8
    assert as_section(FetchConfig, {"remote": "s3://b/a@b"}).remote == "s3://b/a@b"


def test_addresses() -> None:
    assert split_s3("s3://bucket/a/b c#d?e/") == ("bucket", "a/b c#d?e")
    assert split_s3("s3://bucket") == ("bucket", "")
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("~/x") == Path.home() / "x"
    for address in ("s3://", "s3://a", "s3:///x", "s3://Ä/x", "https://host/x"):
        with pytest.raises(ConfigError):
            split_s3(address)
    with pytest.raises(ConfigError) as caught:
        open_store("s3://key:s3cr3t@bucket/x")
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        open_store("s3://bucket", endpoint_url="http://key:s3cr3t@host")
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ConfigError, match="no address of a server"):
        open_store("s3://bucket", endpoint_url="host:9000")


def folder_store(root: Path) -> FolderStore:
    return FolderStore(str(root), Retry(), root)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", "a/..", "x\0", ".sa2net-unfinished.abc"])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text("secret")
    store = folder_store(tmp_path / "root")
    for ask in (store.find, store.read, store.delete, lambda name: store.write(name, b"")):
        with pytest.raises(ConfigError, match="cannot be the name"):
            ask(name)
    assert (tmp_path / "x").read_text() == "secret"


def test_files_that_are_still_being_written_are_not_listed(tmp_path: Path) -> None:
    store = folder_store(tmp_path)
    store.write("a/b", b"1")
    (tmp_path / "a" / ".sa2net-unfinished.x").write_text("half")
    (tmp_path / "a" / "dead").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert [item.name for item in store.list()] == ["a/b"]
    with pytest.raises(StorageError, match="not a regular file"):
        store.read("pipe")
    assert not store.exists("pipe")


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path) -> None:
    store = folder_store(tmp_path / "none")
    assert list(store.list()) == []
    assert list(store.list("x/")) == []
    with pytest.raises(MissingObjectError, match="there is no folder"):
        store.read("x")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        list(folder_store(tmp_path / "file").list())


def test_only_what_fails_in_passing_is_tried_again_and_not_for_ever() -> None:
    calls: list[float] = []

    def failing(error: Exception) -> None:
        calls.append(time.monotonic())
        raise error

    with pytest.raises(TransientError):
        Retry(3, 0.02)(lambda: failing(TransientError("away", action="Wait.")))
    assert len(calls) == 4
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert all(pause >= lowest for pause, lowest in zip(pauses, (0.01, 0.02, 0.04), strict=True))

    calls.clear()
    with pytest.raises(MissingObjectError):
        Retry(3, 0.02)(lambda: failing(MissingObjectError("gone", action="Look.")))
    assert len(calls) == 1


def test_nobody_waits_for_another_attempt_after_the_stop() -> None:
    retry, begun = Retry(5, 500.0), time.monotonic()

    def attempt() -> None:
        raise TransientError("away", action="Wait.")

    threading.Timer(0.2, retry.stopped.set).start()
    with pytest.raises(TransientError):
        retry(attempt)
    assert time.monotonic() - begun < 10


def test_the_root_of_a_data_set_is_found_below_a_folder(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data" / "scoliosis3classes")
    assert data_root(tmp_path) == data_root(tmp_path / "data") == data_root(root) == root
    other = write_data_set(tmp_path / "data" / "other")
    with pytest.raises(DataError, match="2 data sets: data/other, data/scoliosis3classes"):
        data_root(tmp_path)
    assert data_root(other) == other
    with pytest.raises(DataError, match="no data set"):
        data_root(root / "dataset")
    with pytest.raises(DataError, match="no data set"):
        data_root(tmp_path / "nowhere")
