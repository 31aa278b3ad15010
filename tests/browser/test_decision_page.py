"""The pages of a decision and of a comparison in Chromium with every connection cut: nothing is asked for, all is read."""

from pathlib import Path

import numpy as np
import pytest
from registry_cases import scored_version

from sa2net.config import RegisterConfig
from sa2net.evaluation.overlay import draw_change, jpeg_uri
from sa2net.registry import decision_page
from sa2net.registry.comparison_page import Picture, render
from sa2net.registry.gate import decide


@pytest.fixture(scope="module")
def decision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate that is ahead, was rolled back, and is badly calibrated."""
    table = np.clip(np.random.default_rng(0).normal(0.8, 0.02, (20, 3)), 0.0, 1.0)
    change = np.random.default_rng(1).normal([0.05, 0.05, -0.06], 0.02, (20, 3))
    verdict = decide(
        scored_version("version 12", table + change, calibration_error=0.2, seconds_per_scan=0.2),
        scored_version("version 9", table - 0.15),
        RegisterConfig(max_seconds_per_scan=0.5),
        withdrawn=True,
    )
    path = tmp_path_factory.mktemp("decision") / "decision.html"
    facts = {"name": "sa2net", "version": 12, "model_sha256": "a" * 64, "data_md5": "b" * 32 + ".dir", "split": "test"}
    decision_page.write(path, {**verdict.to_dict(), **facts, "phantom": True})
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on two scans, one of them drawn."""
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    rows = [
        {"subject": name, "first": estimate, "second": estimate, "p_value": 0.2, "says": "no difference shown",
         "difference": {"value": 0.01, "low": -0.01, "high": 0.03}}
        for name in ("mean", "rib", "thoracic_process", "lumbar_lump")
    ]  # fmt: skip
    classes = {name: {"first": 0.8, "second": 0.9} for name in ("rib", "thoracic_process", "lumbar_lump")}
    scans = [
        {"name": f"scan{index}", "subject": "s", "first": 0.8, "second": 0.9, "change": 0.1, "classes": classes}
        for index in range(2)
    ]
    document = {
        "first": {"label": "sa2net 3", "model_sha256": "a" * 64},
        "second": {"label": "sa2net 4", "model_sha256": "b" * 64},
        "split": "test", "data_md5": "c" * 32, "inference": {"mode": "whole", "scales": [1.0], "flip": True},
        "phantom": True, "subjects": 2, "confidence": 0.95, "bootstrap_samples": 200, "table": rows, "scans": scans,
        "scored": "Scores that the registry keeps of both.",
    }  # fmt: skip
    mask = np.zeros((300, 120), dtype=np.uint8)
    mask[50:90, 40:80] = 1
    picture = draw_change(np.full_like(mask, 90), mask, mask, np.roll(mask, 9, axis=0), names=("A", "B"))
    path = tmp_path_factory.mktemp("comparison") / "compare.html"
    path.write_text(render(document, [Picture("scan0", jpeg_uri(picture))]), encoding="utf-8")
    return path


class Visit:
    """A page opened with all connections cut, and what it tried and complained about."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900}, **options)
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

    def colours(self, selector: str) -> list[list[float]]:
        """Background of the page and colour of an element, RGB."""
        script = """selector => [document.body, document.querySelector(selector)].map((item, index) =>
            getComputedStyle(item)[index ? "color" : "backgroundColor"].match(/[0-9.]+/g).slice(0, 3).map(Number))"""
        return self.page.evaluate(script, selector)


def contrast(first: list[float], second: list[float]) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["decision", "comparison"])
def test_pages_ask_for_nothing_and_fit(browser, request, which, scheme):
    visit = Visit(browser, request.getfixturevalue(which), color_scheme=scheme)
    assert (visit.requests, visit.complaints) == ([], [])
    assert visit.page.get_by_text("Research use only.").is_visible()
    assert visit.page.locator("#phantom").is_visible()
    for width in (1100, 420):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.context.close()


def test_the_verdict_is_seen_first_and_every_line_says_its_own(browser, decision):
    visit = Visit(browser, decision)
    assert visit.page.locator("#verdict strong").inner_text() == "refuse"
    box = visit.page.locator("#verdict").bounding_box()
    assert box["y"] + box["height"] < 900
    words = visit.page.locator("#lines tbody td:last-child").all_inner_texts()
    assert words == [
        "✓ better", "✓ not worse", "✓ not worse", "✓ not worse", "✗ above the limit", "✓ within the limit",
    ]  # fmt: skip
    assert visit.page.locator("svg circle").count() == 4
    assert visit.page.locator("svg .margin").count() == 1
    assert visit.page.locator("#reasons li").first.inner_text().startswith("against")
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_can_be_read(browser, decision, scheme):
    visit = Visit(browser, decision, color_scheme=scheme)
    for selector in ("body", ".good", ".bad", ".soft", "svg text.name"):
        assert contrast(*visit.colours(selector)) >= 4.5, selector
    visit.context.close()


def test_print_is_black_on_white(browser, decision, tmp_path):
    visit = Visit(browser, decision)
    visit.page.emulate_media(media="print", color_scheme="light")
    for selector in (".good", ".bad", "#verdict strong"):
        background, colour = visit.colours(selector)
        assert (background, colour) == ([255, 255, 255], [0, 0, 0])
    visit.page.pdf(path=tmp_path / "decision.pdf")
    assert (tmp_path / "decision.pdf").read_bytes().startswith(b"%PDF")
    visit.context.close()


def test_a_picture_is_drawn_and_enlarged_without_a_script(browser, comparison):
    visit = Visit(browser, comparison, java_script_enabled=True)
    image = visit.page.locator("figure img")
    assert image.count() == 1
    assert image.evaluate("picture => picture.naturalWidth") > 400
    before = image.bounding_box()["width"]
    image.click()
    assert image.bounding_box()["width"] > 1.5 * before
    visit.context.close()
