"""`clsuite list` and `clsuite show`: what there is and what it can be told."""

from __future__ import annotations

import inspect
import warnings
from importlib import resources
from typing import Any

from .. import registry
from ..errors import UsageError, unknown
from ..settings import Configurable, Span, describe
from .text import console, emit, table

KINDS = ("scenarios", "strategies", "models", "schedules", "experiments", "data")
CATALOGUES = {"strategy": "strategies", "scenario": "scenarios", "model": "models"}


def list_command(kind: str, as_json: bool) -> None:
    """Print what there is of a kind."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    found = experiments() if kind == "experiments" else _components(kind)
    if as_json:
        return emit(found)
    if kind == "experiments":
        rows = [(r["name"], r["description"]) for r in found]
        return console().print(table(None, ("name", "what it shows"), rows) if rows else "no experiments are installed")
    heads = [h for h in ("name", "family", "role", "origin", "needs", "description", "source", "reproduced") if any(r.get(h) for r in found)]
    out = console()
    out.print(table(None, heads, [[r[h] if h != "description" else r["broken"] or r[h] for h in heads] for r in found]))
    for note in registry.prefixed(kind)[1]:
        out.print(note, soft_wrap=True, markup=False)
    return None


def experiments() -> list[dict[str, Any]]:
    """The installed experiment files: name, first comment, path."""
    found = []
    for file in resources.files("clsuite_experiments").iterdir():
        if file.name.endswith(".yaml"):
            comment = next((line.lstrip("# ").rstrip() for line in file.read_text().splitlines() if line.startswith("#")), "")
            found.append({"name": file.name.removesuffix(".yaml"), "description": comment, "path": str(file)})
    return sorted(found, key=lambda r: r["name"])


def _components(kind: str) -> list[dict[str, Any]]:
    """Rows by name; one that cannot be imported is a warning and a row with `broken` set."""
    found = []
    row: dict[str, Any]
    for name, entry in {**registry.catalogue(kind), **registry.prefixed(kind)[0]}.items():
        row = {"name": name, "family": entry.facts.get("family", ""), "role": "", "origin": entry.origin, "source": entry.facts.get("source", "")}
        row |= {"needs": "", "reproduced": entry.facts.get("reproduced", "")}
        row |= {"description": "", "stands_for": None, "broken": None, "target": entry.target}
        try:
            component = registry.load(kind, name)
            if kind == "strategies":
                row["role"], row["needs"] = _role(component), ", ".join(sorted(component.needs))
            row["description"] = _first_line(component)
            row["source"] = row["source"] or _source(component)
        except UsageError as error:
            warnings.warn(str(error), registry.PluginWarning, stacklevel=2)
            row["broken"] = f"broken: {error}"
        found.append(row)
    if kind == "strategies":
        found += [_alias_row(name) for name in registry.aliases()]
    return sorted(found, key=lambda r: r["name"])


def _alias_row(name: str) -> dict[str, Any]:
    from ..experiment.spec import describe_alias

    stands_for = describe_alias(name)
    text = f"stands for {stands_for}"
    facts = {key: registry.aliases()[name].get(key, "") for key in ("source", "reproduced")}
    row = {"name": name, "family": "", "role": "alias", "origin": "native", "needs": "", **facts}
    return {**row, "description": text, "stands_for": stands_for, "broken": None}


def _role(component: Any) -> str:
    from ..strategy import Modifier

    return "modifier" if isinstance(component, type) and issubclass(component, Modifier) else "base"


def _first_line(component: Any) -> str:
    if isinstance(component, type) or inspect.isroutine(component):
        return (component.__doc__ or "").strip().partition("\n")[0]
    shape = getattr(component, "shape", None)
    classes = getattr(component, "class_names", None)
    return f"{len(classes)} classes, images {' x '.join(map(str, shape))}" if shape and classes else ""


def _source(component: Any) -> str:
    """What the docstring says after `Source:`."""
    lines = (inspect.getdoc(component) or "").splitlines() if isinstance(component, type) else []
    return next((line.partition("Source:")[2].strip() for line in lines if line.startswith("Source:")), "")


def show_command(kind: str, name: str, as_json: bool) -> None:
    """Print a component: what it is, its settings, what it needs."""
    alias = registry.aliases().get(name) if kind == "strategy" else None
    shown = describe_component(kind, name) if alias is None else _describe_alias(name, alias)
    if as_json:
        return emit(shown)
    out = console()
    out.print(f"{name} ({kind}, {shown['origin']})", style="bold")
    out.print(shown["description"], soft_wrap=True)
    for part in shown.get("parts", [shown]):
        rows = [(s["name"], s["type"], _word(s["default"]), s["bounds"], _search(s["search"]), s["help"]) for s in part["settings"]]
        title = f"Settings of {part['name']}" if rows else None
        out.print(table(title, ("setting", "type", "default", "bounds", "search space", "meaning"), rows) if rows else f"{part['name']} has no settings")
    for key in ("needs", "claims", "source", "reproduced", "stands_for"):
        if shown.get(key):
            value = shown[key]
            out.print(f"{key.replace('_', ' ')}: {value if isinstance(value, str) else ', '.join(value)}", soft_wrap=True)
    return None


def describe_component(kind: str, name: str) -> dict[str, Any]:
    """A component as plain values; raises `UsageError` for a name there is none of."""
    component = registry.load(CATALOGUES[kind], name)
    if not (isinstance(component, type) and issubclass(component, Configurable)):
        raise UsageError(f"{kind} '{name}' has no settings to show: derive the class from clsuite's {kind.capitalize()}")
    entry = registry.entry(CATALOGUES[kind], name)
    hints = component.hints()
    settings = [
        {
            "name": key,
            "type": describe(hints[key]),
            "default": spec.default,
            "bounds": spec.bounds(),
            "search": {"low": spec.search.low, "high": spec.search.high, "log": spec.search.log} if isinstance(spec.search, Span) else spec.search,
            "help": spec.help,
        }
        for key, spec in component.declared().items()
    ]
    facts: dict[str, Any] = {} if entry is None else entry.facts
    shown = {"name": name, "kind": kind, "origin": "file" if entry is None else entry.origin, "family": facts.get("family", "")}
    shown |= {"description": inspect.getdoc(component) or "", "source": facts.get("source", "") or _source(component), "revision": component.revision}
    shown["reproduced"] = facts.get("reproduced", "")
    if kind == "strategy":
        shown |= {"role": _role(component), "needs": sorted(component.needs), "claims": sorted(component.claims)}  # type: ignore[attr-defined]
    return {**shown, "settings": settings}


def _describe_alias(name: str, alias: dict[str, Any]) -> dict[str, Any]:
    row = _alias_row(name)
    fixed = {k: v for k, v in alias.items() if k not in ("source", "reproduced")}
    parts = [describe_component("strategy", part) for part in row["stands_for"].split("+")]
    return {**row, "kind": "strategy", "description": f"{name} stands for {row['stands_for']}: {fixed}", "parts": parts}


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _search(space: Any) -> str:
    if space is None:
        return ""
    if isinstance(space, dict):
        return f"{space['low']:g} .. {space['high']:g}" + (" (log)" if space["log"] else "")
    return ", ".join(map(_word, space))
