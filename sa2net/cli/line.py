"""The steps of the line, one verb each."""

from pathlib import Path

import click

from sa2net.cli.options import BUILD, PATH, cli, data_option, load, out_option, quiet_option, settings_options


@cli.command()
@data_option
@out_option(BUILD / "validate")
@click.option(
    "--data-docs",
    type=PATH,
    default=None,
    help="Write Great Expectations' Data Docs there too (they load scripts from outside).",
)
@settings_options
@quiet_option
def validate(
    data: Path, out: Path, data_docs: Path | None, params: Path | None, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Check a data set; every fault is named, with its cure.

    Example: sa2net validate --data data/scoliosis3classes --out build/validate
    """
    from sa2net.steps import validate as step

    result = step.run(load(params, overrides).validate, data=data, out=out, data_docs=data_docs, progress=not quiet)
    if not quiet:
        click.echo(f"{result.scans} scans can be used, {len(result.warnings)} warnings; page: {result.page}")


@cli.command()
@data_option
@click.option("--validation", type=PATH, default=BUILD / "validate", show_default=True, help="What `validate` wrote.")
@out_option(BUILD / "train")
@click.option(
    "--checkpoints", type=PATH, default=None, help="Folder of checkpoints; default: var/checkpoints of the project."
)
@click.option("--fresh", is_flag=True, help="Forget the checkpoints of this very training and start again.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train in so many processes of this machine, each on a GPU of its own (or all on its CPU).",
)
@click.option("--folds", type=click.IntRange(1, 20), default=None, help="The same as --set train.folds=N.")
@settings_options
@quiet_option
def train(
    data: Path,
    validation: Path,
    out: Path,
    checkpoints: Path | None,
    fresh: bool,
    processes: int,
    folds: int | None,
    params: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Train the network; goes on from its last checkpoint after a crash.

    Example: sa2net train --processes 4 --set train.batch_size=32 --set train.device=cuda
    """
    overrides += () if folds is None else (f"train.folds={folds}",)
    from sa2net.registry.store import var_folder
    from sa2net.steps import train as step
    from sa2net.training.ranks import is_main

    cfg = load(params, overrides)
    result = step.run(
        cfg.train,
        data=data,
        validation=validation,
        out=out,
        checkpoints=checkpoints or var_folder() / "checkpoints",
        fresh=fresh,
        progress=not quiet,
        processes=processes,
    )
    if not quiet and processes == 1 and is_main():  # of several processes, the main one says it
        click.echo(
            f"best validation Dice {result.best_dice:.3f} after epoch {result.best_epoch}; model folder: {result.model}"
        )


@cli.command()
@data_option
@click.option(
    "--model",
    default=str(BUILD / "train" / "model"),
    show_default=True,
    help="Model folder, models:/NAME@ALIAS, or ready.",
)
@out_option(BUILD / "evaluate")
@settings_options
@quiet_option
def evaluate(data: Path, model: str, out: Path, params: Path | None, overrides: tuple[str, ...], quiet: bool) -> None:
    """Score a model on the test split: numbers with intervals, and a report.

    Example: sa2net evaluate --model models:/sa2net@champion --data other/data --out build/other
    """
    from sa2net.registry.versions import resolve
    from sa2net.steps import evaluate as step

    step.run(load(params, overrides).evaluate, data=data, model=resolve(model), out=out, progress=not quiet)
    if not quiet:
        click.echo(scores_table(out))
        click.echo(f"report: {out / 'report.html'}")


@cli.command()
@data_option
@click.option("--model", type=PATH, default=BUILD / "train" / "model", show_default=True, help="Model folder.")
@click.option("--evaluation", type=PATH, default=BUILD / "evaluate", show_default=True, help="What `evaluate` wrote.")
@out_option(BUILD / "register")
@settings_options
@quiet_option
def register(
    data: Path, model: Path, evaluation: Path, out: Path, params: Path | None, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Make the model a version of the registered model; the gate decides whether it becomes champion.

    Example: sa2net register --set register.promote=false
    """
    from sa2net.registry.store import tracking_uri
    from sa2net.steps import register as step

    result = step.run(load(params, overrides).register, model=model, evaluation=evaluation, out=out, data=data)
    if quiet:
        return
    aliases = ", ".join(result.aliases) or "no alias"
    click.echo(scores_table(evaluation))
    click.echo(
        f"version:  {result.name} {result.version} ({aliases}){'' if result.created else ', already registered'}"
    )
    click.echo(f"decision: {result.verdict} - {'; '.join(reason.rstrip('.') for reason in result.reasons)}")
    click.echo(f"report:   {evaluation / 'report.html'}")
    click.echo(
        f"runs:     MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri {tracking_uri()}"
        if "://" in tracking_uri() and not tracking_uri().startswith("http")
        else f"runs:     {tracking_uri()}"
    )


def scores_table(evaluation: Path) -> str:
    """The scores with their intervals, as lines for a terminal."""
    from sa2net.artifacts import SCORES, read_scores

    scores = read_scores(evaluation / SCORES)
    data = "phantom " if scores.phantom else ""
    lines = [
        f"{data}{scores.split} split: {scores.scans} scans of {scores.subjects} subjects",
        f"{'':18}{'Dice':>7}  {f'{scores.confidence:.0%} interval':15} {'NSD':>6}  {'HD95':>7} {scores.unit}",
    ]
    for name, group in {"mean": scores.mean, **scores.per_class}.items():
        dice = group.dice
        interval = f"{dice.low:.3f} - {dice.high:.3f}" if dice and dice.low is not None else "-"
        numbers = [
            f"{estimate.value:{form}}" if estimate else "-"
            for estimate, form in ((dice, ".3f"), (group.nsd, ".3f"), (group.hd95, ".2f"))
        ]
        lines.append(f"{name:18}{numbers[0]:>7}  {interval:15} {numbers[1]:>6}  {numbers[2]:>7}")
    return "\n".join(lines)
