"""One contract for all stores, held against a folder and two real S3 servers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import aws_environment, moto_server, s3_server, use_aws_environment

from sa2net.data.store.objects import MissingObjectError, ObjectStore, open_store
from sa2net.data.store.s3 import connect
from sa2net.errors import StorageError


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("buckets")) as rclone, moto_server() as moto:
        yield {"rclone": rclone, "moto": moto}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    use_aws_environment(monkeypatch)


@pytest.fixture(params=["folder", "file", "rclone", "moto", "whole-bucket"])
def store(request: pytest.FixtureRequest, endpoints: dict[str, str], tmp_path: Path) -> ObjectStore:
    """An empty store of each kind."""
    kind = request.param
    if kind in ("folder", "file"):
        return open_store(str(tmp_path / "root") if kind == "folder" else f"file://{tmp_path}/root")
    endpoint = endpoints["moto" if kind == "whole-bucket" else kind]
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    connect(endpoint).create_bucket(Bucket=bucket)
    address = f"s3://{bucket}" if kind == "whole-bucket" else f"s3://{bucket}/some/prefix/"
    return open_store(address, endpoint_url=endpoint, backoff_seconds=0.01)


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    return [item.name for item in store.list(prefix)]


def test_what_is_put_can_be_found_listed_and_got_back(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(os.urandom(3_000_000))
    store.put(source, "a/\u00fc \u65e5 #1?.png")
    store.get("a/\u00fc \u65e5 #1?.png", target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    found = store.find("a/\u00fc \u65e5 #1?.png")
    assert found is not None
    assert found in list(store.list())
    assert (found.name, found.size) == ("a/\u00fc \u65e5 #1?.png", 3_000_000)
    assert b"".join(store.chunks(found.name)) == source.read_bytes()


def test_small_contents(store: ObjectStore) -> None:
    store.write("empty", b"")
    store.write("x", b"one")
    assert (store.read("empty"), store.read("x")) == (b"", b"one")
    before = store.find("x")
    store.write("x", b"three")
    after = store.find("x")
    assert before is not None and after is not None
    assert (store.read("x"), after.size) == (b"three", 5)
    assert before.etag != after.etag
    with pytest.raises(StorageError, match="too large"):
        store.read("x", limit=4)


def test_a_prefix_is_the_start_of_a_name(store: ObjectStore) -> None:
    for name in ("b", "a/2", "a/1", "ab/1", "a/deep/er/3"):
        store.write(name, b"x")
    assert names(store) == ["a/1", "a/2", "a/deep/er/3", "ab/1", "b"]
    assert names(store, "a/") == ["a/1", "a/2", "a/deep/er/3"]
    assert names(store, "a") == ["a/1", "a/2", "a/deep/er/3", "ab/1"]
    assert names(store, "a/deep/e") == ["a/deep/er/3"]
    assert names(store, "c") == names(store, "c/d/") == []


def test_what_is_not_there(store: ObjectStore, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store.write("a/b", b"x")
    # Where objects are plain files, rclone takes a folder for one half of an object, and deletes what is in it.
    for name in ("none", *(() if "rclone" in request.node.name else ("a", "a/b/c"))):
        assert store.find(name) is None
        assert not store.exists(name)
        store.delete(name)
    with pytest.raises(MissingObjectError, match="none does not exist"):
        store.read("none")
    with pytest.raises(MissingObjectError):
        store.get("none", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert store.exists("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    assert names(store) == []


def test_more_objects_than_one_page_holds(endpoints: dict[str, str]) -> None:
    client = connect(endpoints["moto"])
    client.create_bucket(Bucket="many")
    for number in range(1005):
        client.put_object(Bucket="many", Key=f"p/{number:04d}")
    client.put_object(Bucket="many", Key="p/")  # the marker of an empty folder is no object
    store = open_store("s3://many/p", endpoint_url=endpoints["moto"])
    assert names(store) == [f"{number:04d}" for number in range(1005)]


def test_a_large_file_goes_in_parts(endpoints: dict[str, str], tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as stream:
        stream.truncate(70 << 20)
        stream.seek(69 << 20)
        stream.write(b"the end")
    connect(endpoints["rclone"]).create_bucket(Bucket="large")
    store = open_store("s3://large", endpoint_url=endpoints["rclone"])
    store.put(source, "x")
    store.get("x", target)
    assert target.stat().st_size == source.stat().st_size
    assert target.read_bytes() == source.read_bytes()


def test_the_server_may_be_named_by_the_environment(endpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoints["rclone"])
    connect().create_bucket(Bucket="named")
    store = open_store("s3://named")
    store.write("x", b"1")
    assert store.read("x") == b"1"


def test_a_bucket_that_is_not_there_or_closed(endpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://nowhere/x", endpoint_url=endpoints["rclone"])
    for ask in (lambda: names(store), lambda: store.write("a", b""), lambda: store.read("a")):
        with pytest.raises(StorageError, match="there is no bucket nowhere"):
            ask()
    for name, value in aws_environment("somebody", "else").items():
        monkeypatch.setenv(name, value)
    closed = open_store("s3://nowhere/x", endpoint_url=endpoints["rclone"])
    for ask in (lambda: names(closed), lambda: closed.write("a", b""), lambda: closed.find("a")):
        with pytest.raises(StorageError, match="refuses"):
            ask()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    store = open_store(str(tmp_path / "root"))
    with pytest.raises(StorageError, match="cannot be written"):
        store.write("a", b"")
    assert store.find("a") is None
