"""Angles in the evaluate step: on phantoms, by an untrained network and by one that knows; with a table of readings."""

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient
from random_model import write_random_model

from sa2net import artifacts
from sa2net.artifacts import handover, read_json, read_model_info
from sa2net.config import EvaluateConfig, MeasureConfig
from sa2net.data.angles import read_true_angles
from sa2net.data.layout import Case, read_cases
from sa2net.data.phantom import draw_dataset
from sa2net.data.pictures import read_mask, read_scan
from sa2net.errors import DataError
from sa2net.evaluation.angle_scores import AngleMeasurer, summarise_angles
from sa2net.evaluation.scoring import score
from sa2net.registry import store
from sa2net.steps import evaluate, measure

CFG = EvaluateConfig(bootstrap_samples=100, overlays=0, flip=False, device="cpu", precision="float32", threads=1)
COUNTS = {"scans", "compared", "pairs", "refused", "missed", "extra"}
HEADER = "name,angle_deg,convex,upper_row,lower_row\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network") / "model"
    write_random_model(folder)
    return folder


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    draw_dataset(folder, train=1, val=0, test=6, seed=5, width=320, progress=False, workers=2)
    return folder


@pytest.fixture(scope="module")
def evaluated(model: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> evaluate.EvaluateResult:
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    return evaluate.run(CFG, data=phantoms, model=model, out=out, progress=False)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / artifacts.ANGLES).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_an_untrained_network_is_refused_not_scored(evaluated: evaluate.EvaluateResult, phantoms: Path) -> None:
    truth = read_json(phantoms / "truth.json")
    rows = table(evaluated.out)
    names = [case.name for case in read_cases(phantoms, ["test"])]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert float(row["true_deg"]) == truth[row["name"]]["largest_angle_deg"]
        assert row["artefacts"].split() == sorted(truth[row["name"]]["artefacts"])
        assert row["status"] == ("refused" if float(row["true_deg"]) >= 10.0 else "small")
        assert row["refusals"]
        assert row["measured_deg"] == ""
    found = evaluated.scores.angles
    assert found is not None
    large = sum(float(row["true_deg"]) >= 10.0 for row in rows)
    assert (found.scans, found.compared, found.refused, found.pairs) == (6, large, large, 0)
    assert (found.refused_share, found.mad, found.icc) == (1.0, None, None)
    page = (evaluated.out / artifacts.EVALUATION_REPORT).read_text(encoding="utf-8")
    assert "angle-agreement" in page
    assert "The scans are phantoms" in page


def test_it_says_what_measure_says(evaluated: evaluate.EvaluateResult, model: Path, phantoms: Path) -> None:
    segmenter = measure.make_segmenter(model, None, CFG, "")
    for case, row in zip(read_cases(phantoms, ["test"])[:2], table(evaluated.out), strict=False):
        scan = read_scan(case.scan)
        _, said = measure.measure_scan(scan, case.scan, segmenter, cfg=CFG.measure, spacing_mm=case.spacing_mm)
        assert row["refusals"].split() == [refusal.code for refusal in said.refusals]


def test_what_is_known_is_a_metric_and_what_is_not_is_none(evaluated: evaluate.EvaluateResult) -> None:
    client: MlflowClient = store.connect()
    run = client.get_run(read_json(evaluated.out / artifacts.RUN_JSON)["run_id"])
    expected = {f"test_angle_{name}" for name in COUNTS | {"refused_share"}}
    assert {name for name in run.data.metrics if name.startswith("test_angle")} == expected
    assert run.data.metrics["test_angle_refused_share"] == 1.0
    assert expected <= set(handover.score_metrics(evaluated.out))
    assert artifacts.ANGLES in {item.path for item in client.list_artifacts(run.info.run_id)}


def test_equal_runs_write_equal_angles(
    evaluated: evaluate.EvaluateResult, model: Path, phantoms: Path, tmp_path: Path
) -> None:
    again = evaluate.score_model(CFG, data=phantoms, model=model, out=tmp_path / "again", progress=False)
    for name in (artifacts.ANGLES, artifacts.SCORES, artifacts.EVALUATION_REPORT):
        assert (again.out / name).read_bytes() == (evaluated.out / name).read_bytes()


@dataclass(frozen=True)
class Knowing:
    """A prediction that is the truth."""

    mask: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    scale: float = 0.5
    scaled_by: str = "spacing"


class Knows:
    """A predictor that knows the masks of its cases."""

    def __init__(self, cases: list[Case]) -> None:
        self.masks = {read_scan(case.scan).tobytes(): read_mask(case.mask) for case in cases}

    def __call__(self, scan: npt.NDArray[np.uint8], spacing_mm: tuple[float, float] | None) -> Knowing:
        mask = self.masks[scan.tobytes()]
        return Knowing(mask, np.where(np.arange(4)[:, None, None] == mask, 0.94, 0.02).astype(np.float32))


def test_who_knows_the_masks_measures_the_true_angles(model: Path, phantoms: Path, tmp_path: Path) -> None:
    cases = read_cases(phantoms, ["test"])
    info = read_model_info(model)
    info = info.model_copy(update={"sweep_width": 100})
    measurer = AngleMeasurer(read_true_angles(phantoms), MeasureConfig(), info)
    evaluation = score(cases, Knows(cases), CFG, masks=tmp_path, measure=measurer, progress=False)
    found = summarise_angles(evaluation.results, CFG)
    assert found is not None
    assert (found.refused, found.pairs, found.missed) == (0, found.compared, 0)
    assert found.compared >= 4
    assert found.mad is not None
    assert found.mad.value < 3.0
    assert found.icc is not None
    assert found.icc.value > 0.95


def test_a_reading_of_one_scan_is_compared_alone(model: Path, data_root: Path, tmp_path: Path) -> None:
    (data_root / "angles.csv").write_text(HEADER + "test_001,22.5,left,20,180\ntrain_000,30,left,1,2\n")
    result = evaluate.score_model(CFG, data=data_root, model=model, out=tmp_path / "out", progress=False)
    [row] = table(result.out)
    assert (row["name"], row["true_deg"], row["convex"], row["artefacts"]) == ("test_001", "22.5", "left", "")
    assert result.scores.angles is not None
    assert (result.scores.scans, result.scores.angles.scans, result.scores.phantom) == (2, 1, False)
    page = (result.out / artifacts.EVALUATION_REPORT).read_text(encoding="utf-8")
    assert "The truth is known of 1 of 2 scans" in page
    assert "angles-by-artefact" not in page


def test_without_a_truth_there_is_a_header_and_no_scores(model: Path, data_root: Path, tmp_path: Path) -> None:
    (data_root / "angles.csv").write_text(HEADER + "train_000,30,left,1,2\n")
    result = evaluate.score_model(CFG, data=data_root, model=model, out=tmp_path / "out", progress=False)
    assert result.scores.angles is None
    assert "angles" not in read_json(result.out / artifacts.SCORES)
    assert table(result.out) == []
    assert not [name for name in handover.score_metrics(result.out) if "angle" in name]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("test_000,20,up,10,200", r"angles\.csv, line 2: convex is 'up'"),
        ("test_000,20,left,10,900", r"angles\.csv: a curve of test_000 ends below its scan.*row 900, the scan has 256"),
    ],
)
def test_readings_that_cannot_be_end_it_and_leave_what_was_there(
    model: Path, data_root: Path, tmp_path: Path, line: str, says: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / artifacts.SCORES).write_text("{}")
    (data_root / "angles.csv").write_text(HEADER + line + "\n")
    with pytest.raises(DataError, match=says):
        evaluate.score_model(CFG, data=data_root, model=model, out=out, progress=False)
    assert [path.name for path in out.iterdir()] == [artifacts.SCORES]


def test_limits_of_refusal_are_those_of_the_section(phantoms: Path, model: Path, tmp_path: Path) -> None:
    cases = read_cases(phantoms, ["test"])[-1:]
    info = read_model_info(model)
    strict = MeasureConfig(min_confidence=1.0)
    for cfg, codes in ((MeasureConfig(), ()), (strict, ("low_confidence",))):
        measurer = AngleMeasurer(read_true_angles(phantoms), cfg, info.model_copy(update={"sweep_width": 100}))
        [result] = score(cases, Knows(cases), CFG, masks=tmp_path, measure=measurer, progress=False).results
        assert result.angles is not None
        assert result.angles.refusals == codes
        assert dataclasses.replace(result.angles, refusals=()).status == ("refused" if codes else "found")
