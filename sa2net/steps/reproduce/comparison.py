"""Two results number by number: what was stored with a version, and what came out now."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sa2net.artifacts import PER_SCAN, SCORES, read_json

Value = float | int | str | bool | None
Verdict = Literal["equal", "close", "differs", "not compared"]


@dataclass(frozen=True)
class Number:
    """One value, then and now.

    Attributes:
        name: Where it stands, such as `scores.mean.dice.value`.
        stored: With the version; None where there is none.
        now: As it came out.
        tolerance: Largest difference that counts as none, for numbers between 0 and 1.
    """

    name: str
    stored: Value
    now: Value
    tolerance: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Equal, close (within the tolerance), different; with a tolerance all but shares are not compared."""
        if self.stored == self.now and isinstance(self.stored, bool) == isinstance(self.now, bool):
            return "equal"
        if self.tolerance <= 0.0:
            return "differs"
        if not (_is_share(self.stored) and _is_share(self.now)):
            return "not compared"
        return "close" if abs(float(self.stored) - float(self.now)) <= self.tolerance else "differs"  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; a side that is not there has no key."""
        known = {name: value for name, value in asdict(self).items() if value is not None and name != "tolerance"}
        return {**known, "verdict": self.verdict}


def compare_evaluations(stored: Path, now: Path, *, tolerance: float = 0.0) -> list[Number]:
    """Every value of `scores.json` and `per_scan.csv` of two evaluation folders.

    Args:
        stored: Folder of the version.
        now: Folder that was made now.
        tolerance: See `Number`.
    """
    return [
        *_pairs(
            dict(_leaves(read_json(stored / SCORES), "scores")),
            dict(_leaves(read_json(now / SCORES), "scores")),
            tolerance,
        ),
        *_pairs(dict(_cells(stored / PER_SCAN)), dict(_cells(now / PER_SCAN)), tolerance),
    ]


def _pairs(stored: Mapping[str, Value], now: Mapping[str, Value], tolerance: float) -> Iterator[Number]:
    for name in [*stored, *(name for name in now if name not in stored)]:
        yield Number(name, stored.get(name), now.get(name), tolerance)


def _leaves(content: Any, place: str) -> Iterator[tuple[str, Value]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _leaves(value, f"{place}.{name}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _leaves(value, f"{place}[{index}]")
    else:
        yield place, content


def _cells(table: Path) -> Iterator[tuple[str, Value]]:
    with table.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            for column, text in row.items():
                if column not in ("name", "class"):
                    yield f"per_scan.{row['name']}.{row['class']}.{column}", _value(text)


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def _is_share(value: Value) -> bool:
    return isinstance(value, float) and 0.0 <= value <= 1.0
