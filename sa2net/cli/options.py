"""The command group and the options that several verbs share."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sa2net import __version__
from sa2net.config import Config

DATA = Path("data/scoliosis3classes")
BUILD = Path("build")
PARAMS = Path("params.yaml")
CHAMPION = "models:/sa2net@champion"
PATH = click.Path(path_type=Path)

Command = Callable[..., Any]


def settings_options(command: Command) -> Command:
    """Options of every verb that reads settings."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."
    )(command)
    return click.option(
        "--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one."
    )(command)


def data_option(command: Command) -> Command:
    """The data set."""
    return click.option(
        "--data", type=PATH, default=DATA, show_default=True, help="Folder that holds dataset/ and groundtruth/."
    )(command)


def out_option(default: Path) -> Callable[[Command], Command]:
    """The folder to write."""
    return click.option("--out", type=PATH, default=default, show_default=True, help="Folder to write.")


def model_option(command: Command) -> Command:
    """The model that a scan is given to; None where nobody names one (`registry.versions.default_model`)."""
    return click.option(
        "--model",
        default=None,
        help=f"Model folder, models:/NAME@ALIAS, or ready: the weights that come with the project. [default: {CHAMPION}; "
        "ready while no version is registered]",
    )(command)


def quiet_option(command: Command) -> Command:
    """Say nothing but errors."""
    return click.option("--quiet", is_flag=True, help="No progress bar, no summary.")(command)


def load(params: Path | None, overrides: tuple[str, ...]) -> Config:
    """The settings of a verb: `params.yaml` here unless another file is named."""
    if params is None and PARAMS.exists():
        params = PARAMS
    return Config.load(params, overrides)


def counted(scans: int) -> str:
    """A number of scans in words."""
    return f"{scans} scan{'' if scans == 1 else 's'}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sa2net")
@click.option("-v", "--verbose", is_flag=True, help="Say more on the way.")
def cli(verbose: bool) -> None:
    """Segment the spine in ultrasound volume projection images. Research use only.

    \b
    The line, step by step:   sa2net validate; sa2net train; sa2net evaluate; sa2net register
    All of it, with caching:  dvc repro      (or `make run` in a fresh clone)
    Then:                     sa2net predict scan.png --out masks
    """  # noqa: D301 - click wants the backspace itself
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("sa2net").setLevel(logging.DEBUG if verbose else logging.INFO)
