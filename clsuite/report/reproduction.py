"""The command that gives a cell again: `clsuite run` with the settings in which it differs from the defaults, checked to mean the same."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import registry
from ..errors import UsageError
from ..experiment.overrides import parse_overrides, parse_yaml
from ..experiment.spec import CATALOGUES, COMPONENTS, EvaluationSettings, resolve
from ..scenario import Split


class Command(NamedTuple):
    """`text`: what to type. `checked`: whether it was read back here and means the same specification."""

    text: str
    checked: bool


def command(spec: Mapping[str, Any], device: str | None = None, plugins: bool = True) -> Command:
    """What to type to compute a cell of this specification again, with its phase, split and seed.

    `device` is the type the cell was computed on (`cpu`, `cuda`): it is part of what a cell is, so `auto` is replaced by it. Where the
    specification cannot be read here (a plug-in that is not installed, settings of another version) every setting is given, unchecked.
    Without `plugins` so is one that names a file of one's own: to read it would run the file.
    """
    own_file = any(".py:" in str(c["name"]) for c in (spec["scenario"], spec["model"], spec["strategy"], *spec["strategy"]["modifiers"]))
    wanted = {**spec, "device": device} if device is not None and spec.get("device") == "auto" else spec
    items, checked = _items(json.dumps({**wanted, "seed": 0}), plugins or not own_file)
    return Command(shlex.join(["clsuite", "run", *(f"seed={spec['seed']}" if item == "seed=0" else item for item in items)]), checked)


@functools.lru_cache(maxsize=4096)
def _items(text: str, readable: bool) -> tuple[list[str], bool]:
    """The items of a specification with seed 0, given as JSON, and whether they were read back: cells that differ in the seed alone share them."""
    wanted = json.loads(text)
    if not readable:
        return _everything(wanted), False
    with contextlib.suppress(UsageError, KeyError, TypeError, AttributeError):
        wanted = resolve(wanted).spec  # settings that came later have their defaults
    for given in (_shortest, _everything):
        try:
            items = given(wanted)
            if resolve(parse_overrides(items, COMPONENTS)).spec == wanted:
                return items, True
        except (UsageError, KeyError, TypeError, AttributeError):
            continue
    return _everything(wanted), False


def _shortest(spec: Mapping[str, Any]) -> list[str]:
    """Items for what differs from the defaults that a scenario, a model and a strategy of these names have."""
    names = [spec["strategy"]["name"], *(m["name"] for m in spec["strategy"]["modifiers"])]
    scenario = {k: v for k, v in spec["scenario"].items() if k != "name" and v != _default("scenario", spec["scenario"]["name"], k)}
    usual = json.loads(_usual(json.dumps({"name": spec["scenario"]["name"], **scenario}, sort_keys=True), spec["model"]["name"], json.dumps(names)))
    items = _named("scenario", spec["scenario"]["name"]) + _settings("scenario", scenario)
    items += _named("model", spec["model"]["name"]) + _settings("model", _changed(spec["model"], usual["model"]))
    items += _strategy(spec["strategy"], usual["strategy"])
    items += _training(spec["training"], usual["training"])
    items += _settings("evaluation", {k: v for k, v in spec["evaluation"].items() if v != EvaluationSettings.declared()[k].default})
    items += _settings("protocol", {k: v for k, v in spec["protocol"].items() if v != Split.declared()[k].default})
    return items + _place(spec)


def _everything(spec: Mapping[str, Any]) -> list[str]:
    """Items for every setting, whatever the defaults are."""
    items: list[str] = []
    for group in ("scenario", "model"):
        values = {k: v for k, v in spec[group].items() if k != "name"}
        items += _named(group, spec[group]["name"]) + _settings(group, values)
    items += _strategy(spec["strategy"], None)
    for group in ("training", "evaluation", "protocol"):
        items += _settings(group, spec[group])
    return items + _place(spec)


def _place(spec: Mapping[str, Any]) -> list[str]:
    """Phase, seed, device, and where the cell ends when that is early."""
    phase = [] if spec["phase"] == "evaluation" else [f"phase={spec['phase']}"]
    until = [] if spec.get("until") is None else [f"until={spec['until']}"]
    return [*phase, f"seed={spec['seed']}", f"device={spec['device']}", *until]


def _strategy(own: Mapping[str, Any], usual: Mapping[str, Any] | None) -> list[str]:
    """The base with its modifiers; `a+b` where names alone can say it, else the modifiers as a list."""
    base, modifiers = {k: v for k, v in own.items() if k != "modifiers"}, own["modifiers"]
    names = [m["name"] for m in modifiers]
    default: Mapping[str, Any] = usual or {"modifiers": [{}] * len(modifiers)}
    changed = [_changed(m, d) for m, d in zip(modifiers, default["modifiers"], strict=True)]
    settings = _settings("strategy", _changed(base, default))
    hidden = len(set(names)) < len(names) or any("." in n or "+" in n or n in registry.aliases() for n in [base["name"], *names])
    if names and hidden:
        listed = [{"name": n, **values} for n, values in zip(names, changed, strict=True)]
        return [*_named("strategy", base["name"]), *settings, f"strategy.modifiers={_text(listed)}"]
    items = [*_named("strategy", "+".join([base["name"], *names])), *settings]
    for name, values in zip(names, changed, strict=True):
        items += _settings(f"strategy.{name}", values)
    return items


def _training(own: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Settings of the training; a schedule by its name and what differs from that schedule's defaults."""
    changed = {k: v for k, v in own.items() if k != "schedule" and v != usual[k]}
    items = _settings("training", changed)
    schedule = own["schedule"]
    if schedule == usual["schedule"]:
        return items
    declared = registry.load("schedules", schedule["name"]).declared()
    return [*items, *_settings("training.schedule", {k: v for k, v in schedule.items() if k == "name" or v != declared[k].default})]


def _changed(own: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in own.items() if k != "name" and (k not in usual or v != usual[k])}


def _default(kind: str, name: str, setting: str) -> Any:
    declared = registry.load(CATALOGUES[kind], name).declared()
    return declared[setting].default if setting in declared else ...


@functools.lru_cache(maxsize=1024)
def _usual(scenario: str, model: str, strategy: str) -> str:
    """What a specification that gives these alone comes to, as JSON; the strategy by its names."""
    base, *modifiers = json.loads(strategy)
    found = resolve({"scenario": json.loads(scenario), "model": model, "strategy": {"name": base, "modifiers": [{"name": m} for m in modifiers]}})
    return json.dumps(found.spec)


def _named(group: str, name: str) -> list[str]:
    return [f"{group}={name}"] if not name.lstrip().startswith("{") else [f"{group}.name={name}"]


def _settings(path: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{path}.{key}={value if key == 'name' else _text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    """A value as it is written on the command line: text as it stands where that reads back as the same text, else JSON."""
    if isinstance(value, str):
        try:
            if value and value == value.strip() and parse_yaml(value, "value") == value:
                return value
        except UsageError:
            pass
    return json.dumps(value, ensure_ascii=False)
