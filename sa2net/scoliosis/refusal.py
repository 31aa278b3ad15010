"""When no angle is given, and why: a wrong number that looks sure is worse than none.

What a label map cannot show is said elsewhere: a picture that is mirrored left to right looks like another patient.
"""

from collections.abc import Sequence

import numpy as np

from sa2net.config import MeasureConfig
from sa2net.scoliosis.landmarks import FULLEST, Landmarks
from sa2net.scoliosis.naming import Naming
from sa2net.scoliosis.result import CurveResult, Refusal

_FEWEST_PAIRS = 5
_FEWEST_LUMPS = 3
_ALL_PAIRS = 10  # with T1 hidden and T12 a lump
_ALL_LUMPS = 5
_MOST_LEVELS = 20
_ONE_SIDED = 0.4  # processes on one side, as a share of the other
_UNEVEN = 0.45  # variation of the steps between levels; 0.15 is usual
_MATTERS = 0.5  # of the largest angle: smaller curves may run on unseen
_MIXED = (0.2, 0.8)  # lumps above processes: in between the picture is neither upright nor upside down


def refuse_levels(found: Landmarks, naming: Naming, cfg: MeasureConfig, unlike: Sequence[str]) -> list[Refusal]:
    """Reasons that show before any angle is computed; empty where it may be.

    Args:
        found: The levels.
        naming: The same with names and gaps.
        cfg: Limits.
        unlike: What lies outside of what the network learnt from, in words.
    """
    hopeless = _no_spine(found, naming)
    if hopeless:
        return [hopeless]
    reasons = [*_missing(found, naming, cfg), *_cut(found)]
    mean = float(np.mean([level.confidence for level in found.levels]))
    if mean < cfg.min_confidence:
        reasons.append(
            Refusal(
                code="low_confidence",
                reason=f"mean confidence of the levels is {mean:.2f}, limit {cfg.min_confidence:g}",
            )
        )
    if len(unlike) > cfg.max_unlike:
        reasons.append(
            Refusal(code="unlike_training", reason=f"unlike what the network learnt from: {'; '.join(unlike)}")
        )
    return reasons


def refuse_curves(curves: Sequence[CurveResult], found: Landmarks, cfg: MeasureConfig) -> list[Refusal]:
    """Reasons that show in the curves."""
    largest = max(curves, key=lambda curve: curve.angle_deg)
    reasons = _hidden(curves, largest, found, cfg)
    if largest.standard_error_deg > cfg.max_standard_error_deg:
        reasons.append(
            Refusal(
                code="uncertain",
                reason=f"the standard error of the largest angle is {largest.standard_error_deg:.1f} degrees, "
                f"limit {cfg.max_standard_error_deg:g}",
            )
        )
    if largest.disagreement > cfg.max_disagreement:
        said = largest.estimates
        reasons.append(
            Refusal(
                code="estimators_disagree",
                reason=f"lines say {said.tilts:.0f} degrees, the midline {said.midline:.0f}, "
                f"{largest.disagreement:.1f} standard errors apart, limit {cfg.max_disagreement:g}",
            )
        )
    return reasons


def _hidden(curves: Sequence[CurveResult], largest: CurveResult, found: Landmarks, cfg: MeasureConfig) -> list[Refusal]:
    """Levels that the sweep shows and the label map does not, where a curve that matters runs on into them."""
    above, below = found.beyond
    cases = (
        ("above the first", above, cfg.max_levels_above, [curve for curve in curves if curve.open_above]),
        ("below the last", below, cfg.max_levels_below, [curve for curve in curves if curve.open_below]),
    )
    return [
        Refusal(
            code="levels_missing",
            reason=f"the sweep goes on for {length:.1f} levels {where} one found, limit {limit:g}, "
            "and a curve runs on into them",
        )
        for where, length, limit, ends in cases
        if length > limit and any(curve.angle_deg > _MATTERS * largest.angle_deg for curve in ends)
    ]


def _no_spine(found: Landmarks, naming: Naming) -> Refusal | None:
    """Label maps behind which no further reason is worth looking for."""
    if found.foreground > FULLEST:
        return Refusal(
            code="implausible_anatomy",
            reason=f"bones cover {found.foreground:.0%} of the sweep, usual is a third: no label map of a spine",
        )
    fewer, more = sorted(found.sides)
    if more >= _FEWEST_PAIRS and fewer < _ONE_SIDED * more:
        absent = "left" if found.sides[0] < found.sides[1] else "right"
        return Refusal(
            code="one_side_missing",
            reason=f"{fewer} thoracic processes on the {absent} of the spine, {more} on the other side",
        )
    if not found.levels:
        return Refusal(code="nothing_found", reason="the label map holds no level of a spine")
    signs = _implausible(found, naming)
    if signs:
        return Refusal(code="implausible_anatomy", reason=f"no label map of a spine: {'; '.join(signs)}")
    return _upside_down(found)


def _upside_down(found: Landmarks) -> Refusal | None:
    """Lumps above processes, or lumps whose crowns point down."""
    if _disorder(found) > 0.5:
        return Refusal(
            code="upside_down", reason="lumbar lumps lie above the thoracic processes: the picture is upside down"
        )
    lumps = sum(level.kind == "lump" for level in found.levels)
    if lumps >= 3 and found.hats_upright < 0.4:
        return Refusal(
            code="upside_down",
            reason=f"the crowns of {1.0 - found.hats_upright:.0%} of the lumps point down: the picture is upside down",
        )
    return None


def _disorder(found: Landmarks) -> float:
    """Share of all pairs of a lump and a process in which the lump is the upper one."""
    lumps = [level.kind == "lump" for level in found.levels]
    upper = sum(first and not second for index, first in enumerate(lumps) for second in lumps[index + 1 :])
    return upper / max(sum(lumps) * (len(lumps) - sum(lumps)), 1)


def _implausible(found: Landmarks, naming: Naming) -> list[str]:
    """Signs that no spine gives."""
    signs = []
    if found.ignored > len(found.levels):
        signs.append(f"{found.ignored} blobs belong to no level, {len(found.levels)} levels were found")
    if len(found.levels) > _MOST_LEVELS:
        signs.append(f"{len(found.levels)} levels were found")
    if _MIXED[0] < _disorder(found) < _MIXED[1]:
        signs.append("lumbar lumps and thoracic processes are mixed")
    if len(found.levels) >= 4:
        steps = np.diff([level.middle for level in found.levels], axis=0)
        lengths = np.hypot(steps[:, 0], steps[:, 1]) / (np.array(naming.missing) + 1.0)
        uneven = float(lengths.std() / lengths.mean())
        if uneven > _UNEVEN:
            signs.append(f"the levels stand unevenly (variation {uneven:.0%}, usual 15 %)")
    return signs


def _missing(found: Landmarks, naming: Naming, cfg: MeasureConfig) -> list[Refusal]:
    """Too little to carry an angle."""
    reasons = []
    lines = sum(level.has_line for level in found.levels)
    if lines < cfg.min_levels:
        reasons.append(
            Refusal(code="too_few_levels", reason=f"{lines} levels with a line, at least {cfg.min_levels} are needed")
        )
    sides = [level for level in found.levels if level.kind == "process"]
    lone = [level for level in sides if not level.has_line]
    if sides and len(lone) / len(sides) > cfg.max_lone_share:
        absent = "left" if sum(level.left is None for level in lone) * 2 > len(lone) else "right"
        reasons.append(
            Refusal(
                code="one_side_missing",
                reason=f"{len(lone)} of {len(sides)} thoracic levels show one side only, mostly without the {absent} one",
            )
        )
    if naming.missing and max(naming.missing) > cfg.max_gap_levels:
        after = naming.missing.index(max(naming.missing))
        reasons.append(
            Refusal(
                code="levels_missing",
                reason=f"about {naming.missing[after]} levels in a row are missing below level {naming.label(after)}",
            )
        )
    return reasons


def _cut(found: Landmarks) -> list[Refusal]:
    """Sweeps that show a part of the spine only."""
    pairs = sum(level.kind == "process" for level in found.levels)
    lumps = len(found.levels) - pairs
    signs = []
    if lumps < _FEWEST_LUMPS:
        signs.append(f"{lumps} lumbar lumps: the lumbar spine is not seen")
    if pairs < _FEWEST_PAIRS:
        signs.append(f"{pairs} thoracic levels: the thoracic spine is not seen")
    if found.band is not None and found.band.cut_above and pairs < _ALL_PAIRS:
        signs.append(f"the sweep runs out of the picture above and {pairs} thoracic levels were found")
    if found.band is not None and found.band.cut_below and lumps < _ALL_LUMPS:
        signs.append(f"the sweep runs out of the picture below and {lumps} lumbar lumps were found")
    return [Refusal(code="sweep_cut", reason="; ".join(signs))] if signs else []
