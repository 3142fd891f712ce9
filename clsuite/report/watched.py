"""Cells as they were last seen: a cell is read again when its folder has changed, and only then.

A result, a claim and an attempt are files that come or go in the folder of a cell, which changes the folder's own time; so a look at a cell
that stands as it stood costs two system calls.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..experiment.store import Store
from ..training.metrics import seen_curve

SETTLE_SECONDS = 2.0
"""What changed later than so long ago is read again: within a tick of a file system's clock a second change leaves the same time."""
MOST_READS = 3
"""Reads of a cell that does not change, however young its times are (the clock of another machine may be ahead)."""
POINTS = 32
"""Points that a curve over few experiences is drawn with where there were looks along the way."""
LOG_LINES = 8
TAIL_BYTES = 8192

Stamp = tuple[tuple[int, int] | None, tuple[int, int] | None]


@dataclass(frozen=True)
class Measured:
    """What a finished cell measured: on what was learned so far, `per_experience` points an experience, and at the end.

    `kind`: `accuracy`, or `loss` (nats per token). `last`: `final_accuracy` or `final_loss`.
    """

    kind: str
    values: tuple[float | None, ...]
    per_experience: int
    last: float | None

    @property
    def experiences(self) -> int:
        return len(self.values) // self.per_experience


@dataclass(frozen=True)
class Seen:
    """How a cell stands, as `Store.state` says. `ended`: when (seconds since 1970); `log`: last lines of an attempt that failed.

    `result`: whether there is one; `claimed`: whether there is a claim, of the living or the dead; `strategy`: as the result has it;
    `spec`: the specification as JSON, when it is known.
    """

    status: str = "missing"
    reason: str | None = None
    final: bool = False
    ended: float | None = None
    log: tuple[str, ...] = ()
    result: bool = False
    claimed: bool = False
    measured: Measured | None = None
    strategy: str | None = None
    spec: str | None = None


ABSENT = Seen()


class Cached:
    """What was parsed of files, kept while their time and size stay."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], Any]] = {}

    def read(self, path: str, parse: Callable[[Path], Any]) -> Any:
        """`parse(path)`, or None when there is no such file or `parse` cannot make anything of it."""
        stamp = stamp_of(path)
        if stamp is None:
            self._known.pop(path, None)
            return None
        if (known := self._known.get(path)) is None or known[0] != stamp:
            try:
                known = stamp, parse(Path(path))
            except (OSError, ValueError):
                return None
            self._known[path] = known
        return known[1]


@dataclass
class _Entry:
    seen: Seen
    stamp: Stamp
    beside: str | None
    """The file whose own time counts too: lines are appended to `attempts.jsonl`, and a result may be replaced."""
    reads: int
    settled: bool


class Cells:
    """Cells by folder, each read when it has changed; `changes` counts how often one was found to stand otherwise than before."""

    def __init__(self) -> None:
        self._known: dict[str, _Entry] = {}
        self.changes = 0

    def look(self, folder: str, store: Store, name: str) -> Seen:
        """The cell `name` of a store, which lies in `folder`."""
        entry = self._known.get(folder)
        here = stamp_of(folder)
        if here is None and entry is None:
            return ABSENT
        if entry is not None and entry.settled and entry.stamp == (here, None if entry.beside is None else stamp_of(f"{folder}/{entry.beside}")):
            return entry.seen
        now, before = time.time(), {file: stamp_of(f"{folder}/{file}") for file in ("result.json", "attempts.jsonl")}
        seen = read_cell(folder, store, name)
        beside = "result.json" if seen.result else "attempts.jsonl" if before["attempts.jsonl"] else None
        stamp = here, None if beside is None else before[beside]
        reads = entry.reads + 1 if entry is not None and entry.stamp == stamp else 1
        age = now - max((s[0] for s in stamp if s is not None), default=0) / 1e9
        if entry is None or entry.seen != seen:
            self.changes += 1
        self._known[folder] = _Entry(seen, stamp, beside, reads, age >= SETTLE_SECONDS or reads >= MOST_READS)
        return seen


def stamp_of(path: str) -> tuple[int, int] | None:
    """Time and size of a file or folder; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_cell(folder: str, store: Store, name: str) -> Seen:
    """Read how a cell stands; what cannot be read is an error of that cell."""
    claimed = os.path.exists(f"{folder}/claim")
    try:
        result = store.result(name)
        if result is None:
            state = store.state(name)
            attempts = store.attempts(name)
            log = tuple(str(line) for line in attempts[-1].get("log") or [])[-LOG_LINES:] if attempts else ()
            ended = _time(f"{folder}/attempts.jsonl") if attempts else None
            return Seen(state.status, state.reason, state.final, ended, log, claimed=claimed, spec=_text(f"{folder}/spec.json"))
        ended, spec = _time(f"{folder}/result.json"), json.dumps({**result["spec"], "until": result.get("until")})
        status, reason = str(result["status"]), result.get("reason")
        return Seen(status, reason, True, ended, (), True, claimed, measured(result), str(result["strategy"]), spec)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        ended = _time(f"{folder}/result.json")
        return Seen("error", f"its files cannot be read: {type(error).__name__}: {error}", True, ended, (), ended is not None, claimed)


def measured(result: dict[str, Any]) -> Measured | None:
    """The curve of a good result; None where it failed."""
    if result["status"] != "ok":
        return None
    metrics, looks = result["metrics"], result.get("loss_curve")
    if "final_loss" not in metrics:
        return Measured("accuracy", tuple(seen_curve(result)), 1, metrics.get("final_accuracy"))
    learned = [s["learned_in"] for s in result["evaluation_sets"]]
    rows = result["matrix"]
    per = max(1, POINTS // max(len(rows), 1)) if looks else 1
    values: list[float | None] = []
    for i, row in enumerate(rows):
        sets = [j for j, first in enumerate(learned) if first <= i]
        own = [(look["step"], _mean([look["losses"][j] for j in sets])) for look in looks or [] if look["experience"] == i]
        values += _resampled(own, per) if own and per > 1 else [_mean([row[j] for j in sets])] * per
    return Measured("loss", tuple(values), per, metrics["final_loss"])


def _mean(values: list[float | None]) -> float | None:
    """The unweighted mean; None where one is missing."""
    found = [v for v in values if v is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None


def _resampled(looks: list[tuple[int, float | None]], points: int) -> list[float | None]:
    """A curve over the steps of an experience at equal shares of it, by straight lines between the looks."""
    known = [(step, value) for step, value in looks if value is not None]
    if not known:
        return [None] * points
    found: list[float | None] = []
    k = 0
    for n in range(1, points + 1):
        at = known[-1][0] * n / points
        while k + 1 < len(known) and known[k + 1][0] <= at:
            k += 1
        (x, y), (x2, y2) = known[k], known[min(k + 1, len(known) - 1)]
        found.append(y if x2 <= x or at <= x else y + (y2 - y) * (at - x) / (x2 - x))
    return found


def position(path: Path) -> dict[str, Any]:
    """Where a running cell is, by the last lines of its `metrics.jsonl`: the experience it is in (from 0), its last known step and loss."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        lines = file.read().split(b"\n")
    found: dict[str, Any] = {}
    for line in reversed(lines):
        try:
            event = json.loads(line)
            kind, experience, step = event["event"], event["experience"], event["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if not found:
            found = {"experience": experience + 1 if kind == "experience" else experience, "step": step}
        if kind in ("loss", "branch_loss"):
            return {**found, "loss": event.get("loss")}
    return found


def _time(path: str) -> float | None:
    stamp = stamp_of(path)
    return None if stamp is None else stamp[0] / 1e9


def _text(path: str) -> str | None:
    """A JSON document as it stands in a file; None when it is not there, or not whole yet."""
    try:
        text = Path(path).read_text()
        json.loads(text)
    except (OSError, ValueError):
        return None
    return text
