"""What the search of a strategy came to: its trials with their values, what was chosen, how far ahead it is, and whether it lies at an end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import registry
from ..errors import UsageError
from ..experiment.file import Experiment
from ..experiment.grid import Outcome
from ..experiment.samplers import trials as sampled
from ..experiment.scores import score
from ..experiment.space import Dimension, Space
from ..experiment.spec import expand
from ..experiment.statistics import Estimate, paired
from ..experiment.tuning import Trial, Tuning, finalists, winner
from ..settings import Setting, Span
from ..training.metrics import LOWER
from ..training.settings import Training

NEAR = 0.05
"""Share of a continuous range, in its own scale, within which a value counts as lying at its end."""
LEAST_LISTED = 3
"""Listed numbers from which lying at an end says something: of two each one is an end."""


@dataclass(frozen=True)
class Search:
    """The trials of one strategy, in order; those drawn later than the last one here have not begun. `asked`: how many there are to be."""

    label: str
    tuning: Tuning
    space: Space
    trials: list[Trial]
    asked: int
    settings: Mapping[str, Setting]
    """What the components declare of the searched settings, by path, where that is known."""

    @property
    def seeds(self) -> list[int]:
        """The seeds that every trial runs on: what trials are compared by."""
        return self.tuning.first_seeds

    def of(self, trial: Trial) -> float | None:
        """Mean score of a trial over the first seeds; None when it failed or is not complete."""
        mean = trial.score(self.seeds)
        return mean if math.isfinite(mean) else None

    def failure(self, trial: Trial) -> str | None:
        """The first status that is not ok; None for a trial that is good so far."""
        bad = next((s for _, s in sorted(trial.statuses.items()) if s != "ok"), None)
        return bad or ("no score" if any(trial.scores.get(s) is None for s in trial.statuses) else None)

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.tuning.select_on in LOWER

    @cached_property
    def done(self) -> list[Trial]:
        """Trials with a score over all first seeds."""
        return [t for t in self.trials if self.of(t) is not None]

    @cached_property
    def failed(self) -> list[Trial]:
        return [t for t in self.trials if self.of(t) is None and self.failure(t) is not None]

    @cached_property
    def settled(self) -> bool:
        """Whether the search has come to its end: every trial on the first seeds, the finalists on further ones."""
        further = self.tuning.further_seeds if len(self.trials) > 1 else []
        ended = len(self.trials) >= self.asked and all(t.complete(self.seeds) for t in self.trials)
        return ended and all(t.complete(further) for t in finalists(self.tuning, self.trials))

    @cached_property
    def chosen(self) -> Trial | None:
        """The winner as the suite chooses it; None when every trial failed or the search is not settled."""
        return winner(self.tuning, self.trials) if self.settled else None

    @cached_property
    def finalists(self) -> list[Trial]:
        """The best trials, the chosen one first, the others by their mean over all their seeds."""
        found = finalists(self.tuning, self.trials)
        return sorted(found, key=lambda t: (t is not self.chosen, -self.tuning.merit(t, sorted(t.statuses)), t.number))

    @cached_property
    def second(self) -> Trial | None:
        """The best finalist beside the chosen one."""
        return self.finalists[1] if len(self.finalists) > 1 else None

    @cached_property
    def ahead(self) -> Estimate | None:
        """By how much the chosen trial is better than the second, paired over the seeds both ran on; positive is better whatever the metric."""
        if self.chosen is None or self.second is None:
            return None
        a, b = (known(t) for t in (self.chosen, self.second))
        found = paired(b, a) if self.lower else paired(a, b)
        return found if found.n else None

    @property
    def wins(self) -> int:
        """Seeds on which the chosen trial is better than the second."""
        if self.chosen is None or self.second is None:
            return 0
        a, b = known(self.chosen), known(self.second)
        return sum((a[s] < b[s]) if self.lower else (a[s] > b[s]) for s in a.keys() & b.keys())

    @cached_property
    def edges(self) -> dict[str, str]:
        """By path, `lower` or `upper` where the chosen value lies at an end of a range beyond which other values would be valid."""
        if self.chosen is None:
            return {}
        found = {d.path: end_of(d, self.chosen.values.get(d.path), self.settings.get(d.path)) for d in self.space.dimensions}
        return {path: end for path, end in found.items() if end is not None}

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names of the searched settings by path: the last word, with what it belongs to where two would be the same."""
        last = {d.path: d.path.rpartition(".")[2] for d in self.space.dimensions}
        doubled = {name for name in last.values() if list(last.values()).count(name) > 1}
        return {path: path.partition(".")[2] if name in doubled and path.count(".") > 1 else path if name in doubled else name for path, name in last.items()}


def searches(experiment: Experiment, outcomes: list[Outcome], phase: str = "tuning") -> dict[str, Search]:
    """The searches of a phase by strategy, from the outcomes alone; strategies that have not begun are left out."""
    tuning, found = experiment.tuning, {}
    for label, space in experiment.spaces.items():
        trials: dict[int, Trial] = {}
        for o in outcomes:
            if (o.label, o.phase) == (label, phase) and o.status != "missing":
                trial = trials.setdefault(o.trial or 0, Trial(o.trial or 0, {}))
                trial.statuses[o.seed], trial.scores[o.seed] = o.status, score(o, tuning.select_on)
        done = [trials[k] for k in sorted(trials)]
        values = sampled(tuning.sampler, tuning.sampler_seed, space, tuning.trials, [tuning.merit(t, tuning.first_seeds) for t in done])
        done = [t for t in done if t.number < len(values)]  # a search that was asked for fewer trials since counts these alone
        for trial in done:
            trial.values = values[trial.number]
        if done:
            asked = tuning.trials if tuning.sampler == "tpe" and space.dimensions else len(values)
            found[label] = Search(label, tuning, space, done, asked, _declared(experiment.strategies[label], space))
    return found


def known(trial: Trial) -> dict[int, float]:
    """Scores of a trial by seed, without failed ones."""
    return {s: v for s, v in trial.scores.items() if v is not None and trial.statuses.get(s) == "ok"}


def place(dimension: Dimension, value: Any) -> float:
    """Where a value lies in its range, 0..1 in the scale of the range; a listed value at the middle of its share."""
    if not isinstance(dimension.range, Span):
        return (list(dimension.range).index(value) + 0.5) / len(dimension.range) if value in dimension.range else 0.5
    low, high = dimension.range.low, dimension.range.high
    return math.log(value / low) / math.log(high / low) if dimension.range.log else (value - low) / (high - low)


def numbers(dimension: Dimension) -> bool:
    """Whether a listed range is one of numbers, which have an order."""
    return not isinstance(dimension.range, Span) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in dimension.range)


def end_of(dimension: Dimension, value: Any, declared: Setting | None) -> str | None:
    """`lower` or `upper` when a value lies at that end of its range and the setting's own bounds would let the range go on there."""
    if value is None:
        return None
    if isinstance(dimension.range, Span):
        low, high = dimension.range.low, dimension.range.high
        near = 0.0 if dimension.whole else NEAR
        at = place(dimension, value)
        end = "lower" if at <= near else "upper" if at >= 1 - near else None
    elif numbers(dimension) and len(dimension.range) >= LEAST_LISTED:
        low, high = min(dimension.range), max(dimension.range)
        end = "lower" if value == low else "upper" if value == high else None
    else:
        return None
    bound = None if declared is None else declared.ge if end == "lower" else declared.le
    return None if end is None or bound == (low if end == "lower" else high) else end


def _declared(raw: Mapping[str, Any], space: Space) -> dict[str, Setting]:
    given = raw["strategy"]
    try:
        base = expand(given if isinstance(given, Mapping) else {"name": given})[0]["name"]
    except UsageError:
        base = None
    found: dict[str, Setting] = {}
    for d in space.dimensions:
        group, _, rest = d.path.partition(".")
        modifier, _, name = rest.rpartition(".")  # a modifier of a file has dots in its own name
        try:
            settings = Training.declared() if group == "training" else registry.load("strategies", modifier or base).declared()
        except (UsageError, AttributeError):
            continue
        if name in settings:
            found[d.path] = settings[name]
    return found
