"""The page over several folders: what differs between the experiments, and how the strategies they share differ in their numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...experiment.grid import Outcome
from ...experiment.scores import score
from ...experiment.statistics import Estimate, estimate, paired, welch
from ..colours import faded
from ..page import Block, Cell, Figure, Note, Page, Section, Table
from ..run_details import flat
from ..study import Study
from .overview import better, interval, words
from .panels import short

METRICS = 6
"""Metrics that are compared: a table and a scatter each."""
SHOWN = 4
"""Values of a setting that are written out where strategies of one experiment have different ones."""
LEAST = 2
"""Seeds that both sides must have for a difference by pairs."""


class Difference(NamedTuple):
    """A difference with its interval, and what it is of: `pairs` or `two means`."""

    value: Estimate
    of: str


def page(studies: Sequence[Study], places: Mapping[str, Study]) -> Page:
    """What the studies have in common and what not; `places` are the folders of their own pages."""
    titles = [study.name for study in studies]
    shared = [label for label in studies[0].labels if any(label in s.labels for s in studies[1:])]
    metrics = [m for m in studies[0].columns if any(_values(s, label, m) for s in studies[1:] for label in shared)][:METRICS]
    sections: list[Section | None] = [_studies(studies, titles, list(places), bool(metrics))]
    sections += [_metric(studies, titles, shared, metric) for metric in metrics]
    sections += [_changes(studies, titles, shared), _only(studies, titles)]
    lead = f"{' and '.join(titles)}, side by side: differences are those of {titles[0]} less the other."
    return Page("index", "Comparison", lead, [s for s in sections if s is not None])


def _studies(studies: Sequence[Study], titles: Sequence[str], places: Sequence[str], comparable: bool) -> Section:
    rows = []
    for study, title, place in zip(studies, titles, places, strict=True):
        seeds = sorted({o.seed for o in study.final})
        rows.append(
            [
                Cell(title, title, None, f"{place}/index.html"),
                study.about or None,
                "none known" if study.experiment is None else study.experiment.protocol.name,
                f"{sum(o.ok for o in study.outcomes)} of {len(study.outcomes)}",
                len(study.labels),
                _ranges(seeds),
            ]
        )
    heads = ["experiment", "about", "protocol", "finished cells", "strategies", "seeds"]
    blocks: list[Block] = [Table("experiments", "", heads, rows, "A name leads to the experiment's own pages.")]
    leaky = [title for study, title in zip(studies, titles, strict=True) if study.experiment is not None and study.experiment.protocol.leaky]
    if leaky:
        blocks.append(
            Note([f"Settings of {' and '.join(leaky)} were chosen by the very scores that are shown: they are too good to compare."], "warning", "Leaky")
        )
    if not comparable:
        blocks.append(Note(["Nothing can be compared: no strategy has finished cells on more than one side."], "warning"))
    differing = _differing(studies)
    said = "Settings of the reported cells whose values are not the same on all sides; those of strategies stand below."
    if differing:
        blocks.append(Table("settings", "What differs", ["setting", *titles], differing, said))
    else:
        blocks.append(Note(["Scenario, model, training, protocol and seeds are the same on all sides."]))
    return Section("What is compared", "", blocks)


def _differing(studies: Sequence[Study]) -> list[list[str]]:
    """Rows for the settings, of cells and of the search, in which the studies are not alike."""
    found = [_settings(study) for study in studies]
    keys = list(dict.fromkeys(key for values in found for key in values))
    rows = []
    for key in keys:
        sides = [values.get(key, {}) for values in found]
        if any(side.keys() != sides[0].keys() for side in sides[1:]):
            rows.append([key, *(_listed(list(side)) for side in sides)])
    return rows


def _settings(study: Study) -> dict[str, dict[str, None]]:
    """By path the values that occur in what is reported, as JSON texts, without those of strategies; and how the search was made."""
    found: dict[str, dict[str, None]] = {}
    if study.experiment is not None:
        protocol, tuning = study.experiment.protocol, study.experiment.tuning
        found["protocol.name"] = {json.dumps(protocol.name): None}
        if protocol.tunes:
            found |= {f"protocol.{name}": {json.dumps(value): None} for name, value in tuning.settings().items()}
    found["seeds"] = {json.dumps(_ranges(sorted({o.seed for o in study.final}))): None}
    for outcome in study.done:
        assert outcome.result is not None
        for path, value in flat(outcome.result["spec"]).items():
            if path not in ("seed", "phase") and not path.startswith("strategy."):
                found.setdefault(path, {})[json.dumps(value)] = None
    return found


def _listed(texts: Sequence[str]) -> str:
    shown = [text.strip('"') for text in sorted(texts)[:SHOWN]]
    return "-" if not texts else "; ".join(shown) + (f"; {len(texts)} values in all" if len(texts) > SHOWN else "")


def _metric(studies: Sequence[Study], titles: Sequence[str], shared: Sequence[str], metric: str) -> Section | None:
    """A table and a scatter for each of the others against the first study."""
    first = studies[0]
    blocks: list[Block] = []
    for k, (study, title) in enumerate(zip(studies[1:], titles[1:], strict=True)):
        both = {label: (_values(first, label, metric), _values(study, label, metric)) for label in shared}
        both = {label: sides for label, sides in both.items() if all(sides)}
        if not both:
            continue
        rows: list[list[Any]] = []
        for label, (a, b) in both.items():
            ours, theirs, d = estimate(list(a.values())), estimate(list(b.values())), difference(first, study, label, metric)
            band = None if math.isnan(d.value.low) else Cell(f"[{d.value.low:+.4f}, {d.value.high:+.4f}]", d.value.low)
            over = Cell(f"{d.value.n} pairs" if d.of == "pairs" else f"{ours.n} and {theirs.n}", d.value.n)
            row = [Cell(label, label, first.looks[label].colour), Cell(interval(ours), ours.mean), ours.n, Cell(interval(theirs), theirs.mean), theirs.n]
            rows.append([*row, Cell(f"{d.value.mean:+.4f}", d.value.mean), band, over])
        heads = ["strategy", titles[0], "n", title, "n there", "difference", "95 % interval", "over"]
        said = (
            f"Mean ± half of the 95 % interval over seeds; {better(metric)}. The difference is that of {titles[0]} less {title}: "
            "by pairs of seeds where both trained on the same streams, else of two means (Welch)."
        )
        name = f"{metric}_{k + 2}"
        blocks += [Table(name, f"{titles[0]} and {title}" if len(studies) > 2 else "", heads, rows, said)]
        blocks.append(_scatter(first, name, metric, (titles[0], title), both))
    return Section(words(metric).capitalize(), f"{better(metric).capitalize()}.", blocks) if blocks else None


def difference(a: Study, b: Study, label: str, metric: str) -> Difference:
    """A strategy's mean in one study less that in another: by pairs where their shared seeds saw the same streams, else Welch's of two means."""
    ours, theirs = _values(a, label, metric), _values(b, label, metric)
    seeds = set(ours) & set(theirs)
    left, right = (_streams(study, label) for study in (a, b))
    if len(seeds) >= LEAST and all(left.get(s) is not None and left.get(s) == right.get(s) for s in seeds):
        return Difference(paired(ours, theirs), "pairs")
    return Difference(welch(list(ours.values()), list(theirs.values())), "two means")


def _own(study: Study, label: str) -> list[Outcome]:
    return [o for o in study.done if o.label == label]


def _values(study: Study, label: str, metric: str) -> dict[int, float]:
    """A metric by seed, of what is reported."""
    return {o.seed: value for o in _own(study, label) if (value := score(o, metric)) is not None}


def _streams(study: Study, label: str) -> dict[int, Any]:
    return {o.seed: (o.result or {}).get("stream", {}).get("fingerprint") for o in _own(study, label)}


def _changes(studies: Sequence[Study], titles: Sequence[str], shared: Sequence[str]) -> Section | None:
    """The settings of shared strategies, and of their training, that are not the same everywhere."""
    rows: list[list[Any]] = []
    for label in shared:
        sides = [_settings_of(study, label) for study in studies]
        keys = dict.fromkeys(key for side in sides if side is not None for key in side)
        for key in keys:
            values = [None if side is None else json.dumps(side[key]).strip('"') if key in side else "not there" for side in sides]
            if len({v for v in values if v is not None}) > 1:
                rows.append([Cell(label, label, studies[0].looks[label].colour), key, *values])
    if not rows:
        return None
    said = "A difference between experiments may come from these as well as from the data or the scenario."
    table = Table("changes", "", ["strategy", "setting", *titles], rows, said, search=True)
    return Section("Settings of the same strategy that differ", "Of strategies with finished cells on more than one side.", [table])


def _settings_of(study: Study, label: str) -> dict[str, Any] | None:
    """Settings of a strategy's reported cells by path; None where none is finished."""
    own = _own(study, label)
    spec = flat(own[0].result["spec"]) if own and own[0].result is not None else None
    return None if spec is None else {path: value for path, value in spec.items() if path.startswith(("strategy.", "training."))}


def _scatter(first: Study, name: str, metric: str, titles: tuple[str, str], both: Mapping[str, tuple[dict[int, float], dict[int, float]]]) -> Figure:
    """The means of two studies against each other; on the line they are equal."""
    traces: list[dict[str, Any]] = []
    table: list[list[Any]] = []
    for label, sides in both.items():
        look, (a, b) = first.looks[label], (estimate(list(side.values())) for side in sides)
        table.append([label, a.mean, a.low, a.high, a.n, b.mean, b.low, b.high, b.n])
        mark: dict[str, Any] = {"type": "scatter", "mode": "markers", "x": [b.mean], "y": [a.mean], "name": short(label), "hoverinfo": "text"}
        mark["marker"] = {"color": look.colour, "symbol": look.marker, "size": 11}
        mark["hovertext"] = [f"{short(label)}: {a.mean:.4f}, {b.mean:.4f}"]
        for axis, e in (("error_x", b), ("error_y", a)):
            if not math.isnan(e.low):
                mark[axis] = {"type": "data", "array": [e.high - e.mean], "arrayminus": [e.mean - e.low], "color": faded(look.colour, 0.45), "thickness": 1.5}
        traces.append(mark)
    ends = [min(min(row[1], row[5]) for row in table), max(max(row[1], row[5]) for row in table)]
    line = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": {"color": "#888888", "dash": "dot"}, "name": "equal", "hoverinfo": "skip"}
    layout = {
        "xaxis": {"title": {"text": f"{words(metric)}, {short(titles[1])}"}},
        "yaxis": {"title": {"text": f"{words(metric)}, {short(titles[0])}"}},
        "hovermode": "closest",
    }
    side = "below" if better(metric).startswith("lower") else "above"
    said = f"A mark is a strategy: its mean in both, with 95 % intervals; {side} the dotted line it is better in {titles[0]} ({better(metric)})."
    heads = ["strategy", *(f"{title} {what}" for title in titles for what in ("mean", "low", "high", "n"))]
    return Figure(f"{name}_scatter", f"{words(metric).capitalize()} against each other", said, [line, *traces], layout, (heads, table), height=520)


def _only(studies: Sequence[Study], titles: Sequence[str]) -> Section | None:
    """Strategies that not all of the studies have, with where they are."""
    labels = list(dict.fromkeys(label for study in studies for label in study.labels))
    rows = [[label, *("yes" if label in s.labels else None for s in studies)] for label in labels if any(label not in s.labels for s in studies)]
    if not rows:
        return None
    return Section("Strategies not all of them have", "", [Table("only", "", ["strategy", *titles], rows, "Strategies go by their labels.")])


def _ranges(seeds: Sequence[int]) -> str:
    """`0 to 4`, or a list."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or "none"
