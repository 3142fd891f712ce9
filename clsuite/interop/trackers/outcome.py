"""What a result says at the end of a run: its summary, the matrix as one table and one picture, accuracy on what was seen."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from .cells import Row, shortened
from .redact import clean, text

MOST_ENTRIES = 100_000
"""Entries of a matrix up to which it is sent as a table."""
WRITTEN_OUT = 12
"""Experiences and sets up to which the picture has the numbers in it."""


def summary(result: Row) -> Row:
    """Metrics by their names, `cost/...`, status and fingerprints: the numbers of the result, bit for bit; what is null is left out."""
    found: Row = {name: value for name, value in (result.get("metrics") or {}).items() if isinstance(value, (int, float, str))}
    found |= _flat(result.get("cost") or {}, "cost/")
    found |= {name: result.get(name) for name in ("status", "reason", "weights_sha256") if result.get(name) is not None}
    fingerprint = (result.get("stream") or {}).get("fingerprint")
    cleaned: Row = clean({**found, **({"stream_fingerprint": fingerprint} if fingerprint else {})})
    return cleaned


def matrix(result: Row) -> tuple[list[str], list[list[Any]]] | None:
    """Heads and rows of R[i, j], what was measured on set j after experience i; None when there is none."""
    rows = result.get("matrix")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        return None
    return ["after experience", *_sets(result, len(rows[0]))], [[i, *row] for i, row in enumerate(rows)]


def seen_accuracy(result: Row) -> list[tuple[int, float]]:
    """Accuracy over all samples of the sets learned by experience i, for every i where each of them was measured; none of text."""
    sets, rows = result.get("evaluation_sets") or [], result.get("matrix") or []
    if _world(result) != "accuracy":
        return []
    found = []
    for i, row in enumerate(rows):
        seen = [(entry["samples"], value) for entry, value in zip(sets, row, strict=False) if entry["learned_in"] <= i]
        if seen and all(value is not None for _, value in seen):
            found.append((i, sum(n * value for n, value in seen) / sum(n for n, _ in seen)))
    return found


def picture(result: Row, title: str) -> bytes | None:
    """The matrix as a heat map (PNG); None when there is no matrix or no matplotlib."""
    found = matrix(result)
    if found is None:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    heads, rows = found
    values = [[math.nan if value is None else value for value in row[1:]] for row in rows]
    high, wide = len(values), len(values[0])
    figure = Figure(figsize=(min(3.5 + 0.5 * wide, 12), min(2 + 0.4 * high, 10)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    kind = _world(result)
    better = kind == "accuracy"
    measured = [value for row in values for value in row if math.isfinite(value)]
    low, top = (0.0, 1.0) if better else (min(measured, default=0.0), max(measured, default=1.0))
    colours = "cividis" if better else "cividis_r"
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=top, aspect="auto", interpolation="nearest")
    axes.set(xlabel="evaluation set", ylabel="after experience")
    axes.set_title(_plain(shortened(title, 60)), fontsize=10)
    if wide <= 2 * WRITTEN_OUT:
        axes.set_xticks(range(wide), [_plain(shortened(name, 24)) for name in heads[1:]], rotation=30, ha="right", fontsize=8)
    if high <= 2 * WRITTEN_OUT:
        axes.set_yticks(range(high), [str(i) for i in range(high)])
    figure.colorbar(image, ax=axes, label=f"{kind} ({'higher' if better else 'lower'} is better)")
    if high <= WRITTEN_OUT and wide <= WRITTEN_OUT:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if math.isfinite(value):
                    ink = "black" if (value > (low + top) / 2) == better else "white"
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _world(result: Row) -> str:
    """What the matrix holds: `accuracy`, or `loss` of text."""
    return "loss" if "initial_loss" in result else "accuracy"


def _sets(result: Row, count: int) -> list[str]:
    named = [text(str(entry.get("name"))) for entry in result.get("evaluation_sets") or []]
    names = named if len(named) == count else [f"set {j}" for j in range(count)]
    return [name if names.count(name) == 1 else f"{name} ({j})" for j, name in enumerate(names)]


def _plain(value: str) -> str:
    """Dollar signs would begin a formula."""
    return value.replace("$", r"\$")


def _flat(values: Row, path: str) -> Row:
    found: Row = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{path}{name}/")
        elif isinstance(value, (int, float)):
            found[path + name] = value
    return found


def entries(rows: Sequence[Sequence[Any]]) -> int:
    return sum(map(len, rows))
