"""Data sets: draw phantoms, bring scans in, keep DVC in order."""

from pathlib import Path

import click

from sa2net.cli.options import DATA, PATH, cli, load, quiet_option, settings_options


@cli.command()
@click.option("--out", type=PATH, required=True, help="Folder that will hold dataset/ and groundtruth/.")
@click.option("--train", type=click.IntRange(0), default=24, show_default=True, help="Train scans.")
@click.option("--val", type=click.IntRange(0), default=6, show_default=True, help="Validation scans.")
@click.option("--test", type=click.IntRange(0), default=30, show_default=True, help="Test scans.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same scans.")
@click.option(
    "--width", type=click.IntRange(64), default=640, show_default=True, help="Width of a scan, px; 640 is full scale."
)
@click.option(
    "--artefacts",
    default=None,
    metavar="FAMILY,...",
    help="Artefact families to draw; `none` for none, `all` for all. Default: those of a usual scan.",
)
@quiet_option
def phantom(
    out: Path, train: int, val: int, test: int, seed: int, width: int, artefacts: str | None, quiet: bool
) -> None:
    """Draw synthetic scans with masks and a known curve.

    Example: sa2net phantom --out /tmp/phantoms --train 4 --test 2 --seed 7
    """
    from sa2net.data.phantom import ARTEFACT_FAMILIES, DEFAULT_ARTEFACTS, draw_dataset

    named = {None: DEFAULT_ARTEFACTS, "none": (), "all": ARTEFACT_FAMILIES}
    families = (
        named[artefacts]
        if artefacts in named
        else tuple(part.strip() for part in str(artefacts).split(",") if part.strip())
    )
    draw_dataset(out, train=train, val=val, test=test, seed=seed, width=width, artefacts=families, progress=not quiet)
    if not quiet:
        click.echo(f"{train + val + test} phantoms drawn into {out}")


@cli.command("import-data")
@click.argument("source", type=PATH)
@click.option(
    "--out", type=PATH, default=DATA, show_default=True, help="Folder that will hold dataset/ and groundtruth/."
)
@click.option("--pseudonymise", is_flag=True, help="Replace names and subjects; the key is written outside the data.")
@click.option("--key", type=PATH, default=None, help="Where the key to the pseudonyms goes; default: ~/sa2net-keys.")
@settings_options
@quiet_option
def import_data(
    source: Path,
    out: Path,
    pseudonymise: bool,
    key: Path | None,
    params: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Bring your own folder of scans in: checked first, then copied whole.

    Example: sa2net import-data /mnt/study7 --pseudonymise
    """
    from sa2net.data.imports import import_data as bring_in

    cfg = load(params, overrides).validate
    result = bring_in(source, out, pseudonymise=pseudonymise, key=key, cfg=cfg, progress=not quiet)
    if not quiet:
        click.echo(result.message)


@cli.command()
def unlock() -> None:
    """Drop the locks that killed DVC processes left behind; `make run` does it first.

    Example: sa2net unlock && dvc repro
    """
    from sa2net.data.store import clear_dead_locks

    dead = clear_dead_locks(Path.cwd())
    if dead:
        click.echo(f"dropped the locks of {dead} killed DVC processes")
