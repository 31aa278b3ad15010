"""Drift: whether new scans are like those that the model is known on."""

from pathlib import Path

import click

from sa2net.cli.options import CHAMPION, PATH, cli, load, quiet_option


@cli.command()
@click.option("--reference", "model", default=CHAMPION, show_default=True, help="Model folder, or models:/NAME@ALIAS.")
@click.option(
    "--reference-scans",
    multiple=True,
    help="Scans it is known on, in place of the reference in its folder: folder, glob or file; repeatable.",
)
@click.option("--scans", multiple=True, required=True, help="New scans: folder, glob or file; repeatable.")
@click.option("--out", type=PATH, required=True, help="Folder to write: monitor.html, monitor.json, monitor.csv.")
@click.option("--alpha", type=float, default=0.01, show_default=True, help="Chance of one false alarm or more.")
@click.option("--min-scans", type=int, default=10, show_default=True, help="Fewer on either side: cannot tell.")
@click.option("--device", default="", help="Scanner of the new scans where no scans.csv names one.")
@click.option("--set", "overrides", multiple=True, metavar="evaluate.KEY=VALUE", help="Override one setting.")
@click.option("--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one.")
@quiet_option
def monitor(
    model: str,
    reference_scans: tuple[str, ...],
    scans: tuple[str, ...],
    out: Path,
    alpha: float,
    min_scans: int,
    device: str,
    overrides: tuple[str, ...],
    params: Path | None,
    quiet: bool,
) -> None:
    """Compare new scans with those that a model is known on, without labels, device by device. Research use only.

    Exit code 0: no drift was found, or nothing can be told with so few scans; 1: the scans differ; 3: some files could
    not be used.

    Example: sa2net monitor --reference build/train/model --scans new --out drift
    """
    from sa2net.registry.versions import resolve
    from sa2net.steps import monitor as step

    cfg = load(params, overrides).evaluate
    drift = step.run(
        resolve(model),
        reference_scans,
        scans,
        out,
        cfg=cfg,
        alpha=alpha,
        min_scans=min_scans,
        device=device,
        progress=not quiet,
    )
    if not quiet:
        for item in drift.devices:
            reason = f": {item.reason}" if item.reason else ""
            click.echo(f"device {item.device or 'not named'}: {item.verdict}{reason}")
        click.echo(f"{drift.verdict}, see {out / step.MONITOR_PAGE}")
