"""The verb that brings a model of the published code in."""

from pathlib import Path

import click

from sa2net.cli.options import PATH, cli, quiet_option


@cli.command("import-checkpoint")
@click.argument("checkpoint", type=PATH, metavar="FILE")
@click.option("--out", type=PATH, required=True, help="Model folder to write.")
@click.option(
    "--sweep-width",
    type=click.IntRange(16, 8192),
    default=310,
    show_default=True,
    help="Width of the sweep at the scale the network was trained for, px.",
)
@click.option(
    "--spacing",
    type=float,
    nargs=2,
    default=None,
    metavar="X Y",
    help="Size of a pixel at that scale in mm, where it is known.",
)
@click.option(
    "--mean",
    default="75.99",
    show_default=True,
    metavar="M[,M,M]",
    help="img_norm_cfg.mean of the released configuration, grey levels 0-255.",
)
@click.option("--std", default="84.15", show_default=True, metavar="S[,S,S]", help="img_norm_cfg.std.")
@click.option(
    "--heads",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Attention heads of the transformer predictor.",
)
@quiet_option
def import_checkpoint(
    checkpoint: Path,
    out: Path,
    sweep_width: int,
    spacing: tuple[float, float] | None,
    mean: str,
    std: str,
    heads: int,
    quiet: bool,
) -> None:
    """Make a model folder of a checkpoint of the released SA2Net code. The file is a pickle; nothing in it is run.

    Example: sa2net import-checkpoint iter_160000.pth --out released/model
    """
    from sa2net.steps import import_checkpoint as step

    done = step.run(
        checkpoint,
        out,
        sweep_width=sweep_width,
        spacing_mm=spacing,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        heads=heads,
    )
    if not quiet:
        click.echo("\n".join([f"{done.network} written to {done.out}", *done.notes]))
        click.echo(f"now: sa2net predict SCAN --model {done.out} --out masks")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from math import isfinite

    from sa2net.errors import ConfigError

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(isfinite, values)):
        raise ConfigError(f"{option} is {text!r}", action="Give one number, or one a colour with commas between.")
    return values
