"""What finished cells over text measured along the way: means over seeds at every look, and the learning rates beside them. Numbers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..experiment.statistics import student
from .study import Study
from .text import some

POINTS = 400
"""Looks at which a line is drawn at most."""
CORPORA = 8
"""Corpora that have figures of their own: the first, the last, and evenly spread ones between them."""
STRAIGHT = 0.002
"""Share of the highest rate by which a drawn learning rate may miss the logged one."""

Result = Mapping[str, Any]
Place = tuple[int, int]
"""An experience, and the number of steps taken in it."""
Curve = dict[Place, float]


@dataclass(frozen=True, eq=False)
class Line:
    """The mean over `n` seeds at every place, with its 95 % interval (Student's t; NaN with one seed)."""

    places: list[Place]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int

    def __len__(self) -> int:
        return len(self.places)


def mean_line(curves: Sequence[Curve], most: int = POINTS) -> Line | None:
    """The line of curves, one a seed, over the places that the most of them share, thinned out to `most`; None where there is no place."""
    counts: dict[Place, int] = {}
    for curve in curves:
        for place in curve:
            counts[place] = counts.get(place, 0) + 1
    if not counts:
        return None
    n = max(counts.values())
    places = sorted(place for place, count in counts.items() if count == n)
    places = [places[k] for k in some(len(places), most)]
    values = np.array([[curve[place] for curve in curves if place in curve] for place in places])
    mean = values.mean(axis=1)
    half = _half(n) * values.std(axis=1, ddof=1) if n > 1 else np.full(len(places), math.nan)
    return Line(places, mean, mean - half, mean + half, n)


def _half(n: int) -> float:
    """Half of Student's interval over n seeds in units of their standard deviation."""
    one = student([float(k) for k in range(n)])
    return (one.high - one.mean) / one.spread


class Losses:
    """The finished cells of a study over text that learned the same corpora, by strategy; losses in nats per token.

    `starts`: where experiences begin on the axis all strategies share. Strategies that take unequal numbers of steps in an experience begin
    the next one together, where the longest of them ends.
    """

    def __init__(self, study: Study):
        self.study = study
        text = [
            (k, o, o.result)
            for k, o in enumerate(study.outcomes)
            if o.ok and o.phase in ("evaluation", "run") and o.result is not None and {"loss_curve", "rates"} <= set(o.result)
        ]
        self.corpora: list[str] = _names(text[0][2]) if text else []
        self.experiences = len(text[0][2]["matrix"]) if text else 0
        self.cells: dict[str, dict[int, Result]] = {}
        """Results by strategy and seed."""
        self.ids: dict[tuple[str, int], str] = {}
        self.other = 0
        """Finished cells that are left out: they learned other corpora than the first."""
        for k, o, result in text:
            if _names(result) != self.corpora or len(result["matrix"]) != self.experiences:
                self.other += 1
                continue
            self.cells.setdefault(o.label, {})[o.seed] = result
            self.ids[o.label, o.seed] = study.cells[k]
        self.cells = {label: self.cells[label] for label in study.labels if label in self.cells}
        self.learned: list[int] = [int(e["learned_in"]) for e in text[0][2]["evaluation_sets"]] if text else []
        self.longest = [max((steps_of(r)[i] for r in self.results()), default=0) for i in range(self.experiences)]
        self.starts = [0, *accumulate(self.longest)][:-1]

    def results(self) -> Iterable[Result]:
        return (r for own in self.cells.values() for r in own.values())

    @property
    def last(self) -> int:
        """The last experience."""
        return self.experiences - 1

    @property
    def shown(self) -> list[int]:
        """The corpora that have figures of their own."""
        return some(len(self.corpora), CORPORA)

    @property
    def earlier(self) -> list[int]:
        """Corpora learned before the last experience."""
        return [j for j, i in enumerate(self.learned) if i < self.last]

    @property
    def latest(self) -> list[int]:
        """Corpora learned in the last experience."""
        return [j for j, i in enumerate(self.learned) if i == self.last]

    def reach(self, label: str, i: int) -> int:
        """Steps that a strategy takes in experience i."""
        return max(steps_of(r)[i] for r in self.cells[label].values())

    def axis(self, place: Place) -> int:
        """A place on the axis all strategies share."""
        return self.starts[place[0]] + place[1]

    def lines(self, curve: Callable[[str, int], Curve], most: int = POINTS) -> dict[str, Line]:
        """By strategy the line of `curve(label, seed)`; strategies without one are left out."""
        found = {label: mean_line([curve(label, seed) for seed in own], most) for label, own in self.cells.items()}
        return {label: line for label, line in found.items() if line is not None and len(line)}

    def corpus(self, j: int) -> Callable[[str, int], Curve]:
        """Loss on corpus j at every look, that of the initial weights first."""

        def curve(label: str, seed: int) -> Curve:
            result = self.cells[label][seed]
            begun = next((i for i, steps in enumerate(steps_of(result)) if steps), 0)
            initial = result.get("initial_loss") or [None] * len(self.corpora)
            looks = {(p["experience"], p["step"]): p["losses"][j] for p in result["loss_curve"]}
            return known({(begun, 0): initial[j], **looks})

        return curve

    def after_border(self, label: str, seed: int) -> Curve:
        """Rise of the mean loss on earlier corpora above its value at the last border, as the metric `bump` has it: its height is the bump."""
        result = self.cells[label][seed]
        metrics, looks = result["metrics"], self.looks(label, seed)
        if metrics.get("bump") is None or metrics["bump_step"] not in looks:
            return {}
        border = self._mean(looks[metrics["bump_step"]], self.earlier) - metrics["bump"]
        return known({(self.last, step): self._mean(losses, self.earlier) - border for step, losses in looks.items()})

    def over(self, reference: str, corpora: Sequence[int]) -> Callable[[str, int], Curve]:
        """Excess of the mean loss on some corpora over that of a strategy of the same seed, in the last experience, at equal steps."""

        def curve(label: str, seed: int) -> Curve:
            if label == reference or seed not in self.cells.get(reference, {}):
                return {}
            ours, theirs = self.looks(label, seed), self.looks(reference, seed)
            return known({(self.last, s): self._mean(ours[s], corpora) - self._mean(theirs[s], corpora) for s in ours if s in theirs})

        return curve

    def looks(self, label: str, seed: int) -> dict[int, list[float]]:
        """Losses by corpus in the last experience, by step."""
        return {p["step"]: p["losses"] for p in self.cells[label][seed]["loss_curve"] if p["experience"] == self.last}

    @staticmethod
    def _mean(losses: Sequence[float | None], corpora: Sequence[int]) -> float:
        values = [losses[j] for j in corpora]
        return math.nan if None in values else sum(values) / len(values)  # type: ignore[arg-type]

    def starts_anew(self, label: str) -> bool:
        """Whether a strategy's model begins the last experience from random weights: it has no border to go over."""
        return any(r["rates"][self.last].get("anew") or not any(steps_of(r)[: self.last]) for r in self.cells[label].values())

    def rates(self, label: str) -> list[tuple[Place, float]]:
        """Learning rates as the first seed logged them, without rows on straight lines; empty where its log is not there."""
        seed, result = next(iter(self.cells[label].items()))
        begun = [0, *accumulate(steps_of(result))]
        places, rates = [], []
        try:
            with (self.study.folder_of(self.ids[label, seed]) / "metrics.jsonl").open() as lines:
                for line in lines:
                    if '"learning_rate"' not in line:
                        continue
                    row = json.loads(line)
                    if row.get("event") == "loss" and row["learning_rate"] is not None:
                        places.append((int(row["experience"]), int(row["step"]) - begun[int(row["experience"])]))
                        rates.append(float(row["learning_rate"]))
        except (OSError, ValueError, LookupError, TypeError):
            return []
        kept = bends([self.axis(p) for p in places], rates, STRAIGHT * max(rates, default=0.0))
        kept = [kept[k] for k in some(len(kept), POINTS)]
        return [(places[k], rates[k]) for k in kept]


def _names(result: Result) -> list[str]:
    return [str(e["name"]) for e in result["evaluation_sets"]]


def steps_of(result: Result) -> list[int]:
    """Steps of every experience, as they were resolved."""
    return [int(r["steps"]) for r in result["rates"]]


def known(curve: Mapping[Place, float | None]) -> Curve:
    """A curve without places where nothing was measured."""
    return {place: value for place, value in curve.items() if value is not None and math.isfinite(value)}


def bends(x: Sequence[float], y: Sequence[float], tolerance: float) -> list[int]:
    """Numbers of the points that straight lines between them miss all others by at most `tolerance` with (Douglas and Peucker 1973)."""
    if len(x) < 3:
        return list(range(len(x)))
    at, value = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept, open_ = {0, len(x) - 1}, [(0, len(x) - 1)]
    while open_:
        a, b = open_.pop()
        if b - a < 2:
            continue
        away = np.abs(value[a + 1 : b] - np.interp(at[a + 1 : b], at[[a, b]], value[[a, b]]))
        if away.max() > tolerance:
            middle = a + 1 + int(away.argmax())
            kept.add(middle)
            open_ += [(a, middle), (middle, b)]
    return sorted(kept)
