"""What makes a cell the same cell: its hash, and the sources and the machine its numbers came from."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..settings import Configurable
from .assembly import device_of
from .spec import Cell

SCHEMA = 1
ENGINE_ROOMS = ("data", "models", "schedules", "training")
ENGINE_FILES = ("experiment/assembly.py",)
NOT_ENGINE = ("__main__.py", "cli.py", "templates.py")


def _hashed_settings(component: Configurable, values: dict[str, Any]) -> dict[str, Any]:
    """Settings that enter the hash: one that was added later counts only when it differs from its default."""
    declared = component.declared()
    return {k: v for k, v in values.items() if k not in declared or declared[k].since == 1 or v != declared[k].default}


def cell_hash(cell: Cell) -> str:
    """SHA-256 (24 hex) of the canonical spec, the data's content, and the revision of every component used."""
    return content_hash(cell_content(cell))


def content_hash(content: dict[str, Any]) -> str:
    """The hash of what `cell_content` gave; cells that differ in the seed alone differ there in `seed`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def cell_content(cell: Cell) -> dict[str, Any]:
    """What makes a cell the same cell, as plain values."""
    spec = cell.spec
    strategy = [_hashed_settings(part, {"name": plain_name(part.name), **part.settings()}) for part in cell.parts]
    data = cell.scenario.content()  # what data holds, wherever it lies and whatever it is called
    scenario = {**_hashed_settings(cell.scenario, spec["scenario"]), **data["scenario"]}
    schedule = _hashed_settings(cell.schedule, spec["training"]["schedule"])
    protocol = {**_hashed_settings(cell.scenario.split, spec["protocol"]), **data["protocol"]}
    components: list[Any] = [cell.scenario, cell.model, cell.schedule, *cell.parts]
    return {
        "schema": SCHEMA,
        "scenario": scenario,
        "model": {**_hashed_settings(cell.model, spec["model"]), "weights": _digest_of(cell.model.weight_files(cell.data_root))},
        "strategy": strategy,
        "training": {**_hashed_settings(cell.training, spec["training"]), "schedule": schedule},
        "evaluation": _hashed_settings(cell.evaluation, spec["evaluation"]),
        "protocol": protocol,
        "phase": spec["phase"],
        "seed": spec["seed"],
        "device": device_of(spec["device"]).type,
        **({} if cell.until is None else {"until": cell.until}),
        **({"part_weights": read} if (read := _digest_of([f for part in cell.parts for f in part.weight_files(cell.data_root)])) else {}),
        "revisions": [[plain_name(c.name), c.revision] for c in components],
        "files": {name: digest for name, digest in source_digests(cell).items() if ".py:" in name},
    }


def _digest_of(files: Sequence[Path]) -> str | None:
    digests = [_file_digest(path, *_version(path)) for path in files]
    return None if not digests else digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _file_digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file; read once as long as size and time of change stay."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_digests(cell: Cell) -> dict[str, str]:
    """SHA-256 of the source that makes the numbers: the engine, and the package of every class a component is made of.

    A plug-in file goes by `file.py:Class`, wherever it lies; a part that another distribution does the work of names that with its version (`sources`).
    """
    digests = {"clsuite": _engine_digest()}
    for component in (cell.scenario, cell.model, cell.schedule, *cell.parts):
        for base in type(component).__mro__:  # a method may inherit most of its rule from another file
            module = sys.modules[base.__module__]
            package, file = module.__name__.rpartition(".")[0], getattr(module, "__file__", None)
            if file is None or module.__name__.partition(".")[0] in ("builtins", "typing", "abc") or _in_engine(module.__name__):
                continue
            if package:
                digests[package] = _folder_digest(Path(file).parent)
            else:
                name = component.name  # type: ignore[attr-defined]
                digests[plain_name(name) if ".py:" in name else module.__name__] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        digests.update(getattr(component, "sources", dict)())
    return digests


def _in_engine(module: str) -> bool:
    """Whether the engine's own digest covers a module."""
    package, _, rest = module.partition(".")
    return package == "clsuite" and ("." not in rest or rest.partition(".")[0] in ENGINE_ROOMS)


def differs_from_installed(result: dict[str, Any]) -> bool:
    """Whether a result was computed by other source code than is installed now, as far as its packages can be found."""
    source: dict[str, str] = result["environment"]["source"]
    return any(digest != now for name, digest in source.items() if (now := _installed_digest(name)) is not None)


@functools.cache
def _installed_digest(name: str) -> str | None:
    if name == "clsuite":
        return _engine_digest()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if name not in sys.modules and not name.isidentifier() and "." not in name:
            return importlib.metadata.version(name)
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
        if found is not None and found.submodule_search_locations:
            return _folder_digest(Path(next(iter(found.submodule_search_locations))))
    return None


@functools.cache
def provenance() -> dict[str, str | None]:
    """The installed version, and the commit when the package runs from a git checkout."""
    root = Path(__file__).resolve().parent.parent.parent
    return {"clsuite": __version__, "commit": _commit(root / ".git")}


def _commit(git: Path) -> str | None:
    try:
        if git.is_file():  # a linked working tree
            git = (git.parent / git.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
        if (shared / name).exists():
            return (shared / name).read_text().strip()
        packed = (shared / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:
        return None


def _digest(files: Iterable[Path], base: Path) -> str:
    h = hashlib.sha256()
    for file in sorted(files):
        h.update(f"{file.relative_to(base)}".encode() + file.read_bytes())
    return h.hexdigest()


@functools.cache
def _folder_digest(folder: Path) -> str:
    return _digest(folder.glob("*.py"), folder)


@functools.cache
def _engine_digest() -> str:
    package = Path(__file__).resolve().parent.parent
    rooms = [*package.glob("*.py"), *(f for room in ENGINE_ROOMS for f in (package / room).rglob("*.py")), *(package / name for name in ENGINE_FILES)]
    return _digest((f for f in rooms if f.name not in NOT_ENGINE), package)


def plain_name(name: str) -> str:
    """`./somewhere/mine.py:Method` as `mine.py:Method`: where a plug-in lies is not part of what it is."""
    path, colon, attribute = name.rpartition(":")
    return f"{Path(path).name}:{attribute}" if colon and path.endswith(".py") else name
