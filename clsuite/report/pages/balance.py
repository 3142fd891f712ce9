"""What learning costs and gives: forgetting, plasticity against stability, transfer, calibration, and what a known task is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...experiment.statistics import Estimate
from ..page import Figure, Section
from ..study import Study
from .panels import LEGEND, bars, falling, is_reference, number, runs, short

NAMED = 14
"""Strategies up to which marks have their names beside them."""
MEANING = {
    "forgetting": "Accuracy lost on earlier sets between their best and the end, mean over sets, then seeds, with 95 % intervals; lower is better.",
    "calibration_error": "Gap between the confidence of predictions and their accuracy at the end (15 bins), with 95 % intervals over seeds; lower is better.",
}
TRANSFER = (
    "Backward: change on earlier sets since they were learned. Forward: accuracy on a set just before it is learned, above that of the initial weights. "
    "Mean over seeds with 95 % intervals; above 0 helps, higher is better."
)


def section(study: Study, found: Mapping[str, Mapping[str, Estimate]]) -> Section | None:
    """Figures of the metrics that the runs have, from `found`: estimates by metric and strategy; None where there is none."""
    figures = [_bars(study, "forgetting", "Forgetting", found), _bars(study, "calibration_error", "Calibration error", found)]
    figures += [_scatter(study, found["plasticity"], found["backward_transfer"]), _transfer(study, found), _known_task(study, found)]
    drawn = [f for f in figures if f is not None]
    said = "The metrics of each run, as clsuite results lists them."
    return Section("What is kept, and what is learned", said, drawn) if drawn else None


def _bars(study: Study, metric: str, title: str, found: Mapping[str, Mapping[str, Estimate]]) -> Figure | None:
    own = found[metric]
    return bars(study, metric, title, MEANING[metric], {metric: own}, falling(own, metric), small=True) if own else None


def _transfer(study: Study, found: Mapping[str, Mapping[str, Estimate]]) -> Figure | None:
    own = {metric: found[metric] for metric in ("backward_transfer", "forward_transfer") if found[metric]}
    if not own:
        return None
    first = next(iter(own))
    return bars(study, "transfer", "Backward and forward transfer", TRANSFER, own, falling(own[first], first))


def _scatter(study: Study, learned: Mapping[str, Estimate], kept: Mapping[str, Estimate]) -> Figure | None:
    labels = [label for label in study.labels if label in learned and label in kept]
    if len(labels) < 2:
        return None
    traces = []
    for label in labels:
        x, y, look = learned[label], kept[label], study.looks[label]
        reference = is_reference(list(runs(study, label).values()))
        mark = {"color": look.colour, "size": 12, "symbol": look.marker + ("-open" if reference else ""), "line": {"width": 2 if reference else 0}}
        text = {"text": [short(label, 18)], "textposition": "top center", "textfont": {"size": 11}} if len(labels) <= NAMED else {}
        hover = f"{short(label, 60)}: plasticity {x.mean:.4f}, backward transfer {y.mean:.4f}, n = {x.n}"
        point = {"type": "scatter", "mode": "markers+text" if text else "markers", "x": [x.mean], "y": [y.mean], "name": short(label, 40), **text}
        traces.append(
            {**point, "marker": mark, "error_x": _error(x, look.colour), "error_y": _error(y, look.colour), "hovertext": [hover], "hoverinfo": "text"}
        )
    layout = {
        "xaxis": {"title": {"text": "plasticity (higher is better)"}},
        "yaxis": {"title": {"text": "backward transfer (higher is better)"}},
        "legend": LEGEND,
    }
    rows = [[label, *_bounds(learned[label]), *_bounds(kept[label]), learned[label].n] for label in labels]
    heads = ["strategy", "plasticity", "low", "high", "backward_transfer", "low", "high", "n"]
    text_ = "Accuracy on a set right after it was learned, and its change by the end: means over seeds, 95 % intervals. Best: upper right. Open: references."
    height = 460 + 20 * -(-len(labels) // 6)
    return Figure("plasticity_stability", "Plasticity against stability", text_, traces, layout, (heads, rows), height=height)


def _error(value: Estimate, colour: str) -> dict[str, Any]:
    if math.isnan(value.low):
        return {"type": "data", "array": [], "visible": False}
    return {"type": "data", "array": [value.high - value.mean], "arrayminus": [value.mean - value.low], "color": colour, "thickness": 1.2, "width": 3}


def _bounds(value: Estimate) -> list[float | None]:
    return [value.mean, number(value.low), number(value.high)]


def _known_task(study: Study, found: Mapping[str, Mapping[str, Estimate]]) -> Figure | None:
    """Plain accuracy against that with a known task, both the equal-weight mean over the evaluation sets at the end."""
    plain, known = found["final_task_mean_accuracy"], found["task_incremental_accuracy"]
    labels = sorted((label for label in plain if label in known), key=lambda label: plain[label].mean)
    if not labels:
        return None
    traces: list[dict[str, Any]] = []
    for k, label in enumerate(labels):
        ends = [plain[label].mean, known[label].mean]
        traces.append(
            {"type": "scatter", "mode": "lines", "x": ends, "y": [k, k], "line": {"color": "#888888", "width": 2}, "hoverinfo": "skip", "showlegend": False}
        )
    for name, values, suffix in (("plain: among all outputs", plain, ""), ("task known: other tasks' outputs masked", known, "-open")):
        marks: dict[str, Any] = {"color": [study.looks[label].colour for label in labels], "size": 11, "symbol": f"circle{suffix}"}
        hover = [f"{short(label, 60)}, {name}: {values[label].mean:.4f}, n = {values[label].n}" for label in labels]
        points = {"type": "scatter", "mode": "markers", "x": [values[label].mean for label in labels], "y": list(range(len(labels))), "name": name}
        traces.append({**points, "marker": marks, "hovertext": hover, "hoverinfo": "text"})
    ticks = {"tickvals": list(range(len(labels))), "ticktext": [short(label, 24) for label in labels], "range": [-0.6, len(labels) - 0.4], "zeroline": False}
    layout = {
        "xaxis": {"title": {"text": "accuracy at the end (higher is better)"}, "range": [-0.02, 1.02], "zeroline": False},
        "yaxis": ticks,
        "margin": {"l": 10, "r": 15, "t": 40, "b": 50},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    }
    rows = [[label, *_bounds(plain[label]), *_bounds(known[label]), plain[label].n] for label in reversed(labels)]
    heads = ["strategy", "final_task_mean_accuracy", "low", "high", "task_incremental_accuracy", "low", "high", "n"]
    text = (
        "Full marks: prediction among all classes. Open marks: the same runs when the task is known. A long line means classes of different tasks are confused."
    )
    return Figure("known_task", "With a known task and without", text, traces, layout, (heads, rows), height=130 + 24 * len(labels))
