"""Catalogues by entry point: scenarios, strategies, models, schedules, data.

An entry point's value is a class (`package.module:Class`) or a provider: a module with `CATALOGUE = {name:
"module:Class"}` (a leading dot is relative to the provider) and, if it likes, `FACTS = {name: {...}}` and `ALIASES`.
Nothing is imported until it is asked for; an entry point that cannot be imported is named in a warning and stops
nothing else. A class of one's own needs no installation: `./mine.py:MyMethod`. A name with a prefix (`avalanche/...`) is
looked up by the prefix's own module, which is imported only then.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
import warnings
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from .errors import UsageError, unknown

KINDS = ("scenarios", "strategies", "models", "schedules", "data")

PREFIXES = {"strategies": {"avalanche": "clsuite.interop.avalanche_catalogue"}}
"""By kind and prefix the module that looks such names up: `entries()` for what is known at once, `note()` for what is not, `load(name)`."""


class PluginWarning(UserWarning):
    """A plug-in that could not be used."""


@dataclass(frozen=True)
class Entry:
    """Where a name leads: `target` is `module:Class`; `origin` is `native` or the distribution that brings it."""

    name: str
    target: str
    origin: str
    facts: dict[str, Any] = field(default_factory=dict)


def _origin(point: EntryPoint) -> str:
    name = point.dist.name if point.dist is not None else "unknown"
    return "native" if name == "clsuite" else name


@functools.cache
def _contents(kind: str) -> tuple[dict[str, Entry], dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Entries, aliases, and who claims each name that is registered more than once."""
    entries: dict[str, Entry] = {}
    aliases: dict[str, dict[str, Any]] = {}
    doubled: dict[str, list[str]] = {}
    for point in sorted(entry_points(group=f"clsuite.{kind}"), key=lambda p: (_origin(p) != "native", p.name)):
        if ":" in point.value:
            found = {point.name: Entry(point.name, point.value, _origin(point))}
        else:
            try:
                provider = importlib.import_module(point.value)
                facts = getattr(provider, "FACTS", {})
                found = {
                    name: Entry(name, point.value + target if target.startswith(".") else target, _origin(point), facts.get(name, {}))
                    for name, target in provider.CATALOGUE.items()
                }
                aliases.update(getattr(provider, "ALIASES", {}))
            except Exception as error:
                warnings.warn(f"plug-in '{point.name}' of {_origin(point)} ({kind}) is left out: {_one_line(error)}", PluginWarning, stacklevel=2)
                continue
        for name in found.keys() & entries.keys():
            doubled.setdefault(name, [entries[name].origin]).append(_origin(point))
        entries.update({name: entry for name, entry in found.items() if name not in entries})
    return entries, aliases, doubled


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def catalogue(kind: str) -> dict[str, Entry]:
    """All entries of a kind, by name, without importing the components."""
    return dict(sorted(_contents(kind)[0].items()))


def aliases(kind: str = "strategies") -> dict[str, dict[str, Any]]:
    """Names that stand for a combination: `slca` for `naive+slow_learner+alignment`."""
    return _contents(kind)[1]


def prefixed(kind: str) -> tuple[dict[str, Entry], list[str]]:
    """Entries of names with a prefix, as far as they are known without a search that takes seconds, and a line for each prefix where some are not."""
    found: dict[str, Entry] = {}
    notes = []
    for module in PREFIXES.get(kind, {}).values():
        provider = importlib.import_module(module)
        found.update(provider.entries())
        notes += [provider.note()] if provider.note() else []
    return dict(sorted(found.items())), notes


def entry(kind: str, name: str) -> Entry | None:
    """The entry of a name, with or without a prefix."""
    return catalogue(kind).get(name) or (prefixed(kind)[0].get(name) if "/" in name else None)


def refresh() -> None:
    """Forget what was found (after installing or removing a package in this process)."""
    _contents.cache_clear()
    load.cache_clear()


@functools.cache
def load(kind: str, name: str) -> Any:
    """The class (or callable) behind a name or a `./file.py:Class`; raises `UsageError` in one line."""
    if ".py:" in name:
        return _from_file(name)
    prefix, slash, rest = name.partition("/")
    if slash and prefix in PREFIXES.get(kind, {}):
        return importlib.import_module(PREFIXES[kind][prefix]).load(rest)
    entries, _, doubled = _contents(kind)
    what = {"strategies": "strategy", "data": "data set"}.get(kind, kind.removesuffix("s"))
    if name not in entries:
        raise unknown(what, name, [*entries, *aliases(kind)])
    if name in doubled:
        owners = ["clsuite" if origin == "native" else origin for origin in doubled[name]]
        raise UsageError(f"{what} '{name}' is registered more than once, by {' and '.join(owners)}; remove one")
    module, _, attribute = entries[name].target.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise UsageError(f"{what} '{name}' of {entries[name].origin} cannot be imported: {_one_line(error)}") from error
    return _named(found, name)


def _named(component: Any, name: str) -> Any:
    """Components know what they are called; what is not a class (a data source's function) stays as it is."""
    if isinstance(component, type) and not vars(component).get("name"):
        component.name = name  # type: ignore[attr-defined]
    return component


def _from_file(reference: str) -> Any:
    path, _, attribute = reference.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"strategy file '{path}' does not exist (looked in {Path.cwd()})")
    module_name = "clsuite_file_" + hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"strategy file '{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"strategy file '{path}' cannot be imported: {_one_line(error)}") from error
    found: Any = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module_name]
        raise unknown(f"class of {file.name}", attribute, classes)
    return _named(found, attribute)
