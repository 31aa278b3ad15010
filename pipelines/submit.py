"""Submit the training pipeline to Kubeflow, and look after it: watch, cancel, upload, run by the calendar.

Settings are checked and images pinned before anything is sent, so that what cannot work costs no queue and no GPU.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from pipelines import environments
from pipelines.client import Cluster, connect
from pipelines.compile import DEFAULT_OUT, Compiled, compile_training
from pipelines.cron import six_fields
from pipelines.options import PATH, environment_options, params_file, recipe_file, run_command, settings_options
from pipelines.tracked import REASONS, close_ended, close_runs
from pipelines.training import NAME
from pipelines.transport import Recorder
from pipelines.watch import CANCELED, ENDED, Say, read, watch
from sa2net.errors import ClusterError, ConfigError
from sa2net.registry.environment import revision
from sa2net.termination import kept_interrupt

THIS_RUN = "(the submitted run)"
ANYWHERE = {"env", "environments_file", "ca", "timeout"}
COMPILING = {"lock", "params", "recipe", "overrides", "data", "experiment", "out", "dry_run"}
MEANING = {
    "run": COMPILING | {"name", "watch", "interval", "patience"},
    "upload": COMPILING | {"upload"},
    "cron": COMPILING | {"cron", "recurring_name", "replace"},
    "watch": {"watch", "interval", "patience"},
    "cancel": {"cancel", "dry_run"},
}
"""What is done -> options that mean something there; others are refused, not ignored."""


@click.command("pipelines.submit", context_settings={"help_option_names": ["-h", "--help"]})
@environment_options
@settings_options
@click.option(
    "--out", type=PATH, default=DEFAULT_OUT, show_default=True, help="File to compile into; it is what is sent."
)
@click.option("--name", metavar="TEXT", help="Name of the run; default: pipeline, revision and time.")
@click.option(
    "--watch",
    metavar="[RUN_ID]",
    is_flag=False,
    flag_value=THIS_RUN,
    default=None,
    help="Follow the submitted run to its end; with an id, only watch that one.",
)
@click.option("--cancel", metavar="RUN_ID", help="End a run.")
@click.option(
    "--upload", metavar="PIPELINE", help="Upload under this name, as a new version if it is there; runs nothing."
)
@click.option("--cron", metavar="SCHEDULE", help="Run by the calendar: '0 3 * * 1' is Mondays at 03:00.")
@click.option("--recurring-name", metavar="TEXT", default=NAME, show_default=True, help="Name of the recurring run.")
@click.option("--replace", is_flag=True, help="With --cron: take the place of the recurring run of that name.")
@click.option("--dry-run", is_flag=True, help="Print the requests as JSON, and send nothing.")
@click.option("--ca", type=PATH, help="PEM file of the authority that signed the server's certificate.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60, show_default=True, help="Seconds to wait for an answer."
)
@click.option(
    "--interval", type=click.FloatRange(0.05), default=10, show_default=True, help="Seconds between two looks at a run."
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=900,
    show_default=True,
    help="Seconds the server may be away while watching.",
)
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Submit the training pipeline to Kubeflow Pipelines.

    \b
    python -m pipelines.submit --env cluster --set train.epochs=3 --watch
    python -m pipelines.submit --watch RUN_ID
    python -m pipelines.submit --cancel RUN_ID
    python -m pipelines.submit --upload sa2net-training
    python -m pipelines.submit --cron '0 3 * * 1' --data s3://BUCKET/data.dvc

    The endpoint comes from the environment's section or KF_PIPELINES_ENDPOINT; a login from KF_PIPELINES_TOKEN,
    KF_PIPELINES_COOKIES or, in a pod, its service account. Exit code 0: submitted, or succeeded with --watch; 2: settings;
    6: the cluster refused or cannot be reached, or the run did not succeed.
    """  # noqa: D301 - \b is click's mark for lines that stay
    action = _action(ctx, options)
    environment = environments.load(options["env"], options["environments_file"])
    schedule = six_fields(options["cron"]) if action == "cron" else ""
    recorder = Recorder() if options["dry_run"] else None
    cluster = connect(environment, ca=options["ca"], seconds=options["timeout"], recorder=recorder)
    say: Say = click.echo if recorder is None else _say_nothing
    if action == "watch":
        _follow(cluster, options["watch"], options)
    elif action == "cancel":
        _cancel(cluster, options["cancel"], say)
        if recorder is None:
            close_runs(options["cancel"], "KILLED", REASONS[CANCELED], say)
    else:
        compiled = _compile(options)
        if action == "run":
            _run(cluster, compiled, options, say)
        elif action == "upload":
            _upload(cluster, compiled, options["upload"], say)
        else:
            _schedule(cluster, compiled, schedule, options, say)
    if recorder:
        click.echo(json.dumps({"endpoint": cluster.address.url, "requests": _explained(recorder)}, indent=2))


def _action(ctx: click.Context, options: Mapping[str, Any]) -> str:
    """What is to be done.

    Raises:
        UsageError: Options that do not go together.
    """
    asked = [name for name in ("upload", "cron", "cancel") if options[name] is not None]
    if options["watch"] not in (None, THIS_RUN):
        asked.append("watch")
    if len(asked) > 1:
        raise click.UsageError(f"--{asked[0]} and --{asked[1]} are two commands; give one.")
    action = asked[0] if asked else "run"
    flags = {item.name: item.opts[0] for item in ctx.command.params}
    for name in options:
        if name not in ANYWHERE | MEANING[action] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flags[name]} means nothing with {f'--{action}' if asked else 'a single run'}.")
        if name in ("watch", "cancel", "upload", "name", "recurring_name") and options[name] == "":
            raise click.UsageError(f"{flags[name]} is empty.")
    watching = options["watch"] is not None
    for name in ("interval", "patience"):
        if not watching and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flags[name]} means nothing without --watch.")
    if options["dry_run"] and watching:
        raise click.UsageError("A dry run sends nothing, so that there is nothing to watch.")
    for name in ("watch", "cancel"):
        if name == action and not re.fullmatch(r"[A-Za-z0-9-]+", options[name]):
            raise click.UsageError(f"{options[name]!r} is no id of a run; the address of its page ends in it.")
    return action


def _compile(options: Mapping[str, Any]) -> Compiled:
    """The pipeline file, settings checked.

    Raises:
        ConfigError: Settings that cannot work, or an image that is not pinned.
    """
    compiled = compile_training(
        options["env"],
        options["out"],
        params=params_file(options["params"]),
        recipe=recipe_file(options["recipe"]),
        overrides=options["overrides"],
        data=options["data"],
        experiment=options["experiment"],
        environments_file=options["environments_file"],
        lock=options["lock"],
    )
    if compiled.unpinned:
        raise ConfigError(
            "an image is known by its tag alone, and a tag can move under a cached step",
            evidence=", ".join(compiled.unpinned),
            action=f"Run `make pin` first; it writes the digests into {options['lock']}.",
        )
    return compiled


def _run(cluster: Cluster, compiled: Compiled, options: Mapping[str, Any], say: Say) -> None:
    experiment = cluster.experiment(options["experiment"])
    name = options["name"] or f"{NAME} {stamp()}"
    run_id = cluster.start(compiled.file, experiment, name)
    say(f"run:    {run_id} ({name})")
    say(f"page:   {cluster.link(f'runs/details/{run_id}')}")
    if options["watch"]:
        _follow(cluster, run_id, options, met=True)
    else:
        say(f"watch:  python -m pipelines.submit --env {options['env']} --watch {run_id}")


def _follow(cluster: Cluster, run_id: str, options: Mapping[str, Any], *, met: bool = False) -> None:
    pace = {"interval": options["interval"], "patience": options["patience"]}
    ended = partial(close_ended, run_id=run_id, say=click.echo)
    try:
        with kept_interrupt() as check:

            def pause(seconds: float) -> None:
                check()
                time.sleep(seconds)

            watch(cluster, run_id, **pace, say=click.echo, met=met, ended=ended, sleep=pause)
    except KeyboardInterrupt:
        click.echo(f"\nno longer watching; run {run_id} goes on", err=True)
        command = f"python -m pipelines.submit --env {options['env']}"
        click.echo(f"watch it again:  {command} --watch {run_id}", err=True)
        click.echo(f"end it:          {command} --cancel {run_id}", err=True)
        raise


def _cancel(cluster: Cluster, run_id: str, say: Say) -> None:
    state = read(cluster.run(run_id)).state
    if state == CANCELED:
        say(f"run {run_id} is cancelled already")
        return
    if state in ENDED:
        raise ClusterError(
            f"run {run_id} cannot be cancelled",
            evidence=f"it has ended: {state}",
            action="There is nothing left to end.",
        )
    cluster.terminate(run_id)
    say(f"run {run_id} was {state} and is being cancelled")


def _upload(cluster: Cluster, compiled: Compiled, name: str, say: Say) -> None:
    version_name = f"{name} {stamp()}"
    pipeline, version = cluster.upload(compiled.file, name, version_name)
    say(f"pipeline {name}: {f'version {version_name}' if version else 'new'}")
    route = f"pipelines/details/{pipeline}" + (f"/version/{version}" if version else "")
    say(f"page:   {cluster.link(route)}")


def _schedule(cluster: Cluster, compiled: Compiled, cron: str, options: Mapping[str, Any], say: Say) -> None:
    name, data = options["recurring_name"], options["data"]
    if "://" not in data:
        click.echo(
            f"warning: {data} is a file, and its text is compiled in: every run will see the data set of today. "
            "For new data, give --data an address such as s3://BUCKET/data.dvc, which each run reads anew.",
            err=True,
        )
    experiment = cluster.experiment(options["experiment"])
    old = cluster.schedules(experiment, name)
    if old and not options["replace"]:
        raise ClusterError(
            f"there is a recurring run {name} already",
            evidence=f"{', '.join(old)} in the experiment {options['experiment']}",
            action="Choose another --recurring-name, or take its place with --replace.",
        )
    made = cluster.schedule(compiled.file, experiment, name, cron)
    say(f"recurring run: {made} ({name}), seconds first: {cron}")
    say("time zone:     that of the installation (UTC unless its CRON_SCHEDULE_TIMEZONE says otherwise)")
    say(f"page:          {cluster.link(f'recurringrun/details/{made}')}")
    for item in old:  # the new one stands by now: a schedule is never lost, at worst there are two
        cluster.unschedule(item)
        say(f"replaced:      {item} is deleted")


def _explained(recorder: Recorder) -> list[dict[str, Any]]:
    """The recorded requests; those that depend on an answer say so."""
    for request in recorder.requests:
        route = request["path"].partition("?")[0]
        if request["method"] == "POST" and route.endswith("/experiments"):
            request["when"] = "the experiment is not there yet"
        if route.endswith("/pipelines/upload"):
            request["when"] = "the pipeline is not there yet; else the file goes to /pipelines/upload_version"
    return recorder.requests


def _say_nothing(_: str) -> None:
    """In a dry run nothing happened that could be told."""


def stamp() -> str:
    """Revision and time (UTC, to the second): what tells one submission from another."""
    code = revision()
    commit = code.commit[:12] or "no-revision"
    return f"{commit}{'-dirty' if code.dirty else ''} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a line is said when it happens
    run_command(main)
