"""What people do with a model, and with settings."""

from pathlib import Path

import click

from sa2net.cli.options import PARAMS, PATH, cli, load, model_option, quiet_option
from sa2net.config import Config


@cli.command()
@click.argument("scans", nargs=-1, required=True)
@model_option
@click.option("--out", type=PATH, required=True, help="Folder to write: mask, overlay and JSON a scan.")
@click.option(
    "--spacing",
    type=float,
    nargs=2,
    default=None,
    metavar="X Y",
    help="Pixel size in mm, where it is known. DICOM files say it.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="evaluate.KEY=VALUE",
    help="mode, scales, flip, device, precision, threads.",
)
@click.option("--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one.")
@quiet_option
def predict(
    scans: tuple[str, ...],
    model: str | None,
    out: Path,
    spacing: tuple[float, float] | None,
    overrides: tuple[str, ...],
    params: Path | None,
    quiet: bool,
) -> None:
    """Segment scans: files (PNG, DICOM), folders or globs. A bad file among good ones is reported, the others are done.

    Example: sa2net predict scans/*.png --model models:/sa2net@champion --out masks
    """
    from sa2net.registry.versions import default_model, resolve
    from sa2net.steps import predict as step

    cfg = load(params, overrides).evaluate
    model = model or default_model()
    done = step.run(scans, resolve(model), out, cfg=cfg, spacing_mm=spacing, model_name=model, progress=not quiet)
    if not quiet:
        click.echo(f"{done} scans segmented into {out}")


@cli.command()
@click.argument("name", required=False)
@click.option("--show", is_flag=True, help="Print the settings with their meaning; write nothing.")
@click.option("--params", type=PATH, default=None, help="File to rewrite, or to show.  [default: params.yaml]")
@click.option("--folder", type=PATH, default=Path("recipes"), show_default=True, help="Where the recipes lie.")
def recipe(name: str | None, show: bool, params: Path | None, folder: Path) -> None:
    """Rewrite params.yaml from a recipe (a named set of overrides); without a name, list them.

    Example: sa2net recipe smoke
    """
    from sa2net.artifacts import write_text
    from sa2net.errors import ConfigError

    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name is None:
        click.echo(load(params, ()).render() if show else "\n".join(known) or f"no recipes in {folder}")
        return
    if name not in known:
        raise ConfigError(
            f"recipe {name} is unknown",
            evidence=f"{folder} holds {', '.join(known) or 'none'}",
            action="Name one of them.",
        )
    rendered = Config.load(folder / f"{name}.yaml").render()
    if show:
        click.echo(rendered)
        return
    write_text(params or PARAMS, rendered)
    click.echo(f"{params or PARAMS} now holds recipe {name}")
