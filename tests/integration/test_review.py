"""The review page's server: who may ask, what is saved, what happens to bad requests and hostile names."""

import copy
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from review_cases import HOSTILE, Reader, copy_results, edit_of, serving, write_results

from sa2net.__main__ import main
from sa2net.data.pictures import read_mask
from sa2net.review.guard import LARGEST_BODY
from sa2net.review.store import read_review

SAVE = {"opened": 0, "decision": "corrected", "reader": "Dr Who", "comment": "T5 moved"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("source"))


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "angles"))


@pytest.fixture
def reader(folder: Path) -> Iterator[Reader]:
    with serving(folder) as link:
        yield Reader(link)


def test_only_the_browser_with_the_link_is_answered(reader: Reader) -> None:
    scan = reader.scans()["mild"]["id"]
    for path in ("/", "/static/scan.js", "/api/scans", f"/api/scans/{scan}/scan.png", "/api/review.csv"):
        assert reader.ask("GET", path, cookie="")[0] == 403
        assert reader.ask("GET", path, cookie=f"{reader.cookie}x")[0] == 403
        status, headers, _ = reader.ask("GET", path)
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert reader.ask("GET", "/open?token=guess", cookie="")[0] == 403
    assert reader.ask("GET", "/", Host="evil.example")[0] == 421
    assert reader.ask("GET", "/", Host=f"localhost:{reader.parts.port}")[0] == 421


def test_the_cookie_is_for_this_page_alone(reader: Reader) -> None:
    _, headers, _ = reader.ask("GET", f"{reader.parts.path}?{reader.parts.query}", cookie="")
    said = headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert headers["location"] == "/"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 422),
        ({"levels": []}, {"Content-Type": "text/plain"}, 415),
        ({"levels": []}, {"Sec-Fetch-Site": "cross-site"}, 403),
        ({"levels": "all"}, {}, 422),
        ({"levels": [], "more": 1}, {}, 422),
        ({"levels": [{"origin": 0, "kind": "process", "middle": [1, 2], "left": None, "right": None}] * 61}, {}, 422),
        (b" " * (LARGEST_BODY + 1), {}, 413),
        ({"levels": [{"origin": 98, "kind": "process", "middle": [1, 2], "left": None, "right": None}]}, {}, 422),
    ],
)
def test_bad_requests_are_refused(
    reader: Reader, content: Any, headers: dict[str, str], status: int, folder: Path
) -> None:
    scan = reader.scans()["mild"]["id"]
    assert reader.ask("POST", f"/api/scans/{scan}/angles", content, **headers)[0] == status
    assert reader.get("/api/scans")
    assert not (folder / "reviews").exists()


def test_what_is_not_there_is_not_found(reader: Reader) -> None:
    for path in (
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/api/scans/mild",
        "/api/scans/0/scan.png",
        "/docs",
        "/x",
    ):
        assert reader.ask("GET", path)[0] == 404
    scan = reader.scans()["mild"]["id"]
    assert reader.ask("GET", f"/api/scans/{scan}/secret.png")[0] == 404
    assert reader.ask("DELETE", f"/api/scans/{scan}")[0] == 405


def test_angles_follow_the_levels(reader: Reader) -> None:
    scan = reader.get(f"/api/scans/{reader.scans()['severe']['id']}")
    address = f"/api/scans/{reader.scans()['severe']['id']}/angles"
    edit = edit_of(scan)
    same = json.loads(reader.ask("POST", address, edit)[2])["measurement"]
    assert same["largest_angle_deg"] == pytest.approx(scan["measurement"]["largest_angle_deg"], abs=0.3)
    edit["levels"] = [
        {**level, "left": [level["left"][0], level["left"][1] + 40]} if level["left"] and index < 4 else level
        for index, level in enumerate(edit["levels"])
    ]
    moved = json.loads(reader.ask("POST", address, edit)[2])["measurement"]
    assert moved["levels"][0]["tilt_deg"] != same["levels"][0]["tilt_deg"]
    assert moved["largest_angle_deg"] != same["largest_angle_deg"]
    chosen = json.loads(reader.ask("POST", address, {**edit_of(scan), "chosen": [{"upper": 2, "lower": 9}]})[2])[
        "chosen"
    ]
    assert [item["curve"] for item in chosen] == [{"upper": 2, "lower": 9}]
    assert chosen[0]["interval_90"][0] < chosen[0]["angle"] < chosen[0]["interval_90"][1]


def test_every_save_is_a_new_version_and_a_stale_one_is_told(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    scan = reader.get(f"/api/scans/{scan_id}")
    address = f"/api/scans/{scan_id}/reviews"
    status, _, body = reader.ask("POST", address, edit_of(scan, **SAVE))
    assert (status, json.loads(body)["version"]) == (201, 1)
    status, _, body = reader.ask("POST", address, edit_of(scan, **SAVE))
    assert (status, json.loads(body)["newest"]) == (409, 1)
    assert reader.ask("POST", address, edit_of(scan, **{**SAVE, "opened": 1, "decision": "refused"}))[0] == 201
    first, second = (read_review(folder / "reviews" / "mild" / f"000{number}.json") for number in (1, 2))
    assert (first.decision, first.reader, first.comment) == ("corrected", "Dr Who", "T5 moved")
    assert first.curves[0].angle_deg == pytest.approx(scan["measurement"]["curves"][0]["angle_deg"], abs=0.3)
    assert (first.mask_source, first.model.sha256) == ("given", "")
    assert (second.decision, second.curves) == ("refused", ())
    again = reader.get(f"/api/scans/{scan_id}")
    assert (again["opened"], again["review"]["version"]) == (2, 2)
    assert reader.scans()["mild"]["decision"] == "refused"
    assert reader.scans()["severe"]["decision"] == ""


def test_of_many_saves_at_once_one_wins(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    save = edit_of(reader.get(f"/api/scans/{scan_id}"), **SAVE)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(reader.ask, "POST", f"/api/scans/{scan_id}/reviews", save) for _ in range(6)]
    assert sorted(answer.result()[0] for answer in asked) == [201, *[409] * 5]
    assert [path.name for path in (folder / "reviews" / "mild").iterdir()] == ["0001.json"]


@pytest.mark.parametrize("change", [{"reader": "  "}, {"reader": ""}, {"decision": "maybe"}, {"levels": []}])
def test_a_save_that_says_nothing_is_refused(reader: Reader, folder: Path, change: dict[str, Any]) -> None:
    scan_id = reader.scans()["mild"]["id"]
    save = edit_of(reader.get(f"/api/scans/{scan_id}"), **SAVE) | change
    assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", save)[0] == 422
    assert not list(folder.glob("reviews/mild/*.json"))


def test_hostile_names_and_damaged_files(source: Path, tmp_path: Path) -> None:
    folder = copy_results(tmp_path / "angles", source, HOSTILE)
    (folder / "broken.measure.json").write_text("{", encoding="utf-8")
    with serving(folder) as link:
        reader = Reader(link)
        rows = reader.scans()
        assert set(rows) == {*HOSTILE, "broken"}
        assert rows["broken"]["status"] == "damaged"
        for name in HOSTILE:
            scan_id = rows[name]["id"]
            assert reader.get(f"/api/scans/{scan_id}")["name"] == name
            assert reader.ask("GET", f"/api/scans/{scan_id}/thumbnail.png")[0] == 200
            save = edit_of(
                reader.get(f"/api/scans/{scan_id}"), **{**SAVE, "decision": "refused", "comment": "=2+2 $x$"}
            )
            assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", save)[0] == 201
        text = reader.ask("GET", "/api/review.csv")[2].decode()
        table = {row["scan"].lstrip("'"): row for row in csv.DictReader(io.StringIO(text))}
        assert all(not cell.startswith(("=", "+", "-", "@")) for row in table.values() for cell in row.values())
        assert table["%2e%2e%2f"]["decision"] == "refused"
        assert reader.ask("GET", "/api/review.pdf")[2].startswith(b"%PDF")
    assert {path.name for path in (folder / "reviews").iterdir()} == set(HOSTILE)
    assert not list(tmp_path.glob("*.json"))


def test_a_damaged_review_is_named_and_hides_nothing(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    save = edit_of(reader.get(f"/api/scans/{scan_id}"), **SAVE)
    assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", save)[0] == 201
    (folder / "reviews" / "mild" / "0002.json").write_text("{}", encoding="utf-8")
    row = reader.scans()["mild"]
    assert row["decision"] == "corrected"
    assert "0002.json" in row["problems"][0]
    assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", {**save, "opened": 2})[0] == 201


def test_corrections_come_out_as_a_data_set_that_is_whole(source: Path, tmp_path: Path) -> None:
    """By the button and by the verb: the same files, and nothing that `validate` fails."""
    folder = tmp_path / "angles"
    names = ("one", "two", "three", "=four", "left", "none")
    for name in names:
        for pattern in ("{}.measure.json", "scans/{}.png", "masks/{}_bone_3.png"):
            place = folder / pattern.format(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / pattern.format("severe" if name != "two" else "mild"), place)
    with serving(folder) as link:
        reader = Reader(link)
        status, _, body = reader.ask("GET", "/api/scoliosis3classes.zip")
        assert status == 422
        assert "Review more scans" in json.loads(body)["error"]
        decisions = dict(zip(names, ("accepted", "corrected", "accepted", "accepted", "refused"), strict=False))
        for name, decision in decisions.items():
            scan_id = reader.scans()[name]["id"]
            save = edit_of(reader.get(f"/api/scans/{scan_id}"), **{**SAVE, "decision": decision})
            if decision == "corrected":
                del save["levels"][3]
            assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", save)[0] == 201
        status, headers, body = reader.ask("GET", "/api/scoliosis3classes.zip")
    assert (status, headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        archive.extractall(tmp_path / "zip")
    assert main_code("review", folder, "--export", tmp_path / "out") == 0
    root, other = (tmp_path / place / "scoliosis3classes" for place in ("zip", "out"))
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len([path for path in files if path.parts[0] == "groundtruth" and path.suffix == ".png"]) == 4
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert all((root / path).read_bytes() == (other / path).read_bytes() for path in files)
    masks = {path.name: read_mask(path) for path in root.rglob("*_bone_3.png")}
    before = read_mask(folder / "masks" / "two_bone_3.png")
    assert (masks["one_bone_3.png"] == read_mask(folder / "masks" / "one_bone_3.png")).all()
    assert np.count_nonzero(masks["two_bone_3.png"]) < np.count_nonzero(before)
    rows = list(csv.DictReader((tmp_path / "out" / "review.csv").open(encoding="utf-8", newline="")))
    assert {row["scan"].lstrip("'"): row["decision"] for row in rows} == {**decisions, "none": ""}


def main_code(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return int(ended.value.code or 0)


def test_a_long_comment_takes_more_pages(reader: Reader) -> None:
    def pages() -> int:
        return len(re.findall(rb"/Type /Page\b", reader.ask("GET", "/api/review.pdf")[2]))

    scan_id = reader.scans()["mild"]["id"]
    save = edit_of(reader.get(f"/api/scans/{scan_id}"), **SAVE)
    for opened, comment, expected in ((0, "short", 1), (1, "\n".join("x" * 60), 2)):
        status, _, _ = reader.ask(
            "POST", f"/api/scans/{scan_id}/reviews", {**save, "opened": opened, "comment": comment}
        )
        assert (status, pages()) == (201, expected)


def test_ctrl_c_ends_the_page_and_it_was_bound_to_this_machine(folder: Path) -> None:
    command = [sys.executable, "-m", "sa2net", "review", str(folder), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_unbuffered())
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        link = said.split()[-1]
        assert said.startswith("2 scans: http://127.0.0.1:")
        assert process.stdout.readline() == "Only this machine can open it. Ctrl-C ends it.\n"
        assert Reader(link).scans()
        opened = [item for item in psutil.Process(process.pid).net_connections("inet") if item.status == "LISTEN"]
        assert [item.laddr.ip for item in opened] == ["127.0.0.1"]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest == ""


def _unbuffered() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_the_verb_exports_and_says_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_code("review", tmp_path / "nothing") == 3
    assert "sa2net measure" in capsys.readouterr().err
    assert main_code("review", folder, "--export", tmp_path / "out") == 3  # nothing is reviewed: no data set
    assert "no data set" in capsys.readouterr().err
    assert (tmp_path / "out" / "review.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((tmp_path / "out" / "review.csv").open(encoding="utf-8", newline="")))
    assert [(row["scan"], row["decision"]) for row in rows] == [("mild", ""), ("severe", "")]


def test_what_was_accepted_is_what_had_been_shown(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    address = f"/api/scans/{scan_id}/reviews"
    scan = reader.get(f"/api/scans/{scan_id}")
    assert (scan["versions"], scan["measured_again"]) == ([], False)
    moved = copy.deepcopy(edit_of(scan, **SAVE))
    moved["levels"][2]["left"][1] += 9.0
    status, _, body = reader.ask("POST", address, {**moved, "decision": "accepted"})
    assert (status, "Save it as a correction" in json.loads(body)["error"]) == (422, True)
    assert reader.ask("POST", address, moved)[0] == 201
    accepted = {**moved, "decision": "accepted", "opened": 1, "reader": "second"}
    assert reader.ask("POST", address, accepted)[0] == 422  # the measurement as it came holds other levels
    assert reader.ask("POST", address, {**accepted, "based_on": 1})[0] == 201
    assert reader.ask("POST", address, edit_of(scan, **{**SAVE, "opened": 2, "decision": "accepted"}))[0] == 201
    reviews = [read_review(folder / "reviews" / "mild" / f"000{number}.json") for number in (1, 2, 3)]
    assert [item.based_on for item in reviews] == [0, 1, 0]
    assert reviews[1].levels == reviews[0].levels != reviews[2].levels
    versions = reader.get(f"/api/scans/{scan_id}")["versions"]
    assert [(item["version"], item["decision"]) for item in versions] == [
        (3, "accepted"),
        (2, "accepted"),
        (1, "corrected"),
    ]
    assert reader.get(f"{address}/1")["levels"] == json.loads(json.dumps(moved["levels"]))
    assert reader.ask("GET", f"{address}/4")[0] == 422
    rows = {row["scan"]: row for row in csv.DictReader(io.StringIO(reader.ask("GET", "/api/review.csv")[2].decode()))}
    assert (rows["mild"]["version"], rows["mild"]["based_on"]) == ("3", "0")


def test_a_review_of_an_earlier_measurement_is_not_shown_as_one_of_this(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    save = edit_of(reader.get(f"/api/scans/{scan_id}"), **SAVE)
    assert reader.ask("POST", f"/api/scans/{scan_id}/reviews", save)[0] == 201
    path = folder / "mild.measure.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    scan = reader.get(f"/api/scans/{scan_id}")
    assert (scan["versions"], scan["measured_again"], scan["opened"]) == ([], True, 1)
    status, _, body = reader.ask("GET", f"/api/scans/{scan_id}/reviews/1")
    assert (status, "measured again since" in json.loads(body)["error"]) == (422, True)


def test_the_mask_follows_the_lines_as_it_does_in_the_data_set(reader: Reader, folder: Path) -> None:
    scan_id = reader.scans()["mild"]["id"]
    edit = edit_of(reader.get(f"/api/scans/{scan_id}"))
    first = reader.ask("GET", f"/api/scans/{scan_id}/mask.png")[2]
    assert reader.ask("POST", f"/api/scans/{scan_id}/mask", edit)[2] == first
    gone = edit["levels"].pop(3)
    colours = np.asarray(Image.open(io.BytesIO(reader.ask("POST", f"/api/scans/{scan_id}/mask", edit)[2])))
    x, y = (round(value) for value in gone["left"])
    assert np.asarray(Image.open(io.BytesIO(first)))[y, x, 3] == 255
    assert colours[y, x, 3] == 0
    x, y = 5, 5
    added = {"origin": None, "kind": "process", "middle": [x + 50, y], "left": [x, y], "right": [x + 100, y]}
    edit["levels"].append(added)
    colours = np.asarray(Image.open(io.BytesIO(reader.ask("POST", f"/api/scans/{scan_id}/mask", edit)[2])))
    assert tuple(colours[y, x]) == (200, 200, 200, 255)
