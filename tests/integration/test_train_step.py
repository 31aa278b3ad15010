"""The train step on a tiny data set: what it writes, that it resumes exactly, and what it refuses."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from random_model import write_random_model
from safetensors.torch import save_file, save_model

from sa2net.artifacts import (
    MODEL_FILES,
    WEIGHTS,
    file_sha256,
    folder_sha256,
    read_model_info,
    read_reference,
    read_weights,
)
from sa2net.config import Config, TrainConfig, ValidateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_scan
from sa2net.errors import ConfigError, DataError
from sa2net.inference.predictor import Predictor
from sa2net.registry import store
from sa2net.registry.starting import settled
from sa2net.steps import train, validate
from sa2net.training import loop

SETTINGS = [
    "train.epochs=3",
    "train.validate_every=1",
    "train.warmup_epochs=1",
    "train.sweep_width=48",
    "train.crops_per_scan=1",
    "train.batch_size=3",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.device=cpu",
    "train.threads=1",
]


def settings(*more: str) -> TrainConfig:
    return Config.load(None, [*SETTINGS, *more]).train


@pytest.fixture(scope="module")
def checked(shared_data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validate")
    validate.check(ValidateConfig(workers=1), data=shared_data_root, out=out, data_docs=None, progress=False)
    return out


@pytest.fixture(autouse=True)
def own_registry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path_factory.getbasetemp() / "train-step-var"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def fit(cfg: TrainConfig, data: Path, checked: Path, folder: Path) -> train.TrainResult:
    return train.run(cfg, data=data, validation=checked, out=folder / "out", checkpoints=folder / "ck", progress=False)


@pytest.fixture(scope="module")
def whole(shared_data_root: Path, checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(tmp_path_factory.getbasetemp() / "train-step-var"))
        fit(settings(), shared_data_root, checked, folder)
    return folder


def test_the_model_folder_explains_itself(whole: Path, checked: Path) -> None:
    info = read_model_info(whole / "out" / "model")
    report = json.loads((checked / "report.json").read_text())
    assert info.data_md5 == report["data_md5"]
    assert info.normalisation.mean == report["normalisation"]["mean"]
    assert info.sweep_width == 48
    assert info.spacing_mm[0] == pytest.approx(0.4 * report["sweep_width"] / 48)
    took_effect = settings("train.init_from=", "train.learning_rate=0.002")  # of another network, so from scratch
    assert info.params == {"train": took_effect.model_dump(mode="json")}
    assert {path.name for path in (whole / "out" / "model").iterdir()} == set(MODEL_FILES)
    reference = read_reference(whole / "out" / "model")
    assert reference is not None
    assert [(item.device, item.scans, len(item.signals["entropy"])) for item in reference.devices] == [
        ("factory", 8, 2)
    ]
    Predictor.load(whole / "out" / "model", device="cpu", threads=1)


def test_history_has_every_epoch_and_each_part_of_the_loss(whole: Path) -> None:
    history = pd.read_csv(whole / "out" / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3]
    assert {"loss_total", "loss_main", "loss_coarse", "loss_channel", "loss_position", "loss_auxiliary"} <= set(history)
    assert not history.isna().any().any()
    assert "val_dice_mean" in pd.read_csv(whole / "out" / "validation.csv")


def test_mlflow_has_the_curves_the_pictures_and_the_model(whole: Path) -> None:
    client = store.connect()
    run = client.get_run(json.loads((whole / "out" / "run.json").read_text())["run_id"])
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss_total")] == [1, 2, 3]
    for name in ("val_dice_mean", "learning_rate", "crops_per_second", "best_val_dice"):
        assert name in run.data.metrics
    assert run.data.params["train.epochs"] == "3"
    assert len(client.list_artifacts(run.info.run_id, "validation")) == 2 * 3  # two val scans, three validations
    assert {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "model")} >= {"model.json"}


def _fit_interrupted(cfg: TrainConfig, data: Path, checked: Path, folder: Path, epoch: int) -> None:
    """Train, stop after an epoch, and train again in the same folder."""
    told = train._Observer.epoch_ended

    def interrupted(self: train._Observer, row: dict[str, float]) -> None:
        told(self, row)
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(cfg, data, checked, folder)
    assert not (folder / "out" / "model").exists()
    fit(cfg, data, checked, folder)


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path, epoch: int
) -> None:
    _fit_interrupted(settings(), shared_data_root, checked, tmp_path, epoch)
    assert folder_sha256(tmp_path / "out" / "model") == folder_sha256(whole / "out" / "model")
    assert (tmp_path / "out" / "history.csv").read_bytes() == (whole / "out" / "history.csv").read_bytes()


EVERYTHING = (
    "train.accumulate=2",
    "train.average_decay=0.8",
    "train.decayed=released",
    "train.recompute=true",
    "train.workers=1",
    "train.prefetch=1",
    "train.augment.max_class_share=0.9",
    "train.augment.fill=released",
    "train.loss.kind=sum",
    "train.loss.focal=0.5",
    "train.loss.tversky=0.5",
    "train.loss.lovasz=0.5",
)


def test_a_training_with_every_option_resumes_and_each_option_acts(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    fit(settings(*EVERYTHING), shared_data_root, checked, tmp_path / "whole")
    _fit_interrupted(settings(*EVERYTHING), shared_data_root, checked, tmp_path / "parts", 2)
    made = {name: tmp_path / name / "out" for name in ("whole", "parts")}
    assert folder_sha256(made["whole"] / "model") == folder_sha256(made["parts"] / "model")
    assert (made["whole"] / "history.csv").read_bytes() == (made["parts"] / "history.csv").read_bytes()
    history = pd.read_csv(made["whole"] / "history.csv")
    assert {f"loss_main_{term}" for term in ("dice", "cross_entropy", "focal", "tversky", "lovasz")} <= set(history)
    Predictor.load(made["whole"] / "model", device="cpu", threads=1)


@pytest.mark.parametrize("option", ["train.accumulate=2", "train.average_decay=0.8", "train.decayed=released"])
def test_an_option_of_the_optimiser_changes_the_weights(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path, option: str
) -> None:
    fit(settings(option), shared_data_root, checked, tmp_path)
    assert folder_sha256(tmp_path / "out" / "model") != folder_sha256(whole / "out" / "model")


def test_recomputed_activations_give_the_same_training(shared_data_root: Path, checked: Path, tmp_path: Path) -> None:
    """With averaged weights, which are a copy of the network that recomputes."""
    for name, recompute in (("ours", "true"), ("theirs", "false")):
        more = ("train.average_decay=0.5", f"train.recompute={recompute}")
        fit(settings(*more), shared_data_root, checked, tmp_path / name)
    ours, theirs = (tmp_path / name / "out" for name in ("ours", "theirs"))
    for name, value in read_weights(ours / "model").items():
        torch.testing.assert_close(value, read_weights(theirs / "model")[name], rtol=1e-3, atol=1e-4)
    dice = [pd.read_csv(folder / "validation.csv")["val_dice_mean"] for folder in (ours, theirs)]
    assert list(dice[0]) == pytest.approx(list(dice[1]), abs=2e-3)


def test_a_pretrained_backbone_is_named_with_its_licence(shared_data_root: Path, checked: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_model(timm.create_model("resnet10t"), str(file))
    pretrained = ("train.model.pretrained=true", f"train.model.pretrained_file={file}")
    fit(settings(*pretrained, "train.epochs=1", "train.warmup_epochs=0"), shared_data_root, checked, tmp_path)
    run = store.connect().get_run(json.loads((tmp_path / "out" / "run.json").read_text())["run_id"])
    assert run.data.tags["pretrained_weights"] == "resnet10t.c3_in1k, licence apache-2.0"
    assert run.data.tags["pretrained_sha256"] == file_sha256(file)


@pytest.mark.parametrize("architecture", ["smp/unet", "unet"])
def test_a_rival_trains_in_the_same_loop(
    shared_data_root: Path, checked: Path, tmp_path: Path, architecture: str
) -> None:
    fit(
        settings("train.epochs=1", "train.warmup_epochs=0", f"train.model.architecture={architecture}"),
        shared_data_root,
        checked,
        tmp_path,
    )
    predict = Predictor.load(tmp_path / "out" / "model", device="cpu", threads=1)
    assert predict.info.model.architecture == architecture
    case = read_cases(shared_data_root, ("test",))[0]
    scan = read_scan(case.scan)
    assert predict(scan).shape == scan.shape


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_learns_the_same(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    fit(settings("train.compile=true", "train.epochs=1"), shared_data_root, checked, tmp_path)
    ours, theirs = (pd.read_csv(folder / "out" / "history.csv")["loss_total"] for folder in (tmp_path, whole))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-2)


def test_other_settings_do_not_resume(whole: Path, shared_data_root: Path, checked: Path) -> None:
    result = fit(settings("train.seed=1", "train.epochs=1", "train.warmup_epochs=0"), shared_data_root, checked, whole)
    assert result.epochs == 1
    assert len(list((whole / "ck").iterdir())) == 2


def test_fine_tuning_starts_from_the_named_model(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    (whole / "out" / "model").rename(start)
    try:
        tuned = fit(settings(f"train.init_from={start}"), shared_data_root, checked, tmp_path)
        assert folder_sha256(tuned.model) != folder_sha256(start)
        run = store.connect().get_run(json.loads((tmp_path / "out" / "run.json").read_text())["run_id"])
        before = json.loads((whole / "out" / "timing.json").read_text())["best_val_dice"]
        assert run.data.metrics["start_val_dice"] == pytest.approx(before, abs=1e-6)
        with pytest.raises(ConfigError, match=r"channels 16 there, 24 here"):
            fit(settings(f"train.init_from={start}", "train.model.channels=24"), shared_data_root, checked, tmp_path)
    finally:
        start.rename(whole / "out" / "model")


def test_a_training_that_is_no_better_than_its_start_says_so(
    whole: Path, shared_data_root: Path, checked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = settings(
        f"train.init_from={whole / 'out' / 'model'}", "train.learning_rate=1", "train.epochs=1", "train.warmup_epochs=0"
    )
    for _ in range(2):  # the second finds the first one's result, and says so too
        caplog.clear()
        fit(cfg, shared_data_root, checked, tmp_path)
        assert "no epoch reached the validation Dice of the weights that it started from" in caplog.text


def test_what_cannot_be_started_from_or_written_is_said_before_the_training(
    shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    write_random_model(tmp_path / "start")
    weights = read_weights(tmp_path / "start")
    save_file({name: value for name, value in weights.items() if "conv" not in name}, tmp_path / "start" / WEIGHTS)
    with pytest.raises(DataError, match=r"do not fit its own network.*Missing key"):
        fit(settings(f"train.init_from={tmp_path / 'start'}"), shared_data_root, checked, tmp_path)
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"would be replaced.*thesis\.txt"):
        fit(settings(), shared_data_root, checked, tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        fit(settings(), tmp_path / "nowhere", checked, tmp_path / "other")


def test_weights_of_a_whole_network_leave_nothing_to_those_of_a_backbone(tmp_path: Path) -> None:
    write_random_model(tmp_path / "start")
    cfg = settings(f"train.init_from={tmp_path / 'start'}", "train.model.pretrained=true")
    assert settled(cfg).model == settings().model
    assert settled(settings("train.init_from=", "train.model.pretrained=true")).model.pretrained


def test_early_stopping_ends_the_training(
    shared_data_root: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_validate", lambda *_: {"val_dice_mean": 0.5})
    result = fit(settings("train.epochs=9", "train.patience=2"), shared_data_root, checked, tmp_path)
    assert (result.epochs, result.best_epoch) == (3, 1)


def test_a_loss_that_is_no_number_is_an_error_with_a_cure(
    shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"learning_rate"):
        fit(settings("train.learning_rate=1e30", "train.clip_norm=0"), shared_data_root, checked, tmp_path)
    client = store.connect()
    experiment = client.get_experiment_by_name("sa2net")
    newest = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert newest.info.status == "FAILED"


def test_a_validation_that_is_missing_is_named(shared_data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json"):
        fit(settings(), shared_data_root, tmp_path / "none", tmp_path)


def test_data_that_changed_since_the_validation_are_refused(data_root: Path, checked: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the data set that was validated"):
        fit(settings(), data_root, checked, tmp_path)


# A stream of phantoms

STREAM = ("train.stream.scans=2", "train.stream.workers=0", "train.epochs=2")


def test_a_stream_takes_the_train_scans_place_and_resumes_exactly(
    shared_data_root: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, frame = [], loop.frame_case
    monkeypatch.setattr(loop, "frame_case", lambda case, working: (read.append(case), frame(case, working))[1])
    stale = tmp_path / "whole" / "out" / "out_of_fold.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier training with folds")
    fit(settings(*STREAM), shared_data_root, checked, tmp_path / "whole")
    assert not read
    assert not stale.exists()
    client = store.connect()
    run = client.get_run(json.loads((tmp_path / "whole" / "out" / "run.json").read_text())["run_id"])
    assert (run.data.tags["train_scans"], run.data.tags["val_scans"]) == ("0", "2")
    assert 0 < run.data.metrics["share_waited"] < 1
    reference = read_reference(tmp_path / "whole" / "out" / "model")
    assert reference is not None
    assert sum(device.scans for device in reference.devices) == 2
    _fit_interrupted(settings(*STREAM), shared_data_root, checked, tmp_path / "cut", epoch=1)
    assert folder_sha256(tmp_path / "cut" / "out" / "model") == folder_sha256(tmp_path / "whole" / "out" / "model")


# Folds

FOLDS = ("train.folds=2", "train.epochs=2", "train.crops_per_scan=1")


@pytest.fixture(scope="module")
def ensemble(shared_data_root: Path, checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(tmp_path_factory.getbasetemp() / "train-step-var"))
        fit(settings(*FOLDS), shared_data_root, checked, folder)
    return folder


def test_folds_become_one_model_with_out_of_fold_scores(ensemble: Path, shared_data_root: Path, checked: Path) -> None:
    model = ensemble / "out" / "model"
    info = read_model_info(model)
    assert info.members == 2
    assert {name.split(".")[1] for name in read_weights(model)} == {"0", "1"}
    table = pd.read_csv(ensemble / "out" / "out_of_fold.csv")
    learnt = [case for case in read_cases(shared_data_root) if case.split != "test"]
    assert sorted(table["scan"]) == sorted(case.name for case in learnt)
    assert set(table["fold"]) == {1, 2}
    assert table["dice_mean"].between(0, 1).all()
    history = pd.read_csv(ensemble / "out" / "history.csv")
    assert list(history["fold"]) == [1, 1, 2, 2]
    client = store.connect()
    run = client.get_run(json.loads((ensemble / "out" / "run.json").read_text())["run_id"])
    assert {"fold_1_loss_total", "fold_2_val_dice_mean", "best_val_dice"} <= set(run.data.metrics)
    scan = read_scan(read_cases(shared_data_root, ("test",))[0].scan)
    assert Predictor.load(model, device="cpu", threads=1)(scan).shape == scan.shape
    reference = read_reference(model)
    assert reference is not None
    assert sum(device.scans for device in reference.devices) == len(learnt)


@pytest.mark.parametrize("epochs", [1, 3])
def test_killed_folds_go_on_in_the_fold_they_were_at(
    ensemble: Path, shared_data_root: Path, checked: Path, tmp_path: Path, epochs: int
) -> None:
    told, seen = train._Observer.epoch_ended, []

    def interrupted(self: train._Observer, row: dict[str, float]) -> None:
        told(self, row)
        seen.append(self.prefix)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(settings(*FOLDS), shared_data_root, checked, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", lambda self, row: (told(self, row), seen.append(self.prefix)))
        fit(settings(*FOLDS), shared_data_root, checked, tmp_path)
    assert seen == ["fold_1_", "fold_1_", "fold_2_", "fold_2_"]
    assert folder_sha256(tmp_path / "out" / "model") == folder_sha256(ensemble / "out" / "model")
    assert (tmp_path / "out" / "out_of_fold.csv").read_bytes() == (ensemble / "out" / "out_of_fold.csv").read_bytes()


def test_a_training_does_not_start_from_several_networks(
    ensemble: Path, shared_data_root: Path, checked: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is the mean of 2 networks"):
        fit(settings(f"train.init_from={ensemble / 'out' / 'model'}"), shared_data_root, checked, tmp_path)
