"""Scores, tables and page of a split whose predictions are known."""

import csv
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from scored_example import MovedTruth, scored_example

from sa2net.artifacts import (
    CONFUSION,
    DICE_PER_CLASS,
    EVALUATION_REPORT,
    OVERLAYS,
    PER_SCAN,
    RELIABILITY,
    SCORES,
    read_per_scan,
    read_scores,
    write_scores,
)
from sa2net.config import EvaluateConfig
from sa2net.data.layout import mask_path, read_cases
from sa2net.data.pictures import read_mask, write_png
from sa2net.errors import DataError
from sa2net.evaluation.charts import LEFT, RIGHT, WIDTH, Series, strip_plot
from sa2net.evaluation.report import pick_scans, render, write_report
from sa2net.evaluation.scoring import is_phantom, read_groups, score, summarise, timing
from sa2net.evaluation.tables import write_tables


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """12 scans; scan number k is moved by k px; scan 4 lacks the lumbar lumps in the prediction."""
    return scored_example(tmp_path_factory.mktemp("scored"), forgets={4: 3})


def rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_scores_say_what_was_done_to_the_predictions(example):
    _, _, evaluation, scores, _ = example
    assert [result.case.name for result in evaluation.results] == [f"test_{index:03d}" for index in range(12)]
    assert evaluation.results[0].mean("dice") == 1.0
    dice = [result.scores[0].dice for result in evaluation.results]
    assert dice == sorted(dice, reverse=True)
    assert (scores.scans, scores.subjects, scores.unit, scores.tolerance) == (12, 12, "mm", 1.0)
    lump = scores.per_class["lumbar_lump"]
    assert (lump.scored, lump.missed, lump.spurious, lump.absent) == (11, 1, 0, 0)
    assert scores.per_class["rib"].scored == 12
    expected = np.mean([np.mean([item.dice for item in result.scores]) for result in evaluation.results])
    assert scores.mean.dice.value == pytest.approx(expected, abs=1e-6)
    assert scores.mean.dice.low < scores.mean.dice.value < scores.mean.dice.high


def test_confusion_and_calibration_count_every_pixel_once(example):
    root, _, evaluation, scores, _ = example
    truth = np.concatenate([read_mask(case.mask).ravel() for case in read_cases(root, ["test"])])
    np.testing.assert_array_equal(evaluation.confusion.sum(axis=1), np.bincount(truth, minlength=4))
    assert sum(item.pixels for item in evaluation.reliability) == truth.size
    right = np.trace(evaluation.confusion) / truth.size
    assert scores.calibration.ece == pytest.approx(abs(right - 0.91), abs=1e-5)
    assert scores.pooled.accuracy == pytest.approx(right, abs=1e-6)
    both = evaluation.confusion[1, 1]
    either = evaluation.confusion[1].sum() + evaluation.confusion[:, 1].sum() - both
    assert scores.pooled.per_class["rib"]["iou"] == pytest.approx(both / either, abs=1e-6)
    assert "background" in scores.pooled.per_class


def test_scores_json_round_trip_holds_no_nan(example, tmp_path):
    scores = example[3]
    write_scores(tmp_path / SCORES, scores)
    text = (tmp_path / SCORES).read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "null" not in text
    assert read_scores(tmp_path / SCORES) == scores
    assert json.loads(text)["schema_version"] == 1


def test_scores_of_another_version_are_refused(tmp_path):
    (tmp_path / SCORES).write_text('{"schema_version": 1, "split": "test"}', encoding="utf-8")
    with pytest.raises(DataError, match="evaluate"):
        read_scores(tmp_path / SCORES)


def test_class_that_no_scan_holds_has_no_number(tmp_path):
    root, _, _, _, cfg = scored_example(tmp_path, test=3)
    for case in read_cases(root, ["test"]):
        truth = read_mask(case.mask)
        write_png(case.mask, np.where(truth == 3, 0, truth).astype(np.uint8))
    cases = read_cases(root, ["test"])
    evaluation = score(cases, MovedTruth(cases), cfg, masks=tmp_path / "masks", progress=False)
    scores = summarise(evaluation, cfg, data_md5="0", model_sha256="f", phantom=False)
    lump = scores.per_class["lumbar_lump"]
    assert lump.dice is None
    assert lump.absent == 3
    assert "dice" not in scores.pooled.per_class["lumbar_lump"]
    write_scores(tmp_path / SCORES, scores)
    assert "dice" not in json.loads((tmp_path / SCORES).read_text())["per_class"]["lumbar_lump"]
    write_tables(tmp_path, evaluation, scores)
    blank = [row for row in rows(tmp_path / PER_SCAN) if row["class"] == "lumbar_lump"]
    assert all(row["dice"] == row["hd95"] == "" for row in blank)
    assert read_per_scan(tmp_path / PER_SCAN)[2].dice is None
    assert "–" in render(evaluation, scores, cfg)  # noqa: RUF001


def test_one_subject_has_no_interval(tmp_path):
    _, _, evaluation, scores, cfg = scored_example(tmp_path, test=1)
    assert scores.mean.dice.low is None
    page = render(evaluation, scores, cfg)
    assert "One subject." in page


def test_distances_are_in_pixels_unless_every_scan_has_a_spacing(tmp_path, caplog):
    root, _, _, _, cfg = scored_example(tmp_path, test=3)
    table = (root / "scans.csv").read_text(encoding="utf-8").splitlines()
    table[-1] = "test_002,subject_test_002,factory,,"
    (root / "scans.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    cases = read_cases(root, ["test"])
    predictor = MovedTruth(cases)
    with caplog.at_level("WARNING"):
        evaluation = score(cases, predictor, cfg, masks=tmp_path / "masks", progress=False)
    assert (evaluation.unit, evaluation.tolerance) == ("px", cfg.nsd_tolerance_px)
    assert "1 of 3 scans have no spacing (test_002)" in caplog.text
    assert predictor.spacings == [(0.4, 0.4), (0.4, 0.4), None]  # the predictor is told what is known
    scores = summarise(evaluation, cfg, data_md5="0", model_sha256="f", phantom=False)
    assert "all distances are in px" in render(evaluation, scores, cfg)


def test_scan_and_mask_of_different_size_or_with_strange_labels_are_refused(tmp_path):
    root, _, _, _, cfg = scored_example(tmp_path, test=2)
    cases = read_cases(root, ["test"])
    predictor = MovedTruth(cases)
    truth = read_mask(cases[1].mask)
    write_png(mask_path(root, "test", "test_001"), np.where(truth == 1, 7, truth).astype(np.uint8))
    with pytest.raises(DataError, match=r"test_001_bone_3\.png.*: 7"):
        score(cases, predictor, cfg, masks=tmp_path / "masks", progress=False)
    write_png(mask_path(root, "test", "test_001"), truth[:-1])
    with pytest.raises(DataError, match="test_001 differ in size: scan 96 x 256 px, mask 96 x 255 px"):
        score(cases, predictor, cfg, masks=tmp_path / "masks", progress=False)


def test_per_scan_table(example, tmp_path):
    _, _, evaluation, scores, _ = example
    write_tables(tmp_path, evaluation, scores)
    table = rows(tmp_path / PER_SCAN)
    assert ",".join(table[0]) == "name,subject,device,class,dice,iou,nsd,hd95,unit,truth_px,prediction_px"
    assert len(table) == 12 * 3
    assert (table[0]["dice"], table[0]["hd95"], table[0]["unit"]) == ("1.0", "0.0", "mm")
    assert Counter(row["class"] for row in table) == {"rib": 12, "thoracic_process": 12, "lumbar_lump": 12}
    read = read_per_scan(tmp_path / PER_SCAN)
    scored = [item for result in evaluation.results for item in result.scores]
    assert [row.dice for row in read] == pytest.approx([item.dice for item in scored], abs=1e-6)
    assert [row.prediction_px for row in read] == [item.prediction_px for item in scored]


def test_per_scan_table_that_is_none_is_refused(tmp_path):
    (tmp_path / PER_SCAN).write_text("name,dice\na,0.5\n", encoding="utf-8")
    with pytest.raises(DataError, match="evaluate"):
        read_per_scan(tmp_path / PER_SCAN)
    with pytest.raises(DataError):
        read_per_scan(tmp_path / "nothing.csv")


def test_plot_tables(example, tmp_path):
    _, _, evaluation, scores, _ = example
    write_tables(tmp_path, evaluation, scores)
    confusion = rows(tmp_path / CONFUSION)
    assert len(confusion) == 16
    for actual in {row["actual"] for row in confusion}:
        assert sum(float(row["share"]) for row in confusion if row["actual"] == actual) == pytest.approx(1, abs=1e-5)
    assert sum(int(row["pixels"]) for row in confusion) == evaluation.confusion.sum()
    dice = rows(tmp_path / DICE_PER_CLASS)
    assert [row["class"] for row in dice] == ["mean", "rib", "thoracic_process", "lumbar_lump"]
    assert float(dice[0]["dice"]) == scores.mean.dice.value
    [sure] = rows(tmp_path / RELIABILITY)
    assert float(sure["confidence"]) == pytest.approx(0.91, abs=1e-6)


def test_timing_is_apart(example):
    seconds = timing(example[2], device="cpu", threads=2)
    assert (seconds["device"], seconds["threads"], seconds["scans"]) == ("cpu", 2, 12)
    assert 0 <= seconds["seconds_per_scan"]["median"] <= seconds["seconds_per_scan"]["p95"]


@pytest.mark.parametrize(
    ("scans", "count", "expected"),
    [
        (5, 0, []),
        (7, 1, [("worst", 11), ("median", 8), ("best", 5)]),
        (2, 3, [("worst", 11), ("worst", 10)]),
        (5, 2, [("worst", 11), ("worst", 10), ("median", 9), ("best", 7), ("best", 8)]),
    ],
)
def test_picked_scans(example, scans, count, expected):
    # Later scans are worse; the last `scans` of them take part.
    results = [result for index, result in enumerate(example[2].results) if index >= 12 - scans]
    picked = pick_scans(results, count)
    assert [(rank, int(result.case.name[-3:])) for rank, result in picked] == expected


class Links(HTMLParser):
    """Everything a page refers to."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], Counter()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.found += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]


def test_page_is_self_contained_and_says_what_matters(example, tmp_path):
    _, masks, evaluation, scores, cfg = example
    write_report(tmp_path, evaluation, scores, cfg, masks=masks, groups={})
    page = (tmp_path / EVALUATION_REPORT).read_text(encoding="utf-8")
    parser = Links()
    parser.feed(page)
    assert all(link.startswith(("data:", "#")) for link in parser.found)
    assert parser.tags["script"] == 0
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page
    assert f'id="headline">{scores.mean.dice.value:.3f}<' in page
    for needed in ("Research use only", "Absent classes.", scores.data_md5, scores.model_sha256, "background included"):
        assert needed in page
    assert 'id="phantom"' not in page
    assert parser.tags["img"] == 9
    drawn = sorted(path.name for path in (tmp_path / OVERLAYS).iterdir())
    assert len(drawn) == 9
    assert "best_1_test_000.png" in drawn


def test_equal_runs_give_equal_bytes(tmp_path):
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        _, masks, evaluation, scores, cfg = scored_example(tmp_path / side, test=4, cfg=EvaluateConfig(overlays=1))
        write_scores(tmp_path / side / "out" / SCORES, scores)
        write_tables(tmp_path / side / "out", evaluation, scores)
        write_report(tmp_path / side / "out", evaluation, scores, cfg, masks=masks, groups={})
    one, two = (
        {path.relative_to(tmp_path / side): path.read_bytes() for path in (tmp_path / side / "out").rglob("*.*")}
        for side in ("one", "two")
    )
    assert one == two
    assert len(one) == 6 + 3


def test_phantoms_are_called_phantoms(example, tmp_path):
    root, _, evaluation, scores, cfg = example
    cases = read_cases(root, ["test"])
    assert not is_phantom(root, cases)
    (tmp_path / "truth.json").write_text('{"test_003": {}}', encoding="utf-8")
    assert is_phantom(tmp_path, cases)
    page = render(evaluation, scores.model_copy(update={"phantom": True}), cfg)
    assert 'id="phantom"' in page
    assert "<em>phantom</em>" in page


def test_subgroups_come_from_the_table_of_scans(tmp_path):
    root, _, evaluation, scores, cfg = scored_example(tmp_path, test=6)
    cases = read_cases(root, ["test"])
    assert read_groups(root, cases) == {}  # one device: nothing to compare
    lines = (root / "scans.csv").read_text(encoding="utf-8").splitlines()
    extended = [lines[0] + ",severity,note"]
    extended += [f"{line},{'mild' if index % 2 else '<severe>'},n{index}" for index, line in enumerate(lines[1:])]
    (root / "scans.csv").write_text("\n".join(extended) + "\n", encoding="utf-8")
    groups = read_groups(root, cases)
    assert set(groups) == {"note", "severity"}
    page = render(evaluation, scores, cfg, groups={"severity": groups["severity"]})
    assert "<h3>severity</h3>" in page
    assert "<td>&lt;severe&gt;</td><td>3</td><td>3</td>" in page  # escaped
    assert "<severe>" not in page


def test_strip_plot_places_values_and_keeps_outliers_at_the_edge():
    series = [Series("rib", "#fff", [0.5, math.nan, 7.0, 0.5], ["a", "b", "c", "d"], None)]
    plot = strip_plot("x", series, top=0.9)
    inner = WIDTH - LEFT - RIGHT
    dots = {dot.label[0]: dot for dot in plot.strips[0].dots}
    assert set(dots) == {"a", "c", "d"}
    assert dots["a"].x == dots["d"].x == pytest.approx(LEFT + inner / 2)
    assert dots["a"].y != dots["d"].y
    assert (dots["c"].x, dots["c"].beyond, plot.beyond) == (LEFT + inner, True, 1)
    assert [tick.label for tick in plot.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_dvc_draws_the_confusion_matrix_with_our_template(example, tmp_path):
    renderer = pytest.importorskip("dvc_render.vega").VegaRenderer
    write_tables(tmp_path, example[2], example[3])
    template = files("sa2net.evaluation") / "templates" / "confusion.json"
    points = [{**row, "rev": "workspace"} for row in rows(tmp_path / CONFUSION)]
    drawn = renderer(points, "confusion", x="predicted", y="actual", template=str(template))
    filled = drawn.get_filled_template()
    assert "<DVC_METRIC" not in json.dumps(filled)
    assert filled["data"]["values"] == points
