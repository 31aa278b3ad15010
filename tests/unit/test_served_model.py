"""What the served model reads, answers and refuses, without a server; and that nothing on the way is unpickled."""

import ast
import asyncio
import base64
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from factories import draw_case
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.models.utils import _enforce_schema
from random_model import write_random_model
from serving_cases import base64_of, hostile_requests, mask_of, picture, png_header, png_of_chunks, request_of

import sa2net
from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import (
    MODEL_JSON,
    folder_sha256,
    read_json,
    read_model_info,
    read_weights,
    write_json,
    write_model,
)
from sa2net.config import EvaluateConfig
from sa2net.data.pictures import PictureError, decode
from sa2net.data.sweep import sweep_mask
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.evaluation.drift import Described, collect, describe_picture
from sa2net.inference.predictor import Predictor
from sa2net.registry import packaging
from sa2net.serving.answers import Answering, recorded_sha256, registered_as
from sa2net.serving.front import Front
from sa2net.serving.limits import LARGEST_BODY, LARGEST_DISCARDED, LARGEST_PIXELS, REQUESTS_AT_ONCE, ROWS
from sa2net.serving.requests import COLUMNS, FORMS, RefusedError, ServedScan, read_body, read_row

SCAN = draw_case(3)[0]
GOOD = base64_of(picture(SCAN))
LIBRARY = Path(sa2net.__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "model"
    write_random_model(place, spacing_mm=(0.4, 0.4))
    return place


@pytest.fixture(scope="module")
def answering(folder: Path) -> Answering:
    return Answering.load(folder, folder.parent, packaging.settings())


class TestReading:
    @pytest.mark.parametrize(
        "body",
        [
            {"dataframe_records": [{"image": "a"}, {"image": "b", "spacing_x_mm": 0.4, "spacing_y_mm": 1}]},
            {"inputs": [{"image": "a"}, {"image": "b", "spacing_x_mm": 0.4, "spacing_y_mm": 1}]},
            {"instances": {"image": ["a", "b"], "spacing_x_mm": [None, 0.4], "spacing_y_mm": [None, 1]}},
            {
                "dataframe_split": {
                    "index": [0, 1],
                    "columns": ["spacing_y_mm", "image", "spacing_x_mm"],
                    "data": [[None, "a", None], [1, "b", 0.4]],
                }
            },
        ],
    )
    def test_the_forms_say_the_same(self, body: dict[str, Any]) -> None:
        assert read_body(json.dumps(body).encode()) == [ServedScan("a"), ServedScan("b", (0.4, 1.0))]

    def test_one_picture_without_a_list(self) -> None:
        assert read_body(b'{"inputs": {"image": "a"}}') == [ServedScan("a")]

    def test_rows_of_a_table_know_missing_spacings(self) -> None:
        table = pd.DataFrame({"image": ["a", "b"], "spacing_x_mm": [0.4, np.nan], "spacing_y_mm": [0.5, np.nan]})
        rows = [read_row(number, row) for number, row in enumerate(table.to_dict(orient="records"), start=1)]
        assert rows == [ServedScan("a", (0.4, 0.5)), ServedScan("b")]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from([*COLUMNS, "AAAA"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from([*FORMS, *COLUMNS, "columns", "data", "index", "x"]), inner, max_size=3
                )
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_any_json_is_read_or_refused(self, content: Any) -> None:
        for body in (content, *({form: content} for form in FORMS)):
            try:
                assert 1 <= len(read_body(json.dumps(body).encode())) <= ROWS
            except RefusedError as error:
                assert error.status == 400 and error.what and error.action
                assert str(error).isascii() or "character" in str(error)

    @given(st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        with pytest.raises(RefusedError):
            read_body(body)


class TestAnswering:
    def test_it_predicts_as_predict_does_unless_it_is_told_otherwise(self, folder: Path, answering: Answering) -> None:
        assert packaging.settings() == {
            "mode": "whole",
            "scales": [1.0],
            "flip": True,
            "device": "auto",
            "precision": "auto",
            "threads": 2,
        }
        mirrored, plain = Predictor.for_settings(folder, EvaluateConfig())(SCAN), Predictor.load(folder)(SCAN)
        assert not np.array_equal(mirrored, plain)
        np.testing.assert_array_equal(mask_of(answering.answer(1, ServedScan(GOOD))), mirrored)
        told = Answering.load(folder, folder.parent, {**packaging.settings(), "flip": False})
        np.testing.assert_array_equal(mask_of(told.answer(1, ServedScan(GOOD))), plain)

    @pytest.mark.parametrize("settings", [{"flip": "perhaps"}, {"scales": []}, {"speed": 1}])
    def test_settings_that_cannot_be_used_are_named(self, settings: dict[str, Any], folder: Path) -> None:
        with pytest.raises(ConfigError, match=rf"{next(iter(settings))}: .*MLFLOW_PYFUNC_INFERENCE_CONFIG"):
            Answering.load(folder, folder.parent, settings)

    def test_areas(self, answering: Answering) -> None:
        row = answering.answer(1, ServedScan(GOOD, (0.4, 0.5)))
        bare = answering.answer(1, ServedScan(GOOD))
        mask = mask_of(row)
        assert mask.shape == (row["height"], row["width"]) == SCAN.shape
        for item in FOREGROUND:
            pixels = int((mask == item.id).sum())
            assert row[f"{item.name}_px"] == pixels
            assert row[f"{item.name}_mm2"] == pytest.approx(pixels * 0.2)
            assert bare[f"{item.name}_mm2"] is None
        assert (row["scaled_by"], bare["scaled_by"]) == ("spacing", "sweep width")
        assert (row["version"], row["intended_use"]) == ("", "research only")

    def test_warnings_are_those_of_predict(self, folder: Path, tmp_path: Path) -> None:
        """Grey of train from 0 to 1, and a spacing ten times too large: both are said."""
        info = read_json(folder / MODEL_JSON)
        grey = {item.name: {"low": 0.0, "high": 1.0} for item in FOREGROUND}
        place = tmp_path / "model"
        place.mkdir()
        (place / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
        write_json(place / MODEL_JSON, {**info, "bounds": {**info["bounds"], "grey": grey}})
        row = Answering.load(place, tmp_path, {}).answer(1, ServedScan(GOOD, (2.0, 2.0)))
        found = [item for item in FOREGROUND if row[f"{item.name}_px"]]
        assert found
        for item in FOREGROUND:
            said = f"mean grey of {item.label}" if item in found else f"no {item.name} was found"
            assert sum(said in line for line in row["warnings"]) == 1
        assert any("check the pixel spacing" in line for line in row["warnings"])

    def test_a_scan_outside_of_the_reference_is_warned_of(self, folder: Path, tmp_path: Path) -> None:
        """24 reference scans: one of their kind gets no other answer than without them, a darker one a warning."""
        scans = [draw_case(seed)[0] for seed in range(24)]
        known = [Described("", "", describe_picture(scan, sweep_mask(scan))) for scan in scans]
        write_model(tmp_path / "model", read_model_info(folder), read_weights(folder), collect(known, {}))
        plain, served = (Answering.load(place, tmp_path, {"threads": 1}) for place in (folder, tmp_path / "model"))
        scan = draw_case(100)[0]
        darker = np.where(scan > 0, np.clip(scan * 0.4, 12, 255), 0).astype(np.uint8)
        for grey, more in ((scan, 0), (darker, 1)):
            before, now = (one.answer(1, ServedScan(base64_of(picture(grey))))["warnings"] for one in (plain, served))
            assert now[: len(before)] == before
            assert sum("mean grey inside the sweep is" in line for line in now) == more
            assert bool(now[len(before) :]) == bool(more)

    def test_a_reference_that_cannot_be_used_is_no_model(self, folder: Path, tmp_path: Path) -> None:
        write_model(tmp_path / "model", read_model_info(folder), read_weights(folder))
        write_json(tmp_path / "model" / "reference.json", {"schema_version": 9})
        with pytest.raises(DataError, match=r"reference\.json"):
            Answering.load(tmp_path / "model", tmp_path, {})

    def test_many_threads_get_the_answer_of_one(self, answering: Answering) -> None:
        scans = [ServedScan(base64_of(picture(draw_case(seed)[0]))) for seed in range(4)]
        alone = [answering.answer(1, scan) for scan in scans]
        assert len({row["mask"] for row in alone}) == 4
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda index: answering.answer(1, scans[index % 4]), range(32)))
        assert all(row == alone[index % 4] for index, row in enumerate(together))

    def test_a_spacing_that_would_fill_the_memory_is_refused(self, answering: Answering) -> None:
        scan = draw_case(1, 400, 1000)[0]
        answering.answer(1, ServedScan(base64_of(picture(scan)), (0.4, 0.4)))
        with pytest.raises(RefusedError, match=r"row 7 would be seen too large.*Check the pixel spacing"):
            answering.answer(
                7, ServedScan(base64_of(picture(scan)), (2.0, 2.0))
            )  # 1.6 million px seen at 25 times that

    def test_hostile_contents_are_refused(self, answering: Answering) -> None:
        """Those that the server does not refuse before it looks at the body; the others need one."""
        contents = [hostile for hostile in hostile_requests(SCAN) if hostile.status == 400]
        assert len(contents) > 50
        for hostile in contents:
            try:
                for number, scan in enumerate(read_body(hostile.body), start=1):
                    answering.answer(number, scan)
                pytest.fail(f"{hostile.name} was answered")
            except RefusedError as error:
                assert hostile.says in str(error), hostile.name
                assert (error.status, bool(error.action)) == (400, True), hostile.name

    def test_a_text_beyond_the_limit_is_not_decoded(self, answering: Answering) -> None:
        with pytest.raises(RefusedError, match=f"{LARGEST_BODY + 4} characters"):
            answering.answer(1, ServedScan("A" * (LARGEST_BODY + 4)))

    def test_the_answer_is_what_the_signature_says(self, answering: Answering) -> None:
        outputs = packaging.signature().outputs
        rows = [answering.answer(1, ServedScan(GOOD, spacing)) for spacing in (None, (0.4, 0.4))]
        assert list(rows[0]) == [column.name for column in outputs.inputs]
        for row in rows:
            kept = {name: value for name, value in row.items() if value is not None}
            _enforce_schema(pd.DataFrame([kept]), outputs)
        [scan] = [
            read_row(1, row)
            for row in _enforce_schema(packaging.example(), packaging.signature().inputs).to_dict(orient="records")
        ]
        assert scan.spacing_mm == (0.4, 0.4)
        assert decode(Path("image"), base64.b64decode(scan.image)).shape == (96, 48)


class TestIdentity:
    def test_the_version_is_known_where_mlflow_left_it(self, tmp_path: Path) -> None:
        assert registered_as(tmp_path) == ""
        (tmp_path / "registered_model_meta").write_text("model_name: sa2net\nmodel_version: '3'\n")
        assert registered_as(tmp_path) == "sa2net/3"
        (tmp_path / "registered_model_meta").write_text("model_name: null\nmodel_version: null\n")
        assert registered_as(tmp_path) == ""

    def test_a_changed_model_folder_is_not_served(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "MLmodel").write_text(yaml.safe_dump({"metadata": {"model_sha256": folder_sha256(folder)}}))
        assert Answering.load(folder, tmp_path, {}).model_sha256 == recorded_sha256(tmp_path)
        (tmp_path / "MLmodel").write_text(yaml.safe_dump({"metadata": {"model_sha256": "0" * 64}}))
        with pytest.raises(StorageError, match="not the one that was registered"):
            Answering.load(folder, tmp_path, {})

    @pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
    def test_a_pickle_in_place_of_a_file_is_refused(self, name: str, folder: Path, tmp_path: Path) -> None:
        place = tmp_path / "model"
        place.mkdir()
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        (place / name).write_bytes(malicious_pickle(tmp_path / "marker"))
        with pytest.raises(DataError):
            Predictor.load(place)
        assert not (tmp_path / "marker").exists()


def malicious_pickle(marker: Path) -> bytes:
    """A pickle that writes a file where it is unpickled."""
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    content = pickle.dumps(Payload())
    pickle.loads(content)
    assert marker.exists()  # it does what it should
    marker.unlink()
    return content


class TestFront:
    """The application in front, called as a server calls it."""

    def ask(
        self,
        answering: Answering,
        body: bytes,
        *,
        headers: dict[str, str] | None = None,
        seconds: float = 60,
        at_once: int = 0,
        leave: bool = False,
        parts: int = 1,
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        async def behind(*_: Any) -> None:
            raise AssertionError("only predictions are asked for here")

        front = Front(behind, answering, seconds=seconds)
        front.at_once = at_once
        sent: list[Any] = []
        size = -(-len(body) // parts) or 1
        chunks: Iterator[bytes] = iter([body[start : start + size] for start in range(0, len(body), size)] or [b""])

        async def receive() -> dict[str, Any]:
            part = next(chunks, None)
            if part is not None:
                return {"type": "http.request", "body": part, "more_body": True}
            if not read:
                read.append(True)
                return {"type": "http.request", "body": b"", "more_body": False}
            if not leave:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        read: list[bool] = []
        named = {"content-type": "application/json"} if headers is None else headers
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/invocations",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
        asyncio.run(front(scope, receive, send))
        assert front.at_once == at_once
        if not sent:
            return 0, {}, {}
        start, content = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], answered, json.loads(content["body"])

    def test_an_answer(self, answering: Answering) -> None:
        status, headers, content = self.ask(answering, request_of({"image": GOOD}), parts=7)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert content["predictions"] == [answering.answer(1, ServedScan(GOOD))]

    def test_a_large_body_is_read_and_thrown_away(self, answering: Answering) -> None:
        status, _, content = self.ask(answering, b" " * (LARGEST_BODY + 1), parts=100)
        assert (status, content["error_code"]) == (413, "REQUEST_TOO_LARGE")
        assert self.ask(answering, request_of({"image": GOOD}) + b" " * (LARGEST_BODY // 2), parts=100)[0] == 200

    def test_a_body_that_is_declared_far_too_large_is_not_read(self, answering: Answering) -> None:
        headers = {"content-type": "application/json", "content-length": str(LARGEST_DISCARDED + 1)}
        status, _, content = self.ask(answering, request_of({"image": GOOD}), headers=headers)
        assert (status, content["evidence"]) == (413, f"{LARGEST_DISCARDED + 1} bytes or more")

    def test_a_full_server_says_so(self, answering: Answering) -> None:
        status, headers, content = self.ask(answering, request_of({"image": GOOD}), at_once=REQUESTS_AT_ONCE)
        assert (status, headers["retry-after"], content["error_code"]) == (429, "5", "REQUEST_LIMIT_EXCEEDED")

    def test_a_request_that_takes_too_long_says_so(self, answering: Answering) -> None:
        status, headers, content = self.ask(answering, request_of({"image": GOOD}), seconds=0.001)
        assert (status, headers["retry-after"]) == (503, "5")
        assert content["message"] == "the server is busy: not answered within 0.001 s. Try again in a while."

    def test_nobody_is_answered_who_left(self, answering: Answering) -> None:
        assert self.ask(answering, request_of({"image": GOOD}), leave=True)[0] == 0

    def test_a_fault_of_ours_shows_nothing_of_the_inside(self, caplog: pytest.LogCaptureFixture) -> None:
        status, _, content = self.ask(None, request_of({"image": GOOD}))  # type: ignore[arg-type]
        assert (status, content["error_code"]) == (500, "INTERNAL_ERROR")
        assert "NoneType" not in json.dumps(content)
        assert "NoneType" in caplog.text


def test_a_second_header_does_not_slip_past_the_limit() -> None:
    """Pillow believes the last header of a file; only the first was judged."""
    pixels = np.zeros((32, 33), dtype=np.uint8).tobytes()
    image = (b"IDAT", zlib.compress(pixels))
    once = png_of_chunks(png_header(32, 32), image, (b"IEND", b""))
    assert decode(Path("image"), once, max_pixels=1024).shape == (32, 32)
    for second in (png_header(64, 64), png_header(32, 32, 8, 2), png_header(8, 8)):
        with pytest.raises(PictureError, match="more than one header"):
            decode(Path("image"), png_of_chunks(png_header(32, 32), second, image, (b"IEND", b"")), max_pixels=1024)


def test_a_large_scan_fits_and_a_larger_does_not() -> None:
    assert 4000 * 8000 <= LARGEST_PIXELS < 100_000_000


FORBIDDEN = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def unpickling(source: str) -> list[str]:
    """What a source text could unpickle with."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [item.name for item in node.names if item.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            harmless = {item.name for item in node.names} <= {
                "UnpicklingError"
            }  # what torch's restricted reader raises
            found += [str(node.module)] if str(node.module).split(".")[0] in FORBIDDEN and not harmless else []
            found += [f"torch.{item.name}" for item in node.names if node.module == "torch" and item.name == "load"]
        elif isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), {item.arg: ast.unparse(item.value) for item in node.keywords}
            if name in ("torch.load", "torch.hub.load") and words.get("weights_only") != "True":
                found.append(name)
            if name in ("np.load", "numpy.load") and words.get("allow_pickle", "False") != "False":
                found.append(name)
            if name.startswith("yaml.") and name.split(".")[1] in ("load", "unsafe_load", "full_load"):
                found.append(name)
    return found


def test_nothing_of_the_library_unpickles() -> None:
    found = {path.relative_to(LIBRARY): unpickling(path.read_text(encoding="utf-8")) for path in LIBRARY.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "import joblib.numpy_pickle",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.Loader)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert unpickling(source)
    assert not unpickling("import torch\ntorch.load(path, weights_only=True)")
