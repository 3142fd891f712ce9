"""Numbers over seeds: means with intervals, comparisons of strategies, ranks, profiles, trends. Pure functions of plain values.

Every result says its n. NaN is refused everywhere and infinity wherever a mean is taken (`UsageError`): a seed without a value is left out by
the caller. The order of seeds never matters, and what is resampled is named by the sample sizes, so that the same values give the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import UsageError
from ..randomness import generator

BOOTSTRAP_FROM = 20
"""Seeds from which the interval is a bootstrap; below, bootstrap intervals are far too narrow."""
WILCOXON_FROM = 6
"""Pairs from which the signed-rank test can reach p < 0.05: its smallest two-sided p is 2 / 2^n."""
PERCENTILE_FROM = 4
"""Values a side below which no percentile bootstrap is shown."""
EXACT_RANKS = 8
"""Names up to which the p-value of Kendall's tau enumerates every order, ties or not."""
RESAMPLES = 9_999
DIGITS = 12
"""Relative decimals beyond which a difference is rounding of floating-point numbers: it counts as a tie."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student t, from 20 seeds on bootstrap); `spread` is the sample standard deviation."""

    mean: float
    spread: float
    low: float
    high: float
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, spread, interval and n of values, one a seed.

    Below 20 values the interval is Student's t, from there on the bias-corrected and accelerated bootstrap (Efron 1987). Without values all
    is NaN, with one the spread and the interval are; equal values have spread 0 and an interval of no width, whatever their number.
    """
    found = _sorted(values)
    n = len(found)
    mean, spread = _moments(found)
    if n >= BOOTSTRAP_FROM and spread > 0:
        # in units of the spread, so that a level far above it costs no digits
        interval = stats.bootstrap(((found - mean) / spread,), _rounded_mean, n_resamples=RESAMPLES, rng=generator("bootstrap", n)).confidence_interval
        return Estimate(mean, spread, mean + spread * float(interval.low), mean + spread * float(interval.high), n)
    return student(values)


def student(values: Sequence[float]) -> Estimate:
    """As `estimate`, with Student's t-interval at every number of values: what verdicts rest on."""
    found = _sorted(values)
    n = len(found)
    mean, spread = _moments(found)
    half = _t(n - 1) * spread / math.sqrt(n) if n > 1 else math.nan
    return Estimate(mean, spread, mean - half, mean + half, n)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """The difference a - b, estimated over the seeds that both have; `n` counts these. See `estimate`."""
    x, y = _shared(a, b)
    return estimate((x - y).tolist())


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The difference of two means whose seeds have nothing in common, with the t-interval for unequal variances at every n.

    `n` is the smaller number of values; `spread` is the standard deviation of the difference of one draw from each side. With fewer than two
    values on a side the spread and the interval are NaN. Degrees of freedom: Welch 1947, Satterthwaite 1946.
    """
    x, y = _sorted(a), _sorted(b)
    (mean_x, spread_x), (mean_y, spread_y) = _moments(x), _moments(y)
    mean, spread, n = mean_x - mean_y, math.hypot(spread_x, spread_y), min(len(x), len(y))
    if n < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, n)
    error_x, error_y = spread_x / math.sqrt(len(x)), spread_y / math.sqrt(len(y))
    error = math.hypot(error_x, error_y)
    if error == 0:
        return Estimate(mean, 0.0, mean, mean, n)
    freedom = 1 / ((error_x / error) ** 4 / (len(x) - 1) + (error_y / error) ** 4 / (len(y) - 1))
    half = _t(freedom) * error
    return Estimate(mean, spread, mean - half, mean + half, n)


@dataclass(frozen=True)
class Improvement:
    """P(a > b) of one run of each side, with its 95 % interval and the number of values on both sides."""

    probability: float
    low: float
    high: float
    n_a: int
    n_b: int


def probability_of_improvement(a: Sequence[float], b: Sequence[float]) -> Improvement:
    """How likely a run of `a` scores above a run of `b`: the share of all cross pairs, ties count half (Agarwal et al. 2021, arXiv 2108.13264).

    The interval is a percentile bootstrap that resamples each side by itself. It is too narrow at small n (of no width where the sides do
    not overlap), and NaN with fewer than four values on a side. The probability is NaN when a side is empty.
    """
    x, y = _sorted(a), _sorted(b)
    if not len(x) or not len(y):
        return Improvement(math.nan, math.nan, math.nan, len(x), len(y))
    wins = (np.sign(x[:, None] - y[None, :]) + 1) / 2
    low = high = math.nan
    if min(len(x), len(y)) >= PERCENTILE_FROM:
        draws = generator("probability of improvement", len(x), len(y))
        count_x, count_y = (draws.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) for n in wins.shape)
        low, high = _percentiles((count_x @ wins * count_y).sum(axis=1) / wins.size)
    return Improvement(float(wins.mean()), low, high, len(x), len(y))


@dataclass(frozen=True)
class Comparison:
    """Strategy `a` against `b` over the seeds that both have: the difference a - b, its signed-rank p-value and P(a > b).

    `p` is None below six shared seeds; `p_holm` is corrected over the comparisons that have one.
    """

    a: str
    b: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    improvement: Improvement

    @property
    def n(self) -> int:
        return self.difference.n

    @property
    def probability(self) -> float:
        return self.improvement.probability


def compare_all(scores: Mapping[str, Mapping[int, float]]) -> list[Comparison]:
    """Every pair of strategies, in their order; `scores` holds a value by strategy and seed.

    The p-value is that of the two-sided signed-rank test (Wilcoxon 1945): exact up to 50 pairs without ties and up to 13 with ties, else
    by the normal approximation. Seeds without a difference are left out of it; when no seed has one, p = 1.
    """
    pairs = [(a, b, *_shared(scores[a], scores[b])) for a, b in itertools.combinations(scores, 2)]
    p_values = [_signed_rank_p(x, y) for _, _, x, y in pairs]
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [
        Comparison(a, b, paired(scores[a], scores[b]), p, None if p is None else next(corrected), probability_of_improvement(x.tolist(), y.tolist()))
        for (a, b, x, y), p in zip(pairs, p_values, strict=True)
    ]


def _signed_rank_p(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < WILCOXON_FROM:
        return None
    scale = max(np.abs(x).max(), np.abs(y).max()) or 1.0
    differences = np.round((x - y) / scale, DIGITS)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)) (Holm 1979, step-down)."""
    for p in p_values:
        if not 0 <= p <= 1:
            raise UsageError(f"p-value {p} is not valid: expected 0..1")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, least = [0.0] * len(order), 0.0
    for done, k in enumerate(order):
        least = corrected[k] = max(least, min(1.0, (len(order) - done) * float(p_values[k])))
    return corrected


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Mean of the middle half of the values; a quarter of them, rounded down, is cut off at each end (Agarwal et al. 2021, arXiv 2108.13264).

    `spread` and `n` are those of all values. The interval is a percentile bootstrap: at small n it is too narrow (a 95 % interval covers about
    75 % at n = 3, 85 % at n = 5), and it is NaN below four values.
    """
    found = _sorted(values)
    n, cut = len(found), len(found) // 4
    _, spread = _moments(found)
    middle, _ = _moments(found[cut : n - cut])
    if n < PERCENTILE_FROM:
        return Estimate(middle, spread, math.nan, math.nan, n)
    drawn = np.sort(found[generator("interquartile mean", n).integers(n, size=(RESAMPLES, n))], axis=1)
    low, high = _percentiles(drawn[:, cut : n - cut].mean(axis=1)) if spread > 0 else (middle, middle)
    return Estimate(middle, spread, low, high, n)


def ranks(scores: Mapping[str, float], higher_is_better: bool = True) -> dict[str, float]:
    """The rank of every name, 1 is best; equal scores share the mean of their ranks. Infinite scores are ranked, NaN is refused."""
    values = _numbers(scores.values())
    return dict(zip(scores, (float(r) for r in stats.rankdata(-values if higher_is_better else values)), strict=True))


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau-b of two orders of `n` names with its two-sided p-value; both None below two names or when a side is constant."""

    tau: float | None
    p: float | None
    n: int


def kendall_tau(a: Mapping[str, float], b: Mapping[str, float]) -> RankAgreement:
    """How far two scores agree on the order of the names that both have: tau-b, which allows for ties (Kendall 1945).

    The p-value is exact up to eight names (every order is tried), above that exact without ties up to 33 names and else by the normal
    approximation. Infinite scores are ranked, NaN is refused.
    """
    names = sorted(set(a) & set(b))
    x, y = (stats.rankdata(_numbers(side[name] for name in names)) for side in (a, b))
    n = len(names)
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return RankAgreement(None, None, n)
    found = stats.kendalltau(x, y)
    return RankAgreement(float(found.statistic), _share_of_orders(x, y) if n <= EXACT_RANKS else float(found.pvalue), n)


def _share_of_orders(x: np.ndarray, y: np.ndarray) -> float:
    """Share of all orders of y whose concordant less discordant pairs are at least as many, in absolute value, as those of y itself."""
    i, j = np.triu_indices(len(x), 1)
    orders = np.array(list(itertools.permutations(y)))  # the first is y itself
    surplus = np.abs(np.sign(orders[:, i] - orders[:, j]) @ np.sign(x[i] - x[j]))
    return float((surplus >= surplus[0]).mean())


def performance_profile(
    scores: Mapping[str, Mapping[int, float]],
    costs: Mapping[str, Mapping[int, float]],
    target: float,
    ratios: Sequence[float],
    higher_is_better: bool = True,
) -> dict[str, list[float]]:
    """By strategy, for every ratio, the share of seeds on which it reaches the target at up to `ratio` times the least cost (Dolan and More 2002).

    The least cost is that of the cheapest strategy that reaches the target on that seed. Seeds are those any strategy has a score on: where a
    strategy misses the target or has no score its cost is infinite; where nobody reaches it the seed counts for nobody, but counts in the share.
    Costs are in any unit, not negative; a score that reaches the target without a cost raises `UsageError`. Without seeds shares are NaN.
    """
    reached: dict[str, dict[int, float]] = {}
    for name, own in scores.items():
        values = dict(zip(own, _numbers(own.values()).tolist(), strict=True))
        reached[name] = {seed: _cost(costs, name, seed) for seed, v in values.items() if (v >= target if higher_is_better else v <= target)}
    least = {seed: min(c[seed] for c in reached.values() if seed in c) for c in reached.values() for seed in c}
    seeds = len({seed for own in scores.values() for seed in own})
    profile = {}
    for name, own_costs in reached.items():
        multiples = [1.0 if cost == least[s] else cost / least[s] if least[s] else math.inf for s, cost in own_costs.items()]
        profile[name] = [sum(m <= r or math.isclose(m, r) for m in multiples) / seeds if seeds else math.nan for r in ratios]
    return profile


def _cost(costs: Mapping[str, Mapping[int, float]], name: str, seed: int) -> float:
    cost = costs.get(name, {}).get(seed)
    if cost is None or not 0 <= cost < math.inf:
        raise UsageError(f"cost of {name}, seed {seed} = {cost} is not valid: expected a finite number, at least 0, beside every score")
    return float(cost)


def slope(curve: Sequence[float | None]) -> float | None:
    """Least-squares slope of a curve over the index of its points (per experience); missing points are left out, None below two points."""
    points = [(float(k), v) for k, v in enumerate(curve) if v is not None]
    if len(points) < 2:
        return None
    x = np.array([k for k, _ in points])
    y = _finite(v for _, v in points)
    x -= x.mean()
    return float(x @ (y - y.mean()) / (x @ x))


def trend(rows: Mapping[int, Sequence[float | None]]) -> Estimate:
    """The slope of a curve per experience, estimated over seeds; `rows` holds a curve by seed, seeds with fewer than two points are left out."""
    return estimate([found for curve in rows.values() if (found := slope(curve)) is not None])


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


def optimism(reported: float, conventional: Mapping[int, float], frozen: Mapping[int, float]) -> Optimism:
    """Scores on the evaluation stream: as the conventional practice reports its best, and by fresh seed for its settings and for the frozen ones."""
    pairs = sorted(set(conventional) & set(frozen))
    return Optimism(estimate([reported - conventional[s] for s in pairs]), paired(conventional, frozen))


def _numbers(values: Iterable[float]) -> np.ndarray:
    """Values that have an order; raises `UsageError` for NaN."""
    found = np.asarray(list(values), dtype=float)
    if np.isnan(found).any():
        raise UsageError("value nan is not valid: expected numbers; leave out what has none")
    return found


def _finite(values: Iterable[float]) -> np.ndarray:
    """Values that have a mean; raises `UsageError` for NaN and infinity."""
    found = _numbers(values)
    if np.isinf(found).any():
        raise UsageError(f"value {found[np.isinf(found)][0]} is not valid: expected finite numbers; leave out what has none")
    return found


def _sorted(values: Iterable[float]) -> np.ndarray:
    """Finite values in order of size, so that the order of seeds has no say in sums and resamples."""
    return np.sort(_finite(values))


def _shared(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    seeds = sorted(set(a) & set(b))
    return _finite(a[s] for s in seeds), _finite(b[s] for s in seeds)


def _moments(found: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation of sorted values; exact for equal values, which rounding would give a spread."""
    if not len(found):
        return math.nan, math.nan
    if found[0] == found[-1]:
        return float(found[0]), 0.0 if len(found) > 1 else math.nan
    return float(found.mean()), float(found.std(ddof=1))


def _rounded_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Means of standardised values; rounded, since resamples of the same values must tie with each other whatever the order of summation."""
    return np.round(values.mean(axis=axis), DIGITS)


def _t(freedom: float) -> float:
    """Two-sided 95 % quantile of Student's t."""
    return float(stats.t.ppf(0.975, freedom))


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
