"""Two trainers of one training on a machine: the second waits, and a dead one's lock holds nobody up."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from sa2net.training.checkpoint import CheckpointStore


def _hold(folder: str, seconds: float) -> None:
    with CheckpointStore(Path(folder), "key").locked():
        (Path(folder) / "held").touch()
        time.sleep(seconds)


def test_a_second_trainer_waits_and_names_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), 1.5))
    other.start()
    while not (tmp_path / "held").exists():
        assert other.exitcode is None, "the other trainer ended before it held the lock"
        time.sleep(0.02)
    owner = json.loads((tmp_path / "key" / "owner.json").read_text())
    assert owner["pid"] == other.pid
    with CheckpointStore(tmp_path, "key").locked():
        other.join(timeout=10)
        assert not other.is_alive()
    assert str(other.pid) in caplog.text


def test_a_killed_trainer_leaves_no_lock(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), 60))
    other.start()
    while not (tmp_path / "held").exists():
        assert other.exitcode is None, "the other trainer ended before it held the lock"
        time.sleep(0.02)
    other.kill()
    other.join()
    started = time.monotonic()
    with CheckpointStore(tmp_path, "key").locked():
        assert time.monotonic() - started < 2
