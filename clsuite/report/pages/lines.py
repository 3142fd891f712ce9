"""How losses over steps are drawn: lines with bands that break where a strategy has no steps, borders, marks with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...experiment.statistics import Estimate
from ..colours import Look, faded
from ..losses import Line, Losses, Place
from .panels import short

NAMED = 8
"""Experiences up to which a figure says above itself what is learned in them."""
LINED = 60
"""Experiences up to which their borders are drawn."""
GREY = "#888888"


def look_of(losses: Losses, label: str) -> Look:
    """How a strategy is drawn."""
    return losses.study.looks[label]


def rounded(value: float) -> float:
    """A number as exact as a figure shows it; its table has all digits."""
    return float(f"{value:.6g}")


def pieces(losses: Losses, label: str, places: Sequence[Place]) -> list[slice]:
    """Runs of a strategy's places: it waits at a border where others take more steps, and a line over that would be of nothing."""
    waits = [losses.reach(label, i) < 0.99 * losses.longest[i] - 1 for i in range(losses.experiences)]
    cuts = [0, *(k for k, (before, place) in enumerate(pairwise(places), 1) if any(waits[before[0] : place[0]]))]
    return [slice(a, b) for a, b in pairwise([*cuts, len(places)])]


def gapped(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Runs in one list, with a gap between each two."""
    found: list[Any] = []
    for part in parts:
        found += [*([None] if found else []), *part]
    return found


def drawn(losses: Losses, label: str, line: Line, seen: set[Any] | None = None, of_the_last: bool = False) -> list[dict[str, Any]]:
    """The band of a line, if there are several seeds, and the line; `of_the_last`: over steps of the last experience alone.

    `seen` remembers the bands of experiences that a figure has: strategies that share their beginning share its band, which would else darken.
    """
    look = look_of(losses, label)
    x = [step if of_the_last else losses.axis((i, step)) for i, step in line.places]
    runs = pieces(losses, label, line.places)
    low, mean, high = ([rounded(v) for v in values] for values in (line.low, line.mean, line.high))
    group = {"type": "scatter", "mode": "lines", "legendgroup": label, "name": short(label, 40)}
    traces: list[dict[str, Any]] = []
    if line.n > 1:
        bands = [r for r in _by_experience(line.places, runs) if not _known(seen, (line.places[r.start][0], *low[r], *high[r]))]
        edge = {"x": gapped([[*x[r], *x[r][::-1]] for r in bands]), "y": gapped([[*low[r], *high[r][::-1]] for r in bands])}
        area = {"fill": "toself", "fillcolor": faded(look.colour, 0.15), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        traces += [{**group, **edge, **area}] if bands else []
    line_style = {"line": {"color": look.colour, "dash": look.dash, "width": 2}, "hovertemplate": "step %{x:,}: %{y:.4f}"}
    return [*traces, {**group, "x": gapped([x[r] for r in runs]), "y": gapped([mean[r] for r in runs]), **line_style}]


def _by_experience(places: Sequence[Place], runs: Sequence[slice]) -> list[slice]:
    """Runs divided at borders, each part but the last reaching to the first place of the next."""
    found = []
    for run in runs:
        cuts = [run.start, *(k for k in range(run.start + 1, run.stop) if places[k][0] != places[k - 1][0]), run.stop]
        found += [slice(a, min(b + 1, run.stop)) for a, b in pairwise(cuts)]
    return found


def _known(seen: set[Any] | None, key: tuple[float, ...]) -> bool:
    """Whether a key was there before; it is from now on."""
    if seen is None:
        return False
    there = key in seen
    seen.add(key)
    return there


def rate_line(losses: Losses, label: str, logged: Sequence[tuple[Place, float]], axis: str) -> dict[str, Any]:
    """The learning rate of a strategy over the steps of the stream."""
    look, places = look_of(losses, label), [place for place, _ in logged]
    runs = pieces(losses, label, places)
    x, y = [losses.axis(p) for p in places], [rounded(r) for _, r in logged]
    shape = {"line": {"color": look.colour, "dash": look.dash, "width": 1.3}, "legendgroup": label, "showlegend": False, "name": short(label, 40)}
    points = {"x": gapped([x[r] for r in runs]), "y": gapped([y[r] for r in runs])}
    return {"type": "scatter", "mode": "lines", **points, "yaxis": axis, **shape, "hovertemplate": "step %{x:,}: %{y:.3g}"}


def interval_of(value: Estimate, colour: str | None = None) -> dict[str, Any]:
    """The interval of a mark as plotly has it; without colour that of the mark."""
    bar: dict[str, Any] = {"type": "data", "array": [value.high - value.mean], "arrayminus": [value.mean - value.low], "thickness": 1.5}
    return {**bar, "color": colour} if colour else bar


def mark(losses: Losses, label: str, x: Estimate | float, y: Estimate | float, hover: str, size: int = 10, **more: Any) -> dict[str, Any]:
    """A strategy's mark, with intervals where its coordinates have them."""
    look = look_of(losses, label)
    found: dict[str, Any] = {"type": "scatter", "mode": "markers", "name": short(label, 40), "legendgroup": label, "hovertemplate": hover, **more}
    for axis, value in (("x", x), ("y", y)):
        found[axis] = [value.mean if isinstance(value, Estimate) else value]
        if isinstance(value, Estimate) and not math.isnan(value.low):
            found[f"error_{axis}"] = interval_of(value, look.colour)
    return {**found, "marker": {"symbol": look.marker, "size": size, "color": look.colour}}


def border_lines(losses: Losses) -> list[dict[str, Any]]:
    """A vertical line where an experience begins, over the whole height."""
    if losses.experiences > LINED:
        return []
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1, "dash": "dot"}}
    return [{**line, "x0": x, "x1": x} for x in losses.starts[1:]]


def border_names(losses: Losses) -> list[dict[str, Any]]:
    """Above every experience what is learned in it."""
    if losses.experiences > NAMED:
        return []
    place = {"xref": "x", "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "left", "showarrow": False, "font": {"size": 11}}
    names = [", ".join(losses.corpora[j] for j, learned in enumerate(losses.learned) if learned == i) for i in range(losses.experiences)]
    most = max(10, 90 // losses.experiences)
    return [{**place, "x": x, "text": short(f"trains on {name}", most)} for x, name in zip(losses.starts, names, strict=True) if name]
