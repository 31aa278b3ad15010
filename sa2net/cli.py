"""The command line: one verb per step, and what people do with the result.

Only parsing and printing live here. Heavy modules are imported inside the verbs, so that `--help` stays quick.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sa2net import __version__
from sa2net.config import Config

DATA = Path("data/scoliosis3classes")
BUILD = Path("build")
PARAMS = Path("params.yaml")
CHAMPION = "models:/sa2net@champion"

Command = Callable[..., Any]
_path = click.Path(path_type=Path)


def _settings(command: Command) -> Command:
    """Options of every verb that reads settings."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."
    )(command)
    return click.option(
        "--params", type=_path, default=None, help="Settings file; default: params.yaml here, where there is one."
    )(command)


def _data(command: Command) -> Command:
    return click.option(
        "--data", type=_path, default=DATA, show_default=True, help="Folder that holds dataset/ and groundtruth/."
    )(command)


def _out(default: Path) -> Callable[[Command], Command]:
    return click.option("--out", type=_path, default=default, show_default=True, help="Folder to write.")


def _quiet(command: Command) -> Command:
    return click.option("--quiet", is_flag=True, help="No progress bar, no summary.")(command)


def _load(params: Path | None, overrides: tuple[str, ...]) -> Config:
    if params is None and PARAMS.exists():
        params = PARAMS
    return Config.load(params, overrides)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sa2net")
@click.option("-v", "--verbose", is_flag=True, help="Say more on the way.")
def cli(verbose: bool) -> None:
    """Segment the spine in ultrasound volume projection images. Research use only.

    \b
    The line, step by step:   sa2net validate; sa2net train; sa2net evaluate; sa2net register
    All of it, with caching:  dvc repro      (or `make run` in a fresh clone)
    Then:                     sa2net predict scan.png --out masks
    """  # noqa: D301 - click wants the backspace itself
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("sa2net").setLevel(logging.DEBUG if verbose else logging.INFO)


@cli.command()
@_data
@_out(BUILD / "validate")
@click.option(
    "--data-docs",
    type=_path,
    default=None,
    help="Write Great Expectations' Data Docs there too (they load scripts from outside).",
)
@_settings
@_quiet
def validate(
    data: Path, out: Path, data_docs: Path | None, params: Path | None, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Check a data set; every fault is named, with its cure.

    Example: sa2net validate --data data/scoliosis3classes --out build/validate
    """
    from sa2net.steps import validate as step

    result = step.run(_load(params, overrides).validate, data=data, out=out, data_docs=data_docs, progress=not quiet)
    if not quiet:
        click.echo(f"{result.scans} scans can be used, {len(result.warnings)} warnings; page: {result.page}")


@cli.command()
@_data
@click.option("--validation", type=_path, default=BUILD / "validate", show_default=True, help="What `validate` wrote.")
@_out(BUILD / "train")
@click.option(
    "--checkpoints", type=_path, default=None, help="Folder of checkpoints; default: var/checkpoints of the project."
)
@click.option("--fresh", is_flag=True, help="Forget the checkpoints of this very training and start again.")
@_settings
@_quiet
def train(
    data: Path,
    validation: Path,
    out: Path,
    checkpoints: Path | None,
    fresh: bool,
    params: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Train the network; goes on from its last checkpoint after a crash.

    Example: sa2net train --set train.epochs=2 --set train.device=cpu
    """
    from sa2net.registry.store import var_folder
    from sa2net.steps import train as step

    cfg = _load(params, overrides)
    result = step.run(
        cfg.train,
        data=data,
        validation=validation,
        out=out,
        checkpoints=checkpoints or var_folder() / "checkpoints",
        fresh=fresh,
        progress=not quiet,
    )
    if not quiet:
        click.echo(
            f"best validation Dice {result.best_dice:.3f} after epoch {result.best_epoch}; model folder: {result.model}"
        )


@cli.command()
@_data
@click.option(
    "--model", default=str(BUILD / "train" / "model"), show_default=True, help="Model folder, or models:/NAME@ALIAS."
)
@_out(BUILD / "evaluate")
@_settings
@_quiet
def evaluate(data: Path, model: str, out: Path, params: Path | None, overrides: tuple[str, ...], quiet: bool) -> None:
    """Score a model on the test split: numbers with intervals, and a report.

    Example: sa2net evaluate --model models:/sa2net@champion --data other/data --out build/other
    """
    from sa2net.registry.versions import resolve
    from sa2net.steps import evaluate as step

    step.run(_load(params, overrides).evaluate, data=data, model=resolve(model), out=out, progress=not quiet)
    if not quiet:
        click.echo(_scores_table(out))
        click.echo(f"report: {out / 'report.html'}")


@cli.command()
@_data
@click.option("--model", type=_path, default=BUILD / "train" / "model", show_default=True, help="Model folder.")
@click.option("--evaluation", type=_path, default=BUILD / "evaluate", show_default=True, help="What `evaluate` wrote.")
@_out(BUILD / "register")
@_settings
@_quiet
def register(
    data: Path, model: Path, evaluation: Path, out: Path, params: Path | None, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Make the model a version of the registered model; the gate decides whether it becomes champion.

    Example: sa2net register --set register.promote=false
    """
    from sa2net.registry.store import tracking_uri
    from sa2net.steps import register as step

    result = step.run(_load(params, overrides).register, model=model, evaluation=evaluation, out=out, data=data)
    if quiet:
        return
    aliases = ", ".join(result.aliases) or "no alias"
    click.echo(_scores_table(evaluation))
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


@cli.command()
@click.argument("scans", nargs=-1, required=True)
@click.option("--model", default=CHAMPION, show_default=True, help="Model folder, or models:/NAME@ALIAS.")
@click.option("--out", type=_path, required=True, help="Folder to write: mask, overlay and JSON a scan.")
@click.option(
    "--spacing", type=float, nargs=2, default=None, metavar="X Y", help="Pixel size in mm, where it is known."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="evaluate.KEY=VALUE",
    help="mode, scales, flip, device, precision, threads.",
)
@click.option(
    "--params", type=_path, default=None, help="Settings file; default: params.yaml here, where there is one."
)
@_quiet
def predict(
    scans: tuple[str, ...],
    model: str,
    out: Path,
    spacing: tuple[float, float] | None,
    overrides: tuple[str, ...],
    params: Path | None,
    quiet: bool,
) -> None:
    """Segment scans: files, folders or globs. A bad file among good ones is reported, the others are done.

    Example: sa2net predict scans/*.png --model models:/sa2net@champion --out masks
    """
    from sa2net.registry.versions import resolve
    from sa2net.steps import predict as step

    cfg = _load(params, overrides).evaluate
    done = step.run(scans, resolve(model), out, cfg=cfg, spacing_mm=spacing, model_name=model, progress=not quiet)
    if not quiet:
        click.echo(f"{done} scans segmented into {out}")


@cli.command()
@click.option("--out", type=_path, required=True, help="Folder that will hold dataset/ and groundtruth/.")
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
@_quiet
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
@click.argument("source", type=_path)
@click.option(
    "--out", type=_path, default=DATA, show_default=True, help="Folder that will hold dataset/ and groundtruth/."
)
@click.option("--pseudonymise", is_flag=True, help="Replace names and subjects; the key is written outside the data.")
@click.option("--key", type=_path, default=None, help="Where the key to the pseudonyms goes; default: ~/sa2net-keys.")
@_settings
@_quiet
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

    cfg = _load(params, overrides).validate
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


@cli.command()
@click.argument("name", required=False)
@click.option("--show", is_flag=True, help="Print the settings with their meaning; write nothing.")
@click.option("--params", type=_path, default=PARAMS, show_default=True, help="File to rewrite.")
@click.option("--folder", type=_path, default=Path("recipes"), show_default=True, help="Where the recipes lie.")
def recipe(name: str | None, show: bool, params: Path, folder: Path) -> None:
    """Rewrite params.yaml from a recipe (a named set of overrides); without a name, list them.

    Example: sa2net recipe smoke
    """
    from sa2net.artifacts import write_text
    from sa2net.errors import ConfigError

    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name is None:
        click.echo(
            _load(params if params.exists() else None, ()).render()
            if show
            else "\n".join(known) or f"no recipes in {folder}"
        )
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
    write_text(params, rendered)
    click.echo(f"{params} now holds recipe {name}")


def _scores_table(evaluation: Path) -> str:
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
