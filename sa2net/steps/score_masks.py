"""Score label maps that another program made, with the same evaluator and the same report as a model of ours."""

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import NUM_CLASSES
from sa2net.artifacts import (
    EVALUATION_FILES,
    Scores,
    check_replaceable,
    file_sha256,
    replaced_folder,
)
from sa2net.config import EvaluateConfig
from sa2net.data.layout import MASK_SUFFIX, Case
from sa2net.data.pictures import read_mask, read_scan
from sa2net.data.store import data_md5
from sa2net.errors import DataError
from sa2net.evaluation.scoring import is_phantom, read_groups, score, summarise
from sa2net.steps.evaluate import scored_cases, write_evaluation

logger = logging.getLogger(__name__)

INFERENCE = {"source": "label maps"}
"""What `scores.json` says of how the scans were predicted: nobody knows."""
_NAMED = 5


@dataclass(frozen=True)
class LabelMap:
    """A label map in the place of a prediction, as sure of itself as can be.

    Attributes:
        mask: Class ids. # (H, W)
    """

    mask: npt.NDArray[np.uint8]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """1 for the class of the map, else 0. # (K, H, W)."""
        classes = np.arange(NUM_CLASSES, dtype=np.uint8)[:, None, None]
        sure: npt.NDArray[np.float32] = (classes == self.mask).astype(np.float32)
        return sure


def run(cfg: EvaluateConfig, *, data: Path, masks: Path, out: Path, progress: bool = True) -> Scores:
    """Score a folder of label maps; nothing is tracked, and no angles are measured.

    Args:
        cfg: The evaluate section: split, tolerances, intervals, overlays.
        data: Folder that holds `dataset/` and `groundtruth/`.
        masks: Folder of label maps of the scans' own size, values 0-3: `NAME.png` or `NAME_bone_3.png`.
        out: Folder to write; replaced whole once everything is done. It is an evaluation folder without `timing.json`
            and `run.json`; `model_sha256` is the identity of the label maps.
        progress: Show a progress bar.

    Raises:
        DataError: No scans in the split, or label maps that are missing, of another size, or hold other labels: each
            is named.
    """
    check_replaceable(out, EVALUATION_FILES)
    cases = scored_cases(cfg, data)
    places = find_label_maps(masks, cases)
    given = (LabelMap(read_mask(place)) for place in places)  # `score` asks in the order of the cases
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replaced_folder(out, EVALUATION_FILES) as fresh,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as kept,
    ):
        evaluation = score(cases, lambda _scan, _spacing: next(given), cfg, masks=Path(kept), progress=progress)
        summary = summarise(
            evaluation,
            cfg,
            data_md5=data_md5(data),
            model_sha256=identity(cases, places),
            phantom=is_phantom(data, cases),
        )
        scores = summary.model_copy(update={"inference": INFERENCE})
        write_evaluation(fresh, evaluation, scores, cfg, groups=read_groups(data, cases), masks=Path(kept))
    logger.info("Scores, tables and report are in %s", out)
    return scores


def find_label_maps(folder: Path, cases: Sequence[Case]) -> list[Path]:
    """The label map of each case, each looked into.

    Raises:
        DataError: Some cannot be used; the message names them.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", action="Name the folder of the label maps with --masks.")
    names = {case.name for case in cases}
    found = {case.name: _place(folder, case.name, names) for case in cases}
    missing = [f"{name}.png" for name, place in found.items() if place is None]
    if missing:
        raise DataError(
            f"{folder} lacks the label maps of {len(missing)} of {len(cases)} scans",
            evidence=_some(missing),
            action="Predict these scans too, or choose another split with --set evaluate.split=...",
        )
    places = [place for place in found.values() if place is not None]
    problems = [
        f"{place.name} {problem}"
        for case, place in zip(cases, places, strict=True)
        if (problem := _problem(read_scan(case.scan).shape, read_mask(place)))
    ]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(cases)} label maps in {folder} cannot be scored",
            evidence=_some(problems),
            action="Give class ids 0-3 at the scan's own size.",
        )
    return places


def identity(cases: Sequence[Case], places: Sequence[Path]) -> str:
    """The sha256 over the scans' names and the files of their label maps."""
    digest = hashlib.sha256()
    for case, place in zip(cases, places, strict=True):
        digest.update(f"{case.name}\0{file_sha256(place)}\n".encode())
    return digest.hexdigest()


def _place(folder: Path, name: str, names: set[str]) -> Path | None:
    """NAME.png, or NAME_bone_3.png unless that is the map of a scan of that name."""
    stems = [name] if f"{name}{MASK_SUFFIX}" in names else [name, f"{name}{MASK_SUFFIX}"]
    places = [path for stem in stems if (path := folder / f"{stem}.png").exists()]
    if len(places) > 1:
        raise DataError(
            f"{folder} holds two label maps of {name}",
            evidence=" and ".join(path.name for path in places),
            action="Keep one of them.",
        )
    return places[0] if places else None


def _problem(shape: tuple[int, ...], mask: npt.NDArray[np.uint8]) -> str:
    if mask.shape != shape:
        return f"is {mask.shape[1]} x {mask.shape[0]} px, its scan {shape[1]} x {shape[0]}"
    if int(mask.max()) >= NUM_CLASSES:
        return f"holds label {int(mask.max())}"
    return ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
