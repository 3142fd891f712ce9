"""Search spaces: the settings a strategy is tuned over, and where each trial lies in them.

A space is a list of dimensions, each mapping a quantile in [0, 1) to a value. A component declares the range of a setting
beside its default; an experiment file may narrow it. Every dimension counts in every trial, also where a setting has no
effect under the others, so that one trial's values never depend on another setting's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError, unknown
from ..settings import Configurable, Span


@dataclass(frozen=True)
class Dimension:
    """A searched setting: its path in the cell's specification (`training.learning_rate`) and its range."""

    path: str
    range: tuple[Any, ...] | Span
    whole: bool = False
    """Whether values are whole numbers."""

    def value(self, quantile: float) -> Any:
        """The value at a quantile in [0, 1)."""
        if not isinstance(self.range, Span):
            return self.range[min(int(quantile * len(self.range)), len(self.range) - 1)]
        low, high = self.range.low, self.range.high
        if self.whole:  # every whole number owns an equal share of the (log) scale
            low, high = low - 0.5, high + 0.5
        found = math.exp(math.log(low) + quantile * math.log(high / low)) if self.range.log else low + quantile * (high - low)
        found = min(max(found, self.range.low), self.range.high)
        return round(found) if self.whole else float(f"{found:.6g}")  # six digits: what a table shows is what ran

    def described(self) -> Any:
        """The range in plain values, for the hash and the sealed file."""
        if isinstance(self.range, Span):
            return {"low": self.range.low, "high": self.range.high, "log": self.range.log, "whole": self.whole}
        return list(self.range)


@dataclass(frozen=True)
class Space:
    """The dimensions of one strategy's search, in a fixed order."""

    dimensions: tuple[Dimension, ...]

    def values(self, quantiles: Sequence[float]) -> dict[str, Any]:
        """Values by path at a point of the unit cube."""
        return {d.path: d.value(float(q)) for d, q in zip(self.dimensions, quantiles, strict=True)}

    @property
    def digest(self) -> str:
        """A hash of what is searched: 24 hexadecimal digits."""
        text = json.dumps([[d.path, d.described()] for d in self.dimensions])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def size(self) -> float:
        """How many different points there are; infinite with a continuous dimension."""
        return math.prod(math.inf if isinstance(d.range, Span) else len(d.range) for d in self.dimensions)


def searched(
    component: type[Configurable], where: str, fixed: Iterable[str] = (), given: Mapping[str, Any] | None = None, named_only: bool = False
) -> list[Dimension]:
    """The dimensions of a component: what it declares, less what is fixed, with the ranges a file gives.

    `given` maps a setting to a list of values, to `{low, high, log}`, or to null (keep the default out of the search);
    with `named_only` nothing else is searched. Raises `UsageError` for an unknown setting and for a range that is empty, of
    the wrong type or outside the setting's bounds.
    """
    given = dict(given or {})
    declared, hints, fixed = component.declared(), component.hints(), set(fixed)
    for name in given:
        if name not in declared:
            raise UsageError(f"{where}: search: {unknown('setting', name, declared)}")
        if name in fixed and given[name] is not None:
            raise UsageError(f"{where}.{name} is given both a value and a search range: leave one of them out")
    found = []
    for name, spec in declared.items():
        if name in fixed or (name in given and given[name] is None) or (named_only and name not in given):
            continue
        wanted = _range(given[name], f"{where}.{name}") if name in given else spec.search
        if wanted is None:
            continue
        if isinstance(wanted, Span):
            dimension = Dimension(f"{where}.{name}", wanted, whole="int" in str(hints[name]) and "float" not in str(hints[name]))
            ends = [dimension.value(0.0), dimension.value(1.0)]
        else:
            dimension, ends = Dimension(f"{where}.{name}", tuple(wanted)), list(wanted)
        for value in ends:
            try:
                component.validated({name: value}, where)
            except UsageError as error:
                raise UsageError(f"search range of {where}.{name}: {error}") from error
        found.append(dimension)
    return found


def _range(value: Any, path: str) -> Sequence[Any] | Span:
    shape = "a list of different values, or {low: ..., high: ..., log: true}"
    if isinstance(value, list):
        if not value:
            raise UsageError(f"search range of {path} is empty: expected {shape}")
        if len({json.dumps(v, sort_keys=True, default=str) for v in value}) < len(value):
            raise UsageError(f"search range of {path} = {value!r} has a value twice: expected {shape}")
        return value
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        raise UsageError(f"search range of {path} = {value!r} is not valid: expected {shape}")
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high))
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise UsageError(f"search range of {path} = {value!r} is not valid: expected low < high (both above 0 with log: true)")
    return Span(low, high, log)
