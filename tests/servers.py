"""Real servers on the loopback address for tests: S3 with keys, S3 with every setting, and a proxy that does harm."""

import http.client
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

KEY, SECRET = "test-key-id", "test-secret-key"
AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE",
    "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION",
)  # fmt: skip


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a server whose output goes into a file that nobody has to empty: a full pipe would stop it."""
    output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    process.stdout = output
    return process


def wait_for_port(port: int, process: subprocess.Popen[Any], *, seconds: float = 30.0) -> None:
    """Wait until a process listens; fails with what it said if it ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            if process.stdout and process.stdout.seekable():
                process.stdout.seek(0)
            said = process.stdout.read() if process.stdout else b""
            raise AssertionError(f"{process.args!r} ended with {process.returncode}: {said!r}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} did not listen on port {port} within {seconds} s")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that a test started."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def aws_environment(key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Variables that make an S3 client use these keys and nothing else of this machine."""
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def use_aws_environment(monkeypatch: Any, key: str = KEY, secret: str = SECRET) -> None:
    """The same in this process, and no other AWS variable; for `pytest.MonkeyPatch`."""
    for name in AWS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in aws_environment(key, secret).items():
        monkeypatch.setenv(name, value)


@contextmanager
def s3_server(folder: Path, key: str = KEY, secret: str = SECRET, *, port: int = 0) -> Iterator[str]:
    """A real S3 server (rclone) over a folder, whose subfolders are the buckets; refuses other keys with 403.

    It knows no versioning, no encryption, no policies.

    Args:
        folder: Where buckets and objects lie, as plain folders and files.
        key: Access key.
        secret: Secret key.
        port: Fixed port, to come back after a stop; 0 = a free one.

    Yields:
        Its address.
    """
    rclone = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [rclone, "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "10ms"]
    process = started([*command, "--auth-key", f"{key},{secret}", str(folder)])
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


@contextmanager
def moto_server(certificate: Path | None = None) -> Iterator[str]:
    """An S3 server that knows versioning, encryption, lifecycle and policies, in memory; any key may enter.

    Args:
        certificate: See `self_signed`: speak HTTPS with it.

    Yields:
        Its address.
    """
    port, scheme = free_port(), "https" if certificate else "http"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if certificate:
        command += ["--ssl", "--ssl-cert", str(certificate), "--ssl-key", str(certificate)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process, seconds=60)
        yield f"{scheme}://127.0.0.1:{port}"
    finally:
        end(process)


def self_signed(file: Path) -> Path:
    """Write a certificate for 127.0.0.1 and its key into one file, which is also its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return file


@dataclass(frozen=True)
class Fault:
    """What a proxy does to one request, instead of passing it on.

    Attributes:
        kind: `status`: an error answer; `reset`: the connection is cut; `lose`: passed on, and then the connection is
            cut; `truncate`: half of the body, then cut; `corrupt`: the whole body with its first byte changed; `delay`:
            passed on after some seconds.
        status: Of an error answer.
        code: Its S3 code.
        seconds: Of a delay.
    """

    kind: Literal["status", "reset", "lose", "truncate", "corrupt", "delay"]
    status: int = 500
    code: str = "InternalError"
    seconds: float = 0.0


@dataclass
class Proxy:
    """A proxy in front of another server, and what it saw.

    Attributes:
        endpoint: Its address.
        requests: `METHOD PATH` of every request, in order.
        choose: Gives the fault of a request from method, path and how often the same was asked before; may be replaced.
    """

    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    choose: Callable[[str, str, int], Fault | None] = lambda _method, _path, _before: None

    def count(self, method: str, part: str = "") -> int:
        """Requests of a method whose path holds a text."""
        return sum(line.startswith(f"{method} ") and part in line for line in self.requests)


@contextmanager
def faulty_proxy(upstream: str, choose: Callable[[str, str, int], Fault | None] | None = None) -> Iterator[Proxy]:
    """A real HTTP proxy that injects faults in front of a server.

    Args:
        upstream: Address of the server.
        choose: See `Proxy.choose`.
    """
    target = urlsplit(upstream)
    proxy, lock, seen = Proxy(), threading.Lock(), Counter[str]()
    if choose is not None:
        proxy.choose = choose

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            line = f"{self.command} {self.path}"
            with lock:
                proxy.requests.append(line)
                fault = proxy.choose(self.command, self.path, seen[line])
                seen[line] += 1
            body = self._body()
            if fault and fault.kind == "delay":
                time.sleep(fault.seconds)
            if fault and fault.kind in ("reset", "lose"):
                if fault.kind == "lose":
                    self._ask(body)
                self._cut()
            elif fault and fault.kind == "status":
                content = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
                self._answer(fault.status, {"Content-Type": "application/xml"}, content, None)
            else:
                self._answer(*self._ask(body), fault)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            if body:
                headers["Content-Length"] = str(len(body))
            connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: Fault | None) -> None:
            dropped = {"transfer-encoding", "connection", "content-length"}
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in dropped:
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault and fault.kind == "truncate":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self._cut()
                return
            if fault and fault.kind == "corrupt" and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            self.wfile.write(content)

        def _cut(self) -> None:
            """End the connection hard: the other side sees a reset."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - the names that http.server calls

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that went away is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@contextmanager
def mlflow_server(folder: Path, *words: str, **environment: str) -> Iterator[str]:
    """A real MLflow server with its SQLite file in a folder.

    Args:
        folder: Where its files lie.
        words: Further words of its command line.
        environment: Variables over those of this process.

    Yields:
        Its address.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", *words]
    log = folder / "server.log"
    with log.open("wb") as stream:
        settings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environment
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=folder, env=settings, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urlopen(f"{address}/health", timeout=1).close()
                break
            except (URLError, OSError):
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()
