"""Segment one part of a batch; run again, it goes on with what is missing.

A file that cannot be segmented leaves a fault beside the others' results and stops nothing. A store, model or device
that fails ends the part: the next attempt finds what is done and does the rest.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sa2net.artifacts import folder_sha256
from sa2net.data.store.objects import ObjectStore, StoredObject, TransientError
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.inference.description import INTENDED_USE
from sa2net.inference.predictor import Predictor
from sa2net.registry.versions import resolve
from sa2net.steps.batch.results import (
    BatchPlan,
    PlannedScan,
    ResultFiles,
    done_scans,
    origin,
    present_results,
    reason,
    write_result,
)
from sa2net.steps.predict import segment

logger = logging.getLogger(__name__)
PROGRESS_LINES = 20


@dataclass(frozen=True)
class ShardResult:
    """What came of a part: scans segmented now, done before, and at fault."""

    segmented: int
    before: int
    faulty: int


def run(plan: BatchPlan, index: int) -> ShardResult:
    """Segment the scans of one part.

    Args:
        plan: The batch.
        index: Which part, from 0.

    Raises:
        ConfigError: The plan has no such part.
        StorageError: The scans, the results or the model cannot be read or written, or the model was changed.
        DeviceError: The device cannot be used.
    """
    if not 0 <= index < len(plan.shards):
        raise ConfigError(
            f"the batch has no part {index}", evidence=f"{len(plan.shards)} parts", action="Count from 0."
        )
    target = plan.open_results()
    scans = plan.shards[index]
    present = present_results(target)
    done = done_scans(target, present, plan.model, plan.settings, scans)
    missing = [scan for scan in scans if scan.name not in done]
    part = f"part {index + 1} of {len(plan.shards)}"
    logger.info("%s: %d scans, %d of them done before", part, len(scans), len(scans) - len(missing))
    faulty = _segment_all(plan, _Results(target, present), missing, part) if missing else 0
    return ShardResult(len(missing) - faulty, len(scans) - len(missing), faulty)


def _segment_all(plan: BatchPlan, target: "_Results", scans: Sequence[PlannedScan], part: str) -> int:
    """Segment scans one by one; return how many could not be."""
    predictor = Predictor.for_settings(_checked_model(plan), plan.settings)
    identity = {"name": plan.model.address, "sha256": plan.model.sha256, "data_md5": predictor.info.data_md5}
    source, faulty = plan.open_scans(), 0
    every = max(len(scans) // PROGRESS_LINES, 1)
    for number, scan in enumerate(scans, start=1):
        files = ResultFiles(scan.name)
        made_from = origin(plan.model, plan.settings, scan)
        with TemporaryDirectory(prefix="sa2net-") as scratch:
            picture, base = Path(scratch) / "scan.png", Path(scratch) / "result"
            try:
                _fetch(source, scan, picture)
                description = segment(
                    picture,
                    base,
                    predictor,
                    spacing_mm=plan.settings.spacing,
                    identity=identity,
                    name=scan.name,
                    overlay=plan.settings.overlays,
                    max_pixels=plan.settings.max_pixels,
                )
            except DataError as error:
                faulty += 1
                logger.warning("%s: scan %d of %d cannot be segmented: %s", part, number, len(scans), reason(error))
                target.put_fault(scan, reason(error), made_from)
            else:
                target.put(files, base, {**description, "made_from": made_from})
        if number % every == 0 or number == len(scans):
            logger.info("%s: %d of %d scans, %d at fault", part, number, len(scans), faulty)
    return faulty


def _checked_model(plan: BatchPlan) -> Path:
    """The planned model's folder.

    Raises:
        StorageError: It holds other weights than when the batch was planned.
    """
    folder = resolve(plan.model.address)
    found = folder_sha256(folder)
    if found != plan.model.sha256:
        raise StorageError(
            f"{plan.model.address} is not the model that the batch was planned with",
            evidence=f"sha256 {found[:12]}, planned {plan.model.sha256[:12]}",
            action="Start the batch again: what is done with the planned model is not taken for the new one's.",
        )
    return folder


def _fetch(source: ObjectStore, scan: PlannedScan, file: Path) -> None:
    """Get a scan as it was planned.

    Raises:
        DataError: It cannot be read, it is gone, or it is another file now, whose result would be taken for its.
        TransientError: The store does not answer.
    """
    try:
        found = source.find(scan.name)
        if _same(found, scan):
            source.get(scan.name, file)
    except TransientError:
        raise
    except StorageError as error:  # this one file; where it is the store itself, the results fail too
        raise DataError("a scan cannot be read", evidence=error.evidence, action="Let it be read.") from error
    if not _same(found, scan) or file.stat().st_size != scan.size:
        raise DataError(
            "a scan cannot be taken for the planned one",
            evidence="the file was changed or removed after the batch was planned",
            action="Start the batch again.",
        )


def _same(found: StoredObject | None, scan: PlannedScan) -> bool:
    return found is not None and (found.size, found.etag) == (scan.size, scan.etag)


@dataclass(frozen=True)
class _Results:
    """The results address as a part changes it: no order of work leaves a JSON beside pictures of another make.

    Attributes:
        store: The results.
        present: What lay there at the start of the part; nothing else needs to be taken away.
    """

    store: ObjectStore
    present: set[str]

    def put(self, files: ResultFiles, base: Path, description: Mapping[str, Any]) -> None:
        """Put the results of a scan: its old JSON goes first, its new one comes last.

        Args:
            files: Where they go.
            base: Where the pictures lie here; see `segment`.
            description: The JSON.
        """
        self._take_away(files.description)
        for name in (files.mask, files.overlay):
            picture = base.with_name(base.name + name.removeprefix(files.base))
            if picture.is_file():
                self.store.put(picture, name)
            else:
                self._take_away(name)
        write_result(self.store, files.description, description)
        self._take_away(files.fault)

    def put_fault(self, scan: PlannedScan, why: str, made_from: Mapping[str, Any]) -> None:
        """Record why a scan has no result, and take away what an earlier make of it left."""
        files = ResultFiles(scan.name)
        for name in (files.description, files.mask, files.overlay):
            self._take_away(name)
        content = {"schema_version": 1, "scan": scan.name, "reason": why, "made_from": dict(made_from)}
        write_result(self.store, files.fault, {**content, "intended_use": INTENDED_USE})

    def _take_away(self, name: str) -> None:
        if name in self.present:
            self.store.delete(name)
