"""The two rules by which a bucket clears itself up, beside the rules that others have put there.

Both are plain functions of what is there, since a bucket's rules can only be replaced all at once: what is put back must
hold every rule of others as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_VERSIONS, _UPLOADS = "sa2net-old-versions", "sa2net-incomplete-uploads"
_PARTS = ("Rules", "TransitionDefaultMinimumObjectSize")
"""What an answer holds of the configuration itself."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: For people.
        detail: What it does, in words.
        needed: Arguments of the request that puts it there, from the configuration; None where nothing has to.
        hindrance: What stands against it; empty where nothing does.
    """

    name: str
    detail: str
    needed: Callable[[dict[str, Any] | None], dict[str, Any] | None]
    hindrance: Callable[[dict[str, Any] | None], str]


def keep_versions(days: int) -> Rule:
    """Old versions go after some days, never sooner. A longer time that is there already stays."""

    def needed(found: dict[str, Any] | None) -> dict[str, Any] | None:
        if any(_version_days(rule) is not None for rule in _whole(found, without=_VERSIONS)):
            return None  # somebody else's rule does it, and not too soon: see `hindrance`
        if any((_version_days(rule) or 0) >= days for rule in _whole(found) if rule.get("ID") == _VERSIONS):
            return None
        return _with(found, _VERSIONS, {"NoncurrentVersionExpiration": {"NoncurrentDays": days}})

    def hindrance(found: dict[str, Any] | None) -> str:
        for rule in _whole(found, without=_VERSIONS):
            kept = _version_days(rule)
            if kept is not None and kept < days:
                return f"the rule {rule.get('ID', 'without a name')!r} deletes old versions after {kept} days"
        return ""

    return Rule("old versions", f"kept for {days} days or longer, then deleted", needed, hindrance)


def abort_uploads(days: int) -> Rule:
    """Uploads that were never finished go after some days, or sooner."""

    def needed(found: dict[str, Any] | None) -> dict[str, Any] | None:
        given = [rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation") for rule in _whole(found)]
        if any(after is not None and after <= days for after in given):
            return None
        return _with(found, _UPLOADS, {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}})

    return Rule("incomplete uploads", f"dropped after {days} days or sooner", needed, lambda _: "")


def _version_days(rule: dict[str, Any]) -> int | None:
    days = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
    return None if days is None else int(days)


def _whole(found: dict[str, Any] | None, *, without: str = "") -> list[dict[str, Any]]:
    """The rules in force for every object of the bucket."""

    def is_whole(rule: dict[str, Any]) -> bool:
        chosen = rule.get("Filter", {"Prefix": rule.get("Prefix", "")})
        return rule.get("Status") == "Enabled" and chosen in ({}, {"Prefix": ""})

    rules = (found or {}).get("Rules", [])
    return [rule for rule in rules if is_whole(rule) and not (without and rule.get("ID") == without)]


def _with(found: dict[str, Any] | None, name: str, action: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a rule of ours in it, as the arguments of a request."""
    rule = {"ID": name, "Status": "Enabled", "Filter": {"Prefix": ""}, **action}
    parts = {key: value for key, value in (found or {}).items() if key in _PARTS}
    rules = [other for other in parts.pop("Rules", []) if other.get("ID") != name]
    return {"LifecycleConfiguration": {"Rules": [*rules, rule]}, **parts}
