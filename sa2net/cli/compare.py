"""Two models side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sa2net.cli.options import BUILD, PATH, cli, load, out_option, quiet_option, settings_options


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--data", type=PATH, default=None, help="Data set: for pictures, and to score both where their scores do not fit."
)
@out_option(BUILD / "compare")
@click.option("--pictures", type=click.IntRange(min=0), default=6, show_default=True, help="Most scans drawn.")
@settings_options
@quiet_option
def compare(
    a: str,
    b: str,
    data: Path | None,
    out: Path,
    pictures: int,
    params: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Put two models side by side: per class, per scan, and pictures of the scans that changed most.

    A and B are models:/NAME/NUMBER, models:/NAME@ALIAS, model folders, or what evaluate or score-masks wrote.
    Differences are B - A. It decides nothing: the exit code is 0 whichever is better.

    Example: sa2net compare models:/sa2net@previous models:/sa2net@champion --data data/scoliosis3classes
    """
    from sa2net.steps import compare as step

    cfg = load(params, overrides).evaluate
    result = step.run(cfg, first=a, second=b, data=data, out=out, pictures=pictures, progress=not quiet)
    if not quiet:
        click.echo(comparison_table(result.document))
        click.echo(f"page: {result.page}{'' if data else ' (without pictures: no --data)'}")


def comparison_table(document: Mapping[str, Any]) -> str:
    """The comparison, as lines for a terminal."""
    kind = "phantoms" if document["phantom"] else "scans"
    lines = [
        f"A: {document['first']['label']}   B: {document['second']['label']}",
        f"{document['split']} split, {len(document['scans'])} {kind} of {document['subjects']} subjects, "
        f"data {document['data_md5'][:12]}. {document['scored']}",
        f"{'Dice':20}{'A':>23} {'B':>23} {'B - A':>26} {'p':>7}",
    ]
    for row in document["table"]:
        cells = [_cell(row[side], "") for side in ("first", "second")] + [_cell(row["difference"], "+")]
        p_value = "-" if "p_value" not in row else "< 0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}"
        lines.append(f"{row['subject']:20}{cells[0]:>23} {cells[1]:>23} {cells[2]:>26} {p_value:>7}  {row['says']}")
    changed = [row for row in document["scans"] if row.get("change")][:5]
    if changed:
        lines.append("changed most: " + ", ".join(f"{row['name']} {row['change']:+.3f}" for row in changed))
    return "\n".join(lines)


def _cell(estimate: Mapping[str, float], sign: str) -> str:
    if "value" not in estimate:
        return "-"
    value = f"{estimate['value']:{sign}.3f}"
    if "low" not in estimate:
        return value
    return f"{value} ({estimate['low']:{sign}.3f} to {estimate['high']:{sign}.3f})"
