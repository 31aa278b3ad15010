"""The decision as a page: every number and sentence of the document is on it, and nothing of it is markup."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from registry_cases import scored_version

from sa2net.config import RegisterConfig
from sa2net.evaluation.differences import LEFT, RIGHT, WIDTH, Difference, difference_chart
from sa2net.registry import decision_page
from sa2net.registry.decision import AngleAgreement
from sa2net.registry.gate import decide

CFG = RegisterConfig(bootstrap_samples=500, max_seconds_per_scan=0.5)
FACTS = {"name": "sa2net", "version": 2, "model_sha256": "a" * 64, "data_md5": "b" * 32 + ".dir", "split": "test"}


def table(subjects: int = 20) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(0.8, 0.02, (subjects, 3)), 0.0, 1.0)


def document(change=0.03, *, phantom: bool = False, **more) -> dict:
    noise = np.random.default_rng(1).normal(0.0, 0.02, (20, 3))
    candidate = scored_version("version 2", table() + change + noise, seconds_per_scan=0.25)
    champion = scored_version("version 1", table(), seconds_per_scan=0.5)
    decision = dataclasses.replace(decide(candidate, champion, CFG), phantom=phantom)
    return {**decision.to_dict(), **FACTS, **more}


class Text(HTMLParser):
    """What a reader sees, tag by tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        if data.strip() and self.tags[-1] not in ("style", "title"):
            self.parts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.parts)


def rows(page: str) -> list[list[str]]:
    body = page[page.index('<table id="lines">') :].partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]


def test_every_line_has_its_numbers_and_its_verdict():
    content = document()
    lines = rows(decision_page.render(content))
    assert [line[0] for line in lines] == [
        "mean over the classes", "rib", "thoracic process", "lumbar lump", "calibration error",
        "seconds a scan depends on the machine",
    ]  # fmt: skip
    for line, row in zip(lines, content["table"], strict=True):
        assert line[1] == f"{row['candidate']:.3f}"
        assert line[2] == f"{row['champion']:.3f}"
        assert line[3] == (f"≥ {row['floor']:.3f}" if "floor" in row else f"≤ {row['limit']:.3f}")
        assert line[4] == f"{row['difference']:+.3f}"
        assert line[5] == (f"{row['lower']:+.3f} to {row['upper']:+.3f}" if "lower" in row else "–")  # noqa: RUF001
        assert line[7].partition(" ")[2] == row["verdict"]
    assert lines[-1][1:5] == ["0.250", "0.500", "≤ 0.500", "-0.250"]
    assert {line[7][0] for line in lines} == {"✓"}  # read without colours


def test_angles_have_their_lines_where_they_have_limits():
    cfg = CFG.model_copy(update={"max_angle_mad": 3.0, "min_angle_icc": 0.95, "max_angle_refused": 0.1})
    candidate = scored_version("version 2", table() + 0.03, angles=AngleAgreement(mad=2.5, icc=0.9, refused=0.0))
    champion = scored_version("version 1", table(), angles=AngleAgreement(mad=3.5))
    lines = rows(decision_page.render({**decide(candidate, champion, cfg).to_dict(), **FACTS}))
    dash = "–"  # noqa: RUF001
    assert [[*line[:5], line[7]] for line in lines[-3:]] == [
        ["angle: mean difference degrees", "2.500", "3.500", "≤ 3.000", "-1.000", "✓ within the limit"],
        ["angle: ICC(2,1) 1 is full agreement", "0.900", dash, "≥ 0.950", dash, "✗ below the floor"],
        ["angle: refused share of scans with a curve", "0.000", dash, "≤ 0.100", dash, "✓ within the limit"],
    ]


def test_the_reasons_are_there_in_order_and_the_identities_whole():
    content = document(0.0)
    text = Text(decision_page.render(content)).text
    places = [text.index(reason["text"]) for reason in content["reasons"]]
    assert places == sorted(places)
    assert content["verdict"] == "cannot tell"
    for value in ("a" * 64, "sha of version 1", "b" * 32 + ".dir", "version 2", "version 1", "0.95", "0.02"):
        assert value in text
    assert "Research use only." in text


def test_an_undecided_page_says_how_many_subjects_would_tell():
    content = document(0.002)
    assert content["verdict"] == "cannot tell"
    expected = f"About {content['subjects_needed']} subjects instead of 20 would tell."
    assert expected in Text(decision_page.render(content)).text


@pytest.mark.parametrize("phantom", [True, False])
def test_phantoms_are_marked(phantom):
    assert ('id="phantom"' in decision_page.render(document(phantom=phantom))) == phantom


def test_an_override_says_who_and_why_and_nothing_of_it_is_markup():
    content = document(-0.05, override=True, by='<script>alert("x")</script>', reason="<b>because</b>")
    page = decision_page.render(content)
    reader = Text(page)
    assert "script" not in reader.tags
    assert "<script>alert" in reader.text
    assert "Reason: <b>because</b>" in reader.text
    assert "the champion stays" not in reader.text.partition("Reasons")[0]
    assert 'id="override"' not in decision_page.render(document())


def test_the_first_version_has_no_chart_and_no_champion():
    decision = decide(scored_version("version 1", table()), None, RegisterConfig())
    page = decision_page.render({**decision.to_dict(), **FACTS})
    assert "<svg" not in page
    assert "no comparison with a champion" in Text(page).text


def test_a_refused_line_is_marked():
    lines = rows(decision_page.render(document(np.array([0.1, 0.1, -0.1]))))
    assert lines[3][7] == "✗ worse"


def test_equal_documents_give_equal_bytes_and_the_page_loads_nothing(tmp_path: Path):
    decision_page.write(tmp_path / "a.html", document())
    decision_page.write(tmp_path / "b.html", json.loads(json.dumps(document())))
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)


# As decisions of schema 1 were kept, and a document that says next to nothing.
OLD = {
    "schema_version": 1, "verdict": "same weights", "candidate": "version 2", "champion": "version 1", "subjects": 0,
    "reasons": [{"check": "identity", "subject": "", "holds": False, "text": "version 2 has the very weights."}],
    "table": [{"subject": "mean", "candidate": 0.8, "floor": 0.7}],
    "name": "sa2net", "version": 2,
}  # fmt: skip


@pytest.mark.parametrize("content", [OLD, {"verdict": "refuse"}])
def test_an_older_document_is_shown_as_far_as_it_goes(content):
    text = Text(decision_page.render(content)).text
    assert content["verdict"] in text
    assert "Whether the scans are phantoms is not recorded" in text


# The chart


def test_the_chart_is_in_scale():
    # Reach 0.035 * 1.05 = 0.037 is rounded up to 0.04 on either side.
    chart = difference_chart(
        [Difference("a", 0.02, 0.01, 0.035, "x"), Difference("b", -0.02, None, None, "y")], margin=0.02
    )
    middle, half = LEFT + (WIDTH - LEFT - RIGHT) / 2, (WIDTH - LEFT - RIGHT) / 2
    assert chart.zero == pytest.approx(middle)
    assert chart.margin == pytest.approx(middle - half / 2)
    first, second = chart.lines
    assert (first.value, first.low) == (pytest.approx(middle + half / 2), pytest.approx(middle + half / 4))
    assert first.high == pytest.approx(middle + half * 0.035 / 0.04, abs=0.01)
    assert (second.value, second.low, second.high) == (chart.margin, None, None)
    assert [tick.label for tick in chart.ticks] == ["-0.04", "-0.02", "0", "+0.02", "+0.04"]
    assert chart.lines[0].tooltip == "a: +0.020 (+0.010 to +0.035)"


@pytest.mark.parametrize("value", [0.0, 1e-5, 0.0099, 0.04, 0.3, 1.0])
def test_nothing_leaves_the_chart(value):
    chart = difference_chart([Difference("a", value, -value, value, "")], margin=0.0)
    assert chart.margin is None
    [line] = chart.lines
    assert LEFT <= line.low <= line.value <= line.high <= WIDTH - RIGHT
