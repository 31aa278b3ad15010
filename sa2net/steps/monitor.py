"""Monitor: hold new scans against the reference of a model, without labels; a table, a JSON and a page."""

import csv
import dataclasses
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from sa2net.artifacts import Reference, folder_sha256, plain_cell, read_reference, write_json, write_text
from sa2net.config import EvaluateConfig
from sa2net.data.layout import SCANS_TABLE, ScanRow, read_table
from sa2net.data.reading import read_named_scan
from sa2net.errors import ConfigError, DataError, NegativeAnswerError, Sa2NetError
from sa2net.evaluation.drift import SIGNALS, Described, Drift, collect, compare, describe_scan
from sa2net.evaluation.drift_page import render
from sa2net.evaluation.reference import check_settings, settings_of
from sa2net.inference.description import INTENDED_USE
from sa2net.inference.predictor import Predictor
from sa2net.steps.predict import SHOWN, find_scans

logger = logging.getLogger(__name__)
MONITOR_JSON = "monitor.json"
MONITOR_TABLE = "monitor.csv"
MONITOR_PAGE = "monitor.html"


def run(
    model: Path,
    reference: Sequence[str],
    scans: Sequence[str],
    out: Path,
    *,
    cfg: EvaluateConfig,
    alpha: float = 0.01,
    min_scans: int = 10,
    device: str = "",
    progress: bool = True,
) -> Drift:
    """Compare new scans with the reference of a model, or with given scans; writes `monitor.json`, `monitor.csv` and `monitor.html`.

    Args:
        model: Model folder.
        reference: Scans that the model is known on, in place of the reference in its folder: files, folders and globs.
        scans: New scans, likewise.
        out: Folder to write; made where absent.
        cfg: How the network is used, and the limits of refusal.
        alpha: Chance of one false alarm or more.
        min_scans: With fewer scans on either side nothing is told.
        device: Scanner of the new scans for which no `scans.csv` names one.
        progress: Show a progress bar.

    Raises:
        ConfigError: A level or a number of scans that cannot be; other settings than those of the reference.
        DataError: The model has no reference; nothing to compare; or some files could not be used; all others are done by then.
        NegativeAnswerError: The scans differ.
    """
    if not 0.0 < alpha < 1.0 or min_scans < 3:
        raise ConfigError(
            "the test cannot be set up so",
            evidence=f"alpha {alpha:g}, at least {min_scans} scans",
            action="Give a level between 0 and 1, and at least 3 scans.",
        )
    stored = None
    if not reference:
        stored = _stored(model)
        cfg = check_settings(stored.settings, cfg, model)
    sides = find_scans(reference) if reference else [], find_scans(scans)
    both = {path.resolve() for path in sides[0]} & {path.resolve() for path in sides[1]}
    if both:
        raise DataError(
            f"{len(both)} scans are new and reference at once",
            evidence=str(min(both)),
            action="Name other scans: what is compared with itself never drifts.",
        )
    predictor = Predictor.for_settings(model, cfg)
    faults: list[str] = []
    with tqdm(total=sum(map(len, sides)), desc="monitor", unit="scan", disable=not progress) as bar:
        old = _describe_all(sides[0], predictor, cfg, "", faults, bar.update)
        new = _describe_all(sides[1], predictor, cfg, device, faults, bar.update)
    if not new or not (old or stored):
        raise DataError(
            "there is nothing to compare",
            evidence=f"{len(new)} new{'' if stored else f' and {len(old)} reference'} scans could be used; {'; '.join(faults[:SHOWN])}",
            action="Mend these files, or name others.",
        )
    known = stored or collect(old, settings_of(cfg))
    drift = compare(known, new, alpha=alpha, min_scans=min_scans)
    count = sum(item.scans for item in known.devices)
    sha256 = folder_sha256(model)
    write_text(out / MONITOR_TABLE, _table(old, new))
    write_json(out / MONITOR_JSON, _summary(drift, sha256, min_scans, count, len(faults), given=stored is None))
    page = render(drift, references=count, failed=len(faults), model_sha256=sha256)
    write_text(out / MONITOR_PAGE, page)
    _answer(drift, faults, out)
    return drift


def _stored(model: Path) -> Reference:
    """The reference in a model folder."""
    stored = read_reference(model)
    if stored is None:
        raise DataError(
            f"{model} holds no reference to compare with",
            evidence="it was made before training wrote one, or not by `sa2net train`",
            action="Name scans that the network was not trained on with --reference-scans, or train again.",
        )
    return stored


def _describe_all(
    paths: Sequence[Path],
    predictor: Predictor,
    cfg: EvaluateConfig,
    device: str,
    faults: list[str],
    done: Callable[[], object],
) -> list[Described]:
    """The signals of every scan that can be used; the others are named in `faults`; `done` is called after each."""
    tables: dict[Path, Mapping[str, ScanRow]] = {}
    described = []
    for path in paths:
        try:
            row = _row(path, tables)
            scan = read_named_scan(path, row.spacing_mm)
            prediction = predictor.probabilities(scan.grey, scan.spacing_mm)
            signals = describe_scan(scan.grey, prediction, cfg.measure, scan.spacing_mm)
            described.append(Described(path.stem, row.device or device, signals))
        except Sa2NetError as error:
            logger.error("%s", error)
            faults.append(f"{path} ({error.evidence or error.what})")
        done()
    return described


def _row(path: Path, tables: dict[Path, Mapping[str, ScanRow]]) -> ScanRow:
    """What `scans.csv` says of a scan: beside it, or where a data set has it (ROOT/dataset/SPLIT/NAME.png)."""
    folder = path.resolve().parent
    if folder not in tables:
        root = folder if (folder / SCANS_TABLE).exists() else folder.parent.parent
        table = read_table(root)
        if table.problem:
            raise DataError(f"{root / SCANS_TABLE} {table.problem}", action=table.cure)
        tables[folder] = table.rows
    return tables[folder].get(path.stem, ScanRow(subject=path.stem))


def _table(old: Sequence[Described], new: Sequence[Described]) -> str:
    """`monitor.csv` as text: one row a scan; no cell is a formula, and a class that was not found is an empty one."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scan", "side", "device", *SIGNALS])
    for side, items in (("reference", old), ("new", new)):
        for item in items:
            values = [item.signals[signal] for signal in SIGNALS]
            named = [plain_cell(item.name), side, plain_cell(item.device)]
            writer.writerow([*named, *("" if math.isnan(v) else round(v, 6) for v in values)])
    return stream.getvalue()


def _summary(
    drift: Drift, sha256: str, min_scans: int, references: int, failed: int, *, given: bool
) -> dict[str, object]:
    return {
        "schema_version": 1,
        "verdict": drift.verdict,
        "alpha": drift.alpha,
        "min_scans": min_scans,
        "reference": "given scans" if given else "model folder",
        "reference_scans": references,
        "failed": failed,
        "model_sha256": sha256,
        "devices": [dataclasses.asdict(item) for item in drift.devices],
        "signals": [dataclasses.asdict(item) for item in drift.compared],
        "outliers": [dataclasses.asdict(item) for item in drift.outliers],
        "intended_use": INTENDED_USE,
    }


def _answer(drift: Drift, faults: Sequence[str], out: Path) -> None:
    """Raise where files were bad, or the scans differ; a drift is said in both cases."""
    found = [item for item in drift.compared if item.drifted]
    shown = ", ".join(
        f"{item.signal} (p {item.p_holm:.2g}{f', {item.device}' if item.device else ''})" for item in found[:SHOWN]
    )
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{len(faults)} scans could not be used; of the others: {drift.verdict}",
            evidence="; ".join(faults[:SHOWN]) + more,
            action=f"Mend or leave out these files; the others are compared in {out}.",
        )
    if found:
        raise NegativeAnswerError(
            f"the new scans differ from the reference in {len(found)} signal{'s' if len(found) > 1 else ''}",
            evidence=shown + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""),
            action=f"Look at {out / MONITOR_PAGE}, and at the masks of these scans, before the model is used on them.",
        )
