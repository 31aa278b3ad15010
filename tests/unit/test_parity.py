"""The network against reference numbers: the published code's where they are at hand, our own golden ones always."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_under_test", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parity = _import(ROOT / "benchmarks" / "parity.py")
golden = _import(ROOT / "tests" / "golden" / "make_golden.py")


def _fixture_files() -> list[Path]:
    folder = os.environ.get("SA2NET_FIXTURES")
    return sorted(Path(folder).glob("*.npz")) if folder else []


@pytest.mark.skipif("SA2NET_FIXTURES" not in os.environ, reason="SA2NET_FIXTURES names no folder of fixtures")
def test_the_fixture_folder_is_not_empty():
    assert _fixture_files()


@pytest.mark.skipif("SA2NET_FIXTURES" not in os.environ, reason="SA2NET_FIXTURES names no folder of fixtures")
@pytest.mark.parametrize("path", _fixture_files() or [Path()], ids=lambda path: path.stem)
def test_the_network_computes_what_the_published_one_does(path):
    fixture = parity.check(path)
    assert parity.faults(fixture, strict=True) == [], parity.line(fixture, strict=True)
    assert fixture.values or fixture.gradients


@pytest.mark.parametrize("name", sorted(golden.GOLDEN))
def test_the_network_computes_its_golden_numbers(name):
    got = golden.GOLDEN[name]()
    with np.load(golden.FOLDER / f"{name}.npz") as stored:
        assert set(stored.files) == set(got)
        for key in stored.files:
            scale = max(float(np.abs(stored[key]).max()), 1e-12)
            error = float(np.abs(got[key].numpy() - stored[key]).max()) / scale
            assert error < 1e-9, f"{key}: {error:.1e}"


def test_golden_files_are_small_and_all_made_by_the_script():
    files = list(golden.FOLDER.glob("*.npz"))
    assert {path.stem for path in files} == set(golden.GOLDEN)
    assert sum(path.stat().st_size for path in files) < 200_000


def test_golden_softmaxes_are_neither_flat_nor_one_hot():
    """Parity of a saturated softmax would prove nothing."""
    for name in ("head_default", "head_released"):
        results = golden.GOLDEN[name]()
        for key in ("structure_affinity", "channel_attention"):
            largest = results[key].max(-1).values
            assert largest.median() < 0.99, f"{name} {key}"
            assert largest.median() > 1.1 / results[key].shape[-1], f"{name} {key}"


# The tool itself must be able to fail.


def _write_fixture(path: Path, *, wrong: float = 0.0, extra: bool = False, kind: str = "metrics") -> Path:
    truth = np.array([[0, 0, 1], [1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 2]], dtype=np.uint8)
    meta = {"kind": kind, "num_classes": 3, "ignore_index": 255}
    recall, precision = np.array([1 / 2, 1, 1]), np.array([1, 2 / 3, 1])
    dice = np.array([2 / 3, 4 / 5, 1])
    arrays = {
        "pred0": prediction,
        "gt0": truth,
        "aAcc_f64": np.array(4 / 5),
        "IoU_f64": np.array([1 / 2, 2 / 3, 1 + wrong]),
        "Acc_f64": recall,
        "Recall_f64": recall,
        "Precision_f64": precision,
        "Dice_f64": dice,
        "Fscore_f64": dice,
        "meta_json": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
    }
    np.savez(path, **arrays, **({"surplus": np.zeros(2)} if extra else {}))
    return path


def test_a_hand_worked_fixture_passes(tmp_path):
    fixture = parity.check(_write_fixture(tmp_path / "hand.npz"))
    assert parity.faults(fixture, strict=True) == []
    assert set(fixture.values) == {
        f"{name}_f64" for name in ("aAcc", "IoU", "Acc", "Recall", "Precision", "Dice", "Fscore")
    }


def test_a_wrong_value_fails(tmp_path):
    fixture = parity.check(_write_fixture(tmp_path / "wrong.npz", wrong=1e-4))
    assert [fault.split()[0] for fault in parity.faults(fixture, strict=False)] == ["IoU_f64"]


def test_an_unchecked_key_fails_only_when_strict(tmp_path):
    fixture = parity.check(_write_fixture(tmp_path / "extra.npz", extra=True))
    assert parity.faults(fixture, strict=False) == []
    assert parity.faults(fixture, strict=True) == ["not checked: surplus"]


def test_an_unknown_kind_fails_only_when_strict(tmp_path):
    fixture = parity.check(_write_fixture(tmp_path / "odd.npz", kind="horoscope"))
    assert parity.faults(fixture, strict=False) == []
    assert parity.faults(fixture, strict=True) == ["unknown kind horoscope"]


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.0, 1e-7], [0.0, 0.0], 1e-7),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_relative_error(got, want, expected):
    assert parity.relative_error(np.array(got), np.array(want)) == pytest.approx(expected)


def test_the_command_line_tells_by_its_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["parity.py", str(tmp_path)])
    assert parity.main() == 1  # an empty folder proves nothing
    _write_fixture(tmp_path / "a.npz")
    assert parity.main() == 0
    assert "1 of 1 files within the limits" in capsys.readouterr().out
    _write_fixture(tmp_path / "b.npz", wrong=1e-3)
    assert parity.main() == 1
    assert "FAIL (IoU_f64" in capsys.readouterr().out


def test_it_runs_as_a_script(tmp_path):
    _write_fixture(tmp_path / "a.npz")
    command = [sys.executable, str(ROOT / "benchmarks" / "parity.py"), str(tmp_path), "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_float32_stays_close_to_the_golden_float64():
    network = golden.head("default").float().eval()
    with torch.no_grad():
        final = network([level.float() for level in golden.levels()]).final
    with np.load(golden.FOLDER / "head_default.npz") as stored:
        assert parity.relative_error(final.double().numpy(), stored["final"]) < parity.VALUE_TOLERANCE


def test_pooled_scores_refuse_what_they_cannot_count():
    matrix = parity.confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 255]), 3)
    assert matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert np.isnan(parity.pooled_scores(matrix)["Dice"]).tolist() == [False, False, True]
    with pytest.raises(ValueError, match="differ in shape"):
        parity.confusion_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int), 3)
    with pytest.raises(ValueError, match=r"truth holds ids 0\.\.7, allowed are 0\.\.2"):
        parity.confusion_matrix(np.array([0, 1]), np.array([0, 7]), 3)


def test_the_released_accuracy_counts_ignored_pixels_as_wrong_or_not_at_all():
    prediction, truth = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 255])
    accuracy = parity.released_pixel_accuracy
    assert accuracy(prediction, truth, ignored_are_wrong=True) == pytest.approx(50, rel=1e-6)
    assert accuracy(prediction, truth, ignored_are_wrong=False) == pytest.approx(200 / 3, rel=1e-6)
    assert accuracy(prediction, np.full(4, 255), ignored_are_wrong=False) == 100
