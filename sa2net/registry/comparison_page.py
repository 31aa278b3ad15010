"""`compare.html`: two models side by side, one self-contained page made from `compare.json` and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sa2net.anatomy import FOREGROUND
from sa2net.evaluation.differences import Difference, DifferenceChart, difference_chart
from sa2net.registry.comparison import FIRST_BETTER, NO_DIFFERENCE, SECOND_BETTER
from sa2net.registry.decision import MEAN, label_of
from sa2net.registry.decision_page import COLOURS, DASH, environment

_TONES = {FIRST_BETTER: "bad", SECOND_BETTER: "good", NO_DIFFERENCE: "open"}


@dataclass(frozen=True)
class Picture:
    """One scan with both predictions.

    Attributes:
        name: The scan.
        uri: The picture as a data address.
    """

    name: str
    uri: str


def render(document: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """The page as text.

    Args:
        document: The content of `compare.json`.
        pictures: Scans that changed most.
    """
    text: str = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            document=document,
            rows=[_row(row) for row in document["table"]],
            chart=_chart(document["table"]),
            scans=[_scan(row) for row in document["scans"]],
            classes=FOREGROUND,
            colours=COLOURS,
            percent=f"{100 * document['confidence']:g} %",
            pictures=[(picture, _change_of(document, picture.name)) for picture in pictures],
        )
    )
    return text


def estimate_text(estimate: Mapping[str, float], *, sign: str = "") -> tuple[str, str]:
    """A value and its interval, as text."""
    value = f"{estimate['value']:{sign}.3f}" if "value" in estimate else DASH
    if "low" not in estimate or "high" not in estimate:
        return value, DASH
    return value, f"{estimate['low']:{sign}.3f} to {estimate['high']:{sign}.3f}"


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "label": label_of(row["subject"]),
        "colour": COLOURS.get(row["subject"], ""),
        "head": row["subject"] == MEAN,
        "first": estimate_text(row["first"]),
        "second": estimate_text(row["second"]),
        "difference": estimate_text(row["difference"], sign="+"),
        "p_value": _p_value(row.get("p_value")),
        "says": row["says"],
        "tone": _TONES[row["says"]],
    }


def _chart(table: Sequence[Mapping[str, Any]]) -> DifferenceChart:
    known = [row for row in table if "value" in row["difference"]]
    return difference_chart(
        [
            Difference(
                label=label_of(row["subject"]),
                value=row["difference"]["value"],
                low=row["difference"].get("low"),
                high=row["difference"].get("high"),
                says=row["says"],
            )
            for row in known
        ]
    )


def _scan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "subject": row["subject"],
        "first": _number(row.get("first")),
        "second": _number(row.get("second")),
        "change": _number(row.get("change"), sign="+"),
        "classes": [
            (_number(row["classes"][item.name].get("first")), _number(row["classes"][item.name].get("second")))
            for item in FOREGROUND
        ],
    }


def _change_of(document: Mapping[str, Any], name: str) -> str:
    row = next(row for row in document["scans"] if row["name"] == name)
    return f"Dice {_number(row.get('first'))} to {_number(row.get('second'))} ({_number(row.get('change'), sign='+')})"


def _number(value: float | None, *, sign: str = "") -> str:
    return DASH if value is None else f"{value:{sign}.3f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
