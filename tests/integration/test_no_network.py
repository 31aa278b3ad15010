"""Nothing leaves the machine unasked: the whole line, with every package that it imports, asks for no other address."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[-1]
        host = address[0] if isinstance(address, tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    if host not in ("", "localhost", "::1", "0.0.0.0") and not host.startswith("127."):
        with open(os.environ["WATCHED"], "a") as stream:
            stream.write(f"{event} {host}\\n")
        raise ConnectionRefusedError(f"{host} is not this machine")

sys.addaudithook(watch)
"""
"""Python starts with it, in every process: what asks for another address is refused, and written down."""

LINE = """
import json, sys
from sa2net.__main__ import main

for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as error:
        assert not error.code, (words, error.code)
"""

TINY = (
    "train.epochs=1", "train.validate_every=1", "train.warmup_epochs=0", "train.sweep_width=48",
    "train.crops_per_scan=1", "train.augment.crop_height=64", "train.augment.crop_width=64", "train.model.channels=16",
    "train.device=cpu", "train.threads=1", "evaluate.device=cpu", "evaluate.threads=1", "register.bootstrap_samples=100",
)  # fmt: skip


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody has switched anything off, and every question to another machine is written down."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(WATCH)
    # Little else: reporters keep silent by themselves where they see a test or a continuous integration.
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join(filter(None, [str(tmp_path / "hook"), str(Path(__file__).parents[2])]))
    own = {"PYTHONPATH": path, "WATCHED": str(tmp_path / "asked"), "SA2NET_VAR": str(tmp_path / "var")}
    return {**clean, **own, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}


def test_a_question_to_another_machine_is_seen(watched: dict[str, str]) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://telemetry.example', timeout=2)"
    done = subprocess.run([sys.executable, "-c", code], env=watched, capture_output=True, text=True, timeout=60)
    assert "is not this machine" in done.stderr
    assert Path(watched["WATCHED"]).read_text() == "socket.getaddrinfo telemetry.example\n"


def test_the_line_asks_no_other_machine(watched: dict[str, str], shared_data_root: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "build", ["--data", str(shared_data_root)]
    model = ["--model", str(out / "train" / "model")]
    line = {
        "validate": data,
        "train": [*data, "--validation", str(out / "validate"), "--checkpoints", str(tmp_path / "checkpoints")],
        "evaluate": [*data, *model],
        "register": [*model, "--evaluation", str(out / "evaluate")],
    }
    settings = [word for setting in TINY for word in ("--set", setting)]
    verbs = [[verb, "--out", str(out / verb), *words, *settings] for verb, words in line.items()]
    command = [sys.executable, "-c", LINE, json.dumps(verbs)]
    done = subprocess.run(command, env=watched, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "register" / "decision.json").is_file()
    asked = Path(watched["WATCHED"])
    assert not asked.exists(), asked.read_text()
