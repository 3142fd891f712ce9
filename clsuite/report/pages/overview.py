"""The first page: what was asked, how the numbers came about, the ranking, what it cost, what failed."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ...experiment.grid import Outcome
from ...experiment.prefix import computed_seconds
from ...experiment.scores import by_seed, chosen
from ...experiment.statistics import Estimate, estimate, ranks
from ...experiment.verdicts import judge
from ...training.metrics import LOWER
from ..findings import OPTIMISM, failure_lines, optimism_lines, optimism_rows, passes
from ..page import Block, Cell, Figure, Note, Page, Section, Steps, Table
from ..study import Study
from ..text import METRICS

FAILURES = 12
"""Failed cells whose log is shown."""


def page(study: Study) -> Page:
    """The overview of a study; there always is one."""
    sections = [_asked(study), _ranking(study), _cost(study), _verdicts(study), _optimism(study), _failures(study)]
    lead = study.about or f"What {study.folder} holds."
    return Page("index", "Overview", lead, [s for s in sections if s is not None and s.blocks])


def words(metric: str) -> str:
    """A metric as people write it."""
    return metric.replace("_", " ")


def better(metric: str) -> str:
    return "lower is better" if metric in LOWER else "higher is better"


def estimates(study: Study, metric: str) -> dict[str, Estimate]:
    """Mean and 95 % interval of a metric by strategy, over the seeds of what is reported; strategies without a value are left out."""
    phase = "run" if study.experiment is None and any(o.phase == "run" for o in study.outcomes) else "evaluation"
    found = {label: estimate(list(by_seed(study.final, label, metric, phase).values())) for label in study.labels}
    return {label: value for label, value in found.items() if value.n}


def interval(value: Estimate) -> str:
    """`0.8412 ± 0.0123`, the half of the 95 % interval; without it where one seed tells no spread."""
    digits = 4 if abs(value.mean) < 10 else 1
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(value.low) else f" ± {(value.high - value.low) / 2:.{digits}f}")


def _asked(study: Study) -> Section:
    counts = Counter(o.status for o in study.outcomes)
    state = f"{counts['ok']} of {len(study.outcomes)} cells are finished" + (
        f", {sum(counts.values()) - counts['ok'] - counts['missing']} failed" if counts else ""
    )
    seconds, _ = computed_seconds([o.result for o in study.outcomes if o.result is not None])
    facts = [*_scenario_line(study), f"{state}; {seconds / 60:.1f} minutes of computing in all."]
    blocks: list[Block] = [_protocol(study)] if study.experiment is not None else []
    blocks.append(Note(facts))
    if study.problems:
        blocks.append(Note(study.problems, "warning", "What is missing here"))
    return Section("What was asked, and how the numbers came about", "", blocks)


def _scenario_line(study: Study) -> list[str]:
    row = study.rows[0] if study.outcomes and study.rows else {}
    named = [str(row[k]) for k in ("scenario", "dataset", "model") if row.get(k)]
    seeds = "" if study.experiment is None else f", seeds {', '.join(map(str, study.experiment.seeds))}"
    return [f"Stream, data and model: {', '.join(named)}. {len(study.labels)} strategies{seeds}."] if named else []


def _protocol(study: Study) -> Steps:
    experiment = study.experiment
    assert experiment is not None
    protocol, tuning = experiment.protocol, experiment.tuning
    seeds = f"{len(experiment.seeds)} seeds"
    if not protocol.tunes:
        return Steps(
            [("Settings as the file gives them", "nothing is tuned"), ("All data", f"every strategy, {seeds}")],
            "Protocol fixed: what is compared are these settings, not what each strategy can do at its best.",
        )
    trials = f"{tuning.trials} trials a strategy ({tuning.sampler}), by {words(tuning.select_on)}"
    if protocol.leaky:
        held = "its test set" if tuning.validation is None else f"a share of {tuning.validation:g} of its training samples"
        return Steps(
            [("The stream that is reported", f"{trials}, scored on {held}"), ("Best settings", "by strategy"), ("The same stream", seeds)],
            "Protocol conventional: tuned where it is reported, as most published tables are. Scores are too good, by amounts that differ between strategies.",
        )
    data = {"two-phase": ("One part of the data", "the other part"), "first-experiences": ("The first experiences", "the later experiences")}[protocol.name]
    return Steps(
        [
            (data[0], trials),
            ("Frozen settings", "best by strategy, sealed before anything is evaluated"),
            (data[1].capitalize(), f"unchanged settings, {seeds}"),
        ],
        f"Protocol {protocol.name}: the two parts share no sample, so what is shown was never looked at while settings were chosen.",
    )


def _ranking(study: Study) -> Section | None:
    if not study.columns:
        return None
    tuned = {} if study.experiment is None else chosen(study.experiment, study.outcomes)
    found = {metric: estimates(study, metric) for metric in study.columns}
    shown = [metric for metric in study.columns if found[metric]]
    if not shown:
        return None
    order = sorted(found[shown[0]], key=lambda label: found[shown[0]][label].mean * (1 if shown[0] in LOWER else -1))
    tunes = study.experiment is not None and bool(study.experiment.spaces)
    after = _ranks_after(study, tuned)
    heads = [
        "strategy",
        *(f"{words(m)} ({better(m)})" for m in shown),
        *(["rank in tuning", "rank in evaluation"] if tunes else []),
        "backward passes",
        "seconds",
        "n",
    ]
    rows = []
    for label in order:
        cells = [Cell(interval(found[m][label]), found[m][label].mean) if label in found[m] else None for m in shown]
        ranked = [tuned[label].rank if label in tuned else None, Cell(f"{after[label]:g}", after[label]) if label in after else None] if tunes else []
        passed, seconds = _mean([passes(o) for o in study.done if o.label == label]), _mean([_seconds(o) for o in study.done if o.label == label])
        look = study.looks[label]
        rows.append(
            [Cell(label, label, look.colour), *cells, *ranked, Cell(f"{passed:,.0f}", passed), Cell(f"{seconds:,.1f}", seconds), found[shown[0]][label].n]
        )
    notes = {k + 1: METRICS[m][1] for k, m in enumerate(shown) if m in METRICS}
    said = "Mean ± half of the 95 % interval over seeds; differences between strategies are judged by pairs of seeds below, not by whether intervals overlap."
    table = Table("ranking", "Ranking", heads, rows, said, notes=notes)
    return Section("Which strategy is best", f"Sorted by {words(shown[0])}, {better(shown[0])}.", [table, _dots(study, shown[0], found[shown[0]], order)])


def _ranks_after(study: Study, tuned: dict[str, Any]) -> dict[str, float]:
    if study.experiment is None:
        return {}
    means = {label: c.evaluation for label, c in tuned.items() if c.evaluation is not None}
    return ranks(means, study.experiment.tuning.select_on not in LOWER) if means else {}


def _dots(study: Study, metric: str, found: dict[str, Estimate], order: list[str]) -> Figure:
    phase = "run" if study.experiment is None and study.final and study.final[0].phase == "run" else "evaluation"
    traces: list[dict[str, Any]] = []
    for label in reversed(order):
        look, value, values = study.looks[label], found[label], by_seed(study.final, label, metric, phase)
        error = (
            {}
            if math.isnan(value.low)
            else {"error_x": {"type": "data", "array": [value.high - value.mean], "arrayminus": [value.mean - value.low], "thickness": 2}}
        )
        single = {"type": "scatter", "mode": "markers", "y": [label] * len(values), "x": list(values.values()), "showlegend": False}
        traces.append(
            {**single, "marker": {"color": look.colour, "size": 6, "opacity": 0.35}, "hovertext": [f"{label}, seed {s}" for s in values], "hoverinfo": "text+x"}
        )
        mean = {"type": "scatter", "mode": "markers", "x": [value.mean], "y": [label], "showlegend": False, "name": label, **error}
        traces.append({**mean, "marker": {"color": look.colour, "size": 11, "symbol": look.marker}})
    layout = {
        "xaxis": {"title": {"text": f"{words(metric)} ({better(metric)})"}},
        "yaxis": {"type": "category"},
        "margin": {"l": 10, "r": 20, "t": 10, "b": 50},
    }
    rows = [[label, found[label].mean, found[label].low, found[label].high, found[label].n] for label in order]
    text = f"Large marks are means with 95 % intervals over seeds, pale ones single seeds; {better(metric)}."
    heads = ["strategy", metric, "low", "high", "n"]
    return Figure("ranking_intervals", f"{words(metric).capitalize()} with its uncertainty", text, traces, layout, (heads, rows), height=90 + 30 * len(order))


def _cost(study: Study) -> Section | None:
    metric = study.columns[0] if study.columns else ""
    found = estimates(study, metric) if metric else {}
    costs = {label: _mean([passes(o) for o in study.done if o.label == label]) for label in found}
    points = {label: (costs[label], found[label].mean) for label in found if costs[label] > 0}
    if len(points) < 2:
        return None
    front = pareto(points, metric in LOWER)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [points[n][0] for n in front],
            "y": [points[n][1] for n in front],
            "line": {"color": "#888888", "dash": "dot", "shape": "hv"},
            "name": "nothing is cheaper and better",
            "hoverinfo": "skip",
        }
    ]
    for label, (cost, mean) in points.items():
        look = study.looks[label]
        mark = {"color": look.colour, "size": 12, "symbol": look.marker}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [cost],
                "y": [mean],
                "marker": mark,
                "name": label,
                "hovertext": [f"{label}: {mean:.4f} at {cost:,.0f} backward passes"],
                "hoverinfo": "text",
            }
        )
    layout = {
        "xaxis": {"type": "log", "title": {"text": "backward passes (samples, log scale; lower is cheaper)"}},
        "yaxis": {"title": {"text": f"{words(metric)} ({better(metric)})"}},
    }
    rows = [[label, *points[label], label in front] for label in points]
    text = "A mark is a strategy: its mean over seeds against the samples it passed backwards through a network. The dotted line joins those no other beats."
    figure = Figure(
        "cost", f"{words(metric).capitalize()} against cost", text, traces, layout, (["strategy", "backward_passes", metric, "on the front"], rows), height=480
    )
    return Section("What it cost", "Passes count the work itself, whatever machine it ran on.", [figure])


def pareto(points: dict[str, tuple[float, float]], lower: bool) -> list[str]:
    """The strategies that no other one equals or beats at less or equal cost, by rising cost."""
    front: list[str] = []
    sign = 1 if lower else -1
    for name in sorted(points, key=lambda n: (points[n][0], sign * points[n][1])):
        if not front or sign * points[name][1] < sign * points[front[-1]][1]:
            front.append(name)
    return front


def _verdicts(study: Study) -> Section | None:
    if study.experiment is None or not study.experiment.expectations:
        return None
    rows = []
    for expectation in study.experiment.expectations:
        v = judge(expectation, study.experiment, study.outcomes)
        d = v.difference
        rows.append(
            [
                v.verdict,
                str(expectation),
                Cell(f"{d.mean:+.4f}", d.mean),
                Cell(f"[{d.low:+.4f}, {d.high:+.4f}]", d.low),
                d.n,
                {"pairs": "paired by seed"}.get(v.of, v.of),
            ]
        )
    said = "Judged by the 95 % t-interval: it holds beyond the margin, fails on its other side, else it is undecided; fewer than three seeds decide nothing."
    return Section("What the experiment was to show", said, [Table("verdicts", "", ["verdict", "claim", "difference", "95 % interval", "n", "of"], rows)])


def _optimism(study: Study) -> Section | None:
    if study.experiment is None:
        return None
    rows = optimism_rows(study.experiment, study.outcomes)
    if not rows:
        return None
    lines = optimism_lines(study.experiment, study.outcomes)
    said = f"What tuning on the reported stream would have claimed beyond what frozen settings reach, in {words(study.experiment.tuning.select_on)}."
    return Section("Optimism of the conventional practice", said, [Table("optimism", "", OPTIMISM, rows), *([Note(lines)] if lines else [])])


def _failures(study: Study) -> Section | None:
    failed = [(k, o) for k, o in enumerate(study.outcomes) if not o.ok and o.status != "missing"]
    if not failed:
        return None
    blocks: list[Block] = [Note(failure_lines([o for _, o in failed]), "warning")]
    for k, o in failed[:FAILURES]:
        cell = study.cells[k]
        lines = study.log(cell)
        if lines:
            blocks.append(Note(lines, "log", f"{o.label}, seed {o.seed}: end of the log of {cell}"))
    return Section("What failed, and why", "A failed cell costs itself alone; `clsuite grid ... --rerun failed` tries it again.", blocks)


def _seconds(outcome: Outcome) -> float:
    assert outcome.result is not None
    cost = outcome.result["cost"]
    return float(cost["seconds"] + cost["deployment_seconds"])


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values)) if values else math.nan
