"""What makes a cell the same cell: its hash, and the sources and the machine its numbers came from."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from ..data.source import load_source
from ..settings import Configurable
from .spec import Cell

SCHEMA = 1
ENGINE_ROOMS = ("data", "models", "training")
NOT_ENGINE = ("__main__.py", "cli.py", "templates.py")


def _hashed_settings(component: Configurable, values: dict[str, Any]) -> dict[str, Any]:
    """Settings that enter the hash: one that was added later counts only when it differs from its default."""
    declared = component.declared()
    return {k: v for k, v in values.items() if k not in declared or declared[k].since == 1 or v != declared[k].default}


def cell_hash(cell: Cell) -> str:
    """SHA-256 (24 hex) of the canonical spec, the data's content, and the revision of every component used."""
    spec = cell.spec
    strategy = [_hashed_settings(part, {"name": plain_name(part.name), **part.settings()}) for part in cell.parts]
    data = {name: load_source(name, cell.data_root).identity for name in filter(None, (cell.scenario.dataset, cell.scenario.split.tuning_dataset))}
    scenario = _hashed_settings(cell.scenario, spec["scenario"])
    scenario["dataset"] = data[cell.scenario.dataset]  # its content, wherever it lies and whatever it is called
    schedule = _hashed_settings(cell.schedule, spec["training"]["schedule"])
    protocol = {**spec["protocol"], "tuning_dataset": data.get(cell.scenario.split.tuning_dataset or "")}
    if protocol["split"] == "none":
        protocol = {"split": "none"}
    components: list[Any] = [cell.scenario, cell.model, cell.schedule, *cell.parts]
    content = {
        "schema": SCHEMA,
        "scenario": scenario,
        "model": {**_hashed_settings(cell.model, spec["model"]), "weights": _weights_digest(cell)},
        "strategy": strategy,
        "training": {**_hashed_settings(cell.training, spec["training"]), "schedule": schedule},
        "evaluation": spec["evaluation"],
        "protocol": protocol,
        "phase": spec["phase"],
        "seed": spec["seed"],
        "device": spec["device"],
        "revisions": {plain_name(c.name): c.revision for c in components},
        "files": {name: digest for name, digest in source_digests(cell).items() if ".py:" in name},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _weights_digest(cell: Cell) -> str | None:
    path = cell.model.weight_file(cell.data_root)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def source_digests(cell: Cell) -> dict[str, str]:
    """SHA-256 of the source that makes the numbers: the engine, and the module of every component used, by name.

    A plug-in file goes by `file.py:Class`, wherever it lies.
    """
    digests = {"clsuite": _engine_digest()}
    for component in (cell.scenario, cell.model, cell.schedule, *cell.parts):
        module = sys.modules[type(component).__module__]
        if module.__name__.startswith("clsuite.") or getattr(module, "__file__", None) is None:
            continue
        key = plain_name(component.name) if ".py:" in component.name else module.__name__  # type: ignore[attr-defined]
        digests[key] = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return digests


@functools.cache
def _engine_digest() -> str:
    package = Path(__file__).resolve().parent.parent
    rooms = [*package.glob("*.py"), *(f for room in ENGINE_ROOMS for f in (package / room).rglob("*.py"))]
    h = hashlib.sha256()
    for file in sorted(f for f in rooms if f.name not in NOT_ENGINE):
        h.update(f"{file.relative_to(package)}".encode() + file.read_bytes())
    return h.hexdigest()


def plain_name(name: str) -> str:
    """`./somewhere/mine.py:Method` as `mine.py:Method`: where a plug-in lies is not part of what it is."""
    path, colon, attribute = name.rpartition(":")
    return f"{Path(path).name}:{attribute}" if colon and path.endswith(".py") else name


def platform_of(device: torch.device, threads: int) -> dict[str, Any]:
    """What bit-for-bit equality depends on besides the cell: versions, machine type, device type, threads."""
    import numpy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
    }


def _processor() -> str:
    try:
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()
