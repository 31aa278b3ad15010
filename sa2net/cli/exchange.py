"""Comparing with other software: the data set in its format, and its label maps through our evaluator."""

from pathlib import Path

import click

from sa2net.cli.options import PATH, cli, data_option, load, quiet_option, settings_options


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


@cli.command("score-masks")
@data_option
@click.option("--masks", type=PATH, required=True, help="Folder of label maps: NAME.png or NAME_bone_3.png.")
@click.option("--out", type=PATH, required=True, help="Folder to write: scores, tables, report.")
@settings_options
@quiet_option
def score_masks(
    data: Path, masks: Path, out: Path, params: Path | None, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Score label maps that another program made, as `evaluate` scores a model: same numbers, same report.

    Label maps hold class ids 0-3 at the scan's own size. Settings come from the section evaluate.

    Example: sa2net score-masks --masks nnunet_predictions --out build/nnunet
    """
    from sa2net.cli.line import scores_table
    from sa2net.steps import score_masks as step

    step.run(load(params, overrides).evaluate, data=data, masks=masks, out=out, progress=not quiet)
    if not quiet:
        click.echo(scores_table(out))
