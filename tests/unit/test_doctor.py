"""The doctor's parts: what each thing that can be wrong is called, and that no secret and no hang gets through."""

import os
import sqlite3
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import closing
from email.message import Message
from pathlib import Path

import doctor_cases
import pytest
from click.testing import CliRunner
from factories import write_data_set

from sa2net.cli import cli
from sa2net.errors import ConfigError, DataError
from sa2net.steps.doctor import CHECKS, Check, Options, clock, dataset, examine, findings, gpu, machine, tracking, web

# --- secrets ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://anna:hunter22@mlflow.org/x failed", "GET https://mlflow.org/x failed"),
        ("postgresql://anna:p@ss/wo@rd@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("token 'sesame-123' refused,\n  sesame-123 it was", "token '***' refused, *** it was"),
        ("password p@ss/wo@rd or p%40ss%2Fwo%40rd", "password *** or ***"),
        (
            "https://s3/x?X-Amz-Signature=abc&X-Amz-Credential=k%2Fd&a=1",
            "https://s3/x?X-Amz-Signature=***&X-Amz-Credential=***&a=1",
        ),
        ("the file /run/token", "the file /run/token"),
        ("nothing secret here", "nothing secret here"),
    ],
)
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    environment = {
        "MLFLOW_TRACKING_URI": "postgresql://anna:p@ss/wo@rd@db:5432/mlflow",
        "KF_PIPELINES_TOKEN": "sesame-123\n",
        "KF_PIPELINES_SA_TOKEN_PATH": "/run/token",
        "AWS_SECRET_ACCESS_KEY": "",
        "SHORT_TOKEN": "it",
    }
    assert findings.redacted(text, findings.secrets_of(Options(), environment)) == expected


def test_secrets_in_the_options_are_taken_out_too() -> None:
    secrets = findings.secrets_of(Options(kfp_endpoint="https://anna:hunter22@kfp"), {})
    assert findings.redacted("hunter22 at anna:hunter22", secrets) == "*** at ***"


# --- processes ---


def run_all(options: Options | None = None, limit: float = 2.0, required: tuple[str, ...] = (), **looks: object):
    checks = {name: Check(look, 3) for name, look in looks.items()}  # type: ignore[arg-type]
    return {
        finding.name: finding
        for finding in examine(list(checks), options or Options(), checks=checks, limit=limit, required=required)
    }


def test_one_check_that_breaks_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "opensesame")
    monkeypatch.setenv("DOCTOR_WORD", "today")
    found = run_all(
        Options(s3="s3://me:very-secret@b", kfp_endpoint="kfp"),
        broken=doctor_cases.says_too_much,
        gone=doctor_cases.vanishes,
        ours=doctor_cases.our_error,
        fine=doctor_cases.fine,
        remark=doctor_cases.remark,
    )
    assert list(found) == ["broken", "gone", "ours", "fine", "remark"]
    assert found["broken"].evidence == "the check itself broke: RuntimeError: cannot open s3://b with ***"
    assert found["broken"].verdict == "fail"
    assert "exit code 3" in found["gone"].evidence
    assert (found["ours"].evidence, found["ours"].cure) == ("the data are bad: row 7", "Mend row 7.")
    assert (found["fine"].verdict, found["fine"].evidence) == ("ok", "all is well at kfp in today")
    assert found["remark"].verdict == "note"
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_required_note_is_a_failure() -> None:
    found = run_all(required=("remark", "fine"), remark=doctor_cases.remark, fine=doctor_cases.fine)
    assert found["remark"].verdict == "fail"
    assert found["remark"].cure == "make one"
    assert found["fine"].verdict == "ok"


def test_a_check_that_hangs_is_ended_and_cleans_up(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    started = time.monotonic()
    found = run_all(Options(s3=str(probe)), limit=1.0, slow=doctor_cases.hangs, fine=doctor_cases.fine)
    assert time.monotonic() - started < 20
    assert found["slow"].verdict == "fail"
    assert "no result within 1 s" in found["slow"].evidence
    assert found["fine"].verdict == "ok"
    assert not probe.exists()


def test_a_check_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sa2net.steps.doctor.running._GRACE", 0.5)
    pid = tmp_path / "pid"
    assert run_all(Options(s3=str(pid)), limit=1.0, slow=doctor_cases.hangs_for_good)["slow"].verdict == "fail"
    for _ in range(50):
        status = Path(f"/proc/{pid.read_text()}/stat")
        if not status.exists() or ") Z " in status.read_text():
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


def test_an_abandoned_examination_ends_its_processes(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    checks = {"fine": Check(doctor_cases.fine, 3), "slow": Check(doctor_cases.hangs, 3)}
    running = examine(list(checks), Options(s3=str(probe)), checks=checks, limit=60)
    assert next(running).name == "fine"
    while not probe.exists():
        time.sleep(0.05)
    running.close()
    assert not probe.exists()


# --- the command line ---


def test_unknown_names_are_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--only", "gpu,nonsense"])
    assert result.exit_code == 2
    assert "nonsense: not one of python, settings, disk" in result.output


def test_help_tells_every_check_and_every_exit_code() -> None:
    text = CliRunner().invoke(cli, ["doctor", "--help"]).output
    told = {}
    for part in text.split("first line that fails:")[1].split("Keys come")[0].replace(".", "").split(";"):
        code, *names = part.split()
        told |= dict.fromkeys(names, int(code))
    assert told == {name: check.exit_code for name, check in CHECKS.items()}


# --- Python and packages, settings ---


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    from importlib.metadata import version

    lock = tmp_path / "constraints.txt"
    lock.write_text(
        f"# locked\nClick=={version('click')}\nNumPy==1.0  # a reason\npy_yaml-unknown==3\ntorch==0.1; python_version > '3'\n"
    )
    assert machine.pinned_versions(lock.read_text()) == {
        "click": version("click"),
        "numpy": "1.0",
        "py-yaml-unknown": "3",
        "torch": "0.1",
    }
    found = machine.check_python(Options(), lock)
    assert found.verdict == "note"
    assert f"numpy {version('numpy')} for 1.0" in found.evidence
    assert "click" not in found.evidence
    lock.write_text(f"click=={version('click')}\n")
    assert machine.check_python(Options(), lock).verdict == "ok"
    assert "no constraints.txt" in machine.check_python(Options(), tmp_path / "none").evidence


def test_a_local_build_of_a_package_counts_as_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints.txt").write_text("torch==2.9.0\n")
    monkeypatch.setattr(machine, "_installed", lambda: {"torch": "2.9.0+cpu"})
    found = machine.check_python(Options(), tmp_path / "constraints.txt")
    assert found.verdict == "ok"
    assert "without the parts data, pipeline, registry" in found.evidence


def test_settings(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    assert machine.check_settings(Options(params=params)).verdict == "ok"
    params.write_text("train: {epochs: 3}\n")
    assert machine.check_settings(Options(params=params)).verdict == "ok"
    params.write_text("train: {epoch: 3}\n")
    found = machine.check_settings(Options(params=params))
    assert found.verdict == "fail"
    assert "epoch" in found.evidence


# --- disk, shared memory ---


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var" / "deep"))
    enough = Options(build=tmp_path / "build", free_gb=0, free_temp_gb=0)
    assert machine.check_disk(enough).verdict == "ok"
    assert list(tmp_path.iterdir()) == []
    full = machine.check_disk(Options(build=tmp_path / "build", free_gb=1e9, free_temp_gb=0))
    assert full.verdict == "fail"
    assert "GB free of 1e+09 needed" in full.evidence
    assert "make clean" in full.cure
    temp = machine.check_disk(Options(build=tmp_path / "build", free_gb=0, free_temp_gb=1e9))
    assert "TMPDIR" in temp.cure
    assert "make clean" not in temp.cure


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = machine.check_disk(Options(build=tmp_path / "file", free_gb=0, free_temp_gb=0))
    assert found.verdict == "fail"
    assert "cannot be written" in found.evidence


def test_shared_memory_matters_where_there_are_workers(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    tight = Options(params=params, free_shm_gb=1e9)
    params.write_text("train: {workers: 0}\n")
    assert machine.check_shared_memory(tight, tmp_path).verdict == "note"
    params.write_text("train: {workers: 4}\n")
    found = machine.check_shared_memory(tight, tmp_path)
    assert found.verdict == "fail"
    assert "train.workers is 4" in found.evidence
    assert "--shm-size" in found.cure
    assert machine.check_shared_memory(Options(params=params, free_shm_gb=0), tmp_path).verdict == "ok"
    assert machine.check_shared_memory(tight, tmp_path / "none").verdict == "ok"


# --- GPU ---

CARD = gpu.Driver(("NVIDIA T4",), "535.54", (12, 2))


@pytest.mark.parametrize(
    ("built", "driver", "visible", "verdict", "words"),
    [
        ("12.8", gpu.Driver(), None, "note", "no GPU"),
        ("", gpu.Driver(), None, "note", "no GPU"),
        ("", CARD, None, "fail", "built without CUDA"),
        ("12.8", CARD, "", "note", "hidden by CUDA_VISIBLE_DEVICES"),
        ("12.8", CARD, "-1", "note", "hidden by CUDA_VISIBLE_DEVICES"),
        ("13.0", CARD, None, "fail", "runs CUDA up to 12.2, torch was built for 13.0"),
        ("12.8", CARD, "0", "fail", "cannot start it"),  # a minor version is no obstacle
        ("13.0", gpu.Driver(("A", "B"), "1", (0, 0)), None, "fail", "2 GPUs: A; B are there"),
        (
            "12.8",
            gpu.Driver(trouble="couldn't communicate"),
            None,
            "fail",
            "driver does not work: couldn't communicate",
        ),
    ],
)
def test_why_torch_sees_no_gpu(built: str, driver: gpu.Driver, visible: str | None, verdict: str, words: str) -> None:
    found = gpu.explain_absence("2.9", built, driver, visible)
    assert found.verdict == verdict
    assert words in found.evidence
    assert found.cure


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("CUDA error: out of memory", "no free memory"),
        ("CUDA error: no kernel image is available for execution on the device", "built for (sm_80, sm_90)"),
        ("CUDA error: an illegal memory access was encountered", "does not compute: CUDA error: an illegal"),
    ],
)
def test_why_a_gpu_does_not_compute(message: str, words: str) -> None:
    found = gpu.explain_fault("GPU 0 (X)", message, ["sm_80", "sm_90"])
    assert found.verdict == "fail"
    assert words in found.evidence


@pytest.mark.parametrize(
    ("script", "cards", "version", "trouble"),
    [
        ("echo 'NVIDIA A100, SXM, 550.1'; echo 'NVIDIA T4, 550.1'", ("NVIDIA A100, SXM", "NVIDIA T4"), "550.1", ""),
        ("echo 'No devices were found'; exit 6", (), "", ""),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", (), "", "NVIDIA-SMI has failed: no driver"),
        ("exit 4", (), "", "nvidia-smi ended with 4"),
    ],
)
def test_what_the_driver_says(
    script: str, cards: tuple[str, ...], version: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    driver = gpu.ask_driver(tmp_path / "unknown")
    assert (driver.cards, driver.version, driver.trouble) == (cards, version, trouble)
    vendor = tmp_path / "devices" / "0000:00:1e.0" / "vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x8086\n")
    assert gpu.ask_driver(tmp_path / "devices").trouble == ""
    vendor.write_text("0x10de\n")
    assert gpu.ask_driver(tmp_path / "devices").trouble == trouble


class OneDevice:
    """A torch whose GPU is the processor: the check computes with the real one, the card is made up."""

    def __init__(self, **replaced: object) -> None:
        import torch

        self.__version__, self.real = torch.__version__, torch
        self.version = namedtuple("V", "cuda hip")("12.8", None)
        card = namedtuple("P", "name")("Card")
        functions = {
            "device_count": lambda: 1,
            "get_device_properties": lambda index: card,
            "mem_get_info": lambda index: (3_000_000_000, 4_000_000_000),
            "get_arch_list": lambda: ["sm_90"],
        }
        self.cuda = type("cuda", (), {name: staticmethod(value) for name, value in (functions | replaced).items()})

    def ones(self, *size: int, device: str):
        return self.real.ones(*size)


def test_a_gpu_that_computes() -> None:
    found = gpu.try_devices(OneDevice(), CARD)
    assert found.verdict == "ok"
    assert "Card 3.0 of 4.0 GB free" in found.evidence
    assert "CUDA 12.8, driver 535.54 up to CUDA 12.2" in found.evidence


def test_a_gpu_that_computes_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneDevice, "ones", lambda self, *size, device: self.real.full(size, 1.5))
    assert "computes wrongly: 589824.0 for 262144" in gpu.try_devices(OneDevice(), CARD).evidence  # 64^3 * 2.25


def test_a_gpu_without_memory() -> None:
    def full(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory")

    assert "no free memory" in gpu.try_devices(OneDevice(mem_get_info=full), CARD).evidence


# --- data ---


def dvc(*words: str, cwd: Path) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=cwd, check=True, capture_output=True, env=environment, timeout=120
    )


def test_data_against_their_pointer(tmp_path: Path) -> None:
    pointer = tmp_path / "data.dvc"
    options = Options(pointer=pointer)
    assert dataset.check_data(options).verdict == "note"
    dvc("init", "--no-scm", "-q", cwd=tmp_path)
    root = write_data_set(tmp_path / "data" / "scoliosis3classes")
    dvc("add", "-q", "data", cwd=tmp_path)
    assert dataset.check_data(options).verdict == "ok"
    listing = root / "train.txt"
    before = listing.read_bytes()
    listing.write_bytes(before[::-1])  # as many bytes
    found = dataset.check_data(options)
    assert (found.verdict, "has changed since" in found.evidence) == ("note", True)
    listing.write_bytes(before + b"\n")
    assert "the pointer says" in dataset.check_data(options).evidence
    (tmp_path / "data").rename(tmp_path / "away")
    found = dataset.check_data(options)
    assert "not fetched" in found.evidence
    assert "dvc pull" in found.cure


@pytest.mark.parametrize("text", ["", "outs: []", "outs: [{md5: a.dir}]", "[", "outs: [{path: x, md5: abc}]", "\0"])
def test_a_pointer_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(DataError, match=r"DVC pointer|points to a file"):
        dataset.check_data(Options(pointer=tmp_path / "data.dvc"))


# --- MLflow in a file ---


def test_a_local_store(tmp_path: Path) -> None:
    from sa2net.registry import store

    file = tmp_path / "mlflow.db"
    found = tracking.check_file(file, chosen=False)
    assert (found.verdict, file.exists()) == ("note", False)
    store.client_for(f"sqlite:///{file}").create_experiment("one")
    before = file.read_bytes()
    found = tracking.check_file(file, chosen=True)
    assert found.verdict == "ok"
    assert "2 experiments, 0 registered models, writable" in found.evidence  # `Default` is there always
    assert file.read_bytes() == before
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin exclusive")
        locked = tracking.check_file(file, chosen=True)
    assert (locked.verdict, "another process" in locked.evidence) == ("note", True)


def test_a_store_that_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"x" * 5000)
    found = tracking.check_file(file, chosen=True)
    assert (found.verdict, "damaged" in found.evidence) == ("fail", True)
    file.write_bytes(b"")
    found = tracking.check_file(file, chosen=True)
    assert (found.verdict, "lacks the tables" in found.evidence) == ("fail", True)
    assert file.read_bytes() == b""
    file.unlink()
    file.mkdir()
    assert tracking.check_file(file, chosen=True).verdict == "fail"


def test_an_address_that_mlflow_no_longer_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/somewhere")
    with pytest.raises(ConfigError, match="no longer serves"):
        tracking.check_mlflow(Options())


def test_credentials_as_the_client_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    assert tracking.credentials("http://h") == {}
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert tracking.credentials("http://h") == {"Authorization": "Bearer t"}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "a")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "b")
    assert tracking.credentials("http://h") == {"Authorization": "Basic YTpi"}
    assert tracking.credentials("http://c:d%40@h") == {"Authorization": "Basic YzpkQA=="}


# --- clock, web ---


@pytest.mark.parametrize(
    ("offsets", "verdict", "words"),
    [
        ({"s3": 0.4, "kfp": -59.0}, "ok", "within 59 s of s3, kfp"),
        ({"s3": 61.0}, "note", "61 s ahead of s3"),
        ({"s3": 0.0, "kfp": -899.0}, "note", "899 s behind kfp"),
        ({"s3": -901.0}, "fail", "901 s behind s3: S3 refuses"),
    ],
)
def test_the_clock(offsets: dict[str, float], verdict: str, words: str) -> None:
    found = clock.judge(offsets)
    assert found.verdict == verdict
    assert words in found.evidence


def test_which_servers_the_clock_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert clock.servers_in_use(Options()) == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://a:b@mlflow.org/base/")
    options = Options(s3="s3://b/p", endpoint_url="http://s3:8333/", kfp_endpoint="kfp.org/pipeline/")
    assert clock.servers_in_use(options) == {
        "mlflow": "https://mlflow.org/base/health",
        "s3": "http://s3:8333/",
        "kfp": "https://kfp.org/pipeline/",
    }


@pytest.mark.parametrize(
    ("kind", "body", "page"),
    [
        ("text/html", b"OK", False),
        ("text/html", b"<html>", True),
        ("application/json", b"  <!DOCTYPE html><html>", True),
        ("application/xml", b"<?xml version='1.0'?><Error/>", False),
    ],
)
def test_what_is_a_page_for_people(kind: str, body: bytes, page: bool) -> None:
    headers = Message()
    headers["Content-Type"] = kind
    assert web.Answer(200, headers, body).is_page is page
