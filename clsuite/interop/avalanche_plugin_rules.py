"""Which modifiers can be plugins of an Avalanche strategy, with which settings, and around what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import registry
from ..errors import UsageError, nearest, unknown
from ..experiment.spec import DEFAULT_NAMES, expand
from ..strategy import Modifier, Part, Strategy

IMPOSSIBLE = {"plan": "decides what an experience trains on", "batch": "changes what a batch consists of", "rate_factor": "sets the rate of every update"}
"""Hooks that an Avalanche strategy leaves no room for."""
NOT_INCREMENTAL = ("JointTraining", "Cumulative", "FromScratchTraining", "FromScratchTrainingPlugin", "GDumb", "GDumbPlugin")
"""Avalanche's strategies and plugins that do not go on from step to step on the current experience."""


@dataclass(frozen=True)
class Options:
    """What a plugin is told besides the settings of its parts; see `avalanche_plugin`."""

    seed: int = 0
    head: str | None = None
    experiences: int | None = None
    total_steps: int | None = None
    pretrained: bool = False
    logit_mask: str = "none"


class TheirStrategy(Strategy):
    """The Avalanche strategy, in the place of the base: its own steps are its own business."""

    def __init__(self, strategy: Any):
        super().__init__()
        self.name = type(strategy).__name__
        kinds = {kind.__name__ for o in (strategy, *strategy.plugins) for kind in type(o).__mro__}
        self.offers = frozenset() if kinds & set(NOT_INCREMENTAL) else frozenset({"incremental"})  # type: ignore[misc]


def parts_of(name: str, settings: Mapping[str, Any]) -> tuple[list[Part], dict[str, Any]]:
    """The modifiers that a name stands for, with their settings, and what it asks of training; raises `UsageError`."""
    values, training = expand(_specification(name, settings))
    other = sorted(set(training) - {"logit_mask"})
    if other:
        raise UsageError(f"strategy '{name}' asks for training.{other[0]}, which is the Avalanche strategy's business")
    modifiers = values["modifiers"]
    parts = [_part(dict(m), len(modifiers) > 1) for m in modifiers]
    for part in parts:
        for rival in parts:
            shared = sorted(set(part.claims) & set(rival.claims))
            if rival is not part and shared:
                raise UsageError(f"strategies '{part.name}' and '{rival.name}' cannot be combined: both claim '{shared[0]}'")
    return parts, training


def _specification(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The strategy as `clsuite run` would be given it, around the base that trains as ever."""
    base, aliases = DEFAULT_NAMES["strategy"], registry.aliases()
    if not isinstance(name, str) or not all(name.split("+")):
        raise UsageError(f"{name!r} is not valid: expected the name of a modifier, or names joined by '+'")
    names = name.split("+")
    if names[0] in aliases:
        if aliases[names[0]]["name"] != base:
            raise UsageError(f"strategy '{names[0]}' has a base of its own, '{aliases[names[0]]['name']}', where the Avalanche strategy stands")
    elif names[0] != base:
        names.insert(0, base)
    if len(names) == 1 and names[0] == base:
        raise _not_a_plugin(base)
    alone = [m["name"] for m in aliases[names[0]]["modifiers"]] + names[1:] if names[0] in aliases else names[1:]
    if len(alone) == 1:
        return {"name": "+".join(names), alone[0]: dict(settings)}
    for key, value in settings.items():
        if key not in alone or not isinstance(value, Mapping):
            raise UsageError(f"'{name}' has several parts: give settings by part, {alone[0]}={{...}}, not {key}={value!r}{nearest(key, alone)}")
    return {"name": "+".join(names), **settings}


def _not_a_plugin(name: str) -> UsageError:
    valid = [n for n, entry in registry.catalogue("strategies").items() if entry.facts.get("kind") == "modifier" and entry.facts.get("world") != "text"]
    return UsageError(f"'{name}' is a base strategy, and the base is the Avalanche strategy (valid: {', '.join(_possible(valid))})")


def _possible(names: list[str]) -> list[str]:
    """The modifiers of a list that can be plugins."""
    return [n for n in names if not any(registry.load("strategies", n).defines(hook) for hook in IMPOSSIBLE)]


def _part(values: dict[str, Any], several: bool) -> Part:
    name = values.pop("name")
    found = registry.load("strategies", name)
    if isinstance(found, type) and issubclass(found, Strategy):
        raise _not_a_plugin(name)
    if not (isinstance(found, type) and issubclass(found, Modifier)):
        raise unknown("modifier", name, registry.catalogue("strategies"))
    entry = registry.catalogue("strategies").get(name)
    if entry is not None and entry.facts.get("world") == "text":
        raise UsageError(f"strategy '{name}' acts on language models only")
    for hook, why in IMPOSSIBLE.items():
        if found.defines(hook):
            raise UsageError(f"strategy '{name}' {why}, which no plugin of an Avalanche strategy can")
    part: Part = found(**found.validated(values, name if several else ""))
    part.name = name
    return part


def check(base: Strategy, parts: list[Part], online: bool, planned: int | None, options: Options) -> None:
    """Refuse, in one line, parts whose needs this strategy cannot meet."""
    lacking = {
        "incremental": None if base.offers else f"{base.name} does not train step by step on the current experience",
        "borders": "an online stream has no borders" if online else None,
        "several_tasks": "the stream has a single experience" if planned == 1 else None,
        "pretrained": None if options.pretrained else "the model is not said to be pretrained (give pretrained=True)",
        "task_ids": "a plugin is not told the task of a sample",
    }
    for part in parts:
        if part.defines("end") and planned is None and options.total_steps is None:
            raise UsageError(f"strategy '{part.name}' acts at the end, which cannot be seen from this Avalanche stream: give experiences=, or total_steps=")
        for need in sorted(part.needs):
            reason = lacking.get(need, None if need in ("memory", "classifier") else f"{base.name} does not offer it")
            if reason is not None:
                raise UsageError(f"strategy '{part.name}' cannot be used here: it needs '{need}', but {reason}")
