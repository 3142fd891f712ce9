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
    limits: {timeout: 3600, memory_mb: 4000}
    expect:
      - replay - naive > 0.1

Every strategy has a label (its name unless told otherwise); `with` changes other settings for it alone; `search` gives the
ranges of its settings, and at the top those of the training that all share. `seeds` is a count or a list. `limits` are those of a
cell. `expect` states what the experiment must show (`expectations`); `references` names strategies that metrics of others refer to
(`references`). `columns` are the metrics its table shows. `plugins` are files of one's own, beside this one, whose strategies go by their class names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .. import registry
from ..errors import UsageError, nearest, unknown
from ..scenario import Scenario
from ..training.metrics import KNOWN
from .expectations import Expectation, expectation
from .limits import Limits
from .lines import Lines, located
from .overrides import parse_overrides, parse_yaml
from .plugins import plugin_classes, with_references
from .protocol import Protocol, protocol
from .references import references
from .space import Space
from .spec import COMPONENTS, DEFAULT_NAMES, Cell, resolve
from .tuning import TUNING_SEEDS_FROM, Tuning, space_of

KEYS = (
    "scenario",
    "model",
    "training",
    "evaluation",
    "device",
    "plugins",
    "strategies",
    "search",
    "protocol",
    "seeds",
    "limits",
    "columns",
    "references",
    "expect",
)
SHARED = ("scenario", "model", "training", "evaluation", "protocol", "device")
MOST_SEEDS = 100_000


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
    expectations: list[Expectation]
    columns: list[str]
    text: str
    """The file with its overrides, as it stands in the experiment's folder."""
    lines: Lines
    scenario: dict[str, Any]
    protocol: Protocol
    spaces: dict[str, Space]
    limits: Limits
    references: dict[str, str]
    """Strategies that metrics of others refer to, by role."""

    @property
    def labels(self) -> list[str]:
        return list(self.strategies)

    @property
    def tuning(self) -> Tuning:
        return self.protocol.tuning

    @property
    def cells(self) -> list[PlannedCell]:
        """The evaluation cells, with the settings as the file gives them."""
        return [PlannedCell(label, seed, {**raw, "seed": seed}) for label, raw in self.strategies.items() for seed in self.seeds]

    def wrong(self, error: UsageError, label: str | None = None) -> UsageError:
        """The error with the file, the line and the strategy it concerns."""
        return located(error, str(self.path), self.lines, label)

    def resolved(self, cell: PlannedCell, data_root: str | None) -> Cell:
        """The cell with every default; errors name the file, the line and the strategy."""
        try:
            return resolve(cell.raw, data_root)
        except UsageError as error:
            raise self.wrong(error, cell.label) from error


def read(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Parse and check an experiment file; errors name the file and the line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"experiment file '{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from error
    values, overrides = parse_yaml(text, str(path)), list(overrides)
    given = parse_overrides(overrides, COMPONENTS)
    lines = Lines.of(text, overrides)
    try:
        return _read(path, text, values, given, lines)
    except UsageError as error:
        raise located(error, str(path), lines) from error


def _read(path: Path, text: str, values: Any, given: dict[str, Any], lines: Lines) -> Experiment:
    if not isinstance(values, dict):
        raise UsageError(f"expected a mapping with the keys {', '.join(KEYS)}")
    for key, value in given.items():
        values[key] = _merged(values.get(key), value)
    if given:
        text = f"# {path.name} with {' '.join(lines.overrides.values())}\n" + yaml.safe_dump(values, sort_keys=False)
    for key in values:
        if key not in KEYS:
            raise UsageError(f"unknown key '{key}'{nearest(str(key), KEYS)} (valid: {', '.join(KEYS)})")
    world = _scenario_class(values.get("scenario"))
    way = protocol(_with_metric(values.get("protocol", {}), world.select_on))
    values["protocol"] = way.split
    seeds = _seeds(values.get("seeds", 3), way)
    shared = values.pop("search", None) or {}
    if not isinstance(shared, dict) or not set(shared) <= {"training"} or not isinstance(shared.get("training", {}), dict):
        raise UsageError(f"search = {shared!r} is not valid: expected {{training: {{setting: range}}}}")
    _check_groups(values)
    listed = _strategies(values, plugin_classes(values.get("plugins") or [], path.parent))
    strategies = {label: entry.raw for label, entry in listed.items()}
    columns = _list(values.get("columns", list(world.columns)), "columns", "metrics")
    for name in columns:
        if name not in KNOWN:
            raise UsageError(f"columns: {unknown('metric', name, KNOWN)}")
    spaces: dict[str, Space] = {}
    if way.tunes:
        for label, entry in listed.items():
            ranges = {name: given for name, given in (shared.get("training") or {}).items() if name not in entry.fixed}
            try:
                spaces[label] = space_of(entry.raw, entry.search, ranges)
            except UsageError as error:
                raise located(error, str(path), lines, label) from error
    elif shared or any(entry.search for entry in listed.values()):
        raise UsageError("search is given, but protocol 'fixed' searches nothing (valid with it: two-phase, first-experiences, conventional)")
    limits = values.get("limits") or {}
    if not isinstance(limits, dict):
        raise UsageError(f"limits = {limits!r} is not valid: expected {{timeout: seconds, memory_mb: MB}}")
    entries = _list(values["expect"], "expect", "comparisons") if values.get("expect") is not None else []
    return Experiment(
        path,
        strategies,
        seeds,
        [expectation(entry, list(strategies), way.phases, world.columns[0]) for entry in entries],
        columns,
        text,
        lines,
        _named(values.get("scenario", {})),
        way,
        spaces,
        Limits(**Limits.validated(limits, "limits")),
        references(values.get("references") or {}, list(strategies)),
    )


def _scenario_class(given: Any) -> type[Scenario]:
    """The scenario's class, for what is usual in its world; the base where there is none (told elsewhere)."""
    name = given.get("name", DEFAULT_NAMES["scenario"]) if isinstance(given, dict) else given or DEFAULT_NAMES["scenario"]
    found = registry.load("scenarios", name) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, Scenario) else Scenario


def _with_metric(given: Any, select_on: str) -> Any:
    """The protocol with the world's metric for selection, where it selects and names none."""
    values = _named(given)
    return {"select_on": select_on, **values} if isinstance(values, dict) and values.get("name") != "fixed" else values


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _list(value: Any, key: str, of: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{key} = {value!r} is not valid: expected a list of {of}")
    return value


def _seeds(given: Any, way: Protocol) -> list[int]:
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) and given <= MOST_SEEDS else given
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds = {given!r} is not valid: expected a count (up to {MOST_SEEDS}), or a list of different whole numbers")
    late = [s for s in seeds if s >= TUNING_SEEDS_FROM] if way.tunes else []
    if late:
        raise UsageError(f"seeds = {late} is not valid: seeds from {TUNING_SEEDS_FROM} on are those of the tuning phase")
    return list(seeds)


def _check_groups(values: dict[str, Any]) -> None:
    """Groups of settings must be mappings (components may be names) before anything is merged into them."""
    for key in ("scenario", "model", "training", "evaluation"):
        value = values.get(key, {})
        if not isinstance(value, dict) and not (isinstance(value, str) and key in COMPONENTS):
            raise UsageError(f"{key} = {value!r} is not valid: expected {{setting: value}}")


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, str) and isinstance(new, dict) and "name" not in new:  # a name and its settings, given apart
        return {"name": old, **new}
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


class _Listed(NamedTuple):
    """An entry under `strategies`: its raw specification, its own search ranges, and the training settings that `with` gives it,
    which are not searched for it."""

    raw: dict[str, Any]
    search: dict[str, Any]
    fixed: frozenset[str]


def _strategies(values: dict[str, Any], classes: dict[str, str]) -> dict[str, _Listed]:
    """The entries under `strategies` by label."""
    listed = values.get("strategies")
    if not isinstance(listed, list) or not listed:
        raise UsageError("strategies is empty: expected a list of names or {name: ..., settings}")
    found: dict[str, _Listed] = {}
    for given in listed:
        if not isinstance(given, str) and not (isinstance(given, dict) and isinstance(given.get("name"), str)):
            raise UsageError(f"strategies: {given!r} has no name")
        entry: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        label, changes, search = entry.pop("label", entry["name"]), entry.pop("with", {}), entry.pop("search", None) or {}
        if not isinstance(label, str) or not label:
            raise UsageError(f"strategies: label = {label!r} is not valid: expected text")
        if label in found:
            raise UsageError(f"strategies: '{label}' occurs twice; give each a label of its own")
        raw = {key: values[key] for key in SHARED if key in values}
        if not isinstance(changes, dict) or not set(changes) <= set(SHARED):
            raise UsageError(f"{label}: with = {changes!r} is not valid: expected settings of {', '.join(SHARED)}")
        if not isinstance(search, dict):
            raise UsageError(f"{label}: search = {search!r} is not valid: expected {{setting: range}}")
        merged = {**_merged(raw, changes), "strategy": with_references(entry, classes)}
        own = {classes[key] if key in classes else key: value for key, value in search.items()}  # noqa: SIM401
        training = changes.get("training")
        found[label] = _Listed(merged, own, frozenset(training if isinstance(training, dict) else ()))
    return found
