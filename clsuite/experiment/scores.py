"""Scores of finished cells: by strategy and seed, and what a search chose by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..training.metrics import DERIVED, LOWER, derived
from ..training.text_metrics import REFERRED
from .file import Experiment
from .grid import Outcome
from .samplers import trials as sampled
from .tuning import Trial, winner


def score(outcome: Outcome, metric: str) -> float | None:
    """A metric of a finished cell; None when it failed or the metric is undefined there."""
    if not outcome.ok or outcome.result is None:
        return None
    value: float | None
    if metric in REFERRED:
        value = outcome.referred.get(metric)
    else:
        value = derived(metric, outcome.result) if metric in DERIVED else outcome.result["metrics"].get(metric)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Chosen:
    """The trial chosen for a strategy: its mean score in the tuning phase with its rank, and the mean of its evaluation."""

    trial: Trial
    trials: int
    score: float
    rank: int
    evaluation: float | None


def chosen(experiment: Experiment, outcomes: list[Outcome], searching: str = "tuning", evaluating: str = "evaluation") -> dict[str, Chosen]:
    """By strategy what the outcomes of a search choose, and how it does in the phase that evaluates it; strategies without any are left out."""
    tuning, metric = experiment.tuning, experiment.tuning.select_on
    found: dict[str, tuple[Trial, int, float]] = {}
    for label, space in experiment.spaces.items():
        trials: dict[int, Trial] = {}
        most = tuning.trials if space.dimensions else 1  # more are from before the search was made smaller
        own = [o for o in outcomes if o.label == label and o.phase == searching and o.status != "missing" and (o.trial or 0) < most]
        for o in own:
            trial = trials.setdefault(o.trial or 0, Trial(o.trial or 0, {}))
            trial.statuses[o.seed], trial.scores[o.seed] = o.status, score(o, metric)
        done = [trials[k] for k in sorted(trials)]
        scores = [tuning.merit(t, tuning.first_seeds) for t in done]
        best = winner(tuning, done)
        if best is not None:
            best.values = sampled(tuning.sampler, tuning.sampler_seed, space, tuning.trials, scores)[best.number]
            found[label] = best, len(done), best.score(sorted(best.statuses))
    order = sorted((s for _, _, s in found.values()), reverse=metric not in LOWER)
    means = {label: list(by_seed(outcomes, label, metric, evaluating).values()) for label in found}
    return {
        label: Chosen(best, n, value, order.index(value) + 1, sum(means[label]) / len(means[label]) if means[label] else None)
        for label, (best, n, value) in found.items()
    }


def by_seed(outcomes: Iterable[Outcome], label: str, metric: str, phase: str = "evaluation", trial: int | None = None) -> dict[int, float]:
    """Values of a metric by seed, of a strategy in a phase (and of one trial there); failed cells and undefined values are left out."""
    own = (o for o in outcomes if (o.label, o.phase, o.trial) == (label, phase, trial))
    return {o.seed: value for o in own if (value := score(o, metric)) is not None}
