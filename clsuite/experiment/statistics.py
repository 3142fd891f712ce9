"""Means with intervals, and verdicts on what an experiment was to show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..randomness import generator
from ..training.metrics import DERIVED, derived
from .file import Claim
from .grid import Outcome

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


@dataclass(frozen=True)
class Verdict:
    """`holds`, `fails` or `undecided`, with the paired difference it rests on."""

    claim: Claim
    verdict: str
    difference: Estimate


def by_label(outcomes: list[Outcome], metric: str) -> dict[str, dict[int, float]]:
    """Values of a metric by label and seed; failed cells and undefined values are left out."""
    found: dict[str, dict[int, float]] = {}
    for o in outcomes:
        values = found.setdefault(o.label, {})
        if o.phase == "evaluation" and o.result is not None and o.result["status"] == "ok":
            value = derived(metric, o.result) if metric in DERIVED else o.result["metrics"].get(metric)
            if value is not None:
                values[o.seed] = float(value)
    return found


def judge(claim: Claim, outcomes: list[Outcome]) -> Verdict:
    """Holds when the lower 95 % t-bound of the seed-paired differences exceeds the margin, fails when the upper one is below it.

    Fewer than three pairs are undecided.
    """
    values = by_label(outcomes, claim.metric)
    a, b = values[claim.a], values[claim.b]
    difference = estimate([a[s] - b[s] for s in sorted(set(a) & set(b))])
    if difference.n < 3:
        return Verdict(claim, "undecided", difference)
    verdict = "holds" if difference.low > claim.margin else "fails" if difference.high < claim.margin else "undecided"
    return Verdict(claim, verdict, difference)
