"""Segment scans that have no mask: a mask, an overlay and a JSON for each."""

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sa2net.artifacts import folder_sha256, write_json
from sa2net.config import EvaluateConfig
from sa2net.data.checks import check_spacing
from sa2net.data.framing import Grey
from sa2net.data.layout import MASK_SUFFIX
from sa2net.data.pictures import MAX_PIXELS, write_png
from sa2net.data.reading import read_named_scan
from sa2net.errors import DataError, Sa2NetError
from sa2net.evaluation.overlay import draw_mask
from sa2net.inference.description import INTENDED_USE, class_areas, find_warnings
from sa2net.inference.predictor import Prediction, Predictor
from sa2net.steps.batch.results import OVERLAY_SUFFIX

logger = logging.getLogger(__name__)
SHOWN = 5

SCAN_FILES = (".png", ".dcm")
DICOM_RESULTS = (".seg.dcm", ".sr.dcm")
"""DICOM files that `measure` writes end so: label map, report."""


def run(
    scans: Sequence[str],
    model: Path,
    out: Path,
    *,
    cfg: EvaluateConfig,
    spacing_mm: tuple[float, float] | None = None,
    model_name: str = "",
    progress: bool = True,
) -> int:
    """Predict every scan that `scans` names; return how many.

    Writes for each `NAME_bone_3.png` (class ids, exactly the scan's size), `NAME_overlay.png` and `NAME.json`.

    Args:
        scans: Files, folders (their PNG and DICOM files) and globs.
        model: Model folder.
        out: Folder to write; made where absent.
        cfg: Inference settings: mode, scales, flip, device, precision, threads.
        spacing_mm: Size of the pixels (x, y), mm, where known; else what a DICOM file says.
        model_name: How the model was asked for; kept in the JSON.
        progress: Show a progress bar.

    Raises:
        DataError: Nothing to do; a mask that we did not write would be replaced; or some files could not be used: all
            others are done by then.
    """
    check_spacing(spacing_mm)
    named = output_names(find_scans(scans))
    _refuse_foreign(out, named)
    predictor = Predictor.for_settings(model, cfg)
    identity = {"name": model_name, "sha256": folder_sha256(model), "data_md5": predictor.info.data_md5}
    faults: list[str] = []
    for name, path in tqdm(named.items(), desc="predict", unit="scan", disable=not progress):
        try:
            description = segment(path, out / name, predictor, spacing_mm=spacing_mm, identity=identity)
        except Sa2NetError as error:
            logger.error("%s", error)
            faults.append(f"{path} ({error.evidence or error.what})")
            continue
        write_json(out / f"{name}.json", description)
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{len(faults)} of {len(named)} scans could not be segmented",
            evidence="; ".join(faults[:SHOWN]) + more,
            action=f"Mend or leave out these files; the others are done and lie in {out}.",
        )
    return len(named)


def segment(
    scan: Path,
    base: Path,
    predictor: Predictor,
    *,
    spacing_mm: tuple[float, float] | None,
    identity: Mapping[str, str],
    name: str = "",
    overlay: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Predict one scan: write its mask and overlay, return what its JSON says.

    The JSON itself is left to the caller, who writes it last: where it lies, the pictures are whole.

    Args:
        scan: File of the scan, PNG or DICOM.
        base: Where the pictures go; `_bone_3.png` and `_overlay.png` are put behind it.
        predictor: The network.
        spacing_mm: Size of the pixels (x, y), mm, where known; else what a DICOM file says.
        identity: Which model it is.
        name: What the JSON calls the scan; empty = its file name.
        overlay: Draw the overlay.
        max_pixels: Larger scans are refused, px.

    Raises:
        DataError: The file is no scan that can be used; nothing is written then.
    """
    named = read_named_scan(scan, spacing_mm, max_pixels=max_pixels)
    grey = named.grey
    prediction = predictor.probabilities(grey, named.spacing_mm)
    if overlay:  # first: by it a mask is known as ours
        write_png(base.with_name(f"{base.name}{OVERLAY_SUFFIX}.png"), draw_mask(grey, prediction.mask))
    write_png(base.with_name(f"{base.name}{MASK_SUFFIX}.png"), prediction.mask)
    for note in named.notes:
        logger.warning("%s: %s", name or scan.name, note)
    described = _describe(name or scan.name, grey, prediction, predictor, named.spacing_mm, identity)
    described["warnings"] += named.notes
    return described


def _refuse_foreign(out: Path, names: Iterable[str]) -> None:
    """Refuse to replace a mask that lies there alone: somebody drew it, or another program.

    Raises:
        DataError: There is one.
    """
    foreign = [
        mask
        for name in names
        if (mask := out / f"{name}{MASK_SUFFIX}.png").exists()
        and not any((out / other).exists() for other in (f"{name}.json", f"{name}{OVERLAY_SUFFIX}.png"))
    ]
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise DataError(
            f"masks that no earlier prediction wrote lie in {out}, and would be replaced",
            evidence=", ".join(path.name for path in foreign[:SHOWN]) + more,
            action="Name another folder with --out.",
        )


def find_scans(named: Iterable[str]) -> list[Path]:
    """Files, folders and globs to the files they mean, in order, each once. What we wrote earlier is left out.

    Raises:
        DataError: A name means nothing at all.
    """
    found: dict[Path, None] = {}
    for text in named:
        path = Path(text)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in SCAN_FILES)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True)) if Path(match).is_file()]  # noqa: PTH207 - absolute patterns
        if path.is_dir() or path not in matches:
            matches = [match for match in matches if not _is_result(match)]
        if not matches:
            raise DataError(
                f"{text} names no scan",
                evidence="no such file, or no PNG or DICOM file (.dcm) in it",
                action="Name PNG or DICOM files, a folder of them, or a glob.",
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _is_result(path: Path) -> bool:
    return path.stem.endswith((MASK_SUFFIX, OVERLAY_SUFFIX)) or path.name.endswith(DICOM_RESULTS)


def output_names(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for each file's results: its stem, with its folder's name before it where stems collide."""
    stems = Counter(path.stem for path in paths)
    names: dict[str, Path] = {}
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}_{path.stem}"
        if name in names:
            raise DataError(
                "two scans would get the same name",
                evidence=f"{names[name]} and {path}",
                action="Predict them in two calls.",
            )
        names[name] = path
    return names


def _describe(
    name: str,
    scan: Grey,
    prediction: Prediction,
    predictor: Predictor,
    spacing_mm: tuple[float, float] | None,
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """The JSON of one scan. Areas are mm2 where the spacing is known, else left out."""
    return {
        "schema_version": 1,
        "scan": name,
        "height": scan.shape[0],
        "width": scan.shape[1],
        "spacing_mm": list(spacing_mm) if spacing_mm else [],
        "scaled_by": prediction.scaled_by,
        "scale": prediction.scale,
        "model": dict(identity),
        "classes": class_areas(prediction.mask, spacing_mm),
        "warnings": find_warnings(
            scan, prediction.mask, predictor.info, scale=prediction.scale, scaled_by=prediction.scaled_by
        ),
        "intended_use": INTENDED_USE,
    }
