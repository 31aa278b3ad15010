"""A decision of the gate as a page for people: one HTML file that opens anywhere, loads nothing, and prints in grey.

It is made from the JSON document alone, so that it can be made again from what the registry keeps. A document of an
earlier schema has fewer keys; what it does not say is shown as not said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import write_text
from sa2net.evaluation.differences import Difference, DifferenceChart, difference_chart
from sa2net.registry.decision import ANGLE_ICC, ANGLE_MAD, ANGLE_REFUSED, CALIBRATION, MEAN, SPEED, label_of

FILE = "decision.html"

DASH = "–"  # noqa: RUF001 - a dash is meant
"""Stands where there is no number."""
_TONES = {"promote": "good", "refuse": "bad"}
_SENTENCES = {
    "promote": "The candidate passes the gate.",
    "refuse": "The candidate does not pass; the champion stays.",
    "cannot tell": "The scans do not decide; the champion stays.",
}
_ROW_TONES = {
    "better": "good",
    "not worse": "good",
    "reaches the floor": "good",
    "within the limit": "good",
    "worse": "bad",
    "below the floor": "bad",
    "above the limit": "bad",
    "not known": "bad",
}
_MARKS = {"good": "✓", "bad": "✗", "open": "?"}  # so that the page can be read without colours
COLOURS = {item.name: "#{:02x}{:02x}{:02x}".format(*item.colour) for item in FOREGROUND}
_IDENTITIES = (
    ("model_sha256", "candidate's model sha256"),
    ("champion_sha256", "champion's model sha256"),
    ("data_md5", "data md5"),
)
_LABELS = {
    CALIBRATION: "calibration error",
    SPEED: "seconds a scan",
    ANGLE_MAD: "angle: mean difference",
    ANGLE_ICC: "angle: ICC(2,1)",
    ANGLE_REFUSED: "angle: refused",
}
_HINTS = {
    SPEED: "depends on the machine",
    ANGLE_MAD: "degrees",
    ANGLE_ICC: "1 is full agreement",
    ANGLE_REFUSED: "share of scans with a curve",
}


@dataclass(frozen=True)
class _Row:
    """One line of the table, as text."""

    label: str
    hint: str
    colour: str
    head: bool
    candidate: str
    champion: str
    required: str
    difference: str
    interval: str
    p_value: str
    verdict: str
    tone: str
    mark: str


@dataclass(frozen=True)
class _Reason:
    """One sentence with its mark."""

    text: str
    tone: str
    mark: str


@dataclass(frozen=True)
class _Page:
    """Everything that the template shows, as text."""

    title: str
    verdict: str
    tone: str
    sentence: str
    candidate: str
    champion: str
    compared: bool
    confidence: str
    margin: str
    phantom: bool | None
    override: bool
    by: str
    why: str
    rows: Sequence[_Row]
    chart: DifferenceChart | None
    reasons: Sequence[_Reason]
    facts: Sequence[tuple[str, str]]
    identities: Sequence[tuple[str, str]]


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of a decision.

    Args:
        path: HTML file.
        document: The content of `decision.json`.
    """
    write_text(path, render(document))


def render(document: Mapping[str, Any]) -> str:
    """The page as text; equal documents give equal bytes."""
    text: str = environment().get_template("decision.html.j2").render(page=_page(document))
    return text


def _page(document: Mapping[str, Any]) -> _Page:
    verdict = str(document.get("verdict", ""))
    table = [row for row in document.get("table", []) if isinstance(row, Mapping)]
    differences = [row for row in table if row.get("difference") is not None and not _is_limit(row)]
    confidence, margin = document.get("confidence"), document.get("margin")
    return _Page(
        title=_title(document),
        verdict=verdict,
        tone=_TONES.get(verdict, "open"),
        sentence=_sentence(document, verdict),
        candidate=str(document.get("candidate", "")),
        champion=str(document.get("champion", "")),
        compared=bool(differences),
        confidence="" if confidence is None else f"{confidence:.3g}",
        margin="" if margin is None else f"{margin:.3f}",
        phantom=document.get("phantom"),
        override=bool(document.get("override", False)),
        by=str(document.get("by", "")),
        why=str(document.get("reason", "")),
        rows=[_row(row) for row in table],
        chart=_chart(differences, margin),
        reasons=[_reason(reason) for reason in document.get("reasons", [])],
        facts=_facts(document),
        identities=[(label, str(document[key])) for key, label in _IDENTITIES if document.get(key)],
    )


def _title(document: Mapping[str, Any]) -> str:
    model, number = document.get("name", ""), document.get("version", "")
    subject = f"{model} {number}".strip() or str(document.get("candidate", ""))
    champion = str(document.get("champion", ""))
    return f"{subject} against {champion}" if champion else f"{subject}, without a champion"


def _sentence(document: Mapping[str, Any], verdict: str) -> str:
    if document.get("override"):
        return "This is what the gate says."
    said = _SENTENCES.get(verdict, "")
    needed = document.get("subjects_needed")
    if needed is not None:
        said = f"{said} About {needed} subjects instead of {document.get('subjects', 0)} would tell."
    return said


def _row(row: Mapping[str, Any]) -> _Row:
    subject, verdict = str(row.get("subject", "")), str(row.get("verdict", ""))
    tone = _ROW_TONES.get(verdict, "open")
    floor, limit, p_value = row.get("floor"), row.get("limit"), row.get("p_value")
    required = f"≥ {floor:.3f}" if floor is not None else f"≤ {limit:.3f}" if limit is not None else DASH
    return _Row(
        label=_label(row),
        hint=_HINTS.get(subject, ""),
        colour=COLOURS.get(subject, ""),
        head=subject == MEAN,
        candidate=_number(row.get("candidate")),
        champion=_number(row.get("champion")),
        required=required,
        difference=_number(row.get("difference"), sign="+"),
        interval=_interval(row),
        p_value=_p_value(p_value),
        verdict=verdict or DASH,
        tone=tone,
        mark=_MARKS[tone] if verdict else "",
    )


def _chart(rows: Sequence[Mapping[str, Any]], margin: float | None) -> DifferenceChart | None:
    if not rows:
        return None
    drawn = [
        Difference(
            label=_label(row),
            value=float(row["difference"]),
            low=row.get("lower"),
            high=row.get("upper"),
            says=str(row.get("verdict", "")),
        )
        for row in rows
    ]
    return difference_chart(drawn, margin=margin or 0.0)


def _reason(reason: Mapping[str, Any]) -> _Reason:
    if reason.get("check") == "note":
        return _Reason(str(reason["text"]), "open", "note")
    tone, mark = ("good", "for") if reason.get("holds") else ("bad", "against")
    return _Reason(str(reason.get("text", "")), tone, mark)


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("candidate", document.get("candidate")),
        ("champion", document.get("champion") or "none"),
        ("split", document.get("split")),
        ("subjects", document.get("subjects")),
        ("subjects needed", document.get("subjects_needed")),
        ("confidence", document.get("confidence")),
        ("margin", document.get("margin")),
        ("by", document.get("by")),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _is_limit(row: Mapping[str, Any]) -> bool:
    return row.get("subject") in _LABELS


def _label(row: Mapping[str, Any]) -> str:
    subject = str(row.get("subject", ""))
    return _LABELS.get(subject) or label_of(subject)


def _number(value: float | None, *, sign: str = "") -> str:
    return DASH if value is None else f"{value:{sign}.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("lower"), row.get("upper")
    return DASH if low is None or high is None else f"{low:+.3f} to {high:+.3f}"


def _p_value(value: float | None) -> str:
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


@cache
def environment() -> Environment:
    """Templates of this package's pages."""
    return Environment(
        loader=PackageLoader("sa2net.registry"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
