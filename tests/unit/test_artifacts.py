"""Folders and files that cross steps: nothing of the user's is replaced, nothing is left half done."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa2net.artifacts import EVALUATION_FILES, SCORES, folder_sha256, read_json, replaced_folder, write_json, write_text
from sa2net.errors import DataError


def fill(folder: Path, text: str) -> None:
    with replaced_folder(folder, EVALUATION_FILES) as fresh:
        (fresh / SCORES).write_text(text)


def test_our_own_folder_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / SCORES).read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["scan.png", "dataset", ".git"])
def test_a_folder_with_anything_else_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    fill(out, "one")
    (out / name).write_text("mine")
    with pytest.raises(DataError, match="would be replaced") as caught:
        fill(out, "two")
    assert name in str(caught.value)
    assert (out / name).read_text() == "mine"
    assert (out / SCORES).read_text() == "one"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        fill(tmp_path / "out", "two")


def test_an_error_inside_keeps_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "out", EVALUATION_FILES) as fresh:
        (fresh / SCORES).write_text("half")
        raise RuntimeError
    assert (tmp_path / "out" / SCORES).read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=5))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert read_json(path) == content


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_what_is_no_json_object_is_an_error_with_the_file(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_a_folder_is_told_apart_by_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = folder_sha256(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    second = folder_sha256(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({first, second, folder_sha256(tmp_path / "a")}) == 3
