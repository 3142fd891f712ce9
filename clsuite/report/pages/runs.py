"""The page of runs: every cell in one table, each row with its details behind it."""

from __future__ import annotations

import json
from typing import Any

from ...errors import UsageError
from ...experiment.results import Row
from ...experiment.scores import score
from ...experiment.store import SHARED_START, Store
from ...training.metrics import DERIVED, LOWER
from ...training.text_metrics import REFERRED
from ..colours import COLOURS, Look
from ..page import Cell, Page, Section, Table
from ..run_details import details
from ..study import Study
from ..text import METRICS

MOST_CELLS = 200
MOST_BYTES = 1_500_000
"""Of one file of details: what is loaded when a row is opened."""
OTHER = Look(COLOURS[0], "solid", "circle")
"""Of cells whose strategy the file no longer has."""


def page(study: Study) -> Page | None:
    """All cells of a study; None where none is planned."""
    try:
        rows = [row for row in study.rows if row["phase"] != SHARED_START]
    except UsageError:  # no cell yet
        return None
    if not rows:
        return None
    files, places = _details(study, rows)
    metrics = _metrics(study, rows)
    failed = any(row["status"] not in ("ok", "missing") for row in rows)
    heads = ["strategy", "phase", "trial", "seed", "status", *(m.replace("_", " ") for m in metrics), "seconds", "backward passes", "cell"]
    heads += ["reason"] if failed else []
    table = [
        [
            Cell(str(row["strategy"]), str(row["strategy"]), study.looks.get(str(row["strategy"]), OTHER).colour, f"#details:{places[row['cell']]}"),
            row["phase"],
            row["trial"],
            Cell(str(row["seed"]), row["seed"]),
            f"{row['status']} (superseded)" if row.get("superseded") else row["status"],
            *(values[k] for values in metrics.values()),
            None if row.get("seconds") is None else Cell(f"{row['seconds']:,.1f}", row["seconds"]),
            row.get("backward_passes"),
            Cell(row["cell"][:8], row["cell"]),
            *([_reason(row)] if failed else []),
        ]
        for k, row in enumerate(rows)
    ]
    notes = {5 + k: _meaning(m) for k, m in enumerate(metrics)}
    notes[5 + len(metrics)] = "of training; lower is cheaper"
    notes[6 + len(metrics)] = "samples passed backwards through a network in training; lower is cheaper"
    starts = sum(row["phase"] == SHARED_START for row in study.rows)
    said = "The rows of `clsuite results`, with its numbers. A strategy's name opens the settings, curves, cost, versions and the command that gives it again."
    said += f" {starts} shared beginnings that cells go on from are left out." if starts else ""
    said += " Superseded: the strategy was tuned anew since." if any(row.get("superseded") for row in rows) else ""
    section = Section("Every cell", "A cell is one training run: a strategy with its settings, on one stream, from one seed.", [])
    runs = Table("runs", "", heads, table, said, search=True, notes=notes)
    counts = f"{len(rows)} cells, {sum(row['status'] == 'ok' for row in rows)} of them finished well."
    return Page("runs", "Runs", counts, [Section(section.title, section.explanation, [runs])], files)


def _meaning(metric: str) -> str:
    better = f"{'lower' if metric in LOWER else 'higher'} is better"
    return f"{METRICS[metric][1]}; {better}" if metric in METRICS else better


def _metrics(study: Study, rows: list[Row]) -> dict[str, list[Any]]:
    """By metric of the study's table its values, a row each, as `clsuite results` has them; metrics without any are left out.

    Those that refer to other cells or follow from a result stand in no row of the results, and come from the outcome.
    """
    outcomes = {(study.cells[k], o.label, o.phase, o.trial, o.seed): o for k, o in enumerate(study.outcomes)}
    found: dict[str, list[Any]] = {}
    for metric in study.columns:
        if metric in REFERRED or metric in DERIVED:
            own = [outcomes.get((row["cell"], row["strategy"], row["phase"], row["trial"], row["seed"])) for row in rows]
            found[metric] = [None if outcome is None else score(outcome, metric) for outcome in own]
        else:
            found[metric] = [row.get(metric) for row in rows]
    return {metric: values for metric, values in found.items() if any(v is not None for v in values)}


def _reason(row: Row) -> str | None:
    reason = row["reason"]
    return None if reason is None else str(reason) if len(str(reason)) <= 160 else f"{str(reason)[:160]}..."


def _details(study: Study, rows: list[Row]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Files of details by name, and by cell where its own are: `runs-0/HASH`. A cell that several rows share has them once."""
    store = Store.of(study.folder)
    results = {study.cells[k]: o.result for k, o in enumerate(study.outcomes) if o.result is not None}
    names: dict[str, list[str]] = {}
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row["cell"], row)
        names.setdefault(row["cell"], []).append(_name(row))
    files: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    size = 0
    for cell, row in firsts.items():
        look = study.looks.get(str(row["strategy"]), OTHER)
        made = details(store, row, names[cell], results.get(cell) or _kept(store, cell), look, study.experiment is not None)
        own = len(json.dumps(made))
        if not files or size + own > MOST_BYTES or len(files[f"runs-{len(files) - 1}"]) >= MOST_CELLS:
            files[f"runs-{len(files)}"], size = {}, 0
        file = f"runs-{len(files) - 1}"
        files[file][cell], places[cell] = made, f"{file}/{cell}"
        size += own
    return files, places


def _kept(store: Store, cell: str) -> dict[str, Any] | None:
    """The result of a cell that no longer counts."""
    try:
        found = store.result(cell)
        if found is not None:
            found["metrics"], found["cost"], found["spec"], found["matrix"], found["evaluation_sets"], found["environment"], found["resume"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _name(row: Row) -> str:
    trial = "" if row["trial"] is None else f" trial {row['trial']},"
    return f"{row['strategy']}: {row['phase']},{trial} seed {row['seed']}"
