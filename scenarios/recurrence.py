"""When tasks return: the return process, its controls, and the maximum-likelihood fit of its exponent.

Task k is new in experience k, for k below the number of tasks; from the next experience on it is past and may return.
Nothing here knows data: a table of returns comes from numbers and a generator.

Source of the process: Gandhi et al. 2024, arXiv 2401.10393 (abstract); the constants and both readings are ours,
the abstract gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize

Recency = Literal["last_performed", "first_learned"]


@dataclass(frozen=True)
class Returns:
    """Which past tasks return in each experience, in the order they were drawn.

    A task that stands twice supplies twice the samples. `forced` marks experiences that would have been empty.
    """

    tasks: int
    returned: list[np.ndarray]
    forced: np.ndarray
    recency: Recency = "last_performed"

    @property
    def counts(self) -> np.ndarray:
        return np.array([len(r) for r in self.returned], dtype=np.int64)

    def lags(self) -> Iterator[tuple[int, np.ndarray]]:
        """For each experience the lags (in experiences) of the tasks 0, 1, ... that are past by then."""
        last = np.arange(self.tasks)
        for t, returned in enumerate(self.returned):
            yield t, t - last[: min(t, self.tasks)]
            if self.recency == "last_performed":
                last[returned] = t

    def mean_lag(self) -> float | None:
        """Mean lag over all returns, forced ones included; None when nothing returns."""
        total, n = 0, int(self.counts.sum())
        for t, lags in self.lags():
            total += int(lags[self.returned[t]].sum())
        return total / n if n else None


Rule = Callable[[int, np.ndarray], np.ndarray]


def simulate(experiences: int, tasks: int, recency: Recency, rule: Rule, forced: np.ndarray | None = None) -> Returns:
    """Ask `rule(experience, lags of past tasks)` for the returning tasks of each experience; every return resets its lag."""
    last = np.arange(tasks)
    returned = []
    for t in range(experiences):
        past = min(t, tasks)
        chosen = rule(t, t - last[:past]) if past else np.zeros(0, np.int64)
        if recency == "last_performed":
            last[chosen] = t
        returned.append(chosen)
    return Returns(tasks, returned, np.zeros(experiences, bool) if forced is None else forced, recency)


def without_replacement(log_weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` distinct positions, drawn one after another in proportion to their weights, in the order drawn.

    An exponential race: arrival times Exp(1) / weight sort into exactly this order, and their logarithms never underflow.
    """
    arrival = np.log(rng.standard_exponential(len(log_weights))) - log_weights
    count = min(count, len(arrival))
    first = np.argpartition(arrival, count - 1)[:count] if count else np.zeros(0, np.int64)
    return first[np.argsort(arrival[first])]


def _log_lags(experiences: int) -> np.ndarray:
    return np.log(np.maximum(np.arange(experiences + 1), 1))


def independent(experiences: int, tasks: int, scale: float, exponent: float, recency: Recency, rng: np.random.Generator) -> Returns:
    """Every past task returns on its own with probability min(1, scale * lag**-exponent).

    An experience with neither a new nor a returning task draws one in proportion to lag**-exponent: a forced return.
    """
    logs = _log_lags(experiences)
    probability = np.minimum(1.0, scale * np.exp(-exponent * logs))
    forced = np.zeros(experiences, bool)

    def rule(t: int, lags: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(rng.random(len(lags)) < probability[lags])
        if not len(chosen) and t >= tasks:
            forced[t] = True
            return without_replacement(-exponent * logs[lags], 1, rng)
        return chosen

    return simulate(experiences, tasks, recency, rule, forced)


def budget(experiences: int, tasks: int, returns: int, exponent: float, recency: Recency, rng: np.random.Generator) -> Returns:
    """`returns` distinct past tasks an experience, drawn in proportion to lag**-exponent; all of them while there are fewer.

    Experience 0 has no past task and no return; experience 1 has one past task, which returns.
    """
    return reassigned(np.full(experiences, returns), tasks, -exponent * _log_lags(experiences), recency, rng)


def reassigned(
    counts: np.ndarray, tasks: int, log_weights: np.ndarray, recency: Recency, rng: np.random.Generator, forced: np.ndarray | None = None
) -> Returns:
    """`counts[t]` distinct past tasks in experience t, in proportion to exp(log_weights[lag])."""
    return simulate(len(counts), tasks, recency, lambda t, lags: without_replacement(log_weights[lags], int(counts[t]), rng), forced)


def controlled(table: Returns, control: str, exponent: float, rng: Callable[[], np.random.Generator]) -> tuple[Returns, float | None]:
    """The control of a power-law table: the same number of returns in every experience, supplied by other tasks.

    `uniform`: any past task alike. `exponential`: in proportion to exp(-lag / tau), tau as in `matched_time_constant`.
    `most_recent`: all samples from the task learned last. `fixed_recency`: in proportion to lag**-exponent, the lag
    counted from the first learning. `none`, `none_matched`: no return. Returns the table and tau. `rng` makes the same
    fresh generator every time.
    """
    counts, forced, experiences = table.counts, table.forced, len(table.returned)
    if control == "power_law":
        return table, None
    if control in ("none", "none_matched"):
        return Returns(table.tasks, [np.zeros(0, np.int64)] * experiences, forced, table.recency), None
    if control == "most_recent":
        return simulate(experiences, table.tasks, table.recency, lambda t, lags: np.full(counts[t], len(lags) - 1), forced), None
    if control == "uniform":
        return reassigned(counts, table.tasks, np.zeros(experiences + 1), table.recency, rng(), forced), None
    if control == "fixed_recency":
        return reassigned(counts, table.tasks, -exponent * _log_lags(experiences), "first_learned", rng(), forced), None
    tau = matched_time_constant(table, rng)
    weights = -np.arange(experiences + 1) / (tau or 1.0)
    return reassigned(counts, table.tasks, weights, table.recency, rng(), forced), tau


def matched_time_constant(table: Returns, rng: Callable[[], np.random.Generator]) -> float | None:
    """The tau whose exponential table, drawn with these random numbers, comes closest to the mean lag of `table`.

    The mean lag rises with tau, from 1 to that of uniform draws: bisection on log tau, the same random numbers at every
    try. A mean lag above that of uniform draws gets the largest tau. None when nothing returns.
    """
    target, experiences = table.mean_lag(), len(table.returned)
    if target is None:
        return None
    low, high = math.log(0.05), math.log(100.0 * experiences)
    best, miss = high, math.inf
    while high - low > 1e-3 and miss > 1e-3 * target:
        middle = (low + high) / 2
        weights = -np.arange(experiences + 1) / math.exp(middle)
        found = reassigned(table.counts, table.tasks, weights, table.recency, rng()).mean_lag() or 0.0
        if abs(found - target) < miss:
            best, miss = middle, abs(found - target)
        low, high = (middle, high) if found < target else (low, middle)
    return math.exp(best)


def at_risk(table: Returns) -> np.ndarray:
    """Rows (lag, tasks at risk, tasks returned), over every past task of every experience.

    A forced return counts as none: the independent draws of that experience all said no, and to drop the experience
    instead would select on the outcome and raise every share (with 2 tasks, scale 0.5: from 0.50 to 0.80 at lag 1).
    """
    risk, back = np.zeros((2, len(table.returned) + 1), np.int64)
    for t, lags in table.lags():
        risk[: t + 1] += np.bincount(lags, minlength=t + 1)
        if len(table.returned[t]) and not table.forced[t]:
            np.add.at(back, lags[np.unique(table.returned[t])], 1)
    seen = np.flatnonzero(risk)
    return np.stack([seen, risk[seen], back[seen]], axis=1)


@dataclass(frozen=True)
class Fit:
    """A fitted exponent with its standard error; `scale` only where the model has one. All None: not identified."""

    exponent: float | None = None
    error: float | None = None
    scale: float | None = None


def bernoulli_fit(rows: np.ndarray, saturated: np.ndarray | None = None) -> Fit:
    """Maximum likelihood of independent Bernoulli(min(1, c * lag**-d)) over rows of `at_risk`.

    l(a, d) = sum_L y_L eta_L + (n_L - y_L) log(1 - exp(eta_L)), eta = min(0, a - d log L), a = log c: concave in (a, d).
    The error of d comes from the inverse of the 2 x 2 observed information, whose weights are
    (n - y) exp(eta) / (1 - exp(eta))**2. `saturated` marks rows left out; by default the first lags whose tasks all returned.
    """
    if saturated is None:
        saturated = np.cumprod(rows[:, 1] == rows[:, 2]).astype(bool)
    lags, n, y = rows[~saturated].T
    returned = lags[y > 0]
    # returns at one end only: the likelihood rises for ever as |d| grows
    if len(lags) < 2 or not len(returned) or returned.max() == lags.min() or returned.min() == lags.max():
        return Fit()
    x, missed = np.log(lags), n - y

    def cost(theta: np.ndarray) -> float:
        eta = np.minimum(0.0, theta[0] - theta[1] * x)
        with np.errstate(divide="ignore"):
            lost = np.log(-np.expm1(eta))[missed > 0]
        return float(-(y @ eta) - missed[missed > 0] @ lost)

    start = np.array([min(math.log(y.sum() / n.sum()), -0.1), 0.0])
    simplex = start + np.array([[0.0, 0.0], [0.3, 0.5], [-0.5, 0.2]])
    # no derivatives: min(0, eta) has a kink where a fitted probability reaches 1
    a, d = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000, "initial_simplex": simplex}).x
    p = np.exp(np.minimum(-1e-12, a - d * x))
    weight = missed * p / (1 - p) ** 2
    design = np.stack([np.ones_like(x), -x])
    information = (design * weight) @ design.T
    if not np.isfinite(information).all() or np.linalg.cond(information) > 1e10:
        return Fit()
    return Fit(float(d), float(np.sqrt(np.linalg.inv(information)[1, 1])), float(np.exp(a)))


def choice_fit(table: Returns) -> Fit:
    """Conditional logit of the draws: each is one of the tasks still undrawn, with probability in proportion to lag**-d.

    Sampling without replacement is a sequence of such choices (Plackett-Luce), and the order of the draws is in the
    table. l(d) is concave; Newton's method; the error is 1 / sqrt(sum of the variances of log lag).
    """
    logs = _log_lags(len(table.returned))

    def derivatives(d: float) -> tuple[float, float]:
        gradient = information = 0.0
        for t, lags in table.lags():
            chosen = table.returned[t][np.sort(np.unique(table.returned[t], return_index=True)[1])]
            if len(lags) < 2 or not len(chosen) or table.forced[t]:
                continue
            x = logs[lags]
            w = np.exp(-d * x - np.max(-d * x))
            moments = np.stack([w, w * x, w * x * x])
            mine = moments[:, chosen]
            # what is left before each draw: all, less the tasks drawn earlier in this experience
            left = moments.sum(axis=1, keepdims=True) - np.cumsum(mine, axis=1) + mine
            left = left[:, : len(lags) - 1]  # the last one left is no choice
            mean = left[1] / left[0]
            gradient += float((mean - x[chosen[: left.shape[1]]]).sum())
            information += float((left[2] / left[0] - mean**2).clip(0).sum())
        return gradient, information

    d = 0.0
    for _ in range(40):
        gradient, information = derivatives(d)
        if information < 1e-6:
            return Fit()
        step = float(np.clip(gradient / information, -1.0, 1.0))
        d += step
        if abs(d) > 20:
            return Fit()
        if abs(step) < 1e-8:
            return Fit(d, 1 / math.sqrt(information))
    return Fit()


def facts(table: Returns, samples: int, reading: str, saturation: tuple[float, float] | None, tau: float | None) -> dict[str, Any]:
    """What a stream says about its recurrence, measured on the table itself, controls included.

    `samples` a return; `saturation` = (scale, exponent) asked of an independent power law, whose lags with
    scale * lag**-exponent >= 1 are left out of the fit. Everything fitted is null in a stream without recurrence.
    """
    rows = at_risk(table)
    if reading == "budget":
        fit = choice_fit(table)
    else:
        fit = bernoulli_fit(rows, None if saturation is None else saturation[0] * rows[:, 0].astype(float) ** -saturation[1] >= 1)
    drawn = np.concatenate([*table.returned, np.zeros(0, np.int64)]).astype(np.int64)
    supplied = np.bincount(drawn, minlength=table.tasks)
    return {
        "exponent": fit.exponent,
        "error": fit.error,
        "scale": fit.scale,
        "at_risk": rows.tolist(),
        "lag_since": table.recency,
        "mean_lag": table.mean_lag(),
        "rehearsed_samples": int(len(drawn) * samples),
        "rehearsed_shares": (supplied / supplied.sum()).tolist() if len(drawn) else None,
        "time_constant": tau,
        "forced": int(table.forced.sum()),
    }
