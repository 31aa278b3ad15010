"""The reference in a model folder: what is kept of which scan, what is refused, and which single scans are warned of."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import draw_case, write_data_set
from random_model import write_random_model

from sa2net.artifacts import (
    Reference,
    read_model_info,
    read_reference,
    read_weights,
    write_json,
    write_model,
)
from sa2net.config import Config, EvaluateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_scan
from sa2net.data.sweep import sweep_mask
from sa2net.errors import ConfigError, DataError
from sa2net.evaluation.drift import PICTURE_SIGNALS, REFUSED, SIGNALS, Described, collect, describe_picture
from sa2net.evaluation.reference import PictureRanges, check_settings, describe_training, settings_of


def described(scan: np.ndarray, device: str = "") -> Described:
    return Described("a name", device, describe_picture(scan, sweep_mask(scan)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Reference]:
    """A model folder without a reference, a data set, and the reference of both."""
    root = tmp_path_factory.mktemp("reference")
    write_random_model(root / "model")
    data = write_data_set(root / "data", train=3, val=2, test=0)
    cases = read_cases(data, ("train", "val"))
    info, weights = read_model_info(root / "model"), read_weights(root / "model")
    return (
        root / "model",
        data,
        describe_training(info, [(weights, cases[3:])], cases[:3], device="cpu", progress=False),
    )


def test_the_network_is_asked_about_validation_scans_alone(trained: tuple[Path, Path, Reference]) -> None:
    _, data, reference = trained
    (device,) = reference.devices
    assert (device.device, device.scans) == ("factory", 5)
    assert set(device.signals) == set(SIGNALS)
    assert {len(device.signals[name]) for name in PICTURE_SIGNALS} == {5}
    for name in ("confidence", "entropy", "pairs", REFUSED):
        assert len(device.signals[name]) == 2
    greys = [described(read_scan(case.scan)).signals["grey_mean"] for case in read_cases(data, ("train", "val"))]
    assert device.signals["grey_mean"] == tuple(sorted(round(grey, 6) for grey in greys))


def test_it_holds_numbers_and_devices_and_no_scan_or_person(trained: tuple[Path, Path, Reference]) -> None:
    model, _, reference = trained
    text = json.dumps(reference.model_dump(mode="json"))
    for word in ("train_0", "val_0", "subject", "dataset", ".png", str(model.parent)):
        assert word not in text
    for values in reference.devices[0].signals.values():
        assert list(values) == sorted(values)


def test_equal_folders_are_equal_bytes_and_older_ones_have_none(
    trained: tuple[Path, Path, Reference], tmp_path: Path
) -> None:
    model, _, reference = trained
    assert read_reference(model) is None
    for name in ("a", "b"):
        write_model(tmp_path / name, read_model_info(model), read_weights(model), reference)
    first, second = (tmp_path / name / "reference.json" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert read_reference(tmp_path / "a") == reference
    write_model(tmp_path / "a", read_model_info(model), read_weights(model))
    assert not first.exists()  # that of other weights would be wrong


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"devices": [{"device": "x"}]}, {"more": 1}])
def test_a_damaged_one_is_refused(
    trained: tuple[Path, Path, Reference], tmp_path: Path, change: dict[str, object]
) -> None:
    write_json(tmp_path / "reference.json", trained[2].model_dump(mode="json") | change)
    with pytest.raises(DataError, match=r"reference\.json"):
        read_reference(tmp_path)


def test_each_device_has_its_share_of_many_scans(trained: tuple[Path, Path, Reference]) -> None:
    """The order of the scans, and what they are named, changes nothing."""
    scans = [described(draw_case(seed)[0], "ab"[seed % 2]) for seed in range(5)]
    reference = collect(scans, {})
    assert [(item.device, item.scans) for item in reference.devices] == [("a", 3), ("b", 2)]
    assert collect(scans[::-1], {}) == reference


def test_other_settings_than_those_of_the_reference_are_refused() -> None:
    cfg = EvaluateConfig()
    stored = json.loads(json.dumps(settings_of(cfg)))  # as it is read from a file
    assert check_settings(stored, cfg, Path("m")).precision == "float32"
    assert check_settings(stored, Config.load(None, ["evaluate.device=cpu"]).evaluate, Path("m")).device == "cpu"
    for change in ("flip=false", "precision=bfloat16", "scales=[0.5]", "mode=sliding", "measure.min_levels=7"):
        other = Config.load(None, [f"evaluate.{change}"]).evaluate
        with pytest.raises(ConfigError, match="other settings") as caught:
            check_settings(stored, other, Path("m"))
        assert change.split("=")[0] in caught.value.evidence


def test_a_single_scan_far_from_all_others_is_warned_of() -> None:
    scans = [described(draw_case(seed)[0]) for seed in range(20)]
    usual = PictureRanges(collect(scans, {}))
    scan = draw_case(100)[0]
    dark = np.where(scan > 0, np.clip(scan * 0.4, 12, 255), 0).astype(np.uint8)
    assert usual.warnings(scan) == []
    assert any(line.startswith("mean grey inside the sweep is") for line in usual.warnings(dark))
    assert any(line.startswith("width of the sweep, px is") for line in usual.warnings(scan.repeat(2, axis=1)))
    assert PictureRanges(collect(scans[:19], {})).warnings(dark) == []  # too few to say so of one scan
    assert PictureRanges(None).warnings(dark) == []


def test_a_picture_without_a_sweep_has_no_signals() -> None:
    with pytest.raises(DataError, match="no sweep"):
        described(np.zeros((60, 40), np.uint8))
