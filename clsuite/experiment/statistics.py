"""Numbers over seeds: means with intervals, paired differences, ranks. Pure functions of plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..randomness import generator

BOOTSTRAP_FROM = 20
"""Seeds from which the interval is a bootstrap; below, bootstrap intervals are far too narrow."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student t, from 20 seeds on bootstrap); `spread` is the sample standard deviation."""

    mean: float
    spread: float
    low: float
    high: float
    n: int


def estimate(values: list[float]) -> Estimate:
    """Mean, spread, interval and n of values, one a seed; the interval is NaN below two values."""
    found = np.asarray(values, dtype=float)
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, n)
    spread = float(found.std(ddof=1))
    if n >= BOOTSTRAP_FROM and spread:
        interval = stats.bootstrap((found,), np.mean, confidence_level=0.95, method="BCa", rng=generator("bootstrap", n)).confidence_interval
        return Estimate(mean, spread, float(interval.low), float(interval.high), n)
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return Estimate(mean, spread, mean - half, mean + half, n)


@dataclass(frozen=True)
class Optimism:
    """How much a score that was chosen on the evaluation stream promises beyond what frozen settings keep there.

    `selection_bias`: the reported best less the same settings on fresh seeds. `transfer_regret`: settings tuned on the evaluation stream less
    the frozen ones, paired over fresh seeds. Their sum is the optimism.
    """

    selection_bias: Estimate
    transfer_regret: Estimate

    @property
    def total(self) -> float:
        return self.selection_bias.mean + self.transfer_regret.mean


def optimism(reported: float, conventional: dict[int, float], frozen: dict[int, float]) -> Optimism:
    """Scores on the evaluation stream: as the conventional practice reports its best, and by fresh seed for its settings and for the frozen ones."""
    pairs = sorted(set(conventional) & set(frozen))
    return Optimism(estimate([reported - conventional[s] for s in pairs]), estimate([conventional[s] - frozen[s] for s in pairs]))
