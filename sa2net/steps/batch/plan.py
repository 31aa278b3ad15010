"""Plan a batch: which scans, which of them are done, which version of the model, which part does what.

The plan is made before any GPU is asked for: an empty address, a model that is not there and results that cannot be
read end the batch here. It needs no torch.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sa2net.artifacts import folder_sha256
from sa2net.config import BatchConfig, EvaluateConfig
from sa2net.data.layout import MASK_SUFFIX, name_problem
from sa2net.data.store.objects import StoredObject, open_store
from sa2net.errors import DataError
from sa2net.registry import store as registry
from sa2net.registry.versions import resolve, with_alias
from sa2net.steps.batch.results import (
    FAULT_SUFFIX,
    OVERLAY_SUFFIX,
    BatchPlan,
    PlannedModel,
    PlannedScan,
    RefusedScan,
    done_scans,
    present_results,
)

logger = logging.getLogger(__name__)
_LONGEST_NAME = 900  # bytes; a key of S3 has at most 1024, and the results' suffixes come on top


def inference_settings(cfg: EvaluateConfig) -> dict[str, Any]:
    """The settings that segmenting shares with evaluation: a batch predicts as `evaluate` scored."""
    return cfg.model_dump(mode="json", include={"mode", "scales", "flip", "device", "precision", "threads"})


def run(cfg: BatchConfig, *, scans: str, results: str, model: str) -> BatchPlan:
    """Plan a batch.

    Args:
        cfg: How the scans are segmented.
        scans: Where the scans lie: s3://BUCKET/PREFIX or a folder; PNG files at any depth.
        results: Where the results go, likewise.
        model: Model folder, models:/NAME@ALIAS or models:/NAME/NUMBER; an alias is followed once, here.

    Raises:
        DataError: There is no scan.
        ConfigError: An address that cannot be used.
        StorageError: No such model, or a store that does not answer.
    """
    found = list(open_store(scans, endpoint_url=cfg.endpoint_url, region=cfg.region).list())
    usable, refused, left_out = sort_out(found)
    if not usable and not refused:
        raise DataError(
            f"{scans} holds no scan",
            evidence=f"{len(found)} files, none of them a PNG file of a scan",
            action="Name the prefix or folder that holds the scans as PNG files.",
        )
    pinned = pin(model)
    target = open_store(results, endpoint_url=cfg.endpoint_url, region=cfg.region)
    done = done_scans(target, present_results(target), pinned, cfg, usable)
    todo = [scan for scan in usable if scan.name not in done]
    plan = BatchPlan(
        scans=scans,
        results=results,
        model=pinned,
        settings=cfg,
        shards=split(todo, cfg.shard_size),
        done=tuple(scan for scan in usable if scan.name in done),
        refused=refused,
        left_out=left_out,
    )
    logger.info(
        "%d scans: %d to segment in %d parts with %s, %d done already, %d with names that cannot be used, %d left out",
        len(usable) + len(refused), len(todo), len(plan.shards), pinned.address, len(done), len(refused), left_out,
    )  # fmt: skip
    return plan


def pin(model: str) -> PlannedModel:
    """The version that an address means now; its weights are fetched, so that a missing one is found out here.

    Raises:
        ConfigError: Neither a model folder nor an address of a version.
        StorageError: No such version, or one that cannot be fetched.
    """
    address = model
    name, _, alias = model.removeprefix("models:/").partition("@")
    if model.startswith("models:/") and name and alias:
        with registry.storage_errors(f"give {model}"):
            version = with_alias(registry.connect(), name, alias)
        address = version.uri if version else model  # where there is none, `resolve` says what to do
    return PlannedModel(asked=model, address=address, sha256=folder_sha256(resolve(address)))


def sort_out(found: Iterable[StoredObject]) -> tuple[list[PlannedScan], tuple[RefusedScan, ...], int]:
    """Tell scans from other files.

    Returns:
        The scans by name, the PNG files whose names cannot be used, and how many look like results of ours.
    """
    usable: dict[str, PlannedScan] = {}
    refused, left_out = [], 0
    for item in sorted(found, key=lambda item: item.name):
        if not item.name.lower().endswith(".png"):
            continue
        stem = item.name[: -len(".png")]
        if stem.endswith((MASK_SUFFIX, OVERLAY_SUFFIX)):
            left_out += 1
            continue
        problem = path_problem(stem) or ("has the same name as another scan but for .PNG" if stem in usable else "")
        if problem:
            refused.append(RefusedScan(name=ascii(item.name), reason=f"its name {problem}"))
        else:
            usable[stem] = PlannedScan(name=item.name, size=item.size, etag=item.etag)
    return list(usable.values()), tuple(refused), left_out


def path_problem(stem: str) -> str:
    """Why no result can be written for a scan of this path (without `.png`); empty where it can."""
    if len(stem.encode(errors="surrogateescape")) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    if stem.endswith(FAULT_SUFFIX):
        return f"ends like a fault's ({FAULT_SUFFIX})"
    return next((problem for problem in map(name_problem, stem.split("/")) if problem), "")


def split(scans: Sequence[PlannedScan], size: int) -> tuple[tuple[PlannedScan, ...], ...]:
    """Parts of at most `size` scans that differ by one at most; one empty part where there is nothing to do.

    Never no part at all: what a pipeline makes of a loop over nothing differs between its back ends.
    """
    count = max(-(-len(scans) // size), 1)
    return tuple(tuple(scans[index::count]) for index in range(count))
