"""Phantoms drawn while a training goes on: new ones each epoch, the same ones for the same seed, nothing held out shown."""

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError

from sa2net.config import StreamConfig, TrainConfig
from sa2net.data import stream as stream_module
from sa2net.data.dataset import FramedScan
from sa2net.data.framing import WorkingScale
from sa2net.data.phantom import ARTEFACT_FAMILIES, LOOKS, draw_phantom
from sa2net.data.phantom_texture import draw_look
from sa2net.data.stream import PhantomStream
from sa2net.errors import ConfigError

WORKING = WorkingScale(40)


def drawn(first: int, *, seed: int = 5, workers: int = 0, epochs: int = 2) -> list[list[FramedScan]]:
    stream = PhantomStream(StreamConfig(scans=2, workers=workers), WORKING, seed=seed)
    source = stream.epochs(first)
    return [next(source) for _ in range(epochs)]


def same(one: Sequence[FramedScan], other: Sequence[FramedScan]) -> bool:
    return all(
        torch.equal(a.picture, b.picture) and torch.equal(a.mask, b.mask) for a, b in zip(one, other, strict=True)
    )


def test_a_resumed_stream_goes_on_with_what_would_have_come() -> None:
    whole = drawn(0)
    assert same(whole[1], drawn(1, epochs=1)[0])
    assert not same(whole[0], whole[1])
    assert not same(whole[0], drawn(0, seed=6, epochs=1)[0])


def test_worker_processes_change_nothing() -> None:
    for one, other in zip(drawn(0, workers=2), drawn(0), strict=True):
        assert same(one, other)


TRAINER = """
import time
import psutil
from sa2net.config import StreamConfig
from sa2net.data.framing import WorkingScale
from sa2net.data.stream import PhantomStream
source = PhantomStream(StreamConfig(scans=6, workers=2), WorkingScale(200), seed=0).epochs(0)
next(source)
print(*(child.pid for child in psutil.Process().children()), flush=True)
time.sleep(600)
"""


def test_workers_end_with_a_killed_trainer() -> None:
    """Also while they wait for somebody to take what they have drawn."""
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(4)  # the next epoch is drawn meanwhile
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=40)
    for worker in alive:
        worker.kill()
    assert not alive


def test_phantoms_come_at_working_scale_with_every_class() -> None:
    for scan in drawn(0, epochs=1)[0]:
        assert scan.picture.dtype == scan.mask.dtype == torch.uint8
        assert scan.picture.shape == (1, *scan.mask.shape)
        assert 40 <= scan.mask.shape[1] < 100  # the sweep, which follows the curve, and its margins
        assert set(scan.mask.unique().tolist()) == {0, 1, 2, 3}


def test_what_is_held_out_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(rng: np.random.Generator, **options: object) -> object:
        asked.append(options)
        return draw_phantom(rng, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stream_module, "draw_phantom", noted)
    cfg = StreamConfig(scans=1, held_out=("shadow", "sweep_gap"), max_angle=33.0)
    PhantomStream(cfg, WORKING, seed=0)[0]
    assert set(asked[0]["artefacts"]) == set(ARTEFACT_FAMILIES) - {"shadow", "sweep_gap"}  # type: ignore[call-overload]
    assert asked[0]["max_angle"] == 33.0
    with pytest.raises(ConfigError, match="unknown artefact family"):
        PhantomStream(StreamConfig(scans=1, held_out=("fog",)), WORKING, seed=0)


def test_drawn_devices_go_beyond_the_usual_ones() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(200)]
    for name in ("spacing", "contrast", "brightness", "speckle"):
        usual = [getattr(look, name) for look in LOOKS]
        values = [getattr(look, name) for look in looks]
        assert min(values) < min(usual)
        assert max(values) > max(usual)


def test_a_look_changes_the_grey_and_not_the_anatomy() -> None:
    usual, other = (
        draw_phantom(np.random.default_rng(3), width=160, artefacts=(), look=look)
        for look in (None, draw_look(np.random.default_rng(1)))
    )
    assert np.array_equal(usual.mask, other.mask)
    assert not np.array_equal(usual.scan, other.scan)
    assert other.device == "phantom-drawn"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stream": {"held_out": ["shadow"]}}, "no effect while scans is 0"),
        ({"stream": {"scans": 2}, "folds": 3}, "draws phantoms instead"),
        ({"stream": {"scans": 2, "max_angle": 90.0}}, "less than or equal to 80"),
    ],
)
def test_settings_without_effect_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(values)
