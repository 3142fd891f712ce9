"""How far the parameters of a fit can be trusted: Gauss-Newton covariance for residuals that resemble their neighbours.

The residuals of a loss curve are not independent: what a law does not follow, and the smoothing of a logged loss, last
for many rows. They are taken as an autoregressive process of first order along each curve. Its correlation is found from
the residuals, allowing for what the fit has taken out of them, and enters the sandwich

    (J'J)^-1 J' V J (J'J)^-1 / kappa^2,   V_ij = variance * correlation^|i - j| within a curve,

of the Huber estimator (Huber 1964): V belongs to the clipped residuals and kappa is the share of residuals that are not
clipped. The correlation is that of the residuals up to three deviations; clipped harder they resemble their neighbours a
little less, so the intervals err on the wide side. The intervals hold where the law does; they do not cover a law that is wrong for another schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from .rates import Array

HIGHEST = 0.995


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """`covariance` of the fitted coordinates; `freedom` for Student's t; `spread` of one residual; `correlation` of neighbours."""

    covariance: Array
    freedom: float
    spread: float
    correlation: float


def uncertainty(jacobian: Array, residuals: Array, lengths: Sequence[int], delta: float) -> Uncertainty:
    """From the derivatives (rows, parameters) of the residuals of curves with `lengths` rows each, one after another.

    Parameters of which the residuals do not depend get an infinite variance.
    """
    scale = np.linalg.norm(jacobian, axis=0)
    free = scale > 0
    n, p = len(residuals), int(free.sum())
    u, s, vt = np.linalg.svd(jacobian[:, free] / scale[free], full_matrices=False)
    known = s > 1e-10 * s.max(initial=0.0)
    q = u[:, known]
    clipped = np.clip(residuals, -delta, delta)
    wide = max(delta, 3 * 1.4826 * float(np.median(np.abs(residuals))))
    correlation = _correlation(np.clip(residuals, -wide, wide), q, lengths)
    meat = q.T @ _smeared(q, lengths, correlation)
    left = max(n - float(np.trace(meat)), 0.02 * n)
    variance = float(clipped @ clipped) / left
    kappa = _kappa(residuals, delta)
    inner = meat * variance / kappa**2
    back = (vt[known] / s[known, None]).T / scale[free, None]
    covariance = np.full((len(scale), len(scale)), np.nan)
    seen = np.flatnonzero(free)
    covariance[np.ix_(seen, seen)] = back @ inner @ back.T
    if not known.all():  # directions that the residuals do not see
        lost = np.abs(vt[~known]).max(axis=0) > 1e-6
        covariance[seen[lost], seen[lost]] = np.inf
    covariance[~free, ~free] = np.inf
    freedom = max(n * (1 - correlation**2) / (1 + correlation**2) - p, 2.0)
    return Uncertainty(covariance, freedom, float(np.sqrt(residuals @ residuals / left)), correlation)


def _smeared(columns: Array, lengths: Sequence[int], correlation: float) -> Array:
    """R columns, where R_ij = correlation^|i - j| within a curve and 0 across."""
    parts = []
    for part in np.split(columns, np.cumsum(lengths)[:-1]):
        ahead = lfilter([1.0], [1.0, -correlation], part, axis=0)
        behind = lfilter([1.0], [1.0, -correlation], part[::-1], axis=0)[::-1]
        parts.append(ahead + behind - part)
    return np.concatenate(parts)


def _neighbours(columns: Array, lengths: Sequence[int]) -> Array:
    """(L + L') / 2 columns, where L takes each row from the one before it in its curve."""
    parts = []
    for part in np.split(columns, np.cumsum(lengths)[:-1]):
        moved = np.zeros_like(part)
        moved[1:] += part[:-1] / 2
        moved[:-1] += part[1:] / 2
        parts.append(moved)
    return np.concatenate(parts)


def _correlation(values: Array, q: Array, lengths: Sequence[int]) -> float:
    """The correlation at which residuals of this fit would on average resemble their neighbours as much as these do."""
    square = float(values @ values)
    if square == 0:
        return 0.0
    seen = float(values @ _neighbours(values[:, None], lengths)[:, 0]) / square
    lq = _neighbours(q, lengths)
    pairs = sum(length - 1 for length in lengths)

    def expected(correlation: float) -> float:
        rq = _smeared(q, lengths, correlation)
        meat = q.T @ rq
        lagged = pairs * correlation - 2 * float(np.sum(rq * lq)) + float(np.sum((q.T @ lq) * meat))
        return lagged / max(len(values) - float(np.trace(meat)), 1e-9)

    low, high = 0.0, HIGHEST
    if seen <= expected(low):
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) < seen else (low, middle)
    return low


def _kappa(residuals: Array, delta: float) -> float:
    """The share of residuals within delta, by the density around zero where delta is small beside their spread."""
    window = max(delta, 0.5 * 1.4826 * float(np.median(np.abs(residuals))))
    share = float(np.mean(np.abs(residuals) <= window))
    return max(share * delta / window, 1.0 / len(residuals))
