"""Which of Avalanche's strategies and plugins can be run, found by looking through the installed version.

    strategies()["ewc"]            # a row: its class, what it is, its settings
    unwrappable()["ar1"]           # why it cannot be run
    load("ewc")                    # the clsuite strategy

Looking takes as long as importing Avalanche (seconds), so what was found is kept in the user's cache, under a key of its version, Python's and
torch's, and the source that looks. A new release is looked through anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import re
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import interop
from ..data.cache import cache_root, cached_text
from ..errors import UsageError, unknown
from ..registry import Entry
from . import avalanche_signatures, avalanche_tables

PREFIX = "avalanche/"
_SOURCES = (__file__, avalanche_signatures.__file__, avalanche_tables.__file__)


@dataclass
class Catalogue:
    """What a version of Avalanche brings: rows of what can be run and reasons for what cannot, by name, and modules that could not be imported."""

    version: str
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)
    unwrappable: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


# -- what callers ask for ---------------------------------------------------------------------------------------------


def strategies() -> dict[str, dict[str, Any]]:
    """Rows of everything that can be run, by name without prefix. Imports Avalanche when this version was not looked through before."""
    return catalogue().strategies


def unwrappable() -> dict[str, str]:
    """Why a public strategy or plugin of Avalanche cannot be run, by name."""
    return catalogue().unwrappable


def entries() -> dict[str, Entry]:
    """What was found before, as the registry lists it."""
    found = known()
    rows = {} if found is None else found.strategies
    return {PREFIX + name: Entry(PREFIX + name, row["class"], f"avalanche-lib {found.version}") for name, row in rows.items() if found is not None}


def load(name: str) -> Any:
    """The strategy class behind a name without prefix; raises `UsageError` in one line."""
    found = catalogue()
    if name in found.unwrappable:
        raise UsageError(f"strategy '{PREFIX}{name}' of Avalanche {found.version} cannot be run: it {found.unwrappable[name]}")
    if name not in found.strategies:
        missing = f"; {found.missing[0]}" if found.missing else ""
        error = unknown("strategy", PREFIX + name, [PREFIX + n for n in found.strategies])
        raise UsageError(f"{error}{missing}")
    from .avalanche_strategy import strategy_class

    return strategy_class(PREFIX + name, json.dumps(found.strategies[name]), found.version)


def known() -> Catalogue | None:
    """What was found before, at once; None when this version was not looked through yet."""
    try:
        return _parsed((cache_root() / "avalanche" / f"{_key()}.txt").read_text(encoding="utf-8"))
    except OSError:
        return None


def note() -> str:
    """One line on what is not in the catalogue as it can be shown at once; empty when all is there."""
    if refused := interop.refusal():
        return f"{PREFIX}...: {refused}"
    found = known()
    if found is None:
        return f"{PREFIX}...: Avalanche {interop.installed()} was not looked through yet; clsuite show strategy {PREFIX}naive does so (some ten seconds, once)"
    return f"{PREFIX}...: {'; '.join(found.missing)}" if found.missing else ""


def catalogue() -> Catalogue:
    """All that was found; looks through the installed Avalanche if need be. Raises `UsageError` when there is none that can be used."""
    if interop.installed() is None:
        interop.avalanche()  # says what is missing
    return _catalogue(_key())


@functools.cache
def _catalogue(key: str) -> Catalogue:
    def compute() -> str:
        for module in ("core", "models", "training"):  # what one of them lacks is one line
            interop.part(module)
        return json.dumps(asdict(survey()))

    found = _parsed(cached_text("avalanche", key, lambda text: _parsed(text) is not None, compute))
    assert found is not None
    return found


def _parsed(text: str) -> Catalogue | None:
    try:
        return Catalogue(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _key() -> str:
    versions = [interop.installed(), sys.version, *(_version(name) for name in ("torch", *avalanche_tables.OPTIONAL.values()))]
    return hashlib.sha256(json.dumps([versions, *(Path(file).read_text() for file in _SOURCES)]).encode()).hexdigest()[:24]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- looking through a package ----------------------------------------------------------------------------------------


def survey(package: str = "avalanche") -> Catalogue:
    """Look through the modules of `package`.training: every public class that derives from its templates or plugins is a row or has a reason."""
    found = Catalogue(interop.installed() or "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core, models = importlib.import_module(f"{package}.core"), importlib.import_module(f"{package}.models")
        template = importlib.import_module(f"{package}.training.templates.base").BaseTemplate
        modules, found.missing = _modules(importlib.import_module(f"{package}.training"))
    classes = _classes(modules, (template, core.BasePlugin), package)
    templates = [c for c in classes if issubclass(c, template) and not c.__name__.startswith("_")]
    plugins = [c for c in classes if not issubclass(c, template)]
    named = _named(templates)
    for name, kind in named.items():
        helpers = [p for p in plugins if name_of(p.__name__) == name_of(kind.__name__)]
        _enter(found, name, kind, "template", models, helpers)
    for name, kind in _named([p for p in plugins if not p.__name__.startswith("_")]).items():
        if name not in found.strategies:
            _enter(found, name, kind, "plugin", models, [])
    _parts_and_variants(found)
    return found


def _modules(training: ModuleType) -> tuple[list[ModuleType], list[str]]:
    modules, missing, ahead = [training], [], [training]
    while ahead:
        parent = ahead.pop()
        for info in sorted(pkgutil.iter_modules(parent.__path__, parent.__name__ + "."), key=lambda i: i.name):
            try:
                module = importlib.import_module(info.name)
            except Exception as error:  # an optional package that is absent, or of a version that does not fit
                missing.append(f"{info.name} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())[:120]}) and is left out")
                continue
            modules.append(module)
            if info.ispkg:
                ahead.append(module)
    return modules, missing


def _classes(modules: list[ModuleType], bases: tuple[type, ...], package: str) -> list[type]:
    """Classes of `package`.training and .models in these modules that derive from a base, by where they are defined."""
    found = {}
    for module in modules:
        for value in list(vars(module).values()):
            kind = inspect.unwrap(value) if callable(value) and hasattr(value, "__wrapped__") else value  # a deprecated class is a function around it
            if isinstance(kind, type) and issubclass(kind, bases) and kind.__module__.startswith((f"{package}.training", f"{package}.models")):
                found[_path(kind)] = kind
    return [found[path] for path in sorted(found)]


def _path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _named(kinds: list[type]) -> dict[str, type]:
    """Classes by name; classes of one name go by the names of their modules."""
    names = [name_of(kind.__name__) for kind in kinds]
    return {(kind.__module__.rpartition(".")[2] if names.count(name) > 1 else name): kind for name, kind in zip(names, kinds, strict=True)}


def name_of(kind: str) -> str:
    """`SynapticIntelligence` as `synaptic_intelligence`, `GSS_greedyPlugin` as `gss_greedy`, `ICaRL` as `icarl`, `PNNStrategy` as `pnn`."""
    bare = kind.lstrip("_").removesuffix("Plugin").removesuffix("Strategy")
    if bare in avalanche_tables.NAMES:
        return avalanche_tables.NAMES[bare]
    words: list[str] = []
    for word in re.findall(r"[A-Z][a-z]{2,}|[A-Za-z0-9]+?(?=[A-Z][a-z]{2,}|_|$)", bare):
        if words and len(words[-1]) == 1:
            words[-1] += word
        else:
            words.append(word)
    return "_".join(words).lower()


def _enter(found: Catalogue, name: str, kind: type, role: str, models: ModuleType, helpers: list[type]) -> None:
    """A row for a class, or the reason why there is none."""
    reason = _reason(kind)
    if reason is None:
        try:
            settings = avalanche_signatures.settings_of(kind, helpers, models)
        except avalanche_signatures.CannotMake as error:
            reason = str(error)
    if reason is not None:
        found.unwrappable[name] = reason
        return
    classes = [_path(k) for k in (kind, *helpers) if not k.__name__.startswith("_")]
    found.strategies[name] = {"class": _path(kind), "classes": classes, "kind": role, "summary": _summary(kind), "settings": settings}


def _summary(kind: type) -> str:
    """The first sentence of a class's own documentation."""
    paragraph = " ".join(inspect.cleandoc(vars(kind).get("__doc__") or "").partition("\n\n")[0].split())
    sentence = paragraph.partition(". ")[0].rstrip(".,:") or kind.__name__
    return (sentence if len(sentence) <= 120 else sentence[:117].rsplit(" ", 1)[0] + " ...") + "."


def _reason(kind: type) -> str | None:
    module = kind.__module__
    optional = avalanche_tables.OPTIONAL.get(module.rpartition(".")[2])
    if optional is not None and not hasattr(sys.modules[module], optional):
        return f"needs the package '{optional}', which is not installed"
    if kind.__name__ in avalanche_tables.REASONS:
        return avalanche_tables.REASONS[kind.__name__]
    if ".training.templates" in module or inspect.isabstract(kind):
        return "is a base that strategies derive from"
    return None


def _parts_and_variants(found: Catalogue) -> None:
    for kind, whole in ((name_of(part), name_of(whole)) for part, whole in avalanche_tables.PARTS.items()):
        if whole in found.strategies and (kind in found.strategies or kind in found.unwrappable):
            found.strategies.pop(kind, None)
            found.unwrappable[kind] = f"is a part of {PREFIX}{whole}"
    for word, (kind, summary, changed) in avalanche_tables.VARIANTS.items():
        base, name = name_of(kind), f"{word}_{name_of(kind)}"
        if base in found.strategies and name not in found.strategies:
            row = json.loads(json.dumps(found.strategies[base]))
            row["summary"] = summary + "."
            for setting in row["settings"]:
                setting["default"] = changed.get(setting["name"], setting["default"])
            found.strategies[name] = row
