"""Compile the training pipeline: settings are checked first, so that a typo ends here and not on a GPU.

The file holds two documents, the pipeline and its Kubernetes settings, and is what `kfp run create -f` takes.
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from kfp import compiler

from pipelines import environments, training
from pipelines.environments import Environment
from pipelines.options import environment_options, params_file, recipe_file, run_command, settings_options
from sa2net.artifacts.handover import require_fixed
from sa2net.config import Config, FetchConfig, as_section, key_lines
from sa2net.data.store.objects import local_path, split_s3
from sa2net.data.store.pointer import parse_pointer
from sa2net.errors import ConfigError, Sa2NetError

log = logging.getLogger(__name__)
MARK = b"# PIPELINE DEFINITION"
POINTER = Path("data.dvc")
DEFAULT_OUT = Path("build/training.yaml")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        file: The YAML file.
        environment: What it was compiled for, images pinned where the lock knows them.
        config: The settings compiled in.
        unpinned: Images that are known by tag alone.
    """

    file: Path
    environment: Environment
    config: Config
    unpinned: tuple[str, ...]


def compile_training(
    env: str,
    out: Path,
    *,
    params: Path | None = None,
    overrides: Sequence[str] = (),
    recipe: Path | None = None,
    data: str = str(POINTER),
    experiment: str = "sa2net",
    environments_file: Path = environments.ENVIRONMENTS,
    lock: Path = environments.IMAGE_LOCK,
) -> Compiled:
    """Check the settings and write the pipeline.

    Args:
        env: Name of the environment.
        out: File to write.
        params: Settings file.
        overrides: `section.key=value` each.
        recipe: File of overrides that lie over `params`.
        data: `data.dvc` whose text is compiled in, or an address that each run reads anew (s3://..., file://...).
        experiment: Default MLflow experiment.
        environments_file: The environments.
        lock: Digests of the images.

    Raises:
        ConfigError: Settings that cannot be used, alone or together.
    """
    environment, unpinned = environments.pinned(environments.load(env, environments_file), lock)
    config = Config.load(params, overrides, recipe=recipe)
    config = for_environment(config, environment, env, places_of(params, recipe, overrides))
    graph = training.build(
        environment,
        {**config.to_dict(), "fetch": fetch_section(environment, data).model_dump(mode="json")},
        data=pointer_text(data),
        experiment=one_line(experiment, "--experiment"),
    )
    write(graph, out)
    return Compiled(out, environment, config, unpinned)


def write(graph: Any, out: Path) -> None:
    """Compile a graph into a file, atomically.

    Raises:
        ConfigError: The file is there and is no compiled pipeline.
    """
    if out.is_dir() or (out.exists() and not out.read_bytes().startswith(MARK)):
        raise ConfigError(f"{out} is not a compiled pipeline and stays", action="Name another file with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".compile.") as scratch:
        fresh = Path(scratch) / "pipeline.yaml"
        compiler.Compiler().compile(graph, str(fresh))
        os.replace(fresh, out)  # noqa: PTH105 - the same call, said plainly


def places_of(params: Path | None, recipe: Path | None, overrides: Sequence[str]) -> dict[str, str]:
    """Where each setting was said last: dotted key -> file and line, or the override itself."""
    found: dict[str, str] = {}
    for file in (params, recipe):
        if file is not None:
            lines = key_lines(file.read_text(encoding="utf-8"))
            found |= {".".join(path): f"{file} line {line}" for path, line in lines.items()}
    return found | {text.partition("=")[0].strip(): f"--set {text}" for text in overrides}


def for_environment(
    config: Config, environment: Environment, name: str, places: Mapping[str, str] | None = None
) -> Config:
    """Settings and environment together: what cannot work is refused, `auto` becomes what the environment has.

    Args:
        config: The settings.
        environment: The environment.
        name: What a message calls it.
        places: See `places_of`.

    Raises:
        ConfigError: A GPU is demanded where none is given; a batch that does not divide among the GPUs.
    """
    require_fixed(config.train.init_from)
    said = {key: f" ({place})" for key, place in (places or {}).items()}
    gpus = environment.gpu.count * environment.gpu.nodes
    tree = config.to_dict()
    for step, has in (("train", gpus > 0), ("evaluate", gpus > 0 and environment.gpu.evaluate)):
        device = tree[step]["device"]
        if device == "cuda" and not has:
            raise ConfigError(
                f"{step}.device is cuda{said.get(f'{step}.device', '')}, and the environment {name} gives {step} no GPU",
                evidence=f"gpu.count is {environment.gpu.count}, gpu.evaluate {str(environment.gpu.evaluate).lower()}",
                action=f"Set gpu.count in the environment, or {step}.device to auto.",
            )
        if device == "cpu" and has:
            raise ConfigError(
                f"{step}.device is cpu{said.get(f'{step}.device', '')}, and the environment {name} reserves a GPU for {step}",
                action=f"Set {step}.device to auto, or gpu.count to 0 for this environment.",
            )
        if device == "auto" and has:
            tree[step]["device"] = "cuda"  # a demand: a pod that lost its GPU fails instead of crawling
    if gpus and tree["train"]["batch_size"] % gpus:
        raise ConfigError(
            f"train.batch_size {tree['train']['batch_size']}{said.get('train.batch_size', '')} does not divide among {gpus} GPUs",
            action=f"Choose a multiple of {gpus}, or another gpu.count.",
        )
    return Config.from_dict(tree)


def pointer_text(data: str) -> str:
    """The default of the pipeline's `data`: the content of a file here, or the address as it is.

    The content is given on one line, as JSON (which is YAML too): kfp writes defaults into comments of its file and
    does not mind line ends there.

    Raises:
        ConfigError: Neither.
    """
    try:
        if "://" in data:
            split_s3(one_line(data, "--data")) if data.startswith("s3://") else local_path(data)
            return data
        text = Path(data).read_text(encoding="utf-8")
        parse_pointer(text)
        return json.dumps(yaml.safe_load(text))
    except (OSError, ValueError, TypeError, Sa2NetError) as error:
        raise ConfigError(
            f"the data pointer {data!r} cannot be used",
            evidence=" ".join(str(error).split()),
            action="Name a data.dvc that `dvc add` wrote, or an address such as s3://BUCKET/data.dvc.",
        ) from error


def one_line(text: str, name: str) -> str:
    """A text that can be a default of a pipeline: kfp writes those into comments of its file.

    Raises:
        ConfigError: It is empty, or has a line end or another control character.
    """
    if not text.strip() or not text.isprintable():
        raise ConfigError(f"{name} {text!r} cannot be used", action="Give a text on one line.")
    return text


def fetch_section(environment: Environment, data: str) -> FetchConfig:
    """Where the objects are pulled from: the environment's remote, else the one that the pointer here names.

    Raises:
        ConfigError: Neither names one.
    """
    if environment.fetch.get("remote"):
        return as_section(FetchConfig, environment.fetch, source="the environment's fetch section")
    from sa2net.data.store.dvc import remote_settings  # loads DVC

    found = {} if "://" in data else remote_settings(Path(data))
    if not found:
        raise ConfigError(
            "no DVC remote is known to fetch the data set from",
            evidence=f"the environment has no fetch.remote, and {data} names none that is configured here",
            action="Set fetch.remote in infra/environments.yaml to s3://BUCKET/PREFIX.",
        )
    return as_section(FetchConfig, found, environment.fetch, source="the environment's fetch section")


@click.command("pipelines.compile", context_settings={"help_option_names": ["-h", "--help"]})
@environment_options
@settings_options
@click.option("--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, help="File to write.")
def main(
    env: str,
    out: Path,
    environments_file: Path,
    lock: Path,
    params: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    data: str,
    experiment: str,
) -> None:
    """Compile the training pipeline into a file for `kfp run create -f`.

    Example: python -m pipelines.compile --env cluster --set train.epochs=3
    """
    compiled = compile_training(
        env,
        out,
        params=params_file(params),
        recipe=recipe_file(recipe),
        overrides=overrides,
        data=data,
        experiment=experiment,
        environments_file=environments_file,
        lock=lock,
    )
    click.echo(f"{compiled.file}: the training pipeline for {env}")
    for image in compiled.unpinned:
        click.echo(f"not pinned: {image} (`make pin` resolves it; `make submit` refuses it)")


if __name__ == "__main__":
    run_command(main)
