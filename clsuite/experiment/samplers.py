"""Where the trials of a search lie. Every sampler is named and seeded, and keeps no state of its own.

`sobol`, `random` and `grid` compute trial k from k alone; `tpe` computes a batch of trials from the scores of the
batches before it. After a crash the same trials come out again, whatever had been running.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..randomness import generator, seed_of
from ..settings import Span
from .space import Space

SAMPLERS = ("sobol", "random", "grid", "tpe")
BATCH = 4
"""Trials `tpe` asks for at once: it sees no score of its own batch, so that results do not depend on the workers."""


def trials(sampler: str, seed: int, space: Space, count: int, scores: Sequence[float] = ()) -> list[dict[str, Any]]:
    """The values of trials 0..n-1, n at most `count`.

    `scores` are those of the trials done so far, in trial order, higher is better and -inf for a failed trial; only `tpe`
    looks at them, and gives no trial beyond the batch they decide. A space without dimensions has a single trial: the settings
    as they are.
    """
    if not space.dimensions:
        return [{}]
    if sampler == "grid":
        return _grid(seed, space, count)
    if sampler == "tpe":
        return _tpe(seed, space, count, scores)
    points = _sobol(seed, len(space.dimensions), count) if sampler == "sobol" else _uniform(seed, len(space.dimensions), count)
    return [space.values(point) for point in points]


def _sobol(seed: int, dimensions: int, count: int) -> np.ndarray:
    from scipy.stats import qmc

    with warnings.catch_warnings():  # balance needs a power of two; a trial is a point of one sequence, however many are asked for
        warnings.simplefilter("ignore", UserWarning)
        return np.asarray(qmc.Sobol(dimensions, scramble=True, rng=generator("sobol", seed)).random(count))


def _uniform(seed: int, dimensions: int, count: int) -> np.ndarray:
    return np.stack([generator("random search", seed, k).random(dimensions) for k in range(count)])


def _grid(seed: int, space: Space, count: int) -> list[dict[str, Any]]:
    """Points of the full grid in a shuffled order, so that any number of them covers it."""
    continuous = [d.path for d in space.dimensions if isinstance(d.range, Span)]
    if continuous:
        raise UsageError(f"protocol.sampler = 'grid' needs a list of values for {', '.join(continuous)} (or use sobol, random or tpe)")
    shape = [len(d.range) for d in space.dimensions if not isinstance(d.range, Span)]
    order = generator("grid search", seed).permutation(math.prod(shape))[:count]
    points = np.stack(np.unravel_index(order, shape), axis=1)
    return [space.values([(k + 0.5) / n for k, n in zip(point, shape, strict=True)]) for point in points]


def _tpe(seed: int, space: Space, count: int, scores: Sequence[float]) -> list[dict[str, Any]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # quantiles are searched, not values: each dimension then has the scale its range declares
    kinds: dict[str, Any] = {
        d.path: optuna.distributions.FloatDistribution(0.0, 1.0)
        if isinstance(d.range, Span)
        else optuna.distributions.CategoricalDistribution(list(range(len(d.range))))
        for d in space.dimensions
    }
    told: list[Any] = []
    found: list[dict[str, Any]] = []
    known = list(scores)
    while len(found) < count and len(found) <= len(known):
        sampler = optuna.samplers.TPESampler(seed=seed_of("tpe", seed, len(found)) % 2**32, n_startup_trials=2 * BATCH)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(told)
        for _ in range(min(BATCH, count - len(found))):
            asked = study.ask(kinds)
            found.append(
                space.values([asked.params[d.path] if isinstance(d.range, Span) else (asked.params[d.path] + 0.5) / len(d.range) for d in space.dimensions])
            )
            if len(found) <= len(known):
                told.append(_told(optuna, asked.params, kinds, known[len(found) - 1]))
    return found


def _told(optuna: Any, params: dict[str, Any], kinds: dict[str, Any], score: float) -> Any:
    """A failed trial keeps its place and counts as worse than any score."""
    return optuna.trial.create_trial(params=params, distributions=kinds, value=score if math.isfinite(score) else -1e9)
