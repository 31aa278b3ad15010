import logging
import os
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from factories import add_case, draw_case, write_data_set

from sa2net.artifacts import ValidationReport, read_json, read_validation
from sa2net.config import ValidateConfig
from sa2net.data.checks import all_checks
from sa2net.data.examination import Examination, examine
from sa2net.data.manifest import flat_columns, read_manifest
from sa2net.data.page import render
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import DataError
from sa2net.steps import validate


def look(root: Path, **settings: object) -> Examination:
    return examine(ValidateConfig(**settings), root, progress=False)


def failed(found: Examination) -> dict[str, str]:
    return {check.name: check.severity for check in found.report.checks if not check.passed}


def offenders(found: Examination, name: str) -> tuple[str, ...]:
    return next(check.offenders for check in found.report.checks if check.name == name)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, validate.ValidateResult]:
    """A data set that passes, and what the step wrote."""
    place = tmp_path_factory.mktemp("good")
    root = write_data_set(place / "data", train=12, val=2, test=3)
    return root, validate.run(ValidateConfig(bounds_margin=3.0), data=root, out=place / "out", progress=False)


def test_a_good_data_set_passes_and_teaches(good: tuple[Path, validate.ValidateResult]) -> None:
    root, result = good
    report = read_validation(result.report)
    assert report.passed
    assert {split: (count.scans, count.subjects) for split, count in report.counts.items()} == {
        "train": (12, 12),
        "val": (2, 2),
        "test": (3, 3),
    }
    assert result.scans == 17
    assert result.data_md5 == report.data_md5
    assert report.spacing_mm == (0.4, 0.4)
    assert report.sweep_width == pytest.approx(59.5, abs=1.5)
    assert 0 < report.normalisation.std < 128
    assert [case.split for case in read_manifest(result.manifest, root)].count("val") == 2
    assert all(check.passed for check in report.checks if check.severity == "failure")


def test_the_outputs_are_the_same_bytes_and_know_no_path(
    good: tuple[Path, validate.ValidateResult], tmp_path: Path
) -> None:
    root, first = good
    again = validate.run(ValidateConfig(bounds_margin=3.0, workers=1), data=root, out=tmp_path / "out", progress=False)
    for one, two in zip(
        (first.report, first.page, first.manifest), (again.report, again.page, again.manifest), strict=True
    ):
        assert one.read_bytes() == two.read_bytes()
        assert str(root) not in one.read_text()


def test_every_check_is_of_a_known_column_and_has_a_sentence_and_a_cure() -> None:
    columns = {*flat_columns(), "key", "foreground", "spacing_missing", "subject_leak", "problem", "filled"}
    columns |= {"copies_across", "copies_inside", "near_across", "near_inside", "shared_mask"}
    columns |= {f"required_{name}" for name in ("rib", "thoracic_process", "lumbar_lump")}
    checks = all_checks(ValidateConfig(), None)
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        used = {value for key, value in check.settings.items() if key.startswith("column")}
        assert used <= columns, check.name
        assert check.says.endswith(".")
        assert check.cure.endswith((".", "?", ")"))
        assert check.expectation.startswith("Expect")


def test_a_scan_unlike_train_is_a_warning_not_a_failure(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=8, val=1, test=2)
    scan, mask = draw_case(500)
    bright = np.where(mask == 3, 250, scan).astype(np.uint8)
    add_case(root, "test", "test_001", bright, mask)
    found = look(root)
    assert failed(found).get("grey_lumbar_lump_like_train") == "warning"
    assert any("test_001.png (250)" in name for name in offenders(found, "grey_lumbar_lump_like_train"))
    assert isinstance(found.report, ValidationReport)
    assert any("test_001.png (250)" in warning for warning in found.warnings)


def test_a_near_copy_inside_a_split_is_a_warning_an_exact_one_a_failure(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=8, val=1, test=2)
    scan = read_scan(root / "dataset/train/train_003.png")
    write_png(root / "dataset/train/train_005.png", np.roll(scan, 2, axis=0))
    found = look(root)
    assert failed(found)["near_inside"] == "warning"
    assert found.report.passed
    assert offenders(found, "near_inside") == (
        "dataset/train/train_003.png looks like dataset/train/train_005.png",
        "dataset/train/train_005.png looks like dataset/train/train_003.png",
    )
    write_png(root / "dataset/train/train_005.png", scan)
    assert failed(look(root))["copies_inside"] == "failure"


def test_one_mask_under_two_scans_is_a_warning(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=4, val=1, test=2)
    write_png(
        root / "groundtruth/train/train_001_bone_3.png", read_mask(root / "groundtruth/train/train_000_bone_3.png")
    )
    assert failed(look(root))["masks_distinct"] == "warning"


def test_without_a_table_there_is_a_warning(tmp_path: Path) -> None:
    found = look(write_data_set(tmp_path, scans_csv=False))
    assert found.report.passed
    assert any("There is no scans.csv" in warning for warning in found.warnings)
    assert found.report.spacing_mm == ()


def test_settings_decide(tmp_path: Path) -> None:
    root = write_data_set(tmp_path)
    mask = read_mask(root / "groundtruth/train/train_001_bone_3.png")
    mask[mask == 3] = 255
    write_png(root / "groundtruth/train/train_001_bone_3.png", mask)
    assert {"labels_allowed", "class_lumbar_lump_present"} <= failed(look(root, labels=(0, 1, 2, 3))).keys()
    allowed = failed(look(root, labels=(0, 1, 2, 3, 255), required_classes=(1, 2)))
    assert not {"labels_allowed", "class_lumbar_lump_present"} & allowed.keys()
    assert "width_sufficient" in failed(look(root, min_side=97))
    assert "scan_size" in failed(look(root, max_pixels=96 * 256 - 1))
    assert "near_across" in failed(look(root, near_duplicate_distance=256))


def test_foreign_files_are_a_warning_and_odd_names_are_escaped(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data")
    (root / "dataset/train/Thumbs.db").touch()
    (root / "dataset/notes").mkdir()
    (root / "groundtruth/test/line\nbreak.txt").touch()
    Path(os.fsdecode(os.fsencode(root) + b"/dataset/test/caf\xe9.txt")).touch()
    found = look(root)
    assert failed(found)["folders_clean"] == "warning"
    assert offenders(found, "folders_clean") == (
        "dataset/train/Thumbs.db",
        "dataset/test/caf\\udce9.txt",
        "groundtruth/test/line\\nbreak.txt",
        "dataset/notes",
    )


def test_a_link_into_the_dvc_cache_is_fine(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data")
    cache = tmp_path / ".dvc" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / ".dvc" / "config").touch()
    for path in list(root.rglob("*.png")):
        path.rename(cache / path.name)
        path.symlink_to(cache / path.name)
    assert look(root).report.passed


def test_a_report_of_a_failed_data_set_is_not_read_as_one_that_passed(data_root: Path, tmp_path: Path) -> None:
    (data_root / "dataset/train/train_000.png").write_bytes(b"")
    with pytest.raises(DataError):
        validate.run(ValidateConfig(), data=data_root, out=tmp_path, progress=False)
    assert read_json(tmp_path / "report.json")["passed"] is False
    with pytest.raises(DataError, match="says that the data set failed"):
        read_validation(tmp_path / "report.json")


class Links(HTMLParser):
    """Collects whatever makes a browser ask for something, and the tags that were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_for_nothing_and_is_well_formed(good: tuple[Path, validate.ValidateResult]) -> None:
    text = good[1].page.read_text()
    parser = Links()
    parser.feed(text)
    assert parser.asked == []
    assert parser.open == []
    assert "<script" not in text
    assert "url(" not in text
    assert text.count("<figure") == 7
    assert "research use only" in text
    assert good[1].data_md5 in text


def test_names_cannot_inject_into_the_page(data_root: Path) -> None:
    with (data_root / "train.txt").open("a") as stream:
        stream.write("<script>alert(1)</script>\n")
    found = look(data_root)
    text = render(found.report, found.rows)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_nothing_is_sent_anywhere(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert look(data_root).report.passed
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_data_docs_on_demand(data_root: Path, tmp_path: Path) -> None:
    validate.run(ValidateConfig(), data=data_root, out=tmp_path / "out", data_docs=tmp_path / "docs", progress=False)
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert tmp_path / "docs" / "index.html" in pages
    assert any(re.search("masks? hold only the labels", page.read_text(), re.I) for page in pages)


def test_warnings_reach_the_log(data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data_root / "scans.csv").unlink()
    with caplog.at_level(logging.WARNING, logger="sa2net"):
        result = validate.run(ValidateConfig(), data=data_root, out=tmp_path / "out", progress=False)
    assert [record.message for record in caplog.records] == list(result.warnings)
