"""What an experiment states that it must show: the entries of `expect:`.

    - replay - naive > 0.1                                                  two strategies, paired by seed
    - {compare: naive - replay > 0.2, metric: forgetting}
    - replay > 0.7                                                          a score of its own
    - {compare: replay - 0.806 > -0.02, source: "a paper, its table"}       a published value, which names its source
    - replay@conventional - replay@evaluation > 0.0                         two phases: tuning, evaluation, conventional
    - {trend: replay - naive > 0.0}                                         slopes: change of the accuracy on what was learned, an experience

`<` instead of `>` states the opposite direction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, unknown
from ..training.metrics import KNOWN

PHASES = ("tuning", "evaluation", "conventional")
FORM = "expected 'A - B > margin' or 'A > margin', with strategies, strategy@phase or a number for A and B"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
COMPARISON = re.compile(rf"^(?P<left>.+?) (?P<sign>[<>]) (?P<margin>{NUMBER})$")
TREND = "slope of the accuracy on what was learned"


@dataclass(frozen=True)
class Term:
    """One side of a comparison: a strategy in a phase, or a reference value."""

    label: str
    phase: str = "evaluation"
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.value:g}" if self.value is not None else self.label + ("" if self.phase == "evaluation" else f"@{self.phase}")


@dataclass(frozen=True)
class Expectation:
    """`a - b > margin` (without `b`: `a > margin`) on a metric, or on the slopes of the learning curves (`trend`)."""

    a: Term
    b: Term | None
    margin: float
    metric: str = "final_accuracy"
    trend: bool = False
    below: bool = False
    """Whether the difference must lie below the margin instead of above it."""
    source: str | None = None

    def __str__(self) -> str:
        sides = f"{self.a}" + ("" if self.b is None else f" - {self.b}")
        source = f"; {self.source}" if self.source else ""
        return f"{sides} {'<' if self.below else '>'} {self.margin:g} ({TREND if self.trend else self.metric}{source})"


def expectation(given: Any, labels: Sequence[str], phases: Sequence[str], headline: str = "final_accuracy") -> Expectation:
    """Parse an entry; raises `UsageError` for a form, a strategy, a phase or a metric there is none of.

    `labels`: the strategies of the experiment; `phases`: those its protocol has; `headline`: the metric
    when an entry names none.
    """
    values = {"compare": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or not values or not set(values) <= {"compare", "trend", "metric", "source"}:
        raise UsageError(f"expect: {given!r} is not valid: {FORM}, or {{compare: ..., metric: ...}}, {{trend: ...}}")
    trend = "trend" in values
    text = values["trend" if trend else "compare"] if ("compare" in values) != trend else None
    if not isinstance(text, str) or (trend and "metric" in values):
        raise UsageError(f"expect: {given!r} is not valid: give one of 'compare' (with a metric) and 'trend' (without)")
    match = COMPARISON.match(text.strip())
    if match is None:
        raise UsageError(f"expect: '{text}' is not of the form 'A - B > margin': {FORM}")
    a, b = _sides(match["left"], labels, phases)
    metric, source = values.get("metric", headline), values.get("source")
    if metric not in KNOWN:
        raise UsageError(f"expect: {unknown('metric', metric, KNOWN)}")
    reference = a.value is not None or (b is not None and b.value is not None)
    if reference and (not isinstance(source, str) or not source.strip()):
        raise UsageError(f"expect: '{text}' compares with a value that names no source: expected {{compare: '{text}', source: where the value comes from}}")
    if a.value is not None and (b is None or b.value is not None):
        raise UsageError(f"expect: '{text}' compares no strategy: {FORM}")
    return Expectation(a, b, float(match["margin"]), metric, trend, match["sign"] == "<", source)


def _sides(text: str, labels: Sequence[str], phases: Sequence[str]) -> tuple[Term, Term | None]:
    """The two sides; labels may hold the minus sign themselves, so every place to cut is tried."""
    whole = _term(text, labels, phases)
    if whole is not None:
        return whole, None
    cuts = [m.start() for m in re.finditer(" - ", text)]
    for cut in cuts:
        a, b = _term(text[:cut], labels, phases), _term(text[cut + 3 :], labels, phases)
        if a is not None and b is not None:
            return a, b
    parts = [text] if not cuts else [text[: cuts[0]], text[cuts[0] + 3 :]]
    for part in parts:
        if _term(part, labels, phases) is None:
            raise UsageError(f"expect: {_mistake(part, labels, phases)}")
    raise AssertionError(text)


def _term(text: str, labels: Sequence[str], phases: Sequence[str]) -> Term | None:
    text = text.strip()
    if text in labels:
        return Term(text)
    label, at, phase = text.rpartition("@")
    if at and label in labels and phase in phases:
        return Term(label, phase)
    return Term(text, value=float(text)) if re.fullmatch(NUMBER, text) else None


def _mistake(text: str, labels: Sequence[str], phases: Sequence[str]) -> UsageError:
    label, at, phase = text.strip().rpartition("@")
    if at and label in labels:
        if phase in PHASES:
            return UsageError(f"'{text.strip()}': there is no phase '{phase}' here (valid with this protocol: {', '.join(phases)})")
        return unknown("phase", phase, phases)
    return unknown("strategy", label if at else text.strip(), labels)
