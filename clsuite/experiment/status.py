"""Where a grid stands, read from its folder alone: counts, rate, remaining time, failures."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .claims import held
from .file import Experiment, read
from .identity import differs_from_installed
from .store import SHARED_START, Store, row_key

WINDOW_SECONDS = 600.0
"""The rate counts the results of the last ten minutes."""


def standing(folder: Path) -> dict[str, Any]:
    """How a grid stands, as plain values; raises `UsageError` when there is none in the folder.

    `phases`: counts by status and phase (`running`: somebody is at it; `missing`: nobody yet). `cells`: how many different ones are
    planned, done and running. `expected`: rows the whole experiment will have, as far as the file tells. `rate_per_minute`,
    `remaining_seconds`: by the results of the last ten minutes, null when there are none. `failures`: a row a failed cell.
    `superseded`: cells of choices that were made anew since; `left_out`: cells of strategies the file no longer has. `other_source`:
    finished cells that other source code than the installed one computed.
    """
    if not (folder / "identity.json").exists():
        raise UsageError(f"'{folder}' holds no grid (looked for {folder}/identity.json)")
    store = Store.of(folder)
    old, experiment = store.superseded(), _experiment(folder / "experiment.yaml")
    plan = [row for row in store.plan() if row_key(row) not in old]
    left_out = [row for row in plan if experiment and row["phase"] != SHARED_START and row["label"] not in experiment.labels]
    plan = [row for row in plan if row not in left_out]
    states = {row["cell"]: store.state(row["cell"]) for row in plan}
    running = {name for name, state in states.items() if not state.final and held(store.folder(name))}
    words = {name: "running" if name in running else state.status for name, state in states.items()}
    phases: dict[str, Counter[str]] = {}
    for row in plan:
        phases.setdefault(row["phase"], Counter())[words[row["cell"]]] += 1
    own = [row for row in plan if row["phase"] != SHARED_START]
    expected = max(expected_cells(experiment) if experiment else 0, len(own))
    rate = _rate([store.folder(name) / "result.json" for name, state in states.items() if state.final]) if running else None
    left = expected - sum(states[row["cell"]].final for row in own)
    failures = [{**row, "status": words[row["cell"]], "reason": states[row["cell"]].reason} for row in plan if _failed(states[row["cell"]].status)]
    return {
        "folder": str(folder),
        "phases": {phase: dict(counts) for phase, counts in phases.items()},
        "cells": {"planned": len(states), "done": sum(s.final for s in states.values()), "running": len(running)},
        "superseded": len(old),
        "left_out": len(left_out),
        "expected": expected,
        "left": left,
        "rate_per_minute": rate,
        "remaining_seconds": None if not rate else 60 * left / rate,
        "failures": failures,
        "other_source": sum(differs_from_installed(result) for name in states if (result := store.result(name)) is not None),
    }


def _failed(status: str) -> bool:
    return status not in ("ok", "missing")


def _rate(results: list[Path]) -> float | None:
    """Results a minute over the last ten minutes, or since the first one."""
    now = time.time()
    recent = [now - path.stat().st_mtime for path in results if path.exists()]
    recent = [age for age in recent if 0 <= age < WINDOW_SECONDS]
    return 60 * len(recent) / max(max(recent), 1.0) if recent else None


def _experiment(file: Path) -> Experiment | None:
    """The experiment as it was last run; None when its file cannot be read here."""
    try:
        return read(file)
    except UsageError:
        return None


def expected_cells(experiment: Experiment) -> int:
    """Cells of all phases together, where a tuned strategy has as many finalists as it can."""
    labels, seeds, t = experiment.labels, len(experiment.seeds), experiment.tuning
    if not experiment.protocol.tunes:
        return len(labels) * seeds
    count = 0
    for label in labels:
        trials = tuned_trials(experiment, label)
        count += trials * t.tuning_seeds + (min(t.finalists, trials) * t.finalist_seeds if trials > 1 else 0) + seeds
    return count * (2 if t.optimism else 1)


def tuned_trials(experiment: Experiment, label: str) -> int:
    """Trials a strategy will have: one when there is nothing to search, no more than a grid has points."""
    space, t = experiment.spaces[label], experiment.tuning
    if not space.dimensions:
        return 1
    return int(min(t.trials, space.size)) if t.sampler == "grid" else t.trials
