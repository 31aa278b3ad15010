import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from factories import write_data_set

from sa2net.data import store
from sa2net.errors import StorageError


def dvc(*words: str, cwd: Path) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=cwd, check=True, capture_output=True, env=environment, timeout=120
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with a tracked data folder that has all that is odd in it."""
    home = tmp_path_factory.mktemp("repository").resolve()
    dvc("init", "--no-scm", "-q", cwd=home)
    data = write_data_set(home / "data" / "scoliosis3classes").parent
    (data / "ümlaut \u65e5.txt").write_bytes(b"a\r\nb")
    (data / ".hidden").touch()
    (data / ".git").mkdir()
    (data / ".git" / "config").write_text("not tracked")
    (data / "empty").mkdir()
    (data / "link").symlink_to("scoliosis3classes")
    dvc("add", "-q", "data", cwd=home)
    return home


def test_the_identity_is_what_dvc_add_writes(repository: Path) -> None:
    root = repository / "data" / "scoliosis3classes"
    named = store.pointer_md5(root)
    assert named is not None
    assert named in (repository / "data.dvc").read_text()
    assert named.endswith(".dir")
    assert store.data_md5(root) == named
    assert store.data_md5(repository / "data") == named
    assert store.pointer_warning(root, named) == ""
    changed = store.pointer_warning(root, "0" * 32 + ".dir")
    assert "dvc add data" in changed
    assert named in changed


def test_without_a_pointer_the_folder_itself_counts(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "elsewhere" / "data")
    first = store.data_md5(root)
    assert store.pointer_md5(root) is None
    assert store.tracked_folder(root) == root.resolve()
    assert store.data_md5(write_data_set(tmp_path / "copy")) == first
    (root / "train.txt").write_text("train_000\n")
    assert store.data_md5(root) != first


def test_the_md5_of_two_small_files_worked_by_hand(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"a\n")
    # md5 of [{"md5": "60b725f10c9c85c70d97880dfe8191b3", "relpath": "a"}, {"md5": "d41d...427e", "relpath": "b/x"}]
    import hashlib

    text = (
        '[{"md5": "60b725f10c9c85c70d97880dfe8191b3", "relpath": "a"}, '
        '{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "b/x"}]'
    )
    assert store.data_md5(tmp_path) == hashlib.md5(text.encode()).hexdigest() + ".dir"


def test_a_pipe_in_the_data_set_is_an_error_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        store.data_md5(tmp_path)


def test_a_broken_pointer_names_nothing(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data")
    for text in ("", "outs: []", "{", "[1]"):
        (tmp_path / "data.dvc").write_text(text)
        assert store.pointer_md5(root) is None


def test_the_cache_dir(repository: Path, tmp_path: Path) -> None:
    assert store.dvc_cache_dir(repository / "data") == repository / ".dvc" / "cache"
    assert store.dvc_cache_dir(tmp_path) is None
    home = tmp_path / "other"
    home.mkdir()
    dvc("init", "--no-scm", "-q", cwd=home)
    dvc("cache", "dir", str(tmp_path / "shared cache"), cwd=home)
    assert store.dvc_cache_dir(home) == tmp_path / "shared cache"


def test_only_remotes_outside_of_the_repository_count(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert store.outside_remotes(home) == []
    dvc("init", "--no-scm", "-q", cwd=home)
    assert store.outside_remotes(home) == []
    dvc("remote", "add", "starter", "starter", cwd=home)
    dvc("remote", "add", "absolute", str(home / "inside"), cwd=home)
    assert store.outside_remotes(home) == []
    dvc("remote", "add", "disk", str(tmp_path / "disk"), cwd=home)
    dvc("remote", "add", "-d", "hospital", "s3://bucket/path", cwd=home)
    assert store.outside_remotes(home) == ["hospital", "disk"]


def test_locks_of_killed_processes_are_dropped_and_living_ones_kept(tmp_path: Path) -> None:
    file = tmp_path / ".dvc" / "tmp" / "rwlock"
    file.parent.mkdir(parents=True)
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    try:
        entries = [{"pid": process.pid, "cmd": "dvc repro"} for process in (living, gone)]
        file.write_text(json.dumps({"read": {"/a": entries, "/b": [entries[1]]}, "write": {"/c": entries[1]}}))
        assert store.clear_dead_locks(tmp_path) == 1
        assert json.loads(file.read_text()) == {"read": {"/a": [entries[0]]}}
        assert store.clear_dead_locks(tmp_path) == 0
    finally:
        living.kill()
        living.wait()
    assert store.clear_dead_locks(tmp_path) == 1
    assert json.loads(file.read_text()) == {}


@pytest.mark.parametrize("content", ["", "[]", '{"read": 3}', '{"read": {"/a": [{"cmd": "x"}]}}'])
def test_a_lock_file_that_is_not_understood_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / ".dvc" / "tmp" / "rwlock"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert store.clear_dead_locks(tmp_path) == 0
    assert file.read_text() == content
