"""The model card of a version, as a page that loads nothing and as Markdown: use, data, scores with intervals, limits."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import Estimate
from sa2net.registry.lineage import tree, words
from sa2net.registry.lineage.trace import Lineage, Subgroup

PAGE = "model-card.html"
MARKDOWN = "model-card.md"
_METRICS = (("dice", "Dice", 3), ("iou", "IoU", 3), ("nsd", "NSD", 3), ("hd95", "HD95", 2))


def page(found: Lineage) -> str:
    """The card as one HTML file: no script, no request."""
    return str(_templates(html=True).get_template("model-card.html.j2").render(**_content(found)))


def markdown(found: Lineage) -> str:
    """The card as Markdown."""
    return str(_templates(html=False).get_template("model-card.md.j2").render(**_content(found)))


def number(value: float, digits: int = 3) -> str:
    """A number for people."""
    return f"{value:.{digits}f}"


def interval(estimate: Estimate, digits: int = 3) -> str:
    """The ends of an interval for people; a dash where there is none."""
    if estimate.low is None or estimate.high is None:
        return "–"  # noqa: RUF001 - a dash is meant
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def cell(text: object) -> str:
    """A text inside a Markdown table or list: nothing in it is taken for markup."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{character}" if character in "\\|`*_[]<>#" else character for character in flat)


def _content(found: Lineage) -> dict[str, Any]:
    origin, scores = found.provenance, found.evaluation.scores if found.evaluation else None
    groups: dict[str, dict[str, dict[str, Subgroup]]] = {}
    for row in found.subgroups:
        groups.setdefault(row.column, {}).setdefault(row.group, {})[row.class_name] = row
    rows = {} if scores is None else {item.label: scores.per_class[item.name] for item in FOREGROUND}
    return {
        "found": found,
        "origin": origin,
        "scores": scores,
        "rows": rows if scores is None else {**rows, "mean": scores.mean},
        "metrics": _METRICS,
        "groups": groups,
        "classes": [("mean", "mean"), *((item.name, item.label) for item in FOREGROUND)],
        "kind": "phantom scans" if found.phantom else "scans",
        "words": words,
        "limits": words.limits(found),
        "facts": _facts(found),
        "sources": _sources(found),
    }


def _facts(found: Lineage) -> dict[str, str]:
    origin = found.provenance
    network, train = origin.network, origin.params.get("train", {})
    spacing = " x ".join(f"{size:.3g}" for size in origin.spacing_mm)
    return {
        "Version": f"{found.version.uri}{' (' + ', '.join(found.aliases) + ')' if found.aliases else ''}",
        "Registered": found.registered,
        "Input": words.INPUT,
        "Output": words.OUTPUT,
        "Network": f"SA2Net, backbone {network.get('backbone')}, {network.get('channels')} channels",
        "Working scale": f"sweep {origin.sweep_width} px wide" + (f", {spacing} mm a pixel" if spacing else ""),
        "Training": f"{origin.training.get('epochs') or train.get('epochs', tree.UNKNOWN)} epochs",
        "Starting weights": tree.parent(origin),
        "Trained on": f"{tree.counts(origin.training)}; data set {origin.data_md5}",
        "Code": "Apache-2.0",
    }


def _sources(found: Lineage) -> dict[str, str]:
    origin = found.provenance
    seeds = ", ".join(f"{name} {seed}" for name, seed in origin.seeds().items())
    return {
        "model sha256": origin.model_sha256,
        "data md5": origin.data_md5,
        "manifest sha256": origin.manifest_sha256 or tree.UNKNOWN,
        "training run": origin.training.run_id or tree.UNKNOWN,
        "training code": tree.code(origin.training),
        "training environment": tree.environment(origin.training, found.packages),
        "training hardware": tree.hardware(origin.training),
        "seeds": seeds or tree.UNKNOWN,
        "parent": tree.parent(origin),
        "resumed": tree.resumed(origin),
        "evaluation run": origin.evaluation.run_id or tree.UNKNOWN,
        "evaluation code": tree.code(origin.evaluation),
        "evaluator sha256": origin.evaluation.get("evaluator_sha256") or tree.UNKNOWN,
    }


@cache
def _templates(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("sa2net.registry.lineage"),
        autoescape=html,  # noqa: S701 - Markdown has an escape of its own, `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, interval=interval, cell=cell)
    return environment
