"""Verdicts on what an experiment was to show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..training.metrics import seen_curve
from .expectations import Expectation, Term
from .file import Experiment
from .grid import Outcome
from .scores import by_seed, chosen
from .statistics import Estimate, slope, student, welch

PAIRS = 3
"""Seeds below which nothing is decided."""


SEEDS = {"pairs": "paired seeds", "two means": "seeds a side", "one mean": "seeds"}


@dataclass(frozen=True)
class Verdict:
    """`holds`, `fails` or `undecided`, with the difference it rests on and what that is of: pairs, two means or one mean."""

    expectation: Expectation
    verdict: str
    difference: Estimate
    of: str

    def __str__(self) -> str:
        d = self.difference
        return f"{self.verdict}: {self.expectation}: {d.mean:.4f} [{d.low:.4f}, {d.high:.4f}], n = {d.n} {SEEDS[self.of]}"


def judge(expectation: Expectation, experiment: Experiment, outcomes: Iterable[Outcome]) -> Verdict:
    """Holds when the 95 % t-interval lies beyond the margin, fails when it lies on the other side of it, else undecided.

    Phases that share seeds are compared seed by seed, tuning and evaluation, which never do, by Welch's interval of two means. Fewer
    than three seeds decide nothing.
    """
    difference, of = _difference(expectation, experiment, list(outcomes))
    return Verdict(expectation, _decided(difference, expectation), difference, of)


def _difference(expectation: Expectation, experiment: Experiment, outcomes: list[Outcome]) -> tuple[Estimate, str]:
    first, second = expectation.a, expectation.b
    a = _values(expectation, first, experiment, outcomes)
    if second is None:
        return student(list(a.values())), "one mean"
    b = _values(expectation, second, experiment, outcomes)
    if second.value is not None:
        return student([v - second.value for v in a.values()]), "one mean"
    if first.value is not None:
        return student([first.value - v for v in b.values()]), "one mean"
    if (first.phase == "tuning") == (second.phase == "tuning"):
        return student([a[s] - b[s] for s in sorted(set(a) & set(b))]), "pairs"
    return welch(list(a.values()), list(b.values())), "two means"


def _decided(difference: Estimate, expectation: Expectation) -> str:
    if difference.n < PAIRS:
        return "undecided"
    above, below = difference.low > expectation.margin, difference.high < expectation.margin
    if not above and not below:
        return "undecided"
    return "holds" if below == expectation.below else "fails"


def _values(expectation: Expectation, term: Term, experiment: Experiment, outcomes: list[Outcome]) -> dict[int, float]:
    """By seed: a metric, or the slope of the learning curve."""
    if term.value is not None:
        return {}
    trial = None
    if term.phase == "tuning":
        choice = chosen(experiment, outcomes).get(term.label)
        if choice is None:
            return {}
        trial = choice.trial.number
    if not expectation.trend:
        return by_seed(outcomes, term.label, expectation.metric, term.phase, trial)
    own = [o for o in outcomes if (o.label, o.phase, o.trial) == (term.label, term.phase, trial) and o.ok and o.result is not None]
    curves = {o.seed: seen_curve(o.result) for o in own if o.result is not None}
    return {seed: found for seed, curve in curves.items() if (found := slope(curve)) is not None}
