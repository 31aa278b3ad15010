"""Scans as DICOM files: what is read, what is refused, and that no message tells of whom they are."""

import io
import logging
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_cases import (
    BYTE_CAPTURE,
    PRIVATE,
    PRIVATE_CREATOR,
    SECONDARY_CAPTURE,
    SECRETS,
    ULTRASOUND,
    ULTRASOUND_FRAMES,
    make_dicom,
    region,
    with_secrets,
    write_dicom,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from sa2net.data.dicom import is_dicom, read_dicom
from sa2net.data.pictures import write_png
from sa2net.data.reading import read_named_scan
from sa2net.errors import ConfigError, DataError

GREY = np.random.default_rng(5).integers(0, 256, (24, 18)).astype(np.uint8)
SMOOTH = np.add.outer(np.arange(32) * 4, np.arange(24) * 3).astype(np.uint8)


def encoded(made: Dataset, frame: bytes, syntax: str) -> Dataset:
    """The data set with its pixels replaced by a compressed frame."""
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = syntax
    return made


def pillow(pixels: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        read_dicom(path, **options)
    return str(raised.value)


@pytest.mark.parametrize("kind", [SECONDARY_CAPTURE, ULTRASOUND])
def test_grey_of_8_bits_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    found = read_dicom(write_dicom(tmp_path / "a.dcm", GREY, kind=kind))
    assert np.array_equal(found.grey, GREY)
    assert (found.spacing_mm, found.square, found.notes) == (None, True, ())


@pytest.mark.parametrize("kind", [BYTE_CAPTURE, ULTRASOUND_FRAMES])
def test_one_frame_of_a_multi_frame_kind_is_read(tmp_path: Path, kind: str) -> None:
    found = read_dicom(write_dicom(tmp_path / "a.dcm", GREY, kind=kind, NumberOfFrames=1))
    assert np.array_equal(found.grey, GREY)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_dicom(path).grey, 255 - GREY)


def test_a_window_is_applied(tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2.1, centre 100, width 51: 75 and below are black, 125 and above white, 100 is half."""
    pixels = np.array([[0, 75, 100, 125, 4000]], dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=12, WindowCenter=100.5, WindowWidth=51)
    assert read_dicom(path).grey.tolist() == [[0, 0, 128, 255, 255]]


def test_the_first_of_several_windows_is_taken(tmp_path: Path) -> None:
    pixels = np.array([[0, 100, 200]], dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, WindowCenter=[100.5, 5], WindowWidth=[201, 2])
    assert read_dicom(path).grey.tolist() == [[0, 128, 255]]


def test_rescaling_comes_before_the_window(tmp_path: Path) -> None:
    pixels = np.array([[0, 10, 20]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, RescaleSlope=5, RescaleIntercept=-50, WindowCenter=0.5, WindowWidth=101
    )
    assert read_dicom(path).grey.tolist() == [[0, 128, 255]]


def test_without_a_window_the_stored_bits_are_the_range(tmp_path: Path) -> None:
    pixels = np.array([[0, 2048, 4095]], dtype=np.uint16)
    assert read_dicom(write_dicom(tmp_path / "a.dcm", pixels, bits=12)).grey.tolist() == [[0, 128, 255]]
    signed = np.array([[-32768, 0, 32767]], dtype=np.int16)
    assert read_dicom(write_dicom(tmp_path / "b.dcm", signed)).grey.tolist() == [[0, 128, 255]]


def test_a_dark_picture_without_a_window_is_told(tmp_path: Path) -> None:
    pixels = np.array([[0, 4095]], dtype=np.uint16)
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels))
    assert found.grey.tolist() == [[0, 16]]
    assert "gives no window" in found.notes[0]


def test_a_voi_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], [0, 10, 200, 255]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2, 3]], np.uint8), VOILUTSequence=[table])
    assert read_dicom(path).grey.tolist() == [[0, 10, 200, 255]]


def test_rgb_with_equal_channels_is_grey(tmp_path: Path) -> None:
    assert np.array_equal(read_dicom(write_dicom(tmp_path / "a.dcm", np.stack([GREY] * 3, axis=2))).grey, GREY)


def test_a_colour_picture_is_refused_with_what_is_coloured(tmp_path: Path) -> None:
    pixels = np.stack([GREY] * 3, axis=2)
    pixels[0, 0] = (250, 10, 10)
    said = reason(write_dicom(tmp_path / "a.dcm", pixels))
    assert "colour picture: 0.23 % of the pixels are coloured, channels differ by up to 240" in said


def test_each_order_of_bytes_and_channels_is_read(tmp_path: Path) -> None:
    implicit = make_dicom(GREY)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    values = GREY.astype(np.uint16) * 257
    big = make_dicom(values, PixelData=values.astype(">u2").tobytes())
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    planes = make_dicom(np.stack([GREY] * 3, axis=2), PlanarConfiguration=1, PixelData=GREY.tobytes() * 3)
    for name, made in {"implicit": implicit, "big": big, "planes": planes}.items():
        assert np.array_equal(read_dicom(write_dicom(tmp_path / f"{name}.dcm", made)).grey, GREY), name


def test_lossless_compression_gives_the_very_pixels(tmp_path: Path) -> None:
    import jpeg_ls

    rle = make_dicom(GREY)
    rle.compress(RLELossless)
    colour = np.stack([GREY] * 3, axis=2)
    reversible = {"irreversible": False, "no_jp2": True}
    mixed = encoded(make_dicom(colour), pillow(colour, "JPEG2000", mct=1, **reversible), JPEG2000Lossless)
    mixed.PhotometricInterpretation = "YBR_RCT"
    coded = {
        "j2k of three channels": mixed,
        "rle": rle,
        "ls": encoded(make_dicom(GREY), bytes(jpeg_ls.encode(GREY)), JPEGLSLossless),
        "j2k": encoded(make_dicom(GREY), pillow(GREY, "JPEG2000", **reversible), JPEG2000Lossless),
    }
    for name, made in coded.items():
        assert np.array_equal(read_dicom(write_dicom(tmp_path / f"{name}.dcm", made)).grey, GREY), name


@pytest.mark.parametrize("colour", [False, True])
def test_lossy_compression_of_grey_stays_close(tmp_path: Path, colour: bool) -> None:
    pixels = np.stack([SMOOTH] * 3, axis=2) if colour else SMOOTH
    made = encoded(make_dicom(pixels), pillow(pixels, "JPEG", quality=95), JPEGBaseline8Bit)
    if colour:
        made.PhotometricInterpretation = "YBR_FULL_422"
    found = read_dicom(write_dicom(tmp_path / "a.dcm", made)).grey
    assert np.abs(found.astype(int) - SMOOTH).max() <= 4


def test_a_missing_decoder_is_named(tmp_path: Path) -> None:
    for syntax, words in (
        (JPEGLosslessSV1, ("JPEG Lossless", "pylibjpeg")),
        (MPEG2MPML, ("no decoder exists", "MPEG2")),
    ):
        said = reason(write_dicom(tmp_path / "a.dcm", encoded(make_dicom(GREY), b"\xff\xd8" + bytes(30), syntax)))
        assert all(word in said for word in words), said


def test_pixels_of_another_size_than_the_header_says_are_refused_before_decoding(tmp_path: Path) -> None:
    import jpeg_ls

    frame = bytearray(jpeg_ls.encode(GREY).tobytes())
    place = frame.index(b"\xff\xf7")
    assert struct.unpack(">HH", frame[place + 5 : place + 9]) == GREY.shape
    frame[place + 5 : place + 9] = b"\xff\xff\xff\xff"  # 4 billion pixels
    made = encoded(make_dicom(GREY), bytes(frame), JPEGLSLossless)
    assert "of another size than the header says" in reason(write_dicom(tmp_path / "a.dcm", made))
    other = encoded(make_dicom(GREY), pillow(SMOOTH, "JPEG"), JPEGBaseline8Bit)
    assert "cannot be used" in reason(write_dicom(tmp_path / "b.dcm", other))


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"PixelSpacing": [0.25, 0.2]}, (0.2, 0.25)),  # row spacing first
        ({"SequenceOfUltrasoundRegions": [region(0.018, 0.02)]}, (0.18, 0.2)),  # cm
        ({"SequenceOfUltrasoundRegions": [region(-0.018, 0.02)]}, (0.18, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.018, 0.02), region(0.018, 0.02)]}, (0.18, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.018, 0.02), region(1, 1, units=4)]}, (0.18, 0.2)),  # seconds
        ({"NominalScannedPixelSpacing": [0.3, 0.1]}, (0.1, 0.3)),
        ({"ImagerPixelSpacing": [0.3, 0.1]}, (0.1, 0.3)),
        ({"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.2)),
        ({"PixelSpacing": [0.0, 0.2], "ImagerPixelSpacing": [0.3, 0.3]}, (0.3, 0.3)),
    ],
)
def test_pixel_size_in_mm(tmp_path: Path, elements: dict[str, Any], spacing: tuple[float, float]) -> None:
    assert read_dicom(write_dicom(tmp_path / "a.dcm", GREY, **elements)).spacing_mm == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"SequenceOfUltrasoundRegions": [region(0.018, 0.02), region(0.03, 0.02)]}, "different pixel sizes"),
        ({"SequenceOfUltrasoundRegions": [region(18.0, 20.0)]}, "no plausible pixel size"),  # taken for cm
        ({"PixelSpacing": [0.2]}, "no plausible pixel size"),
        ({"PixelSpacing": "0.2"}, "no plausible pixel size"),
        ({"PixelSpacing": [0.0, 0.0]}, "no plausible pixel size"),
    ],
)
def test_a_pixel_size_that_cannot_be_relied_on_is_not_taken_and_told(
    tmp_path: Path, elements: dict[str, Any], words: str
) -> None:
    found = read_dicom(write_dicom(tmp_path / "a.dcm", GREY, **elements))
    assert found.spacing_mm is None
    assert words in found.notes[0]


def test_two_places_that_disagree_are_told(tmp_path: Path) -> None:
    elements = {"PixelSpacing": [0.2, 0.2], "SequenceOfUltrasoundRegions": [region(0.02, 0.0201)]}
    assert read_dicom(write_dicom(tmp_path / "a.dcm", GREY, **elements)).notes == ()  # they round
    elements["SequenceOfUltrasoundRegions"] = [region(0.02, 0.03)]
    found = read_dicom(write_dicom(tmp_path / "b.dcm", GREY, **elements))
    assert found.spacing_mm == (0.2, 0.2)
    assert found.notes == (
        "SequenceOfUltrasoundRegions of the file gives another pixel size, 0.2 x 0.3 mm, than PixelSpacing, which is used",
    )


def test_pixels_that_are_not_square_need_a_size(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, PixelAspectRatio=[4, 3])
    with pytest.raises(DataError, match="not square"):
        read_named_scan(path)
    assert read_named_scan(path, (0.15, 0.2)).spacing_mm == (0.15, 0.2)
    assert read_named_scan(write_dicom(tmp_path / "b.dcm", GREY, PixelAspectRatio=[1, 1])).spacing_mm is None


def test_the_given_pixel_size_wins_and_a_difference_is_told(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, PixelSpacing=[0.25, 0.2])
    assert read_named_scan(path).spacing_mm == (0.2, 0.25)
    assert read_named_scan(path).from_header
    same = read_named_scan(path, (0.2, 0.25))
    assert (same.from_header, same.notes) == (False, ())
    other = read_named_scan(path, (0.3, 0.3))
    assert other.spacing_mm == (0.3, 0.3)
    assert other.notes == (
        "the pixel spacing that was given is used, 0.3 x 0.3 mm; the header of the file says 0.2 x 0.25 mm",
    )


def test_the_kind_of_a_file_is_told_by_its_suffix_or_its_first_bytes(tmp_path: Path) -> None:
    named = write_dicom(tmp_path / "scan", GREY)
    png = tmp_path / "scan.png"
    write_png(png, GREY)
    for path, expected in (
        (tmp_path / "a.DCM", True),
        (named, True),
        (write_dicom(tmp_path / "1.2.840.5", GREY), True),
        (png, False),
        (tmp_path / "none", False),
        (tmp_path, False),
    ):
        assert is_dicom(path) is expected, path
    assert np.array_equal(read_named_scan(named).grey, read_named_scan(png).grey)
    assert read_named_scan(png).dicom is None


def faulty(change: str) -> Dataset:
    """A data set that cannot be used, by what is wrong with it."""
    frames = make_dicom(GREY, kind=ULTRASOUND_FRAMES, NumberOfFrames=3)
    frames.PixelData = GREY.tobytes() * 3
    return {
        "frames": frames,
        "no pixels": make_dicom(GREY, PixelData=None),
        "ct": make_dicom(GREY, SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
        "unknown kind": make_dicom(GREY, SOPClassUID="1.2.826.0.1.3680043.8.498.77"),
        "short": make_dicom(GREY, Rows=999),
        "no rows": make_dicom(GREY, Rows=0),
        "palette": make_dicom(GREY, PhotometricInterpretation="PALETTE COLOR"),
        "four samples": make_dicom(GREY, SamplesPerPixel=4),
        "bits": make_dicom(GREY, BitsStored=9),
        "slope": make_dicom(GREY, RescaleSlope=-1, RescaleIntercept=0),
        "window": make_dicom(GREY, WindowWidth=0.5, WindowCenter=1),
    }[change]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("frames", "it holds 3 frames"),
        ("no pixels", "it holds no pixels"),
        ("ct", "of the kind CT Image Storage"),
        ("unknown kind", "does not say a known kind"),
        ("short", "truncated: 432 bytes of pixels, 17982 are needed"),
        ("no rows", "18 x 0 px, allowed are 1 to"),
        ("palette", "PALETTE COLOR, 1 samples a pixel, 8 of 8 bits"),
        ("four samples", "4 samples a pixel"),
        ("bits", "9 of 8 bits"),
        ("slope", "rescale slope is not positive"),
        ("window", "damaged or truncated DICOM (ValueError)"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_not_of_whom_it_is(tmp_path: Path, change: str, words: str) -> None:
    made = faulty(change)
    kind, pixels = made.SOPClassUID, made.get("PixelData")
    with_secrets(made)
    path = write_dicom(tmp_path / "a.dcm", made)
    said = reason(path)
    assert words in said
    assert not [secret for secret in (*SECRETS.values(), PRIVATE, kind) if secret in said]
    assert pixels is None or len(pixels) < 2000


def test_without_the_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY)
    for name in ("pydicom", "pydicom.config"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'sa2net\[dicom\]'"):
        read_dicom(path)


def test_what_is_no_dicom_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "text.dcm").write_text("no picture" * 30)
    write_png(tmp_path / "picture.dcm", GREY)
    assert "zero bytes" in reason(tmp_path / "empty.dcm")
    for name in ("text.dcm", "picture.dcm"):
        assert "not a DICOM file" in reason(tmp_path / name)
    assert "no such file" in reason(tmp_path / "none.dcm")


def test_sizes_are_judged_before_anything_is_decoded(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY)
    assert read_dicom(path, max_pixels=GREY.size).grey.shape == GREY.shape
    assert "18 x 24 px" in reason(path, max_pixels=GREY.size - 1)
    bomb = encoded(make_dicom(GREY), bytes(300_000), RLELossless)
    assert "bytes of compressed pixels for 432 bytes" in reason(write_dicom(tmp_path / "b.dcm", bomb))


def test_a_deflated_file_is_not_inflated(tmp_path: Path) -> None:
    made = make_dicom(GREY)
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    assert "deflated" in reason(write_dicom(tmp_path / "a.dcm", made))


def test_libraries_log_and_warn_nothing_of_a_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    made = with_secrets(make_dicom(GREY, kind=ULTRASOUND))
    with disable_value_validation():  # pydicom warns of both when they are read
        made.StudyInstanceUID = "unmistakable"
        made.SpecificCharacterSet = "unmistakable charset"
    path = write_dicom(tmp_path / "a.dcm", made)
    recwarn.clear()
    caplog.clear()
    logging.getLogger("pydicom").setLevel(logging.DEBUG)
    try:
        found = read_dicom(path)
        assert logging.getLogger("pydicom").level == logging.DEBUG
    finally:
        logging.getLogger("pydicom").setLevel(logging.NOTSET)
    assert not caplog.records
    assert not recwarn.list
    assert not [secret for secret in (*SECRETS.values(), PRIVATE) if secret in repr(found)]


def test_what_a_library_says_of_a_bad_value_is_not_passed_on(tmp_path: Path) -> None:
    """A number that is none: Python's own message quotes it."""
    path = write_dicom(tmp_path / "a.dcm", GREY, NumberOfFrames="12345678")
    path.write_bytes(path.read_bytes().replace(b"12345678", b"axolotl!"))
    with pytest.raises(DataError) as raised:
        read_dicom(path)
    assert "damaged or truncated DICOM (ValueError)" in str(raised.value)
    assert "axolotl" not in "".join(traceback.format_exception(raised.value))


def test_private_elements_and_free_text_are_not_even_kept(tmp_path: Path) -> None:
    found = read_dicom(write_dicom(tmp_path / "a.dcm", with_secrets(make_dicom(GREY, kind=ULTRASOUND))))
    kept = str(found.header)
    for absent in (PRIVATE, PRIVATE_CREATOR, SECRETS["PatientComments"], SECRETS["StudyDescription"]):
        assert absent not in kept
    assert str(found.header.PatientName) == SECRETS["PatientName"]


@pytest.mark.parametrize("name", ["quackenbush spine.dcm", f"{SECRETS['SOPInstanceUID']}.dcm", "PID-7z93k1.dcm"])
def test_a_file_name_that_tells_of_whom_it_is_is_told(tmp_path: Path, name: str) -> None:
    made = with_secrets(make_dicom(GREY, kind=ULTRASOUND))
    (note,) = read_dicom(write_dicom(tmp_path / name, made)).notes
    assert "name of the file holds" in note
    assert not [secret for secret in SECRETS.values() if secret in note]
    assert read_dicom(write_dicom(tmp_path / "scan_07.dcm", made)).notes == ()


def content(compressed: bool) -> bytes:
    made = with_secrets(make_dicom(GREY, kind=ULTRASOUND, PixelSpacing=[0.2, 0.2]))
    if compressed:
        made.compress(RLELossless)
    stream = io.BytesIO()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


WHOLE = (content(False), content(True))


def judged(folder: Path, data: bytes) -> None:
    """Read a file that may be anything: a scan or a DataError that quotes nothing."""
    path = folder / "a.dcm"
    path.write_bytes(data)
    try:
        found = read_dicom(path, max_pixels=100_000)
        assert found.grey.dtype == np.uint8
        said = " ".join(found.notes)
    except DataError as error:
        said = str(error)
    assert not [secret for secret in (*SECRETS.values(), PRIVATE) if secret in said]


@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=600))
def test_any_bytes_behind_a_preamble_are_a_scan_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    judged(tmp_path_factory.mktemp("any"), bytes(128) + b"DICM" + data)
    judged(tmp_path_factory.mktemp("any"), data)


@settings(deadline=None, max_examples=120)
@given(which=st.sampled_from(WHOLE), end=st.integers(0, 3000))
def test_a_file_cut_anywhere_is_a_scan_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, which: bytes, end: int
) -> None:
    judged(tmp_path_factory.mktemp("cut"), which[:end])


@settings(deadline=None, max_examples=200)
@given(
    which=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_file_with_spoilt_bytes_is_a_scan_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, which: bytes, changes: list[tuple[int, int]]
) -> None:
    spoilt = bytearray(which)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    judged(tmp_path_factory.mktemp("spoilt"), bytes(spoilt))
