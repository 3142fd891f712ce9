"""Strategies side by side: learning over the stream, accuracy matrices, what is kept and what is learned."""

from __future__ import annotations

from typing import Any

from ...experiment.statistics import Estimate
from ...training.metrics import IMAGE_NAMES
from ..page import Cell, Page, Section, Table
from ..study import Study
from ..text import METRICS
from . import balance, learning, matrices, predictions, tasks
from .overview import better, estimates, interval, words


def page(study: Study) -> Page | None:
    """The page of a study over images; None for one over text, whose losses have a page of their own, and where nothing is finished."""
    if study.is_text or not study.done:
        return None
    found = matrices.grids(study)
    maps, details = matrices.section(study, found)
    metrics = {metric: estimates(study, metric) for metric in dict.fromkeys((*study.columns, *IMAGE_NAMES))}
    sections = [_learning(study, found), maps, balance.section(study, metrics), _numbers(study, metrics)]
    lead = "What every strategy did over the stream: means over seeds with 95 % intervals, the same colour for the same strategy on every page."
    return Page("strategies", "Strategies", lead, [s for s in sections if s is not None], details)


def _learning(study: Study, found: dict[str, matrices.Grid]) -> Section | None:
    new = predictions.figure(study)
    drawn = [*learning.figures(study), *tasks.figures(found), *([new] if new is not None else [])]
    said = "Experience 0 is the first. References, which bound what others can reach, are drawn thin and dashed."
    return Section("Learning over the stream", said, drawn) if drawn else None


def _numbers(study: Study, found: dict[str, dict[str, Estimate]]) -> Section | None:
    shown = [metric for metric, values in found.items() if values]
    if not shown:
        return None
    rows = [_row(study, label, {metric: found[metric] for metric in shown}) for label in study.labels]
    heads = ["strategy", *(f"{words(m)} ({better(m)})" for m in shown), "n", "without a result"]
    notes = {k + 1: METRICS[m][1] for k, m in enumerate(shown) if m in METRICS}
    said = "Mean ± half of the 95 % interval over seeds; a click on a head sorts. Without a result: planned cells that failed or have not run."
    return Section("All numbers", "", [Table("metrics", "Metrics by strategy", heads, rows, said, search=len(rows) > 12, notes=notes)])


def _row(study: Study, label: str, found: dict[str, dict[str, Estimate]]) -> list[Any]:
    own = [o for o in study.final if o.label == label]
    good = sum(o.ok and o.result is not None for o in own)
    cells = [Cell(interval(values[label]), values[label].mean) if label in values else None for values in found.values()]
    return [Cell(label, label, study.looks[label].colour), *cells, good, len(own) - good]
