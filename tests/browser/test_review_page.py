"""The review page in Chromium: open, drag, save, reopen, two tabs, hostile names, many scans, keys; nothing leaves."""

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from review_cases import HOSTILE, copy_results, serving, write_results

from sa2net.review.store import read_review

SLOWEST = 3.0
"""Seconds from a drag to its angle; a busy machine is no fault of the page, benchmarks/review.py measures it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("source"))


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "angles"))


class Tab:
    """A page that notes what it asks for and what goes wrong."""

    def __init__(self, context: Any, link: str) -> None:
        self.page = context.new_page()
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.set_default_timeout(30_000)
        self.page.goto(link)
        self.page.wait_for_selector("#scans tbody tr")

    def open(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).click()
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("#canvas[data-ready=yes]")
        self.page.wait_for_selector("#levels [data-end]")
        self.settled()

    def settled(self) -> None:
        self.until(lambda: not self.page.evaluate("asking || again"))

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)

    def end_of(self, level: int, side: str) -> tuple[float, float]:
        script = f"""(() => {{ const [x, y] = view.toCanvas(state.levels[{level}].{side});
            const box = canvas.getBoundingClientRect(); return [x + box.left, y + box.top]; }})()"""
        x, y = self.page.evaluate(script)
        return float(x), float(y)

    def drag(self, level: int, side: str, down: float) -> None:
        x, y = self.end_of(level, side)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y + down, steps=6)
        self.page.mouse.up()

    def save(self, button: str, reader: str = "Dr Who") -> str:
        self.page.fill("#reader", reader)
        self.page.click(button)
        self.until(lambda: bool(self.page.text_content("#saved")))
        self.settled()
        return self.text("#saved")

    def text(self, part: str) -> str:
        return str(self.page.text_content(part))

    def pull(self, end: str, down: float) -> None:
        """Drag the handle of an end of a curve."""
        box = self.page.locator(f"[data-curve='{end}']").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y + down, steps=6)
        self.page.mouse.up()
        self.settled()

    def handles(self) -> dict[str, str]:
        """What a screen reader says of each handle."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found = self.page.locator(".end:visible").all()
        return {item.get_attribute("data-curve"): item.get_attribute("aria-valuetext") for item in found}


@pytest.fixture
def tab(browser: Any, folder: Path) -> Iterator[Tab]:
    with serving(folder) as link:
        context = browser.new_context(viewport={"width": 1280, "height": 720})
        opened = Tab(context, link)
        yield opened
        host = link.partition("/open")[0]
        assert all(url.startswith(host) for url in opened.asked), opened.asked
        assert all("token" not in url for url in opened.asked[1:])
        assert opened.faults == []
        context.close()


def test_drag_save_reopen(tab: Tab, folder: Path) -> None:
    tab.open("severe")
    before = tab.page.text_content("#angle")
    assert tab.page.is_disabled("#correct")
    started = time.monotonic()
    tab.drag(3, "left", 12)
    tab.settled()
    assert time.monotonic() - started < SLOWEST
    after = tab.page.text_content("#angle")
    assert after != before
    assert tab.page.is_disabled("#accept")
    tab.page.keyboard.press("Control+z")
    tab.until(lambda: tab.page.text_content("#angle") == before)
    tab.page.click("#redo")
    tab.until(lambda: tab.page.text_content("#angle") == after)
    assert "version 1: corrected" in tab.save("#correct")
    tab.page.reload()
    tab.ready()
    assert tab.page.text_content("#angle") == after
    assert "Version 1 (newest): corrected by Dr Who" in tab.text("#looking")
    saved = read_review(folder / "reviews" / "severe" / "0001.json")
    assert f"{max(curve.angle_deg for curve in saved.curves):.1f}°" in str(after)
    tab.page.get_by_role("link", name="All scans").click()
    row = tab.page.locator("#scans tbody tr", has_text="severe")
    assert "corrected, Dr Who" in row.text_content()


def test_two_tabs_never_write_over_each_other(browser: Any, folder: Path) -> None:
    with serving(folder) as link:
        context = browser.new_context()
        tabs = [Tab(context, link), Tab(context, link)]
        for tab in tabs:
            tab.open("mild")
        assert "version 1" in tabs[0].save("#accept", "first")
        assert "press again" in tabs[1].save("#refuse", "second")
        assert [path.name for path in (folder / "reviews" / "mild").iterdir()] == ["0001.json"]
        tabs[1].page.click("#refuse")
        tabs[1].until(lambda: "version 2" in str(tabs[1].page.text_content("#saved")))
        readers = [read_review(path).reader for path in sorted((folder / "reviews" / "mild").iterdir())]
        assert readers == ["first", "second"]
        context.close()


def test_ends_are_moved_and_chosen_by_keys(tab: Tab) -> None:
    tab.open("severe")
    before = tab.page.evaluate("state.levels[2].left[1]")
    tab.page.locator("[data-end='2-left']").focus()
    for _ in range(3):
        tab.page.keyboard.press("Shift+ArrowDown")
    tab.page.keyboard.press("ArrowUp")
    tab.settled()
    assert tab.page.evaluate("state.levels[2].left[1]") == pytest.approx(before + 29)
    assert tab.page.evaluate("document.activeElement.dataset.end") == "2-left"
    choice = tab.page.get_by_label("lower end of curve 1", exact=True)
    labels = choice.locator("option").all_text_contents()
    choice.select_option(label=labels[-2])
    tab.until(lambda: tab.page.is_visible("#automatic"))
    tab.settled()
    assert (
        tab.page.get_by_label("lower end of curve 1", exact=True).evaluate("item => item.selectedOptions[0].text")
        == labels[-2]
    )
    tab.page.click("#automatic")
    tab.until(lambda: not tab.page.is_visible("#automatic"))


def test_zoom_and_pan_keep_the_lines_on_the_picture(tab: Tab) -> None:
    tab.open("mild")
    whole = tab.page.evaluate("view.scale")
    x, y = tab.end_of(4, "left")
    tab.page.mouse.move(x, y)
    tab.page.mouse.wheel(0, -600)
    tab.until(lambda: tab.page.evaluate("view.scale") > 2 * whole)
    assert tab.end_of(4, "left") == pytest.approx((x, y), abs=4.0)  # the mouse stands on whole pixels
    tab.page.mouse.move(x + 200, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x + 240, y + 30, steps=3)
    tab.page.mouse.up()
    assert tab.end_of(4, "left") == pytest.approx((x + 40, y + 30), abs=4.0)
    tab.page.click("#fit")
    assert tab.page.evaluate("view.scale") == pytest.approx(whole)
    assert not tab.page.evaluate("dirty")


def test_hostile_names_are_text(browser: Any, source: Path, tmp_path: Path) -> None:
    folder = copy_results(tmp_path / "angles", source, HOSTILE)
    with serving(folder) as link:
        context = browser.new_context()
        tab = Tab(context, link)
        assert sorted(tab.page.locator("#scans tbody a").all_text_contents()) == sorted(HOSTILE)
        assert tab.page.locator("#scans tbody img[src=x]").count() == 0
        for name in HOSTILE[:2]:
            tab.open(name)
            assert tab.page.text_content("#name") == name
            tab.page.get_by_role("link", name="All scans").click()
            tab.page.wait_for_selector("#scans tbody tr")
        assert tab.faults == []
        context.close()


def test_500_scans_are_listed_sorted_and_found(browser: Any, source: Path, tmp_path: Path) -> None:
    folder = copy_results(tmp_path / "angles", source, [f"scan_{number:03d}" for number in range(500)])
    with serving(folder) as link:
        context = browser.new_context(viewport={"width": 768, "height": 1024})
        tab = Tab(context, link)
        assert "500 of 500" in str(tab.page.text_content("#count"))
        pictures = sum("thumbnail" in url for url in tab.asked)
        assert pictures < 250  # those in sight, and some before them
        tab.page.get_by_role("button", name="Scan").click()
        assert tab.page.locator("#scans tbody a").first.text_content() == "scan_499"
        tab.page.fill("#find", "scan_01")
        assert tab.page.locator("#scans tbody tr").count() == 10
        context.close()


def test_downloads(tab: Tab, tmp_path: Path) -> None:
    for name in ("review.csv", "review.pdf"):
        with tab.page.expect_download() as waited:
            tab.page.locator(f"a[href='/api/{name}']").click()
        waited.value.save_as(tmp_path / name)
        assert waited.value.suggested_filename == name
        assert (tmp_path / name).stat().st_size > 100
    tab.page.click("#data-set")
    tab.until(lambda: bool(tab.page.text_content("#problem")))
    assert "Review more scans" in str(tab.page.text_content("#problem"))
    assert [fault for fault in tab.faults if "422" in fault] == tab.faults  # the browser notes the refusal
    tab.faults.clear()


def test_the_corrections_are_downloaded(browser: Any, source: Path, tmp_path: Path) -> None:
    folder = copy_results(tmp_path / "angles", source, ["one", "two", "three"])
    for name in ("one", "two", "three"):
        shutil.copy(source / "scans" / "mild.png", folder / "scans" / f"{name}.png")
        shutil.copy(source / "masks" / "mild_bone_3.png", folder / "masks" / f"{name}_bone_3.png")
    with serving(folder) as link:
        context = browser.new_context()
        tab = Tab(context, link)
        for name in ("one", "two", "three"):
            tab.open(name)
            assert "accepted" in tab.save("#accept")
            tab.page.get_by_role("link", name="All scans").click()
            tab.page.wait_for_selector("#scans tbody tr")
        with tab.page.expect_download() as waited:
            tab.page.click("#data-set")
        assert waited.value.suggested_filename == "scoliosis3classes.zip"
        waited.value.save_as(tmp_path / "set.zip")
        with zipfile.ZipFile(tmp_path / "set.zip") as archive:
            assert "scoliosis3classes/angles.csv" in archive.namelist()
        assert tab.faults == []
        context.close()


def test_a_finger_drags_an_end_and_the_page_fits_a_tablet(browser: Any, folder: Path) -> None:
    with serving(folder) as link:
        context = browser.new_context(
            viewport={"width": 768, "height": 1024}, has_touch=True, is_mobile=True, color_scheme="dark"
        )
        tab = Tab(context, link)
        tab.open("severe")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 768
        before = tab.page.text_content("#angle")
        x, y = tab.end_of(3, "left")
        finger = context.new_cdp_session(tab.page)
        for kind, down in (("touchStart", 0.0), ("touchMove", 8.0), ("touchMove", 14.0)):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y + down}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        tab.settled()
        assert tab.page.text_content("#angle") != before
        ends = tab.page.evaluate("endsNow()[1]")
        box = tab.page.locator("[data-curve='1-upper']").bounding_box()
        x, y = box["x"] + 14, box["y"] + 14
        for kind, down in (("touchStart", 0.0), ("touchMove", 30.0), ("touchMove", 60.0)):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y + down}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        tab.settled()
        assert tab.page.evaluate("endsNow()[1]")["upper"] > ends["upper"]
        assert tab.page.evaluate("view.moved") is False  # the picture stayed where it was
        background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, background.strip("rgb()").split(","))) < 150
        context.close()


def test_a_level_is_removed_and_comes_back(tab: Tab) -> None:
    tab.open("mild")
    count = tab.page.locator("#levels tbody tr").count()
    before = tab.page.text_content("#angle")
    tab.page.locator("#levels tbody tr").nth(4).get_by_role("button", name="Remove").click()
    tab.settled()
    tab.until(lambda: tab.page.locator("#levels tbody tr").count() == count - 1)
    tab.page.click("#undo")
    tab.until(lambda: tab.page.text_content("#angle") == before)
    assert tab.page.locator("#levels tbody tr").count() == count
    assert tab.page.is_enabled("#accept")


def test_ends_of_curves_are_dragged_from_level_to_level(tab: Tab, folder: Path) -> None:
    tab.open("severe")
    before = tab.handles()
    assert set(before) == {"0-upper", "0-lower", "1-upper", "1-lower"}
    row = tab.page.evaluate("view.toCanvas([0, order()[8].level.middle[1]])[1]")
    now = tab.page.evaluate("view.toCanvas([0, shownCurves()[0].rows[1]])[1]")
    started = time.monotonic()
    tab.pull("0-lower", row - now + 4)  # a little beside a level: it snaps
    assert time.monotonic() - started < SLOWEST
    assert tab.page.evaluate("state.chosen[0].lower") == 8
    assert tab.page.evaluate("view.toCanvas([0, shownCurves()[0].rows[1]])[1]") == pytest.approx(row, abs=0.5)
    label = tab.page.evaluate("measured.measurement.levels[8].label")
    angle = tab.page.evaluate("measured.chosen[0].angle")
    after = tab.handles()
    assert after["0-lower"] == f"{label}, angle {angle:.1f}\u00b0"
    assert after["0-lower"] != before["0-lower"]
    assert tab.page.get_by_label("lower end of curve 1", exact=True).locator("option:checked").text_content() == label
    tab.pull("0-lower", -2000.0)  # an end never passes the other one
    chosen = tab.page.evaluate("state.chosen[0]")
    assert chosen["lower"] == chosen["upper"] + 1
    tab.page.click("#undo")
    assert tab.page.evaluate("state.chosen[0].lower") == 8
    tab.page.click("#undo")
    tab.settled()
    assert tab.handles() == before
    assert not tab.page.evaluate("dirty")
    tab.page.click("#redo")
    assert "corrected" in tab.save("#correct")
    saved = read_review(folder / "reviews" / "severe" / "0001.json")
    assert (saved.chosen[0].lower, saved.curves[0].ends) == (8, "by hand")
    assert saved.curves[0].angle_deg == pytest.approx(angle, abs=0.01)


def test_ends_of_curves_are_moved_by_keys_and_named(tab: Tab) -> None:
    tab.open("severe")
    handle = tab.page.get_by_role("slider", name="lower end of curve 1")
    place = int(handle.get_attribute("aria-valuenow"))
    handle.focus()
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("ArrowDown")
    tab.settled()
    tab.handles()
    assert int(handle.get_attribute("aria-valuenow")) == place - 1
    assert tab.page.evaluate("document.activeElement.dataset.curve") == "0-lower"
    assert tab.page.evaluate("past.length") == 3
    tab.page.uncheck("#lines")
    assert tab.handles() == {}


def test_a_level_is_added_by_a_click_and_dragged(tab: Tab, folder: Path) -> None:
    tab.open("severe")
    count = tab.page.evaluate("state.levels.length")
    tab.page.locator("#levels tbody tr").nth(5).get_by_role("button", name="Remove").click()
    tab.settled()
    gone = tab.page.evaluate("JSON.parse(bases.get(0)).levels[5]")
    tab.page.click("#add")
    x, y = tab.page.evaluate(
        f"(() => {{ const at = view.toCanvas({gone['middle']}), box = canvas.getBoundingClientRect();"
        " return [at[0] + box.left, at[1] + box.top]; })()"
    )
    tab.page.mouse.click(x, y)
    tab.settled()
    assert tab.page.evaluate("state.levels.length") == count
    assert tab.page.get_attribute("#add", "aria-pressed") == "false"
    added = tab.page.evaluate("state.levels[state.levels.length - 1]")
    assert (added["origin"], added["kind"]) == (None, gone["kind"])
    assert added["middle"] == pytest.approx(gone["middle"], abs=12.0)
    assert tab.page.evaluate("order()[5].index") == count - 1  # the right place in the row
    near = [tab.page.evaluate(f"measured.measurement.levels[{place}].tilt_deg") for place in (4, 5, 6)]
    assert min(near[0], near[2]) - 6 < near[1] < max(near[0], near[2]) + 6
    tab.drag(count - 1, "left", 10)
    tab.settled()
    assert tab.page.evaluate(f"state.levels[{count - 1}].left[1]") > added["left"][1] + 5
    tab.page.click("#undo")
    tab.page.click("#undo")
    assert tab.page.evaluate("state.levels.length") == count - 1
    tab.page.click("#redo")
    tab.settled()
    tab.until(lambda: "as it will be exported" in tab.text("#mask-note"))
    assert "corrected" in tab.save("#correct")
    levels = read_review(folder / "reviews" / "severe" / "0001.json").levels
    assert [level.origin for level in levels if level.origin in (5, None)] == [None]


def test_a_level_is_added_by_keys_and_ends_stay_at_their_levels(tab: Tab) -> None:
    tab.open("severe")
    tab.page.get_by_label("lower end of curve 1", exact=True).select_option(index=9)
    tab.settled()
    names = "(() => { const rows = order(); return state.chosen.map(({ upper, lower }) => [rows[upper].index, rows[lower].index]); })()"
    before = tab.page.evaluate(names)
    count = tab.page.evaluate("state.levels.length")
    tab.page.locator("#canvas").focus()
    tab.page.keyboard.press("a")
    tab.page.keyboard.press("Escape")
    assert tab.page.evaluate("mark") is None
    tab.page.keyboard.press("a")
    row = tab.page.evaluate("mark[1]")
    tab.page.keyboard.press("ArrowDown")
    assert tab.page.evaluate("mark[1]") == pytest.approx(row + 5)
    tab.page.keyboard.press("Enter")
    tab.settled()
    assert tab.page.evaluate("state.levels.length") == count + 1
    assert tab.page.evaluate("document.activeElement.dataset.end") == f"{count}-left"
    assert tab.page.evaluate(names) == before
    tab.page.click("#add")
    tab.page.keyboard.press("ArrowDown")
    tab.page.evaluate("mark = copy(state.levels[3].middle)")
    tab.page.keyboard.press("Enter")
    assert "there already" in tab.text("#adding")
    assert tab.page.evaluate("state.levels.length") == count + 1


def test_a_corrected_scan_is_opened_again_and_accepted(tab: Tab, folder: Path) -> None:
    tab.open("severe")
    assert "The measurement as it came, not decided yet" in tab.text("#looking")
    as_measured = tab.text("#angle")
    tab.drag(3, "left", 12)
    tab.settled()
    assert "Changed, not saved" in tab.text("#looking")
    corrected = tab.text("#angle")
    tab.save("#correct", "first")
    tab.page.reload()
    tab.ready()
    assert tab.text("#accept") == "Accept version 1"
    assert tab.page.input_value("#reader") == "first"  # of this browser
    assert "accepted, as version 1" in tab.save("#accept", "second")
    assert "Version 2 (newest): accepted by second" in tab.text("#looking")
    tab.page.select_option("#version", "0")
    tab.settled()
    tab.until(lambda: tab.text("#angle") == as_measured)
    assert "the newest is version 2" in tab.text("#looking")
    assert tab.text("#accept") == "Accept as measured"
    assert tab.text("#mask-note") == "Mask: as measured"
    tab.page.click("#undo")  # looking at another version is a step like any other
    tab.until(lambda: tab.text("#angle") == corrected)
    tab.page.select_option("#version", "0")
    tab.settled()
    assert "as the measurement as it came" in tab.save("#accept", "third")
    saved = [read_review(path) for path in sorted((folder / "reviews" / "severe").iterdir())]
    assert [(item.decision, item.reader, item.based_on) for item in saved] == [
        ("corrected", "first", 0),
        ("accepted", "second", 1),
        ("accepted", "third", 0),
    ]
    assert saved[1].levels == saved[0].levels != saved[2].levels
    tab.page.reload()
    tab.ready()
    assert "Version 3 (newest)" in tab.text("#looking")
    tab.page.select_option("#version", "1")
    tab.until(lambda: tab.text("#angle") == corrected)
    assert "Version 1: corrected by first" in tab.text("#looking")


def test_a_scan_that_was_measured_again_is_decided_again(tab: Tab, folder: Path) -> None:
    tab.open("mild")
    tab.drag(3, "left", 12)
    tab.settled()
    tab.save("#correct")
    path = folder / "mild.measure.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    tab.page.reload()
    tab.ready()
    assert "about an earlier measurement" in tab.text("#saved")
    assert "The measurement as it came" in tab.text("#looking")
    assert not tab.page.evaluate("dirty")
    assert "version 2: accepted" in tab.save("#accept")
    review = read_review(folder / "reviews" / "mild" / "0002.json")
    assert (review.based_on, review.decision) == (0, "accepted")
