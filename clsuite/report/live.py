"""What a folder holds while it runs, as plain values: what the terminal (`watch`) and the page (`serve`) show alike. It only reads."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..experiment.claims import held
from ..experiment.file import Experiment, read
from ..experiment.status import WINDOW_SECONDS, expected_cells
from ..experiment.store import SHARED_START, Store
from .live_rows import Planned, Row, SingleRuns, never_run
from .watched import Cached, Cells, Seen, position, stamp_of

MOST_FAILURES = 20
QUIET_SECONDS = 120.0
"""A single run, which claims nothing, is at work as long as it writes: a checkpoint twice a minute at least."""
PAUSE_SECONDS = 10.0
"""How long nobody may be at work, having been, before that is said."""
UNSURE_SECONDS = 60.0
"""How long nothing may happen in a grid whose file cannot be read here before it counts as ended."""


class Live:
    """A grid, or a folder of single runs, looked at again and again; raises `UsageError` when there is no such folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"DIR = '{folder}' is no folder (valid: the folder of a grid, or the --out folder of runs)")
        self.folder = folder
        self._files, self._cells, self._lock = Cached(), Cells(), threading.Lock()
        self._plan, self._single = Planned(), SingleRuns()
        self._curves: tuple[Any, list[dict[str, Any]]] = (None, [])
        self._changed: tuple[Any, float] = (None, time.monotonic())
        self._latest: tuple[float, dict[str, Any]] | None = None
        self._worked: float | None = None

    def state(self, at_most: float = 0.0) -> dict[str, Any]:
        """Where it stands now, as plain values; what was found less than `at_most` seconds ago is given again.

        `kind`: `grid`, `runs` (single ones), or `nothing` (yet). `phases`, `cells`, `expected`, `left`, `rate_per_minute`,
        `remaining_seconds`, `superseded` and `left_out` as `experiment.status.standing` has them, but `expected` counts no cell that cannot
        come any more because trials failed. `running`: a mapping a cell somebody is at; `failed`: how many rows, `failures`: the latest of
        them, newest first; `curves`: a mapping a strategy; `ended`: nothing is left and nobody at work; `message`: what else must be said.
        """
        with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] >= at_most:
                found = self._grid() if (self.folder / "identity.json").exists() else self._runs()
                self._latest = time.monotonic(), found
            return self._latest[1]

    # -- what there is ------------------------------------------------------------------------------------------

    def _grid(self) -> dict[str, Any]:
        store = Store.of(self.folder)
        experiment = self._files.read(f"{self.folder}/experiment.yaml", _experiment)
        plan = self._plan.rows(store, experiment)
        seen = {row.cell: self._cells.look(row.folder, store, row.cell) for row in plan.rows}
        at_work = {row.cell for row in plan.rows if seen[row.cell].claimed and held(Path(row.folder))}
        own = [row for row in plan.rows if row.phase != SHARED_START]
        expected = len(own) if experiment is None else max(expected_cells(experiment) - never_run(experiment, own, seen), len(own))
        found = self._state("grid", plan.rows, seen, at_work, expected)
        found.update(superseded=plan.superseded, left_out=plan.left_out)
        if experiment is None:
            found["ended"] = found["ended"] and self._quiet_for(plan.rows) >= UNSURE_SECONDS
        if not plan.rows:
            found["message"] = "the grid has begun, and no cell is planned yet"
        elif self._idle(found):
            found["message"] = "nobody is at work on the others now: the grid's command goes on with them"
        return found

    def _runs(self) -> dict[str, Any]:
        rows, seen = self._single.rows(self.folder, self._cells)
        at_work = {row.cell for row in rows if (held(Path(row.folder)) if seen[row.cell].claimed else not seen[row.cell].final and _writes(row.folder))}
        found = self._state("runs" if rows else "nothing", rows, seen, at_work, sum(row.phase != SHARED_START for row in rows))
        if not rows:
            found["message"] = f"'{self.folder}' holds no grid and no run yet (looked for identity.json and cells/*/*)"
        elif self._idle(found):
            found["message"] = "nobody is at work on the others now: the same clsuite run goes on with them"
        return found

    # -- what it comes to ---------------------------------------------------------------------------------------

    def _state(self, kind: str, rows: list[Row], seen: dict[str, Seen], at_work: set[str], expected: int) -> dict[str, Any]:
        running = {name for name in at_work if not seen[name].final}
        words = {name: "running" if name in running else cell.status for name, cell in seen.items()}
        phases: dict[str, Counter[str]] = {}
        for row in rows:
            phases.setdefault(row.phase, Counter())[words[row.cell]] += 1
        left = expected - sum(seen[row.cell].final for row in rows if row.phase != SHARED_START)
        rate = _rate([cell.ended for cell in seen.values() if cell.result and cell.ended is not None]) if running else None
        failed = [row for row in rows if words[row.cell] not in ("ok", "missing", "running")]
        latest = sorted(failed, key=lambda row: -(seen[row.cell].ended or 0.0))[:MOST_FAILURES]
        page = self.folder / "report" / "index.html"
        return {
            "folder": str(self.folder),
            "kind": kind,
            "time": time.time(),
            "phases": {phase: dict(counts) for phase, counts in phases.items()},
            "cells": {"planned": len(seen), "done": sum(cell.final for cell in seen.values()), "running": len(running)},
            "superseded": 0,
            "left_out": 0,
            "expected": expected,
            "left": left,
            "rate_per_minute": rate,
            "remaining_seconds": None if not rate else 60 * left / rate,
            "running": self._running(rows, seen, at_work),
            "failed": len(failed),
            "failures": [{**_who(row), "status": seen[row.cell].status, **_why(seen[row.cell])} for row in latest],
            "curves": self._curves_of(rows, seen),
            "ended": bool(rows) and left <= 0 and not at_work,
            "report": str(page.resolve()) if page.is_file() else None,
            "message": None,
        }

    def _running(self, rows: Iterable[Row], seen: dict[str, Seen], at_work: set[str]) -> list[dict[str, Any]]:
        """The cells somebody is at, each once, the longest at work first."""
        lengths = {(row.phase, row.label): known.experiences for row in rows if (known := seen[row.cell].measured)}
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            if row.cell in at_work and row.cell not in found:
                spec = self._files.read(f"{row.folder}/spec.json", _json) or {}
                began = stamp_of(f"{row.folder}/spec.json")
                here = self._files.read(f"{row.folder}/metrics.jsonl", position) or {}
                total = lengths.get((row.phase, row.label)) or _experiences(spec)
                place = here.get("experience") if total is None or here.get("experience") is None else min(here["experience"], total - 1)
                where = {"experience": place, "experiences": total, "step": here.get("step"), "loss": here.get("loss")}
                found[row.cell] = {**_who(row), **where, "since": None if began is None else began[0] / 1e9}
        return sorted(found.values(), key=lambda cell: cell["since"] or float("inf"))

    def _curves_of(self, rows: list[Row], seen: dict[str, Seen]) -> list[dict[str, Any]]:
        key = self._cells.changes, [row[:3] for row in rows]
        if self._curves[0] != key:
            self._curves = key, curves(rows, seen)
        return self._curves[1]

    def _idle(self, found: dict[str, Any]) -> bool:
        """Whether something is left and nobody was seen at work lately: between two phases nobody is for a while."""
        if found["running"]:
            self._worked = time.monotonic()
        return found["left"] > 0 and (self._worked is None or time.monotonic() - self._worked >= PAUSE_SECONDS)

    def _quiet_for(self, rows: list[Row]) -> float:
        """Seconds since something was last found to have changed."""
        key = self._cells.changes, len(rows)
        if self._changed[0] != key:
            self._changed = key, time.monotonic()
        return time.monotonic() - self._changed[1]


def curves(rows: Iterable[Row], seen: dict[str, Seen]) -> list[dict[str, Any]]:
    """For each phase and strategy the mean over its good cells of what was measured on what was learned so far.

    `values`: by experience, `per_experience` points each; `last`, `spread`, `n`: mean and standard deviation at the end over n cells
    (None for one). In a phase with trials the cells differ in their settings as well.
    """
    groups: dict[tuple[str, str, str, int], list[Any]] = {}
    for row in rows:
        found = seen[row.cell].measured
        if found is not None and row.phase != SHARED_START:
            groups.setdefault((row.phase, row.label, found.kind, len(found.values)), []).append(found)
    result = []
    for (phase, label, kind, _), cells in groups.items():
        last = [cell.last for cell in cells if cell.last is not None]
        points = ([v for v in column if v is not None] for column in zip(*(cell.values for cell in cells), strict=True))
        result.append(
            {
                "phase": phase,
                "label": label,
                "kind": kind,
                "n": len(cells),
                "values": [sum(column) / len(column) if column else None for column in points],
                "per_experience": cells[0].per_experience,
                "last": statistics.fmean(last) if last else None,
                "spread": statistics.stdev(last) if len(last) > 1 else None,
            }
        )
    return result


def _who(row: Row) -> dict[str, Any]:
    return {"cell": row.cell, "phase": row.phase, "label": row.label, "trial": row.trial, "seed": row.seed}


def _why(cell: Seen) -> dict[str, Any]:
    return {"reason": cell.reason, "log": list(cell.log), "ended": cell.ended}


def _rate(ended: list[float]) -> float | None:
    """Results a minute over the last ten minutes, or since the first one."""
    recent = [age for at in ended if 0 <= (age := time.time() - at) < WINDOW_SECONDS]
    return 60 * len(recent) / max(max(recent), 1.0) if recent else None


def _experiment(file: Path) -> Experiment:
    try:
        return read(file)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_bytes())
    return found if isinstance(found, dict) else {}


def _experiences(spec: dict[str, Any]) -> int | None:
    """The experiences of a stream as its specification says, where they are not divided between the phases."""
    count = spec.get("scenario", {}).get("experiences")
    return count if isinstance(count, int) and spec.get("protocol", {}).get("split") != "experiences" else None


def _writes(folder: str) -> bool:
    """Whether a single run has written lately."""
    times = [stamp[0] / 1e9 for name in ("", "metrics.jsonl", "checkpoints") if (stamp := stamp_of(f"{folder}/{name}"))]
    return stamp_of(f"{folder}/spec.json") is not None and time.time() - max(times, default=0.0) < QUIET_SECONDS
