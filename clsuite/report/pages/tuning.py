"""The page of the tuning phase: what was searched, what was chosen for every strategy, and how sure each choice is."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ...errors import UsageError
from ...experiment import selection
from ...experiment.statistics import Estimate
from ...experiment.tuning import incomplete
from ...settings import Span
from ..importance import FEW_TRIALS, importances
from ..page import Block, Cell, Figure, Note, Page, Section, Table, plain
from ..search_figures import finalists, measure, parallel, progress, shown, slices, words
from ..searches import Search, known, searches
from ..study import Study
from .panels import short

CONVENTIONAL = "conventional tuning"


def page(study: Study) -> Page | None:
    """The tuning of a study; None where nothing was tuned."""
    if study.experiment is None or not study.experiment.protocol.tunes:
        return None
    found = searches(study.experiment, study.outcomes)
    if not found:
        return None
    shares = {label: importances(search) for label, search in found.items()}
    own = [label for label, search in found.items() if search.space.dimensions]
    sections = [_summary(study, found, shares, {label: k + 2 for k, label in enumerate(own)})]
    sections += [_strategy(study, found[label], shares[label], f"s{k}") for k, label in enumerate(own)]
    lead = "Every strategy had the same number of trials; what won was frozen before anything was evaluated. All scores here are of tuning data."
    if study.experiment.protocol.leaky:
        lead = "Every strategy had the same number of trials, on the very stream that is reported: the scores of what won are too good."
    return Page("tuning", "Tuning", lead, [s for s in [*sections, _conventional(study, found)] if s is not None])


def _summary(study: Study, found: dict[str, Search], shares: dict[str, dict[str, float]], places: dict[str, int]) -> Section:
    assert study.experiment is not None
    tuning, metric, better = study.experiment.tuning, *measure(next(iter(found.values())))
    heads = [
        "strategy",
        "trials",
        "without a score",
        f"best {metric} ({better})",
        "ahead of the second by",
        "95 % interval, paired by seed",
        "better on seeds",
        "told apart",
        "most important setting",
    ]
    rows = []
    for label, search in found.items():
        look, best, d = study.looks[label], search.chosen, search.ahead
        trials = str(len(search.done)) if search.settled and not search.failed else f"{len(search.done)} of {search.asked}"
        mean = math.nan if best is None else best.score(sorted(best.statuses))
        top = next(iter(shares[label].items()), None)
        rows.append(
            [
                Cell(label, label, look.colour, f"#s{places[label]}" if label in places else None),
                Cell(trials, len(search.done)),
                len(search.failed),
                Cell(f"{mean:.4f}", mean) if math.isfinite(mean) else None,
                None if d is None else Cell(f"{d.mean:+.4f}", d.mean),
                None if d is None or math.isnan(d.low) else Cell(f"[{d.low:+.4f}, {d.high:+.4f}]", d.low),
                None if d is None else Cell(f"{search.wins} of {d.n}", search.wins / d.n),
                _told_apart(d),
                None if top is None else Cell(f"{words(search.names[top[0]])} ({top[1]:.0%})", top[0]),
            ]
        )
    said = (
        "The second is the best finalist beside the chosen trial. The chosen one was picked by these same scores, so its lead is somewhat too large; "
        "`told apart` says whether the paired interval leaves out 0. A strategy leads to its trials."
    )
    blocks: list[Block] = [Note(_asked(study, found)), *_warnings(study, found), Table("sure", "How sure the choice is", heads, rows, said)]
    blocks += [_chosen(study, found), _spread(study, found)]
    if any(shares.values()):
        blocks.append(_shares(found, shares))
    return Section("What was chosen, and how sure the choice is", f"Trials are compared by {metric}, {better}; {tuning.sampler} draws them.", blocks)


def _chosen(study: Study, found: dict[str, Search]) -> Table:
    """The chosen values, a column for every setting that at least half of the strategies share."""
    paths = Counter(d.path for search in found.values() for d in search.space.dimensions)
    columns = [p for p in paths if paths[p] * 2 >= len(found)]
    rows = []
    for label, search in found.items():
        own = [p for p in search.names if p not in columns]
        said = "nothing yet" if not search.settled else "every trial failed" if search.chosen is None else None
        row = [Cell(label, label, study.looks[label].colour), None if search.chosen is None else search.chosen.number]
        row += [_value(search, p) for p in columns]
        rows.append([*row, said or ", ".join(f"{words(search.names[p])} {_value(search, p).text}" for p in own) or None])
    heads = ["strategy", "trial", *(words(p.partition(".")[2]) for p in columns), "settings of its own"]
    text = "Frozen for the evaluation. `end` marks a value at an end of what was searched where others beyond it would be valid: the range may be too narrow."
    return Table("chosen", "What was chosen", heads, rows, text)


def _value(search: Search, path: str) -> Cell:
    value = None if search.chosen is None or path not in search.names else search.chosen.values.get(path)
    if search.chosen is None or path not in search.names:
        return Cell("-", None)
    text = f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
    return Cell(text + (f" ({search.edges[path]} end)" if path in search.edges else ""), text if value is None or isinstance(value, bool) else value)


def _told_apart(difference: Estimate | None) -> str | None:
    if difference is None:
        return None
    if math.isnan(difference.low):
        return "one seed"
    return "yes" if difference.low > 0 else "no"


def _asked(study: Study, found: dict[str, Search]) -> list[str]:
    assert study.experiment is not None
    tuning, first = study.experiment.tuning, next(iter(found.values()))
    seeds = f"{tuning.trials} trials a strategy on seeds {', '.join(map(str, first.seeds))}"
    more = f"; the best {tuning.finalists} of them on further seeds {', '.join(map(str, tuning.further_seeds))}" if tuning.further_seeds else ""
    return [f"{seeds}{more}. The mean over all its seeds decides among the finalists.", _sealed(study, found)]


def _sealed(study: Study, found: dict[str, Search]) -> str:
    try:
        entries = selection.read(study.folder)
    except UsageError as error:
        return f"The sealed choice cannot be trusted: {error}"
    if not entries:
        return "Nothing is sealed yet: the search has not come to its end."
    other = [label for label, s in found.items() if s.chosen is not None and label in entries and entries[label].get("trial") != s.chosen.number]
    if other:
        return f"{selection.FILE} holds another choice than the trials give now for {', '.join(other)}: the grid seals it anew when it runs next."
    return f"The choice of {len(entries.keys() & found.keys())} strategies is sealed in {selection.FILE}; seals are unbroken."


def _warnings(study: Study, found: dict[str, Search]) -> list[Block]:
    assert study.experiment is not None
    lines = [f"{label}: not begun" for label in study.experiment.labels if label not in found]
    lines += [f"{label}: {_standing(search)}" for label, search in found.items() if not search.settled]
    machine = [f"{label}: {line} (the machine's doing: the choice may depend on it)" for label, s in found.items() for line in incomplete(s.trials)]
    lines += machine[:10] + ([f"and {len(machine) - 10} more of this kind"] if len(machine) > 10 else [])
    return [Note(lines, "warning", "What is missing here")] if lines else []


def _standing(search: Search) -> str:
    finished = len(search.done) + len(search.failed)
    return f"{finished} of {search.asked} trials are finished" if finished < search.asked else "its finalists are still to run on further seeds"


def _values(search: Search) -> str:
    assert search.chosen is not None
    found = [f"{words(search.names[p])} {v:g}" if isinstance(v, float) else f"{words(search.names[p])} {v}" for p, v in search.chosen.values.items()]
    return ", ".join(found) or "nothing to search"


def _spread(study: Study, found: dict[str, Search]) -> Figure:
    """All trials of all strategies on one axis."""
    metric, better = measure(next(iter(found.values())))
    traces: list[dict[str, Any]] = []
    table: list[list[Any]] = []
    for place, (label, search) in enumerate(reversed(found.items())):
        look, drawn = study.looks[label], [t for t in shown(search) if search.of(t) is not None]
        base = {"type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "text"}
        for trials, marker in (
            ([t for t in drawn if t is not search.chosen], {"color": look.colour, "size": 8, "opacity": 0.45}),
            ([t for t in drawn if t is search.chosen], {"color": look.colour, "size": 15, "symbol": "star", "line": {"width": 1, "color": "#8a8f98"}}),
        ):
            texts = [f"{short(label)}, trial {t.number}: {search.of(t):.4f}" for t in trials]
            traces.append({**base, "x": [search.of(t) for t in trials], "y": [place] * len(trials), "marker": marker, "hovertext": texts})
        table += [[label, t.number, search.of(t), t is search.chosen] for t in drawn]
    layout = {
        "xaxis": {"title": {"text": f"{metric} ({better})"}},
        "yaxis": {"tickvals": list(range(len(found))), "ticktext": [short(label) for label in reversed(found)], "zeroline": False},
        "margin": {"l": 10, "r": 20, "t": 10, "b": 50},
    }
    said = "A mark is a trial, mean over the first seeds; the star is what was chosen. A wide row is a strategy whose settings matter much."
    heads = ["strategy", "trial", metric, "chosen"]
    return Figure("trials", "How much the settings matter", said, traces, layout, (heads, table), height=90 + 28 * len(found))


def _shares(found: dict[str, Search], shares: dict[str, dict[str, float]]) -> Figure:
    """Importance of all settings of all strategies; those that less than half of the strategies have are summed."""
    rows = [label for label in found if shares[label]]
    counts: dict[str, int] = {}
    for label in rows:
        for path in shares[label]:
            counts[path] = counts.get(path, 0) + 1
    columns = sorted((p for p in counts if counts[p] * 2 >= len(rows)), key=lambda p: -counts[p])
    own = {label: [v for p, v in shares[label].items() if p not in columns] for label in rows}
    z = [[*(shares[label].get(p) for p in columns), *([sum(own[label]) if own[label] else None] if any(own.values()) else [])] for label in rows]
    names = [*(plain(p.partition(".")[2].replace("_", " ")) for p in columns), *(["settings of its own"] if any(own.values()) else [])]
    bar = {"title": {"text": "share"}}
    trace = {"type": "heatmap", "x": names, "y": list(range(len(rows))), "z": z, "colorscale": "Cividis", "zmin": 0, "zmax": 1, "colorbar": bar}
    trace |= {"hoverongaps": False, "hovertemplate": "%{y}<br>%{x}<br>%{z:.0%}<extra></extra>"}
    ticks = {"tickvals": list(range(len(rows))), "ticktext": [short(label) for label in rows]}
    layout = {"yaxis": {**ticks, "autorange": "reversed", "zeroline": False}, "xaxis": {"type": "category"}, "margin": {"l": 10, "r": 10, "t": 10, "b": 10}}
    trials = sorted({len(found[label].done) for label in rows})
    rough = f" Rough: {trials[0]}{'' if len(trials) == 1 else f' to {trials[-1]}'} trials." if trials[0] < FEW_TRIALS else ""
    said = f"Share of the variance of the score over the searched ranges that a setting decides (functional ANOVA), by strategy; a row sums to 1.{rough}"
    table = [[label, path, share] for label in rows for path, share in shares[label].items()]
    heads = ["strategy", "setting", "share"]
    return Figure("importance", "Which settings decide the score", said, [trace], layout, (heads, table), height=150 + 24 * len(rows))


def _strategy(study: Study, search: Search, shares: dict[str, float], name: str) -> Section:
    look = study.looks[search.label]
    blocks: list[Block] = [Note(_facts(search, shares))]
    if search.edges:
        blocks.append(Note([_edge(search, path, end) for path, end in search.edges.items()], "warning", "The range may be too narrow"))
    if len(search.trials) > 1:
        if len(search.space.dimensions) > 1:
            blocks.append(parallel(search, look, name))
        blocks += [slices(search, look, name), progress(search, look, name)]
        if len(search.finalists) > 1 and any(len(known(t)) > 1 for t in search.finalists):
            blocks.append(finalists(search, look, name))
    searched = ", ".join(words(search.names[d.path]) for d in search.space.dimensions)
    return Section(search.label, f"{len(search.done)} trials with a score over {searched}.", blocks)


def _facts(search: Search, shares: dict[str, float]) -> list[str]:
    metric, _ = measure(search)
    lines = []
    if search.chosen is not None:
        lines.append(f"Chosen: trial {search.chosen.number}, {_values(search)}.")
        d = search.ahead
        if d is None:
            lines.append("How sure: no other finalist shares a seed with it, so its lead is not known.")
        elif search.second is not None:
            beats = f"ahead of trial {search.second.number} by {d.mean:+.4f} in {metric} over {d.n} shared seeds, better on {search.wins} of them"
            sure = {
                "yes": f"; the 95 % interval of the paired difference, [{d.low:+.4f}, {d.high:+.4f}], leaves out 0",
                "no": f"; the 95 % interval of the paired difference, [{d.low:+.4f}, {d.high:+.4f}], holds 0: on these seeds the two are not told apart",
                "one seed": "; one seed says nothing of the spread",
            }[_told_apart(d) or "no"]
            lines.append(f"How sure: {beats}{sure}.")
    elif search.settled:
        lines.append("Every trial failed: nothing was chosen.")
    else:
        lines.append(f"Nothing is chosen yet: {_standing(search)}.")
    if shares:
        parts = ", ".join(f"{words(search.names[p])} {share:.0%}" for p, share in shares.items())
        rough = f" Rough: {len(search.done)} trials." if len(search.done) < FEW_TRIALS else ""
        lines.append(f"Which settings decide the score: {parts}.{rough}")
    if search.failed:
        shown_ = ", ".join(f"trial {t.number} ({search.failure(t)})" for t in search.failed[:8])
        lines.append(f"Without a score: {shown_}{f' and {len(search.failed) - 8} more' if len(search.failed) > 8 else ''}.")
    return lines


def _edge(search: Search, path: str, end: str) -> str:
    dimension = next(d for d in search.space.dimensions if d.path == path)
    assert search.chosen is not None
    wide = dimension.range
    ends = f"{wide.low:g} to {wide.high:g}" if isinstance(wide, Span) else ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in wide)
    return f"{path} = {search.chosen.values[path]} lies at the {end} end of what was searched ({ends})."


def _conventional(study: Study, found: dict[str, Search]) -> Section | None:
    """What tuning on the reported stream itself chose, beside what was chosen without looking at it."""
    assert study.experiment is not None
    other = searches(study.experiment, study.outcomes, CONVENTIONAL)
    if not other:
        return None
    metric, better = measure(next(iter(other.values())))
    rows: list[list[Any]] = []
    for label, search in other.items():
        best, own = search.chosen, found[label].chosen if label in found else None
        if best is None:
            rows.append([Cell(label, label, study.looks[label].colour), None, "nothing yet", None, None])
            continue
        score = best.score(sorted(best.statuses))
        same = "-" if own is None else "yes" if best.values == own.values else "no"
        rows.append([Cell(label, label, study.looks[label].colour), best.number, _values(search), same, Cell(f"{score:.4f}", score)])
    said = "Trials on the evaluation stream itself, run to measure what that practice adds to the scores it reports (the overview has the differences)."
    heads = ["strategy", "trial", "chosen on the reported stream", "same as on tuning data", f"{metric} as that practice reports it ({better})"]
    return Section("Tuned on the reported stream instead", said, [Table("conventional", "", heads, rows)])
