"""What a change of the training text costs: the rise right after the last border, and what is lost against what is learned."""

from __future__ import annotations

import math
from typing import Any

from ...experiment.scores import by_seed
from ...experiment.statistics import Estimate, estimate
from ...training.text_metrics import REFERRED
from ..losses import Line, Losses
from ..page import Block, Cell, Figure, Section, Table
from .lines import GREY, drawn, look_of, mark
from .overview import better, interval, words
from .panels import LEGEND, number, short

SHARE = 0.1
"""Of the last experience, in which the metric `bump` looks for the largest rise."""


def values(losses: Losses, metric: str) -> dict[str, Estimate]:
    """A metric by strategy over the seeds of what is reported."""
    phases = {o.phase for o in losses.study.final}
    phase = "run" if losses.study.experiment is None and "run" in phases else "evaluation"
    found = {label: estimate(list(by_seed(losses.study.final, label, metric, phase).values())) for label in losses.cells}
    return {label: value for label, value in found.items() if value.n}


def bumps(losses: Losses) -> Section | None:
    """The zoom on the rise after the last border; None where there is no border."""
    if losses.experiences < 2:
        return None
    anew = [label for label in losses.cells if losses.starts_anew(label)]
    rises = {label: line for label, line in losses.lines(losses.after_border).items() if label not in anew}
    blocks: list[Block] = []
    if rises:
        text = (
            "Loss on what was learned before the last border, above its value at the border, mean over seeds; lower is better, 0 is the border. "
            "Large marks are the bump: the largest rise within the first tenth of the steps (shaded), with its 95 % interval."
        )
        blocks.append(_zoom(losses, "bump", "The bump", text, rises, "rise of the loss (nats per token)", ("bump", "bump_step")))
    hold = {} if losses.study.experiment is None else losses.study.experiment.references
    if "hold" in hold and hold["hold"] in losses.cells:
        for name, metric, corpora, what in (
            ("bump_over_hold", "bump_over_hold", losses.earlier, "what was learned before"),
            ("bump_over_hold_downstream", "bump_over_hold_downstream", losses.latest, "what is learned there"),
        ):
            over = {label: line for label, line in losses.lines(losses.over(hold["hold"], corpora)).items() if label not in anew}
            if over:
                text = (
                    f"Loss on {what} above that of '{hold['hold']}' (the rate held as it was), at equal steps and seeds; above 0 is worse than holding. "
                    "Large marks: the largest excess within the first tenth (shaded), with its 95 % interval."
                )
                blocks.append(_zoom(losses, name, f"Bump over {hold['hold']}: {what}", text, over, "excess over hold (nats per token)", (metric, None), True))
    table = _table(losses)
    blocks += [table] if table is not None else []
    left = f" Left out are strategies whose model starts anew there: {', '.join(anew)}." if anew and blocks else ""
    return Section("The bump after the last border", f"What going on costs at first, on a logarithmic axis of steps.{left}", blocks)


def _zoom(losses: Losses, name: str, title: str, text: str, lines: dict[str, Line], axis: str, metrics: tuple[str, str | None], small: bool = False) -> Figure:
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    heights = values(losses, metrics[0])
    for label, line in lines.items():
        traces += drawn(losses, label, line, of_the_last=True)
        rows += [
            [label, s, float(m), number(float(a)), number(float(b)), line.n]
            for (_, s), m, a, b in zip(line.places, line.mean, line.low, line.high, strict=True)
        ]
        if label in heights:
            traces.append(mark(losses, label, _where(losses, label, line, metrics[1]), heights[label], "largest: %{y:.4f}", showlegend=False))
    edge = SHARE * losses.longest[-1]
    band = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": 1,
        "x1": max(1, edge),
        "y0": 0,
        "y1": 1,
        "line": {"width": 0},
        "fillcolor": GREY,
        "opacity": 0.1,
    }
    layout = {
        "xaxis": {
            "title": {"text": "steps after the border (log scale)"},
            "type": "log",
            "dtick": 1,
            "minor": {"dtick": "D1", "showgrid": False, "ticks": "outside"},
        },
        "yaxis": {"title": {"text": axis}, "zeroline": True, "zerolinewidth": 2, "hoverformat": ".4f"},
        "shapes": [{**band, "layer": "below"}],
        "hovermode": "closest",
        "legend": LEGEND,
    }
    return Figure(
        name, title, text, traces, layout, (["strategy", "step", "mean", "low", "high", "n"], rows), 420 + 20 * -(-len(lines) // (3 if small else 6)), small
    )


def _where(losses: Losses, label: str, line: Line, metric: str | None) -> float:
    """Where the mark of the largest rise stands: the step at which the middle seed has it, or that of the mean line."""
    if metric is not None:
        found = sorted(r["metrics"][metric] for r in losses.cells[label].values() if r["metrics"].get(metric) is not None)
        if found:
            return float(found[(len(found) - 1) // 2])
    early = [k for k, (_, step) in enumerate(line.places) if step <= max(1, SHARE * losses.longest[-1])]
    return line.places[max(early, key=lambda k: line.mean[k])][1] if early else 1


def _table(losses: Losses) -> Table | None:
    metrics = [m for m in ("bump", "bump_step", "recovery_step", *REFERRED) if values(losses, m)]
    if not metrics:
        return None
    found = {m: values(losses, m) for m in metrics}
    rows: list[list[Any]] = []
    for label, own in losses.cells.items():
        errors = [r["metrics"]["bump_error"] for r in own.values() if r["metrics"].get("bump_error") is not None]
        error = sum(errors) / len(errors) if errors else None
        cells = [Cell(interval(found[m][label]), found[m][label].mean) if label in found[m] else None for m in metrics]
        rows.append([Cell(label, label, look_of(losses, label).colour), *cells, error, len(own)])
    heads = ["strategy", *(f"{words(m)} ({better(m)})" for m in metrics), "error of the bump over windows", "n"]
    said = (
        "Mean ± half of the 95 % interval over seeds; rises in nats per token, steps counted from the border. "
        "Recovery: from this look on the rise stays at or below 0 three times, over the seeds in which it does. "
        "The last column is the standard error within a run, paired by validation window."
    )
    return Table("bumps", "Bumps and recovery", heads, rows, said)


def kept(losses: Losses) -> Section | None:
    """Forgetting against the loss on the last corpus, over policies; None where no strategy has both."""
    lost, learned = values(losses, "forgetting"), values(losses, "loss_last_corpus")
    labels = [label for label in losses.cells if label in lost and label in learned]
    if losses.experiences < 2 or not labels:
        return None
    last = losses.corpora[-1]
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for label in labels:
        own = [r["metrics"] for r in losses.cells[label].values() if r["metrics"]["forgetting"] is not None]
        pale = {
            "marker": {"color": look_of(losses, label).colour, "size": 6, "opacity": 0.35},
            "showlegend": False,
            "name": short(label, 40),
            "legendgroup": label,
        }
        seeds = {"x": [m["loss_last_corpus"] for m in own], "y": [m["forgetting"] for m in own]}
        traces.append({"type": "scatter", "mode": "markers", **seeds, **pale, "hovertemplate": "%{x:.4f}, %{y:.4f}"})
        x, y = learned[label], lost[label]
        traces.append(mark(losses, label, x, y, "%{x:.4f}, %{y:.4f}", 12))
        rows.append([label, *(v for e in (x, y) for v in (e.mean, number(e.low), number(e.high))), x.n])
    layout = {
        "xaxis": {"title": {"text": f"loss on {short(last)} at the end<br>(nats per token, lower is better)"}},
        "yaxis": {"title": {"text": "forgetting (nats per token,<br>lower is better)"}, "zeroline": True, "zerolinewidth": 2},
        "legend": LEGEND,
        "hovermode": "closest",
    }
    text = (
        f"Down is what is kept: the rise of the loss on earlier corpora since each was learned. Left is what is learned: the loss on {last}. "
        "Best is the lower left corner. Large marks are means with 95 % intervals over seeds, pale ones single seeds."
    )
    heads = ["strategy", "loss_last_corpus", "low", "high", "forgetting", "low", "high", "n"]
    figure = Figure("forgetting_adaptation", "Forgetting against adaptation", text, traces, layout, (heads, rows), 460 + 20 * -(-len(labels) // 6))
    errors = [r["metrics"].get("forgetting_error") for own in losses.cells.values() for r in own.values()]
    known = [e for e in errors if e is not None and math.isfinite(e)]
    within = f" Within a run its standard error over validation windows is {sum(known) / len(known):.4f} on average." if known else ""
    left = [label for label in losses.cells if label not in labels]
    said = f"Forgetting is compared after annealing, where a policy anneals.{within}" + (f" Not defined for {', '.join(left)}." if left else "")
    return Section("What is kept, and what is learned", said, [figure])
