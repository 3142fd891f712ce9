"""How much each searched setting decides the score, by functional analysis of variance."""

from __future__ import annotations

from typing import Any

from ..settings import Span
from .searches import Search, numbers

LEAST_TRIALS = 8
LEAST_SETTINGS = 2
FEW_TRIALS = 32
"""Trials below which shares change noticeably when a trial is added."""
TREES = 16
SEED = 0


def importances(search: Search) -> dict[str, float]:
    """Shares of the score's variance over the searched space by path, the largest first, summing to 1; nothing where trials are too few.

    Functional ANOVA over a random forest (Hutter et al. 2014) as Optuna has it, with a fixed seed, on trials that have a score over the first
    seeds. Listed numbers count by their place in the list, continuous ranges in their own scale. Settings that are the same in every trial are left out.
    """
    done, varying = search.done, [d for d in search.space.dimensions if len({repr(t.values[d.path]) for t in search.done}) > 1]
    if len(done) < LEAST_TRIALS or len(varying) < LEAST_SETTINGS or len({search.of(t) for t in done}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions: dict[str, Any] = {}
    for d in varying:
        if isinstance(d.range, Span):
            kind: Any = optuna.distributions.IntDistribution if d.whole else optuna.distributions.FloatDistribution
            distributions[d.path] = kind(d.range.low, d.range.high, log=d.range.log)
        elif numbers(d):
            distributions[d.path] = optuna.distributions.IntDistribution(0, len(d.range) - 1)
        else:
            distributions[d.path] = optuna.distributions.CategoricalDistribution(list(range(len(d.range))))
    study = optuna.create_study(direction="minimize" if search.lower else "maximize")
    for trial in done:
        params = {d.path: trial.values[d.path] if isinstance(d.range, Span) else list(d.range).index(trial.values[d.path]) for d in varying}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=search.of(trial)))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, max_depth=TREES, seed=SEED)
    return {path: float(share) for path, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
