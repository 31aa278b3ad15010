"""A real model server for tests and benchmarks, and requests that mean no good, each with the answer it must get."""

import base64
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import psutil
from mlflow import MlflowClient
from PIL import Image
from servers import free_port

from sa2net.registry import store
from sa2net.registry.versions import Version, register_version

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class ModelServer:
    """A running `mlflow models serve`.

    Attributes:
        address: Where it answers.
        process: The process that was started.
        log: What it says.
    """

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def post(self, body: bytes, headers: dict[str, str] | None = None, *, seconds: float = 60) -> tuple[int, str]:
        """Send a body to /invocations; status and text of the answer."""
        request = Request(f"{self.address}/invocations", data=body, headers=JSON if headers is None else headers)
        try:
            with urlopen(request, timeout=seconds) as answer:
                return int(answer.status), answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        return [item for item in psutil.Process(self.process.pid).children(recursive=True) if "uvicorn" in item.name()]

    def megabytes(self) -> float:
        """Memory of the processes that answer."""
        return sum(item.memory_info().rss for item in self.workers()) / 1e6


@contextmanager
def model_server(model: str, folder: Path, *words: str, **environment: str) -> Iterator[ModelServer]:
    """`mlflow models serve` as a user starts it.

    Args:
        model: Folder or registry address.
        folder: Where its log goes.
        words: Further words of the command line.
        environment: Variables over those of this process.
    """
    address = f"http://127.0.0.1:{(port := free_port())}"
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [mlflow, "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port), *words]
    path = f"{mlflow.parent}:{os.environ['PATH']}"  # MLflow looks for uvicorn there
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=folder, start_new_session=True,
            env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"} | environment,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{address}/ping", timeout=1).close()
                break
            except (URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
        yield ModelServer(address, process, log)
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def register_champion(client: MlflowClient, model: Path, name: str) -> Version:
    """Make a model folder a version and the champion."""
    run = client.create_run(store.experiment_id(client))
    version = register_version(client, model, name=name, run_id=run.info.run_id, tags={})
    client.set_terminated(run.info.run_id)
    client.set_registered_model_alias(name, "champion", str(version.number))
    return version


def package_of(client: MlflowClient, version: Version) -> Path:
    """Where the files of a version lie in a store of this machine."""
    with store.as_default(client.tracking_uri):
        uri = client.get_model_version_download_uri(version.name, str(version.number))
    return Path(uri.removeprefix("file://"))


def picture(array: np.ndarray, form: str = "PNG") -> bytes:
    """A picture file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format=form)
    return stream.getvalue()


def base64_of(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode("ascii")


def mask_of(row: dict[str, object]) -> np.ndarray:
    """The mask of an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(str(row["mask"])))))


def request_of(*rows: dict[str, object]) -> bytes:
    """The body of a request."""
    return json.dumps({"dataframe_records": list(rows)}).encode()


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks, each with its right checksum."""
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_header(width: int, height: int, depth: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    """The first chunk of a PNG file."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


@dataclass(frozen=True)
class Hostile:
    """A request that must be refused.

    Attributes:
        name: What it is.
        body: Its body.
        says: Part of the answer.
        status: Of the answer.
        headers: Sent with it.
    """

    name: str
    body: bytes
    says: str
    status: int = 400
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


def hostile_requests(scan: np.ndarray) -> list[Hostile]:
    """One of each kind.

    Args:
        scan: A scan that can be predicted. # (H, W)
    """
    png = picture(scan)
    good = base64_of(png)
    return [*_hostile_bodies(good), *_hostile_rows(good), *_hostile_pictures(scan, png)]


def _hostile_bodies(good: str) -> list[Hostile]:
    whole = request_of({"image": good})
    return [
        Hostile("10 MB of JSON", b'{"dataframe_records": [{"image": "' + b"A" * 10_000_000 + b'"}]}', "too large", 413),
        Hostile("10 MB of junk", b"x" * 10_000_000, "too large", 413),
        Hostile("empty", b"", "it is empty"),
        Hostile("not JSON", b"{", "read as JSON"),
        Hostile("cut JSON", whole[: len(whole) // 2], "read as JSON"),
        Hostile("nested lists", b"[" * 100_000, "nested too deeply"),
        Hostile("nested objects", b'{"a":' * 100_000, "nested too deeply"),
        Hostile("a million objects", b'{"dataframe_records": [' + b"{}," * 1_000_000 + b"{}]}", "too many or no rows"),
        Hostile("number of 5000 digits", b"1" * 5000, "too many digits"),
        Hostile("UTF-16", whole.decode().encode("utf-16"), "not UTF-8"),
        Hostile("half a character", b'{"\\ud800": 1}', "exactly one key"),
        Hostile("NaN", b'{"inputs": [{"image": "x", "spacing_x_mm": NaN}]}', "NaN is not JSON"),
        Hostile("no object", b"[1]", "no JSON object"),
        Hostile("no known key", b'{"data": []}', "exactly one key"),
        Hostile("two keys", b'{"inputs": [], "instances": []}', "exactly one key"),
        Hostile("no rows", b'{"inputs": []}', "too many or no rows"),
        Hostile("nine rows", request_of(*[{"image": good[:8]}] * 9), "too many or no rows"),
        Hostile("rows are text", b'{"inputs": "x"}', "is no list"),
        Hostile("row is text", b'{"inputs": ["x"]}', "is no object"),
        Hostile("columns of two lengths", b'{"inputs": {"image": ["a", "b"], "spacing_x_mm": [1]}}', "do not make rows"),
        Hostile("split without data", b'{"dataframe_split": {"columns": ["image"]}}', "columns and data"),
        Hostile("split with too many values", b'{"dataframe_split": {"columns": ["image"], "data": [["a", 1]]}}', "not 1 values"),
        Hostile("no content type", whole, "no content type", 415, {"Content-Type": ""}),
        Hostile("CSV", b"image\nx\n", "another type", 415, {"Content-Type": "text/csv"}),
        Hostile("Parquet", b"PAR1", "another type", 415, {"Content-Type": "application/vnd.apache.parquet"}),
        Hostile("compressed", zlib.compress(whole), "another type or encoding", 415, {**JSON, "Content-Encoding": "deflate"}),
        Hostile("Latin-1", whole, "another type", 415, {"Content-Type": "application/json; charset=latin-1"}),
    ]  # fmt: skip


def _hostile_rows(good: str) -> list[Hostile]:
    def spacing(x: object, y: object) -> bytes:
        return request_of({"image": good, "spacing_x_mm": x, "spacing_y_mm": y})

    wrong = "cannot be right"
    return [
        Hostile("unknown column", request_of({"image": good, "patient": "x" * 100}), "unknown column"),
        Hostile("no image", request_of({"spacing_x_mm": 0.4}), "has no `image`"),
        Hostile("empty image", request_of({"image": ""}), "has no `image`"),
        Hostile("image is a number", request_of({"image": 5}), "has no `image`"),
        Hostile("image is a list", request_of({"image": [good]}), "has no `image`"),
        Hostile("negative spacing", spacing(-0.4, 0.4), wrong),
        Hostile("no spacing at all", spacing(0, 0), wrong),
        Hostile("endless spacing", b'{"inputs": [{"image": "x", "spacing_x_mm": 1e999, "spacing_y_mm": 1}]}', wrong),
        Hostile("spacing of 4000 digits", b'{"inputs": [{"image": "x", "spacing_x_mm": ' + b"9" * 4000 + b"}]}", wrong),
        Hostile("spacing is text", spacing("0.4", 0.4), wrong),
        Hostile("spacing is true", spacing(True, True), wrong),
        Hostile("spacing is a list", spacing([0.4], {}), wrong),
        Hostile("one spacing", request_of({"image": good, "spacing_x_mm": 0.4}), wrong),
    ]


def _hostile_pictures(scan: np.ndarray, png: bytes) -> list[Hostile]:
    """A picture each that is no scan."""
    end, dots = (b"IEND", b""), zlib.compress(b"\0" * 33 * 32)
    hundred = picture(np.zeros((10_000, 10_000), dtype=np.uint8))
    files = {
        "100 megapixels": (hundred, "10000 x 10000 px"),
        "100 megapixels in a second header": (
            png_of_chunks(png_header(32, 32), png_header(10_000, 10_000), (b"IDAT", zlib.compress(bytes(10_001 * 10_000))), end),
            "more than one header",
        ),
        "4 gigapixels, declared": (png_of_chunks(png_header(65_535, 65_535), (b"IDAT", dots), end), "65535 x 65535 px"),
        "text that unpacks to 50 MB": (
            png_of_chunks(png_header(32, 32), (b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))), (b"IDAT", dots), end),
            "damaged PNG",
        ),
        "truncated": (png[: len(png) // 2], "damaged PNG"),
        "one byte changed": (png[:-30] + bytes([png[-30] ^ 1]) + png[-29:], "damaged PNG"),
        "no pixels": (png_of_chunks(png_header(32, 32), end), "damaged PNG"),
        "JPEG": (picture(scan, "JPEG"), "not a PNG"),
        "GIF": (picture(scan, "GIF"), "not a PNG"),
        "TIFF": (picture(scan, "TIFF"), "not a PNG"),
        "PDF": (b"%PDF-1.7\n%%EOF", "not a PNG"),
        "ZIP": (b"PK\x03\x04" + bytes(30), "not a PNG"),
        "pickle": (b"\x80\x04N.", "not a PNG"),
        "RGB": (picture(np.stack([scan] * 3, axis=-1)), "8-bit RGB"),
        "16-bit": (picture(scan.astype(np.uint16) * 256), "16-bit grey"),
        "palette": (png_of_chunks(png_header(32, 32, 8, 3), (b"PLTE", bytes(3)), (b"IDAT", dots), end), "8-bit palette"),
        "8 px": (picture(scan[:8, :8]), "8 x 8 px"),
        "black": (picture(np.zeros_like(scan)), "no sweep"),
    }  # fmt: skip
    hostile = [
        Hostile(name, request_of({"image": base64_of(content)}), says) for name, (content, says) in files.items()
    ]
    texts = {
        "not base64": "no base64!",
        "data address": "data:image/png;base64," + base64_of(png),
        "Greek": "\u03b1" * 40,
    }
    return hostile + [Hostile(name, request_of({"image": text}), "not base64") for name, text in texts.items()]
