"""From a model folder and a scan to a mask: sizes, scales, borders, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import draw_case
from random_model import write_random_model
from safetensors.torch import save_file

from sa2net.artifacts import MODEL_JSON, WEIGHTS, read_weights
from sa2net.errors import DataError, DeviceError
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.inference.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    write_random_model(path)
    return path


def load(folder: Path, **options: object) -> Predictor:
    return Predictor.load(folder, device="cpu", threads=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(96, 256), (97, 301), (133, 512)])
def test_the_mask_has_the_size_of_the_scan(folder: Path, width: int, height: int) -> None:
    scan, _ = draw_case(3, width, height)
    prediction = load(folder).probabilities(scan)
    assert prediction.mask.shape == scan.shape
    assert prediction.mask.dtype == np.uint8
    assert prediction.probabilities.shape == (4, *scan.shape)
    assert np.allclose(prediction.probabilities.sum(axis=0), 1.0, atol=1e-4)
    assert np.array_equal(prediction.mask, prediction.probabilities.argmax(axis=0))


def test_black_borders_move_the_mask_and_change_nothing_else(folder: Path) -> None:
    scan, _ = draw_case(3)
    predictor = load(folder)
    inner = predictor(scan)
    assert len(np.unique(inner)) > 1  # an untrained network still says something
    outer = predictor(np.pad(scan, ((37, 11), (5, 60))))
    assert np.array_equal(outer[37:-11, 5:-60], inner)
    assert not outer[:30].any()


def test_a_larger_picture_of_the_same_scan_gets_nearly_the_same_mask(folder: Path) -> None:
    scan, _ = draw_case(3)
    predictor = load(folder)
    twice = np.kron(scan, np.ones((2, 2), dtype=np.uint8))
    large, small = predictor.probabilities(twice), predictor.probabilities(scan)
    assert large.scale == pytest.approx(small.scale / 2, rel=0.02)
    # Untrained weights answer near a tie everywhere, so the probabilities are compared and not the labels.
    assert np.abs(large.probabilities[:, ::2, ::2] - small.probabilities).mean() < 0.02


def test_flipping_makes_the_result_symmetric(folder: Path) -> None:
    scan, _ = draw_case(4)
    predictor = load(folder, flip=True)
    here, there = (
        predictor.probabilities(scan).probabilities,
        predictor.probabilities(scan[:, ::-1].copy()).probabilities,
    )
    assert np.abs(here - there[..., ::-1]).max() < 2e-3


def test_scales_are_averaged(folder: Path) -> None:
    scan, _ = draw_case(4)
    both = load(folder, scales=(1.0, 1.5)).probabilities(scan).probabilities
    single = [load(folder, scales=(scale,)).probabilities(scan).probabilities for scale in (1.0, 1.5)]
    assert np.allclose(both, np.mean(single, axis=0), atol=1e-5)


def test_sliding_covers_the_whole_scan(folder: Path) -> None:
    scan, _ = draw_case(5, 96, 400)
    prediction = load(folder, mode="sliding").probabilities(scan)
    assert prediction.mask.shape == scan.shape
    assert np.allclose(prediction.probabilities.sum(axis=0), 1.0, atol=1e-4)


def test_spacing_is_used_where_both_know_it(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model", spacing_mm=(0.5, 0.5))
    scan, _ = draw_case(3)
    predictor = load(tmp_path / "model")
    assert predictor.probabilities(scan, (0.4, 0.4)).scaled_by == "spacing"
    assert predictor.probabilities(scan, (0.4, 0.4)).scale == pytest.approx(0.8, rel=0.02)
    assert predictor.probabilities(scan).scaled_by == "sweep width"


def test_loading_twice_predicts_the_same(folder: Path) -> None:
    scan, _ = draw_case(6)
    assert np.array_equal(
        load(folder).probabilities(scan).probabilities, load(folder).probabilities(scan).probabilities
    )


@pytest.mark.parametrize(
    "scan", [np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), np.float32), np.zeros((90, 40), np.uint8)]
)
def test_what_is_no_scan_is_refused(folder: Path, scan: np.ndarray) -> None:
    with pytest.raises(DataError):
        load(folder)(scan)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    save_file({"other": torch.zeros(1)}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(DataError, match="do not fit"):
        load(tmp_path / "model")


def test_weights_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    weights = read_weights(folder)
    name = next(name for name in weights if name.startswith("backbone") and name.endswith("running_var"))
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, tmp_path / "model" / WEIGHTS)
    with pytest.raises(DataError, match=rf"not finite: {name}"):
        load(tmp_path / "model")
    save_file(weights | {name: -torch.ones_like(weights[name])}, tmp_path / "model" / WEIGHTS)  # its root is no number
    predictor, (scan, _) = load(tmp_path / "model"), draw_case(3)
    with pytest.raises(DataError, match="answers with numbers that are not finite"):
        predictor(scan)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("normalisation", "std"), 0.0),
        (("normalisation", "mean"), float("nan")),
        (("spacing_mm",), [0.3]),
        (("spacing_mm",), [0.0, 0.3]),
        (("sweep_width",), 0),
        (("members",), 0),
        (("schema_version",), 99),
    ],
    ids=lambda value: str(value),
)
def test_a_model_that_says_what_cannot_be_is_refused(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    write_random_model(tmp_path / "model")
    file = tmp_path / "model" / MODEL_JSON
    content = json.loads(file.read_text())
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model\.json cannot be used"):
        load(tmp_path / "model")


def test_windows_need_the_size_of_the_crops(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    file = tmp_path / "model" / MODEL_JSON
    file.write_text(json.dumps(json.loads(file.read_text()) | {"params": {}}))
    scan, _ = draw_case(3)
    with pytest.raises(DataError, match=r"how large its training crops were.*mode whole"):
        load(tmp_path / "model", mode="sliding")(scan)
    assert load(tmp_path / "model")(scan).shape == scan.shape


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.json"):
        load(tmp_path)


def test_a_gpu_that_is_not_there_is_an_error_not_a_slow_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="no GPU"):
        resolve_device("cuda")
    with pytest.raises(DeviceError, match="float16"):
        resolve_precision("float16", torch.device("cpu"))


def test_a_scan_that_does_not_fit_a_gpu_gets_a_way_out(folder: Path) -> None:
    class Full(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("2 GiB wanted, 1 GiB free")

    scan, _ = draw_case(3)
    whole, windows = load(folder, scales=(1.0, 1.5)), load(folder, mode="sliding")
    for predictor, advice in ((whole, "mode sliding"), (whole, "no scale above 1"), (windows, "device cpu")):
        predictor.network = Full()
        with pytest.raises(DeviceError, match=rf"1 GiB free.*{advice}"):
            predictor(scan)
    with pytest.raises(DeviceError) as raised:
        windows(scan)
    assert "mode sliding" not in str(raised.value)
