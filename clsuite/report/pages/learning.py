"""How accuracy on everything learned develops over the stream: all strategies in one figure, then each against the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...experiment.statistics import BOOTSTRAP_FROM, Estimate, estimate
from ...training.metrics import seen_curve
from ..colours import faded
from ..page import Figure
from ..study import Study
from ..text import some
from .panels import LEGEND, PANELS, is_reference, number, panels, runs, short

POINTS = 400
"""Experiences at which a curve is drawn; in a panel `FEWER`."""
FEWER = 40
BOOTSTRAPS = 400
"""Intervals of one figure where each takes a bootstrap: bands have fewer points then, curves keep theirs."""
CROWDED = 6
"""Strategies above which each has a panel of its own."""
GREY = "#8a8f96"


@dataclass(frozen=True)
class Curve:
    """Accuracy on everything learned so far, over seeds: `means` and `n` by experience, `bands` where an interval was computed."""

    means: dict[int, float]
    n: dict[int, int]
    bands: dict[int, Estimate]
    reference: bool


def figures(study: Study) -> list[Figure]:
    """The curves; none where no run has any."""
    values = {label: own for label in study.labels if (own := seen(study, label))}
    if not values:
        return []
    found = curves(study, values)
    return [_overall(study, found), *([_each(study, found)] if len(found) > CROWDED else [])]


def seen(study: Study, label: str) -> dict[int, list[float]]:
    """By experience the accuracy on everything learned by then, a value a seed; experiences at which it was not measured are left out."""
    found: dict[int, list[float]] = {}
    for o in runs(study, label).values():
        assert o.result is not None
        for i, value in enumerate(seen_curve(o.result)):
            if value is not None:
                found.setdefault(i, []).append(value)
    return {i: found[i] for i in sorted(found)}


def curves(study: Study, values: dict[str, dict[int, list[float]]]) -> dict[str, Curve]:
    """Means and bands, at no more experiences than are drawn."""
    bootstrap = any(len(v) >= BOOTSTRAP_FROM for own in values.values() for v in own.values())
    banded = min(POINTS, max(10, BOOTSTRAPS // len(values))) if bootstrap else POINTS
    found = {}
    for label, own in values.items():
        places = picked(list(own), POINTS)
        bands = {i: estimate(own[i]) for i in picked(places, banded)}
        means = {i: bands[i].mean if i in bands else float(np.mean(sorted(own[i]))) for i in places}
        found[label] = Curve(means, {i: len(own[i]) for i in places}, bands, is_reference(list(runs(study, label).values())))
    return found


def picked(values: list[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, first and last among them."""
    return [values[k] for k in some(len(values), most)]


def _overall(study: Study, found: dict[str, Curve]) -> Figure:
    traces = [trace for label, curve in found.items() for trace in (*_band(study, label, curve), _line(study, label, curve))]
    rows = []
    for label, curve in found.items():
        for i, mean in curve.means.items():
            bounds = [number(curve.bands[i].low), number(curve.bands[i].high)] if i in curve.bands else [None, None]
            rows.append([label, i, mean, *bounds, curve.n[i]])
    banded = max(n for curve in found.values() for n in curve.n.values()) > 1
    text = (
        "Share of correct predictions on the test samples of everything learned by then, mean over seeds"
        + (" with 95 % bands" if banded else "; a single seed has no band")
        + "; higher is better. A click on a name hides it, a double click shows it alone."
    )
    layout = {
        "xaxis": ticks(max(i for curve in found.values() for i in curve.means), title="experience"),
        "yaxis": {"title": {"text": "accuracy (share of 1)"}, "range": [0, 1.03], "hoverformat": ".4f"},
        "hovermode": "closest",
        "legend": LEGEND,
    }
    heads = ["strategy", "experience", "mean", "low", "high", "n"]
    height = 480 + 20 * -(-len(found) // 6)
    return Figure("average_accuracy", "Average accuracy after each experience", text, traces, layout, (heads, rows), height=height)


def ticks(last: int, title: str | None = None) -> dict[str, Any]:
    """An axis of experiences: whole numbers alone."""
    return {"zeroline": False, **({"dtick": 1} if last <= 12 else {"tickformat": "d"}), **({"title": {"text": title}} if title else {})}


def _line(study: Study, label: str, curve: Curve) -> dict[str, Any]:
    look, thin = study.looks[label], curve.reference
    line = {"color": look.colour, "width": 1.5, "dash": "dash"} if thin else {"color": look.colour, "width": 2.5, "dash": look.dash}
    marks = {"symbol": look.marker + ("-open" if thin else ""), "size": 6, "color": look.colour}
    mode = "lines+markers" if len(curve.means) <= 25 else "lines"
    shown = {"name": short(label, 40) + (" (reference)" if thin else ""), "legendgroup": label, "marker": marks, "hoverinfo": "x+y+name"}
    return {"type": "scatter", "mode": mode, "x": list(curve.means), "y": list(curve.means.values()), "line": line, "opacity": 0.8 if thin else 1, **shown}


def _band(study: Study, label: str, curve: Curve) -> list[dict[str, Any]]:
    """The area between the ends of the intervals, where there is more than one seed."""
    known = [(i, e) for i, e in curve.bands.items() if e.n > 1]
    if not known:
        return []
    x = [i for i, _ in known]
    area = {"x": x + x[::-1], "y": [e.high for _, e in known] + [e.low for _, e in reversed(known)], "fill": "toself"}
    colour = faded(study.looks[label].colour, 0.06 if curve.reference else 0.13)
    shown = {"fillcolor": colour, "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": label}
    return [{"type": "scatter", "mode": "lines", **area, **shown}]


def _each(study: Study, found: dict[str, Curve]) -> Figure:
    """Small multiples of the same curves, so that none is lost in the crowd."""
    shown = list(found)[:PANELS]
    last = max(i for curve in found.values() for i in curve.means)
    y = {"title": {"text": "accuracy", "font": {"size": 11}}, "range": [0, 1.03], "hoverformat": ".4f"}
    layout, axes, height = panels(shown, "experience", ticks(last), y)
    traces: list[dict[str, Any]] = []
    for label, place in zip(shown, axes, strict=True):
        others = {other: curve for other, curve in found.items() if other != label}
        traces.append({**_many([c for c in others.values() if not c.reference]), "line": {"color": GREY, "width": 0.8}, "opacity": 0.45, **place})
        for other, curve in others.items():
            if curve.reference:
                line = {"color": study.looks[other].colour, "width": 1.2, "dash": "dash"}
                traces.append({**_many([curve]), "line": line, "hoverinfo": "y+name", "name": short(other, 24), **place})
        own = [*_band(study, label, found[label]), _line(study, label, found[label])]
        traces += [{**trace, **place} for trace in own]
    rows = [[label, i, mean, found[label].n[i]] for label in shown for i, mean in found[label].means.items()]
    text = "The same curves, a panel a strategy with its 95 % band; the others in grey behind it, references dashed."
    text += f" {PANELS} of {len(found)} strategies, in the order of the file." if len(found) > PANELS else ""
    return Figure("each_strategy", "Each strategy against the others", text, traces, layout, (["strategy", "experience", "mean", "n"], rows), height=height)


def _many(found: list[Curve]) -> dict[str, Any]:
    """Several curves as one trace, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    for curve in found:
        places = picked(list(curve.means), FEWER)
        x += [*places, None]
        y += [*(round(curve.means[i], 4) for i in places), None]  # background: the exact values are in the line's own panel
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "showlegend": False}
