"""The rows of a folder that is watched: the cells its plan asks for, or the single runs it holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..experiment.file import Experiment
from ..experiment.status import tuned_trials
from ..experiment.store import SHARED_START, Store, row_key
from .watched import Cells, Seen, stamp_of


class Row(NamedTuple):
    """A cell as it was asked for, and where it lies."""

    cell: str
    phase: str
    label: str
    seed: Any
    trial: int | None
    folder: str


class Rows(NamedTuple):
    """The rows that count, how many were superseded by a strategy tuned anew, and how many are of strategies the file no longer has."""

    rows: list[Row]
    superseded: int = 0
    left_out: int = 0


class Planned:
    """The rows of a grid, put together again when its plan or its file has changed."""

    def __init__(self) -> None:
        self._known: tuple[Any, Rows] = (None, Rows([]))

    def rows(self, store: Store, experiment: Experiment | None) -> Rows:
        """What `plan.jsonl` asks for, as `experiment.status.standing` counts it; lines that say no cell, phase or label are passed over."""
        key = stamp_of(f"{store.out}/plan.jsonl"), id(experiment), str(store.cells)
        if self._known[0] != key:
            old, rows, left_out = store.superseded(), [], 0
            for line in store.plan():
                if not {"cell", "phase", "label"} <= set(line) or row_key(line) in old:
                    continue
                if experiment is not None and line["phase"] != SHARED_START and line["label"] not in experiment.labels:
                    left_out += 1
                    continue
                name = str(line["cell"])
                rows.append(Row(name, str(line["phase"]), str(line["label"]), line.get("seed"), line.get("trial"), str(store.folder(name))))
            self._known = key, Rows(rows, len(old), left_out)
        return self._known[1]


class SingleRuns:
    """The cells of a folder that has no plan, put together again when one of them has changed."""

    def __init__(self) -> None:
        self._known: tuple[Any, list[Row]] = (None, [])

    def rows(self, folder: Path, cells: Cells) -> tuple[list[Row], dict[str, Seen]]:
        """A row a cell, and how each stands."""
        store = Store(folder)
        places = sorted(str(place) for place in folder.glob("cells/*/*"))
        seen = {Path(place).name: cells.look(place, store, Path(place).name) for place in places}
        key = cells.changes, places
        if self._known[0] != key:
            found = []
            for place, (name, cell) in zip(places, seen.items(), strict=True):
                spec = json.loads(cell.spec) if cell.spec else {}
                phase = SHARED_START if spec.get("until") else str(spec.get("phase", "evaluation"))
                found.append((Row(name, phase, cell.strategy or _label(spec), spec.get("seed"), None, place), spec))
            labels = told_apart([(row.label, spec) for row, spec in found])
            self._known = key, [row._replace(label=label) for (row, _), label in zip(found, labels, strict=True)]
        return self._known[1], seen


def never_run(experiment: Experiment, own: Iterable[Row], seen: dict[str, Seen]) -> int:
    """Cells of `expected_cells` that cannot come any more: of a strategy with too few good trials for all its finalists, or with none at all."""
    t = experiment.tuning
    lost = 0
    for phase in () if not experiment.protocol.tunes else ("tuning", "conventional tuning") if t.optimism else ("tuning",):
        first: dict[str, list[Row]] = {}
        for row in own:
            if row.phase == phase and row.seed in t.first_seeds:
                first.setdefault(row.label, []).append(row)
        for label in experiment.labels:
            trials, there = tuned_trials(experiment, label), first.get(label, [])
            if len(there) < trials * t.tuning_seeds or not all(seen[row.cell].final for row in there):
                continue
            good = trials - len({row.trial for row in there if seen[row.cell].status != "ok"})
            lost += (min(t.finalists, trials) - min(t.finalists, good)) * t.finalist_seeds if trials > 1 else 0
            lost += 0 if good else len(experiment.seeds)
    return lost


def told_apart(cells: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Labels of cells such that those of one label differ in the seed alone: settings in which others of the name differ are added."""
    flat = [dict(_flat(spec)) for _, spec in cells]
    values: dict[str, dict[str, set[str]]] = {}
    for (label, _), settings in zip(cells, flat, strict=True):
        for key, value in settings.items():
            values.setdefault(label, {}).setdefault(key, set()).add(value)
    named = []
    for (label, _), settings in zip(cells, flat, strict=True):
        differs = [f"{key}={value}" for key, value in settings.items() if len(values[label][key]) > 1]
        named.append(f"{label} ({', '.join(differs)})" if differs else label)
    return named


def _flat(spec: dict[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in spec.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        elif key == "modifiers" and isinstance(value, list):
            yield from _flat({str(m.get("name")): m for m in value if isinstance(m, dict)}, path)
        elif path or key not in ("seed", "until"):
            yield path + key, value if isinstance(value, str) else json.dumps(value)


def _label(spec: dict[str, Any]) -> str:
    """The name of a strategy with its modifiers, by the specification of a cell that has no result yet."""
    strategy = spec.get("strategy")
    if not isinstance(strategy, dict):
        return "unknown"
    return "+".join(str(part.get("name")) for part in (strategy, *(strategy.get("modifiers") or [])) if isinstance(part, dict))
