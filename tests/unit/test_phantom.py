"""Phantoms: the curve's angle is what was asked for, picture and mask and truth belong together, nothing is left to chance."""

import csv
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from sa2net.artifacts import folder_sha256
from sa2net.data import phantom as module
from sa2net.data.phantom import ARTEFACT_FAMILIES, DEFAULT_ARTEFACTS, draw_dataset, draw_phantom
from sa2net.data.phantom_anatomy import LEVEL_NAMES, draw_anatomy, paint_mask
from sa2net.data.phantom_artefacts import Canvas, draw_artefacts
from sa2net.data.phantom_curve import Lobe, bend, measure_curves
from sa2net.data.phantom_truth import severity_of
from sa2net.errors import ConfigError, DataError

WIDTH = 128  # small pictures: what is tested here does not depend on the scale
ALL_SHOW = 33  # a seed whose scan shows every family


@functools.cache
def drawn(seed, **options):
    return draw_phantom(np.random.default_rng(seed), width=WIDTH, **options)


def tree(folder: Path):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "set"
    draw_dataset(out, train=2, val=1, test=1, seed=5, width=WIDTH, progress=False, workers=2)
    return out


# The curve


def test_a_cosine_has_the_angle_of_its_steepest_tangents():
    # x = A cos(k y) over one and a half periods: the slope is steepest, A k, at the quarter periods. With A k = tan 20
    # the tangents there are at -20 and +20 degrees, so the whole curve between them has 40; each end has 20 (0 to 20).
    period = 1000.0
    k = 2.0 * math.pi / period
    y = np.arange(0.0, period + 0.5, 0.5)
    curves = measure_curves(math.tan(math.radians(20.0)) / k * np.cos(k * y), y)
    assert [curve.angle for curve in curves] == pytest.approx([20.0, 40.0, 20.0], abs=0.05)
    assert [curve.convex for curve in curves] == ["right", "left", "right"]
    assert curves[1].y_start == pytest.approx(250.0, abs=1.0)
    assert curves[1].y_end == pytest.approx(750.0, abs=1.0)
    assert curves[1].y_apex == pytest.approx(500.0, abs=1.0)


def test_a_circular_arc_has_the_angle_of_its_sector():
    # An arc from -30 to +30 degrees of a circle turns the tangent by 60.
    sector = np.radians(np.linspace(-30.0, 30.0, 2001))
    (curve,) = measure_curves(800.0 * np.cos(sector), 800.0 * np.sin(sector))
    assert curve.angle == pytest.approx(60.0, abs=0.1)
    assert curve.convex == "right"
    assert curve.y_apex == pytest.approx(0.0, abs=1.0)


def test_a_straight_line_keeps_one_curve_without_angle():
    y = np.arange(0.0, 100.0)
    (curve,) = measure_curves(3.0 + 0.2 * y, y)
    assert curve.angle == pytest.approx(0.0, abs=1e-9)


def test_small_curves_are_dropped_but_never_the_largest():
    y = np.arange(0.0, 1001.0)
    lobes = [Lobe(250.0, 250.0, 4.0), Lobe(750.0, 250.0, -20.0)]
    assert [round(curve.angle) for curve in measure_curves(bend(lobes, y).x, y)] == [20]
    assert [round(curve.angle) for curve in measure_curves(bend(lobes, y).x, y, smallest=3.0)] == [4, 20]
    assert [round(curve.angle) for curve in measure_curves(bend(lobes[:1], y).x, y)] == [4]


def test_a_lobe_turns_the_tangent_by_its_angle():
    lobe = Lobe(centre=500.0, half_length=200.0, angle=30.0)
    turned = lobe.turned(np.array([0.0, 300.0, 400.0, 500.0, 600.0, 700.0, 1000.0]))
    quarter = 30.0 * (0.25 - 1.0 / (2.0 * math.pi))  # phase -1/2: 30 (1/4 + sin(-pi/2) / (2 pi))
    assert turned == pytest.approx([0.0, 0.0, quarter, 15.0, 30.0 - quarter, 30.0, 30.0])


@settings(max_examples=40, deadline=None)
@given(
    angle=st.floats(6.0, 60.0),
    second=st.floats(0.2, 0.95),
    side=st.sampled_from([-1.0, 1.0]),
    first_slope=st.floats(-15.0, 15.0),
    moved=st.floats(-500.0, 500.0),
)
def test_measured_angles_are_those_of_the_lobes(angle, second, side, first_slope, moved):
    y = np.arange(0.0, 2000.0, 2.0)
    lobes = [Lobe(600.0, 350.0, side * angle), Lobe(1350.0, 400.0, -side * angle * second)]
    curve = bend(lobes, y, first_slope=first_slope)
    found = measure_curves(curve.x + moved, y, smallest=0.5)
    assert [item.angle for item in found] == pytest.approx([angle, angle * second], abs=0.05)
    mirrored = measure_curves(-curve.x, y, smallest=0.5)
    assert [item.angle for item in mirrored] == pytest.approx([item.angle for item in found])
    assert [item.convex for item in mirrored] != [item.convex for item in found]


# One phantom


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_angle_is_the_one_asked_for(seed):
    anatomy = draw_anatomy(np.random.default_rng(seed), 10.0 * seed)
    rows = anatomy.level_rows
    inside = (anatomy.curve.y >= rows[0]) & (anatomy.curve.y <= rows[-1])
    largest = max(curve.angle for curve in measure_curves(anatomy.curve.x[inside], anatomy.curve.y[inside]))
    assert largest == pytest.approx(10.0 * seed, abs=1.0)  # a long curve may end a little beyond the first level
    assert anatomy.sweep.left.min() >= 0
    assert anatomy.sweep.right.max() <= 640


def test_the_same_chance_gives_the_same_bytes():
    first, again, other = (
        drawn(1, angle=40.0),
        draw_phantom(np.random.default_rng(1), width=WIDTH, angle=40.0),
        drawn(2, angle=40.0),
    )
    assert np.array_equal(first.scan, again.scan)
    assert np.array_equal(first.mask, again.mask)
    assert first.truth == again.truth
    assert first.scan.shape != other.scan.shape or not np.array_equal(first.scan, other.scan)


def test_picture_mask_and_truth_have_the_promised_form():
    phantom = drawn(3, angle=40.0)
    assert phantom.scan.dtype == phantom.mask.dtype == np.uint8
    assert phantom.scan.shape == phantom.mask.shape == (phantom.truth["height"], WIDTH)
    assert 2400 / 640 - 0.01 <= phantom.scan.shape[0] / WIDTH <= 2750 / 640 + 0.01
    assert set(np.unique(phantom.mask)) == {0, 1, 2, 3}
    assert json.loads(json.dumps(phantom.truth)) == phantom.truth
    assert phantom.spacing_mm == tuple(phantom.truth["spacing_mm"])
    assert 0.16 < phantom.spacing_mm[0] * WIDTH / 640 < 0.21
    assert phantom.severity == severity_of(phantom.truth["largest_angle_deg"]) == "moderate"


@pytest.mark.parametrize("seed", range(4))
def test_landmarks_lie_on_what_they_name(seed):
    phantom = drawn(seed, angle=40.0)
    truth = phantom.truth
    kinds = [level["kind"] for level in truth["levels"]]
    assert 10 <= kinds.count("process") <= 12
    assert 5 <= kinds.count("lump") <= 6
    assert kinds == sorted(kinds, key=("process", "lump").index)
    for level in truth["levels"]:
        wanted = 2 if level["kind"] == "process" else 3
        for side in ("left", "right"):
            x, y = (round(value) for value in level[side])
            assert phantom.mask[y, x] == wanted, (level, side)
        (x0, y0), (x1, y1) = level["left"], level["right"]
        assert x0 < x1
        assert level["tilt_deg"] == pytest.approx(math.degrees(math.atan2(y1 - y0, x1 - x0)), abs=0.05)


def test_process_landmarks_are_the_middle_of_their_blobs():
    phantom = draw_phantom(np.random.default_rng(8), width=320, angle=0.0, artefacts=())
    blobs, count = ndimage.label(phantom.mask == 2, structure=np.ones((3, 3)))
    centres = np.array(ndimage.center_of_mass(phantom.mask == 2, blobs, range(1, count + 1)))[:, ::-1]
    points = [
        level[side] for level in phantom.truth["levels"] if level["kind"] == "process" for side in ("left", "right")
    ]
    assert count == len(points)
    distance = np.linalg.norm(np.array(points)[:, None] - centres[None], axis=2).min(axis=1)
    assert distance.max() < 3.0


def test_the_drawn_lines_differ_from_the_spine_as_an_annotators_would():
    jitter = []
    for seed in range(6):
        anatomy = draw_anatomy(np.random.default_rng(seed), 30.0)
        for level in anatomy.levels:
            row = anatomy.level_rows[LEVEL_NAMES.index(level.name)]
            jitter.append(level.tilt + float(anatomy.curve.slope_at(row)))
    assert 2.5 < np.std(jitter) < 4.5
    assert abs(np.mean(jitter)) < 1.2


def test_curves_of_the_truth_name_side_region_and_ends():
    for seed in range(4):
        truth = drawn(seed, angle=40.0).truth
        names = [level["name"] for level in truth["levels"]]
        largest = max(truth["curves"], key=lambda curve: curve["angle_deg"])
        assert largest["angle_deg"] == truth["largest_angle_deg"] == pytest.approx(40.0, abs=1.0)
        order = [names.index(largest[key]) for key in ("upper_end", "apex", "lower_end")]
        assert order == sorted(order)
        midline = np.array(truth["midline"])
        part = midline[(midline[:, 1] >= largest["start"]) & (midline[:, 1] <= largest["end"])]
        chord = np.interp(part[:, 1], part[[0, -1], 1], part[[0, -1], 0])
        assert largest["convex"] == ("right" if (part[:, 0] - chord).sum() > 0 else "left")


def test_the_width_scales_picture_truth_and_spacing():
    small, full = drawn(2, angle=40.0), draw_phantom(np.random.default_rng(2), width=640, angle=40.0)
    factor = 640 / WIDTH
    assert abs(full.scan.shape[0] - small.scan.shape[0] * factor) <= factor
    assert small.spacing_mm[0] == pytest.approx(full.spacing_mm[0] * factor, rel=1e-4)
    left_small, left_full = (np.array(item.truth["levels"][0]["left"]) for item in (small, full))
    assert (left_small + 0.5) * factor - 0.5 == pytest.approx(left_full, abs=1.0)
    assert small.truth["largest_angle_deg"] == full.truth["largest_angle_deg"]
    averaged = np.array(Image.fromarray(full.scan).resize(small.scan.shape[::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(averaged - small.scan).max() <= 2


# Artefacts


def test_families_are_selected_one_by_one():
    plain = drawn(ALL_SHOW, artefacts=())
    assert plain.truth["artefacts"] == {}
    everything = drawn(ALL_SHOW, artefacts=ARTEFACT_FAMILIES).truth["artefacts"]
    assert set(everything) == set(ARTEFACT_FAMILIES)
    for name in ("shadow", "dashes", "motion_kink"):
        alone = drawn(ALL_SHOW, artefacts=(name,))
        assert list(alone.truth["artefacts"]) == [name]
        assert alone.truth["artefacts"][name] == everything[name]  # drawn alike, whatever else is selected
        assert not np.array_equal(alone.scan, plain.scan)
        assert alone.truth["curves"] == plain.truth["curves"] or name == "motion_kink"
        assert np.array_equal(alone.mask, plain.mask) == (name != "motion_kink")


def blank(anatomy):
    """A canvas of even grey: what is drawn on it is the artefact alone."""
    return Canvas(anatomy, np.zeros((anatomy.height, 640), np.float32), paint_mask(anatomy))


@pytest.mark.parametrize("name", ARTEFACT_FAMILIES)
def test_a_family_changes_the_picture_where_it_shows_and_nowhere_else(name):
    anatomy = draw_anatomy(np.random.default_rng(0), 20.0)
    without = blank(anatomy)
    assert draw_artefacts(np.random.default_rng(0), without, ()) == {}
    count = 0
    for seed in range(4):
        plain, canvas = blank(anatomy), blank(anatomy)
        draw_artefacts(np.random.default_rng(seed), plain, ())
        shown = draw_artefacts(np.random.default_rng(seed), canvas, (name,))
        assert set(shown) <= {name}
        assert np.array_equal(plain.grey, canvas.grey) != bool(shown)
        count += bool(shown)
    assert count >= 2


def test_the_default_families_are_some_of_all():
    assert set(DEFAULT_ARTEFACTS) < set(ARTEFACT_FAMILIES)


def test_motion_moves_mask_and_landmarks_together():
    still = draw_phantom(np.random.default_rng(ALL_SHOW), width=640, artefacts=())
    moved = draw_phantom(np.random.default_rng(ALL_SHOW), width=640, artefacts=("motion_kink",))
    shifts = []
    for before, after in zip(still.truth["levels"], moved.truth["levels"], strict=True):
        assert before["left"][1] == after["left"][1]
        shifts.append(after["left"][0] - before["left"][0])
        x, y = (round(value) for value in after["left"])
        assert moved.mask[y, x] == still.mask[y, round(before["left"][0])] > 0
    assert max(map(abs, shifts)) >= 3
    assert np.unique(shifts).size > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"artefacts": ("dashes", "rain")}, "rain"),
        ({"max_angle": 95.0}, "95"),
        ({"angle": -1.0}, "-1"),
        ({"width": 10}, "10"),
    ],
)
def test_requests_that_cannot_be_drawn_are_refused(options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        draw_phantom(np.random.default_rng(0), **{"width": WIDTH, **options})
    assert caught.value.action


# The data set


def test_the_data_set_has_the_promised_layout(dataset):
    names = {split: (dataset / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    assert {split: len(listed) for split, listed in names.items()} == {"train": 2, "val": 1, "test": 1}
    with (dataset / "scans.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
        stream.seek(0)
        header = stream.readline().strip().split(",")
    assert header[:5] == ["name", "subject", "device", "spacing_x_mm", "spacing_y_mm"]
    truth = json.loads((dataset / "truth.json").read_text())
    assert truth.pop("schema_version") == 1
    assert set(rows) == set(truth) == {name for listed in names.values() for name in listed}
    assert len({row["subject"] for row in rows.values()}) == 4
    for split, listed in names.items():
        for name in listed:
            scan = Image.open(dataset / "dataset" / split / f"{name}.png")
            mask = Image.open(dataset / "groundtruth" / split / f"{name}_bone_3.png")
            assert scan.mode == mask.mode == "L"
            assert scan.size == mask.size == (truth[name]["width"], truth[name]["height"])
            assert set(np.unique(np.array(mask))) <= {0, 1, 2, 3}
            assert rows[name]["severity"] == truth[name]["severity"]
            assert float(rows[name]["spacing_x_mm"]) == truth[name]["spacing_mm"][0]
    files = [path for path in dataset.rglob("*") if path.is_file()]
    assert len(files) == 2 * 4 + 3 + 2


def test_scans_depend_on_seed_split_and_index_alone(dataset, tmp_path):
    draw_dataset(tmp_path / "more", train=1, val=0, test=2, seed=5, width=WIDTH, progress=False, workers=1)
    before, after = tree(dataset), tree(tmp_path / "more")
    shared = [name for name in set(before) & set(after) if name.endswith(".png")]
    assert len(shared) == 2 * (1 + 1)
    assert all(before[name] == after[name] for name in shared)
    assert len({content for name, content in after.items() if name.startswith("dataset/")}) == 3


def test_the_whole_folder_is_the_same_again(dataset, tmp_path):
    draw_dataset(tmp_path / "again", train=2, val=1, test=1, seed=5, width=WIDTH, progress=False, workers=1)
    assert folder_sha256(tmp_path / "again") == folder_sha256(dataset)


def test_a_split_of_no_scans_has_neither_list_nor_folder(tmp_path, dataset):
    draw_dataset(tmp_path, train=1, val=0, test=0, seed=0, width=WIDTH, progress=False)  # an empty folder will do
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset",
        "groundtruth",
        "scans.csv",
        "train.txt",
        "truth.json",
    ]
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["train"]
    picture = "dataset/train/phantom-train-0000.png"
    assert tree(tmp_path)[picture] != tree(dataset)[picture]  # another seed


def test_severity_is_spread_evenly():
    angles = np.array([60.0 * ((0.3 + index * module._GOLDEN) % 1.0) for index in range(40)])
    counts, _ = np.histogram(angles, bins=6, range=(0.0, 60.0))
    assert counts.min() >= 5
    assert [severity_of(angle) for angle in (0.0, 9.9, 10.0, 24.9, 25.0, 45.0, 80.0)] == [
        "straight", "straight", "mild", "mild", "moderate", "severe", "severe",
    ]  # fmt: skip


def test_a_filled_folder_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="not an empty folder") as caught:
        draw_dataset(tmp_path, train=1, val=0, test=1, seed=0, width=WIDTH, progress=False)
    assert "does not exist yet" in caught.value.action
    assert tree(tmp_path) == {"scan.png": b"mine"}


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0, "test": 0},
        {"train": -1},
        {"seed": -1},
        {"workers": -2},
        {"artefacts": ("rain",)},
        {"width": 3},
    ],
)
def test_data_sets_that_cannot_be_drawn_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        draw_dataset(tmp_path / "x", **{"train": 1, "val": 0, "test": 1, "seed": 0, "progress": False, **options})
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_nothing_half_written(tmp_path, monkeypatch):
    saved = Image.Image.save

    def fails_later(picture, path, *arguments, **options):
        if "groundtruth" in str(path) and "0001" in str(path):
            raise OSError("disk full")
        saved(picture, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", fails_later)
    with pytest.raises(OSError, match="disk full"):
        draw_dataset(tmp_path / "x", train=2, val=0, test=0, seed=0, width=WIDTH, progress=False, workers=1)
    assert not list(tmp_path.iterdir())
