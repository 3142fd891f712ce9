"""What figures of several strategies share: short names, panels beside one another, bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...experiment.grid import Outcome
from ...experiment.statistics import Estimate
from ...registry import catalogue
from ...training.metrics import LOWER
from ..page import Figure, plain
from ..study import Study
from .overview import better, words

PANELS = 30
"""Strategies that get a panel of their own in a figure of small multiples."""
COLUMNS = 5
HEIGHT, ALONE, HEAD, FOOT = 190, 270, 40, 22
"""Of a panel, of one whose row is the only one, of the name above it and of the ticks below it, in pixels."""
LEGEND = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
"""Below everything, however many rows it takes."""
LINES = (12, 18)
"""Letters of a name on the first and the second line above a panel."""


def short(text: str, most: int = 32) -> str:
    """A name for a figure: long ones lose their middle; shown letter by letter."""
    if len(text) > most:
        head = (most - 1) * 3 // 5
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return plain(text)


def wrapped(text: str) -> str:
    """A name on at most two lines above a panel."""
    first, second = LINES
    if len(text) <= first:
        return plain(text)
    ends = (text.rfind(mark, 3, first) + 1 for mark in " /+_-")
    after = next((end for end in ends if end), first)
    return f"{plain(text[:after].rstrip())}<br>{short(text[after:].lstrip(), second)}"


def runs(study: Study, label: str) -> dict[int, Outcome]:
    """The finished good cells of a strategy that are reported, by seed."""
    return {o.seed: o for o in study.done if o.label == label}


def is_reference(outcomes: Sequence[Outcome]) -> bool:
    """Whether what these cells ran stands for a bound rather than a method: it is of the family `reference`, with no modifier around it."""
    for o in outcomes:
        spec = {} if o.result is None else o.result["spec"]["strategy"]
        entry = catalogue("strategies").get(spec.get("name", ""))
        return entry is not None and entry.facts.get("family") == "reference" and not spec.get("modifiers")
    return False


def number(value: float) -> float | None:
    """A value of a figure or table; None where there is none."""
    return None if math.isnan(value) else value


def panels(names: Sequence[str], across: str, x: Mapping[str, Any], y: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]], int]:
    """Panels in rows of `COLUMNS`: the layout, the axes of each panel's traces, and the height in pixels.

    `across` names the horizontal axes, once below all of them; `x` and `y` are settings of all axes, whose ticks are shown at the left
    and at the lower edge alone.
    """
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    high = HEIGHT if rows > 1 else ALONE
    area, gap = rows * high, 0.02
    wide = (1 - gap * (columns - 1)) / columns
    layout: dict[str, Any] = {"annotations": [], "margin": {"l": 60, "r": 10, "t": 30, "b": 45}, "showlegend": False}
    axes = []
    for k, name in enumerate(names):
        row, column = divmod(k, columns)
        left, top = column * (wide + gap), 1 - (row * high + HEAD) / area
        suffix = "" if k == 0 else str(k + 1)
        lowest = k + columns >= len(names)
        own_x = {"anchor": f"y{suffix}", "domain": [left, min(1.0, left + wide)], "showticklabels": lowest, "tickfont": {"size": 10}, "nticks": 6, **x}
        own_y = {"anchor": f"x{suffix}", "domain": [max(0.0, 1 - ((row + 1) * high - FOOT) / area), top], "showticklabels": column == 0, **y}
        if column:
            own_y.pop("title", None)
        layout[f"xaxis{suffix}"], layout[f"yaxis{suffix}"] = own_x, {"tickfont": {"size": 10}, **own_y}
        place = {"x": left, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False}
        layout["annotations"].append({**place, "text": wrapped(name), "font": {"size": 11}})
        axes.append({"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
    below = {"x": 0.5, "y": FOOT / area, "xref": "paper", "yref": "paper", "yanchor": "top", "yshift": -18, "showarrow": False, "font": {"size": 11}}
    layout["annotations"].append({**below, "text": across})
    return layout, axes, area + 75


def bars(
    study: Study, name: str, title: str, explanation: str, found: Mapping[str, Mapping[str, Estimate]], order: Callable[[str], float], small: bool = False
) -> Figure:
    """Metrics by strategy as bars from zero with 95 % intervals, a panel a metric; strategies sorted by `order`, the least at the top."""
    labels = sorted({label for values in found.values() for label in values}, key=order)
    gap, traces, rows = 0.04, [], []
    wide = (1 - gap * (len(found) - 1)) / len(found)
    names = {"tickvals": list(range(len(labels))), "ticktext": [short(label, 24) for label in labels], "range": [len(labels) - 0.4, -0.6]}
    layout: dict[str, Any] = {"showlegend": False, "margin": {"l": 10, "r": 15, "t": 34, "b": 50}, "bargap": 0.35}
    for k, (metric, values) in enumerate(found.items()):
        suffix = "" if k == 0 else str(k + 1)
        for place, label in enumerate(labels):
            if label in values:
                traces.append({**_bar(study, label, metric, values[label], place), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        axis = {"title": {"text": f"{words(metric)}<br>({better(metric)})", "font": {"size": 12}}, "anchor": f"y{suffix}", "zeroline": True, "zerolinewidth": 2}
        layout[f"xaxis{suffix}"] = {**axis, "domain": [k * (wide + gap), min(1.0, k * (wide + gap) + wide)]}
        layout[f"yaxis{suffix}"] = {**names, "anchor": f"x{suffix}", "showticklabels": k == 0, "zeroline": False, "showgrid": False}
        rows += [
            [label, metric, values[label].mean, number(values[label].low), number(values[label].high), values[label].n] for label in labels if label in values
        ]
    table = (["strategy", "metric", "mean", "low", "high", "n"], rows)
    return Figure(name, title, explanation, traces, layout, table, height=134 + 24 * len(labels), small=small)


def _bar(study: Study, label: str, metric: str, value: Estimate, place: int) -> dict[str, Any]:
    text = f"{short(label, 60)}: {words(metric)} {value.mean:.4f}"
    bar = {"type": "bar", "orientation": "h", "x": [value.mean], "y": [place], "marker": {"color": study.looks[label].colour}, "hoverinfo": "text"}
    if math.isnan(value.low):
        return {**bar, "hovertext": [f"{text}, n = {value.n}"]}
    error = {"type": "data", "array": [value.high - value.mean], "arrayminus": [value.mean - value.low], "thickness": 2, "width": 4, "color": "#808080"}
    return {**bar, "error_x": error, "hovertext": [f"{text}, 95 % [{value.low:.4f}, {value.high:.4f}], n = {value.n}"]}


def falling(found: Mapping[str, Estimate], metric: str) -> Callable[[str], float]:
    """An order of strategies by a metric, best first; those without it last."""
    sign = 1 if metric in LOWER else -1
    return lambda label: sign * found[label].mean if label in found else math.inf
