"""Comparing with other software: the data set in its format, and its label maps through our evaluator."""

from pathlib import Path

import click

from sa2net.cli.options import PATH, cli, data_option, quiet_option


@cli.command("export-nnunet")
@data_option
@click.option("--out", type=PATH, required=True, help="The folder that nnU-Net knows as nnUNet_raw.")
@click.option(
    "--split-from",
    type=PATH,
    default=None,
    metavar="DIR",
    help="What `validate` wrote: its split by subject is taken. Default: the lists, which must name val scans.",
)
@click.option("--number", type=click.IntRange(1, 999), default=501, show_default=True, help="Number of the data set.")
@click.option("--name", default="Spine", show_default=True, help="Name of the data set, letters and digits.")
@quiet_option
def export_nnunet(data: Path, out: Path, split_from: Path | None, number: int, name: str, quiet: bool) -> None:
    """Write a data set in the raw format of nnU-Net v2: grey PNG, labels 0-3, the split into train and val.

    Example: sa2net export-nnunet --out nnUNet_raw --split-from build/validate
    """
    from sa2net.data.nnunet import export_nnunet as export

    result = export(data, out, number=number, name=name, split_from=split_from, progress=not quiet)
    if not quiet:
        ignored = "; ignored pixels are label 4" if result.ignored else ""
        click.echo(f"{result.train} train, {result.val} val, {result.test} test scans in {result.folder}{ignored}")
        click.echo("pixel sizes are not kept: PNG files of nnU-Net have none")
