"""One study: a law fitted to finished curves, judged on others beside the fit without annealing, and asked for candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError, unknown
from .candidates import Candidate
from .curve import Curve
from .fit import LEVEL, Fit, Prediction, fit
from .laws import MOMENTA, MOMENTUM, Annealing, Continual, Law, WithoutAnnealing
from .multi_power import MultiPower
from .scores import rank_correlation, scores

LAWS: dict[str, type[Law]] = {law.name: law for law in (Annealing, MultiPower, Continual)}


@dataclass(frozen=True, eq=False)
class Judged:
    """A measured curve beside what the law and the baseline predict for it."""

    curve: Curve
    prediction: Prediction
    baseline: Prediction
    fitted: bool

    def document(self) -> dict[str, Any]:
        inside = (self.prediction.low <= self.curve.losses) & (self.curve.losses <= self.prediction.high)
        return {
            "name": self.curve.name,
            "fitted": self.fitted,
            "losses": len(self.curve),
            "last_step": int(self.curve.steps[-1]),
            "warmup": self.curve.rates.warmup,
            "boundary": self.curve.rates.boundary,
            "assumed": list(self.curve.assumed),
            **scores(self.prediction.losses, self.curve.losses),
            "inside_interval": float(inside.mean()),
            "final_loss": float(self.curve.losses[-1]),
            "predicted_final_loss": _last(self.prediction),
            "without_annealing": {**scores(self.baseline.losses, self.curve.losses), "predicted_final_loss": float(self.baseline.losses[-1])},
        }


@dataclass(frozen=True, eq=False)
class Ranked:
    """A candidate with its predicted final loss, and its distance to the best one (with the half-width of the interval)."""

    candidate: Candidate
    prediction: Prediction
    baseline: Prediction
    gap: tuple[float, float]

    def document(self) -> dict[str, Any]:
        return {
            "schedule": self.candidate.text,
            "steps": len(self.candidate.rates) - (self.candidate.rates.boundary or 0),
            "warmup": self.candidate.rates.warmup,
            "predicted_final_loss": _last(self.prediction),
            "above_best": {"value": self.gap[0], "half_width": self.gap[1]},
            "without_annealing": float(self.baseline.losses[-1]),
        }


@dataclass(frozen=True, eq=False)
class Study:
    """What `clsuite predict` shows."""

    fit: Fit
    baseline: Fit
    curves: list[Judged]
    candidates: list[Ranked]
    momentum_chosen: bool

    def rank(self) -> dict[str, Any]:
        """Rank correlation of predicted and measured final losses: over the held-out curves, or all where none is held out."""
        held = [j for j in self.curves if not j.fitted]
        over = held or self.curves
        measured = [float(j.curve.losses[-1]) for j in over]
        return {
            "over": "held-out curves" if held else "fitted curves",
            "law": rank_correlation([float(j.prediction.losses[-1]) for j in over], measured),
            "without_annealing": rank_correlation([float(j.baseline.losses[-1]) for j in over], measured),
        }

    def document(self) -> dict[str, Any]:
        intervals = self.fit.intervals()
        ends = self.fit.at_limit()
        return {
            "law": self.fit.law.name,
            "source": self.fit.law.source,
            **self.fit.law.settings(),
            "lambda_chosen_on_fitting_curves": self.momentum_chosen,
            "level": LEVEL,
            "parameters": {
                p.name: {
                    "value": self.fit.parameters[p.name],
                    "interval": list(intervals[p.name]),
                    "unit": p.unit,
                    "meaning": p.meaning,
                    "at_limit": p.name in ends,
                }
                for p in self.fit.law.parameters
            },
            "residuals": {"objective": self.fit.objective, "spread": self.fit.trust.spread, "correlation": self.fit.trust.correlation, "losses": self.fit.rows},
            "without_annealing": self.baseline.parameters,
            "curves": [j.document() for j in self.curves],
            "candidates": [r.document() for r in self.candidates],
            "rank": self.rank(),
        }


def law_of(name: str, momentum: float = MOMENTUM) -> Law:
    """A law by name; `momentum` is the lambda of those that have one."""
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name](momentum)


def choose_momentum(name: str, curves: Sequence[Curve]) -> Fit:
    """The fit with the lambda, of a fixed list, that leaves the least on the fitting curves."""
    if not law_of(name).uses_momentum:
        raise UsageError(f"the law '{name}' has no lambda to choose")
    fits = [fit(law_of(name, momentum), curves) for momentum in MOMENTA]
    return min(fits, key=lambda f: f.objective)


def study(
    fitting: Sequence[Curve], held_out: Sequence[Curve], candidates: Sequence[Candidate], law: str = "annealing", momentum: float | None = MOMENTUM
) -> Study:
    """Fit, judge and rank; `momentum` None lets the fitting curves choose lambda. Raises `UsageError` before anything is fitted."""
    names = [c.name for c in [*fitting, *held_out]]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two curves are called '{name}': rename a file, or give it once")
    for other in held_out:
        law_of(law).check_run(other.name, other.rates)
    fitted = choose_momentum(law, fitting) if momentum is None else fit(law_of(law, momentum), fitting)
    baseline = fit(WithoutAnnealing(), fitting)
    judged = [Judged(c, fitted.predict(c.rates, c.steps), baseline.predict(c.rates, c.steps), k < len(fitting)) for k, c in enumerate([*fitting, *held_out])]
    return Study(fitted, baseline, judged, _ranked(fitted, baseline, candidates), momentum is None)


def _ranked(fitted: Fit, baseline: Fit, candidates: Sequence[Candidate]) -> list[Ranked]:
    found = []
    for one in candidates:
        end = np.array([len(one.rates) - 1])
        found.append((one, fitted.predict(one.rates, end), baseline.predict(one.rates, end)))
    found.sort(key=lambda entry: (float(entry[1].losses[-1]), entry[0].text))
    return [Ranked(one, law, base, fitted.difference(one.rates, found[0][0].rates)) for one, law, base in found]


def _last(prediction: Prediction) -> dict[str, float]:
    return {"value": float(prediction.losses[-1]), "low": float(prediction.low[-1]), "high": float(prediction.high[-1])}
