"""The page of a drift check: one HTML file that loads nothing.

Its template lies in a folder of its own: no step of the line depends on it.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net.evaluation.drift import SIGNALS, Drift

_WIDTH, _EDGE = 220.0, 6.0


def render(drift: Drift, *, references: int, failed: int, model_sha256: str) -> str:
    """The page as text; no times and no paths are in it.

    Args:
        drift: What was found.
        references: Reference scans.
        failed: Files that could not be used.
        model_sha256: Identity of the model folder.
    """
    environment = Environment(
        loader=PackageLoader("sa2net.evaluation.drift_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("drift.html.j2").render(
        drift=drift,
        scans=sum(item.scans for item in drift.devices),
        references=references,
        failed=failed,
        model_sha256=model_sha256,
        rows=[
            {
                "device": item.device,
                "label": SIGNALS[item.signal],
                "drifted": item.drifted,
                "tested": item.tested,
                "p": f"{item.p_holm:.2g}",
                "reference": _side(item.reference, item.reference + item.new),
                "new": _side(item.new, item.reference + item.new),
            }
            for item in drift.compared
        ],
        outliers=[
            {
                "name": item.name,
                "label": SIGNALS[item.signal],
                "value": f"{item.value:.4g}",
                "range": f"{item.low:.4g} to {item.high:.4g}",
            }
            for item in drift.outliers
        ],
    )
    return page


def _side(values: Sequence[float], both: Sequence[float]) -> dict[str, Any]:
    """Median, range and places on the common axis of one side of a row."""
    if not values:
        return {"middle": "not found", "range": "", "places": []}
    low, high = min(both), max(both)
    scale = (_WIDTH - 2 * _EDGE) / (high - low) if high > low else 0.0
    return {
        "middle": f"{statistics.median(values):.4g}",
        "range": f"{min(values):.4g} to {max(values):.4g}",
        "places": [round(_EDGE + (value - low) * scale, 1) for value in values],
    }
