"""The specification of one cell: checked, completed with every default, in one canonical form.

{scenario: {name: class_incremental, dataset: digits, ...}, model: {...}, strategy: {name: derpp, alpha: 0.1,
 modifiers: [{name: refresh, ...}]}, training: {...}, evaluation: {...}, protocol: {...}, phase, seed, device, until}

`until` is there only in a cell that ends early: after the training steps of experience `until` - 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .. import registry
from ..errors import UsageError, nearest, unknown
from ..models.base import Model
from ..scenario import PHASES, Scenario, Split
from ..schedule import Schedule
from ..settings import Configurable, setting
from ..strategy import Modifier, Part, Strategy
from ..training.borders import expanded, layered
from ..training.settings import Training

COMPONENTS = ("scenario", "model", "strategy")
KEYS = (*COMPONENTS, "training", "evaluation", "protocol", "phase", "seed", "device", "until")
DEFAULT_NAMES = {"scenario": "class_incremental", "strategy": "naive"}
CATALOGUES = {"scenario": "scenarios", "model": "models", "strategy": "strategies"}


class EvaluationSettings(Configurable):
    """What counts as a prediction (`evaluation.*`)."""

    mask: Literal["none", "seen"] = setting("none", help="outputs a prediction may choose from: all, or classes seen so far")


@dataclass
class Cell:
    """A complete specification with its components made; `spec` is the canonical form."""

    spec: dict[str, Any]
    scenario: Scenario
    model: Model
    parts: list[Part]
    training: Training
    schedule: Schedule
    evaluation: EvaluationSettings
    data_root: str | None

    @property
    def seed(self) -> int:
        return int(self.spec["seed"])

    @property
    def until(self) -> int | None:
        """The number of experiences that are trained on, when it is not all."""
        value: int | None = self.spec.get("until")
        return value

    @property
    def stream_key(self) -> str:
        """Equal for cells whose streams differ in the seed alone."""
        return json.dumps([self.spec[key] for key in ("scenario", "protocol", "phase")], sort_keys=True)

    @property
    def label(self) -> str:
        """How tables call the strategy."""
        return "+".join(part.label() for part in self.parts)


def resolve(raw: Mapping[str, Any], data_root: str | None = None) -> Cell:
    """Check and complete a specification; raises `UsageError` in one line."""
    for key in raw:
        if key not in KEYS:
            raise UsageError(f"unknown key '{key}'{nearest(key, KEYS)} (valid: {', '.join(KEYS)})")
    groups = {name: _group(raw, name) for name in KEYS[:6]}
    seed, phase, device = raw.get("seed", 0), raw.get("phase", "evaluation"), raw.get("device", "auto")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed = {seed!r} is not valid: expected a whole number >= 0")
    if phase not in PHASES:
        raise UsageError(f"phase = {phase!r} is not valid: expected one of {', '.join(PHASES)}{nearest(str(phase), PHASES)}")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device = {device!r} is not valid: expected one of auto, cpu, cuda{nearest(str(device), ('auto', 'cpu', 'cuda'))}")

    until = raw.get("until")
    if until is not None and (not isinstance(until, int) or isinstance(until, bool) or until < 1):
        raise UsageError(f"until = {until!r} is not valid: expected a whole number of experiences >= 1")
    protocol = Split.validated(groups["protocol"], "protocol")
    evaluation = EvaluationSettings.validated(groups["evaluation"], "evaluation")
    scenario_name, scenario_class, scenario_values = _component("scenario", groups["scenario"], Scenario)
    scenario = scenario_class(split=Split(**protocol), data_root=data_root, **scenario_class.validated(scenario_values, "scenario"))
    scenario.name = scenario_name
    defaults = scenario.defaults
    model_name, model_class, model_values = _component("model", {"name": scenario.model, **groups["model"]}, Model)
    model = model_class(**model_class.validated(model_values, "model"))
    model.name = model_name

    strategy, training_defaults = expand(groups["strategy"])
    parts = _parts(strategy, defaults)
    training_values = Training.resolved(layered(scenario.training_defaults, training_defaults, expanded(groups["training"])), defaults)
    schedule = _schedule(training_values["schedule"])
    training_values["schedule"] = {"name": schedule.name, **schedule.settings()}

    base, *modifiers = [{"name": part.name, **part.settings()} for part in parts]
    spec = {
        "scenario": {"name": scenario_name, **scenario.settings()},
        "model": {"name": model_name, **model.settings()},
        "strategy": {**base, "modifiers": modifiers},
        "training": training_values,
        "evaluation": evaluation,
        "protocol": protocol,
        "phase": phase,
        "seed": seed,
        "device": device,
        **({} if until is None else {"until": until}),
    }
    return Cell(spec, scenario, model, parts, Training(**training_values), schedule, EvaluationSettings(**evaluation), data_root)


def _group(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name, {})
    if isinstance(value, str) and name in COMPONENTS:
        return {"name": value}
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} = {value!r} is not valid: expected {name}.<setting>=value")
    return dict(value)


def _component(kind: str, values: dict[str, Any], base: type) -> tuple[str, Any, dict[str, Any]]:
    name = values.pop("name", DEFAULT_NAMES.get(kind))
    if not isinstance(name, str):
        raise UsageError(f"{kind}.name = {name!r} is not valid: expected text")
    found = registry.load(CATALOGUES[kind], name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{kind} '{name}' is not a {base.__name__}: derive the class from clsuite's {base.__name__}")
    return name, found, values


def _schedule(values: dict[str, Any]) -> Schedule:
    values = dict(values)
    name = values.pop("name", "constant")
    found = registry.load("schedules", name) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, Schedule)):
        raise UsageError(f"training.schedule.name = {name!r} is not a schedule (valid: {', '.join(registry.catalogue('schedules'))})")
    schedule = found(**found.validated(values, "training.schedule"))
    schedule.name = name
    return schedule


def expand(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parsed form of a strategy and the training defaults its aliases bring.

    `derpp+refresh` with `refresh: {steps: 2}` becomes `{name: derpp, modifiers: [{name: refresh, steps: 2}]}`; an alias at
    the first place is replaced by what it stands for, and a modifier there stands around `naive`.
    """
    values = dict(values)
    names = values.pop("name", DEFAULT_NAMES["strategy"])
    listed = values.pop("modifiers", [])
    if not isinstance(names, str) or not all(names.split("+")):
        raise UsageError(f"strategy = {names!r} is not valid: expected a name, or names joined by '+'")
    if not isinstance(listed, list) or not all(isinstance(m, (str, Mapping)) for m in listed):
        raise UsageError(f"strategy.modifiers = {listed!r} is not valid: expected a list of {{name: ..., settings}}")
    first, *rest = names.split("+")
    if first not in registry.aliases() and _is_modifier(first, values):
        first, rest = DEFAULT_NAMES["strategy"], [first, *rest]
    modifiers = [{"name": name} for name in rest] + [{"name": m} if isinstance(m, str) else dict(m) for m in listed]
    training: dict[str, Any] = {}
    base: dict[str, Any] = {"name": first}
    if first in registry.aliases():
        alias = registry.aliases()[first]
        training = dict(alias.get("training", {}))
        base = {k: v for k, v in alias.items() if k not in ("modifiers", "training", "source", "reproduced")}
        modifiers = [dict(m) for m in alias.get("modifiers", [])] + modifiers
    for modifier in modifiers:
        name = modifier.get("name")
        if not isinstance(name, str):
            raise UsageError(f"strategy.modifiers has an entry whose name is no text: {modifier!r}")
        if name in registry.aliases():
            raise UsageError(f"strategy '{name}' is a combination and can only stand first (it stands for {describe_alias(str(name))})")
        given = values.get(str(name))
        if isinstance(given, Mapping):
            if sum(m.get("name") == name for m in modifiers) > 1:
                raise UsageError(f"strategy.{name} is ambiguous: the modifier occurs twice; write its settings in strategy.modifiers")
            modifier.update(values.pop(str(name)))
    for key, value in values.items():
        if isinstance(value, Mapping) and key in registry.catalogue("strategies"):
            raise UsageError(f"strategy.{key} names a modifier that is not in '{names}' (write strategy={names}+{key})")
        base[key] = value
    return {**base, "modifiers": modifiers}, training


def _is_modifier(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a name that stands first is a modifier's, which is no base: its settings (`values`) have its name before them there too."""
    found = registry.load("strategies", name)
    if not (isinstance(found, type) and issubclass(found, Modifier)):
        return False
    own = next((key for key in values if key in found.declared()), None)
    if own is not None:
        raise UsageError(f"strategy.{own} is a setting of the modifier '{name}': write strategy.{name}.{own}")
    return True


def describe_alias(name: str) -> str:
    """`naive+slow_learner+alignment`."""
    alias = registry.aliases()[name]
    return "+".join([alias["name"], *(m["name"] for m in alias.get("modifiers", []))])


def _parts(strategy: dict[str, Any], defaults: dict[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for place, values in enumerate([{k: v for k, v in strategy.items() if k != "modifiers"}, *strategy["modifiers"]]):
        values = dict(values)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise UsageError(f"strategy.modifiers has an entry without a name: {values!r}")
        found = registry.load("strategies", name)
        if not (isinstance(found, type) and issubclass(found, (Strategy, Modifier))):
            raise UsageError(f"strategy '{name}' is not a Strategy or Modifier: derive the class from clsuite's")
        if place > 0 and not issubclass(found, Modifier):
            raise UsageError(f"strategy '{name}' is a base strategy and can only stand first")
        part = found(**found.validated(values, "strategy" if place == 0 else f"strategy.{name}"))
        part.name = name
        parts.append(part)
    _share_memory_size(parts, defaults)
    return parts


def _share_memory_size(parts: list[Part], defaults: dict[str, Any]) -> None:
    """Parts with a memory share one: its size is the one that was given, else the data set's default."""
    remembering: list[Any] = [p for p in parts if "memory" in p.needs]
    for name, default in (("buffer_size", defaults["buffer_size"]), ("buffer", "reservoir"), ("insert", "first_epoch")):
        given = {getattr(p, name): p for p in remembering if getattr(p, name, None) is not None}
        if len(given) > 1:
            shown = " and ".join(f"{p.name}.{name} = {v}" for v, p in given.items())
            raise UsageError(f"strategy parts share one memory, but {shown} differ; give it once")
        declaring = [p for p in remembering if name in p.declared()]
        for part in remembering:
            setattr(part, name, None)
        for part in (declaring or remembering)[:1]:
            setattr(part, name, next(iter(given), default))


def check_world(cell: Cell, stream: Any) -> None:
    """Refuse, in one line, a model or a setting of the training that belongs to another kind of data."""
    if cell.model.world != stream.world:
        valid = ", ".join(name for name in registry.catalogue("models") if registry.load("models", name).world == stream.world)
        raise UsageError(f"model '{cell.model.name}' is for {cell.model.world}, but scenario '{stream.scenario}' streams {stream.world}; valid: {valid}")
    training = cell.training
    if stream.world == "text":
        fixed: tuple[tuple[str, Any, Any], ...] = (
            ("epochs", training.epochs, 1),
            ("augmentation", training.augmentation, []),
            ("logit_mask", training.logit_mask, "none"),
            ("probe_every", training.probe_every, None),
            ("evaluate_every", training.evaluate_every, "auto"),
            ("normalise", training.normalise, "auto"),
        )
        for name, value, valid in fixed:
            if value != valid:
                why = "scenario.tokens says how long to train" if name == "epochs" else "it applies to images"
                raise UsageError(f"training.{name} = {value!r} is not possible for text: {why} (valid: {valid})")
        if cell.evaluation.mask != "none":
            raise UsageError(f"evaluation.mask = {cell.evaluation.mask!r} is not possible for text: it applies to images (valid: 'none')")
    elif training.accumulation > 1:
        raise UsageError(f"training.accumulation = {training.accumulation} applies to text models (valid for images: 1)")
    elif training.precision == "bfloat16":
        raise UsageError("training.precision = 'bfloat16' applies to text models (valid for images: float32, float64)")


def check_pairing(cell: Cell, stream: Any, network: Any, pretrained: bool) -> None:
    """Refuse, in one line, parts whose needs the stream, the model or the base cannot meet, and doubled claims."""
    if cell.until is not None and cell.until > len(stream):
        raise UsageError(f"until = {cell.until} is more than the {len(stream)} experiences of scenario '{stream.scenario}'")
    base = cell.parts[0]
    offered = set(base.offers) | {"memory"}
    offered |= {"borders"} if stream.has_borders else set()
    offered |= {"task_ids"} if stream.has_task_ids else set()
    offered |= {"classifier"} if stream.world == "images" and getattr(network, "head", None) is not None else set()
    offered |= {"several_tasks"} if len(stream) > 1 else set()
    offered |= {"pretrained"} if pretrained else set()
    reasons = {
        "borders": f"scenario '{stream.scenario}' has no task borders",
        "task_ids": f"scenario '{stream.scenario}' has no task ids",
        "classifier": f"model '{cell.model.name}' has no classifier head" + (" over classes: it predicts tokens" if stream.world == "text" else ""),
        "several_tasks": f"scenario '{stream.scenario}' has a single experience",
        "pretrained": f"model '{cell.model.name}' has no pretrained weights (give model.weights)",
        "incremental": f"strategy '{base.name}' does not train step by step on the current experience",
    }
    if not stream.has_borders:
        for name, value, setting in (
            ("experience", cell.training.logit_mask, "training.logit_mask"),
            ("experience_balanced", next((getattr(p, "buffer", None) for p in cell.parts if getattr(p, "buffer", None)), None), "strategy.buffer"),
        ):
            if value == name:
                raise UsageError(f"{setting} = '{value}' needs task borders, but scenario '{stream.scenario}' has none here")
    for part in cell.parts:
        for need in sorted(set(part.needs) - offered):
            reason = reasons.get(need, f"strategy '{base.name}' does not offer '{need}'")
            raise UsageError(f"strategy '{part.name}' cannot be used here: it needs '{need}', but {reason}")
        for other in cell.parts:
            shared = sorted(set(part.claims) & set(other.claims))
            if other is not part and shared:
                raise UsageError(f"strategies '{part.name}' and '{other.name}' cannot be combined: both claim '{shared[0]}'")


__all__ = ["COMPONENTS", "KEYS", "Cell", "check_pairing", "describe_alias", "expand", "resolve", "unknown"]
