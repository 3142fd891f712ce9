"""Accuracy on every task from when it was learned on, a panel a strategy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..page import Figure
from ..text import some
from .learning import picked, ticks
from .matrices import Grid
from .panels import LEGEND, PANELS, panels, short

TASKS = 10
"""Tasks that a panel has a line of."""
POINTS = 60
EARLY, LATE = (76, 139, 214), (224, 120, 47)
"""Colours of the first and the last task: blue to orange, which all eyes tell apart, on dark and on light."""


def figures(grids: dict[str, Grid]) -> list[Figure]:
    """The panels; none where there is one task alone."""
    if not grids or max(len(g.sets) for g in grids.values()) < 2:
        return []
    shown = dict(list(grids.items())[:PANELS])
    last = max(len(g.mean) for g in shown.values()) - 1
    y = {"title": {"text": "accuracy", "font": {"size": 11}}, "range": [-0.03, 1.03], "hoverformat": ".4f"}
    layout, axes, height = panels(list(shown), "experience", ticks(last), y)
    layout |= {"showlegend": True, "legend": LEGEND, "hovermode": "closest"}
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for k, (label, grid) in enumerate(shown.items()):
        chosen = some(len(grid.sets), TASKS)
        for place, j in enumerate(chosen):
            points = picked([i for i in range(grid.learned[j], len(grid.mean)) if not np.isnan(grid.mean[i, j])], POINTS)
            name = {"name": short(grid.sets[j], 24), "legendgroup": str(place), "showlegend": k == 0, "hoverinfo": "x+y+name"}
            values = [float(grid.mean[i, j]) for i in points]
            line = {"type": "scatter", "mode": "lines+markers" if len(points) <= 12 else "lines", "x": points, "y": values, **name, **axes[k]}
            traces.append({**line, "line": {"color": shade(place / max(1, len(chosen) - 1)), "width": 1.6}, "marker": {"size": 4}})
            rows += [[label, grid.sets[j], i, value, int(grid.n[i, j])] for i, value in zip(points, values, strict=True)]
    most = max(len(g.sets) for g in shown.values())
    text = (
        "A panel is a strategy, a line the accuracy on one task from when it was learned, mean over seeds; blue tasks came first, orange ones last. "
        "Falling lines are forgetting; higher is better."
        + (f" {TASKS} of up to {most} tasks are drawn, evenly spread." if most > TASKS else "")
        + (f" {PANELS} of {len(grids)} strategies, in the order of the file." if len(grids) > PANELS else "")
    )
    heads = ["strategy", "task", "experience", "mean", "n"]
    return [Figure("task_accuracy", "Accuracy of every task over time", text, traces, layout, (heads, rows), height=height + 40)]


def shade(share: float) -> str:
    """A colour between that of the first task (0) and that of the last (1)."""
    return f"rgb({','.join(str(round(a + share * (b - a))) for a, b in zip(EARLY, LATE, strict=True))})"
