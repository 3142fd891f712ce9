"""Settings of Avalanche's classes, read from the signatures of their constructors."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from types import ModuleType
from typing import Any

from . import avalanche_tables as tables

_WORDS = {int: "int", float: "float", bool: "bool", str: "str", type(None): "null", None: "null"}
_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "null": None, "int[]": list[int], "float[]": list[float]}
_EMPTY = inspect.Parameter.empty


class CannotMake(Exception):
    """A parameter that must be given, and is nothing that a setting or the run could be."""


def settings_of(kind: type, helpers: list[type], models: ModuleType) -> list[dict[str, Any]]:
    """The settings of a class as plain rows: what its constructor takes, less what the run gives or makes.

    `helpers` are plugins that do its work: where the class leaves a value open, theirs is the default. `models` has the classes that
    some need beside. Raises `CannotMake`.
    """
    defaults = {name: p.default for helper in helpers for name, p in _parameters(helper).items() if p.default is not _EMPTY}
    rows = _rows(kind, kind.__name__, "strategy", frozenset(), defaults)
    if kind.__name__ in tables.MODELS:
        name, given = tables.MODELS[kind.__name__]
        model = getattr(models, name, None)
        if model is None:
            raise CannotMake(f"needs {models.__name__}.{name}, which is not there")
        taken = {row["name"] for row in rows}
        rows += [row for row in _rows(model, name, "model", given, {}) if row["name"] not in taken]
    return rows + [{**row, "argument": row["name"], "of": "extra", "search": None} for row in tables.EXTRA.get(kind.__name__, [])]


def _rows(kind: type, owner: str, of: str, given: frozenset[str], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, parameter in _parameters(kind).items():
        if name in tables.SUPPLIED | tables.FIXED | tables.MADE | given:
            continue
        default = tables.DEFAULTS.get((owner, name), parameter.default)
        default = defaults.get(name, _EMPTY) if default is _EMPTY else default
        types_ = _types(owner, name, parameter.annotation, default)
        choices = tables.CHOICES.get((owner, name)) or _choices(parameter.annotation)
        if not set(types_) - {"null"} and not choices:
            if default is _EMPTY:
                raise CannotMake(f"needs '{name}' ({_shown(parameter.annotation)}), which clsuite does not know how to make")
            continue
        if "float" in types_ and isinstance(default, int) and "int" not in types_:
            default = float(default)
        row = {"name": name, "argument": name, "of": of, "types": types_, "default": None if default is _EMPTY else default}
        if default is _EMPTY or default is None:
            row["types"] = [*(t for t in types_ if t != "null"), "null"]
        if choices:
            row["choices"] = choices
        row["required"] = default is _EMPTY
        row |= _bounds(row["default"])
        row["search"] = _search(owner, name, row["default"])
        row["help"] = _help(kind, name)
        rows.append(row)
    return rows


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Parameters of a constructor that have a name, with annotations that are text evaluated where that is possible."""
    try:
        signature = inspect.signature(kind.__init__, eval_str=True)  # type: ignore[misc]
    except Exception:  # a name that exists for type checkers alone
        signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in named and name != "self"}


def _types(owner: str, name: str, annotation: Any, default: Any) -> list[str]:
    found = [_WORDS[type(default)]] if annotation is _EMPTY and type(default) in _WORDS else _alternatives(annotation)
    if "int" in found and "float" not in found and (isinstance(default, float) or name in tables.REAL):
        found = ["float" if word == "int" else word for word in found]
    return found


def _alternatives(annotation: Any) -> list[str]:
    """The plain types an annotation allows; what else it allows is left out."""
    if annotation in _WORDS:
        return [_WORDS[annotation]]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(word for argument in arguments for word in _alternatives(argument)))
    if origin in (list, collections.abc.Sequence) and arguments and arguments[0] in (int, float):
        return [f"{_WORDS[arguments[0]]}[]"]
    return []


def _choices(annotation: Any) -> list[str]:
    """The texts that an annotation lists."""
    found = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    return list(found) if all(isinstance(choice, str) for choice in found) else []


def _bounds(default: Any) -> dict[str, Any]:
    """A count stays a count; what is not negative by default is never."""
    if isinstance(default, bool) or not isinstance(default, (int, float)) or default < 0:
        return {"ge": None}
    return {"ge": 1 if isinstance(default, int) and default > 0 else 0}


def _search(owner: str, name: str, default: Any) -> Any:
    """Where to look: the table's space, else around a default that is a positive number."""
    for key in ((owner, name), name):
        if key in tables.SEARCH:
            found = tables.SEARCH[key]
            return {"low": found[0], "high": found[1]} if isinstance(found, tuple) else found
    if isinstance(default, bool) or not isinstance(default, (int, float)) or default <= 0:
        return None
    if isinstance(default, int):
        return sorted({max(1, default // 2), default, 2 * default})
    high = min(1.0, 10 * default) if 0.5 <= default < 1 else 10 * default  # what is near one may be a share
    return {"low": float(f"{default / 10:.6g}"), "high": float(f"{high:.6g}")}


def _help(kind: type, name: str) -> str:
    """What the class's own documentation says of a parameter, in a line."""
    for text in (inspect.getdoc(kind.__init__) or "", inspect.getdoc(kind) or ""):  # type: ignore[misc]
        found = re.search(rf":param {re.escape(name)}:(.*?)(?=\n\s*:|\n\s*\n|\Z)", text, re.DOTALL)
        if found and found.group(1).strip():
            line = " ".join(found.group(1).split())
            return line if len(line) <= 160 else line[:157].rsplit(" ", 1)[0] + " ..."
    return ""


def _shown(annotation: Any) -> str:
    return "no type is given" if annotation is _EMPTY else getattr(annotation, "__name__", str(annotation))


def hint(row: dict[str, Any]) -> Any:
    """The type of a setting's row."""
    if "choices" in row:
        return typing.Literal[tuple([*row["choices"], *([None] if row["default"] is None else [])])]
    return typing.Union[tuple(_TYPES[word] for word in row["types"])]  # noqa: UP007
