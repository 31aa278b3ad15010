"""Submission: the real command and the real client against a local server that holds every request against the API."""

import contextlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import kfp
import kfp_server_api
import pytest
import yaml
from kfp_server import Fault, KfpServer, Stage, running
from spec_check import faults, load

from pipelines.compile import compile_training
from pipelines.cron import six_fields
from pipelines.submit import main
from pipelines.watch import clock_text
from sa2net.artifacts import write_json
from sa2net.errors import ConfigError, Sa2NetError

ROOT = Path(__file__).parents[2]
TOKEN = "eyJhbGciOiJ.very-secret-token.c2ln"
COOKIES = "authservice_session=MTY5-secret-session; other=abcdefgh"
DIGEST = "sha256:" + "ab" * 32
PAGE = "<!DOCTYPE html><html><head><title>Log in to Dex</title></head></html>"
STEPS = ("pointer", "fetch", "validate", "train", "evaluate", "register")


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the command reads by default; no login and no endpoint from outside."""
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "project"
    (folder / "infra").mkdir(parents=True)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for name in ("infra/environments.yaml", "data.dvc", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    images = yaml.safe_load((folder / "infra" / "environments.yaml").read_text())["cluster"]["images"].values()
    write_json(folder / "infra" / "images.lock.json", {"schema_version": 1, "images": dict.fromkeys(images, DIGEST)})
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A server that lets us into one namespace with a token."""
    with running(token=TOKEN, namespace="sa2net") as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setenv("KF_PIPELINES_TOKEN", TOKEN)
        yield server


def submit(*arguments: str) -> Outcome:
    """The command in this process; errors as `run_command` would end them."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main(list(arguments), standalone_mode=False)
        except Sa2NetError as error:
            code = error.exit_code
            err.write(str(error))
        except click.ClickException as error:
            code = error.exit_code
            err.write(error.format_message())
    outcome = Outcome(code, out.getvalue(), err.getvalue())
    assert TOKEN not in outcome.text
    assert "secret-session" not in outcome.text
    return outcome


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.submit", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The compiled pipeline, as a run of the server holds it."""
    with contextlib.chdir(ROOT):
        file = compile_training("cluster", tmp_path_factory.mktemp("compiled") / "training.yaml").file
    spec, platform = load(file)
    return {"pipeline_spec": spec, "platform_spec": platform}


@pytest.fixture
def begun(server: KfpServer, document: dict[str, Any]) -> str:
    """Id of a run that was submitted earlier."""
    return server.begin(document)


def run_id_of(server: KfpServer) -> str:
    """The one run that the server knows."""
    (identifier,) = server.runs
    return identifier


def stages(*states: str, **more: Any) -> list[Stage]:
    """Looks at a run that trains and then ends."""
    done = dict.fromkeys(STEPS[:3], "SUCCEEDED")
    return [Stage("RUNNING", {**done, "train": "RUNNING"})] + [
        Stage(state, {**done, "train": state if state == "FAILED" else "RUNNING"}, **more) for state in states
    ]


# What is sent


def test_a_submission_is_right_by_the_api_and_leaves_no_trace_of_the_login(server: KfpServer, tmp_path: Path) -> None:
    ended = command("--env", "cluster", "--set", "train.epochs=3", "--recipe", "smoke")
    assert ended.returncode == 0, ended.stderr
    run = server.runs[run_id_of(server)]
    (experiment,) = server.experiments.values()
    assert (experiment["display_name"], experiment["namespace"]) == ("sa2net", "sa2net")
    assert run["experiment_id"] == experiment["experiment_id"]
    assert run["service_account"] == "sa2net-pipeline"
    assert run["display_name"].startswith("sa2net-training ")
    document = run["pipeline_spec"]
    assert faults(document["pipeline_spec"], document["platform_spec"], pinned=True) == []
    train = document["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]["train"]["defaultValue"]
    assert (train["epochs"], train["sweep_width"]) == (
        3,
        yaml.safe_load(Path("recipes/smoke.yaml").read_text())["train"].get("sweep_width", train["sweep_width"]),
    )
    assert f"{server.url}/#/runs/details/{run['run_id']}" in ended.stdout
    assert f"--watch {run['run_id']}" in ended.stdout
    assert all(item.headers["authorization"] == f"Bearer {TOKEN}" for item in server.requests)
    assert TOKEN not in ended.stdout + ended.stderr
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN in file.read_text(encoding="utf-8", errors="replace")]
    assert not list((tmp_path / "home").iterdir())


def test_what_was_compiled_is_what_is_sent(server: KfpServer) -> None:
    assert submit().code == 0
    sent = server.runs[run_id_of(server)]["pipeline_spec"]
    spec, platform = load(Path("build/training.yaml"))
    assert sent["pipeline_spec"] == json.loads(json.dumps(spec))
    assert sent["platform_spec"] == json.loads(json.dumps(platform))


def test_an_experiment_is_made_once(server: KfpServer) -> None:
    assert submit("--name", "first").code == submit("--name", "second").code == 0
    assert [run["display_name"] for run in server.runs.values()] == ["first", "second"]
    assert len(server.experiments) == 1


def test_an_experiment_that_somebody_makes_at_the_same_moment_is_taken(server: KfpServer) -> None:
    assert submit().code == 0
    server.faults = [Fault("GET /experiments", status=200, body="{}", times=1)]
    assert submit().code == 0
    assert len(server.experiments) == 1
    assert len(server.runs) == 2


def test_a_single_user_installation_gets_no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("infra/environments.yaml")
    file.write_text(file.read_text().replace("  namespace: sa2net ", "  namespace: '' "))
    with running() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        assert submit().code == 0
        assert "authorization" not in server.requests[0].headers
        assert next(iter(server.experiments.values())).get("namespace", "") == ""


def test_the_plain_command_of_kfp_takes_the_compiled_file(server: KfpServer) -> None:
    assert submit("--dry-run").code == 0
    kfp_command = [str(Path(sys.executable).parent / "kfp"), "--endpoint", server.url, "--namespace", "sa2net"]
    ended = subprocess.run(
        [*kfp_command, "--existing-token", TOKEN, "run", "create", "-f", "build/training.yaml", "-e", "by-hand"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert next(iter(server.experiments.values()))["display_name"] == "by-hand"
    assert set(server.runs[run_id_of(server)]["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]) == set(STEPS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--name", "one"),
        ("--upload", "sa2net-training"),
        ("--cron", "0 3 * * 1", "--data", "s3://bucket/data.dvc"),
    ],
)
def test_a_dry_run_prints_the_very_requests_and_sends_none(server: KfpServer, arguments: tuple[str, ...]) -> None:
    dry = submit(*arguments, "--dry-run")
    assert dry.code == 0, dry.text
    assert server.requests == []
    printed = json.loads(dry.out)
    assert printed["endpoint"] == server.url
    assert {item["headers"]["authorization"] for item in printed["requests"]} == {"Bearer ***"}
    assert submit(*arguments).code == 0
    assert len(printed["requests"]) == len(server.requests)
    for shown, sent in zip(printed["requests"], server.requests, strict=True):
        path, _, query = shown["path"].partition("?")
        assert (shown["method"], path) == (sent.method, f"/apis/v2beta1{sent.path}")
        assert {part.split("=")[0] for part in query.split("&") if part} == set(sent.query)
        if sent.path == "/pipelines/upload":
            assert shown["body"]["uploadfile"]["bytes"] == len(sent.body["uploadfile"])
        elif sent.body:
            sent.body.update({"experiment_id": shown["body"]["experiment_id"]} if "experiment_id" in sent.body else {})
            assert shown["body"] == sent.body


def test_a_dry_run_of_cancelling_sends_nothing(server: KfpServer) -> None:
    dry = submit("--cancel", "abc-1", "--dry-run")
    assert [item["path"] for item in json.loads(dry.out)["requests"]][-1] == "/apis/v2beta1/runs/abc-1:terminate"
    assert server.requests == []


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "train.epoch=3"), "train.epoch"),
        (("--set", "train.device=cpu"), "reserves a GPU"),
        (("--recipe", "none-such"), "recipe none-such is unknown"),
        (("--env", "moon"), "there is no environment 'moon'"),
        (("--data", "gone.dvc"), "gone.dvc"),
        (("--ca", "gone.pem"), "gone.pem cannot be used"),
        (("--cron", "61 3 * * 1"), "'61' is no minute"),
        (("--cancel", "../experiments"), "is no id of a run"),
        (("--cancel", ""), "--cancel is empty"),
        (("--name", ""), "--name is empty"),
        (("--upload", "a", "--cron", "0 3 * * 1"), "give one"),
        (("--cancel", "abc", "--watch", "abc"), "give one"),
        (("--cancel", "abc", "--set", "train.epochs=3"), "--set means nothing with --cancel"),
        (("--watch", "abc", "--data", "x.dvc"), "--data means nothing with --watch"),
        (("--watch", "abc", "--dry-run"), "means nothing with --watch"),
        (("--upload", "a", "--watch"), "--watch means nothing with --upload"),
        (("--upload", "a", "--replace"), "--replace means nothing with --upload"),
        (("--replace",), "--replace means nothing with a single run"),
        (("--interval", "3"), "--interval means nothing without --watch"),
        (("--dry-run", "--watch"), "nothing to watch"),
    ],
)
def test_what_cannot_work_is_refused_here(server: KfpServer, arguments: tuple[str, ...], said: str) -> None:
    outcome = submit(*arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert server.requests == []


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--upload", "a"), ("--cron", "0 3 * * 1")])
def test_an_image_that_is_not_pinned_is_refused(server: KfpServer, more: tuple[str, ...]) -> None:
    lock = Path("infra/images.lock.json")
    images = json.loads(lock.read_text())["images"]
    write_json(lock, {"schema_version": 1, "images": {name: images[name] for name in images if "tools" in name}})
    outcome = submit(*more)
    assert outcome.code == 2
    assert "torch:0.1.0" in outcome.err
    assert "tools:0.1.0" not in outcome.err
    assert "make pin" in outcome.err
    assert server.requests == []


def test_no_endpoint_is_said_and_no_other_cluster_taken(tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".kube"
    folder.mkdir()
    (folder / "config").write_text("a cluster that kubectl would use")
    outcome = submit()
    assert outcome.code == 2
    assert "KF_PIPELINES_ENDPOINT" in outcome.err


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("https://ann:pa55word@host", "user name or password"),
        ("host:8080", "is no address"),
        ("http://", "is no address"),
        ("http://host:99999", "is no address"),
        ("ftp://host", "is no address"),
        ("http://host/#/runs", "is no address"),
        ("https://abc-dot-europe.pipelines.googleusercontent.com", "Google"),
    ],
)
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", endpoint)
    outcome = submit("--watch", "abc")
    assert outcome.code == 2
    assert said in outcome.err
    assert "pa55word" not in outcome.text


# Logins


def test_a_session_and_the_token_of_a_pod_open_the_door_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: dict[str, Any]
) -> None:
    with running(cookies=COOKIES) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        run_id = server.begin(document)
        outcome = submit("--watch", run_id)
        assert outcome.code == 6
        assert "wants a login" in outcome.err
        monkeypatch.setenv("KF_PIPELINES_COOKIES", COOKIES)
        assert submit("--watch", run_id).code == 0
    monkeypatch.delenv("KF_PIPELINES_COOKIES")
    with running(token=TOKEN) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        run_id = server.begin(document)
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        assert submit("--watch", run_id).code == 0
        (tmp_path / "token").write_text("expired-token")
        outcome = submit("--watch", run_id)
        assert outcome.code == 6
        assert str(tmp_path / "token") in outcome.err


@pytest.mark.parametrize("name", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES"])
def test_a_login_that_cannot_be_sent_is_not_repeated(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    monkeypatch.setenv(name, "line-one\nline-two")
    outcome = submit()
    assert outcome.code == 2
    assert name in outcome.err
    assert "line-" not in outcome.text


def test_a_server_that_repeats_the_token_does_not_get_it_printed(server: KfpServer) -> None:
    server.faults = [Fault(status=401, body=json.dumps({"code": 16, "error": f"Bearer {TOKEN} is bad\x1b[31m"}))]
    outcome = submit()
    assert outcome.code == 6
    assert "does not let us in with the token in KF_PIPELINES_TOKEN" in outcome.err
    assert "*** is bad" in outcome.err
    assert "\x1b" not in outcome.err


# Servers that do not play along

FAULTS = {
    "unauthorised": (Fault(status=401, body='{"code": 16, "error": "expired"}'), "does not let us in"),
    "forbidden": (Fault(status=403, body='{"code": 7, "error": "no"}'), "does not allow this in the namespace sa2net"),
    "another server": (Fault(status=404, body="404 page not found", kind="text/plain"), "no Kubeflow Pipelines API at"),
    "conflict": (Fault("POST /runs", 409, '{"code": 6, "error": "exists"}'), "has one already"),
    "bad request": (Fault("POST /runs", 400, '{"code": 3, "error": "no such field"}'), "refuses the request: HTTP 400: no such field"),
    "internal": (Fault(status=500, body='{"code": 13, "message": "database is away"}'), "HTTP 500: database is away"),
    "gateway": (Fault(status=502, body="<html><title>Bad gateway</title></html>", kind="text/html"), "HTTP 502: Bad gateway"),
    "not text": (Fault(status=500, body="\udcff"), "cannot answer at the moment"),
    "login page": (Fault(status=200, body=PAGE, kind="text/html"), "web page, not as a Kubeflow Pipelines API: Log in to Dex"),
    "login page without a type": (Fault(status=200, body=PAGE), "web page"),
    "redirect": (Fault(status=302, headers={"Location": "https://dex.example.org/auth?state=abc"}), "elsewhere: HTTP 302 to https://dex.example.org/auth."),
    "half an answer": (Fault(status=200, body='{"experiments": ['), "no JSON object"),
    "a list": (Fault(status=200, body="[]"), "no JSON object"),
    "nothing": (Fault("POST /.*", status=200, body=""), "experiment_id is missing"),
    "another API": (Fault("POST /runs", status=200, body='{"hello": "world"}'), "run_id is missing"),
    "wrong types": (Fault("GET /experiments", status=200, body='{"experiments": 7}'), "in a form that is not the API's"),
    "wrong time": (Fault("POST /runs", status=200, body='{"run_id": "a", "created_at": [1]}'), "in a form that is not the API's"),
    "dropped": (Fault(status=0), "broke before the answer was whole"),
    "strange charset": (Fault(status=200, body="{}", kind="application/json; charset=klingon"), "in a form that is not the API's"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_does_not_play_along(server: KfpServer, begun: str, name: str) -> None:
    fault, said = FAULTS[name]
    server.faults = [fault]
    outcome = submit("--watch", begun) if fault.route == ".*" else submit()
    assert outcome.code == 6, outcome.text
    assert said in outcome.err
    assert "state=abc" not in outcome.err
    assert list(server.runs) == [begun]


def test_the_real_command_ends_with_a_line_and_the_code(server: KfpServer) -> None:
    server.faults = [Fault(status=403, body='{"code": 7, "error": "no"}')]
    ended = command()
    assert ended.returncode == 6
    assert ended.stderr.startswith("pipelines.submit: ")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stdout == ""


def test_a_slow_server_is_waited_for_so_long_and_a_run_is_not_started_twice(server: KfpServer) -> None:
    server.faults = [Fault("POST /runs", seconds=1.5)]
    begin = time.monotonic()
    outcome = submit("--timeout", "0.4")
    assert outcome.code == 6
    assert "did not answer within 0.4 s" in outcome.err
    assert "may have arrived" in outcome.err
    assert len(server.sent("POST /runs")) == 1
    assert time.monotonic() - begin < 30


def test_a_lost_answer_to_a_new_run_is_not_repeated(server: KfpServer) -> None:
    server.faults = [Fault("POST /runs", status=0)]
    outcome = submit()
    assert outcome.code == 6
    assert "may have arrived: look for it there before you repeat it" in outcome.err
    assert len(server.sent("POST /runs")) == 1


def test_a_question_is_asked_again(server: KfpServer) -> None:
    server.faults = [Fault("GET /experiments", status=503, times=1), Fault("GET /experiments", status=0, times=1)]
    assert submit().code == 0
    assert len(server.sent("GET /experiments")) == 3


def test_nobody_listens_and_an_unknown_host(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.close()
    outcome = submit("--watch", "abc")
    assert outcome.code == 6
    assert "nothing listens at" in outcome.err
    assert "connection refused" in outcome.err
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://kfp.invalid:8888")
    outcome = submit("--watch", "abc")
    assert outcome.code == 6
    assert "the host of http://kfp.invalid:8888 is not known" in outcome.err


def test_a_certificate_must_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    certificate = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with running(tls=context) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        run_id = server.begin(document)
        outcome = submit("--watch", run_id)
        assert outcome.code == 6
        assert "is not trusted: self-signed certificate. Name the authority" in outcome.err
        assert submit("--watch", run_id, "--ca", str(certificate)).code == 0
        monkeypatch.setenv("KF_PIPELINES_SSL_CA_CERT", str(certificate))
        assert submit("--watch", run_id).code == 0
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url.replace("https", "http"))
        assert submit("--watch", run_id).code == 6
    with running() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url.replace("http", "https"))
        outcome = submit("--watch", run_id)
        assert outcome.code == 6
        assert "does not speak TLS" in outcome.err


def write_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


# Watching

FAST = ("--interval", "0.05")


def test_watching_says_each_change_once_and_ends_with_the_run(server: KfpServer) -> None:
    tasks = {"pointer": "SUCCEEDED", "fetch": "RUNNING"}
    server.script = [
        Stage(""),
        Stage("RUNNING", tasks),
        Stage("RUNNING", tasks),
        Stage("RUNNING", {**tasks, "fetch": "SUCCEEDED", "executor": "SUCCEEDED"}),
        Stage("SUCCEEDED", dict.fromkeys(STEPS, "SUCCEEDED")),
    ]
    outcome = submit("--watch", *FAST)
    assert outcome.code == 0, outcome.text
    lines = [line.split() for line in outcome.out.splitlines()[2:]]
    assert lines[:5] == [
        ["run", "PENDING", "00:00:00"],
        ["pointer", "SUCCEEDED", "00:00:55", "(took", "00:00:43)"],
        ["fetch", "RUNNING", "00:01:12"],
        ["run", "RUNNING", "00:00:00"],
        ["fetch", "SUCCEEDED", "00:01:55", "(took", "00:00:43)"],
    ]
    assert [line[0] for line in lines[5:-1]] == list(STEPS[2:])
    assert outcome.out.splitlines()[-1] == f"run {run_id_of(server)} succeeded after 01:00:00"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("tasks", "messages", "said"),
    [
        ({"train": "FAILED"}, {"train": "OOMKilled"}, "failed in train: OOMKilled"),
        ({"train": "FAILED", "executor": "FAILED"}, {"executor": "exit code 3"}, "failed in train: exit code 3"),
        ({"train": "FAILED"}, {"": "deadline exceeded"}, "failed in train: deadline exceeded"),
        ({"train": "FAILED"}, {}, "failed in train: the server gives no message"),
        ({"train-driver": "FAILED"}, {"train-driver": "no such secret"}, "failed in train: no such secret"),
        ({}, {"": "quota exceeded"}, "failed: quota exceeded"),
    ],
)
def test_a_failed_run_names_the_step_and_the_message(
    server: KfpServer, begun: str, tasks: dict[str, str], messages: dict[str, str], said: str, known: bool
) -> None:
    server.script = [Stage("RUNNING", known=known), Stage("FAILED", tasks, messages, known=known)]
    outcome = submit("--watch", begun, *FAST)
    assert outcome.code == 6
    assert f"run {begun} {said}" in outcome.err
    assert f"{server.url}/#/runs/details/{begun}" in outcome.err


@pytest.mark.parametrize(
    ("state", "said"), [("CANCELED", "was cancelled after 01:00:00: not finished: train"), ("SKIPPED", "was skipped")]
)
def test_a_run_that_did_not_run_to_its_end_is_no_success(server: KfpServer, begun: str, state: str, said: str) -> None:
    server.script = stages(state)
    outcome = submit("--watch", begun, *FAST)
    assert outcome.code == 6
    assert said in outcome.err


def test_a_paused_run_is_waited_for_and_said(server: KfpServer, begun: str) -> None:
    server.script = stages("PAUSED", "PAUSED", "RUNNING", "SUCCEEDED")
    outcome = submit("--watch", begun, *FAST)
    assert outcome.code == 0
    assert outcome.out.count("until somebody resumes it") == 1


def test_an_unknown_state_is_not_waited_for_without_end(server: KfpServer, begun: str) -> None:
    server.script = stages("HIBERNATING")
    outcome = submit("--watch", begun, *FAST, "--patience", "0.3")
    assert outcome.code == 6
    assert "unknown state HIBERNATING" in outcome.err


@pytest.mark.parametrize("raw", [{"run_details": {"task_details": 7}}, {"state": ["x"]}, {"created_at": {}}])
def test_a_run_that_cannot_be_read(server: KfpServer, begun: str, raw: dict[str, Any]) -> None:
    server.script = [Stage("RUNNING"), Stage("RUNNING", raw=raw)]
    outcome = submit("--watch", begun, *FAST, "--patience", "0.2")
    assert outcome.code == 6
    assert begun in outcome.err


def test_a_server_that_goes_away_for_a_while_costs_nothing(server: KfpServer) -> None:
    server.script = stages("RUNNING", "RUNNING", "SUCCEEDED")
    server.leave_after = (4, 2.5)  # a look for the experiment, two things made, one look at the run
    outcome = submit("--watch", *FAST, "--patience", "30")
    assert outcome.code == 0, outcome.text
    assert "asking on for 30 s, the run is not affected" in outcome.out
    assert "the server answers again" in outcome.out
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith("train")] == ["RUNNING"]
    assert len(server.runs) == 1


@pytest.mark.parametrize("fault", [Fault("GET /runs/.*", 502, PAGE, "text/html"), Fault("GET /runs/.*", 200, "{")])
def test_a_gateway_that_hiccups_is_no_end(server: KfpServer, begun: str, fault: Fault) -> None:
    server.script = stages("SUCCEEDED")
    server.faults = [Fault(fault.route, fault.status, fault.body, fault.kind, after=1, times=4)]
    assert submit("--watch", begun, *FAST).code == 0


def test_a_server_that_stays_away_ends_the_watching_and_not_the_run(server: KfpServer, begun: str) -> None:
    server.script = stages("RUNNING")
    server.leave_after = (1, 60)
    outcome = submit("--watch", begun, *FAST, "--patience", "0.5")
    assert outcome.code == 6
    run_id = begun
    assert f"run {run_id} cannot be watched: nothing listens" in outcome.err
    assert f"The run itself goes on; watch it again with --watch {run_id}" in outcome.err


def test_a_login_that_expires_ends_the_watching_at_once(server: KfpServer, begun: str) -> None:
    server.script = stages("RUNNING")
    server.faults = [Fault("GET /runs/.*", 401, '{"code": 16, "error": "expired"}', after=2)]
    outcome = submit("--watch", begun, *FAST)
    assert outcome.code == 6
    assert f"--watch {begun}" in outcome.err
    assert len(server.sent("GET /runs/.*")) == 3


def test_a_run_can_be_watched_later_and_an_unknown_one_is_said(server: KfpServer, begun: str) -> None:
    outcome = submit("--watch", begun)
    assert outcome.code == 0
    assert "succeeded" in outcome.out
    assert len(server.runs) == 1
    outcome = submit("--watch", "none-such")
    assert outcome.code == 6
    assert "none-such not found" in outcome.err


def test_an_interrupt_leaves_the_run_running_and_says_how_to_go_on(server: KfpServer) -> None:
    server.script = stages("RUNNING")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.submit", "--watch", *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for line in process.stdout:  # as soon as it watches, not when it has ended
            if line.startswith("train"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert f"--watch {run_id_of(server)}" in err
    assert f"--cancel {run_id_of(server)}" in err
    assert "Traceback" not in err
    assert server.sent("POST .*:terminate") == []


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 6), ("CANCELED", 6)])
def test_the_exit_code_of_the_real_command_tells_the_outcome(server: KfpServer, state: str, code: int) -> None:
    server.script = stages(state)
    ended = command("--watch", *FAST)
    assert ended.returncode == code, ended.stderr
    assert "\ntrain " in ended.stdout
    assert TOKEN not in ended.stdout + ended.stderr


# Cancelling


def test_cancelling(server: KfpServer, begun: str) -> None:
    server.script = stages("RUNNING")
    outcome = submit("--cancel", begun)
    assert outcome.code == 0
    assert len(server.sent(f"POST /runs/{begun}:terminate")) == 1
    outcome = submit("--cancel", begun)
    assert outcome.code == 0
    assert "already" in outcome.out
    assert len(server.sent(f"POST /runs/{begun}:terminate")) == 1
    assert submit("--watch", begun).code == 6


def test_what_has_ended_or_is_unknown_cannot_be_cancelled(server: KfpServer, begun: str) -> None:
    outcome = submit("--cancel", begun)
    assert outcome.code == 6
    assert "it has ended: SUCCEEDED" in outcome.err
    assert submit("--cancel", "none-such").code == 6
    assert server.sent("POST .*:terminate") == []


# Pipelines and recurring runs


def test_an_upload_makes_a_pipeline_and_then_versions_of_it(server: KfpServer) -> None:
    first = submit("--upload", "spine")
    assert first.code == 0, first.text
    time.sleep(1.1)  # versions are told apart by the second
    second = submit("--upload", "spine", "--set", "train.epochs=3")
    assert second.code == 0, second.text
    (pipeline,) = server.pipelines.values()
    versions = server.versions[pipeline["pipeline_id"]]
    assert len(versions) == 2
    assert versions[1]["display_name"].startswith("spine ")
    assert server.sent("POST /pipelines/upload")[0].query["namespace"] == "sa2net"
    assert f"{server.url}/#/pipelines/details/{pipeline['pipeline_id']}" in first.out
    assert f"/version/{versions[1]['pipeline_version_id']}" in second.out
    assert not server.runs


def test_a_recurring_run_is_there_once(server: KfpServer) -> None:
    arguments = ("--cron", "0 3 * * 7", "--data", "s3://bucket/data.dvc")
    outcome = submit(*arguments)
    assert outcome.code == 0, outcome.text
    assert "warning" not in outcome.text
    ((first, kept),) = server.recurring.items()
    assert kept["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 0"}}
    assert (kept["max_concurrency"], kept["no_catchup"], kept["mode"]) == (1, True, "ENABLE")
    parameters = kept["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert parameters["data"]["defaultValue"] == "s3://bucket/data.dvc"
    again = submit(*arguments)
    assert again.code == 6
    assert first in again.err
    assert list(server.recurring) == [first]
    assert submit(*arguments, "--recurring-name", "other").code == 0
    replaced = submit(*arguments, "--replace")
    assert replaced.code == 0
    assert first not in server.recurring
    assert sorted(item["display_name"] for item in server.recurring.values()) == ["other", "sa2net-training"]
    assert not server.runs


def test_a_replacement_that_is_refused_leaves_the_old_one(server: KfpServer) -> None:
    arguments = ("--cron", "0 3 * * 1", "--data", "s3://bucket/data.dvc", "--replace")
    assert submit(*arguments).code == 0
    before = list(server.recurring)
    server.faults = [Fault("POST /recurringruns", 400, '{"code": 3, "error": "no"}')]
    assert submit(*arguments).code == 6
    assert list(server.recurring) == before


def test_an_old_recurring_run_that_cannot_be_deleted_does_not_hide_the_new_one(server: KfpServer) -> None:
    arguments = ("--cron", "0 3 * * 1", "--data", "s3://bucket/data.dvc", "--replace")
    assert submit(*arguments).code == 0
    server.faults = [Fault("DELETE /.*", 500, '{"code": 13, "error": "locked"}')]
    outcome = submit(*arguments)
    assert outcome.code == 6
    assert all(name in outcome.text for name in list(server.recurring)[1:])
    assert len(server.recurring) == 2


def test_a_recurring_run_over_a_fixed_pointer_is_warned_of(server: KfpServer) -> None:
    outcome = submit("--cron", "0 3 * * 1")
    assert outcome.code == 0
    assert "every run will see the data set of today" in outcome.err


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("10 10 * * *", "0 10 10 * * *"),
        ("30 0 3 * * 1", "30 0 3 * * 1"),
        ("*/15 8-18 * * mon-fri", "0 */15 8-18 * * 1,2,3,4,5"),
        ("0 3 * * 7", "0 0 3 * * 0"),
        ("0 3 * * 5-7", "0 0 3 * * 0,5,6"),
        ("0 3 29 2 *", "0 0 3 29 2 *"),
        ("0 3 31 2 1", "0 0 3 31 2 1"),
        ("0 3 1,15 JAN,jul ?", "0 0 3 1,15 JAN,jul ?"),
    ],
)
def test_five_fields_become_the_six_that_are_read(written: str, sent: str) -> None:
    assert six_fields(written) == sent


@pytest.mark.parametrize(
    "written",
    ["", "0 3 * *", "0 0 0 3 * * 1", "60 3 * * 1", "0 24 * * 1", "0 3 0 * *", "0 3 * 13 *", "0 3 * * 8", "0 3 31 2 *",
     "0 3 31 4,6 *", "5-1 3 * * *", "*/0 3 * * *", "a 3 * * *", "0 3 * * -1", "* * * * * *", "@daily", "? 3 * * 1",
     "0 3 * * 1,", "0 3 * foo *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(written: str) -> None:
    with pytest.raises(ConfigError):
        six_fields(written)


def test_times_are_written_in_hours() -> None:
    assert [clock_text(seconds) for seconds in (-3, 59.9, 192, 100 * 3600)] == [
        "00:00:00",
        "00:00:59",
        "00:03:12",
        "100:00:00",
    ]


# The server here is strict, else the tests above would show nothing


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_server_refuses_what_the_api_does_not_have(server: KfpServer) -> None:
    assert submit("--dry-run").code == 0
    client = kfp.Client(host=server.url, existing_token=TOKEN, namespace="sa2net")
    experiment = client.create_experiment("strict", namespace="sa2net").experiment_id
    spec, platform = load(Path("build/training.yaml"))
    good = {
        "experiment_id": experiment,
        "display_name": "a",
        "pipeline_spec": {"pipeline_spec": spec, "platform_spec": platform},
    }
    dangling = json.loads(json.dumps(good))
    dangling["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]["train"]["componentRef"]["name"] = "gone"
    misspelt = json.loads(json.dumps(good))
    misspelt["pipeline_spec"]["platform_spec"]["platfroms"] = {}
    for body, said in (
        ({**good, "colour": "red"}, "has no field colour"),
        ({**good, "display_name": 7}, "is int, not str"),
        ({**good, "runtime_config": {"parameters": []}}, "is no object"),
        ({**good, "experiment_id": "gone"}, "gone not found"),
        ({**good, "state": "SUCCEEDED"}, "the server's to give"),
        ({**good, "state": "DREAMING"}, "is none of"),
        ({**good, "created_at": "soon"}, "is no time"),
        (dangling, "invalid pipeline"),
        (misspelt, "invalid pipeline"),
    ):
        with pytest.raises(kfp_server_api.ApiException, match=said):
            client._run_api.run_service_create_run(run=body)
    client._run_api.run_service_create_run(run=good)
