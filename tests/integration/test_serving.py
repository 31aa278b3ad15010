"""The champion behind `mlflow models serve`: the mask of `sa2net predict`, refusals, many clients, changed artifacts."""

import json
import pickle
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from factories import draw_case
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.utils import _enforce_schema
from PIL import Image
from registry_cases import write_model_folder
from serving_cases import (
    ModelServer,
    base64_of,
    hostile_requests,
    mask_of,
    model_server,
    package_of,
    picture,
    register_champion,
    request_of,
)

from sa2net.__main__ import main
from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import folder_sha256, read_json
from sa2net.data.pictures import write_png
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.inference.predictor import Predictor
from sa2net.registry import store
from sa2net.registry.versions import Version, resolve
from sa2net.serving.__main__ import main as write_package
from sa2net.serving.answers import recorded_sha256, registered_as

NAME = "served"
CHAMPION = f"models:/{NAME}@champion"
SCANS = [draw_case(seed, 96 + seed, 256)[0] for seed in range(3)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        patch.setenv("OMP_NUM_THREADS", "2")
        yield folder


@pytest.fixture(scope="module")
def client(place: Path) -> MlflowClient:
    return store.connect()


@pytest.fixture(scope="module")
def champion(place: Path, client: MlflowClient) -> Version:
    return register_champion(client, write_model_folder(place / "network"), NAME)


@pytest.fixture(scope="module")
def server(place: Path, client: MlflowClient, champion: Version) -> Iterator[ModelServer]:
    with model_server(CHAMPION, place / "server", MLFLOW_TRACKING_URI=client.tracking_uri) as running:
        yield running


def ask(server: ModelServer, *rows: dict[str, object]) -> list[dict[str, Any]]:
    status, text = server.post(request_of(*rows))
    assert status == 200, text
    predictions: list[dict[str, Any]] = json.loads(text)["predictions"]
    return predictions


@pytest.mark.parametrize("spacing", [None, (0.4, 0.5)])
def test_the_answer_is_that_of_predict_to_the_pixel(
    spacing: tuple[float, float] | None, server: ModelServer, champion: Version, tmp_path: Path, monkeypatch: Any
) -> None:
    for index, scan in enumerate(SCANS):
        write_png(tmp_path / "scans" / f"{index}.png", scan)
    monkeypatch.chdir(tmp_path)  # no params.yaml of the project
    words = ["--spacing", *map(str, spacing)] if spacing else []
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--quiet", "scans", "--model", CHAMPION, "--out", "out", *words])
    known = {"spacing_x_mm": spacing[0], "spacing_y_mm": spacing[1]} if spacing else {}
    rows = [{"image": base64_of((tmp_path / "scans" / f"{index}.png").read_bytes()), **known} for index in range(3)]
    answers = ask(server, *rows)
    assert len(answers) == 3
    for index, row in enumerate(answers):
        np.testing.assert_array_equal(mask_of(row), np.asarray(Image.open(tmp_path / "out" / f"{index}_bone_3.png")))
        said = read_json(tmp_path / "out" / f"{index}.json")
        for item in FOREGROUND:
            assert row[f"{item.name}_px"] == said["classes"][item.name]["pixels"]
            assert row[f"{item.name}_mm2"] == said["classes"][item.name].get("area_mm2")
        for key in ("width", "height", "scaled_by", "warnings", "intended_use"):
            assert row[key] == said[key]
        assert row["model_sha256"] == said["model"]["sha256"] == champion.model_sha256
        assert row["version"] == f"{NAME}/1"


def test_the_example_goes_in_and_what_the_signature_says_comes_out(
    server: ModelServer, client: MlflowClient, champion: Version
) -> None:
    package = package_of(client, champion)
    status, text = server.post((package / "serving_input_example.json").read_bytes())
    assert status == 200, text
    outputs = Model.load(str(package)).signature.outputs
    [row] = json.loads(text)["predictions"]
    assert list(row) == [column.name for column in outputs.inputs]
    _enforce_schema(pd.DataFrame([row]), outputs)


def test_hostile_requests_get_4xx_and_the_server_lives(server: ModelServer) -> None:
    hostile = hostile_requests(SCANS[0])
    good = {"image": base64_of(picture(SCANS[0]))}
    [before] = ask(server, good)
    processes, memory = [item.pid for item in server.workers()], server.megabytes()
    assert len(processes) == 1
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda item: server.post(item.body, item.headers), hostile))
    for item, (status, text) in zip(hostile, answers, strict=True):
        assert status == item.status, (item.name, status, text[:300])
        answer = json.loads(text)
        assert item.says in answer["message"], item.name
        assert answer["what"] and answer["action"] and answer["error_code"], item.name
        assert len(text) < 1500 and "Traceback" not in text and "site-packages" not in text, item.name
    assert len(hostile) >= 60
    assert ask(server, good) == [before]
    assert [item.pid for item in server.workers()] == processes
    assert server.megabytes() < memory + 400  # one picture of the hundred megapixels alone would take that and more
    assert "Traceback" not in server.log.read_text()


def test_a_body_without_a_length_is_counted(server: ModelServer) -> None:
    target = urlsplit(server.address)
    with socket.create_connection((target.hostname, target.port), timeout=30) as line:
        line.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(9):
            line.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        line.sendall(b"0\r\n\r\n")
        assert b"413" in line.recv(1000)


def test_clients_that_leave_take_no_place(server: ModelServer) -> None:
    target = urlsplit(server.address)
    body = request_of(*[{"image": base64_of(picture(SCANS[0]))}] * 8)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(120):  # more than the requests that are taken at once
        with socket.create_connection((target.hostname, target.port), timeout=30) as line:
            line.sendall(head.encode() + body)
    deadline = time.monotonic() + 10
    while (status := server.post(request_of({"image": base64_of(picture(SCANS[0]))}))[0]) == 429:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status == 200


def test_many_clients_get_their_own_answer(server: ModelServer) -> None:
    bodies = [request_of({"image": base64_of(picture(scan))}) for scan in SCANS]
    alone = [server.post(body) for body in bodies]
    assert len({json.loads(text)["predictions"][0]["mask"] for _, text in alone}) == len(SCANS)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda index: server.post(bodies[index % len(SCANS)]), range(48)))
    assert Counter(status for status, _ in answers) == {200: 48}
    assert all(answer == alone[index % len(SCANS)] for index, answer in enumerate(answers))


def test_only_mlflows_own_pages_are_there(server: ModelServer) -> None:
    status, _ = server.post(b"{}", {"Content-Type": "application/json"})
    assert status == 400
    for path, expected in (("ping", b"200"), ("health", b"200"), ("docs", b"404"), ("openapi.json", b"404")):
        target = urlsplit(server.address)
        with socket.create_connection((target.hostname, target.port), timeout=30) as line:
            line.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert line.recv(12).endswith(expected), path


def test_a_program_that_loads_the_version_gets_the_same(
    client: MlflowClient, champion: Version, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.as_default(client.tracking_uri):
        model = mlflow.pyfunc.load_model(CHAMPION)
    text = base64_of(picture(SCANS[1]))
    [row] = model.predict(pd.DataFrame({"image": [text]})).to_dict("records")
    [served] = ask(server, {"image": text})
    assert (row["mask"], row["version"], row["warnings"]) == (served["mask"], f"{NAME}/1", served["warnings"])
    with pytest.raises(MlflowException, match="row 1: `image` cannot be used: it is not base64") as refused:
        model.predict(pd.DataFrame({"image": ["no base64!"]}))
    assert refused.value.get_http_status_code() == 400
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"flip": false}')
    with store.as_default(client.tracking_uri):
        told = mlflow.pyfunc.load_model(CHAMPION).unwrap_python_model().answering.predictor
    assert (told.flip, told.mode) == (False, "whole")
    import fastapi

    assert fastapi.FastAPI.__module__ == "fastapi.applications"  # nothing was put in front of anything here


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow puts the code of a version it loads before everything else."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def changed(client: MlflowClient, place: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Another version of its own, whose files somebody will change; its address and where they lie."""
    case = request.node.callspec.id if hasattr(request.node, "callspec") else request.node.name
    name = f"changed-{case}"[:60]
    network = place / "networks" / name
    network.parent.mkdir(exist_ok=True)
    version = register_champion(client, write_model_folder(network, seed=len(name)), name)
    return f"models:/{name}@champion", package_of(client, version)


def plant_in(package: Path, where: str, content: bytes) -> None:
    if where == "python_model.pkl":
        description = yaml.safe_load((package / "MLmodel").read_text())
        flavour = description["flavors"]["python_function"]
        del flavour["model_code_path"]
        flavour |= {"python_model": "python_model.pkl", "loader_module": "mlflow.pyfunc.model"}
        (package / "MLmodel").write_text(yaml.safe_dump(description))
        (package / "python_model.pkl").write_bytes(content)
    else:
        (package / where).write_bytes(content)


PLACES = {
    "pickled-model": "python_model.pkl",
    "weights": "artifacts/model/weights.safetensors",
    "settings": "artifacts/model/model.json",
    "one-more-file": "artifacts/model/optimizer.pt",
}


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_a_planted_pickle_is_never_unpickled(
    where: str, changed: tuple[str, Path], client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, package = changed
    marker = tmp_path / "marker"
    content = pickle.dumps(Payload(marker))
    pickle.loads(content)
    marker.unlink()  # unpickled it would have been there
    plant_in(package, where, content)

    inside = where.startswith("artifacts/model")
    if inside:  # what this project uses itself
        with pytest.raises(StorageError, match="not what was registered"):
            resolve(address)
        assert write_package([address, str(tmp_path / "out")]) == StorageError.exit_code
    else:  # it uses nothing but the model folder
        assert folder_sha256(resolve(address)) == folder_sha256(package / "artifacts/model")
    if where.endswith(("safetensors", "json")):
        with pytest.raises(DataError):
            Predictor.load(package / "artifacts/model")
    # What MLflow loads: the switch refuses a pickle, and the model checks its own folder.
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with (
        store.as_default(client.tracking_uri),
        pytest.raises((StorageError, MlflowException), match=r"registered|pickle"),
    ):
        mlflow.pyfunc.load_model(address)
    assert not marker.exists()
    if not inside:  # without the switch MLflow does unpickle it: the trap is a real one
        monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
        with store.as_default(client.tracking_uri), pytest.raises(AttributeError):
            mlflow.pyfunc.load_model(address)
        assert marker.exists()


def test_changed_code_runs_in_mlflow_and_not_in_a_checked_package(
    changed: tuple[str, Path], client: MlflowClient, tmp_path: Path
) -> None:
    """What the how-to says: MLflow trusts the artifact store with code; the checked package does not."""
    address, package = changed
    marker = tmp_path / "marker"
    line = f"\nopen({str(marker)!r}, 'w').close()\n"
    for file in ("pyfunc.py", "code/sa2net/serving/answers.py"):
        (package / file).write_text((package / file).read_text() + line)

    assert write_package([address, str(tmp_path / "checked")]) == 0
    with model_server(str(tmp_path / "checked"), tmp_path / "server") as running:
        [row] = ask(running, {"image": base64_of(picture(SCANS[0]))})
        assert running.post(b"x" * 10_000_000)[0] == 413
    assert not marker.exists()
    assert [path.name for path in (tmp_path / "server").iterdir()] == ["serve.log"]  # it writes nothing where it runs
    assert row["version"] == f"{address.removeprefix('models:/').partition('@')[0]}/1"
    assert row["model_sha256"] == folder_sha256(package / "artifacts/model")
    assert not [path for path in (tmp_path / "checked").rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]

    with store.as_default(client.tracking_uri):
        mlflow.pyfunc.load_model(address)
    assert marker.exists()


def test_a_package_is_not_written_over_files(champion: Version, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert write_package([CHAMPION, str(tmp_path)]) == DataError.exit_code
    assert write_package([f"models:/{NAME}@nobody", str(tmp_path / "new")]) == StorageError.exit_code
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_version_that_cannot_be_checked_is_not_packed(
    changed: tuple[str, Path], client: MlflowClient, tmp_path: Path
) -> None:
    name = changed[0].removeprefix("models:/").partition("@")[0]
    client.delete_model_version_tag(name, "1", "model_sha256")
    assert write_package([changed[0], str(tmp_path / "out")]) == StorageError.exit_code
    assert list(tmp_path.iterdir()) == []


def test_a_number_and_a_folder_are_packed_too(champion: Version, place: Path, tmp_path: Path) -> None:
    assert write_package([f"models:/{NAME}/1", str(tmp_path / "number")]) == 0
    assert write_package([str(place / "network"), str(tmp_path / "folder")]) == 0
    assert registered_as(tmp_path / "number") == f"{NAME}/1"
    assert registered_as(tmp_path / "folder") == ""
    assert recorded_sha256(tmp_path / "number") == recorded_sha256(tmp_path / "folder") == champion.model_sha256
    for wrong in ("models:/", f"models:/{NAME}", str(tmp_path)):
        assert write_package([wrong, str(tmp_path / "out")]) == ConfigError.exit_code


def test_the_command_says_what_it_wants() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sa2net.serving", "--help"], capture_output=True, text=True, check=True
    )
    assert "check its sha256" in done.stdout
