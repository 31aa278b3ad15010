import csv
import dataclasses
import hashlib
import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import draw_case, write_data_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sa2net.config import ValidateConfig
from sa2net.data.bounds import learn
from sa2net.data.layout import read_cases
from sa2net.data.manifest import (
    build_rows,
    near_duplicates,
    perceptual_hash,
    read_manifest,
    split_off_validation,
    write_manifest,
)
from sa2net.data.pictures import write_png
from sa2net.data.survey import Entry, take_survey
from sa2net.errors import DataError


def rows_of(root: Path, **settings: object):
    return build_rows(take_survey(root), ValidateConfig(**settings), progress=False)


def test_a_row_worked_by_hand(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=1, test=1)
    scan = np.zeros((64, 64), np.uint8)
    scan[8:40, 16:48] = 100  # sweep of 32 x 32
    scan[8:16, 16:48] = 50  # its upper quarter
    mask = np.zeros_like(scan)
    mask[8:12, 16:48] = 1  # 128 px at 50
    mask[12:20, 16:24] = 2  # 32 px at 50, 32 px at 100
    mask[60:62, 0:5] = 3  # 10 px outside of the sweep
    mask[0, :] = 255
    write_png(root / "dataset/train/train_000.png", scan)
    write_png(root / "groundtruth/train/train_000_bone_3.png", mask)
    row = rows_of(root)[0]
    assert (row.width, row.height, row.mask_width, row.mask_height) == (64, 64, 64, 64)
    assert (row.sweep_width, row.sweep_pixels) == (32.0, 1024)
    assert row.grey_sum == 768 * 100 + 256 * 50
    assert row.grey_squares == 768 * 100**2 + 256 * 50**2
    assert row.pixels == (128, 64, 10)
    assert row.areas == (0.125, 0.0625, 10 / 1024)
    assert row.greys == (50.0, 75.0, 0.0)
    assert row.ignored == 64
    assert row.unexpected == ()
    assert row.scan_sha256 == hashlib.sha256((root / row.scan).read_bytes()).hexdigest()
    assert row.mask_sha256 == hashlib.sha256((root / row.mask).read_bytes()).hexdigest()
    learnt = learn([row], margin=0.5)
    assert learnt is not None
    assert learnt.normalisation.mean == pytest.approx(87.5)
    assert learnt.normalisation.std == pytest.approx(np.std(scan[8:40, 16:48]))
    assert learnt.spacing_mm == (0.4, 0.4)
    assert (learnt.bounds.area["rib"].low, learnt.bounds.area["rib"].high) == (0.125, 0.125)


def test_a_broken_file_is_a_row(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=2, test=1)
    (root / "dataset/train/train_000.png").write_bytes(b"")
    (root / "groundtruth/test/test_000_bone_3.png").unlink()
    rows = {row.name: row for row in rows_of(root)}
    assert (rows["train_000"].scan_state, rows["train_000"].scan_problem) == ("damaged", "zero bytes")
    assert rows["train_000"].mask_state == "ok"
    assert rows["train_000"].areas == ()
    assert rows["test_000"].mask_state == "missing"
    assert rows["test_000"].sweep_width is not None


def test_bounds_are_the_widened_range_of_train_alone(tmp_path: Path) -> None:
    rows = rows_of(write_data_set(tmp_path, train=5, val=1, test=4))
    train = [row for row in rows if row.split == "train"]
    learnt = learn(rows, margin=0.25)
    assert learnt is not None
    low, high = min(row.greys[1] for row in train), max(row.greys[1] for row in train)
    assert learnt.bounds.grey["thoracic_process"].low == pytest.approx(low - 0.25 * (high - low))
    assert learnt.bounds.grey["thoracic_process"].high == pytest.approx(high + 0.25 * (high - low))
    assert learn([row for row in rows if row.split != "train"], margin=0.25) is None


def test_many_processes_see_what_one_sees_and_the_manifest_is_the_same_bytes(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", train=40, test=10, size=(48, 96))
    one, two = rows_of(root, workers=1), rows_of(root, workers=2)
    assert one == two
    for name, rows in (("a", one), ("b", two)):
        write_manifest(tmp_path / f"{name}.csv", rows)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a.csv").read_text()


def test_the_manifest_comes_back_as_cases(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", train=6, test=2, subjects={"train_000": "anna", "train_001": "anna"})
    rows = rows_of(root)
    write_manifest(tmp_path / "manifest.csv", rows)
    cases = read_manifest(tmp_path / "manifest.csv", root)
    splits = {row.name: row.split for row in rows}
    assert set(splits.values()) == {"train", "val", "test"}
    assert cases == [dataclasses.replace(case, split=splits[case.name]) for case in read_cases(root)]


def test_a_manifest_that_leaves_its_root_is_refused(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data")
    write_manifest(tmp_path / "manifest.csv", rows_of(root))
    text = (tmp_path / "manifest.csv").read_text()
    for bad in (text.replace("dataset/train/train_001.png", "../../x.png"), text.replace("scan,mask", "a,b"), "\x00"):
        (tmp_path / "bad.csv").write_text(bad)
        with pytest.raises(DataError, match="cannot be read as a manifest"):
            read_manifest(tmp_path / "bad.csv", root)


def entries(*subjects: str, split: str = "train") -> list[Entry]:
    return [Entry(f"{split}{index}", split, subject=subject) for index, subject in enumerate(subjects)]


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 1000),
)
def test_the_split_is_by_subject_and_touches_nothing_else(subjects: list[str], fraction: float, seed: int) -> None:
    before = entries(*subjects) + entries("x", "y", split="test")
    after = split_off_validation(before, fraction, seed)
    assert [item.name for item in after] == [item.name for item in before]
    assert [item.split for item in after[-2:]] == ["test", "test"]
    train = {item.subject for item in after if item.split == "train"}
    val = {item.subject for item in after if item.split == "val"}
    assert not train & val
    count = len(set(subjects))
    assert len(val) == (0 if count < 2 else min(count - 1, max(1, round(fraction * count))))
    assert split_off_validation(before, fraction, seed) == after


def test_the_seed_matters_and_a_val_list_wins() -> None:
    many = entries(*(f"s{index}" for index in range(30)))
    chosen = {
        seed: [item.name for item in split_off_validation(many, 0.2, seed) if item.split == "val"] for seed in (0, 1)
    }
    assert chosen[0] != chosen[1]
    assert len(chosen[0]) == len(chosen[1]) == 6
    listed = many + entries("v", split="val")
    assert split_off_validation(listed, 0.2, 0) == listed


def copies(scan: np.ndarray):
    grey = scan.astype(np.float64)
    yield "brighter", np.clip(grey * 1.1, 0, 255)
    yield "darker", grey * 0.9
    yield "lifted", np.where(scan > 0, np.clip(grey + 5, 0, 255), 0)
    yield "gamma", 255 * (grey / 255) ** 0.9
    yield "down", np.roll(grey, 2, axis=0)
    yield "right", np.roll(grey, 2, axis=1)
    stream = io.BytesIO()
    Image.fromarray(scan).save(stream, "JPEG", quality=85)
    yield "jpeg", np.asarray(Image.open(stream))


def test_copies_are_near_and_other_spines_are_not() -> None:
    limit = ValidateConfig().near_duplicate_distance
    scans = [draw_case(seed)[0] for seed in range(12)]
    hashes = [perceptual_hash(scan) for scan in scans]
    assert all(len(text) == 64 for text in hashes)
    assert near_duplicates(hashes, 2 * limit) == []
    for scan, own in zip(scans, hashes, strict=True):
        for name, copy in copies(scan):
            assert near_duplicates([own, perceptual_hash(copy.astype(np.uint8))], limit) == [(0, 1)], name


@given(st.lists(st.binary(min_size=32, max_size=32) | st.none(), max_size=12), st.integers(0, 256))
@settings(max_examples=60)
def test_near_duplicates_are_all_pairs_within_the_distance(raw: list[bytes | None], distance: int) -> None:
    hashes = [item.hex() if item else "" for item in raw]
    expected = [
        (first, second)
        for first, second in itertools.combinations(range(len(raw)), 2)
        if raw[first]
        and raw[second]
        and (int.from_bytes(raw[first]) ^ int.from_bytes(raw[second])).bit_count() <= distance
    ]
    assert sorted(near_duplicates(hashes, distance)) == expected


def test_pairs_across_blocks_are_found() -> None:
    generator = np.random.default_rng(0)
    hashes = [generator.bytes(32).hex() for _ in range(400)]
    hashes[399] = hashes[3]
    hashes[130] = hashes[129]
    assert sorted(near_duplicates(hashes, 10)) == [(3, 399), (129, 130)]


MEMORY = """
import sys, psutil
from pathlib import Path
from sa2net.config import ValidateConfig
from sa2net.data.manifest import build_rows
from sa2net.data.survey import take_survey

if __name__ == "__main__":
    survey, cfg = take_survey(Path(sys.argv[1])), ValidateConfig(workers=1)
    build_rows(survey, cfg, progress=False)
    before = psutil.Process().memory_info().rss
    kept = [build_rows(survey, cfg, progress=False) for _ in range(4)]
    print((psutil.Process().memory_info().rss - before) / sum(map(len, kept)))
"""


def test_memory_stays_below_ten_kilobytes_a_scan(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", train=100, test=20, size=(48, 96))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(root)], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) < 10_000


def test_the_manifest_has_one_line_a_scan(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", train=3, test=2)
    write_manifest(tmp_path / "manifest.csv", rows_of(root))
    with (tmp_path / "manifest.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["name"] for row in table] == ["train_000", "train_001", "train_002", "test_000", "test_001"]
    assert {"area_rib", "grey_lumbar_lump", "pixels_thoracic_process", "phash", "scan_sha256"} <= table[0].keys()
