"""The pipeline on this machine: the scores of `dvc repro` to the byte, a line that stops, and nobody's word taken for it."""

import shutil
from pathlib import Path

import pytest
from kfp import dsl
from project_copy import Project

from components.fetch import fetch
from components.pointer import pointer
from components.validate import validate
from pipelines.local import find_outputs
from sa2net.artifacts import folder_sha256, read_json
from sa2net.errors import ClusterError, DataError, StorageError
from sa2net.registry.store import var_folder

pytestmark = pytest.mark.timeout(600)
TASKS = ("pointer", "fetch", "validate", "train", "evaluate", "register")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project whose data set lies in a DVC remote outside of it."""
    made = Project(tmp_path_factory.mktemp("project"))
    made.copy()
    remote = tmp_path_factory.mktemp("remote")
    made.call("dvc", "remote", "add", "-q", "team", str(remote))
    made.call("dvc", "push", "-q", "-r", "team", "data")
    pointer_file = made.folder / "data.dvc"
    pointer_file.write_text(pointer_file.read_text() + "  remote: team\n")
    return made


def _run(project: Project, *options: str, check: bool = True, **variables: str) -> tuple[int, str]:
    done = project.call("python", "-m", "pipelines.local", *options, check=check, **variables)
    return done.returncode, done.stdout + done.stderr


def _task(run: Path, task: str) -> Path:
    return next(run.glob(f"*/{task}"))


@pytest.fixture(scope="module")
def run(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run through kfp, with a registry and checkpoints of its own: nothing of `dvc repro` can leak into it."""
    _, said = _run(project, "--out", "build/local/one", SA2NET_VAR=str(tmp_path_factory.mktemp("var")))
    assert "decision: promote" in said
    return project.folder / "build/local/one"


def test_every_task_left_its_outputs_and_the_scores_are_those_of_dvc(project: Project, run: Path) -> None:
    project.call("dvc", "repro", "-q", "evaluate")
    ours, theirs = _task(run, "evaluate") / "evaluation", project.folder / "build/evaluate"
    assert (ours / "scores.json").read_bytes() == (theirs / "scores.json").read_bytes()
    assert (ours / "per_scan.csv").read_bytes() == (theirs / "per_scan.csv").read_bytes()
    assert folder_sha256(_task(run, "train") / "model" / "model") == project.model
    found = find_outputs(run / "pipeline.yaml", run)
    assert set(found) == set(TASKS)
    assert set(found["evaluate"].artifacts) == {"evaluation", "report"}
    assert found["register"].parameters == {"version": 1, "verdict": "promote", "uri": "models:/sa2net/1"}
    assert "<html" in found["evaluate"].artifacts["report"].read_text()[:300]


def test_all_steps_are_children_of_one_mlflow_run(run: Path) -> None:
    folders = {
        "fetch": "fetch/data",
        "validate": "validate/validation",
        "train": "train/model",
        "evaluate": "evaluate/evaluation",
        "register": "register/decision",
    }
    runs = {step: read_json(next(run.glob(f"*/{place}")) / "run.json") for step, place in folders.items()}
    assert len({content["parent_run_id"] for content in runs.values()}) == 1
    assert len({content["run_id"] for content in runs.values()}) == len(runs)
    assert all(content["step"] == step for step, content in runs.items())


def test_an_output_that_nobody_wrote_is_a_failure(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(_task(copy, "validate") / "validation")
    (_task(copy, "pointer") / "executor_output.json").unlink()
    with pytest.raises(ClusterError, match="pointer: Output; validate: validation"):
        find_outputs(copy / "pipeline.yaml", copy)


def test_a_broken_data_set_stops_the_line_at_validate(project: Project, tmp_path: Path) -> None:
    data = project.folder / "data" / "scoliosis3classes"
    mask = next((data / "groundtruth" / "train").glob("*.png"))
    kept, text = mask.read_bytes(), (project.folder / "data.dvc").read_text()
    try:
        mask.write_bytes(kept[:100])
        project.call("dvc", "add", "-q", "data")
        project.call("dvc", "push", "-q", "-r", "team", "data")
        broken = (project.folder / "data.dvc").read_text()
        (project.folder / "data.dvc").write_text(broken if "remote:" in broken else broken + "  remote: team\n")
        code, said = _run(project, "--out", "build/local/broken", check=False, SA2NET_VAR=str(tmp_path / "var"))
    finally:
        mask.write_bytes(kept)
        (project.folder / "data.dvc").write_text(text)
    assert code == 6
    assert mask.stem in said and "validate" in said
    left = {path.name for path in next((project.folder / "build/local/broken").glob("sa2net-*")).iterdir()}
    assert left == {"pointer", "fetch", "validate"}
    assert "Traceback" not in said.split("local: ")[-1]  # our own last words are a sentence


def _artifact(kind: type[dsl.Artifact], folder: Path, name: str) -> dsl.Artifact:
    return kind(name=name, uri=str(folder / name), metadata={})


def test_components_run_as_plain_python(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    remote = project.call("dvc", "remote", "list").stdout.split()
    place = remote[remote.index("team") + 1]
    where = {"remote": place}
    text = pointer.python_func((project.folder / "data.dvc").read_text(), {}, where)
    assert pointer.python_func(str(project.folder / "data.dvc"), {}, where) == text
    data = _artifact(dsl.Dataset, tmp_path, "data")
    fetch.python_func(text, {"jobs": 2.0}, {"remote": place}, "tests", data)
    assert data.metadata["md5"].endswith(".dir") and data.metadata["run_id"]
    outputs = [_artifact(kind, tmp_path, kind.__name__) for kind in (dsl.Artifact, dsl.HTML, dsl.Metrics)]
    validate.python_func(data, {}, {"workers": 1}, "tests", *outputs)
    assert outputs[2].metadata == {"scans": 11, "warnings": outputs[2].metadata["warnings"]}
    # A partial dict lies over what was compiled in; the rest of that still holds.
    with pytest.raises(DataError, match="at least 5000 px"):
        validate.python_func(data, {"min_side": 5000.0}, {"workers": 1, "min_side": 16}, "tests", *outputs)
    with pytest.raises(DataError, match="at least 5000 px"):
        validate.python_func(data, {"workers": 1.0}, {"workers": 2, "min_side": 5000}, "tests", *outputs)
    (Path(data.path) / "data" / "scoliosis3classes" / "train.txt").write_text("")
    with pytest.raises(DataError):
        validate.python_func(data, {}, {"workers": 1}, "tests", *outputs)


def test_handing_on_nothing_is_an_error(tmp_path: Path) -> None:
    from sa2net.artifacts.handover import hand_on

    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty"):
        hand_on({}, {}, tmp_path / "empty")
    with pytest.raises(StorageError, match=r"nothing\.json"):
        hand_on({}, {}, tmp_path / "nothing.json")


def test_local_checkpoints_lie_in_var() -> None:
    from pipelines import environments
    from pipelines.local import on_this_machine

    environment = environments.load("laptop", Path(__file__).parents[2] / "infra/environments.yaml")
    here = on_this_machine(environment, containers=False)
    assert here.volume.mount == str(var_folder())
    assert here.images.torch == "python:host"
    assert on_this_machine(environment, containers=True).images == environment.images
