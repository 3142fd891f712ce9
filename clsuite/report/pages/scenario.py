"""The stream drawn: what is learned when, what is measured, and when what was learned comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ...experiment.grid import Outcome
from ...registry import load
from ..page import Block, Note, Page, Section, Table
from ..stream_tables import tables
from ..study import Study
from . import returns, stream_figures

STREAMS = 6
"""Different streams of one experiment that are drawn."""


@dataclass
class Variant:
    """A stream some strategies share, in one phase: its settings `{scenario, protocol, phase, seed}`, who runs on it, and their cells."""

    wanted: dict[str, Any]
    labels: list[str]
    outcomes: list[Outcome]
    table: dict[str, Any]

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of a cell on the very stream that is drawn."""
        seed = self.wanted["seed"]
        return next((o.result for o in self.outcomes if o.result is not None and o.result["spec"]["seed"] == seed), None)

    @property
    def missing(self) -> str:
        """Why the stream is not drawn; empty when it is."""
        if "missing" in self.table:
            return str(self.table["missing"])
        known = {None if o.result is None else o.result["stream"].get("fingerprint") for o in self.outcomes if o.seed == self.wanted["seed"]} - {None}
        if known and self.table["fingerprint"] not in known:
            return "the data or the code here gives another stream than the one that was trained on (their fingerprints differ)"
        return ""


def page(study: Study) -> Page | None:
    """The page of the streams that are reported, and of those that settings were chosen on; None where no cell says what its stream is."""
    final, tuned = variants(study, ("evaluation", "run")), variants(study, ("tuning",))
    known = {key(v.wanted) for v in final}
    drawn, searched = final[:STREAMS], [v for v in tuned if key(v.wanted) not in known][:STREAMS]
    if not drawn:
        return None
    for variant, table in zip([*drawn, *searched], tables([v.wanted for v in [*drawn, *searched]]), strict=True):
        variant.table = table
    sections = [_section(v, _partner(v, searched), k, len(final)) for k, v in enumerate(drawn)]
    sections += _measured(drawn, len(final))
    recurrence = returns.section(study, final)
    lead = "What the strategies learn and when, what they are measured on, and what comes back."
    return Page("scenario", "Scenario", lead, [*sections, *([recurrence] if recurrence else [])])


def variants(study: Study, phases: tuple[str, ...]) -> list[Variant]:
    """The different streams of some phases, by their settings apart from the seed; drawn is that of the first seed in the plan."""
    found: dict[str, Variant] = {}
    for o in study.outcomes:
        if o.phase not in phases or o.result is None:
            continue
        spec = o.result["spec"]
        wanted = {"scenario": spec["scenario"], "protocol": spec["protocol"], "phase": spec["phase"], "seed": spec["seed"]}
        variant = found.setdefault(key(wanted), Variant(wanted, [], [], {}))
        variant.outcomes.append(o)
        if o.label not in variant.labels:
            variant.labels.append(o.label)
    return list(found.values()) or _planned(study, phases)


def _planned(study: Study, phases: tuple[str, ...]) -> list[Variant]:
    """The streams of an experiment none of whose cells is finished, as its file asks for them."""
    found: dict[str, Variant] = {}
    if study.experiment is None or "evaluation" not in phases:
        return []
    for label, raw in study.experiment.strategies.items():
        scenario = raw.get("scenario", {})
        named = {"name": scenario} if isinstance(scenario, str) else scenario
        if "name" in named:
            wanted = {"scenario": named, "protocol": raw.get("protocol", {}), "phase": "evaluation", "seed": study.experiment.seeds[0]}
            found.setdefault(key(wanted), Variant(wanted, [], [], {})).labels.append(label)
    return list(found.values())


def key(wanted: dict[str, Any]) -> str:
    """Equal for streams that differ in the seed alone."""
    return json.dumps([wanted["scenario"], wanted["protocol"], wanted["phase"]], sort_keys=True)


def _partner(variant: Variant, searched: list[Variant]) -> Variant | None:
    """The stream on which the settings of a variant were chosen."""
    return next((v for v in searched if v.wanted["scenario"] == variant.wanted["scenario"]), None)


def _section(variant: Variant, partner: Variant | None, k: int, count: int) -> Section:
    name = "" if k == 0 else f"_{k}"
    which = "" if count == 1 else f" of {_listed(variant.labels)}"
    blocks: list[Block] = [Note([*_facts(variant), *_chosen_on(partner)])]
    if variant.missing:
        blocks.append(Note([f"The stream itself is not drawn, only what the results hold: {variant.missing}"], "warning"))
    if partner is not None and partner.missing:
        blocks.append(Note([f"The stream that settings were chosen on is not drawn: {partner.missing}"], "warning"))
    own = [] if variant.missing else stream_figures.figures(variant.table, name, "" if partner is None or partner.missing else "evaluation")
    other = [] if partner is None or partner.missing else stream_figures.figures(partner.table, f"{name}_tuning", "tuning")
    pairs = sorted([*own, *other], key=lambda figure: not figure.small)  # those of the two phases beside one another
    blocks += pairs
    if k == STREAMS - 1 and count > STREAMS:
        blocks.append(Note([f"{count - STREAMS} further streams of this experiment are not drawn."]))
    said = "Every experience is trained on in turn; when it is over, its samples are gone but for what a strategy keeps."
    return Section(f"The stream{which}", said, blocks)


def _measured(drawn: list[Variant], count: int) -> list[Section]:
    """A table of evaluation sets for all streams that share them."""
    found: list[tuple[Table, list[str]]] = []
    for k, variant in enumerate(drawn):
        table = _sets(variant, "" if k == 0 else f"_{k}")
        same = next((labels for other, labels in found if table is not None and other.rows == table.rows), None)
        if same is not None:
            same += variant.labels
        elif table is not None:
            found.append((table, list(variant.labels)))
    return [Section("Evaluation sets" + ("" if count == 1 or len(found) == 1 else f" of {_listed(labels)}"), "", [table]) for table, labels in found]


def _listed(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) <= 4 else f"{', '.join(labels[:3])} and {len(labels) - 3} more"


def _facts(variant: Variant) -> list[str]:
    wanted, table = variant.wanted, variant.table
    seeds = sorted({o.seed for o in variant.outcomes}) or [wanted["seed"]]
    shown = f"Drawn is the stream of seed {wanted['seed']}" + (f"; of seeds {', '.join(map(str, seeds))} each has its own." if len(seeds) > 1 else ".")
    if variant.missing:
        return [f"{_settings(wanted['scenario'])}.", *_counted(variant), shown]
    unit, what = table["unit"], "tokens" if table["world"] == "text" else "training samples"
    groups = "corpora" if table["world"] == "text" else "classes"
    part = f"; {table['part']}" if table["part"] else ""
    told = f"Strategies are {'told' if table['borders'] else 'not told'} where an experience ends"
    return [
        f"{_settings(wanted['scenario'])}.",
        f"{table['of']:,} experiences of {table['groups_of']:,} {groups}, {table['total'] * unit:,} {what} in all{part}.",
        f"{told}, and {'every sample belongs to one known task' if table['task_ids'] else 'samples do not tell their task'}.",
        shown,
    ]


def _chosen_on(partner: Variant | None) -> list[str]:
    """The stream that settings were chosen on, in a line."""
    if partner is None or partner.missing:
        return []
    table, split = partner.table, partner.wanted["protocol"].get("split", "none")
    unit, what = table["unit"], "tokens" if table["world"] == "text" else "training samples"
    return [
        f"Settings were chosen on another stream (protocol.split = {split}): {table['of']:,} experiences, {table['total'] * unit:,} {what}, "
        f"drawn for seed {table['seed']}."
    ]


def _settings(scenario: dict[str, Any]) -> str:
    """The settings of a scenario that are not the usual ones; all of them where it cannot be loaded here."""
    try:
        usual = {name: s.default for name, s in load("scenarios", scenario["name"]).declared().items()}
    except (UsageError, AttributeError):
        usual = {}
    given = {name: value for name, value in scenario.items() if name != "name" and value is not None and not (name in usual and usual[name] == value)}
    words = [f"{name} = {json.dumps(value) if not isinstance(value, str) else value}" for name, value in given.items()]
    return scenario["name"] + (f" with {', '.join(words)}" if words else "")


def _counted(variant: Variant) -> list[str]:
    result = variant.result
    return [] if result is None else [f"{len(result['matrix']):,} experiences, {len(result['evaluation_sets']):,} evaluation sets."]


def _sets(variant: Variant, name: str) -> Table | None:
    """What is measured: from the result where there is one, with the classes of the stream where it is drawn."""
    result, drawn = variant.result, [] if variant.missing else variant.table["sets"]
    sets = drawn if result is None else result["evaluation_sets"]
    if not sets:
        return None
    classes = [_classes(s) for s in drawn] if len(drawn) == len(sets) and any(s["classes_of"] for s in drawn) else []
    rows = [[s["name"], s["samples"], s["learned_in"], *([classes[j]] if classes else [])] for j, s in enumerate(sets)]
    text = variant.table.get("world") == "text" or (result is not None and "final_loss" in result["metrics"])
    heads = ["set", "windows" if text else "samples", "first learned in experience"]
    said = "Every column of a run's matrix is one of these; none of their samples is trained on."
    return Table(f"sets{name}", "What is measured", [*heads, *(["classes"] if classes else [])], rows, said, search=len(rows) > 20)


def _classes(chosen: dict[str, Any]) -> str:
    names, count = chosen["classes"], chosen["classes_of"]
    return ", ".join(names) + (f", ... {count} in all" if count > len(names) else "")
