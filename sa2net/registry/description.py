"""The description of a run as MLflow's page shows it: how it ended, what belongs to it, on which data and code it ran.

The page shows three lines and hides the rest, so that there are three. Links stay inside the page, whatever its address.
A description that a person has edited is left alone.
"""

import hashlib
from collections.abc import Mapping, Sequence

from mlflow.entities import Run

from sa2net.registry.tags import (
    DATA_TAG,
    ERROR_TAG,
    NOTE_SHA_TAG,
    NOTE_TAG,
    PAGE_TAG,
    PHANTOM_TAG,
    REGISTERED_TAG,
    STEP_TAG,
    VERDICT_TAG,
)

SHORT = 12
"""Characters of a hash that people read."""
HEADLINES = {"best_val_dice": "validation Dice", "test_dice_mean": "test Dice", "dice_mean": "Dice"}
"""Metric -> what it is called; at most the first two that a run has are told."""

Tags = Mapping[str, str]


def note(before: Tags, text: str) -> dict[str, str]:
    """The tags that hold a description.

    Args:
        before: Tags of the run as they are.
        text: The new description.

    Returns:
        What to set; nothing where it stands there already, or where a person has edited what stood there.
    """
    old = before.get(NOTE_TAG, "")
    if old == text or (old and _digest(old) != before.get(NOTE_SHA_TAG)):
        return {}
    return {NOTE_TAG: text, NOTE_SHA_TAG: _digest(text)}


def of_step(tags: Tags, *, status: str, parent: Run | None, address: str = "") -> str:
    """The description of the run of a step.

    Args:
        tags: Its tags.
        status: Its status.
        parent: The run above it, if there is one.
        address: Its own; see `address_of`.
    """
    place = "run alone" if parent is None else f"part of [{parent.info.run_name}]({address_of(parent)})"
    told = [f"Step {tags.get(STEP_TAG, '')}, {place}", _page(tags, address), _outcome(tags)]
    return _lines(_error(tags, status), _joined(told), _origin(tags))


def of_execution(tags: Tags, *, status: str, metrics: Mapping[str, float], steps: Sequence[Run] = ()) -> str:
    """The description of a parent run.

    Args:
        tags: Its tags.
        status: Its status.
        metrics: Its numbers.
        steps: Its steps, in the order of their starts.
    """
    links = []
    for step in steps:
        ended = "" if step.info.status == "FINISHED" else f" {step.info.status.lower()}"
        page = _page(step.data.tags, address_of(step))
        name = step.data.tags.get(STEP_TAG, "step")
        links.append(f"[{name}]({address_of(step)}){ended}" + (f" ({page})" if page else ""))
    told = [_error(tags, status), _outcome(tags), *_scores(tags, metrics)]
    return _lines(_joined(told), "Steps: " + ", ".join(links) if links else "", _origin(tags))


def address_of(run: Run) -> str:
    """Where the page shows a run."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _error(tags: Tags, status: str) -> str:
    message = tags.get(ERROR_TAG, "")
    return f"**{status}**: {message}" if message else ""


def _outcome(tags: Tags) -> str:
    """What the gate said, of which version."""
    registered, verdict = tags.get(REGISTERED_TAG, ""), tags.get(VERDICT_TAG, "")
    if not registered:
        return verdict
    name, _, number = registered.rpartition("/")
    return f"version [{registered}](#/models/{name}/versions/{number})" + (f": **{verdict}**" if verdict else "")


def _scores(tags: Tags, metrics: Mapping[str, float]) -> list[str]:
    kind = " on phantoms" if tags.get(PHANTOM_TAG, "").lower() == "true" else ""
    found = [f"{text} {metrics[name]:.3f}{kind}" for name, text in HEADLINES.items() if name in metrics]
    return found[:2]


def _page(tags: Tags, address: str) -> str:
    page = tags.get(PAGE_TAG, "")
    return f"[{page}]({address}/artifacts/{page})" if page and address else ""


def _origin(tags: Tags) -> str:
    """Data and code, and what the numbers are not for."""
    data, code = tags.get(DATA_TAG, ""), tags.get("sa2net.revision", "")
    changed = " with changes" if tags.get("sa2net.dirty") == "true" else ""
    told = [f"data `{data[:SHORT]}`" if data else "", f"code `{code[:SHORT]}`{changed}" if code else ""]
    return _joined([*told, "research use only"])


def _joined(parts: Sequence[str]) -> str:
    return " · ".join(part for part in parts if part)


def _lines(*lines: str) -> str:
    """Each a paragraph of its own: the page joins lines."""
    return "\n\n".join(line for line in lines if line)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]
