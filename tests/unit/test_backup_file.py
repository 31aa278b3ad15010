"""The file of a backup: written whole or not at all, and of a hostile or damaged one nothing is believed."""

import json
import resource
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from sa2net.errors import ConfigError, StorageError
from sa2net.registry.backup.documents import Registered, VersionRecord, mapped
from sa2net.registry.backup.manifest import KIND, is_safe
from sa2net.registry.backup.reader import Reader, reading
from sa2net.registry.backup.writer import writing

CONTENTS = {
    "registry.json": b"{}\n",
    "versions/1/weights.safetensors": b"\0" * 5000,
    "runs/a/note.txt": b"hello " * 2000,
}


def write(file: Path, contents: dict[str, bytes], *, force: bool = False) -> str:
    with writing(file, force=force) as writer:
        for name, content in contents.items():
            with tempfile.NamedTemporaryFile() as scratch:
                Path(scratch.name).write_bytes(content)
                writer.add(Path(scratch.name), name)
        return writer.close("sa2net", made_with={}, faults=())


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    write(tmp_path / "backup.zip", CONTENTS)
    return tmp_path / "backup.zip"


def test_what_was_written_is_read_again(backup: Path, tmp_path: Path):
    with reading(backup) as found:
        found.verify()
        assert found.text("registry.json") == "{}\n"
        assert list(found.lines("registry.json")) == ["{}"]
        assert list(found.extract("versions/", tmp_path / "out")) == ["1/weights.safetensors"]
    assert (tmp_path / "out" / "1" / "weights.safetensors").read_bytes() == b"\0" * 5000
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600  # scan names lie in it


def test_the_same_content_is_the_same_file_and_is_stored_once(backup: Path, tmp_path: Path):
    again = write(tmp_path / "again.zip", CONTENTS)
    assert (tmp_path / "again.zip").read_bytes() == backup.read_bytes()
    twice = write(tmp_path / "twice.zip", {**CONTENTS, "runs/a/weights.safetensors": b"\0" * 5000})
    assert twice != again
    assert (tmp_path / "twice.zip").stat().st_size < backup.stat().st_size + 1000
    with reading(tmp_path / "twice.zip") as found:
        found.verify()
        found.extract("runs/a/", tmp_path / "run")
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == b"\0" * 5000


def test_nothing_is_replaced_unasked_and_a_failure_leaves_nothing(backup: Path, tmp_path: Path):
    before = backup.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        write(backup, {})
    with pytest.raises(ConfigError, match="is not a folder"):
        write(tmp_path / "nowhere" / "backup.zip", {})
    with pytest.raises(ConfigError, match="is a folder"):
        write(tmp_path, {}, force=True)

    def fails() -> None:
        with writing(backup, force=True) as writer:
            writer.add_text("half", "registry.json")
            raise ConnectionError("the server went away")

    with pytest.raises(ConnectionError):
        fails()
    assert backup.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["backup.zip"]
    write(backup, {"registry.json": b"other"}, force=True)
    assert backup.read_bytes() != before


def test_a_full_disk_is_said(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    try:
        with pytest.raises(StorageError, match=r"backup\.zip cannot be written: File too large"):
            write(tmp_path / "backup.zip", {"a.bin": b"0" * (1 << 18), "b.bin": b"1" * (1 << 18)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a", True), ("a/b.txt", True), ("a b/ü-1.png", True), ("runs/a:b", True),
        ("", False), ("/a", False), ("a/", False), ("a//b", False), ("../a", False), ("a/../b", False), ("./a", False),
        ("C:/a", False), ("a\\b", False), ("a\nb", False), ("a\0b", False), ("a/" + "b" * 1000, False),
    ],
)  # fmt: skip
def test_names(name: str, safe: bool):
    assert is_safe(name) == safe


def test_every_cut_is_found(backup: Path):
    whole = backup.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        backup.write_bytes(whole[:length])
        with pytest.raises(StorageError, match="no whole backup"):
            read_all(backup)


def test_every_changed_byte_is_found_or_changes_nothing(backup: Path):
    """Only bytes that say nothing of the content (times, marks of the system) may be others."""
    whole = backup.read_bytes()
    found = 0
    for position in range(0, len(whole), 7):
        backup.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert read_all(backup) == CONTENTS, position
        except StorageError:
            found += 1
    assert found > 0.95 * len(whole) / 7


def read_all(file: Path) -> dict[str, bytes]:
    with reading(file) as found:
        found.verify()
        return {name: b"".join(found.chunks(name)) for name in sorted(found.manifest.files, key=list(CONTENTS).index)}


def rebuilt(file: Path, change: Callable[[dict[str, bytes], dict[str, object]], object]) -> None:
    """Write the file anew, as somebody would who knows its form."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(members, manifest)
    file.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**members, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)


def renamed(new: str) -> Callable[[dict[str, bytes], dict[str, object]], None]:
    def change(members: dict[str, bytes], manifest: dict) -> None:
        members[new] = members.pop("registry.json")
        manifest["files"][new] = manifest["files"].pop("registry.json")

    return change


HOSTILE = {
    "a member is missing": (lambda members, manifest: members.pop("registry.json"), "registry.json is missing"),
    "a member too many": (lambda members, manifest: members.update(more=b""), "more is not what"),
    "another content": (lambda members, manifest: members.update({"registry.json": b"[]\n"}), "registry.json is not what"),
    "out of the folder": (renamed("../../registry.json"), "cannot be used"),
    "from the root": (renamed("/etc/registry.json"), "cannot be used"),
    "a file as a folder": (renamed("runs/a/note.txt/more"), "cannot be used"),
    "the manifest's name": (lambda members, manifest: manifest["files"].update({"manifest.json": manifest["files"]["registry.json"]}), "cannot be used"),
    "a copy of nothing": (lambda members, manifest: manifest["files"]["registry.json"].update(member="else"), "copy of a file"),
    "a copy of itself": (lambda members, manifest: manifest["files"]["registry.json"].update(member="registry.json"), "copy of a file"),
    "another size": (lambda members, manifest: manifest["files"]["registry.json"].update(size=10**12), "not what the manifest"),
    "a negative size": (lambda members, manifest: manifest["files"]["registry.json"].update(size=-1), "greater than or equal"),
    "no hash": (lambda members, manifest: manifest["files"]["registry.json"].update(sha256="0"), "pattern"),
    "an unknown key": (lambda members, manifest: manifest.update(more=1), "not permitted"),
    "a hostile model name": (lambda members, manifest: manifest.update(name="../x"), "pattern"),
    "something else": (lambda members, manifest: manifest.update(kind="a poem"), "something else"),
    "another form": (lambda members, manifest: manifest.update(schema_version=2), "schema_version 2, this version reads 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_refused(case: str, backup: Path):
    change, words = HOSTILE[case]
    rebuilt(backup, change)
    with pytest.raises(StorageError, match=words):
        read_all(backup)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_more_that_is_refused(backup: Path, tmp_path: Path):
    with zipfile.ZipFile(backup, "a") as archive:
        archive.writestr("registry.json", b"{}\n")
    with pytest.raises(StorageError, match="a name twice"):
        read_all(backup)
    deep = tmp_path / "deep.zip"
    for content in (b"[" * 200_000, b"\xff", b"1", json.dumps({"kind": KIND, "schema_version": 1}).encode()):
        with zipfile.ZipFile(deep, "w") as archive:
            archive.writestr("manifest.json", content)
        with pytest.raises(StorageError, match="no whole backup"):
            read_all(deep)
    with zipfile.ZipFile(deep, "w") as archive:
        archive.writestr("readme.txt", b"")
    with pytest.raises(StorageError, match=r"holds no manifest\.json"):
        read_all(deep)
    with pytest.raises(ConfigError, match="is not a file"):
        read_all(tmp_path)


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path):
    write(tmp_path / "long.zip", {"metrics.jsonl": b"1\n" + b"0" * (3 << 20)})
    with reading(tmp_path / "long.zip") as found, pytest.raises(StorageError, match="too long"):
        list(found.lines("metrics.jsonl"))


def test_there_must_be_room(backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4999}))
    with reading(backup) as found, pytest.raises(StorageError, match="TMPDIR"):
        Reader.extract(found, "versions/", tmp_path / "out")


def test_numbers_and_aliases_must_make_sense():
    one, three = VersionRecord(number=1), VersionRecord(number=3)
    assert Registered(versions=(one, three), last=4, aliases={"champion": 3}).numbers == (1, 3)
    for wrong in (
        {"versions": (three, one), "last": 3},
        {"versions": (one, one), "last": 1},
        {"versions": (one, three), "last": 2},
        {"versions": (one,), "last": 1, "aliases": {"champion": 2}},
        {"versions": (one,), "last": 1_000_000},
    ):
        with pytest.raises(ValidationError):
            Registered(**wrong)
    with pytest.raises(ValidationError):
        VersionRecord(number=1, source="file:///etc")


def test_tags_name_the_new_runs_and_the_new_model():
    tags = {
        "training_run": "a",
        "mlflow.parentRunId": "b",
        "validation_run": "gone",
        "evaluation_run": "",
        "note": "a",
        "sa2net.registered": "sa2net/3",
        "parent_version": "models:/sa2net/2",
        "path": "sa2net/evaluation",
    }
    assert mapped(tags, {"a": "A", "b": "B"}, "sa2net", "drill") == {
        "training_run": "A",
        "mlflow.parentRunId": "B",
        "validation_run": "gone",
        "evaluation_run": "",
        "note": "a",
        "sa2net.registered": "drill/3",
        "parent_version": "models:/drill/2",
        "path": "sa2net/evaluation",
    }
