"""What the pipeline commands share: options, and how they end."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipelines import environments
from sa2net import telemetry
from sa2net.errors import ConfigError, Sa2NetError, StorageError

PATH = click.Path(path_type=Path)
PARAMS = Path("params.yaml")
Command = Callable[..., Any]


def environment_options(command: Command) -> Command:
    """Where the pipeline runs."""
    command = click.option(
        "--lock", type=PATH, default=environments.IMAGE_LOCK, show_default=True, help="Digests of the images."
    )(command)
    command = click.option(
        "--environments", "environments_file", type=PATH, default=environments.ENVIRONMENTS, show_default=True,
        help="File of all environments.",
    )(command)  # fmt: skip
    return click.option("--env", default="cluster", show_default=True, help="Section of the environments file.")(
        command
    )


def settings_options(command: Command) -> Command:
    """What the pipeline does."""
    options = [
        click.option("--params", type=PATH, default=None, help="Settings; default: params.yaml here, if there is one."),
        click.option("--recipe", default=None, metavar="NAME", help="Recipe over the settings, from recipes/."),
        click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."),
        click.option("--data", default="data.dvc", show_default=True, help="A data.dvc, or an address of one that each run reads anew."),
        click.option("--experiment", default="sa2net", show_default=True, help="Experiment, in MLflow and in Kubeflow."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def params_file(params: Path | None) -> Path | None:
    """The settings file of a command."""
    return PARAMS if params is None and PARAMS.exists() else params


def recipe_file(name: str | None, folder: Path = Path("recipes")) -> Path | None:
    """The file of a recipe.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name is None:
        return None
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(
            f"recipe {name} is unknown",
            evidence=f"{folder} holds {', '.join(known) or 'none'}",
            action="Name one of them.",
        )
    return folder / f"{name}.yaml"


def run_command(command: click.Command) -> None:
    """Run a command and end the process with its exit code; errors are said in a line."""
    telemetry.switch_off()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        code = command.main(standalone_mode=False)
    except Sa2NetError as error:
        click.echo(f"{command.name}: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        said = f"{place}{error.strerror or error}"
        action = "Check that the place exists, can be written and has room, or name another one."
        click.echo(f"{command.name}: a file or folder cannot be used: {said}. {action}", err=True)
        sys.exit(StorageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(code or 0)
