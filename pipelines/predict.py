"""The batch pipeline: a plan, its parts side by side, a summary from what they left.

Its own file, since it shares no task with training: it uses a version that is there. Nothing is cached, since scans,
results and the champion lie outside of it; what is done already is found out by the plan. The loop runs over numbers of
parts, never over names of scans, which would stand in the back end's database.
"""

import logging
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from kfp import dsl, local
from kfp.dsl.graph_component import GraphComponent

from components.predict_plan import predict_plan
from components.predict_shard import predict_shard
from components.predict_summary import predict_summary
from pipelines import environments, runtime
from pipelines.compile import Compiled, one_line, write
from pipelines.environments import Environment
from pipelines.local import on_this_machine
from pipelines.options import PATH, environment_options, params_file, recipe_file, run_command
from sa2net.artifacts import read_json
from sa2net.config import BatchConfig, Config, as_section
from sa2net.errors import ClusterError, ConfigError
from sa2net.steps.batch.plan import inference_settings
from sa2net.steps.batch.summary import SUMMARY_JSON, SUMMARY_PAGE

NAME = "sa2net-predict"
DESCRIPTION = "Segments all scans below an address with a registered version of SA2Net. Research use only."
CHAMPION = "models:/sa2net@champion"
BUILD = Path("build/predict")
DEFAULT_OUT = Path("build/predict.yaml")


def build(environment: Environment, defaults: Mapping[str, Any], *, model: str = CHAMPION) -> GraphComponent:
    """The graph for one environment.

    Args:
        environment: Where it runs.
        defaults: All settings of a batch; what a run leaves out is taken from here.
        model: Default model.
    """
    place = partial(runtime.place, environment=environment)
    settings = dict(defaults)

    @dsl.pipeline(name=NAME, description=DESCRIPTION, pipeline_config=runtime.pipeline_config(environment))
    def prediction(scans: str, results: str, model: str = model, predict: dict = settings) -> None:
        planned = predict_plan(scans=scans, results=results, model=model, settings=predict, defaults=settings)
        place(planned, "predict_plan")
        plan = planned.outputs["plan"]

        # Over "Output", since the local runner of kfp loops over a task's only return value and nothing else.
        with dsl.ParallelFor(planned.outputs["Output"], name="shards", parallelism=environment.shards_at_once) as part:
            segmented = predict_shard(plan=plan, shard=part)
            place(segmented, "predict_shard")

        summarised = predict_summary(plan=plan, ended=dsl.Collected(segmented.output))
        place(summarised, "predict_summary")

    return prediction


def settings_for(environment: Environment, config: Config, name: str) -> BatchConfig:
    """The settings of a batch: inference as `evaluate` does it, over it what the environment says.

    Args:
        environment: Where it runs.
        config: The settings of a run.
        name: What a message calls the environment.

    Raises:
        ConfigError: A GPU is demanded where none is given, or given where none is wanted.
    """
    source = f"the predict section of the environment {name}"
    cfg = as_section(BatchConfig, inference_settings(config.evaluate), environment.predict, source=source)
    has = runtime.gpus_of("predict_shard", environment) > 0
    if cfg.device == ("cpu" if has else "cuda"):
        raise ConfigError(
            f"the device of a batch is {cfg.device}, and the environment {name} gives it {'a' if has else 'no'} GPU",
            evidence=f"gpu.count is {environment.gpu.count}, gpu.evaluate {str(environment.gpu.evaluate).lower()}",
            action="Set evaluate.device to auto, or the environment's gpu.count to what is wanted.",
        )
    return cfg.model_copy(update={"device": "cuda"}) if has else cfg  # a lost GPU fails instead of crawling


def compile_predict(
    env: str,
    out: Path,
    *,
    config: Config,
    model: str = CHAMPION,
    environments_file: Path = environments.ENVIRONMENTS,
    lock: Path = environments.IMAGE_LOCK,
) -> Compiled:
    """Check the settings and write the pipeline.

    Args:
        env: Name of the environment.
        out: File to write.
        config: The settings of a run; their `evaluate` section says how scans are segmented.
        model: Default model.
        environments_file: The environments.
        lock: Digests of the images.

    Raises:
        ConfigError: Settings that cannot be used, alone or together.
    """
    one_line(model, "--model")
    environment, unpinned = environments.pinned(environments.load(env, environments_file), lock)
    cfg = settings_for(environment, config, env)
    write(build(environment, cfg.model_dump(mode="json"), model=model), out)
    return Compiled(out, environment, config, unpinned)


def run_predict(
    cfg: BatchConfig,
    environment: Environment,
    *,
    scans: str,
    results: str,
    root: Path,
    runner: Any,
    model: str = CHAMPION,
) -> dict[str, int]:
    """Run the pipeline on this machine.

    Args:
        cfg: How scans are segmented.
        environment: Images and places.
        scans: Where the scans lie.
        results: Where the results go.
        root: New folder for the outputs of all tasks.
        runner: A runner of `kfp.local`.
        model: Which version.

    Returns:
        The counts of the summary.

    Raises:
        ClusterError: A task failed, or scans could not be segmented, or the summary was not written.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    graph = build(environment, cfg.model_dump(mode="json"), model=model)
    write(graph, root / "pipeline.yaml")
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Task .*no effect in the current local runner")
        try:
            graph(scans=_absolute(scans), results=_absolute(results))
        except RuntimeError as error:
            raise ClusterError(
                "the pipeline stopped",
                evidence=" ".join(str(error).split()),
                action=f"The cause stands above, at the end of that task's log; what is done lies in {results}.",
            ) from error
    return _counts(root)


def _counts(root: Path) -> dict[str, int]:
    """The counts of the summary that this run wrote: kfp calls a task a success that never wrote its outputs."""
    written = list(root.glob(f"*/predict-summary/summary/{SUMMARY_JSON}"))
    if not written:
        raise ClusterError(
            "the pipeline ended without its summary, although it was called a success",
            evidence=f"no {SUMMARY_JSON} in {root}",
            action="Look at the log above.",
        )
    counts: dict[str, int] = read_json(written[0])["counts"]
    return counts


def _absolute(address: str) -> str:
    return address if "://" in address else str(Path(address).resolve())


@click.command("pipelines.predict", context_settings={"help_option_names": ["-h", "--help"]})
@environment_options
@click.option("--params", type=PATH, default=None, help="Settings; default: params.yaml here, if there is one.")
@click.option("--recipe", default=None, metavar="NAME", help="Recipe over the settings, from recipes/.")
@click.option(
    "--set", "overrides", multiple=True, metavar="evaluate.KEY=VALUE", help="Override how scans are segmented."
)
@click.option("--model", default=CHAMPION, show_default=True, help="Version, or with --local a model folder.")
@click.option(
    "--out", type=PATH, default=None, help=f"File to write [default: {DEFAULT_OUT}]; with --local a new folder."
)
@click.option("--local", "here", is_flag=True, help="Run it on this machine instead (environment laptop).")
@click.option("--scans", default="", help="With --local: where the scans lie, s3://BUCKET/PREFIX or a folder.")
@click.option("--results", default="", help="With --local: where the results go.")
@click.pass_context
def main(
    context: click.Context,
    env: str,
    environments_file: Path,
    lock: Path,
    params: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    model: str,
    out: Path | None,
    here: bool,
    scans: str,
    results: str,
) -> None:
    """Compile the batch pipeline for `kfp run create -f`, or run it here.

    Scans and results are parameters of each run: `kfp run create -f build/predict.yaml scans=s3://... results=s3://...`

    Example: python -m pipelines.predict --env cluster --out build/predict.yaml

    Example: python -m pipelines.predict --local --scans scans --results results
    """
    config = Config.load(params_file(params), overrides, recipe=recipe_file(recipe))
    if not here:
        if scans or results:
            raise ConfigError(
                "--scans and --results go with --local",
                action="A compiled pipeline takes them as parameters of each run, named scans and results.",
            )
        compiled = compile_predict(
            env, out or DEFAULT_OUT, config=config, model=model, environments_file=environments_file, lock=lock
        )
        click.echo(f"{compiled.file}: the batch pipeline for {env}")
        for image in compiled.unpinned:
            click.echo(f"not pinned: {image} (`make pin` resolves it; its tag may move under the cache)")
        return
    if not (scans and results):
        raise ConfigError("--local needs --scans and --results", action="Name where scans lie and results go.")
    if context.get_parameter_source("env") is click.core.ParameterSource.DEFAULT:
        env = "laptop"
    _run_here(env, environments_file, config, scans=scans, results=results, model=model, out=out)


def _run_here(
    env: str, environments_file: Path, config: Config, *, scans: str, results: str, model: str, out: Path | None
) -> None:
    logging.getLogger("sa2net").setLevel(logging.INFO)
    environment = on_this_machine(environments.load(env, environments_file), containers=False)
    cfg = settings_for(environment, config, env)
    root = out or BUILD / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty", action="Name a new folder with --out, or leave --out out.")
    model = model if model.startswith("models:") else _absolute(model)
    runner = local.SubprocessRunner(use_venv=False)
    counts = run_predict(cfg, environment, scans=scans, results=results, root=root, runner=runner, model=model)
    click.echo(f"{counts['done']} of {counts['scans']} scans segmented, {counts['before']} of them before")
    click.echo(f"summary: {results.rstrip('/')}/{SUMMARY_PAGE}")


if __name__ == "__main__":
    run_command(main)
