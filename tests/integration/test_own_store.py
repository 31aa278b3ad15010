"""The MLflow store of a machine, made in `var/` when it is first needed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_a_store_that_was_half_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path))
    code = "from sa2net.registry import store; store.client_for(store.tracking_uri()); print('made')"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for _ in range(2):  # killed while the tables are made
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as process:
            while not list(tmp_path.glob(".mlflow.db.fresh*")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.3)
            process.kill()
        assert not (tmp_path / "mlflow.db").exists()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "made\n", done.stderr[-2000:]
    assert (tmp_path / "mlflow.db").is_file()
    assert not list(tmp_path.glob(".mlflow.db.fresh*"))
