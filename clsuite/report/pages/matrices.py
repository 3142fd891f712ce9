"""Accuracy matrices: mean and spread over seeds by strategy, and those of single runs, which are loaded when they are asked for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...experiment.grid import Outcome
from ..page import Cell, Figure, Section, Table
from ..study import Study
from ..text import some
from .panels import PANELS, number, panels, runs

SCALE = "Cividis"
SIDE = 50
"""Rows and columns of a matrix that are drawn where there is room."""
NUMBERS = 40_000
"""Entries of all matrices of one figure."""
FILE = 1_500_000
"""Characters of a file of details, beyond which every strategy has a file of its own."""


@dataclass(frozen=True)
class Grid:
    """The matrices of a strategy's runs taken together: mean, standard deviation and n of every entry over seeds, each [experiences, sets].

    NaN where nothing was measured (the deviation also where one seed alone was). `sets` are the names of the evaluation sets, `learned`
    the experiences in which they were first learned. `left_out`: runs whose matrix has another shape than most.
    """

    mean: np.ndarray
    spread: np.ndarray
    n: np.ndarray
    sets: list[str]
    learned: list[int]
    left_out: int = 0


def matrix(outcome: Outcome, key: str = "matrix") -> np.ndarray:
    """The matrix of a run, NaN where nothing was measured; of no size where the run has none."""
    values = None if outcome.result is None else outcome.result.get(key)
    if not values:
        return np.zeros((0, 0))
    return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)


def grids(study: Study) -> dict[str, Grid]:
    """By strategy its runs' matrices taken together; strategies without any are left out."""
    made = {label: grid(list(runs(study, label).values())) for label in study.labels}
    return {label: found for label, found in made.items() if found is not None}


def grid(outcomes: list[Outcome]) -> Grid | None:
    """Matrices taken together; of several shapes the most frequent one counts."""
    matrices = [(o, m) for o in outcomes if (m := matrix(o)).size]
    if not matrices:
        return None
    shape, count = Counter(m.shape for _, m in matrices).most_common(1)[0]
    alike = [(o, m) for o, m in matrices if m.shape == shape]
    stack = np.stack([m for _, m in alike])
    n = (~np.isnan(stack)).sum(axis=0)
    result = alike[0][0].result
    assert result is not None
    sets = result["evaluation_sets"]
    return Grid(*_moments(stack, n), n, [str(s["name"]) for s in sets], [int(s["learned_in"]) for s in sets], len(matrices) - count)


def _moments(stack: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over the first axis; exact for equal values, which rounding would give a spread."""
    present = ~np.isnan(stack)
    low, high = np.where(present, stack, np.inf).min(axis=0), np.where(present, stack, -np.inf).max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(low == high, low, np.where(present, stack, 0.0).sum(axis=0) / n)
        squares = np.where(present, (stack - mean) ** 2, 0.0).sum(axis=0)
        spread = np.where(n > 1, np.where(low == high, 0.0, np.sqrt(squares / (n - 1))), np.nan)
    return np.where(n > 0, mean, np.nan), spread


def section(study: Study, found: dict[str, Grid]) -> tuple[Section | None, dict[str, Any]]:
    """Heat maps, the table of single runs, and the details that its links open."""
    if not found:
        return None, {}
    shown = dict(list(found.items())[:PANELS])
    cut = f" {PANELS} of {len(found)} strategies, in the order of the file." if len(found) > PANELS else ""
    left_out = sum(g.left_out for g in found.values())
    cut += f" {left_out} runs over another stream than most of their strategy are not in it." if left_out else ""
    figures = [_means(shown, cut)]
    if any(np.isfinite(g.spread).any() for g in found.values()):
        figures.append(_spreads(shown, cut))
    table, details = _runs(study)
    said = (
        "Rows are experiences, the first at the top, columns the evaluation sets in the order in which they were learned: below the diagonal is what was kept."
    )
    return Section("Accuracy matrices", said, [*figures, table]), details


def _means(shown: dict[str, Grid], cut: str) -> Figure:
    text = f"A panel is a strategy: accuracy on each evaluation set after each experience, mean over seeds; one scale from 0 to 1, higher is better.{cut}"
    return _maps("matrix_mean", "Accuracy matrices, mean over seeds", text, {label: g.mean for label, g in shown.items()}, shown, 1.0, "accuracy")


def _spreads(shown: dict[str, Grid], cut: str) -> Figure:
    most = max((float(np.nanmax(g.spread)) for g in shown.values() if np.isfinite(g.spread).any()), default=0.0)
    text = f"Standard deviation over seeds of every entry above, one scale: where it is large, one seed says little; empty for a single seed.{cut}"
    values = {label: g.spread for label, g in shown.items()}
    return _maps("matrix_spread", "Accuracy matrices, spread over seeds", text, values, shown, most or 1.0, "standard deviation")


def _maps(name: str, title: str, text: str, values: dict[str, np.ndarray], shown: dict[str, Grid], most: float, what: str) -> Figure:
    x = {"showgrid": False, "zeroline": False, "ticks": "", "tickformat": "d"}
    y = {"title": {"text": "after experience", "font": {"size": 11}}, "autorange": "reversed", **x}
    layout, axes, height = panels(list(values), "evaluation set", x, y)
    bar = {"title": {"text": what, "side": "top"}, "orientation": "h", "thickness": 12, "len": 0.5, "x": 0, "xanchor": "left", "yanchor": "bottom"}
    layout["margin"]["t"] = 70
    layout |= {"coloraxis": {"cmin": 0, "cmax": most, "colorscale": SCALE, "colorbar": {**bar, "y": 1 + 5 / height}}}
    side = max(5, min(SIDE, int((NUMBERS / len(values)) ** 0.5)))
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    widest = max((g.sets for g in shown.values()), key=len)
    columns = some(len(widest), side)
    for k, (label, own) in enumerate(values.items()):
        taken, sets = measured(own, side), some(own.shape[1], side)
        z = [[number(float(own[i, j])) for j in sets] for i in taken]
        hover = "after experience %{y}, evaluation set %{x}: %{z:.4f}<extra></extra>"
        traces.append({"type": "heatmap", "x": sets, "y": taken, "z": z, "coloraxis": "coloraxis", "hovertemplate": hover, **axes[k]})
        rows += [[label, i, *line, *[None] * (len(columns) - len(line))] for i, line in zip(taken, z, strict=True)]
    alike = all(g.sets == widest for g in shown.values())
    heads = ["strategy", "after experience", *(widest[j] if alike else f"set {j}" for j in columns)]
    drawn = "" if len(columns) == len(widest) else f" {len(columns)} of {len(widest)} sets are drawn, evenly spread."
    return Figure(name, title, text + drawn, traces, layout, (heads, rows), height=height + 40)


def measured(values: np.ndarray, most: int) -> list[int]:
    """At most `most` rows, evenly spread over those in which most was measured: between full rows of a long stream only new sets are."""
    counts = (~np.isnan(values)).sum(axis=1)
    full = np.flatnonzero(counts >= counts.max() / 2) if counts.max() else np.zeros(0, np.int64)
    return [int(full[k]) for k in some(len(full), most)]


def _runs(study: Study) -> tuple[Table, dict[str, Any]]:
    """A row a strategy with a link a seed, and by file of details what the links open."""
    seeds = sorted({o.seed for o in study.final})
    cells = {id(o): study.cells[k] for k, o in enumerate(study.outcomes) if k in study.cells}
    by_label: dict[str, dict[str, Any]] = {}
    opened: dict[tuple[str, int], tuple[str, float | None]] = {}
    for label in study.labels:
        for seed, o in runs(study, label).items():
            if matrix(o).size and id(o) in cells:
                by_label.setdefault(label, {})[cells[id(o)]] = _detail(label, o)
                opened[label, seed] = cells[id(o)], _last(o)
    files, details = _files(by_label)
    status = {(o.label, o.seed): o.status for o in study.final}
    rows: list[list[Any]] = []
    for label in study.labels:
        row: list[Any] = [Cell(label, label, study.looks[label].colour)]
        for seed in seeds:
            if (label, seed) in opened:
                cell, value = opened[label, seed]
                row.append(Cell("matrix" if value is None else f"{value:.4f}", value, href=f"#details:{files[label]}/{cell}"))
            else:
                row.append(None if (known := status.get((label, seed), "missing")) == "missing" else Cell(known))
        rows.append(row)
    said = "Final accuracy of every run, higher is better; a click opens its own matrix. A dash: no result yet; a word: how the run ended."
    return Table("single_runs", "One run", ["strategy", *(f"seed {seed}" for seed in seeds)], rows, said, search=len(rows) > 12), details


def _last(outcome: Outcome) -> float | None:
    assert outcome.result is not None
    value: float | None = outcome.result["metrics"].get("final_accuracy")
    return value


def _files(by_label: dict[str, dict[str, Any]]) -> tuple[dict[str, str], dict[str, Any]]:
    """The file of details of each strategy, and what the files hold: one for all while it stays small."""
    whole = {cell: value for own in by_label.values() for cell, value in own.items()}
    if len(json.dumps(whole)) <= FILE:
        return dict.fromkeys(by_label, "matrices"), {"matrices": whole} if whole else {}
    files = {label: f"matrices_{k}" for k, label in enumerate(by_label)}
    return files, {files[label]: own for label, own in by_label.items()}


def _detail(label: str, outcome: Outcome) -> dict[str, Any]:
    """What a click on a run shows: its matrix, and that with a known task where there is one."""
    assert outcome.result is not None
    parts: list[dict[str, Any]] = [{"pairs": [["final accuracy", _last(outcome)], ["status", outcome.status]]}]
    for heading, key in (("Accuracy", "matrix"), ("Accuracy when the task is known", "matrix_known_task")):
        values = matrix(outcome, key)
        if values.size:
            parts.append({"figure": _single(values, heading)})
    return {"title": f"{label}, seed {outcome.seed}", "parts": parts}


def _single(values: np.ndarray, title: str) -> dict[str, Any]:
    rows, sets = measured(values, SIDE), some(values.shape[1], SIDE)
    z = [[number(round(float(values[i, j]), 4)) for j in sets] for i in rows]  # as many digits as are shown: files of details stay small
    small = len(rows) <= 12 and len(sets) <= 12
    hover = "after experience %{y}, evaluation set %{x}: %{z:.4f}<extra></extra>"
    trace = {"type": "heatmap", "x": sets, "y": rows, "z": z, "zmin": 0, "zmax": 1, "colorscale": SCALE, "hovertemplate": hover}
    trace |= {"texttemplate": "%{z:.2f}"} if small else {}
    axes = {"xaxis": {"title": {"text": "evaluation set"}}, "yaxis": {"title": {"text": "after experience"}, "autorange": "reversed"}}
    said = {"title": {"text": title, "font": {"size": 14}}, "margin": {"l": 60, "r": 20, "t": 50, "b": 50}}
    return {"traces": [{**trace, "colorbar": {"title": {"text": "accuracy"}}}], "layout": {**said, **axes}}
