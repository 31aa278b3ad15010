"""`sa2net doctor`: one line for everything that a run leans on, with the cure."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sa2net import __version__
from sa2net.cli.options import BUILD, PARAMS, PATH, cli

if TYPE_CHECKING:
    from sa2net.steps.doctor import Finding

_COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}
_NARROW, _WIDE = 60, 140


def _names(_: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    from sa2net.steps.doctor import CHECKS

    names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(CHECKS)}", param=option)
    return names


def _options(command: Callable[..., int]) -> Callable[..., int]:
    gigabytes = click.FloatRange(min=0)
    for option in reversed((
        click.option("--only", default="", callback=_names, metavar="NAME,...", help="Only these checks."),
        click.option("--require", default="", callback=_names, metavar="NAME,...", help="Here a note is a failure."),
        click.option("--json", "json_file", type=PATH, default=None, metavar="FILE", help="Write JSON too; - for JSON alone, to stdout."),
        click.option("--s3", default="", envvar="SA2NET_S3", metavar="s3://BUCKET/PREFIX", help="Write, read and delete a probe there; default: $SA2NET_S3."),
        click.option("--endpoint-url", default="", metavar="URL", help="S3 server; default: that of the AWS settings."),
        click.option("--region", default="", help="Region of the bucket; default: that of the AWS settings."),
        click.option("--pointer", type=PATH, default=Path("data.dvc"), show_default=True, help="DVC's pointer of the data set."),
        click.option("--dvc-remote", default="", metavar="NAME|ADDRESS", help="DVC remote; default: the one that the pointer names."),
        click.option("--kfp-endpoint", default="", envvar="KF_PIPELINES_ENDPOINT", metavar="URL", help="Kubeflow Pipelines; default: $KF_PIPELINES_ENDPOINT."),
        click.option("--kfp-namespace", default="", metavar="NAME", help="Kubernetes namespace of the runs."),
        click.option("--build", type=PATH, default=BUILD, show_default=True, help="Folder that the steps write."),
        click.option("--params", type=PATH, default=PARAMS, show_default=True, help="Settings file."),
        click.option("--free-gb", type=gigabytes, default=5.0, show_default=True, help="Room for build/ and for var/, GB."),
        click.option("--free-temp-gb", type=gigabytes, default=1.0, show_default=True, help="Room for temporary files, GB."),
        click.option("--free-shm-gb", type=gigabytes, default=1.0, show_default=True, help="Room in /dev/shm, GB."),
        click.option("--timeout", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Seconds for each check."),
    )):  # fmt: skip
        command = option(command)
    return command


@cli.command()
@_options
def doctor(
    only: tuple[str, ...], require: tuple[str, ...], json_file: Path | None, timeout: float, **settings: object
) -> int:
    """Check what a run leans on, and print one line each with the cure.

    Example: sa2net doctor --require gpu,mlflow --s3 s3://spine/data --endpoint-url http://s3.local:8333

    \b
    python    packages against constraints.txt     settings  params.yaml
    disk      room for build/, var/, temp          shm       room in /dev/shm for DataLoader workers
    gpu       torch computes on each GPU           data      fetched? changed since `dvc add`?
    dvc       remote holds what data.dvc names     mlflow    store or server, credentials, artifacts
    s3        writes, reads, deletes a probe       kfp       Kubeflow Pipelines API, token
    clock     against the servers' clocks

    \b
    ok: fine. note: absent or unusual, and perhaps meant so. fail: a run that needs it will fail.
    Exit code: 0 without a failure; else that of the first line that fails:
    2 python settings clock; 3 data; 4 gpu; 5 disk shm dvc mlflow s3; 6 kfp.
    Keys come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD, KF_PIPELINES_TOKEN. They are not printed.
    """  # noqa: D301 - click wants the backspace itself
    from sa2net.artifacts import write_json
    from sa2net.steps.doctor import CHECKS, Options, examine
    from sa2net.steps.doctor.findings import as_document

    names = [name for name in CHECKS if not only or name in only]
    silent = json_file == Path("-")
    findings: list[Finding] = []
    for finding in examine(names, Options(**settings), required=require, limit=timeout):  # type: ignore[arg-type]
        findings.append(finding)
        if not silent:
            click.echo(_line(finding))
    code = next((CHECKS[finding.name].exit_code for finding in findings if finding.verdict == "fail"), 0)
    document = as_document(findings, exit_code=code, version=__version__)
    if silent:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif json_file is not None:
        write_json(json_file, document)
    return code


def _line(finding: "Finding") -> str:
    """A finding for people: wrapped and coloured on a terminal, else one line."""
    verdict, name = f"{finding.verdict:5}", f"{finding.name:9}"
    text = f"{finding.evidence}  -> {finding.cure}" if finding.cure else finding.evidence
    if not sys.stdout.isatty():
        return f"{verdict} {name} {text}"
    width = min(max(shutil.get_terminal_size().columns, _NARROW), _WIDE) - 16
    parts = [text] if len(text) <= width else [finding.evidence, *([f"-> {finding.cure}"] if finding.cure else [])]
    lines = [line for part in parts for line in textwrap.wrap(part, width, subsequent_indent="   " * (part != text))]
    shown = verdict if os.environ.get("NO_COLOR") else click.style(verdict, fg=_COLOURS[finding.verdict])
    start = f"{shown} {name} "
    return start + f"\n{'':16}".join(lines)
