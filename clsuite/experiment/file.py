"""Experiment files: one YAML, many cells.

    scenario: {name: domain_incremental, dataset: mnist, experiences: 20}
    training: {epochs: 1, batch_size: 128, learning_rate: 0.2}
    strategies:
      - naive
      - {name: replay, buffer_size: 500}
      - {name: naive, label: naive (rotated), with: {scenario: {kind: rotation}}}
    search: {training: {learning_rate: {low: 0.01, high: 0.3, log: true}, epochs: [1, 2]}}
    protocol: {name: two-phase, trials: 16}
    seeds: 3
    expect:
      - replay - naive > 0.1

Every strategy has a label (its name unless told otherwise); `with` changes other settings for it alone; `search` gives the
ranges of its settings, and at the top those of the training that all share. `seeds` is a count or a list. `expect` states what
the experiment must show: `A - B > margin` on `final_accuracy`, or `{compare: ..., metric: ...}`. `columns` are the metrics its
table shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError, nearest, unknown
from ..scenario import Split
from ..training.metrics import DERIVED, NAMES
from .limits import Limits
from .overrides import parse_overrides, parse_yaml
from .space import Space
from .spec import COMPONENTS, Cell, resolve
from .tuning import TUNING_SEEDS_FROM, Tuning, space_of

KEYS = ("scenario", "model", "training", "evaluation", "device", "strategies", "search", "protocol", "seeds", "limits", "columns", "expect")
PROTOCOLS = ("two-phase", "conventional", "fixed")
COLUMNS = ["final_accuracy", "average_incremental_accuracy", "task_incremental_accuracy", "forgetting"]
SHARED = ("scenario", "model", "training", "evaluation", "protocol", "device")
CLAIM = re.compile(r"^(?P<a>.+?) - (?P<b>.+?) > (?P<margin>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")


@dataclass(frozen=True)
class Claim:
    """`a - b > margin` on a metric, paired by seed."""

    a: str
    b: str
    margin: float
    metric: str = "final_accuracy"

    def __str__(self) -> str:
        return f"{self.a} - {self.b} > {self.margin:g} ({self.metric})"


@dataclass(frozen=True)
class PlannedCell:
    """A cell of an experiment before it is resolved: its label, seed and raw specification, and the trial it belongs to."""

    label: str
    seed: int
    raw: dict[str, Any]
    phase: str = "evaluation"
    trial: int | None = None


@dataclass(frozen=True)
class Experiment:
    """What a file asks for."""

    path: Path
    strategies: dict[str, dict[str, Any]]
    """The raw specification of every strategy by label, without a seed."""
    seeds: list[int]
    claims: list[Claim]
    columns: list[str]
    text: str
    """The file with its overrides, as it stands in the experiment's folder."""
    scenario: dict[str, Any] = field(default_factory=dict)
    protocol: str = "fixed"
    split: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    spaces: dict[str, Space] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def labels(self) -> list[str]:
        return list(self.strategies)

    @property
    def leaky(self) -> bool:
        """Whether settings are chosen by the scores that are reported."""
        return self.protocol == "conventional"

    @property
    def cells(self) -> list[PlannedCell]:
        """The evaluation cells, with the settings as the file gives them."""
        return [PlannedCell(label, seed, {**raw, "seed": seed}) for label, raw in self.strategies.items() for seed in self.seeds]


def read(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Parse and check an experiment file; every strategy is resolved once, so that mistakes show before anything runs."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"experiment file '{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from error
    values = parse_yaml(text, str(path))
    overrides = list(overrides)
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping with the keys {', '.join(KEYS)}")
    for key, value in parse_overrides(overrides, COMPONENTS).items():
        values[key] = _merged(values.get(key), value)
    if overrides:
        text = f"# {path.name} with {' '.join(overrides)}\n" + yaml.safe_dump(values, sort_keys=False)
    for key in values:
        if key not in KEYS:
            raise UsageError(f"{path}: unknown key '{key}'{nearest(str(key), KEYS)} (valid: {', '.join(KEYS)})")
    name, split, tuning = _protocol(path, values.get("protocol", {}))
    values["protocol"] = split
    seeds = values.get("seeds", 3)
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"{path}: seeds = {values.get('seeds')!r} is not valid: expected a count, or a list of different whole numbers")
    claims = values.get("expect") or []
    if not isinstance(claims, list):
        raise UsageError(f"{path}: expect = {claims!r} is not valid: expected a list of 'A - B > margin'")
    shared = values.pop("search", None) or {}
    if not isinstance(shared, dict) or not set(shared) <= {"training"} or not isinstance(shared.get("training", {}), dict):
        raise UsageError(f"{path}: search = {shared!r} is not valid: expected {{training: {{setting: range}}}}")
    strategies, searches = _strategies(path, values)
    columns = values.get("columns", COLUMNS)
    if not isinstance(columns, list) or not columns:
        raise UsageError(f"{path}: columns = {columns!r} is not valid: expected a list of metrics")
    spaces: dict[str, Space] = {}
    if name != "fixed":
        late = [s for s in seeds if s >= TUNING_SEEDS_FROM]
        if late:
            raise UsageError(f"{path}: seeds = {late} is not valid: seeds from {TUNING_SEEDS_FROM} on are those of the tuning phase")
        spaces = {label: _space(path, label, raw, searches[label], shared.get("training")) for label, raw in strategies.items()}
    elif shared or any(searches.values()):
        raise UsageError(f"{path}: search is given, but protocol 'fixed' searches nothing (valid with it: two-phase, conventional)")
    claims = [_claim(path, c) for c in claims]
    limits = _limits(path, values.get("limits") or {})
    scenario = values.get("scenario", {})
    scenario = {"name": scenario} if isinstance(scenario, str) else scenario
    experiment = Experiment(
        path, strategies, seeds, claims, [_metric(path, "columns", c) for c in columns], text, scenario, name, split, tuning, spaces, limits
    )
    for claim in experiment.claims:
        for label in (claim.a, claim.b):
            if label not in experiment.labels:
                raise UsageError(f"{path}: expect: {unknown('strategy', label, experiment.labels)}")
    return experiment


def resolved(cell: PlannedCell, path: Path, data_root: str | None) -> Cell:
    """The cell with every default; errors name the file and the strategy."""
    try:
        return resolve(cell.raw, data_root)
    except UsageError as error:
        raise UsageError(f"{path}: {cell.label}: {error}") from error


def _limits(path: Path, value: Any) -> Limits:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: limits = {value!r} is not valid: expected {{timeout: seconds, memory_mb: MB}}")
    try:
        return Limits(**Limits.validated(value, "limits"))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def _protocol(path: Path, value: Any) -> tuple[str, dict[str, Any], Tuning]:
    """The protocol's name, the settings of its split as they were given, and how it tunes."""
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise UsageError(f"{path}: protocol = {value!r} is not valid: expected a name, or {{name: two-phase, settings}}")
    name = given.get("name", PROTOCOLS[0])
    if name not in PROTOCOLS:
        raise UsageError(f"{path}: protocol = '{name}' is not valid: expected one of {', '.join(PROTOCOLS)}{nearest(str(name), PROTOCOLS)}")
    known = (*Split.declared(), *(Tuning.declared() if name != "fixed" else ()))
    for key in given:
        if key != "name" and key not in known:
            raise UsageError(f"{path}: unknown setting 'protocol.{key}'{nearest(str(key), known)} (valid with {name}: {', '.join(known)})")
    try:
        tuning = Tuning(**Tuning.validated({k: v for k, v in given.items() if k in Tuning.declared()}, "protocol"))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    _metric(path, "protocol.select_on", tuning.select_on)
    if name == "two-phase" and given.get("split") == "none":
        raise UsageError(f"{path}: protocol.split = 'none' has no data to tune on; valid with two-phase: classes, samples, datasets")
    return name, {k: v for k, v in given.items() if k in Split.declared()}, tuning


def _space(path: Path, label: str, raw: dict[str, Any], given: dict[str, Any], training: dict[str, Any] | None) -> Space:
    try:
        return space_of(raw, given, training)
    except UsageError as error:
        raise UsageError(f"{path}: {label}: {error}") from error


def _strategies(path: Path, values: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Raw specifications and search ranges by label."""
    listed = values.get("strategies")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: strategies is empty: expected a list of names or {{name: ..., settings}}")
    found: dict[str, dict[str, Any]] = {}
    searches: dict[str, dict[str, Any]] = {}
    for entry in listed:
        entry = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else None
        if entry is None or not isinstance(entry.get("name"), str):
            raise UsageError(f"{path}: strategies: {entry!r} has no name")
        label, changes, search = entry.pop("label", entry["name"]), entry.pop("with", {}), entry.pop("search", None) or {}
        if not isinstance(label, str) or not label:
            raise UsageError(f"{path}: strategies: label = {label!r} is not valid: expected text")
        if label in found:
            raise UsageError(f"{path}: strategies: '{label}' occurs twice; give each a label of its own")
        raw = {key: values[key] for key in SHARED if key in values}
        if not isinstance(changes, dict) or not set(changes) <= set(SHARED):
            raise UsageError(f"{path}: {label}: with = {changes!r} is not valid: expected settings of {', '.join(SHARED)}")
        if not isinstance(search, dict):
            raise UsageError(f"{path}: {label}: search = {search!r} is not valid: expected {{setting: range}}")
        found[label] = {**_merged(raw, changes), "strategy": entry}
        searches[label] = search
    return found, searches


def _claim(path: Path, value: Any) -> Claim:
    given = {"compare": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not set(given) <= {"compare", "metric"} or not isinstance(given.get("compare"), str):
        raise UsageError(f"{path}: expect: {value!r} is not valid: expected 'A - B > margin' or {{compare: ..., metric: ...}}")
    match = CLAIM.match(given["compare"])
    if match is None:
        raise UsageError(f"{path}: expect: '{given['compare']}' is not of the form 'A - B > margin'")
    return Claim(match["a"], match["b"], float(match["margin"]), _metric(path, "expect", given.get("metric", "final_accuracy")))


def _metric(path: Path, where: str, name: Any) -> str:
    if name not in (*NAMES, *DERIVED):
        raise UsageError(f"{path}: {where}: {unknown('metric', name, (*NAMES, *DERIVED))}")
    return str(name)
