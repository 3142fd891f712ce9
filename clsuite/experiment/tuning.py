"""The tuning phase of a strategy: which settings are searched, what its trials are, and which of them wins.

Everything here is computed from the file and from the scores of the cells that are done: nothing is remembered, so a grid
that was cut goes on with the same trials and comes to the same choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import registry
from ..errors import UsageError
from ..settings import Configurable, setting
from ..training.metrics import LOWER
from ..training.settings import Training
from .samplers import trials
from .space import Space, searched
from .spec import expand

TUNING_SEEDS_FROM = 1000
"""The first seed of the tuning phase; evaluation seeds must be others."""
SHARED_MEMORY = ("buffer_size", "buffer", "insert")
WORST = ("diverged", "error")
"""Statuses that are the doing of the settings: the trial scores worst. All other failures are the machine's."""


class Tuning(Configurable):
    """How strategies are tuned (`protocol.*`, beside the split)."""

    trials: int = setting(16, ge=1, le=4096, help="trials of every strategy")
    sampler: Literal["sobol", "random", "grid", "tpe"] = setting("sobol", help="how trials are drawn from the search space")
    sampler_seed: int = setting(0, ge=0)
    tuning_seeds: int = setting(2, ge=1, le=100, help="seeds of every trial; none of them is an evaluation seed")
    finalists: int = setting(3, ge=1, help="best trials that are run on further seeds before one is chosen")
    finalist_seeds: int = setting(2, ge=0, le=100, help="further seeds of the finalists")
    optimism: bool = setting(False, help="also tune on the evaluation stream, to measure what that practice adds to the scores it reports")
    validation: float | None = setting(
        None, gt=0, lt=1, help="with conventional: choose on this share of the training samples, left out of training (null: on the test set itself)"
    )
    select_on: str = setting("average_incremental_accuracy", help="metric that decides, on the tuning stream's test set (text: final_loss)")

    def merit(self, trial: Trial, seeds: list[int]) -> float:
        """How good a trial is, more is better: its mean score over seeds, negated where less is better; -inf when one of them failed."""
        mean = trial.score(seeds)
        return -mean if self.select_on in LOWER and mean > -math.inf else mean

    @property
    def first_seeds(self) -> list[int]:
        return list(range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + self.tuning_seeds))

    @property
    def further_seeds(self) -> list[int]:
        first = TUNING_SEEDS_FROM + self.tuning_seeds
        return list(range(first, first + self.finalist_seeds))


def space_of(raw: Mapping[str, Any], strategy: Mapping[str, Any] | None, training: Mapping[str, Any] | None) -> Space:
    """What is searched for a strategy: the ranges its parts and the training declare, less what the file gives.

    `strategy` and `training` are the file's own ranges; a modifier's stand under its name (`{alpha: [...], refresh: {steps: [1, 2]}}`).
    The size and the policy of the memory are a budget that compared strategies share, so they are searched only where a file says so.
    """
    expanded, defaults = expand(raw["strategy"] if isinstance(raw["strategy"], Mapping) else {"name": raw["strategy"]})
    dimensions = searched(Training, "training", {*defaults, *raw.get("training", {})}, training)
    modifiers = [dict(m) for m in expanded.pop("modifiers")]
    given = dict(strategy or {})
    for place, values in enumerate([expanded, *modifiers]):
        name = values.pop("name")
        part = registry.load("strategies", name)
        own = given if place == 0 else given.pop(name, None) or {}
        if place == 0:
            own = {k: v for k, v in given.items() if k not in {m["name"] for m in modifiers}}
        if not isinstance(own, Mapping):
            raise UsageError(f"search: strategy.{name} = {own!r} is not valid: expected {{setting: range}}")
        where = "strategy" if place == 0 else f"strategy.{name}"
        if place and sum(m.get("name", name) == name for m in modifiers) > 1:
            raise UsageError(f"search: the modifier '{name}' occurs twice; give its settings values")
        budget = {k for k in SHARED_MEMORY if k in part.declared() and k not in own}
        dimensions += searched(part, where, {*values, *budget}, own)
    return Space(tuple(dimensions))


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The raw specification of a cell with searched values in their places."""
    result = copy.deepcopy(dict(raw))
    if isinstance(result["strategy"], str):
        result["strategy"] = {"name": result["strategy"]}
    for path, value in values.items():
        group, _, rest = path.partition(".")
        modifier, _, name = rest.rpartition(".")  # a modifier of a file has dots in its own name
        here = result.setdefault(group, {})
        (here.setdefault(modifier, {}) if modifier else here)[name] = value
    return _merged_modifiers(result)


def _merged_modifiers(raw: dict[str, Any]) -> dict[str, Any]:
    """Values of modifiers written in a list of their own move to their entry there."""
    strategy = raw["strategy"]
    for k, modifier in enumerate(strategy.get("modifiers", [])):
        name = modifier if isinstance(modifier, str) else modifier["name"]
        if isinstance(strategy.get(name), dict):
            strategy["modifiers"][k] = {**({"name": name} if isinstance(modifier, str) else modifier), **strategy.pop(name)}
    return raw


@dataclass
class Trial:
    """A point of the search and what became of it: scores and statuses by seed."""

    number: int
    values: dict[str, Any]
    scores: dict[int, float | None] = field(default_factory=dict)
    statuses: dict[int, str] = field(default_factory=dict)

    def complete(self, seeds: list[int]) -> bool:
        """Whether each of the seeds has come to its end, good or bad."""
        return all(s in self.statuses for s in seeds)

    def score(self, seeds: list[int]) -> float:
        """The mean over seeds; -inf when one of them failed."""
        found = [self.scores.get(s) if self.statuses.get(s) == "ok" else None for s in seeds]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else -math.inf


def drawn(tuning: Tuning, space: Space, done: list[Trial]) -> list[Trial]:
    """The trials that can be drawn now; `done` are those known so far, with their scores, in order.

    Only `tpe` draws in batches: it goes on once all trials it drew are complete.
    """
    known: list[float] = []
    for trial in done:
        if not trial.complete(tuning.first_seeds):
            break
        known.append(tuning.merit(trial, tuning.first_seeds))
    values = trials(tuning.sampler, tuning.sampler_seed, space, tuning.trials, known)
    return [Trial(k, v) for k, v in enumerate(values)]


def finalists(tuning: Tuning, done: list[Trial]) -> list[Trial]:
    """The best trials over the first seeds, best first; ties go to the earlier trial."""
    good = [t for t in done if tuning.merit(t, tuning.first_seeds) > -math.inf]
    return sorted(good, key=lambda t: (-tuning.merit(t, tuning.first_seeds), t.number))[: tuning.finalists]


def winner(tuning: Tuning, done: list[Trial]) -> Trial | None:
    """The finalist with the best mean over all its seeds; None when every trial failed."""
    best = finalists(tuning, done)
    seeds = tuning.first_seeds + (tuning.further_seeds if len(done) > 1 else [])
    return min(best, key=lambda t: (-tuning.merit(t, seeds), t.number), default=None)


def incomplete(done: list[Trial]) -> list[str]:
    """Trials whose outcome was the machine's doing (memory, time, a signal): the choice may depend on it."""
    return [f"trial {t.number}, seed {s}: {status}" for t in done for s, status in sorted(t.statuses.items()) if status not in ("ok", *WORST)]


__all__ = ["Trial", "Tuning", "drawn", "finalists", "incomplete", "space_of", "winner", "with_values"]
