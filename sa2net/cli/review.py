"""The page on which a person checks and corrects measured angles."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sa2net.cli.options import PATH, cli, counted, load

if TYPE_CHECKING:
    from sa2net.review.results import Results


@cli.command()
@click.argument("folder", type=PATH)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of 127.0.0.1; 0 = a free one.")
@click.option("--no-browser", is_flag=True, help="Print the link and open nothing.")
@click.option("--export", type=PATH, default=None, help="Write table, pages and data set into this folder instead.")
@click.option(
    "--subjects", type=PATH, default=None, help="Table name,subject[,device] of the scans: the data set is split by it."
)
@click.option("--set", "overrides", multiple=True, metavar="evaluate.measure.KEY=VALUE", help="Limits of refusal.")
@click.option("--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one.")
def review(
    folder: Path,
    port: int,
    no_browser: bool,
    export: Path | None,
    subjects: Path | None,
    overrides: tuple[str, ...],
    params: Path | None,
) -> None:
    """Check and correct the angles that `measure` wrote into FOLDER, on a page of this machine. Research use only.

    Every save is a new file below FOLDER/reviews. Ctrl-C ends the page.

    Example: sa2net review angles
    """
    from sa2net.review.results import Results

    results = Results(folder)
    if export is not None:
        _export(results, export, subjects)
        return
    from sa2net.review.server import review_server

    cfg = load(params, overrides).evaluate.measure
    # Ctrl-C is the way to end it; everything is saved by then.
    with suppress(KeyboardInterrupt), review_server(results, cfg, port=port, subjects=subjects) as server:
        click.echo(f"{counted(len(results.names))}: {server.link}")
        click.echo("Only this machine can open it. Ctrl-C ends it.")
        if not no_browser:
            click.launch(server.link)
        server.run()


def _export(results: "Results", out: Path, subjects: Path | None) -> None:
    from sa2net.artifacts import write_text
    from sa2net.errors import DataError
    from sa2net.review.data_set import write_data_set
    from sa2net.review.exports import reviewed, table, to_pdf

    items = reviewed(results)
    write_text(out / "review.csv", table(items))
    (out / "review.pdf").write_bytes(to_pdf(results, items))
    click.echo(
        f"reviewed: {sum(item.review is not None for item in items)} of {counted(len(items))}: {out}/review.csv, review.pdf"
    )
    try:
        done = write_data_set(results.root, out / "scoliosis3classes", subjects=subjects)
    except DataError as error:
        raise DataError(
            "table and pages are written, and no data set", evidence=error.evidence or error.what, action=error.action
        ) from error
    for problem in done.problems:
        click.echo(f"left out: {problem}", err=True)
    click.echo(f"{counted(len(done.names))} with corrected masks: {out}/scoliosis3classes")
