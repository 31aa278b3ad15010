"""The training pipeline: pointer, fetch, validate, train, evaluate, register - one straight line.

No branches: bad data raise and stop the line, a weak model is registered and not promoted. Each step gets its section
of the settings as one dict, merged over the defaults that were compiled in: a change in one section does not bust the
cache of another step.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.evaluate import evaluate as evaluate_step
from components.fetch import fetch as fetch_step
from components.pointer import pointer as pointer_step
from components.register import register as register_step
from components.train import train as train_step
from components.train_nodes import train as train_nodes_step
from components.validate import validate as validate_step
from pipelines import runtime
from pipelines.environments import Environment

NAME = "sa2net-training"
DESCRIPTION = "From a data pointer to a registered version of SA2Net. Research use only."


def build(
    environment: Environment, defaults: Mapping[str, Mapping[str, Any]], *, data: str, experiment: str
) -> GraphComponent:
    """The graph for one environment.

    Args:
        environment: Where it runs.
        defaults: Section -> its settings, `fetch` too; what a run leaves out is taken from here.
        data: Default data pointer: the text of a `data.dvc`, or an address of one that each run reads anew.
        experiment: Default MLflow experiment.
    """
    place = partial(runtime.place, environment=environment)
    sections = {name: dict(section) for name, section in defaults.items()}
    model_name = sections["register"].pop("name")  # a parameter of its own
    checkpoints = f"{environment.volume.mount}/checkpoints"
    nodes = runtime.nodes_of_train(environment)  # of a training in several pods, whose task starts them and waits
    how = {"nodes": nodes} if nodes else {"processes": max(runtime.gpus_of("train", environment), 1)}

    @dsl.pipeline(name=NAME, description=DESCRIPTION, pipeline_config=runtime.pipeline_config(environment))
    def training(
        data: str = data,
        experiment: str = experiment,
        registered_model: str = model_name,
        fetch: dict = sections["fetch"],
        validate: dict = sections["validate"],
        train: dict = sections["train"],
        evaluate: dict = sections["evaluate"],
        register: dict = sections["register"],
    ) -> None:
        text = pointer_step(address=data, settings=fetch, defaults=sections["fetch"])
        place(text, "pointer")

        fetched = fetch_step(pointer=text.output, settings=fetch, defaults=sections["fetch"], experiment=experiment)
        place(fetched, "fetch")
        scans = fetched.outputs["data"]

        checked = validate_step(data=scans, settings=validate, defaults=sections["validate"], experiment=experiment)
        place(checked, "validate")

        trained = (train_nodes_step if nodes else train_step)(
            data=scans,
            validation=checked.outputs["validation"],
            settings=train,
            defaults=sections["train"],
            experiment=experiment,
            checkpoints=checkpoints,
            **how,
        )
        place(trained, "train")
        model = trained.outputs["model"]

        scored = evaluate_step(
            data=scans, model=model, settings=evaluate, defaults=sections["evaluate"], experiment=experiment
        )
        place(scored, "evaluate")

        registered = register_step(
            data=scans,
            model=model,
            evaluation=scored.outputs["evaluation"],
            settings=register,
            defaults=sections["register"],
            experiment=experiment,
            registered_model=registered_model,
        )
        place(registered, "register")

    return training
