"""Whether a network answers with what it learned last: the share of its predictions that fall on new classes."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..page import Figure
from ..study import Study
from .learning import ticks
from .panels import LEGEND, is_reference, runs, short

SHOWN = "Of all test samples learned so far, the share predicted to be of the newest experience's classes, mean over seeds. "
TRUTH = "The dotted line is the share that is: above it new classes are preferred, below it old ones; on it is best."


def figure(study: Study) -> Figure | None:
    """A line a strategy and the truth; None where results hold no such shares or no class is old."""
    own = {label: found for label in study.labels if (found := _means(study, label, "predicted"))}
    if not own:
        return None
    traces: list[dict[str, Any]] = []
    rows = []
    for label, found in own.items():
        look, thin = study.looks[label], is_reference(list(runs(study, label).values()))
        line = {"color": look.colour, "width": 1.5 if thin else 2.5, "dash": "dash" if thin else look.dash}
        shown = {"line": line, "marker": {"symbol": look.marker, "size": 6}, "hoverinfo": "x+y+name"}
        traces.append({"type": "scatter", "mode": "lines+markers", "x": list(found), "y": list(found.values()), "name": short(label, 40), **shown})
        rows += [[label, i, value] for i, value in found.items()]
    true = _means(study, next(iter(own)), "true")
    shown = {"line": {"color": "#8a8f96", "dash": "dot", "width": 2}, "name": "share that is new"}
    traces.append({"type": "scatter", "mode": "lines", "x": list(true), "y": list(true.values()), **shown})
    rows += [["share that is new", i, value] for i, value in true.items()]
    layout = {"xaxis": ticks(max(true), title="experience"), "yaxis": {"title": {"text": "share of predictions"}, "range": [0, 1.03]}, "legend": LEGEND}
    heads = ["strategy", "experience", "share"]
    return Figure("new_classes", "Predictions of new classes", SHOWN + TRUTH, traces, layout, (heads, rows), height=440 + 20 * -(-len(own) // 6))


def _means(study: Study, label: str, key: str) -> dict[int, float]:
    """By experience, over the seeds that have it."""
    found: dict[int, list[float]] = {}
    for o in runs(study, label).values():
        assert o.result is not None
        for i, value in enumerate(o.result.get("new_classes", {}).get(key, [])):
            if value is not None:
                found.setdefault(i, []).append(value)
    return {i: fmean(found[i]) for i in sorted(found)}
