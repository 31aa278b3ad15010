from pathlib import Path

import numpy as np
import pytest
from factories import write_data_set, write_list
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sa2net.data.layout import Case, mask_path, name_problem, read_cases, read_list, read_truth, scan_path
from sa2net.data.pictures import PictureError, read_mask, read_scan, write_png
from sa2net.errors import DataError


def test_cases_come_in_list_order_with_what_the_table_knows(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=3, test=1, spacing_mm=(0.2, 0.3), subjects={"train_001": "anna"})
    write_list(root, "train", ["train_002", "train_000", "train_001"])
    cases = read_cases(root)
    assert [case.name for case in cases] == ["train_002", "train_000", "train_001", "test_000"]
    assert cases[2] == Case(
        "train_001",
        "train",
        "anna",
        root / "dataset/train/train_001.png",
        root / "groundtruth/train/train_001_bone_3.png",
        "factory",
        (0.2, 0.3),
    )
    assert [case.name for case in read_cases(root, ("test",))] == ["test_000"]


def test_without_a_table_each_scan_is_its_own_subject(tmp_path: Path) -> None:
    root = write_data_set(tmp_path, train=2, val=1, test=1, scans_csv=False)
    assert [(case.subject, case.split, case.spacing_mm) for case in read_cases(root)] == [
        ("train_000", "train", None),
        ("train_001", "train", None),
        ("val_000", "val", None),
        ("test_000", "test", None),
    ]


def test_a_missing_list_is_an_error_only_where_it_is_needed(data_root: Path) -> None:
    (data_root / "test.txt").unlink()
    assert len(read_cases(data_root, ("train", "val"))) == 4
    with pytest.raises(DataError, match=r"test.txt is missing"):
        read_cases(data_root)


@pytest.mark.parametrize("name", ["../x", "a/b", "train_000"])
def test_a_bad_name_in_a_list_is_refused(data_root: Path, name: str) -> None:
    with (data_root / "train.txt").open("a") as stream:
        stream.write(name + "\n")
    with pytest.raises(DataError, match=r"train.txt: .*Mend the list"):
        read_cases(data_root)


def test_lists_of_other_systems_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n b c \t\r\nd")
    assert read_list(tmp_path, "train").names == ("a", "b c", "d")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "=1", "@a", "a.", "a ", "a/b", "a\\b", "c:d", "a\nb", "a\x7fb", "a\u200bb", "x" * 201],
)
def test_names_that_cannot_be_used(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize("name", ["a", "Scan 12", "müller_3", "S-001.2", "脊柱01"])
def test_names_that_can(name: str) -> None:
    assert name_problem(name) == ""


@given(st.text(max_size=40))
def test_a_name_without_problem_stays_in_its_folder(name: str) -> None:
    root = Path("/data")
    if not name_problem(name):
        assert scan_path(root, "train", name).parent == root / "dataset/train"
        assert scan_path(root, "train", name).name == f"{name}.png"
        assert mask_path(root, "train", name).parent == root / "groundtruth/train"


def test_a_png_comes_back_as_it_was_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (37, 23), dtype=np.uint8)
    write_png(tmp_path / "new" / "a.png", array)
    assert np.array_equal(read_scan(tmp_path / "new" / "a.png"), array)
    assert np.array_equal(read_mask(tmp_path / "new" / "a.png"), array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with pytest.raises(TypeError, match="8-bit"):
        write_png(tmp_path / "b.png", array.astype(np.float32))  # type: ignore[arg-type]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((4, 4), 9, np.uint8))
    with pytest.raises((TypeError, ValueError)):
        write_png(tmp_path / "a.png", np.zeros((4, 4, 7), np.uint8))
    assert read_scan(tmp_path / "a.png")[0, 0] == 9
    assert len(list(tmp_path.iterdir())) == 1


def test_the_largest_picture_is_the_last_allowed_one(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((10, 12), np.uint8))
    assert read_scan(tmp_path / "a.png", max_pixels=120).shape == (10, 12)
    with pytest.raises(PictureError, match="12 x 10 px, allowed are 1 to 119 px") as caught:
        read_scan(tmp_path / "a.png", max_pixels=119)
    assert caught.value.kind == "size"


def test_a_picture_above_the_limit_of_pillow_is_read_where_the_limit_here_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write_png(tmp_path / "a.png", np.zeros((10, 12), np.uint8))
    assert read_scan(tmp_path / "a.png").shape == (10, 12)


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 5_000_000, zip=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(PictureError, match="damaged"):
        read_scan(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\x89PN"])
def test_headers_that_end_early(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.png cannot be used"):
        read_scan(tmp_path / "a.png")


@given(st.integers(0, 2**32 - 1))
def test_a_cut_or_flipped_file_never_passes_as_another_picture(seed: int) -> None:
    import io

    from sa2net.data.pictures import decode

    generator = np.random.default_rng(seed)
    array = generator.integers(0, 256, (9, 7), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    position = int(generator.integers(len(content)))
    damaged = bytes(content[:position])
    content[position] ^= 1 << int(generator.integers(8))
    for broken in (damaged, bytes(content)):
        with pytest.raises(PictureError):
            decode(Path("a.png"), broken)


def test_truth(tmp_path: Path) -> None:
    assert read_truth(tmp_path) == {}
    (tmp_path / "truth.json").write_text('{"a": {"angle": 12}}')
    assert read_truth(tmp_path) == {"a": {"angle": 12}}
