"""What an experiment must show (`expect:`), and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass

from ..training.metrics import DERIVED, derived
from .file import Claim
from .grid import Outcome
from .statistics import Estimate, estimate


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
