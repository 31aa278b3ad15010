"""The team's stack (`infra/compose`): sound on paper, and its MLflow server for real.

No image is pulled here. What is proven by running it is the command line and the settings that `compose.yaml` gives to
MLflow, against a real Postgres and a real S3 server; that is also what `infra/kubernetes` runs.
"""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from database import Postgres, postgres_server, program, what_is_missing
from servers import aws_environment, end, free_port, s3_server

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose"
Service = dict[str, Any]
STACK: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
SECRET = re.compile(r"PASSWORD|PASSPHRASE|SECRET|ACCESS_KEY")
REQUIRED = sorted(set(re.findall(r"\$\{([A-Z0-9_]+):\?", (COMPOSE / "compose.yaml").read_text(encoding="utf-8"))))
"""Variables without which compose starts nothing."""


def faults(services: Mapping[str, Service]) -> list[str]:
    """What is not safe about the services of a compose file."""
    found = []
    for name, service in services.items():
        found += [f"{name}: {text}" for text, holds in _rules(service).items() if not holds]
        for variable, value in service["environment"].items():
            if SECRET.search(variable) and not re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", value):
                found.append(f"{name}: {variable} has a value, or may be empty")
    return found


def _rules(service: Service) -> dict[str, bool]:
    image, user = service["image"], str(service.get("user", "0"))
    return {
        "root": not user.startswith("0") and user != "",
        "writable root": service.get("read_only") is True,
        "capabilities": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
        "new privileges": "no-new-privileges:true" in service.get("security_opt", []),
        "privileged": not service.get("privileged") and not service.get("network_mode"),
        "no limits": all(service.get(key) for key in ("mem_limit", "cpus", "pids_limit")),
        "no healthcheck": bool(service.get("healthcheck", {}).get("test")),
        "not restarted": service.get("restart") == "unless-stopped",
        "open port": all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", [])),
        "inexact image": bool(re.search(r":v?\d+\.\d+(\.\d+)?(-[\w.]+)?$", image)),
        "host folder": not any(str(volume).startswith((".", "/", "~")) for volume in service.get("volumes", [])),
    }


def test_the_stack_is_safe_on_paper() -> None:
    assert faults(STACK["services"]) == []
    assert STACK["networks"]["backend"]["internal"] is True
    assert STACK["services"]["postgres"]["networks"] == ["backend"]
    assert ".env" in (COMPOSE / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "-master.telemetry=false" in STACK["services"]["s3"]["command"]
    assert "MLFLOW_DISABLE_TELEMETRY=true" in (COMPOSE / "mlflow.Dockerfile").read_text(encoding="utf-8")


def _set(key: str, value: Any) -> Callable[[Service], None]:
    return lambda service: service.update({key: value})


BROKEN: dict[str, Callable[[Service], Any]] = {
    "root": _set("user", "0:0"),
    "writable root": _set("read_only", False),
    "capabilities": _set("cap_add", ["NET_ADMIN"]),
    "new privileges": _set("security_opt", []),
    "privileged": _set("privileged", True),
    "no limits": lambda service: service.pop("mem_limit"),
    "no healthcheck": lambda service: service.pop("healthcheck"),
    "not restarted": lambda service: service.pop("restart"),
    "open port": _set("ports", ["5000:5000"]),
    "inexact image": _set("image", "postgres:latest"),
    "host folder": _set("volumes", ["/var/run/docker.sock:/var/run/docker.sock"]),
    "PGPASSWORD": lambda service: service["environment"].update(PGPASSWORD="secret"),
    "AWS_SECRET_ACCESS_KEY": lambda service: service["environment"].update(AWS_SECRET_ACCESS_KEY="${S3:-secret}"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_rule_sees_its_fault(fault: str) -> None:
    services = copy.deepcopy(STACK["services"])
    BROKEN[fault](services["mlflow"])
    assert [line for line in faults(services) if line.startswith(f"mlflow: {fault}")]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The compose folder where nothing of this checkout's own `.env` is."""
    return Path(shutil.copytree(COMPOSE, tmp_path / "infra" / "compose", ignore=shutil.ignore_patterns(".env")))


def _make_env(folder: Path) -> dict[str, str]:
    subprocess.run(["sh", str(folder / "make-env.sh")], check=True, capture_output=True, timeout=60)
    return _read_env(folder)


def _read_env(folder: Path) -> dict[str, str]:
    lines = (folder / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_password_is_random_and_for_its_owner_alone(copied: Path) -> None:
    values = _make_env(copied)
    assert len(REQUIRED) == 6
    made = [values[name] for name in REQUIRED]
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in made)
    assert len(set(made)) == len(made)
    assert (copied / ".env").stat().st_mode & 0o077 == 0
    again = subprocess.run(["sh", str(copied / "make-env.sh")], capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert values == _read_env(copied)


def _compose(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Docker's compose, as a plugin or as a program of its own."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            whole = [*command, "--file", str(folder / "compose.yaml"), *arguments]
            clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
            return subprocess.run(whole, capture_output=True, text=True, timeout=60, env=clean, cwd=folder)
    pytest.skip("there is no docker compose here (Debian: docker-compose)")


def test_compose_reads_the_file_and_stops_where_a_password_is_missing(copied: Path) -> None:
    without = _compose(copied, "config")
    assert without.returncode != 0
    assert "set it in infra/compose/.env" in without.stderr
    values = _make_env(copied)
    assert _compose(copied, "config", "--quiet").returncode == 0
    for name in REQUIRED:
        text = "".join(f"{key}={'' if key == name else value}\n" for key, value in values.items())
        (copied / ".env").write_text(text, encoding="utf-8")
        stopped = _compose(copied, "config", "--quiet")
        assert stopped.returncode != 0, name
        assert name in stopped.stderr


@dataclass(frozen=True)
class Stack:
    """The running server and what it stands on.

    Attributes:
        address: Of MLflow.
        values: The passwords, by the names of `.env`.
        environment: Of the server.
        buckets: Folder of the S3 server.
        database: The Postgres.
    """

    address: str
    values: dict[str, str]
    environment: dict[str, str]
    buckets: Path
    database: Postgres


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """MLflow as compose starts it; only what names a host or a port is another."""
    if reason := what_is_missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stack")
    compose = Path(shutil.copytree(COMPOSE, folder / "compose", ignore=shutil.ignore_patterns(".env")))
    values = _make_env(compose)
    buckets = folder / "buckets"
    (buckets / "sa2net").mkdir(parents=True)
    keys = values["S3_ACCESS_KEY_ID"], values["S3_SECRET_ACCESS_KEY"]
    with (
        postgres_server(folder / "postgres", user="mlflow", password=values["POSTGRES_PASSWORD"]) as database,
        s3_server(buckets, *keys) as endpoint,
        _mlflow(values, {**database.environment, "MLFLOW_S3_ENDPOINT_URL": endpoint}, folder) as (address, environment),
    ):
        yield Stack(address, values, environment, buckets, database)


@contextmanager
def _mlflow(values: Mapping[str, str], places: Mapping[str, str], folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    service, port = STACK["services"]["mlflow"], free_port()
    here = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [here.get(part, _filled(part, values)).replace(":5000", f":{port}") for part in service["command"]]
    given = {name: _filled(value, values) for name, value in service["environment"].items()}
    image = dict(re.findall(r"\b(MLFLOW_[A-Z_]+|DO_NOT_TRACK)=(\S+)", (COMPOSE / "mlflow.Dockerfile").read_text()))
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_", "PG"))}
    auth = {"MLFLOW_AUTH_CONFIG_PATH": str(COMPOSE / "auth.ini")}
    environment = {**plain, **aws_environment(), **image, **given, **places, **auth, "HOME": str(folder)}
    with (folder / "mlflow.log").open("wb") as log:
        program_here = str(Path(sys.executable).with_name(command[0]))
        process = subprocess.Popen(
            [program_here, *command[1:]], env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(address, process, folder / "mlflow.log")
            yield address, environment
        finally:
            end(process)


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A value as compose fills it."""
    return re.sub(r"\$\{([A-Z0-9_]+):[-?]([^}]*)\}", lambda found: values.get(found[1]) or found[2], text)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """By the very check that compose makes."""
    test = STACK["services"]["mlflow"]["healthcheck"]["test"]
    script = test[-1].replace("http://127.0.0.1:5000", address)
    for _ in range(180):
        assert process.poll() is None, log.read_text()
        if not subprocess.run([sys.executable, "-c", script], capture_output=True).returncode:
            return
        time.sleep(1)
    raise AssertionError(log.read_text())


def _status(
    address: str,
    route: str,
    *,
    user: str = "",
    password: str = "",
    host: str = "",
    body: Mapping[str, str] | None = None,
) -> int:
    """What the server answers to a GET, or to a POST where there is a body."""
    request = urllib.request.Request(address + route, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_nobody_is_let_in_without_a_password(stack: Stack) -> None:
    admin = stack.values["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert _status(stack.address, "/health") == 200
    assert _status(stack.address, SEARCH) == 401
    assert _status(stack.address, SEARCH, user="admin", password="wrong") == 401
    assert _status(stack.address, SEARCH, user="admin", password="password1234") == 401
    assert _status(stack.address, SEARCH, user="admin", password=admin) == 200
    artifacts = "/api/2.0/mlflow-artifacts/artifacts?path=1"
    assert _status(stack.address, artifacts) == 401


def test_a_strange_host_name_is_refused(stack: Stack) -> None:
    admin = stack.values["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert _status(stack.address, SEARCH, user="admin", password=admin, host="evil.example.org") == 403
    assert _status(stack.address, SEARCH, user="admin", password=admin, host=f"localhost:{_port(stack)}") == 200


def _port(stack: Stack) -> str:
    return stack.address.rpartition(":")[2]


def _user(stack: Stack, name: str, password: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPOSE / "mlflow_user.py"), name, "--server", stack.address]
    whole = {**stack.environment, **environment}
    return subprocess.run(command, input=password, capture_output=True, text=True, timeout=120, env=whole)


def test_users_are_made_and_get_new_passwords(stack: Stack) -> None:
    assert _user(stack, "ada", "").returncode == 2
    made = _user(stack, "ada", "first-password-1\n")
    assert (made.returncode, made.stdout) == (0, "ada: made\n"), made.stderr
    assert _status(stack.address, SEARCH, user="ada", password="first-password-1") == 200
    changed = _user(stack, "ada", "second-password-2\n")
    assert (changed.returncode, changed.stdout) == (0, "ada: password changed\n"), changed.stderr
    assert _status(stack.address, SEARCH, user="ada", password="first-password-1") == 401
    assert _status(stack.address, SEARCH, user="ada", password="second-password-2") == 200
    refused = _user(stack, "bob", "short\n")
    assert refused.returncode == 5
    assert "password" in refused.stderr.lower()
    stranger = _user(stack, "bob", "long-enough-password\n", MLFLOW_AUTH_ADMIN_PASSWORD="wrong")
    assert stranger.returncode == 5
    assert "401" in stranger.stderr


def test_the_administrators_own_password_can_be_changed(stack: Stack) -> None:
    old = stack.values["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert _user(stack, "admin", "another-admin-password\n").stdout == "admin: password changed\n"
    assert _status(stack.address, SEARCH, user="admin", password=old) == 401
    back = _user(stack, "admin", f"{old}\n", MLFLOW_AUTH_ADMIN_PASSWORD="another-admin-password")
    assert back.stdout == "admin: password changed\n", back.stderr
    assert _status(stack.address, SEARCH, user="admin", password=old) == 200


CLIENT = """
import json, os, sys, tempfile
from pathlib import Path
import mlflow
mlflow.set_experiment("sa2net")
with mlflow.start_run() as run:
    mlflow.log_params({"epochs": 3})
    mlflow.log_metric("dice", 0.5)
    file = Path(tempfile.mkdtemp()) / "weights.bin"
    file.write_bytes(bytes(range(256)) * 4096 * 12)
    mlflow.log_artifact(str(file), "model")
there = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model/weights.bin")
read = mlflow.get_run(run.info.run_id)
print(json.dumps({
    "same": Path(there).read_bytes() == file.read_bytes(), "uri": read.info.artifact_uri, "run": run.info.run_id,
    "metric": read.data.metrics["dice"], "keys": sorted(name for name in os.environ if name.startswith("AWS_")),
}))
"""


def _client(stack: Stack, user: str, password: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_", "PG"))}
    login = {
        "MLFLOW_TRACKING_URI": stack.address, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        # As docs/how-to/team-stack.md says: without these MLflow's client goes to the store by itself.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", CLIENT], capture_output=True, text=True, timeout=300, env={**plain, **login}
    )


def test_a_run_and_its_artifact_go_through_the_server_without_a_key_of_the_store(stack: Stack) -> None:
    """No client is sent to the store, which may be out of its reach; and a team shares what one of it has made."""
    assert _user(stack, "pipeline", "pipeline-password-1\n").returncode == 0
    done = _client(stack, "pipeline", "pipeline-password-1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["same"], told["metric"], told["keys"]) == (True, 0.5, [])
    assert told["uri"].startswith("mlflow-artifacts:/")
    stored = list((stack.buckets / "sa2net" / "mlflow").rglob(f"{told['run']}/artifacts/model/weights.bin"))
    assert [path.stat().st_size for path in stored] == [256 * 4096 * 12]
    assert b"/mlflow-artifacts/presigned/" not in (stack.buckets.parent / "mlflow.log").read_bytes()
    assert _user(stack, "grace", "grace-password-1\n").returncode == 0
    tag = {"run_id": told["run"], "key": "seen", "value": "yes"}
    grace: dict[str, Any] = {"user": "grace", "password": "grace-password-1"}
    assert _status(stack.address, "/api/2.0/mlflow/runs/set-tag", **grace, body=tag) == 200
    assert _status(stack.address, "/api/2.0/mlflow/experiments/delete", **grace, body={"experiment_id": "1"}) == 403
    wrong = {**grace, "password": "pipeline-password-1"}
    assert _status(stack.address, "/api/2.0/mlflow/runs/set-tag", **wrong, body=tag) == 401


def test_no_password_is_in_a_command_line_or_the_log(stack: Stack) -> None:
    log = (stack.buckets.parent / "mlflow.log").read_bytes()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
    secrets = [stack.values[name] for name in REQUIRED]
    rclone = {stack.values["S3_ACCESS_KEY_ID"], stack.values["S3_SECRET_ACCESS_KEY"]}  # of the test's own server
    for secret in secrets:
        assert secret.encode() not in log
        assert secret in rclone or not any(secret.encode() in line for line in lines)


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:  # the process has ended
        return False
    return True


def test_the_nightly_dump_brings_everything_back(stack: Stack, tmp_path: Path) -> None:
    """The script of the cluster's CronJob, as it stands there; then a restore into an empty database."""
    import psycopg

    if program("pg_dump") is None:
        pytest.skip("there is no pg_dump here (Debian: postgresql-client)")
    job = yaml.safe_load((ROOT / "infra" / "kubernetes" / "base" / "backup.yaml").read_text(encoding="utf-8"))
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    environment = {**os.environ, **given, **stack.database.environment, "BACKUPS": str(tmp_path), "KEEP": "2"}
    for old in ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z"):
        (tmp_path / f"mlflow-{old}.dump").write_text("old")
    command = [*container["command"], *container["args"]]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == 2
    assert kept[0] == "mlflow-20200103T000000Z.dump"
    wrong = {**environment, "PGPASSWORD": "wrong"}
    assert subprocess.run(command, env=wrong, capture_output=True, timeout=120).returncode != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == kept  # a failed dump leaves nothing, and removes nothing
    where = f"host=127.0.0.1 port={stack.database.port} user=mlflow"
    password = stack.database.password
    with psycopg.connect(f"{where} dbname=postgres", password=password, autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored")
    restore = ["pg_restore", "--exit-on-error", "--dbname=restored", "--username=mlflow", str(tmp_path / kept[1])]
    subprocess.run(restore, check=True, env=environment, capture_output=True, timeout=120)
    counts = []
    for name in ("mlflow", "restored"):
        with psycopg.connect(f"{where} dbname={name}", password=password) as connection:
            rows = [
                connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("experiments", "users")
            ]
            counts.append(rows)
    assert counts[0] == counts[1]
    assert counts[0][1] is not None
    assert counts[0][1][0] >= 1
