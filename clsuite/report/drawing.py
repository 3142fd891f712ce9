"""Drawings for papers: the numbers of a page's figure at the width of a column or of the text, by matplotlib, without a title."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from .page import Figure
from .pages.panels import is_reference, runs
from .study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

COLUMN, TEXT = 3.3, 6.8
"""Widths in inches."""
HEIGHT, LETTER = 1.9, 0.066
"""Of axes, and the width of a letter, in inches."""
CROWDED = 8
"""Strategies beyond which curves get the width of the text."""
PANELS, ACROSS = 20, 4
"""Matrices of one drawing, and beside one another."""
STYLE = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.labelsize": 9,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "clsuite",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
}
DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.5)), "dashdot": (0, (5, 2, 1, 2)), "longdash": (0, (9, 3))}
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "X", "cross": "P", "star": "*"}


@contextmanager
def style() -> Iterator[None]:
    """Fonts, widths and how texts are stored, for everything that is drawn and saved inside."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):  # whatever the reader's own settings are
        yield


def shown(text: str, most: int = 26) -> str:
    """A name as matplotlib shows it letter by letter: a dollar would begin a formula, an underscore in front would hide it from a legend."""
    text = " ".join(text.split())
    if len(text) > most:
        text = f"{text[: (most - 1) * 3 // 5]}…{text[len(text) - (most - 1 - (most - 1) * 3 // 5) :]}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def title_of(axis: dict[str, Any], inches: float) -> str:
    """The title of an axis of a page, in lines that so many inches hold; what plotly would take for tags is text again."""
    text = str(axis.get("title", {}).get("text", "")).replace("<br>", " ")
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("$", r"\$")
    return textwrap.fill(text, max(10, int(inches / LETTER)))


def by_strategy(figure: Figure) -> dict[str, list[Sequence[Any]]]:
    """The rows of a figure's table by strategy, in their order."""
    found: dict[str, list[Sequence[Any]]] = {}
    for row in figure.table[1]:
        found.setdefault(str(row[0]), []).append(row)
    return found


def empty(width: float, height: float, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Drawing, Any]:
    """A drawing without any window behind it, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Made

    drawing = Made(figsize=(width, height))
    FigureCanvasAgg(drawing)
    return drawing, drawing.subplots(rows, columns, **more)


def look(study: Study, label: str) -> dict[str, Any]:
    """Colour, dash and marker of a strategy in matplotlib's words; references, which are bounds, are thin and dashed as on the page."""
    own = study.looks[label]
    if not study.is_text and is_reference(list(runs(study, label).values())):
        return {"color": own.colour, "linestyle": "--", "marker": MARKERS[own.marker], "linewidth": 0.8, "fillstyle": "none"}
    return {"color": own.colour, "linestyle": DASHES[own.dash], "marker": MARKERS[own.marker]}


def legend(drawing: Drawing, study: Study, labels: Sequence[str], width: float, lines: bool = True) -> None:
    """Names below the drawing, as many beside one another as the width holds."""
    from matplotlib.lines import Line2D

    styles = [look(study, label) for label in labels]
    handles = [Line2D([], [], **(s if lines else {**s, "linestyle": "none"})) for s in styles]
    columns = _columns(labels, width)
    drawing.legend(handles, [shown(label) for label in labels], loc="outside lower center", ncols=columns, columnspacing=1.0, handlelength=2.2)


def _columns(labels: Sequence[str], width: float) -> int:
    """Names that so many inches hold beside one another."""
    longest = max(len(shown(label)) for label in labels)
    return max(1, min(len(labels), int(width / (0.4 + 0.057 * longest))))


def room(labels: Sequence[str], width: float) -> float:
    """The height of the legend of so many names in inches."""
    return 0.16 * math.ceil(len(labels) / _columns(labels, width)) + 0.1


def dots(figure: Figure, study: Study) -> list[Drawing]:
    """A mark with its 95 % interval a strategy, the best at the top."""
    rows = {label: own[0] for label, own in by_strategy(figure).items()}
    at = 2 if figure.table[0][1] == "metric" else 1  # the mean, its low and its high end
    drawing, axes = empty(COLUMN, 0.55 + 0.17 * len(rows))
    for place, (label, row) in enumerate(rows.items()):
        mean, low, high = row[at : at + 3]
        error = None if missing(low) else [[mean - low], [high - mean]]
        own = look(study, label)
        axes.errorbar([mean], [place], xerr=error, capsize=2, elinewidth=1, **{**own, "linestyle": "none"})
    axes.set_yticks(range(len(rows)), [shown(label) for label in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(title_of(figure.layout["xaxis"], 0.6 * COLUMN))
    axes.grid(axis="x", linewidth=0.3, alpha=0.6)
    return [drawing]


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def curves(figure: Figure, study: Study) -> list[Drawing]:
    """Lines with bands and marks, as the page has them; below them the learning rate where the figure has one."""
    labels = list(by_strategy(figure))
    own = [t for t in figure.traces if t.get("legendgroup") in labels]
    rated = any(t.get("yaxis") == "y2" for t in own)
    width = TEXT if rated or len(labels) > CROWDED else COLUMN
    extra = {"sharex": True, "height_ratios": [3, 1]} if rated else {}
    drawing, made = empty(width, HEIGHT + 0.5 + (0.6 if rated else 0) + room(labels, width), 2 if rated else 1, 1, **extra)
    axes, lowest = (made[0], made[1]) if rated else (made, made)
    for trace in own:
        _trace(lowest if trace.get("yaxis") == "y2" else axes, trace, look(study, trace["legendgroup"]))
    for shape in figure.layout.get("shapes", ()):
        if shape["type"] == "rect":
            axes.axvspan(shape["x0"], shape["x1"], color="0.5", alpha=0.1, linewidth=0)
        else:
            for one in {axes, lowest}:
                one.axvline(shape["x0"], color="0.5", linewidth=0.6, linestyle=":")
    x, y = figure.layout["xaxis"], figure.layout["yaxis"]
    if x.get("type") == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    elif all(isinstance(v, int) for trace in own for v in trace["x"]):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if "range" in y:
        axes.set_ylim(*y["range"])
    if y.get("zeroline"):
        axes.axhline(0, color="0.5", linewidth=0.5)
    axes.set_ylabel(title_of(y, HEIGHT))
    lowest.set_xlabel(title_of(x, 0.8 * width))
    if rated:
        lowest.set_ylabel(title_of(figure.layout["yaxis2"], 0.3 * HEIGHT))
        lowest.set_ylim(bottom=0)
    legend(drawing, study, labels, width)
    return [drawing]


def _trace(axes: Axes, trace: dict[str, Any], style_: dict[str, Any]) -> None:
    """A line, a band or marks with intervals, in plotly's words, on axes of matplotlib."""
    x, y = ([math.nan if v is None else v for v in trace[key]] for key in ("x", "y"))
    if trace.get("fill") == "toself":
        for part in _parts(x, y):
            axes.fill([p for p, _ in part], [q for _, q in part], color=style_["color"], alpha=0.15, linewidth=0)
    elif trace["mode"].startswith("lines"):
        marked = "markers" in trace["mode"]
        thin = {"linewidth": 0.8} if trace.get("yaxis") == "y2" else {}
        axes.plot(x, y, **{**style_, **thin, "marker": style_["marker"] if marked else ""})
    else:
        error = trace.get("error_y")
        ends = None if error is None else [error["arrayminus"], error["array"]]
        axes.errorbar(x, y, yerr=ends, capsize=2, elinewidth=1, clip_on=False, **{**style_, "linestyle": "none"})


def _parts(x: Sequence[float], y: Sequence[float]) -> list[list[tuple[float, float]]]:
    """Points between gaps."""
    parts: list[list[tuple[float, float]]] = [[]]
    for point in zip(x, y, strict=True):
        if math.isnan(point[0]):
            parts.append([])
        else:
            parts[-1].append(point)
    return parts


def crosses(figure: Figure, study: Study) -> list[Drawing]:
    """A mark a strategy with 95 % intervals of both its coordinates."""
    rows = {label: own[0] for label, own in by_strategy(figure).items()}
    drawing, axes = empty(COLUMN, HEIGHT + 0.6 + room(list(rows), COLUMN))
    for label, row in rows.items():
        x, y = row[1:4], row[4:7]
        ends = [None if missing(low) else [[mean - low], [high - mean]] for mean, low, high in (x, y)]
        axes.errorbar([x[0]], [y[0]], xerr=ends[0], yerr=ends[1], capsize=2, elinewidth=0.8, **{**look(study, label), "linestyle": "none"})
    return _finished(drawing, axes, figure, study, list(rows))


def costs(figure: Figure, study: Study) -> list[Drawing]:
    """A mark a strategy at its cost, and the line that joins those nothing cheaper beats."""
    rows = {label: own[0] for label, own in by_strategy(figure).items()}
    drawing, axes = empty(COLUMN, HEIGHT + 0.6 + room(list(rows), COLUMN))
    front = sorted((row[1], row[2]) for row in rows.values() if row[3])
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color="0.5", linewidth=0.8, linestyle=":")
    for label, row in rows.items():
        axes.plot([row[1]], [row[2]], **{**look(study, label), "linestyle": "none"})
    axes.set_xscale("log")
    return _finished(drawing, axes, figure, study, list(rows))


def _finished(drawing: Drawing, axes: Axes, figure: Figure, study: Study, labels: Sequence[str]) -> list[Drawing]:
    axes.set_xlabel(title_of(figure.layout["xaxis"], 0.8 * COLUMN))
    axes.set_ylabel(title_of(figure.layout["yaxis"], HEIGHT))
    axes.grid(linewidth=0.3, alpha=0.6)
    legend(drawing, study, labels, COLUMN, lines=False)
    return [drawing]


def matrices(figure: Figure, study: Study) -> list[Drawing]:
    """Mean matrices beside one another on one scale from 0 to 1; several drawings where one would be too high."""
    every = list(by_strategy(figure).items())
    return [_matrices(every[k : k + PANELS], figure) for k in range(0, len(every), PANELS)]


def _matrices(found: Sequence[tuple[str, Sequence[Sequence[Any]]]], figure: Figure) -> Drawing:
    columns = min(ACROSS, len(found))
    rows = -(-len(found) // columns)
    drawing, made = empty(TEXT if columns > 2 else COLUMN, 0.45 + 1.65 * rows, rows, columns, squeeze=False)
    scale, image = figure.layout["coloraxis"], cast(Any, None)
    for k, axes in enumerate(made.flat):
        if k >= len(found):
            axes.set_axis_off()
            continue
        label, own = found[k]
        values = [[math.nan if v is None else v for v in row[2:]] for row in own]
        image = axes.imshow(values, cmap="cividis", vmin=scale["cmin"], vmax=scale["cmax"], aspect="auto", interpolation="nearest")
        axes.set_title(shown(label, 22))
        places = _ticks(len(own))
        axes.set_yticks(places, [str(own[p][1]) for p in places])
        axes.set_xticks(_ticks(len(values[0])))
        axes.spines[:].set_visible(False)
    drawing.supxlabel("evaluation set", fontsize=9)
    drawing.supylabel("after experience", fontsize=9)
    drawing.colorbar(image, ax=made, label=title_of(scale["colorbar"], 1.5), fraction=0.02, aspect=30)
    return drawing


def _ticks(count: int) -> list[int]:
    step = max(1, -(-count // 5))
    return list(range(0, count, step))


DRAWN: dict[str, Callable[[Figure, Study], list[Drawing]]] = {
    r"ranking_intervals|forgetting|final_loss_\d+": dots,
    r"average_accuracy|loss_\d+|bump|bump_over_hold|bump_over_hold_downstream": curves,
    r"cost": costs,
    r"forgetting_adaptation|plasticity_stability": crosses,
    r"matrix_mean": matrices,
}
"""How figures of pages are drawn for a paper, by their name; the others are for the screen."""


def drawings(figure: Figure, study: Study) -> list[Drawing]:
    """The drawings of a page's figure; none for one that is for the screen alone. Call and save them within `style`."""
    draw = next((draw for names, draw in DRAWN.items() if re.fullmatch(names, figure.name)), None)
    return draw(figure, study) if draw is not None and figure.table[1] else []
