"""The page of language models: losses along the way and at the end, the bump, what was kept against what was learned, tokens, loss laws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...experiment.statistics import Estimate, estimate
from ..losses import POINTS, Line, Losses
from ..page import Block, Cell, Figure, Note, Page, Section, Table
from ..study import Study
from . import borders, laws, tokens
from .lines import border_lines, border_names, drawn, look_of, mark, rate_line
from .overview import estimates, interval
from .panels import LEGEND, number, short

BUDGET = 20_000
"""Points of all lines of a page together."""
EARLY = 0.1
"""Share of an experience from random weights whose losses, far above all others, do not count for the height of a figure."""
RANDOM = 0.85
"""Share of the loss of initial weights from which an experience counts as begun with such."""
WIDE = 0.25
"""Share of the span of means by which bands may enlarge a figure: a strategy that three seeds disagree on would flatten all others."""
PERPLEXITIES = ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,))
"""Leading digits of ticks of perplexity, the finest first."""
TICKS = 8


def page(study: Study) -> Page | None:
    """What a study of language models shows; None where accuracies are measured."""
    if not study.is_text:
        return None
    losses = Losses(study)
    if not losses.cells:
        return None
    note = Note([f"{losses.other} finished cells learned other corpora than the first cell and are left out."], "warning") if losses.other else None
    sections = [_curves(losses, note), _final(losses), borders.bumps(losses), borders.kept(losses), tokens.section(losses), laws.section(losses)]
    said = f"Losses in nats per token on held-out text of {' and '.join(losses.corpora[:4])}{' and more' if len(losses.corpora) > 4 else ''}; lower is better."
    return Page("text", "Text", said, [s for s in sections if s is not None and s.blocks])


def _curves(losses: Losses, note: Note | None) -> Section:
    most = max(40, min(POINTS, BUDGET // (len(losses.cells) * len(losses.shown))))
    rates = {label: losses.rates(label) for label in losses.cells}
    blocks: list[Block] = [] if note is None else [note]
    blocks += [_corpus(losses, j, losses.lines(losses.corpus(j), most), rates) for j in losses.shown]
    some = "" if len(losses.shown) == len(losses.corpora) else f" {len(losses.shown)} of {len(losses.corpora)} corpora are drawn."
    anew = " Strategies that take unequal numbers of steps begin the next corpus together." if len(losses.longest) > 1 and _unequal(losses) else ""
    return Section(
        "Loss while the model learns",
        f"A figure is a corpus, a line a strategy; vertical lines are borders, where the training text changes.{some}{anew}",
        blocks,
    )


def _unequal(losses: Losses) -> bool:
    return any([int(r["steps"]) for r in result["rates"]] != losses.longest for result in losses.results())


def _corpus(losses: Losses, j: int, lines: dict[str, Line], rates: dict[str, Any]) -> Figure:
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    seen: set[Any] = set()
    for label, line in lines.items():
        traces += drawn(losses, label, line, seen)
        end = losses.axis((losses.last, losses.reach(label, losses.last)))
        traces.append(mark(losses, label, end, final(losses, j)[label], "at the end: %{y:.4f}", 8, showlegend=False, cliponaxis=False))
        rows += [
            [label, i, step, losses.axis((i, step)), float(mean), number(float(low)), number(float(high)), math.exp(mean) if mean < 700 else None, line.n]
            for (i, step), mean, low, high in zip(line.places, line.mean, line.low, line.high, strict=True)
        ]
    traces += [rate_line(losses, label, logged, "y2") for label, logged in rates.items() if logged]
    low, high = _range(lines, losses.longest)
    whole = losses.starts[-1] + losses.longest[-1]
    traces.append({"type": "scatter", "mode": "markers", "x": [0], "y": [low], "yaxis": "y3", "opacity": 0, "showlegend": False, "hoverinfo": "skip"})
    ticks = perplexities(low, high)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "steps since the beginning of the stream"}, "anchor": "y2", "zeroline": False, "range": [0, whole]},
        "yaxis": {"title": {"text": "loss (nats per token)"}, "domain": [0.3, 1], "range": [low, high], "hoverformat": ".4f", "zeroline": False},
        "yaxis2": {"title": {"text": "learning rate"}, "domain": [0, 0.22], "rangemode": "tozero", "anchor": "x", "nticks": 4},
        "yaxis3": {
            "title": {"text": "perplexity"}, "overlaying": "y", "matches": "y", "side": "right", "anchor": "x", "range": [low, high], "showgrid": False,
            "tickvals": [math.log(p) for p in ticks], "ticktext": [f"{p:g}" for p in ticks], "zeroline": False,
        },
        "shapes": border_lines(losses),
        "annotations": border_names(losses),
        "margin": {"l": 60, "r": 60, "t": 30, "b": 45},
        "legend": LEGEND,
        "hovermode": "closest",
    }  # fmt: skip
    if not any(rates.values()):  # no log tells the rates
        layout["yaxis"]["domain"], layout["xaxis"]["anchor"] = [0, 1], "y"
        del layout["yaxis2"]
    seeds = max((line.n for line in lines.values()), default=0)
    text = (
        f"Loss on held-out text of {losses.corpora[j]}, mean over seeds{' with 95 % bands' if seeds > 1 else ''}; right: the perplexity it stands for. "
        f"Lower is better. Marks at the end: all validation text, with 95 % intervals.{' Below, the learning rate.' if any(rates.values()) else ''} "
        "Steep beginnings are cut off: zoom out to see them."
    )
    heads = ["strategy", "experience", "step", "step_of_stream", "loss", "low", "high", "perplexity", "n"]
    height = 520 + 20 * -(-len(lines) // 6) if "yaxis2" in layout else 420 + 20 * -(-len(lines) // 6)
    return Figure(f"loss_{j}", f"Loss on {losses.corpora[j]}", text, traces, layout, (heads, rows), height=height)


def final(losses: Losses, j: int, matrix: str = "matrix") -> dict[str, Estimate]:
    """By strategy the loss on corpus j at the end, over seeds; of `matrix_bits_per_byte` in bits per byte."""
    found = {}
    for label, own in losses.cells.items():
        values = [r[matrix][-1][j] for r in own.values() if r[matrix][-1][j] is not None]
        found[label] = estimate(values)
    return found


def perplexities(low: float, high: float) -> list[float]:
    """Round perplexities between two losses, as many as an axis has room for; of a span without any, its middle."""
    powers = range(max(0, int(low / math.log(10))), min(300, int(max(0.0, high) / math.log(10)) + 2))
    every = [[m * 10.0**k for k in powers for m in leading if low <= math.log(m) + k * math.log(10) <= high + 1e-9] for leading in PERPLEXITIES]
    return next((found for found in every if len(found) <= TICKS), every[-1][:TICKS]) or [float(f"{math.exp(min(700, (low + high) / 2)):.4g}")]


def _range(lines: dict[str, Line], longest: Sequence[int]) -> tuple[float, float]:
    """The span of the mean losses without the first steps from random weights, and of their bands as far as these do not dwarf it."""
    means: list[float] = []
    bands: list[float] = []
    for line in lines.values():
        initial, firsts = float(line.mean[0]), {i: float(mean) for (i, _), mean in zip(reversed(line.places), reversed(line.mean), strict=True)}
        edge = {i: EARLY * longest[i] for i, first in firsts.items() if first >= RANDOM * initial}
        late = [k for k, (i, step) in enumerate(line.places) if step >= edge.get(i, 0)]
        means += [float(line.mean[k]) for k in late]
        bands += [float(side[k]) for side in (line.low, line.high) for k in late if line.n > 1]
    if not means:
        return 0.0, 1.0
    low, high = min(means), max(means)
    room = high - low or 1.0
    return min(low - 0.04 * room, max(low - WIDE * room, min(bands, default=low))), max(high + 0.04 * room, min(high + WIDE * room, max(bands, default=high)))


def _final(losses: Losses) -> Section:
    study = losses.study
    found = {name: estimates(study, name) for name in ("final_loss", "final_perplexity", "final_bits_per_byte", "forgetting", "downstream_area")}
    order = sorted(losses.cells, key=lambda label: found["final_loss"][label].mean if label in found["final_loss"] else math.inf)
    by_corpus = {j: (final(losses, j), final(losses, j, "matrix_bits_per_byte")) for j in losses.shown}
    heads = ["strategy", "mean loss", "perplexity", "bits per byte"]
    heads += [f"{what} on {losses.corpora[j]}" for j in losses.shown for what in ("loss", "bits per byte")] if len(losses.corpora) > 1 else []
    more = {"forgetting": "forgetting", "downstream_area": "loss on the last corpus while it is learned"} if len(losses.corpora) > 1 else {}
    heads += [*more.values(), "n"]
    rows = []
    for label in order:
        cells: list[Any] = [Cell(label, label, look_of(losses, label).colour)]
        cells += [_shown(found[name].get(label)) for name in ("final_loss", "final_perplexity", "final_bits_per_byte")]
        cells += [_shown(part[label]) for j in losses.shown for part in by_corpus[j]] if len(losses.corpora) > 1 else []
        rows.append([*cells, *(_shown(found[name].get(label)) for name in more), len(losses.cells[label])])
    said = (
        "Measured on all validation text at the end, as the model would be deployed; mean ± half of the 95 % interval over seeds. "
        "Losses in nats per token; bits per byte do not depend on the tokenizer; perplexity is exp of the loss. Lower is better everywhere."
    )
    dots = [_dots(losses, j, by_corpus[j][0]) for j in losses.shown]
    return Section("Loss at the end", "", [Table("final_losses", "Final losses", heads, rows, said), *dots])


def _shown(value: Estimate | None) -> Cell | None:
    return None if value is None or not value.n else Cell(interval(value), value.mean)


def _dots(losses: Losses, j: int, found: dict[str, Estimate]) -> Figure:
    """The final loss on a corpus by strategy with its interval, seeds as pale marks."""
    labels = sorted((label for label in found if found[label].n), key=lambda label: -found[label].mean)
    traces: list[dict[str, Any]] = []
    for place, label in enumerate(labels):
        look, value = look_of(losses, label), found[label]
        seeds = [r["matrix"][-1][j] for r in losses.cells[label].values() if r["matrix"][-1][j] is not None]
        pale = {"marker": {"color": look.colour, "size": 6, "opacity": 0.35}, "showlegend": False, "name": short(label, 40), "hovertemplate": "%{x:.4f}"}
        traces.append({"type": "scatter", "mode": "markers", "x": seeds, "y": [place] * len(seeds), **pale})
        traces.append(mark(losses, label, value, place, "%{x:.4f}", showlegend=False))
    layout = {
        "xaxis": {"title": {"text": "loss (nats per token,<br>lower is better)"}},
        "yaxis": {
            "tickvals": list(range(len(labels))),
            "ticktext": [short(label, 24) for label in labels],
            "zeroline": False,
            "range": [-0.6, len(labels) - 0.4],
        },
        "margin": {"l": 10, "r": 15, "t": 30, "b": 45},
        "hovermode": "closest",
    }
    rows = [[label, v.mean, number(v.low), number(v.high), v.n] for label in reversed(labels) for v in [found[label]]]
    text = "Large marks: means with 95 % intervals over seeds; pale marks: single seeds. Best at the top."
    name = f"final_loss_{j}"
    return Figure(
        name,
        f"Final loss on {losses.corpora[j]}",
        text,
        traces,
        layout,
        (["strategy", "loss", "low", "high", "n"], rows),
        110 + 28 * len(labels),
        len(losses.shown) > 1,
    )
