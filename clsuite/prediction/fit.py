"""Fitting a law to curves: Huber's loss on the residuals of the logarithm, L-BFGS from a grid of starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, lsq_linear, minimize
from scipy.stats import t as student

from ..errors import UsageError
from .curve import Curve
from .laws import Law
from .rates import Array, Rates
from .uncertainty import Uncertainty, uncertainty

DELTA = 1e-3
"""Huber's delta: residuals of log loss beyond it count linearly (Tissue et al. 2024; Hoffmann et al. 2022 for scaling laws)."""
TRIED = 4
"""The most promising starts, which are followed to the end."""
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Prediction:
    """Losses with the limits of the interval for a measured loss (parameters and the scatter of one row), `level` each."""

    losses: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with fitted parameters. `objective` is the mean of Huber's loss in units of delta squared."""

    law: Law
    values: Array
    objective: float
    trust: Uncertainty
    rows: int

    @property
    def parameters(self) -> dict[str, float]:
        return {p.name: float(v) for p, v in zip(self.law.parameters, self.values, strict=True)}

    def at_limit(self) -> list[str]:
        """The parameters that ended at a limit: the curves do not determine them."""
        u = _limits(self.law)
        ends = np.where([p.positive for p in self.law.parameters], np.log(np.maximum(self.values, 1e-300)), self.values)
        close = np.abs(u - ends).min(axis=0) < 1e-3 * (u[1] - u[0])
        return [p.name for p, near in zip(self.law.parameters, close, strict=True) if near]

    def intervals(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """The interval of every parameter; of a positive one it is symmetric in the logarithm. It ends where a fit ends."""
        width = self._quantile(level) * np.sqrt(np.diag(self.trust.covariance))
        found = {}
        for p, value, w in zip(self.law.parameters, self.values, width, strict=True):
            with np.errstate(over="ignore"):
                low, high = (value * np.exp(-w), value * np.exp(w)) if p.positive else (value - w, value + w)
            found[p.name] = (float(max(low, p.low)), float(min(high, p.high)))
        return found

    def predict(self, rates: Rates, steps: NDArray[np.int64] | None = None, level: float = LEVEL) -> Prediction:
        """Losses after the updates `steps` (None: after every update) with their interval."""
        losses, slopes = self._evaluate(rates, np.arange(len(rates)) if steps is None else steps)
        losses = np.maximum(losses, 1e-12)
        slopes = slopes / losses[:, None]
        variance = np.einsum("ni,ij,nj->n", slopes, _finite(self.trust.covariance), slopes)
        width = self._quantile(level) * np.sqrt(np.maximum(variance, 0.0) + self.trust.spread**2)
        return Prediction(losses, losses * np.exp(-width), losses * np.exp(width))

    def difference(self, one: Rates, other: Rates, level: float = LEVEL) -> tuple[float, float]:
        """Final loss of `one` minus that of `other`, and the half-width of its interval (parameters alone)."""
        a, ja = self._evaluate(one, np.array([len(one) - 1]))
        b, jb = self._evaluate(other, np.array([len(other) - 1]))
        slope = (ja - jb)[0]
        return float(a[0] - b[0]), float(self._quantile(level) * np.sqrt(max(slope @ _finite(self.trust.covariance) @ slope, 0.0)))

    def _evaluate(self, rates: Rates, steps: NDArray[np.int64]) -> tuple[Array, Array]:
        losses, slopes = self.law.evaluate(self.values, self.law.prepare(rates, np.asarray(steps, dtype=np.int64)))
        return losses, slopes * _chain(self.law, self.values)

    def _quantile(self, level: float) -> float:
        return float(student.ppf(0.5 + level / 2, self.trust.freedom))


def fit(law: Law, curves: Sequence[Curve]) -> Fit:
    """The parameters with the least mean Huber loss of log(predicted) - log(measured) over the rows of all curves.

    Every combination of the law's grid gets its best coefficients by bounded least squares; from the most promising few,
    L-BFGS runs on the logarithms of positive parameters, and the best end is polished by a trust-region step for the same
    objective. No random number is drawn. Raises `UsageError` for curves that cannot determine the law.
    """
    law.check([(c.name, c.rates) for c in curves])
    prepared = [law.prepare(c.rates, c.steps, exact=False) for c in curves]
    losses = np.concatenate([c.losses for c in curves])
    task = _Task(law, prepared, np.log(losses))
    ranked = sorted((task.objective(start)[0], k, start) for k, start in enumerate(_starts(law, prepared, losses)))
    limits = _limits(law)
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}
    ends = [minimize(task.objective, u, jac=True, method="L-BFGS-B", bounds=limits.T, options=options) for _, _, u in ranked[:TRIED]]
    best = min(ends, key=lambda end: float(end.fun))
    polished = least_squares(task.residuals, best.x, jac=task.jacobian, bounds=limits, loss="huber", f_scale=DELTA, x_scale="jac", xtol=1e-12, ftol=1e-12)
    u = polished.x if task.objective(polished.x)[0] <= best.fun else best.x
    if not np.isfinite(task.objective(u)[0]):
        raise UsageError(f"the law '{law.name}' cannot be fitted to {', '.join(c.name for c in curves)}: no start leads to finite losses")
    trust = uncertainty(task.jacobian(u), task.residuals(u), [len(c) for c in curves], DELTA)
    return Fit(law, _values(law, u), float(task.objective(u)[0]), trust, len(losses))


class _Task:
    """The objective in the coordinates u: logarithms of positive parameters, the others as they are."""

    def __init__(self, law: Law, prepared: Sequence[Any], target: Array):
        self.law, self.prepared, self.target = law, prepared, target

    def _evaluate(self, u: Array) -> tuple[Array, Array]:
        values = _values(self.law, u)
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [self.law.evaluate(values, one) for one in self.prepared]
            losses = np.concatenate([part[0] for part in parts])
            slopes = np.concatenate([part[1] for part in parts]) * _chain(self.law, values)
        # a law may fall below zero far from its optimum: there its logarithm goes on as a straight line
        floor = 0.01 * np.exp(self.target)
        safe = np.where(losses > floor, losses, floor)
        residuals = np.log(safe) + np.minimum(losses - floor, 0.0) / floor - self.target
        return np.nan_to_num(residuals, nan=1e6, posinf=1e6, neginf=-1e6), np.nan_to_num(slopes / safe[:, None], posinf=0.0, neginf=0.0)

    def residuals(self, u: Array) -> Array:
        return self._evaluate(u)[0]

    def jacobian(self, u: Array) -> Array:
        return self._evaluate(u)[1]

    def objective(self, u: Array) -> tuple[float, Array]:
        residuals, slopes = self._evaluate(u)
        x = np.abs(residuals) / DELTA
        value = np.where(x <= 1, 0.5 * x * x, x - 0.5).mean()
        return float(value), np.clip(residuals / DELTA, -1, 1) @ slopes / (DELTA * len(residuals))


def _starts(law: Law, prepared: Sequence[Any], losses: Array) -> list[Array]:
    """Coordinates to start from: each shape of the grid with the coefficients that fit best in relative terms."""
    low = np.array([1e-6 if p.positive else -np.inf for p in law.coefficients])
    found = []
    for shape in law.starts():
        columns = np.concatenate([law.columns(shape, one)[0] for one in prepared])
        size = np.abs(columns).max(axis=0)
        size[size == 0] = 1.0
        solved = lsq_linear(columns / size / losses[:, None], np.ones_like(losses), (low, np.inf)).x / size
        u = np.concatenate([solved, shape])
        positive = [p.positive for p in law.parameters]
        u[positive] = np.log(u[positive])
        limits = _limits(law)
        room = 1e-3 * (limits[1] - limits[0])
        found.append(np.clip(u, limits[0] + room, limits[1] - room))
    return found


def _limits(law: Law) -> Array:
    """Lowest and highest coordinates, (2, parameters)."""
    return np.array([(math.log(p.low), math.log(p.high)) if p.positive else (p.low, p.high) for p in law.parameters]).T


def _values(law: Law, u: Array) -> Array:
    values = np.array(u, dtype=float)
    positive = [p.positive for p in law.parameters]
    values[positive] = np.exp(np.clip(values[positive], -60, 60))
    return values


def _chain(law: Law, values: Array) -> Array:
    """Derivatives of the parameters by the coordinates."""
    return np.array([value if p.positive else 1.0 for p, value in zip(law.parameters, values, strict=True)])


def _finite(covariance: Array) -> Array:
    """The covariance, with directions that no curve has seen left out."""
    return np.where(np.isfinite(covariance), covariance, 0.0)
