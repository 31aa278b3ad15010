"""The doctor before real servers: MLflow, S3, a DVC remote, and an API that answers like Kubeflow Pipelines, or badly."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from factories import write_data_set
from servers import SECRET, Fault, faulty_proxy, free_port, mlflow_server, s3_server, use_aws_environment

from sa2net.__main__ import main

PASSWORD = "correct-horse-battery"


def doctor(*words: object) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and the findings by name, of the real command line."""
    file = Path("findings.json").absolute()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *(str(word) for word in words), "--json", str(file)])
    document = json.loads(file.read_text())
    assert document["schema_version"] == 1
    assert document["exit_code"] == ended.value.code
    return int(ended.value.code), {entry["name"]: entry for entry in document["findings"]}


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "KF_", "MLFLOW_TRACKING", "MLFLOW_REGISTRY", "SA2NET_S3")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-keys"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


# --- nothing configured ---


def test_with_nothing_configured_every_line_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = doctor("--free-gb", 0, "--free-temp-gb", 0)
    assert code == 0
    assert list(found) == ["python", "settings", "disk", "shm", "gpu", "data", "dvc", "mlflow", "s3", "kfp", "clock"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == list(found)
    for name, word in {
        "mlflow": "MLFLOW_TRACKING_URI",
        "s3": "--s3",
        "kfp": "KF_PIPELINES_ENDPOINT",
        "data": "dvc add",
    }.items():
        assert found[name]["verdict"] == "note"
        assert word in found[name]["cure"]
    assert all(entry["cure"] for entry in found.values() if entry["verdict"] != "ok")
    assert {path.name for path in tmp_path.iterdir()} == {"findings.json"}  # it looks, and makes nothing


def test_json_alone_on_stdout() -> None:
    command = [sys.executable, "-m", "sa2net", "doctor", "--only", "settings,kfp", "--require", "kfp", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert [(entry["name"], entry["verdict"]) for entry in json.loads(done.stdout)["findings"]] == [
        ("settings", "ok"),
        ("kfp", "fail"),
    ]


def test_the_exit_code_is_that_of_the_first_failing_line(tmp_path: Path) -> None:
    Path("params.yaml").write_text("train: {epoch: 1}")
    assert doctor("--only", "kfp,disk", "--free-gb", 1e9, "--require", "kfp")[0] == 5
    assert doctor("--only", "kfp,disk", "--free-gb", 0, "--free-temp-gb", 0, "--require", "kfp")[0] == 6
    assert doctor("--only", "data", "--require", "data")[0] == 3
    assert doctor("--only", "kfp,settings,disk", "--free-gb", 1e9, "--require", "kfp")[0] == 2


def test_on_a_terminal_lines_are_coloured_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "sa2net", "doctor", "--only", "settings,kfp,s3"]
    subprocess.run(command, stdout=follower, check=True)
    os.close(follower)
    text = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "\x1b[32mok" in text
    assert "\x1b[33mnote" in text
    plain = re.sub(r"\x1b\[\d*m", "", text).splitlines()
    assert max(len(line) for line in plain) <= 100
    assert any(line.startswith(f"{'':16}-> ") for line in plain)


# --- Kubeflow Pipelines ---


class Api:
    """A server that gives one answer per path, and remembers the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.date = format_datetime(datetime.now(UTC), usegmt=True)
        self.hang = threading.Event()
        self.hanging = False
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.seen.append((self.path, self.headers.get("Authorization", "")))
                api.asked.append((*api.seen[-1], self.headers.get("Cookie", "")))
                if api.hanging:
                    api.hang.wait(30)
                status, headers, body = api.answers.get(self.path.partition("?")[0], (404, {}, b""))
                self.send_response_only(status)
                for name, value in ({"Date": api.date, "Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def says(self, path: str, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, data)

    @contextmanager
    def running(self) -> Iterator["Api"]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.hang.set()
            self.server.shutdown()
            self.server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    with Api().running() as server:
        server.says("/apis/v2beta1/healthz", 200, {"multi_user": True, "apiServerTagName": "2.5.0"})
        server.says("/apis/v2beta1/experiments", 200, {})
        yield server


def kfp(endpoint: str, *words: object) -> dict[str, str]:
    code, found = doctor("--only", "kfp", "--kfp-endpoint", endpoint, *words)
    assert code == (6 if found["kfp"]["verdict"] == "fail" else 0)
    return found["kfp"]


def test_kfp_that_answers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", PASSWORD)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the kfp client uses no proxy of the environment
    found = kfp(f"http://someone:{PASSWORD}2@{api.address}/", "--kfp-namespace", "team a")
    assert found["verdict"] == "ok"
    assert found["evidence"] == f"http://{api.address} (2.5.0, for several users)"
    assert api.seen == [
        ("/apis/v2beta1/healthz", f"Bearer {PASSWORD}"),
        ("/apis/v2beta1/experiments?page_size=1&namespace=team+a", f"Bearer {PASSWORD}"),
    ]


def test_kfp_for_several_users_asks_for_the_namespace(api: Api) -> None:
    api.says("/apis/v2beta1/experiments", 400, {"message": "namespace is empty"})
    assert kfp(f"http://{api.address}")["verdict"] == "ok"


HTML = b"<!doctype html><title>Sign in</title>"


@pytest.mark.parametrize(
    ("path", "status", "body", "headers", "evidence", "cure"),
    [
        ("healthz", 401, b"", {}, "wants a login (401)", "kubectl create token"),
        ("experiments", 403, {"message": "no"}, {}, "wants a login (403)", "kubectl create token"),
        ("healthz", 302, b"", {"Location": "https://sso.org/dex/auth?state=xyz"}, "to a login (sso.org/dex/auth)", "port-forward"),
        ("healthz", 301, b"", {"Location": "https://127.0.0.1/apis/v2beta1/healthz"}, "redirects to https", "https://"),
        ("healthz", 307, b"", {"Location": "/kubeflow/apis"}, "redirects to /kubeflow/apis", "Write that address"),
        ("healthz", 200, HTML, {"Content-Type": "text/html"}, "a web page", "HOST/pipeline"),
        ("healthz", 200, b"hello", {}, "not in JSON", "Check that the address"),
        ("healthz", 404, HTML, {"Content-Type": "text/html"}, "(404)", "HOST/pipeline"),
        ("healthz", 503, b"", {}, "the API is not (503)", "get pods"),
        ("healthz", 500, b"stack", {}, "answers 500: stack", "ml-pipeline"),
        ("experiments", 500, b"db gone", {}, "answers 500: db gone", "ml-pipeline"),
    ],
)  # fmt: skip
def test_kfp_that_does_not(
    api: Api, path: str, status: int, body: object, headers: dict[str, str], evidence: str, cure: str
) -> None:
    api.says(
        f"/apis/v2beta1/{path}", status, body, **{name.replace("-", "_"): value for name, value in headers.items()}
    )
    found = kfp(f"http://{api.address}")
    assert found["verdict"] == "fail"
    assert evidence in found["evidence"]
    assert cure in found["cure"]


def test_kfp_that_refuses_a_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("token").write_text("from-a-file\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "token")
    api.says("/apis/v2beta1/experiments", 401)
    assert "refuses the login (401)" in kfp(f"http://{api.address}")["evidence"]
    assert api.seen[0][1] == "Bearer from-a-file"


def test_kfp_with_a_session_and_with_a_broken_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "authservice_session=abc123")
    assert kfp(f"http://{api.address}")["verdict"] == "ok"
    assert [cookie for _, _, cookie in api.asked] == ["authservice_session=abc123"] * 2
    monkeypatch.setenv("KF_PIPELINES_TOKEN", f"{PASSWORD}\nsecond-half")
    found = kfp(f"http://{api.address}")
    assert "cannot be sent" in found["evidence"]
    assert PASSWORD not in str(found)
    assert "second-half" not in str(found)


def test_kfp_that_hangs(api: Api) -> None:
    api.hanging = True
    started = time.monotonic()
    found = kfp(f"http://{api.address}")
    assert "did not answer within 3 s" in found["evidence"]
    assert time.monotonic() - started < 15


def test_kfp_where_there_is_none() -> None:
    assert "refuses connections" in kfp(f"http://127.0.0.1:{free_port()}")["evidence"]
    assert "no such host" in kfp("https://nowhere.invalid")["evidence"]
    assert "is a page of the UI" in kfp("https://kfp.example.org/#/pipelines")["evidence"]


def test_kfp_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        assert "does not speak HTTP" in kfp(f"http://127.0.0.1:{server.getsockname()[1]}")["evidence"]


def test_kfp_behind_tls(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no TLS could be agreed" in kfp(f"https://{api.address}")["evidence"]
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    with Api().running() as secure:
        secure.server.socket = context.wrap_socket(secure.server.socket, server_side=True)
        secure.says("/apis/v2beta1/healthz", 200, {})
        secure.says("/apis/v2beta1/experiments", 200, {})
        found = kfp(f"https://{secure.address}")
        assert "not trusted (self-signed certificate)" in found["evidence"]
        assert "KF_PIPELINES_SSL_CA_CERT" in found["cure"]
        monkeypatch.setenv("KF_PIPELINES_SSL_CA_CERT", str(certificate))
        assert kfp(secure.address)["verdict"] == "ok"  # https where no scheme is given


def make_certificate(folder: Path) -> Path:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False).sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "certificate.pem"


# --- the clock ---


@pytest.mark.parametrize(("minutes", "verdict"), [(0, "ok"), (-5, "note"), (16, "fail"), (-16, "fail")])
def test_the_clock_against_a_server(api: Api, minutes: int, verdict: str) -> None:
    api.date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    code, found = doctor("--only", "clock", "--kfp-endpoint", f"http://{api.address}")
    assert found["clock"]["verdict"] == verdict
    assert code == (2 if verdict == "fail" else 0)
    if minutes:
        assert ("behind" if minutes > 0 else "ahead of") in found["clock"]["evidence"]


# --- MLflow ---


def mlflow(address: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    code, found = doctor("--only", "mlflow")
    assert code == (5 if found["mlflow"]["verdict"] == "fail" else 0)
    return found["mlflow"]


def test_an_mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": dead, "AWS_MAX_ATTEMPTS": "1"}
    with mlflow_server(tmp_path, "--artifacts-destination", "s3://nowhere/x", **keys) as address:
        found = mlflow(address, monkeypatch)
        assert "cannot list its artifacts (500)" in found["evidence"]
        assert "--artifacts-destination" in found["cure"]
    with mlflow_server(tmp_path, "--artifacts-destination", str(tmp_path / "artifacts")) as address:
        found = mlflow(address.replace("//", f"//anna:{PASSWORD}@"), monkeypatch)
        assert found["verdict"] == "ok"
        assert f"{address} (MLflow " in found["evidence"]
        assert "1 experiment, 0 registered models" in found["evidence"]
        assert PASSWORD not in str(found)
    found = mlflow(address, monkeypatch)
    assert "refuses connections" in found["evidence"]
    assert "unset MLFLOW_TRACKING_URI" in found["cure"]


def test_an_mlflow_server_that_does_not_know_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow_server(tmp_path, "--allowed-hosts", "mlflow.example.org") as address:
        found = mlflow(address, monkeypatch)
    assert "does not know itself by this name" in found["evidence"]
    assert f"--allowed-hosts {address.removeprefix('http://')}" in found["cure"]


def everywhere(api: Api, status: int, body: bytes = b"", **headers: str) -> None:
    class Same(dict[str, tuple[int, dict[str, str], bytes]]):
        def get(self, _: object, __: object = None) -> tuple[int, dict[str, str], bytes]:  # type: ignore[override]
            return status, headers, body

    api.answers = Same()


@pytest.mark.parametrize(
    ("answer", "evidence", "cure"),
    [
        (lambda api: everywhere(api, 401), "refuses us (401)", "MLFLOW_TRACKING_USERNAME"),
        (lambda api: everywhere(api, 200, HTML, **{"Content-Type": "text/html"}), "a web page, perhaps a login", "MLFLOW_TRACKING_TOKEN"),
        (lambda api: everywhere(api, 502), "its MLflow is not (502)", "log of the MLflow server"),
        (lambda api: everywhere(api, 404), "there is no MLflow at", "its path too"),
        (lambda api: setattr(api, "hanging", True), "did not answer within 3 s", "firewall"),
    ],
)  # fmt: skip
def test_what_is_no_mlflow_server(
    answer: Callable[[Api], None], evidence: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Api().running() as api:
        answer(api)
        started = time.monotonic()
        found = mlflow(f"http://anna:{PASSWORD}@{api.address}", monkeypatch)
        assert time.monotonic() - started < 20
    assert found["verdict"] == "fail"
    assert evidence in found["evidence"]
    assert cure in found["cure"]
    assert PASSWORD not in str(found)


# --- S3 ---


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Folder of a bucket, and the address of its server."""
    use_aws_environment(monkeypatch)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    folder = tmp_path / "buckets" / "spine"
    folder.mkdir(parents=True)
    with s3_server(folder.parent) as endpoint:
        yield folder, endpoint


def s3(endpoint: str, address: str = "s3://spine/team/data", seconds: float = 40) -> dict[str, str]:
    code, found = doctor("--only", "s3", "--s3", address, "--endpoint-url", endpoint, "--timeout", seconds)
    assert code == (5 if found["s3"]["verdict"] == "fail" else 0)
    assert SECRET not in str(found)
    return found["s3"]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_bucket_is_probed_and_left_as_it_was(bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    (folder / "mine.txt").write_text("stays")
    with faulty_proxy(endpoint) as proxy:
        found = s3(proxy.endpoint)
    assert (found["verdict"], found["evidence"]) == (
        "ok",
        "s3://spine/team/data: wrote, read, listed and deleted a probe",
    )
    assert files_in(folder) == [folder / "mine.txt"]
    assert proxy.count("PUT", "/spine/team/data/.sa2net-doctor/") == 1
    assert proxy.count("DELETE", "/spine/team/data/.sa2net-doctor/") == 1


def test_wrong_keys_and_names(bucket: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, endpoint = bucket
    found = s3(endpoint, "s3://nowhere/x")
    assert "there is no bucket nowhere" in found["evidence"]
    assert "make the bucket" in found["cure"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    assert "AWS_SECRET_ACCESS_KEY" in s3(endpoint)["cure"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong-key")
    assert "AWS_ACCESS_KEY_ID" in s3(endpoint)["cure"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in s3(endpoint)["cure"]
    assert "no S3 address" in s3(endpoint, "https://spine/x")["evidence"]


def on(method: str, fault: Fault) -> Callable[[str, str, int], Fault | None]:
    """A fault in every request of a method that concerns a probe."""
    return lambda asked, path, _: fault if asked == method and path != "/" else None


def test_keys_that_may_only_read(bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    with faulty_proxy(endpoint, on("PUT", Fault("status", 403, "AccessDenied"))) as proxy:
        found = s3(proxy.endpoint)
    assert found["evidence"] == "s3://spine/team/data: these keys may not write (AccessDenied)"
    assert found["cure"] == "Give them s3:PutObject, or use other keys."
    assert files_in(folder) == []


@pytest.mark.parametrize(
    ("fault", "evidence", "cure"),
    [
        (Fault("status", 403, "AccessDenied"), "may not read", "s3:GetObject"),
        (Fault("status", 403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed", "clock"),
        (Fault("corrupt"), "other bytes", "look at its disk"),
        (Fault("delay", seconds=25.0), "no result within 5 s", "--timeout"),
    ],
)
def test_a_step_that_fails_leaves_no_probe(bucket: tuple[Path, str], fault: Fault, evidence: str, cure: str) -> None:
    folder, endpoint = bucket
    with faulty_proxy(endpoint, on("GET", fault)) as proxy:
        found = s3(proxy.endpoint, seconds=5 if fault.kind == "delay" else 40)
    assert found["verdict"] == "fail"
    assert evidence in found["evidence"]
    assert cure in found["cure"]
    assert proxy.count("PUT") == 1
    assert files_in(folder) == []


def test_a_probe_that_cannot_be_deleted_is_named(bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    with faulty_proxy(endpoint, on("DELETE", Fault("status", 403, "AccessDenied"))) as proxy:
        found = s3(proxy.endpoint)
    assert "may not delete" in found["evidence"]
    (left,) = files_in(folder)
    assert f"s3://spine/team/data/.sa2net-doctor/{left.name}" in found["cure"]


def test_an_interrupted_doctor_takes_its_probe_away(bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    with faulty_proxy(endpoint, on("GET", Fault("delay", seconds=25.0))) as proxy:
        command = [sys.executable, "-m", "sa2net", "doctor", "--only", "s3", "--s3", "s3://spine/x", "--timeout", "60"]
        process = subprocess.Popen([*command, "--endpoint-url", proxy.endpoint], start_new_session=True)
        end = time.monotonic() + 60
        while not files_in(folder):
            assert time.monotonic() < end
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(timeout=30) == 130
    assert files_in(folder) == []


def test_an_s3_server_that_is_none(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    use_aws_environment(monkeypatch)
    assert "refuses connections" in s3(f"http://127.0.0.1:{free_port()}")["evidence"]
    everywhere(api, 200, HTML, **{"Content-Type": "text/html"})
    assert "not that of the console" in s3(f"http://{api.address}")["cure"]
    api.hanging = True
    assert "did not answer within 3 s" in s3(f"http://{api.address}")["evidence"]


# --- the DVC remote ---


def dvc(*words: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True, env=environment, timeout=120)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository whose data set was pushed to the folder `store` beside it."""
    home = tmp_path / "project"
    home.mkdir()
    monkeypatch.chdir(home)
    dvc("init", "--no-scm", "-q")
    write_data_set(home / "data" / "scoliosis3classes")
    dvc("add", "-q", "data")
    dvc("remote", "add", "hospital", str(tmp_path / "store"))
    with Path("data.dvc").open("a") as pointer:
        pointer.write("  remote: hospital\n")
    dvc("push", "-q", "data.dvc")
    return home


def remote(*words: object) -> dict[str, str]:
    code, found = doctor("--only", "dvc", *words)
    assert code == (5 if found["dvc"]["verdict"] == "fail" else 0)
    return found["dvc"]


def test_a_remote_that_holds_everything_or_not(project: Path, tmp_path: Path) -> None:
    found = remote()
    assert found["verdict"] == "ok"
    objects = files_in(tmp_path / "store")
    assert f"holds all {len(objects) - 1} objects of data" in found["evidence"]
    first, second = [path for path in objects if path.suffix != ".dir"][:2]
    first.unlink()
    second.unlink()
    found = remote()
    assert f"lacks 2 of {len(objects) - 1} objects" in found["evidence"]  # without the list of files itself
    assert "dvc push" in found["cure"]
    (listing,) = [path for path in objects if path.suffix == ".dir"]
    content = listing.read_bytes()
    listing.chmod(0o644)
    listing.write_bytes(content + b" ")
    assert remote()["verdict"] == "fail"
    listing.unlink()
    assert "does not hold this data set" in remote()["evidence"]
    (tmp_path / "store").rename(tmp_path / "away")
    assert "is not there" in remote()["evidence"]
    assert "no DVC remote elsewhere" in remote("--dvc-remote", "elsewhere")["evidence"]
    assert "holds all" not in remote("--dvc-remote", str(tmp_path / "away"))["evidence"]
    pointer = Path("data.dvc")
    pointer.write_text(pointer.read_text().replace("  remote: hospital\n", ""))
    assert remote()["verdict"] == "note"
    assert "is not there" in remote("--dvc-remote", "hospital")["evidence"]


def test_a_remote_in_a_bucket(project: Path, tmp_path: Path, bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    dvc("remote", "add", "cloud", "s3://spine/dvc")
    dvc("remote", "modify", "cloud", "endpointurl", endpoint)
    pointer = Path("data.dvc")
    pointer.write_text(pointer.read_text().replace("remote: hospital", "remote: cloud"))
    assert "does not hold this data set" in remote()["evidence"]
    shutil.copytree(tmp_path / "store", folder / "dvc")
    assert "holds all" in remote()["evidence"]
    assert "holds all" in remote("--dvc-remote", "hospital")["evidence"]
    assert "holds all" in remote("--dvc-remote", "s3://spine/dvc", "--endpoint-url", endpoint)["evidence"]
    next(path for path in files_in(folder / "dvc") if path.suffix != ".dir").unlink()
    assert "lacks 1 of" in remote()["evidence"]
    denied = Fault("status", 403, "AccessDenied")
    with faulty_proxy(endpoint, on("GET", denied)) as proxy:
        found = remote("--dvc-remote", "s3://spine/dvc", "--endpoint-url", proxy.endpoint)
    assert "may not read" in found["evidence"]
    assert "s3:GetObject" in found["cure"]
    with faulty_proxy(endpoint, lambda method, path, _: denied if "list-type=2" in path else None) as proxy:
        found = remote("--dvc-remote", "s3://spine/dvc", "--endpoint-url", proxy.endpoint)
    assert "may not list" in found["evidence"]
    assert "s3:ListBucket" in found["cure"]
