import csv
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from factories import write_data_set
from PIL import Image, PngImagePlugin

from sa2net.config import ValidateConfig
from sa2net.data import store
from sa2net.data.angles import read_true_angles
from sa2net.data.examination import examine
from sa2net.data.imports import import_data
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_scan
from sa2net.errors import DataError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A hospital's folder: one subject twice, a name in a PNG's text, an own column, a foreign file, a truth."""
    root = write_data_set(tmp_path / "source", train=4, test=2, subjects={"train_000": "Anna B", "train_001": "Anna B"})
    path = root / "dataset/train/train_000.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", "Anna B")
    Image.fromarray(read_scan(path)).save(path, pnginfo=info)
    lines = (root / "scans.csv").read_text().splitlines()
    (root / "scans.csv").write_text("\n".join([lines[0] + ",ward", *(line + ",north" for line in lines[1:])]) + "\n")
    (root / "dataset/train/Thumbs.db").write_bytes(b"Anna")
    (root / "truth.json").write_text(json.dumps({"train_000": {"angle": 12}}))
    (root / "angles.csv").write_text(
        "name,angle_deg,convex,upper_row,lower_row,reader\ntrain_001,31.5,right,4,28,Anna B\ntest_000,12,left,2,20,Anna B\n"
    )
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_plain_import_is_a_copy_of_what_belongs_to_the_data_set(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "scoliosis3classes"
    result = import_data(source, out, progress=False)
    expected = files(source)
    del expected["dataset/train/Thumbs.db"]
    assert files(out) == expected
    assert (result.scans, result.key) == (6, None)
    assert any("Thumbs.db" in warning for warning in result.warnings)
    assert [path.name for path in out.parent.iterdir()] == ["scoliosis3classes"]


def test_pseudonyms_replace_every_name_and_the_key_leads_back(source: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "data", tmp_path / "vault" / "key.csv"
    result = import_data(source, out, pseudonymise=True, key=key, progress=False)
    assert result.key == key.resolve()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    whole = b"".join(name.encode() + content for name, content in files(out).items())
    for secret in (b"Anna", b"train_0", b"test_0", b"ward", b"north", b"tEXt"):
        assert secret not in whole
    with key.open(newline="") as stream:
        back = {row["pseudonym"]: row for row in csv.DictReader(stream)}
    old = {case.name: case for case in read_cases(source)}
    new = read_cases(out)
    assert len(new) == len(old) == 6
    for case in new:
        original = old[back[case.name]["name"]]
        assert back[case.name]["subject"] == original.subject
        assert back[case.name]["subject_pseudonym"] == case.subject
        assert (case.split, case.device, case.spacing_mm) == (original.split, original.device, original.spacing_mm)
        assert np.array_equal(read_scan(case.scan), read_scan(original.scan))
        assert np.array_equal(read_scan(case.mask), read_scan(original.mask))
    assert len({case.subject for case in new}) == 5
    assert [case.name for case in new if case.split == "train"] == sorted(
        case.name for case in new if case.split == "train"
    )
    truth = json.loads((out / "truth.json").read_text())
    assert [back[name]["name"] for name in truth] == ["train_000"]
    read = {back[name]["name"]: curves for name, curves in read_true_angles(out).items()}
    assert {name: [curve.angle_deg for curve in read[name].curves] for name in read} == {
        "train_001": [31.5],
        "test_000": [12.0],
    }
    assert examine(ValidateConfig(), out, progress=False).report.passed


def test_two_imports_draw_other_pseudonyms(source: Path, tmp_path: Path) -> None:
    names = []
    for turn in ("a", "b"):
        import_data(source, tmp_path / turn, pseudonymise=True, key=tmp_path / f"key-{turn}.csv", progress=False)
        names.append({case.name for case in read_cases(tmp_path / turn)})
    assert not names[0] & names[1]


def test_the_default_key_lies_in_the_home_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result = import_data(source, tmp_path / "data", pseudonymise=True, progress=False)
    assert result.key is not None
    assert result.key.parent == tmp_path / "home" / "sa2net-keys"
    assert any(str(result.key) in line for line in result.advice)
    assert str(result.key) in result.message
    assert result.message.startswith("6 scans copied to")


@pytest.mark.parametrize("place", ["data/key.csv", "repository/sub/key.csv"])
def test_a_key_beside_the_data_or_in_a_repository_is_refused(source: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    with pytest.raises(DataError, match="--key"):
        import_data(source, tmp_path / "data", pseudonymise=True, key=tmp_path / place, progress=False)
    assert not (tmp_path / "data").exists()


def test_an_old_key_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "key.csv").write_text("old")
    with pytest.raises(DataError, match="exists already"):
        import_data(source, tmp_path / "data", pseudonymise=True, key=tmp_path / "key.csv", progress=False)
    assert (tmp_path / "key.csv").read_text() == "old"


def test_a_broken_source_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "dataset/train/train_001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train_001.png \(zero bytes\).*\n?.*Nothing was copied"):
        import_data(source, tmp_path / "place" / "data", progress=False)
    assert not (tmp_path / "place").exists()


def test_a_full_folder_is_refused_and_an_empty_one_filled(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(DataError, match="is not empty"):
        import_data(source, out, progress=False)
    (out / "precious").unlink()
    import_data(source, out, progress=False)
    assert len(read_cases(out)) == 6


def test_source_and_target_may_not_lie_in_each_other(source: Path) -> None:
    for out in (source / "dataset" / "new", source, source.parent):
        with pytest.raises(DataError, match="lie in each other"):
            import_data(source, out, progress=False)


def test_an_interrupted_copy_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when half of the files are copied."""
    written = []
    real = Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "place" / "data", progress=False)
    assert len(written) == 5
    assert list((tmp_path / "place").iterdir()) == []


def test_a_key_that_cannot_be_written_leaves_no_data(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        import_data(source, tmp_path / "data", pseudonymise=True, key=tmp_path / "file" / "key.csv", progress=False)
    assert not (tmp_path / "data").exists()


def test_a_push_is_suggested_only_to_a_remote_outside(source: Path, tmp_path: Path) -> None:
    home = tmp_path / "repository"
    (home / ".dvc").mkdir(parents=True)
    out = home / "data" / "scoliosis3classes"
    (home / ".dvc" / "config").write_text("['remote \"starter\"']\n    url = ../starter\n")
    (home / "data.dvc").write_text("outs:\n- md5: 1.dir\n  path: data\n  remote: starter\n")
    assert store.outside_remotes(home) == []
    advice = import_data(source, out, progress=False).advice
    assert "dvc add data" in advice
    assert not any(line.startswith("dvc push") for line in advice)
    assert any("No remote lies outside" in line for line in advice)
    with (home / ".dvc" / "config").open("a") as stream:
        stream.write("['remote \"hospital\"']\n    url = s3://bucket/scans\n")
    advice = import_data(source, home / "data" / "second", progress=False).advice
    assert advice[-1] == "dvc push --remote hospital data.dvc"
    assert any("`remote: hospital`" in line and "`remote: starter`" in line for line in advice)


def test_links_become_files(source: Path, tmp_path: Path) -> None:
    path = source / "dataset/train/train_002.png"
    path.rename(source / "dataset/moved")
    path.symlink_to("../moved")
    import_data(source, tmp_path / "data", progress=False)
    copied = tmp_path / "data/dataset/train/train_002.png"
    assert copied.is_file()
    assert not copied.is_symlink()
    assert copied.stat().st_mode & 0o444 == 0o444


def test_warnings_of_a_pseudonymised_import_name_nobody(source: Path, tmp_path: Path) -> None:
    twin = read_scan(source / "dataset/train/train_000.png").copy()
    twin[100, 40:44] ^= 1
    Image.fromarray(twin).save(source / "dataset/train/train_001.png")
    plain = import_data(source, tmp_path / "plain", progress=False).message
    assert "train_000" in plain and "train_001" in plain
    told = import_data(source, tmp_path / "data", pseudonymise=True, key=tmp_path / "key.csv", progress=False).message
    assert "train_0" not in told and "Anna" not in told
    assert "scan_" in told
