"""Where a version comes from, and whether it can be made again."""

import json
from pathlib import Path

import click

from sa2net.cli.options import CHAMPION, PATH, cli, quiet_option


@cli.command()
@click.argument("model", default=CHAMPION)
@click.option(
    "--out", type=PATH, default=None, help="Write W3C PROV, a bill of materials and the model card into this folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print W3C PROV-JSON instead of the tree.")
def lineage(model: str, out: Path | None, as_json: bool) -> None:
    """Say where a version comes from: code, data, settings, machine, runs, scores, decision.

    MODEL is models:/NAME@ALIAS (default models:/sa2net@champion), models:/NAME/NUMBER, the sha256 of a model folder (as
    `predict` and a served model name it), or a model folder.

    Example: sa2net lineage models:/sa2net/3 --out build/lineage
    """
    import tempfile

    from sa2net.registry import lineage as origins
    from sa2net.registry.store import storage_errors

    client = origins.connect()
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch, storage_errors(f"tell where {model} comes from"):
        found = origins.read(client, origins.find(client, model), Path(scratch))
        if as_json:
            click.echo(json.dumps(origins.prov.document(found), indent=2, ensure_ascii=False))
        else:
            click.echo(origins.draw(found))
        written = origins.write(found, out) if out is not None else ()
    for file in written:
        click.echo(f"written: {file}", err=as_json)


@cli.command()
@click.argument("model", default=CHAMPION)
@click.option(
    "--what",
    type=click.Choice(["evaluate", "train"]),
    default="evaluate",
    show_default=True,
    help="Score the registered model again, or train it again first.",
)
@click.option("--out", type=PATH, default=None, help="Keep reproduce.json and what the steps wrote in this folder.")
@click.option(
    "--data",
    type=PATH,
    multiple=True,
    help="Folder that holds dataset/ and groundtruth/; may be repeated where training and scoring had two data sets. "
    "Default: found here, else pulled.",
)
@click.option(
    "--repository", type=PATH, default=None, help="Checkout of the project that holds the revision; default: here."
)
@click.option("--python", default="", metavar="PROGRAM", help="Interpreter that runs the steps; default: this one.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Compare only numbers between 0 and 1, and take them for equal within this; 0 = everything, to the bit.",
)
@quiet_option
def reproduce(
    model: str,
    what: str,
    out: Path | None,
    data: tuple[Path, ...],
    repository: Path | None,
    python: str,
    tolerance: float,
    quiet: bool,
) -> None:
    """Make a version again from its code, data and settings, and compare number by number.

    Runs in a scratch folder below $TMPDIR that is removed afterwards; your checkout, data and registry are only read.
    Exit code 0: all equal; 1: something differs.

    Example: sa2net reproduce models:/sa2net@champion --what train --out build/reproduce
    """
    from sa2net.errors import NegativeAnswerError
    from sa2net.steps import reproduce as step

    outcome = step.run(
        model,
        what="train" if what == "train" else "evaluate",
        out=out,
        data=data,
        repository=repository,
        python=python,
        tolerance=tolerance,
        progress=not quiet,
    )
    if not quiet:
        click.echo(f"{outcome.model}, {what} again")
        click.echo("\n".join(outcome.lines()))
        if out is not None:
            click.echo(f"written: {out / step.DOCUMENT}")
    if not outcome.equal:
        raise NegativeAnswerError(
            f"{outcome.model} does not come out as it was stored",
            evidence=f"{len(outcome.differing)} of {len(outcome.numbers)} numbers differ: {step.summary(outcome.differing)}",
            action="Look at what differs in environment and packages first; --out keeps the whole comparison.",
        )
    if not quiet:
        close = outcome.counts().get("close", 0)
        click.echo("equal within the tolerance" if close or tolerance else "equal to the bit")
