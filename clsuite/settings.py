"""Typed settings: default, bounds, search space and help stand beside the thing they configure.

    class Replay(Strategy):
        buffer_size: int = setting(500, ge=1, search=[200, 500, 1000], help="samples the memory holds")

Values are checked strictly (no string becomes a number) and an unknown key is refused with the nearest valid name.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import UsageError, nearest


@dataclass(frozen=True)
class Span:
    """A continuous search range; `log` spaces it logarithmically."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Setting:
    """What a component says about one of its settings."""

    default: Any
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    search: Sequence[Any] | Span | None = None
    help: str = ""
    since: int = 1

    def bounds(self) -> str:
        """The bounds in words, for messages and `clsuite show`."""
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        return " and ".join(f"{sign} {getattr(self, key):g}" for key, sign in signs.items() if getattr(self, key) is not None)

    def admits(self, value: Any) -> bool:
        """Whether every number in `value` lies within the bounds (and is finite)."""
        if isinstance(value, (list, tuple)):
            return all(self.admits(v) for v in value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        return not (
            math.isnan(value)
            or math.isinf(value)
            or (self.ge is not None and value < self.ge)
            or (self.gt is not None and value <= self.gt)
            or (self.le is not None and value > self.le)
            or (self.lt is not None and value >= self.lt)
        )


def setting(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    search: Sequence[Any] | Span | None = None,
    help: str = "",
    since: int = 1,
) -> Any:
    """Declare a setting with its default; bounds apply to every number in it.

    `search` is a list of values or a `Span`. `since` is the revision of the component that introduced the setting: a
    setting added later enters a cell's hash only when it differs from its default, so old results stay valid.
    """
    return Setting(default, ge, gt, le, lt, search, help, since)


class Configurable:
    """Base of everything that has settings: scenarios, strategies, models, schedules, the training block."""

    revision: ClassVar[int] = 1
    """Raised by the author when the numbers a component gives change: old results are then not reused."""

    def __init__(self, **values: Any):
        for name, value in self.validated(values).items():
            setattr(self, name, value)

    @classmethod
    def declared(cls) -> Mapping[str, Setting]:
        """Settings by name, base classes first."""
        return _declared(cls)  # type: ignore[arg-type]

    @classmethod
    def hints(cls) -> Mapping[str, Any]:
        """The type of each setting."""
        return _hints(cls)  # type: ignore[arg-type]

    @classmethod
    def validated(cls, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """All settings, given or default; raises `UsageError` for a name, type or value that is not valid.

        `where` is the path shown in messages (`strategy`, `strategy.refresh`).
        """
        declared, hints = cls.declared(), cls.hints()
        path = f"{where}." if where else ""
        for name in values:
            if name not in declared:
                valid = ", ".join(declared) or "none"
                raise UsageError(f"unknown setting '{path}{name}'{nearest(name, declared)} (valid: {valid})")
        result = {}
        for name, spec in declared.items():
            value = values.get(name, spec.default)
            if name in values:
                fits, value = _checked(value, hints[name])
                if not fits:
                    raise UsageError(f"{path}{name} = {value!r} is not valid: expected {describe(hints[name])}{_near_choice(value, hints[name])}")
                if not spec.admits(value):
                    raise UsageError(f"{path}{name} = {value!r} is out of bounds: expected a finite value {spec.bounds()}".rstrip())
            result[name] = value
        return result

    def settings(self) -> dict[str, Any]:
        """The values in force."""
        return {name: getattr(self, name) for name in self.declared()}


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter  # here: `clsuite --help` must not pay for it

    return TypeAdapter(hint)


def prepare(component: type[Configurable]) -> None:
    """Make the checks of a component's settings now, so that processes forked from this one need not."""
    for hint in component.hints().values():
        _adapter(hint)


def _checked(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether the value has the declared type, strictly, and the value in its one spelling (1 becomes 1.0 for a float)."""
    from pydantic import ValidationError

    try:
        return True, _adapter(hint).validate_python(list(value) if isinstance(value, tuple) else value, strict=True)
    except ValidationError:
        return False, value


def describe(hint: Any) -> str:
    """A type in words: `one of reservoir, class_balanced`, `a list of whole numbers`."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null", None: "null", dict: "a mapping"}
    if hint in words:
        return words[hint]
    if len(_alternatives(hint)) > 1:
        options = [option for option in _alternatives(hint) if not (option is int and float in _alternatives(hint))]
        return " or ".join(describe(option) for option in options)
    if _choices(hint):
        return "one of " + ", ".join(map(str, _choices(hint)))
    if typing.get_origin(hint) is list:
        return "a list of " + describe(typing.get_args(hint)[0]).removeprefix("a ") + "s"
    return getattr(hint, "__name__", str(hint))


def _near_choice(value: Any, hint: Any) -> str:
    choices = [c for option in _alternatives(hint) for c in _choices(option)]
    return nearest(str(value), map(str, choices)) if choices and isinstance(value, str) else ""


@functools.cache
def _declared(cls: type[Configurable]) -> Mapping[str, Setting]:
    found: dict[str, Setting] = {}
    for base in reversed(cls.__mro__):
        found.update({name: value for name, value in vars(base).items() if isinstance(value, Setting)})
    return types.MappingProxyType(found)


@functools.cache
def _hints(cls: type[Configurable]) -> Mapping[str, Any]:
    found: dict[str, Any] = dict.fromkeys(_declared(cls), Any)  # type: ignore[arg-type]
    for base in reversed(cls.__mro__):
        # only the settings: a class may annotate other attributes with names that exist for type checkers alone
        wanted = {name: hint for name, hint in inspect.get_annotations(base).items() if isinstance(vars(base).get(name), Setting)}
        if wanted:
            holder = types.SimpleNamespace(__annotations__=wanted)
            found.update(typing.get_type_hints(holder, vars(sys.modules[base.__module__])))
    return types.MappingProxyType(found)
