"""Experiment files: one YAML, many cells.

    scenario: {name: domain_incremental, dataset: mnist, experiences: 20}
    training: {epochs: 1, batch_size: 128, learning_rate: 0.2}
    strategies:
      - naive
      - {name: replay, buffer_size: 500}
      - {name: naive, label: naive (rotated), with: {scenario: {kind: rotation}}}
    protocol: {name: fixed}
    seeds: 3
    expect:
      - replay - naive > 0.1

Every strategy has a label (its name unless told otherwise); `with` changes other settings for it alone. `seeds` is a
count or a list. `expect` states what the experiment must show: `A - B > margin` on `final_accuracy`, or `{compare: ..., metric: ...}`. `columns`
are the metrics its table shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError, nearest, unknown
from ..training.metrics import DERIVED, NAMES
from .overrides import parse_overrides, parse_yaml
from .spec import COMPONENTS, Cell, resolve

KEYS = ("scenario", "model", "training", "evaluation", "device", "strategies", "protocol", "seeds", "columns", "expect")
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
    """A cell of an experiment before it is resolved: its label, seed and raw specification."""

    label: str
    seed: int
    raw: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What a file asks for."""

    path: Path
    cells: list[PlannedCell]
    claims: list[Claim]
    columns: list[str]
    text: str
    """The file with its overrides, as it stands in the experiment's folder."""

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self.cells))


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
    protocol = values.get("protocol", {"name": "fixed"})
    name = protocol.get("name") if isinstance(protocol, dict) else protocol
    if name != "fixed":
        raise UsageError(f"{path}: protocol = '{name}' is not valid: this version runs 'fixed' (settings as the file gives them)")
    if isinstance(protocol, dict) and set(protocol) > {"name"}:
        values["protocol"] = {key: value for key, value in protocol.items() if key != "name"}
    else:
        values.pop("protocol", None)
    seeds = values.get("seeds", 3)
    seeds = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"{path}: seeds = {values.get('seeds')!r} is not valid: expected a count, or a list of different whole numbers")
    claims = values.get("expect") or []
    if not isinstance(claims, list):
        raise UsageError(f"{path}: expect = {claims!r} is not valid: expected a list of 'A - B > margin'")
    cells = [PlannedCell(label, seed, {**raw, "seed": seed}) for label, raw in _strategies(path, values) for seed in seeds]
    columns = values.get("columns", COLUMNS)
    if not isinstance(columns, list) or not columns:
        raise UsageError(f"{path}: columns = {columns!r} is not valid: expected a list of metrics")
    experiment = Experiment(path, cells, [_claim(path, c) for c in claims], [_metric(path, "columns", c) for c in columns], text)
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


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def _strategies(path: Path, values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    listed = values.get("strategies")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: strategies is empty: expected a list of names or {{name: ..., settings}}")
    found: dict[str, dict[str, Any]] = {}
    for entry in listed:
        entry = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else None
        if entry is None or not isinstance(entry.get("name"), str):
            raise UsageError(f"{path}: strategies: {entry!r} has no name")
        label, changes = entry.pop("label", entry["name"]), entry.pop("with", {})
        if not isinstance(label, str) or not label:
            raise UsageError(f"{path}: strategies: label = {label!r} is not valid: expected text")
        if label in found:
            raise UsageError(f"{path}: strategies: '{label}' occurs twice; give each a label of its own")
        raw = {key: values[key] for key in SHARED if key in values}
        if not isinstance(changes, dict) or not set(changes) <= set(SHARED):
            raise UsageError(f"{path}: {label}: with = {changes!r} is not valid: expected settings of {', '.join(SHARED)}")
        found[label] = {**_merged(raw, changes), "strategy": entry}
    return list(found.items())


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
