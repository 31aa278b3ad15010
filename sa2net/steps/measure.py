"""Measure curve angles in scans: a JSON, a picture, mask and scan for each, a table over all; a bad scan does not stop the others."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2net.anatomy import CLASSES, IGNORE_INDEX
from sa2net.artifacts import folder_sha256, plain_cell, write_json, write_text
from sa2net.config import EvaluateConfig, MeasureConfig
from sa2net.data.checks import check_spacing
from sa2net.data.dicom import DicomScan, is_dicom, packages_missing
from sa2net.data.framing import Grey
from sa2net.data.layout import MASK_SUFFIX
from sa2net.data.pictures import read_mask, write_png
from sa2net.data.reading import NamedScan, read_named_scan
from sa2net.errors import ConfigError, DataError, NegativeAnswerError, Sa2NetError
from sa2net.inference.description import find_warnings
from sa2net.inference.predictor import Predictor
from sa2net.scoliosis import Measurement, Source, measure
from sa2net.scoliosis.folder import MEASURED, PICTURE, RESULT, mask_file, scan_file
from sa2net.scoliosis.picture import draw_measurement
from sa2net.scoliosis.result import ModelIdentity
from sa2net.steps.predict import SHOWN, find_scans, output_names

logger = logging.getLogger(__name__)

TABLE = "measure.csv"
COLUMNS = (
    "scan",
    "status",
    "largest_angle_deg",
    "standard_error_deg",
    "interval_low_deg",
    "interval_high_deg",
    "region",
    "convex",
    "upper_end",
    "apex",
    "lower_end",
    "curves",
    "reasons",
    "warnings",
)
DicomWriter = Callable[[Path, DicomScan, Grey, Measurement], object]


@dataclass(frozen=True)
class Outcome:
    """What came of the scans.

    Attributes:
        measured: Scans with an angle.
        refused: Scans whose answer is a refusal.
    """

    measured: int
    refused: int


@dataclass(frozen=True)
class Segmenter:
    """Makes the label map of a scan: from a folder of label maps, or with a network.

    Attributes:
        masks: Folder of label maps, `NAME_bone_3.png` or `NAME.png`; None = the network.
        predictors: The network as set up; behind it the same at each single test-time scale, where there are several.
        model: Which network.
    """

    masks: Path | None
    predictors: tuple[Predictor, ...]
    model: ModelIdentity


def run(
    scans: Sequence[str],
    out: Path,
    *,
    cfg: EvaluateConfig,
    model: Path | None = None,
    masks: Path | None = None,
    spacing_mm: tuple[float, float] | None = None,
    model_name: str = "",
    dicom: bool = False,
    progress: bool = True,
) -> Outcome:
    """Measure every scan that `scans` names.

    Writes for each `NAME.measure.json` and `NAME.measure.png`, the mask into `masks/` and the scan into `scans/`, and
    over all `measure.csv`: a folder that stands for itself. With `dicom` also `NAME.seg.dcm` and `NAME.sr.dcm`.

    Args:
        scans: Files, folders (their PNG and DICOM files) and globs.
        out: Folder to write; made where absent.
        cfg: How the network is used (several scales are also taken as evidence of how sure an angle is), and in
            `measure` the limits of refusal and the words for severity.
        model: Model folder; needed without `masks`.
        masks: Folder of label maps to measure instead.
        spacing_mm: Size of the pixels (x, y), mm, where known; else what a DICOM file says.
        model_name: How the model was asked for; kept in the JSON.
        dicom: Write DICOM files about the scans, which must be DICOM files themselves; they hold who was scanned.
        progress: Show a progress bar.

    Raises:
        ConfigError: Neither a model nor masks, a spacing that cannot be, or `dicom` where a scan is none.
        DataError: Nothing to do, or some files could not be used; all others are done by then.
        NegativeAnswerError: Every scan was refused.
    """
    check_spacing(spacing_mm)
    paths = [path for path in find_scans(scans) if not path.stem.endswith(MEASURED)]
    if not paths:
        raise DataError("there is nothing to measure", evidence="results of `measure` only", action="Name scans.")
    named = output_names(paths)
    write_dicom = _dicom_writer(paths) if dicom else None
    segmenter = make_segmenter(model, masks, cfg, model_name)
    rows: list[dict[str, object]] = []
    faults: list[str] = []
    refused = 0
    for name, path in tqdm(named.items(), desc="measure", unit="scan", disable=not progress):
        try:
            read = read_named_scan(path, spacing_mm)
            scan = read.grey
            mask, measurement = measure_scan(scan, path, segmenter, cfg=cfg.measure, spacing_mm=read.spacing_mm)
            measurement = _with_notes(name, measurement, read)
            if write_dicom is not None and read.dicom is not None:
                write_dicom(out / name, read.dicom, mask, measurement)
        except Sa2NetError as error:
            logger.error("%s", error)
            faults.append(f"{path} ({error.evidence or error.what})")
            rows.append({"scan": name, "status": "failed", "reasons": error.evidence or error.what})
            continue
        if path.resolve() != scan_file(out, name).resolve():  # measured again where it lies
            write_png(scan_file(out, name), scan)
        write_png(mask_file(out, name), mask)
        write_png(out / f"{name}{PICTURE}", draw_measurement(scan, measurement))
        write_json(out / f"{name}{RESULT}", measurement.model_dump(mode="json"))
        rows.append(table_row(name, measurement))
        if measurement.status == "refused":
            refused += 1
            logger.warning("%s: no angle: %s", name, "; ".join(refusal.reason for refusal in measurement.refusals))
    write_text(out / TABLE, render_table(rows))
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{len(faults)} of {len(named)} scans could not be measured",
            evidence="; ".join(faults[:SHOWN]) + more,
            action=f"Mend or leave out these files; the others are done and lie in {out}.",
        )
    if refused == len(named):
        raise NegativeAnswerError(
            f"no angle could be measured in {refused} scan{'s' if refused > 1 else ''}",
            evidence=str(rows[0]["reasons"]),
            action=f"Look at the pictures in {out}.",
        )
    return Outcome(len(named) - refused, refused)


def measure_scan(
    scan: Grey,
    path: Path,
    segmenter: Segmenter,
    *,
    cfg: MeasureConfig,
    spacing_mm: tuple[float, float] | None,
) -> tuple[Grey, Measurement]:
    """The label map of one scan, and what is measured in it.

    Args:
        scan: Grey values. # (H, W)
        path: Its file: gives the name, and finds its label map.
        segmenter: Makes the label map.
        cfg: Limits and words.
        spacing_mm: Size of the pixels (x, y), mm, where known.

    Raises:
        DataError: No label map of this scan, or a scan without a sweep.
    """
    if segmenter.masks is not None:
        mask = _given_mask(segmenter.masks, path, scan)
        return mask, measure(mask, scan=scan, cfg=cfg, spacing_mm=spacing_mm, source=Source(scan=path.name))
    predictor, *single = segmenter.predictors
    found = predictor.probabilities(scan, spacing_mm)
    unlike = find_warnings(scan, found.mask, predictor.info, scale=found.scale, scaled_by=found.scaled_by)
    return found.mask, measure(
        found.mask,
        scan=scan,
        probabilities=found.probabilities,
        cfg=cfg,
        spacing_mm=spacing_mm,
        others=[other(scan, spacing_mm) for other in single],
        source=Source(scan=path.name, mask="network", model=segmenter.model, unlike=tuple(unlike)),
    )


def _dicom_writer(paths: Sequence[Path]) -> DicomWriter:
    """What writes DICOM files about scans, once it is sure that all of them are DICOM files.

    Raises:
        ConfigError: Some are not, or the packages are not installed.
    """
    others = [path.name for path in paths if not is_dicom(path)]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise ConfigError(
            "--dicom writes about DICOM files, and not all scans are such",
            evidence=", ".join(others[:SHOWN]) + more,
            action="Name DICOM files only, or leave --dicom out.",
        )
    try:
        from sa2net.steps.dicom_results import write_dicom_results
    except ModuleNotFoundError as error:
        raise packages_missing(error) from error
    return write_dicom_results


def _with_notes(name: str, measurement: Measurement, read: NamedScan) -> Measurement:
    """What the file itself has to say of the measurement: where the pixel size is from, and what to know of it."""
    for note in read.notes:
        logger.warning("%s: %s", name, note)
    spacing = measurement.spacing.model_copy(update={"source": "header"}) if read.from_header else measurement.spacing
    return measurement.model_copy(update={"spacing": spacing, "warnings": (*measurement.warnings, *read.notes)})


def table_row(name: str, measurement: Measurement) -> dict[str, object]:
    """The row of one scan in `measure.csv`; empty cells where it was refused."""
    row: dict[str, object] = {
        "scan": name,
        "status": measurement.status,
        "curves": len(measurement.curves),
        "reasons": "; ".join(f"{refusal.code}: {refusal.reason}" for refusal in measurement.refusals),
        "warnings": "; ".join(measurement.warnings),
    }
    largest = measurement.largest
    if largest is not None:
        low, high = largest.interval_90_deg
        row |= {
            "largest_angle_deg": largest.angle_deg,
            "standard_error_deg": largest.standard_error_deg,
            "interval_low_deg": low,
            "interval_high_deg": high,
            "region": largest.region,
            "convex": largest.convex,
            "upper_end": largest.upper_end,
            "apex": largest.apex,
            "lower_end": largest.lower_end,
        }
    return row


def render_table(rows: Sequence[dict[str, object]]) -> str:
    """`measure.csv` as text; no cell is a formula."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: plain_cell(cell) for key, cell in row.items()})
    return stream.getvalue()


def make_segmenter(model: Path | None, masks: Path | None, cfg: EvaluateConfig, model_name: str) -> Segmenter:
    """A segmenter from a folder of label maps, or from a model folder; arguments as in `run`.

    Raises:
        ConfigError: Neither is given.
        DataError: The folder is none, or no model folder.
    """
    if masks is not None:
        if not masks.is_dir():
            raise DataError(f"{masks} is not a folder", action="Name the folder of the label maps with --masks.")
        return Segmenter(masks, (), ModelIdentity())
    if model is None:
        raise ConfigError("neither a model nor masks", action="Name a model folder, or a folder of label maps.")
    predictor = Predictor.for_settings(model, cfg)
    several = cfg.scales if len(cfg.scales) > 1 else ()
    single = [
        Predictor(
            predictor.network,
            predictor.info,
            mode=predictor.mode,
            scales=(scale,),
            flip=predictor.flip,
            device=predictor.device,
            precision=predictor.precision,
        )
        for scale in several
    ]
    identity = ModelIdentity(name=model_name, sha256=folder_sha256(model), data_md5=predictor.info.data_md5)
    return Segmenter(None, (predictor, *single), identity)


def _given_mask(folder: Path, path: Path, scan: Grey) -> Grey:
    """The label map of a scan, of its size, with ids 0-3; ignored pixels count as background."""
    places = [folder / f"{path.stem}{MASK_SUFFIX}.png", folder / f"{path.stem}.png"]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise DataError(
            f"{path} has no label map",
            evidence=f"no {places[0].name} in {folder}",
            action="Put it there, or measure with a model.",
        )
    mask = read_mask(place)
    mask = np.where(mask == IGNORE_INDEX, 0, mask).astype(np.uint8)
    if mask.shape != scan.shape:
        raise DataError(
            f"{place} is not of the size of its scan",
            evidence=f"{mask.shape[1]} x {mask.shape[0]} px, the scan {scan.shape[1]} x {scan.shape[0]}",
            action="Give the label map at the scan's own size.",
        )
    if int(mask.max()) >= len(CLASSES):
        raise DataError(
            f"{place} is no label map",
            evidence=f"it holds label {int(mask.max())}, allowed are 0-{len(CLASSES) - 1} and {IGNORE_INDEX}",
            action="Convert it to class ids.",
        )
    return mask
