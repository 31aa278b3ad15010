"""What the parts of a batch share: the plan, where a result lies, and when it is done.

A result is done when its JSON is there and says the same weights, settings and file as the plan. The JSON is written
last and taken away first: where it lies, the pictures beside it are whole and belong to it.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sa2net.artifacts import read_json, write_json
from sa2net.config import BatchConfig, Section
from sa2net.data.layout import MASK_SUFFIX
from sa2net.data.store.objects import MissingObjectError, ObjectStore, open_store
from sa2net.errors import DataError, Sa2NetError

FOLDER = "scans"
"""Folder of the scans' own results below the results address; the summary lies beside it."""

OVERLAY_SUFFIX = "_overlay"
FAULT_SUFFIX = ".fault"
READERS = 16
"""Results that are looked at side by side."""


class PlannedScan(Section):
    """A scan as it was found.

    Attributes:
        name: Path below the address of the scans, with `.png`.
        size: Bytes.
        etag: What the store knows of its content; changes with it.
    """

    name: str
    size: int
    etag: str


class RefusedScan(Section):
    """A file whose name cannot be used, in ASCII, and why."""

    name: str
    reason: str


class PlannedModel(Section):
    """The one version that the whole batch uses.

    Attributes:
        asked: How it was asked for.
        address: Where it is found: `models:/NAME/NUMBER`, or a folder.
        sha256: Identity of its model folder.
    """

    asked: str
    address: str
    sha256: str


class BatchPlan(Section):
    """What a batch is: made once, read by every shard and by the summary.

    Attributes:
        scans: Address of the scans.
        results: Address of the results.
        settings: How the scans are segmented.
        shards: Scans that are to be segmented; never without a shard, but a shard may be empty.
        done: Scans whose results were there already.
        refused: Files that no result can be written for.
        left_out: Files that look like results of ours, and were therefore not taken for scans.
    """

    schema_version: Literal[1] = 1
    scans: str
    results: str
    model: PlannedModel
    settings: BatchConfig
    shards: tuple[tuple[PlannedScan, ...], ...]
    done: tuple[PlannedScan, ...]
    refused: tuple[RefusedScan, ...]
    left_out: int

    @property
    def planned(self) -> list[PlannedScan]:
        """Every scan that must have a result in the end, by name."""
        return sorted((*self.done, *(scan for shard in self.shards for scan in shard)), key=lambda scan: scan.name)

    @property
    def parts(self) -> list[str]:
        """Numbers of the shards, as text: a back end may turn a whole number in a list into 1.0."""
        return [str(index) for index in range(len(self.shards))]

    def open_scans(self) -> ObjectStore:
        """The store of the scans."""
        return open_store(self.scans, endpoint_url=self.settings.endpoint_url, region=self.settings.region)

    def open_results(self) -> ObjectStore:
        """The store of the results."""
        return open_store(self.results, endpoint_url=self.settings.endpoint_url, region=self.settings.region)


class ResultFiles:
    """Where the results of a scan lie, below the results address. # `sub/a.png` -> `scans/sub/a.json` and so on."""

    def __init__(self, scan: str) -> None:
        self.base = f"{FOLDER}/{scan[: -len('.png')]}"
        self.mask = f"{self.base}{MASK_SUFFIX}.png"
        self.overlay = f"{self.base}{OVERLAY_SUFFIX}.png"
        self.description = f"{self.base}.json"
        self.fault = f"{self.base}{FAULT_SUFFIX}.json"

    def written(self, settings: BatchConfig) -> tuple[str, ...]:
        """What a scan that was segmented leaves."""
        return (self.mask, *((self.overlay,) if settings.overlays else ()), self.description)


def origin(plan_model: PlannedModel, settings: BatchConfig, scan: PlannedScan) -> dict[str, Any]:
    """What a result was made from: it is done when its JSON says exactly this.

    Device and threads are not part of it: they change how a result is computed, not what was asked for.
    """
    return {
        "model_sha256": plan_model.sha256,
        "size": scan.size,
        "etag": scan.etag,
        "mode": settings.mode,
        "scales": list(settings.scales),
        "flip": settings.flip,
        "precision": settings.precision,
        "spacing_mm": list(settings.spacing_mm),
    }


def read_result(store: ObjectStore, name: str, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result's or fault's JSON; None where there is none, or it was made from something else.

    Args:
        store: The results.
        name: The JSON.
        expected: See `origin`.
    """
    try:
        content = json.loads(store.read(name))
    except MissingObjectError:
        return None
    except (ValueError, RecursionError):  # not ours, or half written by another program: to be done again
        return None
    ours = isinstance(content, dict) and content.get("made_from") == dict(expected)
    return content if ours else None


def present_results(store: ObjectStore) -> set[str]:
    """Names of everything that lies where results go; one listing instead of a question for each scan."""
    return {item.name for item in store.list(f"{FOLDER}/")}


def done_scans(
    store: ObjectStore, present: set[str], model: PlannedModel, settings: BatchConfig, scans: Sequence[PlannedScan]
) -> set[str]:
    """Names of the scans whose results are all there, and made from just what would be used now.

    Args:
        store: The results.
        present: See `present_results`.
        model: The version in use.
        settings: The settings in use.
        scans: Which scans.
    """
    candidates = [scan for scan in scans if present.issuperset(ResultFiles(scan.name).written(settings))]

    def same(scan: PlannedScan) -> bool:
        return read_result(store, ResultFiles(scan.name).description, origin(model, settings, scan)) is not None

    with ThreadPoolExecutor(READERS) as pool:
        return {scan.name for scan, is_same in zip(candidates, pool.map(same, candidates), strict=True) if is_same}


def write_result(store: ObjectStore, name: str, content: Mapping[str, Any]) -> None:
    """Put a JSON into the results."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    store.write(name, f"{text}\n".encode())


def reason(error: Sa2NetError) -> str:
    """Why a scan could not be used, without its name: names may be those of patients."""
    return error.evidence or error.what


def write_plan(path: Path, plan: BatchPlan) -> None:
    """Write a plan as JSON."""
    write_json(path, plan.model_dump(mode="json"))


def read_plan(path: Path) -> BatchPlan:
    """Read a plan.

    Raises:
        DataError: The file is not a plan of this version.
    """
    try:
        return BatchPlan.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} is not the plan of a batch",
            evidence=f"{error.error_count()} fields cannot be used",
            action="Plan the batch again with this version of the project.",
        ) from error
