"""Run the training pipeline on this machine: the same graph and components, as subprocesses or in the project's images.

kfp's local runner calls a task a success whose outputs were never written, and loses the exit code of a container that
vanished. So every output that the compiled pipeline promises is looked for afterwards.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml
from kfp import local

from pipelines import environments, training
from pipelines.compile import fetch_section, for_environment, pointer_text, write
from pipelines.environments import Environment, Images
from pipelines.options import params_file, recipe_file, run_command, settings_options
from sa2net.artifacts import EVALUATION_REPORT, read_json
from sa2net.artifacts.handover import holds_something
from sa2net.config import Config
from sa2net.errors import ClusterError, ConfigError
from sa2net.registry.store import tracking_uri, var_folder

log = logging.getLogger(__name__)
BUILD = Path("build/local")
HOST = Images(tools="python:host", torch="python:host")
"""Name of the interpreter that subprocesses run in, where an image would stand."""


@dataclass(frozen=True)
class TaskOutputs:
    """What a task left: the paths of its artifacts, and its parameters."""

    artifacts: Mapping[str, Path]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class LocalRun:
    """What a local run left.

    Attributes:
        root: Its folder.
        tasks: Task -> its outputs.
    """

    root: Path
    tasks: Mapping[str, TaskOutputs]


def run_training(
    config: Config,
    environment: Environment,
    *,
    data: str,
    experiment: str,
    root: Path,
    runner: Any,
) -> LocalRun:
    """Run the pipeline.

    Args:
        config: All sections.
        environment: Images and places; `volume.mount` is where checkpoints lie for the steps.
        data: Pointer or its address; see `pipelines.compile`.
        experiment: MLflow experiment.
        root: New folder for the outputs of all tasks.
        runner: A runner of `kfp.local`.

    Raises:
        ClusterError: A task failed, or ended without its outputs.
    """
    graph = training.build(
        environment,
        {**config.to_dict(), "fetch": fetch_section(environment, data).model_dump(mode="json")},
        data=pointer_text(data),
        experiment=experiment,
    )
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    compiled = root / "pipeline.yaml"
    write(graph, compiled)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    with execution(f"local {root.name}"):
        try:
            graph()
        except RuntimeError as error:
            raise ClusterError(
                "the pipeline stopped",
                evidence=" ".join(str(error).split()),
                action=f"The cause stands above, at the end of that task's log; what was made lies in {root}.",
            ) from error
    return LocalRun(root, find_outputs(compiled, root))


def find_outputs(compiled: Path, root: Path) -> dict[str, TaskOutputs]:
    """Every output that the compiled pipeline promises.

    Args:
        compiled: The file that ran.
        root: Folder of the run.

    Raises:
        ClusterError: One was not written.
    """
    pipeline = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
    found: dict[str, TaskOutputs] = {}
    missing: list[str] = []
    for task, spec in pipeline["root"]["dag"]["tasks"].items():
        promised = pipeline["components"][spec["componentRef"]["name"]].get("outputDefinitions", {})
        folder = next(root.glob(f"*/{task}"), root / task)
        told = _told(folder)
        artifacts = {
            key: folder / key
            for key, kind in promised.get("artifacts", {}).items()
            if not kind["artifactType"]["schemaTitle"].endswith("Metrics")  # those are metadata alone
        }
        missing += [f"{task}: {key}" for key, path in artifacts.items() if not holds_something(path)]
        missing += [f"{task}: {key}" for key in promised.get("parameters", {}) if key not in told]
        found[task] = TaskOutputs(artifacts, told)
    if missing:
        raise ClusterError(
            "a task ended without its outputs, although it was called a success",
            evidence="; ".join(missing),
            action=f"Look at its log above; what was made lies in {root}.",
        )
    return found


def _told(folder: Path) -> Mapping[str, Any]:
    """The parameters that a task gave back, from the record of its executor."""
    record = folder / "executor_output.json"
    values: Mapping[str, Any] = read_json(record).get("parameterValues", {}) if record.is_file() else {}
    return values


@contextmanager
def execution(name: str) -> Iterator[None]:
    """Join the steps under one MLflow run, and keep kfp quiet about images that are not used."""
    before = os.environ.get("SA2NET_EXECUTION")
    os.environ.setdefault("SA2NET_EXECUTION", name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Task .*no effect in the current local runner")
            yield
    finally:
        if before is None:
            os.environ.pop("SA2NET_EXECUTION", None)


def on_this_machine(environment: Environment, *, containers: bool) -> Environment:
    """The environment with checkpoints and the registry in `var/`, and without images for subprocesses."""
    volume = environment.volume.model_copy(update={"mount": str(var_folder()), "claim": ""})
    gpu = environment.gpu.model_copy(update={"nodes": 1})
    images = environment.images if containers else HOST
    return environment.model_copy(update={"images": images, "volume": volume, "gpu": gpu})


@click.command("pipelines.local", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--env", default="laptop", show_default=True, help="Section of infra/environments.yaml.")
@click.option("--docker", is_flag=True, help="Run each task in the project's image (`make images` builds them).")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="New folder; default: build/local/TIME.")
@settings_options
def main(
    env: str,
    docker: bool,
    out: Path | None,
    params: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    data: str,
    experiment: str,
) -> None:
    """Run the training pipeline here, without a cluster.

    Example: python -m pipelines.local --recipe smoke
    """
    logging.getLogger("sa2net").setLevel(logging.INFO)
    environment = environments.load(env)
    config = Config.load(params_file(params), overrides, recipe=recipe_file(recipe))
    root = out or BUILD / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty", action="Name a new folder with --out, or leave --out out.")
    environment = on_this_machine(environment, containers=docker)
    if docker:
        from pipelines.containers import docker_runner

        remote = fetch_section(environment, data).remote
        with execution(f"local {root.name}"):  # what a container gets of this environment is taken now
            runner: Any = docker_runner(environment, root=root, remote=remote)
    else:
        runner = local.SubprocessRunner(use_venv=False)
    config = for_environment(config, environment, env)
    result = run_training(config, environment, data=data, experiment=experiment, root=root, runner=runner)
    _say(result)


def _say(result: LocalRun) -> None:
    from sa2net.cli.line import scores_table

    scored, registered = result.tasks["evaluate"].artifacts, result.tasks["register"].parameters
    click.echo(scores_table(scored["evaluation"]))
    click.echo(f"version:  {registered['uri']}")
    click.echo(f"decision: {registered['verdict']}")
    click.echo(f"report:   {scored['evaluation'] / EVALUATION_REPORT}")
    click.echo(f"outputs:  {result.root}")
    click.echo(f"runs:     {tracking_uri()}")


if __name__ == "__main__":
    run_command(main)
