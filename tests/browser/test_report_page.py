"""The evaluation report in Chromium with every connection cut: it asks for nothing and shows what matters."""

import dataclasses
from pathlib import Path

import pytest
from scored_example import scored_example

from sa2net.artifacts import EVALUATION_REPORT
from sa2net.evaluation.angle_scores import summarise_angles
from sa2net.evaluation.angles import Compared, ScanAngles
from sa2net.evaluation.report import write_report
from sa2net.scoliosis.result import CurveResult


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, str]:
    """The report of a phantom split with a missed class, and its headline number."""
    folder = tmp_path_factory.mktemp("page")
    _, masks, evaluation, scores, cfg = scored_example(folder, forgets={4: 3})
    groups = {"severity": {result.case.name: "mild" for result in evaluation.results[:6]}}
    groups["severity"] |= {result.case.name: "severe" for result in evaluation.results[6:]}
    phantom = scores.model_copy(update={"phantom": True})
    write_report(folder, evaluation, phantom, cfg, masks=masks, groups=groups)
    return folder / EVALUATION_REPORT, f"{scores.mean.dice.value:.3f}"


@pytest.fixture(scope="module")
def angles(tmp_path_factory) -> Path:
    """The report of a split whose true angles are known: 10 measured, one of them far off, one refused, one missed."""
    folder = tmp_path_factory.mktemp("angles")
    _, masks, evaluation, scores, cfg = scored_example(folder)
    known = []
    for index, result in enumerate(evaluation.results):
        truth, measured = 12.0 + 4.0 * index, 13.0 + 4.0 * index + (9.0 if index == 5 else 0.0)
        curve = CurveResult.model_construct(angle_deg=measured, interval_90_deg=(measured - 3, measured + 3))
        found = None if index in (3, 7) else curve
        compared = Compared(truth, truth, found, index == 3, int(index == 7), 0, "left")
        families = ("shadow", "motion_kink")[: index % 3]
        scan = ScanAngles(compared, ("sweep_cut",) if index == 3 else (), families)
        known.append(dataclasses.replace(result, angles=scan))
    evaluation = dataclasses.replace(evaluation, results=tuple(known))
    scores = scores.model_copy(update={"phantom": True, "angles": summarise_angles(known, cfg)})
    write_report(folder, evaluation, scores, cfg, masks=masks, groups={})
    return folder / EVALUATION_REPORT


class Visit:
    """A page opened with all connections cut, and what it tried and complained about."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.route("**/*", self._answer)
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri(), wait_until="load")

    def _answer(self, route) -> None:
        if route.request.url.startswith(("file://", "data:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def style(self, selector: str, name: str) -> str:
        script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]"
        return self.page.evaluate(script, [selector, name])


def brightness(colour: str) -> float:
    """Mean of a CSS `rgb(...)`."""
    parts = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(parts) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scripts", [True, False])
def test_page_asks_for_nothing_and_shows_the_headline(browser, report, scheme, scripts):
    path, headline = report
    visit = Visit(browser, path, color_scheme=scheme, java_script_enabled=scripts)
    assert visit.requests == []
    assert visit.complaints == []
    assert visit.page.locator("#headline").is_visible()
    assert visit.page.locator("#headline").inner_text() == headline
    assert visit.page.locator("#phantom").is_visible()
    assert visit.page.get_by_text("Research use only.").is_visible()
    assert visit.page.get_by_text("Absent classes.").is_visible()
    visit.context.close()


def test_light_and_dark_are_readable(browser, report):
    shades = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, report[0], color_scheme=scheme)
        shades[scheme] = [brightness(visit.style("body", name)) for name in ("backgroundColor", "color")]
        visit.context.close()
    assert shades["light"][0] - shades["light"][1] > 150
    assert shades["dark"][1] - shades["dark"][0] > 150


def test_pictures_are_drawn_and_nothing_overflows(browser, report):
    visit = Visit(browser, report[0])
    widths = visit.page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert len(widths) == 9
    assert min(widths) > 300
    for width in (1200, 420):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    hollow = visit.page.locator("circle.beyond")
    assert hollow.count() == 1
    assert hollow.evaluate("dot => getComputedStyle(dot).stroke") == "rgb(86, 180, 233)"
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_angles_are_shown_in_plots_that_are_read_without_colour(browser, angles, scheme):
    visit = Visit(browser, angles, color_scheme=scheme)
    assert visit.requests == []
    assert visit.complaints == []
    for plot in ("#angle-scatter", "#bland-altman"):
        assert visit.page.locator(plot).is_visible()
        assert visit.page.locator(f"{plot} circle").count() == 10
        assert visit.page.locator(f"{plot} circle.beyond").count() == 1  # hollow: its interval misses the truth
    assert visit.page.locator("#angle-scatter path.cross").count() == 2
    assert visit.page.locator("#bland-altman line.level").count() == 3
    paper, dot, line = (
        brightness(visit.style("svg", "backgroundColor")),
        brightness(visit.style("#bland-altman circle:not(.beyond)", "fill")),
        brightness(visit.style("#bland-altman line.level", "stroke")),
    )
    assert abs(paper - dot) > 60
    assert abs(paper - line) > 150
    for width in (1200, 420):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.context.close()


def test_a_page_without_true_angles_has_no_section(browser, report):
    visit = Visit(browser, report[0])
    assert visit.page.locator("#angle-agreement").count() == 0
    visit.context.close()


def test_the_policy_refuses_scripts_and_connections(browser, report, tmp_path):
    text = report[0].read_text(encoding="utf-8")
    injected = '<script>document.title = "ran"</script><img src="https://example.invalid/x.png">'
    page = tmp_path / "injected.html"
    page.write_text(text.replace("</main>", injected + "</main>"), encoding="utf-8")
    visit = Visit(browser, page)
    assert visit.page.title() != "ran"
    assert visit.requests == []
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
    visit.context.close()
    policy = text[text.index('<meta http-equiv="Content-Security-Policy"') :].split(">", 1)[0] + ">"
    page.write_text(page.read_text(encoding="utf-8").replace(policy, ""), encoding="utf-8")
    unguarded = Visit(browser, page)  # without the policy both are tried, and seen here
    assert unguarded.page.title() == "ran"
    assert unguarded.requests == ["https://example.invalid/x.png"]
    unguarded.context.close()


def test_page_prints(browser, report, tmp_path):
    visit = Visit(browser, report[0])
    visit.page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    visit.context.close()
