"""Loss curves that a law predicts from a few strategies' curves, against what the others measured."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...schedule import in_steps
from ..colours import faded
from ..losses import Losses, steps_of
from ..page import Block, Cell, Figure, Note, Section, Table
from ..text import some
from .lines import GREY, border_lines, look_of, rounded

HELD_OUT = 8
"""Curves that are drawn with their prediction."""
MOST = 16
"""Strategies whose curves are read."""
POINTS = 200
EARLY = 0.1
"""Share of an experience whose losses, far above all others, do not count for the height of a figure."""
FREE = ("schedule", "learning_rate", "border_optimizer", "border_schedule", "border_start_from", "border_rewarm", "border_peak_scale")
"""Settings of training in which the curves of one law may differ: those of the rate."""


def section(losses: Losses) -> Section | None:
    """Fit a law to some curves and predict the others; None where too few strategies differ in the learning rate alone.

    Over one corpus the law is fitted to training losses of the first strategy that anneals and of one with a constant rate, if there is one.
    Over two it is that of continual pre-training, once for each validation set, fitted to every second strategy.
    """
    labels = _alike(losses)[:MOST]
    if losses.experiences > 2 or len(labels) < 1 + losses.experiences:
        return None
    blocks: list[Block] = []
    if losses.experiences == 1:
        blocks += _blocks(losses, labels, "annealing", None)
    else:
        for j in (0, len(losses.corpora) - 1):
            blocks += _blocks(losses, labels, "continual", j)
    said = (
        "A law is fitted to the curves of some strategies, one seed each; the other curves then follow from their learning rates alone. "
        "R2 flatters: the steep beginning makes most of a curve's variance."
    )
    return Section("What a loss law predicts", said, blocks) if blocks else None


def _alike(losses: Losses) -> list[str]:
    """The most strategies that differ in settings of the rate alone, as far as they have the seed that is looked at."""
    groups: dict[str, list[str]] = {}
    for label, own in losses.cells.items():
        if _seed(losses) not in own:
            continue
        spec = own[_seed(losses)]["spec"]
        training = {k: v for k, v in spec["training"].items() if k not in FREE}
        groups.setdefault(json.dumps([spec["scenario"], spec["model"], spec["strategy"], training], sort_keys=True), []).append(label)
    return max(groups.values(), key=len, default=[])


def _seed(losses: Losses) -> int:
    """The seed that most strategies have."""
    counts: dict[int, int] = {}
    for own in losses.cells.values():
        for seed in own:
            counts[seed] = counts.get(seed, 0) + 1
    return min(counts, key=lambda seed: (-counts[seed], seed))


def _folder(losses: Losses, label: str) -> Path:
    return losses.study.folder_of(losses.ids[label, _seed(losses)])


def _warmup(losses: Losses, label: str) -> int:
    """Steps of warm-up of a strategy's schedule: few of them are logged, so that its curve does not tell."""
    result = losses.cells[label][_seed(losses)]
    return in_steps(result["spec"]["training"]["schedule"].get("warmup") or 0, steps_of(result)[0], "warmup")


def _curves(losses: Losses, labels: Sequence[str], j: int | None) -> dict[str, Any]:
    """Curves of training losses, or of losses on the validation text of corpus j, by strategy."""
    from ...prediction.reader import read_curve

    found = {}
    for label in labels:
        try:
            columns = {} if j is None else {"loss": f"losses.{j}"}
            found[label] = replace(read_curve(_folder(losses, label), columns, _warmup(losses, label)), name=label)
        except UsageError:
            continue  # a log that is not there, or with too few looks: the others may do
    return found


def _fitting(curves: dict[str, Any], law: str) -> list[str]:
    if law == "continual":
        return list(curves)[::2]
    found = [next((label for label, c in curves.items() if c.rates.constant is still), None) for still in (False, True)]
    # one that anneals is enough to fit, and one has to be left to predict
    return [label for label in found if label is not None][: max(1, len(curves) - 1)] if found[0] is not None else []


def _blocks(losses: Losses, labels: Sequence[str], law: str, j: int | None) -> list[Block]:
    from threadpoolctl import threadpool_limits

    from ...prediction.study import study

    curves = _curves(losses, labels, j)
    fitting = _fitting(curves, law)
    others = [label for label in curves if label not in fitting]
    if not fitting or not others:
        return []
    try:
        with threadpool_limits(1):  # the matrices are tiny: threads would take tens of times longer
            found = study([curves[label] for label in fitting], [curves[label] for label in others], [], law)
    except UsageError:
        return []
    name = "law" if j is None else f"law_{j}"
    what = "training losses" if j is None else f"losses on {losses.corpora[j]}"
    judged = {one.curve.name: one for one in found.curves}
    drawn = [others[k] for k in some(len(others), HELD_OUT // losses.experiences)]
    figures = [_figure(losses, judged[label], f"{name}_{k}", what) for k, label in enumerate(drawn)]
    ends = found.fit.at_limit()
    remarks = [
        f"Law: {found.fit.law.formula} ({found.fit.law.source}), lambda {found.fit.law.momentum:g}.",
        f"Fitted to {what} of {' and '.join(fitting)}, seed {_seed(losses)}.",
        *([f"Not determined by these curves, ended at a limit: {', '.join(ends)}."] if ends else []),
    ]
    again = Note([_command(losses, fitting, others, law, j)], "log", "The same at the command line, where other laws and curves can be tried")
    return [_table(losses, judged, [*fitting, *others], name, what), *figures, Note(remarks), again]


def _command(losses: Losses, fitting: Sequence[str], others: Sequence[str], law: str, j: int | None) -> str:
    words = ["clsuite", "predict", *(str(_folder(losses, label)) for label in fitting)]
    for label in others:
        words += ["--held-out", str(_folder(losses, label))]
    words += ["--law", law, "--warmup", str(_warmup(losses, fitting[0]))]
    return shlex.join([*words, *([] if j is None else ["--columns", f"loss=losses.{j}"])])


def _table(losses: Losses, judged: dict[str, Any], labels: Sequence[str], name: str, what: str) -> Table:
    rows = []
    for label in labels:
        found = judged[label].document()
        without, end, predicted = found["without_annealing"], found["final_loss"], found["predicted_final_loss"]["value"]
        errors = [found["mean_absolute_error"], found["r2"], end, predicted, predicted - end, without["mean_absolute_error"], without["r2"]]
        rows.append([Cell(label, label, look_of(losses, label).colour), "fitted" if found["fitted"] else "predicted", *errors])
    heads = ["strategy", "curve", "mean absolute error", "R2", "last loss", "predicted", "error at the end", "error without annealing", "R2 without annealing"]
    said = (
        "In nats per token. Errors: nearer to 0 is better; R2: 1 is best. "
        "Without annealing: L0 + A S1^-alpha fitted to the same curves, which knows neither how the rate falls nor that the text changes."
    )
    return Table(name, f"Predicted against measured {what}", heads, rows, said)


def _figure(losses: Losses, judged: Any, name: str, what: str) -> Figure:
    label, curve, prediction = judged.curve.name, judged.curve, judged.prediction
    colour, kept = look_of(losses, label).colour, some(len(judged.curve), POINTS)
    x = [int(curve.steps[k]) + 1 for k in kept]

    def at(values: Any) -> list[float]:
        return [rounded(float(values[k])) for k in kept]

    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": x}
    area = {"fill": "toself", "fillcolor": faded(colour, 0.15), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    traces: list[dict[str, Any]] = [
        {**line, "x": x + x[::-1], "y": at(prediction.low) + at(prediction.high)[::-1], **area},
        {**line, "mode": "markers", "y": at(curve.losses), "name": "measured", "marker": {"color": GREY, "size": 4}},
        {**line, "y": at(judged.baseline.losses), "name": "without annealing", "line": {"color": GREY, "dash": "dash", "width": 1.5}},
        {**line, "y": at(prediction.losses), "name": "predicted", "line": {"color": colour, "width": 2}},
    ]
    late = [k for k, step in enumerate(x) if step >= EARLY * losses.longest[0]]
    span = [trace["y"][k] for trace in traces[1:] for k in late]
    room = 0.05 * (max(span) - min(span) or 1.0)
    layout = {
        "xaxis": {"title": {"text": "steps since the beginning of the stream"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "loss (nats per token)"}, "range": [min(span) - room, max(span) + room]},
        "margin": {"l": 60, "r": 10, "t": 40, "b": 45},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "shapes": border_lines(losses),
        "hovermode": "closest",
    }
    found = judged.document()
    columns = (curve.losses, prediction.losses, prediction.low, prediction.high, judged.baseline.losses)
    rows = [[step, *(float(values[k]) for values in columns)] for step, k in zip(x, kept, strict=True)]
    text = (
        f"{what.capitalize()}: mean absolute error {found['mean_absolute_error']:.4f} nats, R2 {found['r2']:.4f}. "
        "The band holds 95 % of measured losses where the law is right."
    )
    return Figure(name, label, text, traces, layout, (["step", "measured", "predicted", "low", "high", "without_annealing"], rows), 320, True)
