"""What came of making a version again: the document, and what a person reads of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sa2net
from sa2net.steps.reproduce.comparison import Number
from sa2net.steps.reproduce.machine import Fact

DOCUMENT = "reproduce.json"
_SHOWN = 20
"""Differing numbers that a person is shown; the document has all."""


@dataclass(frozen=True)
class Outcome:
    """What came of making a version again.

    Attributes:
        model: Address of the version.
        model_sha256: Its identity.
        what: evaluate or train.
        code: Step -> commit, with a word on uncommitted changes.
        data: Identity of a data set -> where it was found.
        environment: Environment and machine, then and here.
        packages: Packages that differ.
        notes: What a person should know, as sentences.
        numbers: Everything that was compared.
        tolerance: Largest difference that counts as none, for numbers between 0 and 1.
        phantom: Whether the scores are of synthetic scans.
        seconds: How long it took.
    """

    model: str
    model_sha256: str
    what: str
    code: dict[str, str]
    data: dict[str, str]
    environment: tuple[Fact, ...]
    packages: tuple[Fact, ...]
    notes: tuple[str, ...]
    numbers: tuple[Number, ...]
    tolerance: float
    phantom: bool
    seconds: float

    @property
    def differing(self) -> tuple[Number, ...]:
        """The numbers that are not what was stored."""
        return tuple(number for number in self.numbers if number.verdict == "differs")

    @property
    def equal(self) -> bool:
        """Whether everything is as it was stored, to the bit or within the tolerance."""
        return not self.differing

    def counts(self) -> dict[str, int]:
        """Verdict -> how many numbers have it."""
        return dict(sorted(Counter(number.verdict for number in self.numbers).items()))

    def to_dict(self) -> dict[str, Any]:
        """The document `reproduce.json`."""
        return {
            "schema_version": 1,
            "sa2net_version": sa2net.__version__,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "what": self.what,
            "equal": self.equal,
            "phantom": self.phantom,
            "tolerance": self.tolerance,
            "code": self.code,
            "data": self.data,
            "environment": [fact.to_dict() for fact in self.environment],
            "packages": [fact.to_dict() for fact in self.packages],
            "notes": list(self.notes),
            "counts": self.counts(),
            "numbers": [number.to_dict() for number in self.numbers],
            "seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        """What a person reads: where things differ, and the table of the numbers that matter."""
        revisions = "; ".join(f"{step} {code}" for step, code in self.code.items())
        found = "; ".join(f"{md5[:12]} {source}" for md5, source in self.data.items())
        lines = [f"code         {revisions}", f"data         {found}", *self._environment()]
        lines += [f"note         {note}" for note in self.notes]
        chosen = [number for number in self.numbers if _is_headline(number)]
        chosen += [number for number in self.differing if number not in chosen][:_SHOWN]
        lines += ["", f"{'phantom scores' if self.phantom else '':44} {'stored':>16} {'now':>16}"]
        lines += [
            f"{number.name:44} {_cut(number.stored):>16} {_cut(number.now):>16}  {number.verdict}" for number in chosen
        ]
        hidden = len(self.differing) - sum(number.verdict == "differs" for number in chosen)
        if hidden:
            lines.append(f"... and {hidden} more that differ, all in {DOCUMENT} (--out)")
        total = ", ".join(f"{count} {verdict}" for verdict, count in self.counts().items())
        return [*lines, f"{len(self.numbers)} numbers: {total}"]

    def _environment(self) -> list[str]:
        differing = [fact for fact in self.environment if not fact.equal]
        if not differing:
            names = {fact.name: fact.here for fact in self.environment}
            same = f"Python {names['python']}, lock {names['lock_sha256'][:12]}, {names['cpu']}, {names['device']}"
            return [f"environment  the same: {same}"]
        lines = [
            f"environment  {fact.name}: {_cut(fact.stored, 40) or 'none'} then, {_cut(fact.here, 40) or 'none'} here"
            for fact in differing
        ]
        changed_first = sorted(self.packages, key=lambda fact: not (fact.stored and fact.here))
        named = [f"{fact.name} {fact.stored or 'absent'} -> {fact.here or 'absent'}" for fact in changed_first]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return [*lines, f"packages     {', '.join(named[:_SHOWN])}{more}"] if named else lines


def summary(numbers: Sequence[Number]) -> str:
    """The first differing numbers in a sentence."""
    shown = [f"{number.name} {_cut(number.stored)} stored, {_cut(number.now)} now" for number in numbers[:3]]
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return "; ".join(shown) + more


def _is_headline(number: Number) -> bool:
    ends = (".dice.value", ".nsd.value", ".hd95.value", "_sha256")
    return number.name.endswith(ends)


def _cut(value: object, length: int = 16) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
