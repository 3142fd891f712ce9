"""`metrics.jsonl` of a cell as it grows, and what of it a tracker is told.

A run that was killed and goes on cuts its log back to its checkpoint and computes the rest again, bit by bit the same. So an event
that was told before is not told again: of every kind only steps beyond the last one count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BURST = 500
"""Points of the training axis a run may be told at once ..."""
EVERY = 1.0
"""... and seconds between any further ones."""
MOST_SETS = 20
"""Evaluation sets whose losses along the way are told one by one; of more only their mean."""


@dataclass(frozen=True)
class Point:
    """Values at a step of an axis. `kind`: of which steps only grow."""

    kind: str
    axis: str
    step: int
    values: dict[str, float]


class LogReader:
    """The events of a log that were not read yet. A log that was cut or begun anew is read from its first line again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rewind()

    def rewind(self) -> None:
        """Read from the first line again."""
        self._offset, self._last = 0, b""

    def new(self) -> list[dict[str, Any]]:
        """Events of lines that are whole."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) != self._last:  # what was read last is not there any more
                    self.rewind()
                    file.seek(0)
                data = file.read()
        except OSError:
            return []
        whole, end, _ = data.rpartition(b"\n")
        if not end:
            return []
        self._offset += len(whole) + 1
        self._last = whole.rpartition(b"\n")[2] + b"\n"
        found = []
        for line in whole.split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found


def point(event: dict[str, Any]) -> Point | None:
    """What a tracker is told of an event; None when that is nothing."""
    kind, step = event.get("event"), event.get("step")
    if kind == "experience":
        index = event.get("experience")
        name = "accuracy" if "accuracy" in event else "loss"
        row = _numbers(event.get("accuracy", event.get("losses")))
        return Point(kind, "experience", index, {f"experience/mean_{name}": sum(row) / len(row)}) if row and isinstance(index, int) else None
    if not isinstance(step, int):
        return None
    if kind in ("loss", "branch_loss"):
        axis = "training" if kind == "loss" else "branch"
        values = {f"{axis}/{name}": event[name] for name in ("loss", "learning_rate", "experience") if _number(event.get(name))}
        return Point(kind, axis, step, values)
    if kind == "losses":
        row = _numbers(event.get("losses"))
        each = {f"training/held_out_loss_{j}": value for j, value in enumerate(event["losses"]) if _number(value)} if 1 < len(row) <= MOST_SETS else {}
        return Point(kind, "training", step, {"training/held_out_loss": sum(row) / len(row), **each}) if row else None
    return None


class Pace:
    """How many points may be told now: a burst at first, one a second from then on."""

    def __init__(self, clock: Callable[[], float], burst: int = BURST, every: float = EVERY) -> None:
        self._clock, self._burst, self._every = clock, burst, every
        self._left, self._then = float(burst), clock()

    def choose(self, count: int, last: bool) -> list[int]:
        """Which of `count` points to tell: evenly spaced, always the last of them; `last`: even when none may be told."""
        now = self._clock()
        self._left, self._then = min(self._burst, self._left + (now - self._then) / self._every), now
        most = min(count, max(int(self._left), int(last)))
        self._left = max(0.0, self._left - most)
        return [math.ceil((k + 1) * count / most) - 1 for k in range(most)]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(values: Any) -> list[float]:
    return [value for value in values if _number(value)] if isinstance(values, list) else []
