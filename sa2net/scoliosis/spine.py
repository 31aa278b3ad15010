"""The smooth spine behind noisy levels: Gaussian process regression of its slope, from tilts, from middles, or both.

A level's line and its place both tell of one smooth curve x(y). With g = dx/dy,

- the tilt t of a line square to the spine says g = -tan(t), with an error of some degrees (bones are not square to the
  spine, lines are not drawn where they should be);
- the middle of a level says x = x0 + integral of g, with an error of some per cent of a level's height, and a slow
  random walk besides, since patient and probe move during a sweep.

Both are linear in g. g is given a Gaussian process with a Matern 5/2 covariance (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, equations 2.23-2.26 and 4.17), whose correlation length is fixed in levels; how
much the spine bends and how large the errors are is chosen per scan by maximum marginal likelihood with log-normal
priors (same book, chapter 5). This is a smoothing spline's relative whose smoothness is estimated rather than set, that
gaps in the levels make less sure instead of wrong, and that brings a covariance of its own. Outlying observations are
weighed down as under Student's t (Lange, Little and Taylor, J. Am. Stat. Assoc. 84, 1989).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from sa2net.scoliosis.landmarks import Level

Floats = npt.NDArray[np.float64]

GRID = 121
_LENGTH = 3.0  # levels: half of a curve spans three to four
_LEAN = 0.1  # tan of a common lean of the whole spine
_WALK = 0.03  # levels a square root of a level: drift of the middles by motion
_PLACE = 20.0  # levels: where the spine stands is unknown
# Log-normal priors: bend (tan), error of a tilt (radians), error of a middle (levels); median and spread of the logarithm.
_MEDIAN = np.log([0.2, np.radians(3.5), 0.037])
_SPREAD = np.array([0.8, 0.35, 0.35])
_TRUST = 1.5  # power of a level's confidence: so the variance of its line grows, as network masks of phantoms show
_FREEDOM = 5.0  # degrees of freedom of Student's t
_ROUNDS = 3
_OUTLYING = 3.0
DRAWS = 200
"""Repeats of the bootstrap; the same ones for every spine, so that equal input gives equal numbers."""


@dataclass(frozen=True)
class Observations:
    """What the levels say; lengths in units.

    Attributes:
        y: Heights, rising. # (n,)
        x: Middles. # (n,)
        tilt: Tilts, degrees; NaN where a level has no line. # (n,)
        weight: Weight of each level, 0-1. # (n,)
        spacing: Height of a level.
        beyond: How far the spine goes on unseen above the first and below the last level.
    """

    y: Floats
    x: Floats
    tilt: Floats
    weight: Floats
    spacing: float
    beyond: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, levels: Sequence[Level], beyond: tuple[float, float] = (0.0, 0.0)) -> "Observations":
        """Collect them from levels, ordered from top to bottom."""
        ordered = sorted(levels, key=lambda level: float(level.middle[1]))
        middles = np.array([level.middle for level in ordered]).reshape(-1, 2)
        return cls(
            y=middles[:, 1],
            x=middles[:, 0],
            tilt=np.array([level.tilt for level in ordered]),
            weight=np.clip(np.array([level.confidence for level in ordered]) ** _TRUST, 0.03, 1.0),
            spacing=float(np.median(np.diff(middles[:, 1]))) if len(ordered) > 1 else 1.0,
            beyond=beyond,
        )

    def without(self, index: int) -> "Observations":
        """All but one level; the scale stays."""
        keep = np.arange(len(self.y)) != index
        return replace(self, y=self.y[keep], x=self.x[keep], tilt=self.tilt[keep], weight=self.weight[keep])


@dataclass(frozen=True)
class Spine:
    """The smooth spine.

    Attributes:
        y: Heights from the first level to the last, and so far beyond as the spine goes on unseen, units. # (GRID,)
        slope: Slope angle atan(dx/dy) there, degrees; positive where the spine runs to the right. # (GRID,)
        covariance: Of the slope, square degrees. # (GRID, GRID)
        repeats: Slopes as they would come out if the levels' errors were drawn anew around this spine: a parametric
            bootstrap, degrees. # (GRID, DRAWS)
        outlying: Levels whose line lies far off. # (n,)
        errors: Chosen scales: bend (tan), error of a tilt (degrees), error of a middle (levels).
        seen: Heights of the first and the last level.
    """

    y: Floats
    slope: Floats
    covariance: Floats
    repeats: Floats
    outlying: npt.NDArray[np.bool_]
    errors: tuple[float, float, float]
    seen: tuple[float, float]


def fit_spine(
    seen: Observations,
    *,
    tilts: bool = True,
    middles: bool = True,
    errors: tuple[float, float, float] | None = None,
) -> Spine:
    """Estimate the smooth spine.

    Args:
        seen: Observations of at least three levels.
        tilts: Use the lines.
        middles: Use the middles.
        errors: Scales as in `Spine.errors`; chosen by marginal likelihood where left out.

    Raises:
        ValueError: Too few observations, or neither kind is asked for.
    """
    problem = _Problem(seen, tilts, middles)
    if len(problem.values) < 3:
        raise ValueError(f"{len(problem.values)} observations cannot carry a spine")
    scales = _MEDIAN if errors is None else np.log([errors[0], np.radians(errors[1]), errors[2]])
    weight = np.ones(len(problem.values))
    slope = np.zeros(GRID)
    for _ in range(_ROUNDS):
        if errors is None:
            scales = problem.choose_scales(weight, slope)
        slope, covariance, scatter = problem.posterior(scales, weight, slope)
        weight, outlying = problem.reweighed(scales, slope)
    to_degrees = np.degrees(1.0 / (1.0 + slope**2))
    bend, tilt_error, place_error = np.exp(scales)
    return Spine(
        y=problem.grid * seen.spacing + float(seen.y[0]),
        seen=(float(seen.y[0]), float(seen.y[-1])),
        slope=np.degrees(np.arctan(slope)),
        covariance=covariance * np.outer(to_degrees, to_degrees),
        repeats=np.degrees(np.arctan(slope[:, None] + scatter)),
        outlying=outlying,
        errors=(float(bend), float(np.degrees(tilt_error)), float(place_error)),
    )


class _Problem:
    """The linear model: values = design @ g + errors; heights and places in levels.

    Args:
        seen: Observations.
        tilts: Use the lines.
        middles: Use the middles.
    """

    def __init__(self, seen: Observations, tilts: bool, middles: bool) -> None:
        height = (seen.y - seen.y[0]) / seen.spacing
        above, below = (length / seen.spacing for length in seen.beyond)
        self.grid = np.linspace(-above, float(height[-1]) + below, GRID)
        step = float(self.grid[1] - self.grid[0])
        read = _interpolation(height - self.grid[0], step)
        summed = _trapezoids(step)
        self.lined = np.flatnonzero(np.isfinite(seen.tilt)) if tilts else np.array([], dtype=np.intp)
        placed = np.arange(len(height)) if middles else np.array([], dtype=np.intp)
        self.levels = len(height)
        self.read = read[self.lined]
        self.design = np.concatenate([self.read, read[placed] @ summed])  # (m, GRID)
        place = (seen.x - seen.x.mean()) / seen.spacing
        self.values = np.concatenate([-np.tan(np.radians(seen.tilt[self.lined])), place[placed]])
        self.trust = np.concatenate([seen.weight[self.lined], seen.weight[placed]])
        self.is_place = np.arange(len(self.values)) >= len(self.lined)
        self.correlation = _matern(np.abs(self.grid[:, None] - self.grid[None, :]) / _LENGTH)
        self.own = self.design @ self.correlation @ self.design.T
        lean = self.design.sum(axis=1)
        steps = np.diff(height[placed], prepend=0.0)
        self.walked = np.tril(np.ones((len(steps), len(steps)))) * (
            _WALK * np.sqrt(steps)
        )  # independent steps -> drift
        self.known = _LEAN**2 * np.outer(lean, lean)
        self.known[np.ix_(self.is_place, self.is_place)] += self.walked @ self.walked.T + _PLACE**2

    def error_variance(self, scales: Floats, weight: Floats, slope: Floats) -> Floats:
        """Variance of each value's own error. # (m,)."""
        _, tilt_error, place_error = np.exp(scales)
        stretched = tilt_error * (1.0 + (self.read @ slope) ** 2)  # an angle's error as an error of its tangent
        error = np.concatenate([stretched, np.full(np.count_nonzero(self.is_place), place_error)])
        return np.asarray(error**2 / (self.trust * weight))

    def choose_scales(self, weight: Floats, slope: Floats) -> Floats:
        """Scales of highest posterior density, (3,) logarithms."""

        def cost(scales: Floats) -> tuple[float, Floats]:
            """Negative log posterior and its gradient (Rasmussen and Williams, equations 5.8 and 5.9)."""
            prior = (scales - _MEDIAN) / _SPREAD
            error = self.error_variance(scales, weight, slope)
            factor = cho_factor(np.exp(2.0 * scales[0]) * self.own + self.known + np.diag(error), lower=True)
            solved = cho_solve(factor, self.values)
            lost = cho_solve(factor, np.eye(len(self.values))) - np.outer(solved, solved)
            parts = np.diag(lost) * error
            gradient = np.array(
                [
                    np.exp(2.0 * scales[0]) * float((lost * self.own).sum()),
                    float(parts[~self.is_place].sum()),
                    float(parts[self.is_place].sum()),
                ]
            )
            value = 0.5 * self.values @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * prior @ prior
            return float(value), gradient + prior / _SPREAD

        bounds = [(float(low), float(high)) for low, high in zip(_MEDIAN - 2.5, _MEDIAN + 2.5, strict=True)]
        found = minimize(cost, _MEDIAN, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 25})
        return np.asarray(found.x)

    def posterior(self, scales: Floats, weight: Floats, slope: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean and covariance of g on the grid, and how repeated errors of the levels would scatter its mean.

        Returns:
            (GRID,), (GRID, GRID), and (GRID, DRAWS) deviations of the mean.
        """
        prior = np.exp(2.0 * scales[0]) * self.correlation + _LEAN**2
        shared = prior @ self.design.T
        error = self.error_variance(scales, weight, slope)
        total = np.exp(2.0 * scales[0]) * self.own + self.known + np.diag(error)
        operator = cho_solve(cho_factor(total, lower=True), shared.T).T  # (GRID, m): mean = operator @ values
        errors = np.sqrt(error)[:, None] * _normal(len(error))
        errors[self.is_place] += self.walked @ _normal(np.count_nonzero(self.is_place))
        return operator @ self.values, prior - operator @ shared.T, operator @ errors

    def reweighed(self, scales: Floats, slope: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Weights under Student's t, and the levels whose line lies far off."""
        _, tilt_error, place_error = np.exp(scales)
        expected = self.design @ slope
        stretched = tilt_error * (1.0 + (self.read @ slope) ** 2)
        place = self.values[self.is_place] - expected[self.is_place]
        off = np.concatenate(
            [
                (self.values - expected)[~self.is_place] / stretched,
                (place - np.median(place) if len(place) else place) / place_error,
            ]
        )
        off *= np.sqrt(self.trust)
        outlying = np.zeros(self.levels, dtype=bool)
        outlying[self.lined[np.abs(off[~self.is_place]) > _OUTLYING]] = True
        tail = (_FREEDOM + 1.0) / (_FREEDOM + off**2)
        # Middles drift together by motion: what a walk explains is no outlier of one level.
        return np.where(self.is_place, 1.0, tail), outlying


@lru_cache(maxsize=64)
def _normal(count: int) -> Floats:
    """Standard normal numbers, the same at every call. # (count, DRAWS)."""
    drawn = np.random.default_rng(count).standard_normal((count, DRAWS))
    drawn.setflags(write=False)
    return drawn


def _interpolation(places: Floats, step: float) -> Floats:
    """Matrix that reads a function on the grid at given places, linearly. # (n, GRID)."""
    matrix = np.zeros((len(places), GRID))
    index = np.clip((places / step).astype(np.intp), 0, GRID - 2)
    share = places / step - index
    matrix[np.arange(len(places)), index] = 1.0 - share
    matrix[np.arange(len(places)), index + 1] = share
    return matrix


def _trapezoids(step: float) -> Floats:
    """Matrix that integrates a function on the grid from its first point, by the trapezoidal rule. # (GRID, GRID)."""
    matrix = np.tril(np.full((GRID, GRID), step))
    matrix -= np.eye(GRID) * 0.5 * step
    matrix[:, 0] -= 0.5 * step
    matrix[0] = 0.0
    return matrix


def _matern(distance: Floats) -> Floats:
    """Matern 5/2 correlation of distances in units of the length."""
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled))
