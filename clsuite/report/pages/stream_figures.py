"""Figures of one stream: samples of each class or corpus by experience, tasks that are new and that return, samples in all."""

from __future__ import annotations

from typing import Any

from ..page import Figure
from ..text import some
from .learning import ticks
from .panels import LEGEND, short

NEW, RETURNING = "#0072B2", "#E69F00"
NAMED = 40
"""Classes up to which every one has its name at the axis."""


def figures(table: dict[str, Any], suffix: str, phase: str) -> list[Figure]:
    """What a table of `stream_tables` shows. `phase` is given where the streams of two phases stand side by side, at half the width."""
    found = [_groups(table, suffix, phase), *([_tasks(table, suffix, phase)] if _tasks_tell_more(table) else [])]
    if phase != "tuning":
        found.append(_samples(table, suffix))
    return found


def _what(table: dict[str, Any]) -> tuple[str, str]:
    return ("corpus", "tokens") if table["world"] == "text" else ("class", "training samples")


def _of(phase: str) -> str:
    return {"": "", "tuning": ": what settings were chosen on", "evaluation": ": what is reported"}[phase]


def _cut(table: dict[str, Any]) -> str:
    parts = [f"{len(table['experiences'])} of {table['of']} experiences"] if len(table["experiences"]) < table["of"] else []
    return f" Drawn are {' and '.join(parts)}, evenly spread." if parts else ""


def _groups(table: dict[str, Any], suffix: str, phase: str) -> Figure:
    group, samples = _what(table)
    names, unit = table["groups"], table["unit"]
    rows = [[n * unit for n in row] for row in table["samples"]]
    z = [[row[g] or None for row in rows] for g in range(len(names))]
    most = max((v for row in rows for v in row), default=1)
    labels = [short(name, 22) for name in names]
    trace = {"type": "heatmap", "x": table["experiences"], "y": list(range(len(names))), "z": z, "zmin": 0, "zmax": most, "colorscale": "Cividis"}
    trace |= {"xgap": int(len(rows) <= 60), "ygap": int(len(names) <= 60), "hovertemplate": f"experience %{{x}}, %{{y}}: %{{z:,}} {samples}<extra></extra>"}
    shown = some(len(names), NAMED)
    layout = {
        "xaxis": {**ticks(max(table["experiences"])), "title": {"text": "experience"}, "showgrid": False},
        "yaxis": {"tickvals": shown, "ticktext": [labels[k] for k in shown], "autorange": "reversed", "showgrid": False, "zeroline": False},
    }
    bar = {"title": {"text": samples, "side": "right"}, "thickness": 14}
    plural = "corpora" if group == "corpus" else "classes"
    text = (
        f"Colour: {samples} of each {group} in each experience; empty where there is none. {plural.capitalize()} in the order in which they come.{_cut(table)}"
    )
    exported = (["experience", *names], [[i, *row] for i, row in zip(table["experiences"], rows, strict=True)])
    height = max(260, min(900, 110 + 22 * len(names) if len(names) <= NAMED else 110 + 6 * len(names)))
    title = f"Which {plural} when{_of(phase)}"
    return Figure(f"classes_when{suffix}", title, text, [{**trace, "colorbar": bar}], layout, exported, height=height, small=bool(phase))


def _tasks_tell_more(table: dict[str, Any]) -> bool:
    """Whether tasks are more than groups of classes that come once: they return, or share their classes."""
    tasks = {task for _, task, _, _ in table["tasks"]}
    alike = len({tuple(row) for row in table["samples"]}) == 1
    return any(back for *_, back in table["tasks"]) or (len(tasks) > 1 and alike and len(table["groups"]) > 1)


def _tasks(table: dict[str, Any], suffix: str, phase: str) -> Figure:
    _, samples = _what(table)
    unit, traces = table["unit"], []
    for name, colour, symbol, back in (("new", NEW, "square", False), ("returning", RETURNING, "circle", True)):
        own = [row for row in table["tasks"] if row[3] == back]
        size = 9 if len(table["experiences"]) <= 40 else 5 if len(table["experiences"]) <= 120 else 3
        if own:
            trace = {"type": "scattergl" if len(own) > 3000 else "scatter", "mode": "markers", "x": [r[0] for r in own], "y": [r[1] for r in own], "name": name}
            hover = [f"task {task} in experience {i}: {n * unit:,} {samples}, {name}" for i, task, n, _ in own]
            traces.append({**trace, "marker": {"color": colour, "symbol": symbol, "size": size}, "hovertext": hover, "hoverinfo": "text"})
    last = max(table["experiences"])
    layout = {
        "xaxis": {**ticks(last), "title": {"text": "experience"}},
        "yaxis": {**ticks(last), "title": {"text": "task"}, "autorange": "reversed"},
        "legend": LEGEND,
    }
    rows = [[i, task, n * unit, "returning" if back else "new"] for i, task, n, back in table["tasks"]]
    text = f"A mark: the task is trained on in that experience, as a new one or because it returns.{_cut(table)}"
    exported = (["experience", "task", samples, "role"], rows)
    return Figure(f"tasks_when{suffix}", f"Which tasks when{_of(phase)}", text, traces, layout, exported, height=420, small=bool(phase))


def _samples(table: dict[str, Any], suffix: str) -> Figure:
    _, samples = _what(table)
    unit, x = table["unit"], table["experiences"]
    traces = [{"type": "bar", "x": x, "y": [n * unit for n in table["new"]], "name": "new", "marker": {"color": NEW}}]
    if any(table["returning"]):
        traces.append({"type": "bar", "x": x, "y": [n * unit for n in table["returning"]], "name": "returning", "marker": {"color": RETURNING}})
    layout = {
        "barmode": "stack",
        "bargap": 0.15 if len(x) <= 60 else 0,
        "xaxis": {**ticks(max(x)), "title": {"text": "experience"}},
        "yaxis": {"title": {"text": samples}, "rangemode": "tozero"},
        "showlegend": len(traces) > 1,
        "legend": LEGEND,
    }
    rows = [[i, n * unit, back * unit] for i, n, back in zip(x, table["new"], table["returning"], strict=True)]
    text = f"{samples.capitalize()} that each experience brings; what strategies replay from a memory of their own is not among them.{_cut(table)}"
    exported = (["experience", "new", "returning"], rows)
    return Figure(f"samples_per_experience{suffix}", f"{samples.capitalize()} per experience", text, traces, layout, exported, height=320)
