"""Every way in which a data set can be broken ends in one message that names the file and the cure."""

import os
import struct
import subprocess
import sys
import tempfile
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factories import add_case, draw_case, write_data_set, write_list
from PIL import Image

from sa2net.config import ValidateConfig
from sa2net.data.layout import mask_path, scan_path
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import DataError
from sa2net.steps import validate

SCAN = "dataset/train/train_001.png"
MASK = "groundtruth/train/train_001_bone_3.png"


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in sorted(root.rglob("*"))
    }


def save_as(mode: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with Image.open(root / SCAN) as picture:
            picture.load()
        picture.convert(mode).save(root / SCAN)

    return change


def sixteen_bit(root: Path) -> None:
    Image.fromarray(read_scan(root / SCAN).astype(np.uint16) * 256).save(root / SCAN)


def replace(relative: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / relative).write_bytes(content)


def truncate(relative: str, keep: float) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = (root / relative).read_bytes()
        (root / relative).write_bytes(content[: int(len(content) * keep)])

    return change


def flip_a_late_bit(root: Path) -> None:
    """Damage in the checksum behind the last row, which decoders do not look at."""
    content = bytearray((root / SCAN).read_bytes())
    content[-14] ^= 1
    (root / SCAN).write_bytes(bytes(content))


def bomb(root: Path) -> None:
    """A picture of 40,000 x 40,000 px in a few bytes."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 9))]
    chunks.append((b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (root / SCAN).write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def mask_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: write_png(root / MASK, change(read_mask(root / MASK)))


def label_seven(mask: np.ndarray) -> np.ndarray:
    mask[10, 10] = 7
    return mask


def no_lumbar(mask: np.ndarray) -> np.ndarray:
    mask[mask == 3] = 0
    return mask


def append(relative: str, line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / relative).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    return change


def link_out(root: Path) -> None:
    outside = root.parent / "elsewhere.png"
    (root / SCAN).rename(outside)
    (root / SCAN).symlink_to(outside)


def folder_link_out(root: Path) -> None:
    outside = root.parent / "elsewhere"
    (root / "groundtruth" / "train").rename(outside)
    (root / "groundtruth" / "train").symlink_to(outside)


def list_link_out(root: Path) -> None:
    outside = root.parent / "elsewhere.txt"
    (root / "train.txt").rename(outside)
    (root / "train.txt").symlink_to(outside)


def copy_into_test(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """The scan of a train subject in test, under another name and subject."""

    def run(root: Path) -> None:
        scan = change(read_scan(root / SCAN))
        add_case(root, "test", "other", scan, read_mask(root / MASK))
        append("test.txt", "other")(root)
        append("scans.csv", "other,somebody,factory,0.4,0.4")(root)

    return run


def subject_in_two_splits(root: Path) -> None:
    text = (root / "scans.csv").read_text()
    (root / "scans.csv").write_text(text.replace("subject_test_000", "subject_train_001"))


def edit_table(old: str, new: str) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        text = (root / "scans.csv").read_text()
        assert old in text
        (root / "scans.csv").write_text(text.replace(old, new))

    return run


def pipe(root: Path) -> None:
    (root / SCAN).unlink()
    os.mkfifo(root / SCAN)


def both(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        for change in changes:
            change(root)

    return run


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "truncated scan": (truncate(SCAN, 0.6), (SCAN, "truncated"), "Export or copy"),
    "truncated mask": (truncate(MASK, 0.9), (MASK, "truncated"), "Export or copy"),
    "last chunk gone": (lambda root: replace(SCAN, (root / SCAN).read_bytes()[:-12])(root), (SCAN,), "Export or copy"),
    "damaged checksum": (flip_a_late_bit, (SCAN,), "Export or copy"),
    "zero bytes": (replace(SCAN, b""), (SCAN, "zero bytes"), "Export or copy"),
    "not a PNG": (replace(SCAN, b"GIF89a" + b"\0" * 90), (SCAN, "not a PNG"), "Convert it to an 8-bit"),
    "16-bit": (sixteen_bit, (SCAN, "16-bit grey"), "Convert it to an 8-bit"),
    "1-bit": (save_as("1"), (SCAN, "1-bit grey"), "Convert it to an 8-bit"),
    "RGB": (save_as("RGB"), (SCAN, "RGB"), "Convert it to an 8-bit"),
    "palette": (save_as("P"), (SCAN, "palette"), "Convert it to an 8-bit"),
    "alpha": (save_as("LA"), (SCAN, "grey with alpha"), "Convert it to an 8-bit"),
    "RGB with alpha": (save_as("RGBA"), (SCAN, "RGB with alpha"), "Convert it to an 8-bit"),
    "bomb": (bomb, (SCAN, "40000 x 40000"), "raise validate.max_pixels"),
    "a pipe": (pipe, (SCAN, "not a regular file"), "Make it a regular file"),
    "mask of another height": (mask_of(lambda mask: mask[:-3]), (MASK, "96 x 253"), "at the scan's own size"),
    "mask turned": (mask_of(lambda mask: np.ascontiguousarray(mask.T)), (MASK, "256 x 96"), "at the scan's own size"),
    "label 7": (mask_of(label_seven), (MASK, "label 7"), "255 where nobody can tell"),
    "all background": (mask_of(np.zeros_like), (MASK, "background alone"), "Draw the mask"),
    "class absent": (mask_of(no_lumbar), (MASK, "lumbar lump"), "validate.required_classes"),
    "missing mask": (lambda root: (root / MASK).unlink(), (MASK, "no such file"), "Put the file there"),
    "missing scan": (lambda root: (root / SCAN).unlink(), (SCAN, "no such file"), "Put the file there"),
    "mask without scan": (
        lambda root: write_png(mask_path(root, "train", "lonely"), draw_case(77)[1]),
        ("groundtruth/train/lonely_bone_3.png",),
        "Add the scan",
    ),
    "unlisted scan": (
        lambda root: add_case(root, "test", "extra", *draw_case(77)),
        ("dataset/test/extra.png",),
        "Add the names to the list",
    ),
    "val folder without list": (
        lambda root: add_case(root, "val", "extra", *draw_case(77)),
        ("dataset/val/extra.png",),
        "Add the names to the list",
    ),
    "dots in a name": (append("train.txt", "../../secret"), ("train.txt", "../../secret"), "Rename the scan"),
    "absolute path": (append("train.txt", "/etc/passwd"), ("train.txt", "/etc/passwd"), "Rename the scan"),
    "backslash": (append("train.txt", "a\\b"), ("train.txt", "a\\\\b"), "Rename the scan"),
    "control character": (append("train.txt", "a\x07b"), ("train.txt", "'a\\x07b'"), "Rename the scan"),
    "null character": (append("train.txt", "a\0b"), ("train.txt", "'a\\x00b'"), "Rename the scan"),
    "reversed text": (append("train.txt", "a\u202eb"), ("train.txt", "\\u202e"), "Rename the scan"),
    "list not UTF-8": (replace("train.txt", b"caf\xe9\n"), ("train.txt", "not UTF-8"), "UTF-8 text"),
    "list missing": (lambda root: (root / "test.txt").unlink(), ("test.txt", "is missing"), "one scan name a line"),
    "name twice": (append("train.txt", "train_001"), ("'train_001' in train.txt",), "second line out"),
    "name in two lists": (
        both(append("test.txt", "train_001"), lambda root: add_case(root, "test", "train_001", *draw_case(77))),
        ("'train_001' in train.txt", "'train_001' in test.txt"),
        "second line out",
    ),
    "names equal but for case": (
        both(
            append("test.txt", "TRAIN_001"),
            append("scans.csv", "TRAIN_001,x,factory,0.4,0.4"),
            lambda root: add_case(root, "test", "TRAIN_001", *draw_case(77)),
        ),
        ("'train_001' in train.txt", "'TRAIN_001' in test.txt"),
        "second line out",
    ),
    "link out": (link_out, (SCAN, "leads out"), "Copy the files themselves"),
    "folder link out": (folder_link_out, ("train_001", "leads out"), "Copy the files themselves"),
    "list link out": (list_link_out, ("train.txt", "leads out"), "Copy the list itself"),
    "dangling link inside": (
        both(lambda root: (root / SCAN).unlink(), lambda root: (root / SCAN).symlink_to("nowhere.png")),
        (SCAN, "a link to nothing"),
        "Put the file there",
    ),
    "empty split": (lambda root: write_list(root, "test", []), ("test.txt is empty",), "Write scan names"),
    "same scan in two splits": (
        copy_into_test(lambda scan: scan),
        ("dataset/test/other.png is the same file as dataset/train/train_001.png",),
        "Keep one of them",
    ),
    "near copy in two splits": (
        copy_into_test(lambda scan: np.roll((scan * 0.93).astype(np.uint8), 2, axis=1)),
        ("dataset/test/other.png looks like dataset/train/train_001.png",),
        "Keep one of them",
    ),
    "subject in two splits": (
        subject_in_two_splits,
        ("test/test_000", "subject_train_001, in test and train"),
        "Move all scans of the subject",
    ),
    "black scan": (lambda root: write_png(root / SCAN, np.zeros((256, 96), np.uint8)), (SCAN,), "Export the scan"),
    "tiny scan": (
        lambda root: add_case(root, "train", "train_001", *(item[:20] for item in draw_case(77))),
        (SCAN, "96 x 20"),
        "validate.min_side",
    ),
    "spacing zero": (
        edit_table("train_001,factory,0.4", "train_001,factory,0"),
        ("train_001 has 0 mm",),
        "mm per pixel",
    ),
    "spacing absurd": (
        edit_table("train_001,factory,0.4", "train_001,factory,400"),
        ("train_001 has 400 mm",),
        "mm per pixel",
    ),
    "spacing text": (
        edit_table("train_001,factory,0.4", "train_001,factory,wide"),
        ("train_001 has the spacing 'wide'",),
        "Mend the rows",
    ),
    "spacing half": (
        edit_table("train_001,factory,0.4", "train_001,factory,"),
        ("train_001 has the spacing",),
        "Mend the rows",
    ),
    "spacing endless": (edit_table("train_001,factory,0.4", "train_001,factory,inf"), ("train_001",), "Mend the rows"),
    "no row in the table": (
        both(append("test.txt", "extra"), lambda root: add_case(root, "test", "extra", *draw_case(77))),
        ("extra has no row in scans.csv",),
        "Mend the rows",
    ),
    "two rows in the table": (
        append("scans.csv", "train_001,x,factory,0.4,0.4"),
        ("train_001 has several rows",),
        "Mend the rows",
    ),
    "table without subject": (edit_table("name,subject", "name,patient"), ("scans.csv", "column subject"), "UTF-8 CSV"),
    "table not UTF-8": (replace("scans.csv", b"name,subject\ncaf\xe9,x\n"), ("scans.csv",), "UTF-8 CSV"),
    "truth not JSON": (replace("truth.json", b"{"), ("truth.json",), "Write it again"),
    "angles without a side": (
        replace("angles.csv", b"name,angle_deg,convex,upper_row,lower_row\ntrain_001,20,up,1,9\n"),
        ("angles.csv", "line 2"),
        "convex",
    ),
    "masks folder missing": (
        lambda root: (root / "groundtruth" / "test").rename(root.parent / "gone"),
        ("groundtruth/test is missing",),
        "readable folder",
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda text: text.replace(" ", "_"))
def test_a_broken_data_set_is_refused(fault: str, data_root: Path, tmp_path: Path) -> None:
    change, names, cure = FAULTS[fault]
    change(data_root)
    pipes = [path for path in data_root.rglob("*") if path.is_fifo()]
    before = None if pipes else tree(data_root)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("manifest.csv", "run.json"):
        (out / name).write_text("of an earlier run")
    with pytest.raises(DataError) as caught:
        validate.run(ValidateConfig(), data=data_root, out=out, progress=False)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    for name in names:
        assert name in message
    assert cure in message
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    assert before is None or tree(data_root) == before
    assert "cannot be used" in (out / "report.html").read_text()


def test_many_faults_are_told_at_once_and_long_lists_are_cut(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", train=10, test=2)
    for index in range(8):
        scan_path(root, "train", f"train_{index:03d}").write_bytes(b"")
    mask_path(root, "test", "test_000").unlink()
    with pytest.raises(DataError) as caught:
        validate.run(ValidateConfig(), data=root, out=tmp_path / "out", progress=False)
    message = str(caught.value)
    assert "fails 2 of" in message
    assert message.count("zero bytes") == 5
    assert "... and 3 more" in message
    assert "test_000_bone_3.png (no such file)" in message


def test_no_readable_train_scan_at_all(data_root: Path, tmp_path: Path) -> None:
    for path in (data_root / "dataset").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="zero bytes"):
        validate.run(ValidateConfig(), data=data_root, out=tmp_path / "out", progress=False)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        validate.run(ValidateConfig(), data=tmp_path / "absent", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_spacing_is_demanded(tmp_path: Path) -> None:
    root = write_data_set(tmp_path / "data", spacing_mm=None)
    result = validate.run(ValidateConfig(), data=root, out=tmp_path / "out", progress=False)
    assert any("pixel spacing" in warning for warning in result.warnings)
    with pytest.raises(DataError, match="Fill spacing_x_mm"):
        validate.run(ValidateConfig(require_spacing=True), data=root, out=tmp_path / "out", progress=False)


UNPRIVILEGED = """
    import os, sys
    from pathlib import Path
    from sa2net.config import ValidateConfig
    from sa2net.errors import DataError
    from sa2net.steps import validate

    home = Path(sys.argv[1])
    os.environ["SA2NET_VAR"] = str(home / "warm-var")
    validate.run(ValidateConfig(), data=home / "data", out=home / "warm", progress=False)  # late imports happen here
    os.environ["SA2NET_VAR"] = str(home / "var")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for victim in sys.argv[2:]:
        path = home / "data" / victim
        before = path.stat().st_mode
        path.chmod(0)
        try:
            validate.run(ValidateConfig(), data=home / "data", out=home / "out", progress=False)
        except DataError as error:
            print(f"<{error.exit_code}> {error}", end="\\0")
        path.chmod(before)
"""


def test_unreadable_for_an_unprivileged_user() -> None:
    victims = (SCAN, MASK, "train.txt", "dataset/test")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folder is closed to other users
        home = Path(place)
        home.chmod(0o777)
        root = write_data_set(home / "data")
        if os.geteuid() == 0:
            for path in [root, *root.rglob("*")]:
                os.chown(path, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(UNPRIVILEGED), place, *victims],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert not done.returncode, done.stderr
    messages = done.stdout.split("\0")[:-1]
    for victim, message in zip(victims, messages, strict=True):
        assert message.startswith("<3> ")
        assert (victim if victim.endswith((".png", ".txt")) else "dataset/test cannot be read") in message
        assert "Permission denied" in message
        assert "Make it a" in message
