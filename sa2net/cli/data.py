"""Data sets: draw phantoms, bring scans in, fetch them where there is no checkout, keep DVC and buckets in order."""

from collections.abc import Callable
from pathlib import Path

import click

from sa2net.cli.options import DATA, PATH, cli, load, quiet_option, settings_options
from sa2net.config import FetchConfig, as_section


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
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option(
    "--out", type=PATH, default=DATA, show_default=True, help="Folder that will hold dataset/ and groundtruth/."
)
@click.option("--pseudonymise", is_flag=True, help="Replace names and subjects; the key is written outside the data.")
@click.option("--key", type=PATH, default=None, help="Where the key to the pseudonyms goes; default: ~/sa2net-keys.")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=None,
    metavar="SHARE",
    help="DICOM scans without lists: this share of the subjects becomes the test split.",
)
@settings_options
@quiet_option
def import_data(
    sources: tuple[Path, ...],
    out: Path,
    pseudonymise: bool,
    key: Path | None,
    test_fraction: float | None,
    params: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
) -> None:
    """Bring your own scans in: checked first, then copied whole.

    SOURCES is one folder with dataset/ and groundtruth/, or folders and files of DICOM scans with their masks.

    \b
    Examples: sa2net import-data /mnt/study7 --pseudonymise
              sa2net import-data /mnt/export --pseudonymise --test-fraction 0.3
    """  # noqa: D301 - click wants the backspace itself
    from sa2net.data.imports import import_data as bring_in

    cfg = load(params, overrides).validate
    result = bring_in(
        sources,
        out,
        pseudonymise=pseudonymise,
        key=key,
        test_fraction=test_fraction,
        cfg=cfg,
        progress=not quiet,
    )
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


def _fetch_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each setting of the section `fetch`, which is in no settings file."""
    for key, field in reversed(FetchConfig.model_fields.items()):
        required = field.is_required()
        command = click.option(
            f"--{key.replace('_', '-')}",
            type=field.annotation,
            required=required,
            default=None if required else field.default,
            show_default=field.default != "",
            help=f"{str(field.description)[0].upper()}{str(field.description)[1:]}.",
        )(command)
    return command


@cli.command()
@click.option(
    "--pointer", required=True, metavar="FILE|ADDRESS", help="The data.dvc: a path, file:///PATH or s3://BUCKET/KEY."
)
@click.option("--out", type=PATH, required=True, help="New folder for the data set and its pointer.")
@_fetch_options
@quiet_option
def fetch(pointer: str, out: Path, quiet: bool, **settings: object) -> None:
    """Pull the data set that a data.dvc names, without git, and verify every file.

    An interrupted fetch goes on where it was when it is run again. Keys of the bucket come from the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). In a checkout, `dvc pull` does the same.

    Example: sa2net fetch --pointer s3://spine/data.dvc --remote s3://spine/dvc --out /scratch/scans
    """
    from sa2net.data.layout import data_root
    from sa2net.steps import fetch as step

    cfg = as_section(FetchConfig, settings, source="the fetch")
    result = step.run(cfg, pointer=pointer, out=out, progress=not quiet)
    if not quiet:
        click.echo(
            f"{result.files} files, {result.size / 1e6:.1f} MB, {result.pulled} objects pulled; every md5 is right"
        )
        click.echo(f"now: sa2net validate --data {data_root(result.data)}")


@cli.command()
@click.argument("address", metavar="s3://NAME")
@click.option("--endpoint-url", default="", metavar="URL", help="S3 server; default: that of the AWS settings.")
@click.option("--region", default="", help="Region of the bucket; default: that of the AWS settings.")
@click.option("--keep-days", type=click.IntRange(1), default=90, show_default=True, help="Old versions stay so long.")
@click.option(
    "--abort-days", type=click.IntRange(1), default=7, show_default=True, help="Unfinished uploads stay so long."
)
@click.option(
    "--kms-key", default="", metavar="KEY", help="Encrypt with this key; default: keys of the store (SSE-S3)."
)
@click.option("--https-only", is_flag=True, help="Add a policy that refuses plain HTTP.")
@click.option("--dry-run", is_flag=True, help="Say what would change; change nothing.")
def bucket(
    address: str,
    endpoint_url: str,
    region: str,
    keep_days: int,
    abort_days: int,
    kms_key: str,
    https_only: bool,
    dry_run: bool,
) -> None:
    """Make a bucket, or bring one up: versioning, encryption, no public access, clearing up. Run again, it changes nothing.

    What is stricter already stays, and so do the rules of others. One line a setting: ok, changed, would change,
    differs (a rule of somebody else stands against it), not supported (by this server).

    Exit code: 0 everything stands, or would; 1 something differs or is not supported; 5 refused, or no answer.

    Example: sa2net bucket s3://spine --endpoint-url https://s3.hospital.example --dry-run
    """
    from sa2net.data.store.bucket import Wanted, prepare
    from sa2net.data.store.objects import split_s3
    from sa2net.data.store.s3 import connect
    from sa2net.errors import ConfigError, NegativeAnswerError

    name, prefix = split_s3(address)
    if prefix:
        raise ConfigError(f"{address} is a place in a bucket", action=f"Name the bucket alone: s3://{name}")
    wanted = Wanted(keep_days, abort_days, kms_key, https_only)
    lacking = []
    for found in prepare(connect(endpoint_url, region), name, wanted, dry_run=dry_run):
        click.echo(f"{found.verdict:14}{found.setting:20}{found.detail}")
        if found.verdict in ("differs", "not supported"):
            lacking.append(found.setting)
    if lacking:
        raise NegativeAnswerError(
            f"{address} is not as it should be",
            evidence=", ".join(lacking),
            action="Do by other means what this server does not know; settle with others what their rules do.",
        )
