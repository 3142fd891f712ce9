"""Figures of a search: its trials over all settings, over each, over time, and over seeds. Plain data for plotly, which draws them as vectors.

Parallel coordinates are lines on an ordinary plot: plotly's own kind takes three WebGL contexts a figure, of which a browser keeps sixteen a page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..experiment.space import Dimension
from ..experiment.statistics import estimate
from ..experiment.tuning import Trial
from ..settings import Span
from .colours import Look, faded
from .page import Figure, plain
from .searches import Search, known, place

MOST = 200
"""Trials that are drawn: the better half of them the best, the others evenly spread."""
QUARTERS = ("worst", "third", "second", "best")
"""Strengths of the lines, by quarters of the trials."""
BINS = len(QUARTERS)
COLUMNS = 3
GREY = "#8a8f98"
FAILED = "x-thin-open"


def words(name: str) -> str:
    return name.replace("_", " ")


def measure(search: Search) -> tuple[str, str]:
    """The metric that decides, and its direction, in words."""
    return words(search.tuning.select_on), "lower is better" if search.lower else "higher is better"


def shown(search: Search) -> list[Trial]:
    """The trials that are drawn, in order."""
    if len(search.trials) <= MOST:
        return search.trials
    by_score = sorted(search.done, key=lambda t: -search.tuning.merit(t, search.seeds))
    best = {t.number for t in by_score[: MOST // 2]}
    rest = [t for t in search.trials if t.number not in best]
    step = len(rest) / (MOST // 2)
    return [t for t in search.trials if t.number in best | {rest[int(k * step)].number for k in range(MOST // 2)}]


def rows(search: Search) -> tuple[list[str], list[list[Any]]]:
    """The numbers behind the figures of trials: a row a trial that is drawn."""
    seeds = sorted({s for t in search.trials for s in t.statuses})
    heads = ["trial", "status", f"mean {search.tuning.select_on} over seeds {_range(search.seeds)}", *search.names, *(f"seed {s}" for s in seeds)]
    status = {t.number: search.failure(t) or ("ok" if search.of(t) is not None else "not finished") for t in search.trials}
    found = [[t.number, status[t.number], search.of(t), *(t.values.get(p) for p in search.names), *(t.scores.get(s) for s in seeds)] for t in shown(search)]
    return heads, found


def parallel(search: Search, look: Look, name: str) -> Figure:
    """Every trial as a line over all searched settings to its score."""
    metric, better = measure(search)
    dimensions, drawn = search.space.dimensions, shown(search)
    scores = [v for t in drawn if (v := search.of(t)) is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    bottom = 0.1 if any(search.of(t) is None for t in drawn) else 0.0  # room below the worst score for trials without one

    def height(trial: Trial) -> float:
        value = search.of(trial)
        if value is None:
            return 0.0
        share = (value - low) / (high - low) if high > low else 0.5
        return bottom + (1 - bottom) * ((1 - share) if search.lower else share)

    def heights(trial: Trial) -> list[float]:
        return [*(_at(d, trial) for d in dimensions), height(trial)]

    order = sorted((t for t in drawn if search.of(t) is not None), key=lambda t: search.tuning.merit(t, search.seeds))
    groups: list[tuple[str, list[Trial], dict[str, Any]]] = []
    bad = [t for t in drawn if search.of(t) is None]
    if bad:
        groups.append(("without a score", bad, {"color": GREY, "width": 1, "dash": "dot"}))
    for k in range(BINS):
        part = [t for t in order[len(order) * k // BINS : len(order) * (k + 1) // BINS] if t is not search.chosen]
        if part:
            strength = {"color": faded(look.colour, 0.3 + 0.55 * k / (BINS - 1)), "width": 1 + 0.5 * k}
            groups.append((f"{QUARTERS[k]} quarter", part, strength))
    if search.chosen is not None:
        groups.append((f"chosen: trial {search.chosen.number}", [search.chosen], {"color": look.colour, "width": 4}))
    traces = []
    for title, members, style in groups:
        x: list[float | None] = []
        y: list[float | None] = []
        texts: list[str] = []
        for t in members:
            x += [*range(len(dimensions) + 1), None]
            y += [*(round(v, 4) for v in heights(t)), None]
            texts += [*(f"trial {t.number}: {plain(_text(t.values.get(d.path)))}" for d in dimensions), f"trial {t.number}: {_score(search.of(t))}", ""]
        mode = "lines+markers" if members[0] is search.chosen else "lines"
        marker = {"color": style["color"], "size": 8, "symbol": look.marker}
        traces.append(
            {"type": "scatter", "mode": mode, "x": x, "y": y, "line": style, "marker": marker, "name": title, "hovertext": texts, "hoverinfo": "text+name"}
        )
    names = [*(plain(words(search.names[d.path])).replace(" ", "<br>") for d in dimensions), f"<b>{metric.replace(' ', '<br>')}</b>"]
    ticks = [(k, at, text) for k, d in enumerate(dimensions) for at, text in _ticks(d)]
    ends = [(bottom, high if search.lower else low), (1.0, low if search.lower else high)] if high > low else [((1 + bottom) / 2, low)]
    ticks += [(len(dimensions), at, _score(value)) for at, value in ends if scores] + ([(len(dimensions), 0.0, "none")] if bad else [])
    note = {"showarrow": False, "xanchor": "left", "xshift": 5, "font": {"size": 11}}
    layout = {
        "xaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "side": "top",
            "range": [-0.1, len(names) - 0.9],
            "ticklabeloverflow": "allow",
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "tickangle": 0,
        },
        "yaxis": {"visible": False, "range": [-0.06, 1.06], "fixedrange": True},
        "shapes": [{"type": "line", "x0": k, "x1": k, "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1}} for k in range(len(names))],
        "annotations": [{**note, "x": k, "y": at, "text": plain(text)} for k, at, text in ticks],
        "margin": {"l": 25, "r": 55, "t": 60, "b": 10},
        "legend": {"orientation": "h", "y": -0.04},
        "hovermode": "closest",
    }
    rest = "" if len(drawn) == len(search.trials) else f" {len(drawn)} of {len(search.trials)} trials are drawn: the best, and others evenly spread."
    said = (
        f"A line is a trial: its value of every searched setting, and at the right its {metric}, mean over seeds {_range(search.seeds)}, the best at the top "
        f"({better}). Stronger lines are better trials.{rest}"
    )
    return Figure(f"{name}_parallel", "Trials over all settings", said, traces, layout, rows(search), height=400)


def slices(search: Search, look: Look, name: str) -> Figure:
    """The score against each searched setting, a plot a setting."""
    metric, better = measure(search)
    dimensions, drawn = search.space.dimensions, shown(search)
    columns = 2 if len(dimensions) == 4 else min(COLUMNS, len(dimensions))
    lines = math.ceil(len(dimensions) / columns)
    between = 0.3 / lines  # rows of plots: room for names of axes, as a share of the figure
    scores = [v for t in drawn if (v := search.of(t)) is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    gap = (high - low) or abs(high) or 1.0
    floor = high + 0.12 * gap if search.lower else low - 0.12 * gap  # where trials without a score are marked: on the worse side
    bad, good = [t for t in drawn if search.of(t) is None], [t for t in drawn if search.of(t) is not None and t is not search.chosen]
    groups: list[tuple[str, list[Trial], dict[str, Any]]] = [("trial", good, {"color": look.colour, "opacity": 0.6, "size": 8})]
    if bad:
        groups.append(("without a score", bad, {"color": GREY, "size": 9, "symbol": FAILED, "line": {"width": 2, "color": GREY}}))
    if search.chosen is not None:
        groups.append(("chosen", [search.chosen], {"color": look.colour, "size": 15, "symbol": "star", "line": {"width": 1, "color": GREY}}))
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "margin": {"l": 60, "r": 15, "t": 10, "b": 40},
        "legend": {"orientation": "h", "y": 1.0, "x": 0, "yanchor": "bottom"},
    }
    for k, d in enumerate(dimensions):
        number, line, column = str(k + 1) if k else "", k // columns, k % columns
        for title, members, marker in groups:
            trace = {"type": "scatter", "mode": "markers", "name": title, "legendgroup": title, "showlegend": k == 0, "marker": marker, "hoverinfo": "text"}
            x = [
                t.values[d.path] if isinstance(d.range, Span) else round(place(d, t.values[d.path]) * len(d.range) - 0.5 + 0.5 * _jitter(t), 3) for t in members
            ]
            y = [floor if (v := search.of(t)) is None else v for t in members]
            texts = [f"trial {t.number}<br>{plain(words(search.names[d.path]))} {plain(_text(t.values[d.path]))}<br>{_score(search.of(t))}" for t in members]
            traces.append({**trace, "x": x, "y": y, "hovertext": texts, "xaxis": f"x{number}", "yaxis": f"y{number}"})
        width, tall = 1 / columns, (1 - (lines - 1) * between) / lines
        axis: dict[str, Any] = {"title": {"text": plain(words(search.names[d.path])), "standoff": 4}, "anchor": f"y{number}"}
        axis["domain"] = [column * width + (0.035 if column else 0), (column + 1) * width - 0.01]
        if isinstance(d.range, Span):
            axis |= {"type": "log" if d.range.log else "linear", "range": _padded(d.range), "nticks": 5, "exponentformat": "e"}
            axis |= {"dtick": "D2" if d.range.high / d.range.low < 100 else 1} if d.range.log else {}
        else:
            axis |= {"tickvals": list(range(len(d.range))), "ticktext": [plain(_text(v)) for v in d.range], "range": [-0.6, len(d.range) - 0.4]}
        layout[f"xaxis{number}"] = axis
        value = {"title": {"text": "score" if column == 0 else "", "standoff": 4}, "anchor": f"x{number}", "showticklabels": column == 0, "nticks": 5}
        layout[f"yaxis{number}"] = {
            **value,
            "domain": [max(0.0, 1 - line * (tall + between) - tall), 1 - line * (tall + between)],
            **({"matches": "y"} if k else {}),
        }
    marks = " Crosses at the worse end had no score." if bad else ""
    listed = " Trials with one value of a list stand a little apart, to be seen." if any(not isinstance(d.range, Span) for d in dimensions) else ""
    said = (
        f"A mark is a trial: its {metric} ({better}), mean over seeds {_range(search.seeds)}, against one setting; all settings vary together.{marks}{listed}"
    )
    return Figure(f"{name}_slices", "Score against each setting", said, traces, layout, rows(search), height=90 + 190 * lines)


def progress(search: Search, look: Look, name: str) -> Figure:
    """The best score so far over the trials."""
    metric, better = measure(search)
    merit, best, table = -math.inf, None, []
    for t in search.trials:
        value = search.of(t)
        if value is not None and search.tuning.merit(t, search.seeds) > merit:
            merit, best = search.tuning.merit(t, search.seeds), value
        table.append([t.number, value, best])
    drawn = {t.number for t in shown(search)}
    dots = [row for row in table if row[1] is not None and row[0] in drawn]
    marker = {"color": look.colour, "opacity": 0.45, "size": 7}
    line = {"color": look.colour, "shape": "hv", "width": 2.5}
    steps = [row for k, row in enumerate(table) if row[2] is not None and (k in (0, len(table) - 1) or row[2] != table[k - 1][2])]
    traces = [
        {"type": "scatter", "mode": "lines", "x": [r[0] for r in steps], "y": [r[2] for r in steps], "line": line, "name": "best so far"},
        {"type": "scatter", "mode": "markers", "x": [r[0] for r in dots], "y": [r[1] for r in dots], "marker": marker, "name": "trial"},
    ]
    layout = {"xaxis": {"title": {"text": "trial"}, "rangemode": "tozero"}, "yaxis": {"title": {"text": metric}}, "showlegend": False}
    said = f"The best {metric} among the trials so far ({better}), mean over the first seeds: a line that still climbs at the end asks for more trials."
    return Figure(f"{name}_progress", "Best so far", said, traces, layout, (["trial", search.tuning.select_on, "best so far"], table), 300, small=True)


def finalists(search: Search, look: Look, name: str) -> Figure:
    """The scores of the finalists by seed, with their means."""
    metric, better = measure(search)
    traces: list[dict[str, Any]] = []
    table: list[list[Any]] = []
    names = [f"trial {t.number}" + (" (chosen)" if t is search.chosen else "") for t in search.finalists]
    for title, t in reversed(list(zip(names, search.finalists, strict=True))):
        values = known(t)
        e = estimate(list(values.values()))
        table.insert(0, [t.number, t is search.chosen, e.mean, e.low, e.high, e.n, *(values.get(s) for s in _finalist_seeds(search))])
        dots = {"color": look.colour, "size": 7, "opacity": 0.45}
        texts = [f"seed {s}: {_score(v)}" for s, v in values.items()]
        traces.append({"type": "scatter", "mode": "markers", "x": list(values.values()), "y": [title] * len(values), "marker": dots, "hovertext": texts})
        traces[-1] |= {"hoverinfo": "text", "showlegend": False}
        error = {} if math.isnan(e.low) else {"error_x": {"type": "data", "array": [e.high - e.mean], "arrayminus": [e.mean - e.low], "thickness": 2}}
        mark = {"color": look.colour, "size": 11, "symbol": "star" if t is search.chosen else look.marker}
        traces.append({"type": "scatter", "mode": "markers", "x": [e.mean], "y": [title], "marker": mark, "showlegend": False, "name": title, **error})
    layout = {"xaxis": {"title": {"text": f"{metric} ({better})"}}, "yaxis": {"type": "category"}, "margin": {"l": 10, "r": 15, "t": 10, "b": 45}}
    said = f"The best trials on every seed they ran on: pale marks are seeds {_range(_finalist_seeds(search))}, large ones means with 95 % intervals."
    heads = ["trial", "chosen", f"mean {search.tuning.select_on}", "low", "high", "n", *(f"seed {s}" for s in _finalist_seeds(search))]
    return Figure(f"{name}_finalists", "Spread between tuning seeds", said, traces, layout, (heads, table), 300, small=True)


def _finalist_seeds(search: Search) -> list[int]:
    return sorted({s for t in search.finalists for s in t.statuses})


def _range(seeds: Sequence[int]) -> str:
    """`1000`, `1000 to 1003`, or a list."""
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _jitter(trial: Trial) -> float:
    """A place within -0.5..0.5 that is always the same for a trial."""
    return (trial.number * 0.618034) % 1 - 0.5


def _at(dimension: Dimension, trial: Trial) -> float:
    at = place(dimension, trial.values[dimension.path])
    return at if isinstance(dimension.range, Span) else at + 0.4 * _jitter(trial) / len(dimension.range)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if not isinstance(dimension.range, Span):
        return [((k + 0.5) / len(dimension.range), _text(v)) for k, v in enumerate(dimension.range)]
    low, high = dimension.range.low, dimension.range.high
    middle = math.sqrt(low * high) if dimension.range.log else (low + high) / 2
    return [(0.0, _text(low)), (0.5, f"{middle:.2g}"), (1.0, _text(high))]


def _padded(span: Span) -> list[float]:
    low, high = (math.log10(span.low), math.log10(span.high)) if span.log else (span.low, span.high)
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _score(value: float | None) -> str:
    return "no score" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
