"""What a backup says of a registered model, of its log and of runs: documents with closed keys, compared as values."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sa2net.registry.audit import APPLIED_TAG, ENTRY_TAG, SIGNATURE_TAG
from sa2net.registry.tags import PARENT_TAG

REGISTRY = "registry.json"
"""The file of a backup that holds `Content`."""
VERSIONS = "versions/"
"""Before NUMBER/: the MLflow model of a version."""
RUNS = "runs/"
"""Before ID/run.json, ID/metrics.jsonl and ID/artifacts/."""
IMPORT_TAG = "sa2net.import"
"""Tag of what an import made: identity of the backup; with ` unfinished` behind it until it is whole."""
FROM_TAG = "sa2net.imported_from"
"""Tag of an imported run or logged model: the ids that it had before, the newest first."""
FIRST_TAG = "sa2net.first_registered"
"""Tag of an imported version: when it was registered first, ms since 1970 (MLflow sets its own time anew)."""

_ID = r"^[A-Za-z0-9_\-]{1,64}$"
_MOST_GAPS = 10_000


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LoggedModel(_Document):
    """MLflow's own record of a model that a version points to.

    Attributes:
        id: Its identity.
        name: What it is called.
        model_type: What it is.
        experiment: Name of the experiment that it lies in.
        tags: Its tags.
        params: Its parameters.
    """

    id: str = Field(pattern=_ID)
    name: str
    model_type: str = ""
    experiment: str
    tags: dict[str, str] = {}
    params: dict[str, str] = {}


class VersionRecord(_Document):
    """A version of a registered model; an entry of the audit log is one too.

    Attributes:
        number: Its number.
        description: Text for people.
        tags: Its tags.
        run_id: Run that registered it; empty for an entry.
        source: Where its files lie, if that is no place: `sa2net:...`; else empty.
        created: When, ms since 1970.
        logged: The logged model that holds its files; None where something else does, or nothing.
    """

    number: int = Field(ge=1)
    description: str = ""
    tags: dict[str, str] = {}
    run_id: str = ""
    source: str = Field("", pattern="^(sa2net:.*)?$")
    created: int = 0
    logged: LoggedModel | None = None


class Registered(_Document):
    """A registered model.

    Attributes:
        description: Text for people.
        tags: Its tags.
        aliases: Alias -> version.
        versions: By number; numbers may be missing, since versions may be deleted.
        last: The highest number that is known to have been given, also to a version that was deleted.
    """

    description: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    versions: tuple[VersionRecord, ...] = ()
    last: int = Field(0, ge=0)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the versions."""
        return tuple(version.number for version in self.versions)

    @model_validator(mode="after")
    def _check(self) -> "Registered":
        numbers = self.numbers
        if list(numbers) != sorted(set(numbers)):
            raise ValueError("the numbers of the versions do not grow")
        if numbers and self.last < numbers[-1]:
            raise ValueError("a version has a number that was never given")
        if self.last > len(numbers) + _MOST_GAPS:
            raise ValueError(f"more than {_MOST_GAPS} numbers are missing")
        lost = [alias for alias, number in self.aliases.items() if number not in numbers]
        if lost:
            raise ValueError(f"the alias {lost[0]} names a version that is not there")
        return self


class Content(_Document):
    """A registered model with its log.

    Attributes:
        model: The model.
        log: `NAME.audit`; None where there is none.
    """

    model: Registered
    log: Registered | None = None

    def stored_log(self) -> dict[int, tuple[str, str, bool]]:
        """The log as `sa2net.registry.audit.follow` reads it."""
        versions = () if self.log is None else self.log.versions
        return {
            item.number: (
                item.tags.get(ENTRY_TAG, ""),
                item.tags.get(SIGNATURE_TAG, ""),
                item.tags.get(APPLIED_TAG) == "true",
            )
            for item in versions
        }


class DatasetRecord(_Document):
    """A data set that MLflow shows with a run.

    Attributes:
        name: What it is called.
        digest: Start of its md5.
        source_type: Kind of its source.
        source: Its source, as MLflow keeps it.
        table_schema: As MLflow keeps it; empty if there is none.
        profile: Likewise.
        tags: What it was used for.
    """

    name: str
    digest: str
    source_type: str
    source: str
    table_schema: str = ""
    profile: str = ""
    tags: dict[str, str] = {}


class RunRecord(_Document):
    """A run.

    Attributes:
        run_id: Its identity.
        name: What it is called.
        experiment: Name of the experiment that it lies in.
        status: MLflow's word.
        start_time: ms since 1970.
        end_time: ms since 1970; 0 = it had not ended.
        params: Its settings.
        tags: Its tags.
        datasets: Data sets that it ran on.
        points: Values of all its metrics together, one a line in metrics.jsonl.
    """

    run_id: str = Field(pattern=_ID)
    name: str = ""
    experiment: str = Field(min_length=1)
    status: str
    start_time: int = 0
    end_time: int = 0
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    datasets: tuple[DatasetRecord, ...] = ()
    points: int = Field(0, ge=0)


def names_runs(tags: Mapping[str, str]) -> dict[str, str]:
    """Those tags that name a run: that of the parent, and those that end in `_run`."""
    return {key: value for key, value in tags.items() if value and (key.endswith("_run") or key == PARENT_TAG)}


def mapped(tags: Mapping[str, str], runs: Mapping[str, str], old_name: str, new_name: str) -> dict[str, str]:
    """Tags as they should be after an import: with the new ids of runs, and the new name of the model.

    Args:
        tags: As they were.
        runs: Old id -> new one.
        old_name: Registered model, as it was called.
        new_name: As it is called now.
    """
    found = dict(tags) | {key: runs.get(value, value) for key, value in names_runs(tags).items()}
    for before in (f"models:/{old_name}/", f"{old_name}/"):
        after = before.replace(old_name, new_name)
        found |= {
            key: after + value.removeprefix(before)
            for key, value in found.items()
            if value.startswith(before) and value.removeprefix(before).isdigit()
        }
    return found


def as_text(document: BaseModel) -> str:
    """A document as it is stored."""
    content = document.model_dump(mode="json")
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
