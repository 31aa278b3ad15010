"""Two models side by side on the same scans: from kept scores where they fit, else scored now; with pictures."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sa2net.artifacts import check_replaceable, replaced_folder, write_json, write_text
from sa2net.config import EvaluateConfig
from sa2net.data.layout import Case, read_cases
from sa2net.data.pictures import read_mask, read_scan
from sa2net.data.store import data_md5
from sa2net.errors import ConfigError
from sa2net.registry.comparison import Contender, compared, contender, most_changed, why_not_kept
from sa2net.registry.comparison_page import Picture, render
from sa2net.registry.scored import Evaluation

logger = logging.getLogger(__name__)

PAGE = "compare.html"
DOCUMENT = "compare.json"


@dataclass(frozen=True)
class CompareResult:
    """What the comparison came to.

    Attributes:
        document: The content of `compare.json`.
        page: `compare.html`.
        pictures: Scans drawn on the page.
    """

    document: dict[str, Any]
    page: Path
    pictures: int


@dataclass(frozen=True)
class _Scored:
    """Both evaluations, how they came about, and how the scans were predicted."""

    first: Evaluation
    second: Evaluation
    how: str
    cfg: EvaluateConfig


def run(
    cfg: EvaluateConfig,
    *,
    first: str,
    second: str,
    data: Path | None,
    out: Path,
    pictures: int = 6,
    progress: bool = True,
) -> CompareResult:
    """Compare two models; nothing is tracked, and nothing in the registry changes.

    Args:
        cfg: The evaluate section: how both are scored where they must be, and the intervals.
        first: Model folder, evaluation folder, `models:/NAME@ALIAS` or `models:/NAME/NUMBER`; A.
        second: The same for B. Differences are B - A.
        data: Folder that holds `dataset/` and `groundtruth/`; without it there are no pictures, and kept scores of the
            same scans are needed.
        out: Folder that takes `compare.html` and `compare.json`.
        pictures: Most scans drawn.
        progress: Show progress bars.

    Raises:
        ConfigError: No data are given, and the kept scores are not of the same scans.
        DataError: A model folder, scan or mask that cannot be used.
        StorageError: A version that is not there.
    """
    check_replaceable(out, (PAGE, DOCUMENT))
    with TemporaryDirectory(prefix="sa2net-") as scratch:
        folders = [Path(scratch) / side for side in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        sides = (contender(first, folders[0]), contender(second, folders[1]))
        found = _scored(cfg, sides, data, Path(scratch), progress)
        labels = _labels(sides)
        document = {**compared(found.first, found.second, labels, cfg), "scored": found.how}
        drawn = (
            []
            if data is None or not all(side.predicts for side in sides)
            else _pictures(found.cfg, sides, most_changed(document, pictures), data)
        )
    with replaced_folder(out, (PAGE, DOCUMENT)) as fresh:
        write_json(fresh / DOCUMENT, document)
        write_text(fresh / PAGE, render(document, drawn))
    return CompareResult(document, out / PAGE, len(drawn))


def _labels(sides: tuple[Contender, Contender]) -> tuple[str, str]:
    return sides[0].label, sides[1].label


def _scored(
    cfg: EvaluateConfig, sides: tuple[Contender, Contender], data: Path | None, scratch: Path, progress: bool
) -> _Scored:
    """The kept evaluations if they are of the same scans (and of these data), else fresh ones."""
    why = why_not_kept(*sides)
    first, second = sides[0].kept, sides[1].kept
    if first is not None and second is not None and not why:
        scores = second.scores
        if data is None or data_md5(data) == scores.data_md5:
            how = {key: value for key, value in scores.inference.items() if key in EvaluateConfig.model_fields}
            kept = EvaluateConfig.model_validate({**cfg.model_dump(), **how, "split": scores.split})
            keeper = "the registry keeps" if all(side.predicts for side in sides) else "are kept"
            return _Scored(first, second, f"Scores that {keeper} of both.", kept)
        why = "the kept scores are of another data set than --data"
    if data is None:
        raise ConfigError(
            "the two models were not scored on the same scans",
            evidence=why,
            action="Give a data set with --data: both are scored on its scans.",
        )
    logger.info("What predicts is scored now: %s", why)
    fresh = [_score(cfg, side, data, scratch / f"scored-{index}", progress) for index, side in enumerate(sides)]
    who = "Both were" if all(side.predicts for side in sides) else "One was"
    return _Scored(fresh[0], fresh[1], f"{who} scored for this page: {why}.", cfg)


def _score(cfg: EvaluateConfig, side: Contender, data: Path, out: Path, progress: bool) -> Evaluation:
    """Score a model; of scores alone, see that they are of these scans."""
    if side.kept is not None and not side.predicts:
        of, wanted = (side.kept.scores.data_md5, side.kept.scores.split), (data_md5(data), cfg.split)
        if of != wanted:
            raise ConfigError(
                f"the scores in {side.folder} are of other scans than --data",
                evidence=f"data {of[0][:12]}, split {of[1]}; --data is {wanted[0][:12]}, split {wanted[1]}",
                action="Score these label maps or this model on --data first.",
            )
        return side.kept
    from sa2net.steps.evaluate import score_model

    without_pictures = cfg.model_copy(update={"overlays": 0})
    score_model(without_pictures, data=data, model=side.folder, out=out, progress=progress)
    return Evaluation.read(out, model_sha256=side.model_sha256)


def _pictures(
    cfg: EvaluateConfig, sides: tuple[Contender, Contender], names: Sequence[str], data: Path
) -> list[Picture]:
    """Both predictions of some scans beside the truth."""
    if not names:
        return []
    from sa2net.evaluation.overlay import draw_change, jpeg_uri
    from sa2net.inference.predictor import Predictor

    cases: Mapping[str, Case] = {case.name: case for case in read_cases(data, [cfg.split])}
    predictors = [Predictor.for_settings(side.folder, cfg) for side in sides]
    drawn = []
    for name in names:
        case = cases[name]
        scan = read_scan(case.scan)
        masks = [predictor(scan, case.spacing_mm) for predictor in predictors]
        picture = draw_change(scan, read_mask(case.mask), masks[0], masks[1], names=("A", "B"))
        drawn.append(Picture(name, jpeg_uri(picture)))
    return drawn
