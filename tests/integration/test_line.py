"""The whole line in a copy of the project: make run, healing, caching, kill and resume, equal runs.

Everything here is long: it trains for real, on a small data set, through `make` and DVC.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from project_copy import Project

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("project"))
    made.copy()
    return made


@pytest.fixture(scope="module")
def first(project: Project) -> tuple[str, str, str]:
    """The first `make run`: what it printed, the model's hash, the scores."""
    printed = project.make_run()
    return printed, project.model, (project.folder / "build/evaluate/scores.json").read_text(encoding="utf-8")


def test_make_run_ends_with_a_champion_and_says_where_things_are(project: Project, first: tuple[str, str, str]) -> None:
    printed = first[0]
    for words in ("Dice", "interval", "sa2net 1 (", "champion", "build/evaluate/report.html", "mlflow ui"):
        assert words in printed, printed
    assert project.champion_loads()


def test_a_second_run_does_nothing_and_quickly(project: Project, first: tuple[str, str, str]) -> None:
    before = os.times()
    printed = project.make_run()
    after = os.times()
    # Of the processors, since another process may build images meanwhile; 15 s by the clock on a quiet machine.
    assert (after.children_user + after.children_system) - (before.children_user + before.children_system) < 30
    assert "Running stage" not in printed
    assert "already registered" in printed


@pytest.mark.parametrize("removed", ["build", "var"])  # both at once: the killed trainings below
def test_what_was_removed_comes_back(project: Project, first: tuple[str, str, str], removed: str) -> None:
    shutil.rmtree(project.folder / removed)
    project.make_run()
    assert project.model == first[1]
    assert project.champion_loads()


def test_touching_evaluate_runs_evaluate_and_register_alone(project: Project, first: tuple[str, str, str]) -> None:
    params = project.folder / "params.yaml"
    before = params.read_text(encoding="utf-8")
    params.write_text(before.replace("nsd_tolerance_mm: 1.0", "nsd_tolerance_mm: 2.0"), encoding="utf-8")
    try:
        printed = project.call("dvc", "repro").stdout
    finally:
        params.write_text(before, encoding="utf-8")
    assert [
        stage for stage in ("validate", "train", "evaluate", "register") if f"Running stage '{stage}'" in printed
    ] == ["evaluate", "register"]
    project.call("dvc", "repro")


def test_dvc_shows_metrics_plots_and_experiments(project: Project, first: tuple[str, str, str]) -> None:
    project.call("git", "add", "-A")
    project.call("git", "commit", "-qm", "lock")
    assert "scores.json" in project.call("dvc", "metrics", "show").stdout
    shown = project.call("dvc", "plots", "show").stdout
    page = Path(shown.strip().removeprefix("file://"))
    text = page.read_text(encoding="utf-8")
    for name in ("training loss", "validation Dice"):
        assert name in text
    project.call("dvc", "exp", "run", "-S", "train.epochs=2", "--name", "short")
    assert "short" in project.call("dvc", "exp", "show", "--csv").stdout
    project.call("git", "checkout", "-q", "--", ".")
    project.call("dvc", "checkout", "-q")


def checkpoints(project: Project) -> list[str]:
    return sorted(path.name for path in (project.folder / "var/checkpoints").glob("*/epoch-*.safetensors"))


def trainer(project: Project) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if (
            process.info["cwd"] == str(project.folder)
            and "sa2net train" in " ".join(process.info["cmdline"] or [])
            and "python" in process.name()
        ):
            return process
    return None


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@contextlib.contextmanager
def emptied(project: Project) -> Iterator[None]:
    """Nothing made, nothing cached: the next run trains."""
    for folder in ("build", "var", ".dvc/cache/runs"):
        shutil.rmtree(project.folder / folder, ignore_errors=True)
    (project.folder / "dvc.lock").unlink(missing_ok=True)
    yield


@pytest.mark.parametrize("moment", ["while the first epoch runs", "near the end"])
def test_a_killed_training_goes_on_to_the_same_weights_and_scores(
    project: Project, first: tuple[str, str, str], moment: str
) -> None:
    reached = {
        "while the first epoch runs": lambda: (
            (project.folder / "var/checkpoints").exists()
            and list((project.folder / "var/checkpoints").glob("*/owner.json"))
        ),
        "near the end": lambda: checkpoints(project)[-1:] >= ["epoch-000004.safetensors"],
    }[moment]
    with emptied(project):
        running = project.start("make", "-o", ".venv/.installed", "run")
        wait_for(reached)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        before = checkpoints(project)
        printed = project.call("make", "-o", ".venv/.installed", "run")
        assert project.model == first[1]
        assert (project.folder / "build/evaluate/scores.json").read_text(encoding="utf-8") == first[2]
        if before:
            assert "going on after epoch" in printed.stdout + printed.stderr
        assert project.champion_loads()


def test_an_orphaned_trainer_is_waited_for_not_doubled(project: Project, first: tuple[str, str, str]) -> None:
    with emptied(project):
        running = project.start("dvc", "repro")
        wait_for(lambda: checkpoints(project))
        orphan = trainer(project)
        assert orphan is not None
        os.kill(running.pid, signal.SIGKILL)  # DVC alone: its child trains on
        running.wait()
        orphan.suspend()  # or it could be done before the second trainer is there
        threading.Timer(40, orphan.resume).start()
        printed = project.call("make", "-o", ".venv/.installed", "run")
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert project.model == first[1]
        assert str(orphan.pid) in printed.stdout + printed.stderr


def test_scores_are_valid_and_say_phantom_only_of_phantoms(project: Project, first: tuple[str, str, str]) -> None:
    scores = json.loads(first[2])
    assert scores["scans"] == 3
    assert scores["phantom"] is False
    assert 0 <= scores["mean"]["dice"]["low"] <= scores["mean"]["dice"]["value"] <= scores["mean"]["dice"]["high"] <= 1
