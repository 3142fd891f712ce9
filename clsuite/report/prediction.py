"""`clsuite predict`: parameters with intervals, errors on every curve, candidates in order, and a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, unknown
from ..prediction.candidates import candidate, with_schedule
from ..prediction.curve import Curve
from ..prediction.reader import read_curve
from ..prediction.study import LAWS, Judged, Study, study
from ..prediction.tables import parse_columns
from .prediction_drawing import check_form, write_drawing
from .text import console, emit, some, table

WIDTH, HEIGHT = 72, 16

Table = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]


def predict_command(
    curves: Sequence[Path],
    *,
    law: str,
    momentum: str,
    held_out: Sequence[Path],
    schedules: Sequence[str],
    steps: int | None,
    peak: float | None,
    rank: bool,
    columns: str | None,
    warmup: int | None,
    boundary: int | None,
    rates: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """Read, fit, judge, rank, show; everything that can be refused is refused before the fit."""
    if law not in LAWS:
        raise unknown("law", law, LAWS)
    if out is not None:
        check_form(out)
    given, meanings = _lambda(momentum), parse_columns(columns)
    fitting = [read_curve(path, meanings, warmup, boundary) for path in curves]
    others = [read_curve(path, meanings, warmup, boundary) for path in held_out]
    fitting, others = _with_rates(fitting, others, rates)
    LAWS[law]().check([(c.name, c.rates) for c in fitting])
    found = study(fitting, others, [candidate(text, fitting, steps, peak) for text in schedules], law, given)
    if out is not None:
        write_drawing(found, out, _tables(found, rank=True))
    if as_json:
        return emit(found.document())
    return _show(found, rank, out)


def _lambda(text: str) -> float | None:
    """A number, or None for `fit`."""
    if text == "fit":
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise UsageError(f"--lambda = '{text}' is not valid: expected a number > 0 and < 1, or fit")
    return value


def _with_rates(fitting: list[Curve], others: list[Curve], rates: Sequence[str]) -> tuple[list[Curve], list[Curve]]:
    """The curves, those that `--rates NAME=SCHEDULE` names with the rates of the schedule."""
    for text in rates:
        name, equals, schedule = text.partition("=")
        names = [c.name for c in [*fitting, *others]]
        if not equals:
            raise UsageError(f"--rates '{text}' is not valid: expected the name of a curve, '=' and a schedule with horizon and learning_rate")
        if name not in names:
            raise unknown("curve in --rates", name, names)
        fitting, others = ([with_schedule(c, schedule) if c.name == name else c for c in group] for group in (fitting, others))
    return fitting, others


def _show(found: Study, rank: bool, out: Path | None) -> None:
    screen, law = console(), found.fit.law
    chosen = ", chosen on the fitting curves" if found.momentum_chosen else ""
    settings = "".join(f", {key} {value:g}{chosen}" for key, value in law.settings().items())
    screen.print(f"{law.title}{settings} ({law.source})", style="bold")
    screen.print(law.formula, soft_wrap=True)
    for title, head, rows in _tables(found, rank):
        left = 1 if head[0] != "place" else 2
        right = range(left, len(head) - (2 if head[0] == "parameter" else 0))
        screen.print(table(title, head, rows, right=tuple(right)))
        if head[0] == "parameter":
            _remarks(screen, found)
    if rank:
        for line in _correlations(found):
            screen.print(line, soft_wrap=True)
    shown = max((j for j in found.curves if not j.fitted), key=_error, default=max(found.curves, key=_error))
    screen.print(f"{shown.curve.name}: the {'fitted' if shown.fitted else 'held-out'} curve that is predicted worst (o measured, * predicted)", style="bold")
    screen.print(plot(shown), soft_wrap=True)
    for judged in found.curves:
        if judged.curve.assumed:
            screen.print(f"{judged.curve.name}: assumed {'; '.join(judged.curve.assumed)}", soft_wrap=True)
    if out is not None:
        screen.print(f"drawing: {out}", soft_wrap=True)


def _remarks(screen: Any, found: Study) -> None:
    trust = found.fit.trust
    screen.print(
        f"n = {found.fit.rows} losses; residuals scatter by {100 * trust.spread:.2f} % and resemble their neighbours (correlation {trust.correlation:.2f}),"
        " which the intervals allow for; they cover parameters and scatter, not another run, nor a schedule for which the law is wrong",
        soft_wrap=True,
    )
    ends = found.fit.at_limit()
    if ends:
        screen.print(f"not determined by these curves (ended at a limit): {', '.join(ends)}", soft_wrap=True)


def _tables(found: Study, rank: bool) -> list[Table]:
    """What is shown, as title, head and rows: on a terminal and on a page alike."""
    intervals = found.fit.intervals()
    parameters = [(p.name, _figure(found.fit.parameters[p.name]), _between(*intervals[p.name]), p.unit, p.meaning) for p in found.fit.law.parameters]
    tables: list[Table] = [("Parameters", ("parameter", "value", "95 % interval", "unit", "meaning"), parameters)]
    head = (
        "curve",
        "n",
        "mean abs. error",
        "RMSE",
        "R2",
        "worst",
        "final loss",
        "error there",
        "in interval",
        "without annealing: mean abs. error",
        "R2",
        "error at end",
    )
    for title, fitted in (("Held-out curves", False), ("Fitted curves (in sample)", True)):
        rows = [_judged(j) for j in found.curves if j.fitted is fitted]
        if rows:
            tables.append((title, head, rows))
    if found.candidates:
        rows = []
        for k, one in enumerate(found.candidates):
            p, (gap, half) = one.prediction, one.gap
            above = "best" if k == 0 else f"{gap:.4f} ± {half:.4f}"
            interval = f"{p.losses[-1]:.4f} [{p.low[-1]:.4f}, {p.high[-1]:.4f}]"
            steps = len(one.candidate.rates) - (one.candidate.rates.boundary or 0)
            rows.append((k + 1, one.candidate.text, f"{steps:,}", f"{one.candidate.rates.warmup:,}", interval, above, f"{one.baseline.losses[-1]:.4f}"))
        tables.append(
            ("Candidate schedules", ("place", "schedule", "steps", "warm-up", "predicted final loss, 95 %", "above the best", "without annealing"), rows)
        )
    if rank:
        tables.append(_places(found))
    return tables


def _judged(judged: Judged) -> tuple[Any, ...]:
    d = judged.document()
    b = d["without_annealing"]
    errors = (f"{d['mean_absolute_error']:.4f}", f"{d['root_mean_squared_error']:.4f}", f"{d['r2']:.4f}", f"{d['worst_error']:.4f}")
    end = (f"{d['final_loss']:.4f}", f"{d['final_loss_error']:+.4f}", f"{100 * d['inside_interval']:.0f} %")
    return (d["name"], d["losses"], *errors, *end, f"{b['mean_absolute_error']:.4f}", f"{b['r2']:.4f}", f"{b['final_loss_error']:+.4f}")


def _places(found: Study) -> Table:
    """All curves by measured final loss, with their places by prediction."""
    measured = sorted(found.curves, key=lambda j: float(j.curve.losses[-1]))
    places = {}
    for key in ("prediction", "baseline"):
        places[key] = [id(j) for j in sorted(found.curves, key=lambda j, key=key: float(getattr(j, key).losses[-1]))]  # type: ignore[misc]
    rows = [
        (
            k + 1,
            j.curve.name,
            f"{j.curve.losses[-1]:.4f}",
            f"{j.prediction.losses[-1]:.4f}",
            places["prediction"].index(id(j)) + 1,
            places["baseline"].index(id(j)) + 1,
        )
        for k, j in enumerate(measured)
    ]
    return "Ranking of final losses", ("place", "curve", "measured", "predicted", "place by law", "place without annealing"), rows


def _correlations(found: Study) -> list[str]:
    ranks = found.rank()
    lines = []
    for key, name in (("law", found.fit.law.title), ("without_annealing", "without annealing")):
        value = ranks[key]
        if value is None:
            return [f"rank correlation needs three {ranks['over']}"]
        tau, rho = (("-" if value[k] is None else f"{value[k]:.3f}") for k in ("kendall", "spearman"))
        lines.append(f"rank correlation over {value['n']} {ranks['over']}, {name}: Kendall {tau}, Spearman {rho}")
    return lines


def plot(judged: Judged, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Measured (o) and predicted (*) losses in plain characters; where both fall together the prediction is shown."""
    shown = [k + len(judged.curve) // 33 for k in some(len(judged.curve) - len(judged.curve) // 33, width)]
    measured, predicted = judged.curve.losses[shown], judged.prediction.losses[shown]
    low, high = float(min(measured.min(), predicted.min())), float(max(measured.max(), predicted.max()))
    room = max(high - low, 1e-12)
    grid = [[" "] * len(shown) for _ in range(height)]
    for values, sign in ((measured, "o"), (predicted, "*")):
        for x, value in enumerate(values.tolist()):
            grid[height - 1 - round((height - 1) * (value - low) / room)][x] = sign
    labels = {0: f"{high:.3f}", height // 2: f"{high - room * (height // 2) / (height - 1):.3f}", height - 1: f"{low:.3f}"}
    lines = [f"{labels.get(k, ''):>9} |{''.join(row).rstrip()}" for k, row in enumerate(grid)]
    first, last = str(judged.curve.steps[shown[0]]), str(judged.curve.steps[-1])
    return "\n".join([*lines, f"{'':>9} +{'-' * len(shown)}", f"{'step':>9}  {first}{last:>{max(len(shown) - len(first), len(last) + 1)}}"])


def _error(judged: Judged) -> float:
    return float(abs(judged.prediction.losses - judged.curve.losses).mean())


def _figure(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:.4f}"


def _between(low: float, high: float) -> str:
    return f"[{_figure(low)}, {_figure(high)}]"
