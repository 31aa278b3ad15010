"""Training in several processes: the same curve, one writer, one story of the end, and checkpoints that fit any number.

Each start of two processes costs seconds, so a test here looks at all that one start can show.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from factories import write_data_set
from one_rank import build_frozen

from sa2net.artifacts import folder_sha256, read_model_info
from sa2net.config import Config, TrainConfig, ValidateConfig
from sa2net.data.layout import scan_path
from sa2net.errors import ConfigError, DataError, DeviceError
from sa2net.registry import store
from sa2net.steps import train, validate
from sa2net.training import loop
from sa2net.training.checkpoint import decode
from sa2net.training.launch import launch

TESTS = Path(__file__).parents[1]
SETTINGS = [
    "train.epochs=4",
    "train.validate_every=2",
    "train.warmup_epochs=1",
    "train.sweep_width=48",
    "train.crops_per_scan=1",
    "train.batch_size=4",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.device=cpu",
    "train.threads=1",
]
pytestmark = pytest.mark.timeout(240)


def settings(*more: str) -> TrainConfig:
    return Config.load(None, [*SETTINGS, *more]).train


@pytest.fixture(scope="module")
def places(shared_data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checked data set: 6 train and 2 val scans, so that an epoch in batches of 4 ends with a smaller one."""
    out = tmp_path_factory.mktemp("validate")
    validate.check(ValidateConfig(workers=1), data=shared_data_root, out=out, data_docs=None, progress=False)
    return {"data": shared_data_root, "validation": out}


@pytest.fixture(scope="module", autouse=True)
def own_registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(tmp_path_factory.mktemp("var")))
        yield


def runs_of_train() -> list:
    """MLflow runs of the train step, newest first."""
    client = store.connect()
    experiment = client.get_experiment_by_name("sa2net")
    if experiment is None:
        return []
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return [run for run in found if "train.epochs" in run.data.params]


def in_ranks(arguments: dict, folder: Path) -> None:
    """Run tests/one_rank.py in two processes."""
    file = folder / "arguments.json"
    file.write_text(json.dumps(arguments, default=str))
    launch([str(TESTS / "one_rank.py"), str(file)], 2)


def test_the_loss_curve_is_that_of_one_process(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 crops in batches of 2: the last step of an epoch leaves one process without a crop. The mixing loss holds a Dice
    # over the whole batch, and crops have different numbers of valid pixels: no mean over processes equals either.
    more = [
        "train.epochs=17",
        "train.validate_every=17",
        "train.batch_size=2",
        "train.loss.kind=mixing",
        "train.model.dropout=0",
        "train.model.predictor.dropout=0",
        "train.augment.crop_width=96",  # wider than most scans at this scale
    ]
    root = write_data_set(tmp_path / "data", train=5, val=2, test=1)
    checked = tmp_path / "validate"
    validate.check(ValidateConfig(workers=1), data=root, out=checked, data_docs=None, progress=False)
    here = {"data": root, "validation": checked, "out": tmp_path / "one", "checkpoints": tmp_path / "ck1"}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build", build_frozen)
        train.run(settings(*more), **here, progress=False)
    together = here | {"out": tmp_path / "two", "checkpoints": tmp_path / "ck2"}
    in_ranks({"frozen": True, "settings": [*SETTINGS, *more], "places": together, "data_of_rank": {}}, tmp_path)
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    assert len(one) * 3 >= 50  # steps
    assert one["loss_total"].iloc[-1] < 0.9 * one["loss_total"].iloc[0]  # it learns, so the curve says something
    for column in one:
        assert two[column].to_numpy() == pytest.approx(one[column].to_numpy(), rel=1e-4), column
    validation = [pd.read_csv(tmp_path / name / "validation.csv") for name in ("one", "two")]
    assert validation[1].to_numpy() == pytest.approx(validation[0].to_numpy(), abs=5e-3)


@pytest.mark.long
def test_two_processes_go_on_where_one_stopped_and_write_once(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = places | {"out": tmp_path / "out", "checkpoints": tmp_path / "ck"}
    told = train._Observer.epoch_ended

    def interrupted(self: train._Observer, row: dict[str, float]) -> None:
        told(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings(), **here, progress=False)
    (key,) = (tmp_path / "ck").iterdir()
    rows = decode((key / "epoch-000002.safetensors").read_bytes()).history
    before = len(runs_of_train())
    handlers = signal.getsignal(signal.SIGTERM)

    result = train.run(settings(), **here, progress=True, processes=2)

    assert signal.getsignal(signal.SIGTERM) == handlers
    assert [path.name for path in (tmp_path / "ck").iterdir()] == [key.name]  # the number of processes is no part of it
    assert sorted(path.name for path in key.iterdir() if path.suffix == ".safetensors") == [
        "epoch-000003.safetensors",
        "epoch-000004.safetensors",
    ]
    history = pd.read_csv(tmp_path / "out" / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert list(history["loss_total"][:2]) == [row["loss_total"] for row in rows]
    assert read_model_info(result.model).params == {
        "train": settings("train.init_from=", "train.learning_rate=0.002").model_dump(mode="json")
    }
    best = pd.read_csv(tmp_path / "out" / "validation.csv")["val_dice_mean"]
    assert (result.best_dice, result.epochs) == (best.max(), 4)
    assert json.loads((tmp_path / "out" / "timing.json").read_text())["processes"] == 2
    runs = runs_of_train()
    assert len(runs) == before + 1
    assert runs[0].info.status == "FINISHED"
    assert [metric.step for metric in store.connect().get_metric_history(runs[0].info.run_id, "loss_total")] == [3, 4]
    said = capfd.readouterr()
    assert said.out.count("best validation Dice") == 1
    assert "ERROR" not in said.err

    # And one process finds nothing left to do, with the same outcome.
    weights = folder_sha256(result.model)
    again = train.run(settings(), **here, progress=False)
    assert (folder_sha256(again.model), again.best_dice) == (weights, result.best_dice)


@pytest.mark.parametrize("killed_rank", ["1", pytest.param("0", marks=pytest.mark.long)])
def test_a_killed_process_ends_all_with_one_error_and_one_process_goes_on(
    places: dict[str, Path], tmp_path: Path, killed_rank: str
) -> None:
    here = places | {"out": tmp_path / "out", "checkpoints": tmp_path / "ck"}
    more = ["train.epochs=200", "train.validate_every=200"]
    (tmp_path / "params.yaml").write_text(Config(train=settings(*more)).render())
    command = [sys.executable, "-m", "sa2net", "train", "--processes", "2", "--params", str(tmp_path / "params.yaml")]
    command += [word for name, place in here.items() for word in (f"--{name}", str(place))]
    started = subprocess.Popen([*command, "--quiet"], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list((tmp_path / "ck").glob("*/epoch-*.safetensors")), started)
        ranks = psutil.Process(started.pid).children()
        assert len(ranks) == 2
        victim = next(rank for rank in ranks if rank.environ()["RANK"] == killed_rank)
        victim.kill()
        killed = time.monotonic()
        _, said = started.communicate(timeout=60)
    finally:
        started.kill()
    assert time.monotonic() - killed < 40
    assert started.returncode == 4
    assert said.count(f"a process of the training was killed: process {killed_rank} of 2") == 1, said
    assert "SIGKILL" in said
    assert "Traceback" not in said
    assert not any(rank.is_running() for rank in ranks)
    # The main process keeps the run; if it is the killed one, the next step closes it.
    assert runs_of_train()[0].info.status in (("FAILED", "KILLED") if killed_rank == "1" else ("RUNNING",))
    assert not (tmp_path / "out" / "model").exists()

    (key,) = (tmp_path / "ck").iterdir()
    epoch = decode(max(key.glob("epoch-*.safetensors")).read_bytes()).epoch

    def enough(self: train._Observer, row: dict[str, float]) -> None:
        assert row["epoch"] == epoch + 1
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", enough)
        with pytest.raises(KeyboardInterrupt):
            train.run(settings(*more), **here, progress=False)


def test_an_error_of_one_process_is_the_error_of_all(
    places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(places["data"], broken)
    damaged = scan_path(broken, "train", "train_003")
    damaged.write_bytes(damaged.read_bytes()[:100])
    here = places | {"out": tmp_path / "out", "checkpoints": tmp_path / "ck"}
    with pytest.raises(DataError, match=r"train_003") as raised:
        in_ranks({"frozen": False, "settings": SETTINGS, "places": here, "data_of_rank": {"1": broken}}, tmp_path)
    assert "Traceback" not in capfd.readouterr().err
    run = runs_of_train()[0]
    assert run.info.status == "FAILED"
    assert any(raised.value.what in tag for tag in run.data.tags.values())  # rank 0 knows what rank 1 met


def test_a_loss_that_is_no_number_ends_all_with_one_message(
    places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = settings("train.learning_rate=1e30", "train.clip_norm=0")
    with pytest.raises(DataError, match="the loss is not a number any more"):
        train.run(cfg, **places, out=tmp_path / "out", checkpoints=tmp_path / "ck", progress=False, processes=2)
    assert "sa2net:" not in capfd.readouterr().err  # the processes leave it to whoever started them
    assert runs_of_train()[0].info.status == "FAILED"


def test_sigterm_reaches_all_processes_and_the_run_is_closed(places: dict[str, Path], tmp_path: Path) -> None:
    cfg = settings("train.epochs=200", "train.validate_every=200")
    here = places | {"out": tmp_path / "out", "checkpoints": tmp_path / "ck"}
    me = psutil.Process()
    others = set(me.children())  # of other tests in this process
    ranks: list[psutil.Process] = []

    def terminate() -> None:
        while not list((tmp_path / "ck").glob("*/epoch-*.safetensors")):
            time.sleep(0.05)
        ranks.extend(set(me.children()) - others)
        me.terminate()

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        train.run(cfg, **here, progress=False, processes=2)
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(ranks) == 2
    assert not any(rank.is_running() for rank in ranks)
    assert runs_of_train()[0].info.status == "KILLED"


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(
    places: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size is 4, for 3 processes"):
        train.run(settings(), **places, out=tmp_path / "out", checkpoints=tmp_path / "ck", processes=3)
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus_are_refused_before_anything_starts(places: dict[str, Path], tmp_path: Path) -> None:
    processes = max(torch.cuda.device_count() + 1, 2)
    cfg = settings("train.device=cuda", f"train.batch_size={processes}")
    with pytest.raises(DeviceError, match=rf"{processes} processes, {torch.cuda.device_count()} GPUs"):
        train.run(cfg, **places, out=tmp_path / "out", checkpoints=tmp_path / "ck", processes=processes)
    assert not list(tmp_path.iterdir())


def wait_for(condition: object, process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
