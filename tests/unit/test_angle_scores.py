"""Angles of a split, summed up: values worked out by hand, groups, the table, plots and the section of the page."""

import csv
import dataclasses
import math
import re
from pathlib import Path

import pytest
from scored_example import scored_example

from sa2net.artifacts import ANGLES, SCORES, AngleScores, Estimate, read_json, read_scores, write_json, write_scores
from sa2net.config import EvaluateConfig
from sa2net.data.layout import Case
from sa2net.evaluation.angle_scores import by_artefact, by_size, difference, summarise_angles
from sa2net.evaluation.angles import Compared, ScanAngles
from sa2net.evaluation.charts import agreement_plot, bland_altman_plot
from sa2net.evaluation.report import render
from sa2net.evaluation.scoring import ScanResult, summarise
from sa2net.evaluation.tables import write_angles
from sa2net.scoliosis.result import CurveResult

CFG = EvaluateConfig(bootstrap_samples=200)


def angles(
    truth: float,
    measured: float | None,
    *,
    half: float = 3.0,
    refusals: tuple[str, ...] = (),
    missed: int = 0,
    extra: int = 0,
    artefacts: tuple[str, ...] = (),
) -> ScanAngles:
    found = None
    if measured is not None:
        ends = (measured - half, measured + half)
        found = CurveResult.model_construct(angle_deg=measured, interval_90_deg=ends, convex="left")
    compared = Compared(truth, math.nan, found, bool(refusals), missed, extra, "left")
    return ScanAngles(compared, refusals, artefacts)


def results(*scans: ScanAngles | None) -> list[ScanResult]:
    """One scan each, two of a subject."""
    return [
        ScanResult(Case(f"s{index}", "test", f"subject{index // 2}", Path("a"), Path("b")), (), 0.1, item)
        for index, item in enumerate(scans)
    ]


BY_HAND = results(
    angles(10.0, 12.0),  # + 2
    angles(20.0, 18.0, artefacts=("shadow",)),  # - 2
    angles(30.0, 33.0, half=2.0, extra=1, artefacts=("kink", "shadow")),  # + 3, its interval ends at 31
    angles(40.0, 46.0, half=9.0),  # + 6
    angles(50.0, None, refusals=("sweep_cut", "uncertain"), artefacts=("shadow",)),
    angles(25.0, None, missed=1),
    angles(9.9, 3.0, extra=1),  # below the limit
    angles(4.0, None, refusals=("nothing_found",)),
    None,  # nobody knows
)


def test_a_split_by_hand() -> None:
    scores = summarise_angles(BY_HAND, CFG)
    assert scores is not None
    assert (scores.scans, scores.compared, scores.pairs) == (8, 6, 4)
    assert (scores.refused, scores.refused_share, scores.missed, scores.extra) == (
        1,
        pytest.approx(1 / 6, abs=1e-6),
        1,
        2,
    )
    assert scores.mad is not None
    assert (scores.mad.value, scores.bias, scores.within_5, scores.coverage) == (3.25, 2.25, 0.75, 0.75)
    # Differences 2, -2, 3, 6: variance (0.0625 + 18.0625 + 0.5625 + 14.0625) / 3.
    spread = 1.96 * math.sqrt(32.75 / 3)
    assert (scores.limit_low, scores.limit_high) == (
        pytest.approx(2.25 - spread, abs=1e-6),
        pytest.approx(2.25 + spread, abs=1e-6),
    )
    # Scan means 11, 19, 31.5, 43: between = 2 * 593.1875 / 3; raters = 8 * 1.125^2; error = (32.75 / 2) / 3.
    between, raters, error = 2 * 593.1875 / 3, 8 * 1.125**2, 32.75 / 6
    icc = (between - error) / (between + error + 2 * (raters - error) / 4)
    assert scores.icc is not None
    assert scores.icc.value == pytest.approx(icc, abs=1e-6)
    assert scores.icc.low is not None
    assert scores.icc.high is not None
    assert scores.icc.low < scores.icc.value < scores.icc.high


def test_the_interval_of_the_difference_is_by_subject() -> None:
    scores = summarise_angles(results(angles(10.0, 12.0), angles(20.0, 18.0)), CFG)
    assert scores is not None
    assert scores.mad == Estimate(value=2.0)  # both scans are of one subject
    several = summarise_angles(results(angles(10.0, 11.0), angles(20.0, 21.0), angles(20.0, 26.0)), CFG)
    assert several is not None
    assert several.mad is not None
    assert several.mad.low is not None


def test_no_truth_has_no_scores() -> None:
    assert summarise_angles(results(None, None), CFG) is None


@pytest.mark.parametrize(
    ("scans", "known"),
    [
        ([angles(50.0, None, refusals=("uncertain",))], {"refused_share"}),
        ([angles(5.0, None, refusals=("uncertain",))], set()),
        ([angles(20.0, 21.0)], {"refused_share", "mad", "bias", "within_5", "coverage"}),
        (
            [angles(20.0, 21.0), angles(30.0, 31.0)],
            {"refused_share", "mad", "bias", "limit_low", "limit_high", "within_5", "coverage"},
        ),
    ],
)
def test_what_cannot_be_computed_is_absent(scans: list[ScanAngles], known: set[str]) -> None:
    scores = summarise_angles(results(*scans), CFG)
    assert scores is not None
    counts = {"scans", "compared", "pairs", "refused", "missed", "extra"}
    assert set(scores.model_dump(exclude_none=True)) == counts | known
    assert set(scores.metrics("test")) == {f"test_angle_{name}" for name in counts | known}
    assert all(math.isfinite(value) for value in scores.metrics("test").values())


def test_status_and_difference() -> None:
    kinds = [item.angles.status for item in BY_HAND if item.angles]
    assert kinds == ["found"] * 4 + ["refused", "missed", "small", "small"]
    assert difference(BY_HAND[3].angles) == 6.0
    assert all(math.isnan(difference(item.angles)) for item in BY_HAND[4:])


def test_groups_by_the_true_angle_and_by_artefact() -> None:
    sizes = {group.name: group.scores for group in by_size(BY_HAND, CFG)}
    assert {name: (scores.scans, scores.pairs) for name, scores in sizes.items()} == {
        "under 10": (2, 0),
        "10 to 25": (2, 2),
        "25 to 45": (3, 2),
        "45 and more": (1, 0),
    }
    families = {group.name: group.scores for group in by_artefact(BY_HAND, CFG)}
    assert {name: (scores.scans, scores.refused) for name, scores in families.items()} == {
        "kink": (1, 0),
        "shadow": (3, 1),
        "none of them": (5, 0),
    }
    assert by_artefact(results(angles(20.0, 21.0)), CFG) == []


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory):
    """A scored split whose scans have the angles worked out by hand."""
    _, _, evaluation, _, cfg = scored_example(tmp_path_factory.mktemp("scored"), test=9)
    scans = [
        dataclasses.replace(result, angles=item.angles)
        for result, item in zip(evaluation.results, BY_HAND, strict=True)
    ]
    evaluation = dataclasses.replace(evaluation, results=tuple(scans))
    scores = summarise(
        evaluation, cfg, data_md5="0", model_sha256="f", phantom=True, angles=summarise_angles(scans, cfg)
    )
    return evaluation, scores, cfg


def test_the_table_has_a_row_for_each_scan_with_a_truth(example, tmp_path: Path) -> None:
    write_angles(tmp_path, example[0])
    with (tmp_path / ANGLES).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [f"test_{index:03d}" for index in range(8)]
    third, refused, small = rows[2], rows[4], rows[6]
    assert third == {
        "name": "test_002", "subject": "subject_test_002", "status": "found", "true_deg": "30.0", "convex": "left",
        "size": "25 to 45", "measured_deg": "33.0", "difference_deg": "3.0", "interval_low_deg": "31.0",
        "interval_high_deg": "35.0", "refusals": "", "missed": "0", "extra": "1", "artefacts": "kink shadow",
    }  # fmt: skip
    assert (refused["status"], refused["refusals"], refused["measured_deg"]) == ("refused", "sweep_cut uncertain", "")
    assert (small["status"], small["size"], small["difference_deg"]) == ("small", "under 10", "")


def test_without_a_truth_the_table_is_its_header_and_the_page_says_nothing(example, tmp_path: Path) -> None:
    evaluation, scores, cfg = example
    bare = dataclasses.replace(
        evaluation, results=tuple(dataclasses.replace(item, angles=None) for item in evaluation.results)
    )
    write_angles(tmp_path, bare)
    assert (tmp_path / ANGLES).read_text().splitlines() == [
        "name,subject,status,true_deg,convex,size,measured_deg,difference_deg,interval_low_deg,interval_high_deg,"
        "refusals,missed,extra,artefacts"
    ]
    page = render(bare, scores.model_copy(update={"angles": None}), cfg)
    assert "angle-agreement" not in page
    assert "bland-altman" not in page


def test_scores_keep_the_angles_and_old_scores_have_none(example, tmp_path: Path) -> None:
    scores = example[1]
    write_scores(tmp_path / SCORES, scores)
    assert read_scores(tmp_path / SCORES) == scores
    content = read_json(tmp_path / SCORES)
    assert content["angles"]["mad"]["value"] == 3.25
    del content["angles"]
    write_json(tmp_path / SCORES, content)
    assert read_scores(tmp_path / SCORES).angles is None


def cells(page: str, table: str) -> list[list[str]]:
    body = page[page.index(f'<table id="{table}">') :].partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]


def test_the_page_shows_agreement_refusals_and_phantoms(example) -> None:
    evaluation, scores, cfg = example
    page = render(evaluation, scores, cfg)
    assert render(evaluation, scores, cfg) == page
    [row] = cells(page, "angles")
    assert row[:6] == ["all", "6", "1 17 %", "1", "2", "4"]
    assert row[6].startswith("3.25 ")
    assert row[7] == "+2.2 -4.2 to +8.7"
    assert row[9:] == ["75 %", "75 %"]
    assert [line[0] for line in cells(page, "angles-by-size")] == ["under 10", "10 to 25", "25 to 45", "45 and more"]
    assert [line[0] for line in cells(page, "angles-by-artefact")] == ["kink", "shadow", "none of them"]
    section = page[page.index("angle-agreement") :]
    assert "The scans are phantoms" in section
    assert "not a radiographic Cobb angle" in section
    assert 'aria-label="Bland-Altman plot of the angles, phantoms"' in section
    assert "upper limit +8.7" in section
    assert "1 refused scan and 1 whose largest curve was missed" in " ".join(section.split())
    real = render(evaluation, scores.model_copy(update={"phantom": False}), cfg)
    assert "phantom" not in real[real.index("angle-agreement") : real.index("Which class is taken")]
    assert "<script" not in page


def test_a_page_where_every_scan_was_refused(example) -> None:
    evaluation, scores, cfg = example
    refused = [angles(20.0 + index, None, refusals=("uncertain",)) for index in range(9)]
    evaluation = dataclasses.replace(
        evaluation,
        results=tuple(
            dataclasses.replace(item, angles=new) for item, new in zip(evaluation.results, refused, strict=True)
        ),
    )
    page = render(evaluation, scores.model_copy(update={"angles": summarise_angles(evaluation.results, cfg)}), cfg)
    assert cells(page, "angles")[0][1:3] == ["9", "9 100 %"]
    assert "bland-altman" not in page


def test_the_scatter_is_in_scale() -> None:
    scans = [(item.case.name, item.angles) for item in BY_HAND if item.angles]
    plot = agreement_plot(scans, side=100.0)
    assert [tick.label for tick in plot.across] == ["0", "10", "20", "30", "40", "50", "60"]  # 55 is the largest end
    fourth = plot.dots[3]  # true 40, measured 46, interval 37 to 55
    assert (fourth.x, fourth.y, fourth.low, fourth.high, fourth.covered) == (66.67, 23.33, 38.33, 8.33, True)
    assert [dot.covered for dot in plot.dots] == [True, True, False, True]
    assert [(dot.x, dot.y) for dot in plot.without] == [(83.33, 100.0), (41.67, 100.0)]
    assert plot.without[0].label == "s4: true 50.0, refused"
    assert plot.close == 8.33


def test_the_bland_altman_plot_is_in_scale() -> None:
    scans = [(item.case.name, item.angles) for item in BY_HAND if item.angles]
    scores = summarise_angles(BY_HAND, CFG)
    assert scores is not None
    plot = bland_altman_plot(scans, scores, width=100.0, height=100.0)
    assert [tick.label for tick in plot.up] == ["-10", "-5", "0", "+5", "+10"]  # the upper limit is 8.7
    assert [tick.place for tick in plot.up] == [100.0, 75.0, 50.0, 25.0, 0.0]
    assert (plot.dots[0].x, plot.dots[0].y) == (22.0, 40.0)  # mean 11 of 50, difference + 2
    assert [(line.label, line.dashed) for line in plot.lines] == [
        ("upper limit +8.7", True),
        ("bias +2.2", False),
        ("lower limit -4.2", True),
    ]
    assert plot.lines[1].y == pytest.approx(50.0 - 2.25 * 5.0)


def test_a_plot_of_one_scan_has_no_limits() -> None:
    scores = AngleScores(scans=1, compared=1, pairs=1, refused=0, missed=0, extra=0, bias=0.0)
    plot = bland_altman_plot([("a", angles(20.0, 20.0))], scores, width=100.0, height=100.0)
    assert [line.label for line in plot.lines] == ["bias +0.0"]
    assert plot.dots[0].y == 50.0
