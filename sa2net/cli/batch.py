"""Segmenting many scans: in a bucket or a folder, resumable, with a summary."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from sa2net.cli.options import CHAMPION, PATH, cli, load, quiet_option


@cli.command("predict-batch")
@click.argument("scans")
@click.option("--results", required=True, help="Where the results go: s3://BUCKET/PREFIX or a folder.")
@click.option("--model", default=CHAMPION, show_default=True, help="Model folder, or models:/NAME@ALIAS.")
@click.option("--endpoint-url", default="", help="Address of the S3 server; default: that of the AWS settings.")
@click.option("--region", default="", help="Region of the bucket; default: that of the AWS settings.")
@click.option(
    "--spacing", type=float, nargs=2, default=(0.0, 0.0), metavar="X Y", help="Pixel size of all scans in mm, if known."
)
@click.option("--overlays/--no-overlays", default=True, show_default=True, help="Write a picture of scan and mask.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="evaluate.KEY=VALUE",
    help="mode, scales, flip, device, precision, threads.",
)
@click.option("--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one.")
@quiet_option
def predict_batch(
    scans: str,
    results: str,
    model: str,
    endpoint_url: str,
    region: str,
    spacing: tuple[float, float],
    overlays: bool,
    overrides: tuple[str, ...],
    params: Path | None,
    quiet: bool,
) -> None:
    """Segment all scans below an address; run again, it does what is missing.

    SCANS is s3://BUCKET/PREFIX or a folder; PNG files count at any depth. Results keep the scans' paths, below scans/;
    summary.html, .csv and .json lie beside it. Keys of the bucket come from the environment (AWS_ACCESS_KEY_ID, ...).

    Example: sa2net predict-batch s3://bucket/scans --results s3://bucket/results --model models:/sa2net@champion
    """
    from sa2net.config import BatchConfig, as_section
    from sa2net.steps.batch import plan as planning
    from sa2net.steps.batch import shard, summary

    if quiet:
        logging.getLogger("sa2net").setLevel(logging.ERROR)
    asked = {"endpoint_url": endpoint_url, "region": region, "spacing_mm": spacing, "overlays": overlays}
    inference = planning.inference_settings(load(params, overrides).evaluate)
    cfg = as_section(BatchConfig, inference, asked, source="the batch")
    plan = planning.run(cfg, scans=scans, results=results, model=model)
    for index in range(len(plan.shards)):
        shard.run(plan, index)
    with TemporaryDirectory(prefix="sa2net-") as scratch:
        outcome = summary.run(plan, Path(scratch))
    if not quiet:
        click.echo(
            f"{outcome.done} of {outcome.scans} scans segmented with {plan.model.address}, {outcome.before} before"
        )
        click.echo(f"summary: {results.rstrip('/')}/{summary.SUMMARY_PAGE}")
    outcome.check()
