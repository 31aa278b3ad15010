"""The evaluation report: one HTML file that opens anywhere, loads nothing, and is equal for equal runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net.anatomy import CLASSES, FOREGROUND
from sa2net.artifacts import EVALUATION_REPORT, OVERLAYS, Estimate, Scores, write_text
from sa2net.config import EvaluateConfig
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.evaluation.angle_scores import AngleGroup, by_artefact, by_size
from sa2net.evaluation.angles import SMALLEST_TRUE
from sa2net.evaluation.charts import (
    AnglePlot,
    Series,
    agreement_plot,
    bland_altman_plot,
    reliability_points,
    strip_plot,
)
from sa2net.evaluation.metrics import METRICS
from sa2net.evaluation.overlay import draw_overlay, jpeg_uri
from sa2net.evaluation.scoring import Evaluation, ScanResult, class_estimate, mean_estimate
from sa2net.evaluation.tables import row_shares

_NAMES = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd95": "HD95"}
_PLOT_SIDE = 300.0
_ANGLE_SIDE, _ANGLE_WIDTH = 320.0, 360.0


@dataclass(frozen=True)
class Overlay:
    """One scan of the picture gallery."""

    rank: str
    name: str
    dice: str
    per_class: tuple[tuple[str, str], ...]
    file: str
    uri: str


@dataclass(frozen=True)
class AngleSection:
    """What the page says of angles: tables (id, heading, first column, rows) and two plots."""

    smallest: float
    tables: tuple[tuple[str, str, str, Sequence[AngleGroup]], ...]
    scatter: AnglePlot
    bland_altman: AnglePlot


def write_report(
    folder: Path,
    evaluation: Evaluation,
    scores: Scores,
    cfg: EvaluateConfig,
    *,
    masks: Path,
    groups: Mapping[str, Mapping[str, str]],
) -> None:
    """Draw the overlays and write `report.html`.

    Args:
        folder: Evaluation folder.
        evaluation: What was scored.
        scores: Its summary.
        cfg: How it was scored.
        masks: Folder of the predicted masks, NAME.png.
        groups: Column -> scan name -> group, for the table of subgroups.
    """
    overlays = write_overlays(folder / OVERLAYS, evaluation.results, cfg.overlays, masks=masks)
    page = render(evaluation, scores, cfg, overlays=overlays, groups=groups)
    write_text(folder / EVALUATION_REPORT, page)


def pick_scans(results: Sequence[ScanResult], count: int) -> list[tuple[str, ScanResult]]:
    """The worst, median and best scans by mean foreground Dice, each at most `count`, no scan twice.

    With too few scans for all three the worst come first, then the best. A scan without any score is not ranked.
    """
    ranked = sorted(
        (result for result in results if not math.isnan(result.mean("dice"))),
        key=lambda result: (result.mean("dice"), result.case.name),
    )
    worst = ranked[:count]
    best = ranked[len(worst) :][::-1][:count]
    rest = ranked[len(worst) : len(ranked) - len(best)]
    middle = max(0, (len(rest) - count) // 2)
    named = (("worst", worst), ("median", rest[middle : middle + count]), ("best", best))
    return [(rank, result) for rank, chosen in named for result in chosen]


def write_overlays(folder: Path, results: Sequence[ScanResult], count: int, *, masks: Path) -> list[Overlay]:
    """Draw the picked scans as PNG files RANK_PLACE_NAME.png, and once more small enough for the page."""
    folder.mkdir(parents=True, exist_ok=True)
    overlays = []
    places: dict[str, int] = {}
    for rank, result in pick_scans(results, count):
        places[rank] = places.get(rank, 0) + 1
        case = result.case
        picture = draw_overlay(read_scan(case.scan), read_mask(case.mask), read_mask(masks / f"{case.name}.png"))
        file = f"{rank}_{places[rank]}_{case.name}.png"
        write_png(folder / file, picture)
        per_class = tuple(
            (item.label, number(score.dice)) for item, score in zip(FOREGROUND, result.scores, strict=True)
        )
        overlays.append(Overlay(rank, case.name, number(result.mean("dice")), per_class, file, jpeg_uri(picture)))
    return overlays


def render(
    evaluation: Evaluation,
    scores: Scores,
    cfg: EvaluateConfig,
    *,
    overlays: Sequence[Overlay] = (),
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The page as text. Times and paths are not in it, so that equal runs give equal bytes."""
    page: str = _template().render(
        scores=scores,
        cfg=cfg,
        names=_NAMES,
        percent=f"{100 * scores.confidence:g} %",
        classes=CLASSES,
        foreground=FOREGROUND,
        plots=[_strip_plot(evaluation, scores, metric) for metric in ("dice", "hd95")],
        confusion=evaluation.confusion.tolist(),
        shares=row_shares(evaluation),
        reliability=[item for item in evaluation.reliability if item.pixels],
        points=reliability_points(evaluation.reliability, _PLOT_SIDE),
        side=_PLOT_SIDE,
        overlays=overlays,
        angles=_angle_section(evaluation.results, scores, cfg),
        subgroups=_subgroups(evaluation.results, groups or {}, cfg),
        unscored=sum(math.isnan(result.mean("dice")) for result in evaluation.results),
    )
    return page


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"  # noqa: RUF001 - a dash is meant


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """The ends of an interval for people; a dash where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return number(None)
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference for people, with its sign; a dash where there is none."""
    return number(value) if value is None or math.isnan(value) else f"{value:+.{digits}f}"


def share(value: float | None) -> str:
    """A share for people, in per cent; a dash where there is none."""
    return number(value) if value is None or math.isnan(value) else f"{100.0 * value:.0f} %"


def hex_colour(colour: tuple[int, int, int]) -> str:
    """RGB as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("sa2net.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, signed=signed, share=share, colour=hex_colour)
    return environment.get_template("report.html.j2")


def _strip_plot(evaluation: Evaluation, scores: Scores, metric: str) -> Any:
    names = [result.case.name for result in evaluation.results]
    series = [
        Series(
            label=item.label,
            colour=hex_colour(item.colour),
            values=[float(getattr(result.scores[index], metric)) for result in evaluation.results],
            names=names,
            estimate=getattr(scores.per_class[item.name], metric),
        )
        for index, item in enumerate(FOREGROUND)
    ]
    title = "Dice of every scan" if metric == "dice" else f"HD95 of every scan, {scores.unit} (less is better)"
    return strip_plot(title, series, top=1.0 if metric == "dice" else _largest_scored(evaluation, metric))


def _angle_section(results: Sequence[ScanResult], scores: Scores, cfg: EvaluateConfig) -> AngleSection | None:
    """Tables and plots of angles; None where the truth of no scan is known."""
    if scores.angles is None:
        return None
    scans = [(result.case.name, result.angles) for result in results if result.angles is not None]
    sizes, families = by_size(results, cfg), by_artefact(results, cfg)
    tables: list[tuple[str, str, str, Sequence[AngleGroup]]] = [
        ("angles", "", "scans", [AngleGroup("all", scores.angles)])
    ]
    if len(sizes) > 1:
        tables.append(("angles-by-size", "By the true angle", "true angle", sizes))
    if families:
        tables.append(("angles-by-artefact", "By artefacts", "family", families))
    return AngleSection(
        smallest=SMALLEST_TRUE,
        tables=tuple(tables),
        scatter=agreement_plot(scans, side=_ANGLE_SIDE),
        bland_altman=bland_altman_plot(scans, scores.angles, width=_ANGLE_WIDTH, height=_ANGLE_SIDE),
    )


def _largest_scored(evaluation: Evaluation, metric: str) -> float | None:
    """The largest value where the class is in both masks: misses would stretch the axis till nothing else shows."""
    scores = [score for result in evaluation.results for score in result.scores if score.state == "scored"]
    return max((float(getattr(score, metric)) for score in scores), default=None)


def _subgroups(
    results: Sequence[ScanResult], groups: Mapping[str, Mapping[str, str]], cfg: EvaluateConfig
) -> list[dict[str, Any]]:
    """One table a column: mean foreground scores and the classes' Dice, group by group."""
    tables = []
    for column, values in groups.items():
        rows = []
        for group in sorted(set(values.values())):
            chosen = [result for result in results if values.get(result.case.name) == group]
            rows.append(
                {
                    "group": group,
                    "scans": len(chosen),
                    "subjects": len({result.case.subject for result in chosen}),
                    "means": {metric: mean_estimate(chosen, metric, cfg) for metric in METRICS},
                    "dice": [class_estimate(chosen, index, "dice", cfg) for index in range(len(FOREGROUND))],
                }
            )
        tables.append({"column": column, "rows": rows})
    return tables
