"""One cell: its hash, its folder, its run, its result.

A cell's folder is `OUT/cells/<2 hex>/<hash>/` with `spec.json`, `metrics.jsonl`, `checkpoints/` while it runs, and
`result.json` once it is done. The same cell again gives the stored result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..data.source import load_source
from ..errors import Diverged, UsageError
from ..randomness import torch_seed
from ..settings import Configurable
from ..training.checkpoint import Checkpoints, sync_folder, writable
from ..training.loop import Loop
from ..training.run import Run
from .results import ResultWarning
from .spec import Cell, check_pairing

SCHEMA = 1


# -- identity ---------------------------------------------------------------------------------------------------


def _hashed_settings(component: Configurable, values: dict[str, Any]) -> dict[str, Any]:
    """Settings that enter the hash: one that was added later counts only when it differs from its default."""
    declared = component.declared()
    return {k: v for k, v in values.items() if k not in declared or declared[k].since == 1 or v != declared[k].default}


def cell_hash(cell: Cell) -> str:
    """SHA-256 (24 hex) of the canonical spec, the data's content, and the revision of every component used."""
    spec = cell.spec
    strategy = [_hashed_settings(part, {"name": part.name, **part.settings()}) for part in cell.parts]
    data = {name: load_source(name, cell.data_root).identity for name in filter(None, (cell.scenario.dataset, cell.scenario.split.tuning_dataset))}
    scenario = _hashed_settings(cell.scenario, spec["scenario"])
    scenario["dataset"] = data[cell.scenario.dataset]  # its content, wherever it lies and whatever it is called
    schedule = _hashed_settings(cell.schedule, spec["training"]["schedule"])
    protocol = {**spec["protocol"], "tuning_dataset": data.get(cell.scenario.split.tuning_dataset or "")}
    if protocol["split"] == "none":
        protocol = {"split": "none"}
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
        "revisions": {c.name: c.revision for c in (cell.scenario, cell.model, cell.schedule, *cell.parts)},  # type: ignore[attr-defined]
        "files": {name: digest for name, digest in source_digests(cell).items() if name.endswith(".py")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _weights_digest(cell: Cell) -> str | None:
    path = cell.model.weight_file(cell.data_root)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def source_digests(cell: Cell) -> dict[str, str]:
    """SHA-256 of the source of this package and of every component used; keys of plug-in files end in `.py`."""
    package = Path(__file__).resolve().parent.parent
    h = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        h.update(f"{file.relative_to(package)}".encode() + file.read_bytes())
    digests = {"clsuite": h.hexdigest()}
    for component in (cell.scenario, cell.model, cell.schedule, *cell.parts):
        module = sys.modules[type(component).__module__]
        if module.__name__.startswith("clsuite.") or getattr(module, "__file__", None) is None:
            continue
        name = component.name if ".py:" in component.name else module.__name__  # type: ignore[attr-defined]
        key = Path(name.rpartition(":")[0]).name if ".py:" in name else name
        digests[key] = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return digests


def _platform(device: torch.device, threads: int) -> dict[str, Any]:
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


# -- running ----------------------------------------------------------------------------------------------------


@dataclass
class Options:
    """How a cell is run; none of it changes a number."""

    out: Path | None = None
    checkpoint_seconds: float = 30.0
    rerun: bool = False
    on_start: Callable[[Run], None] | None = None
    on_step: Callable[[Run], None] | None = None
    on_event: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)


def run_cell(cell: Cell, options: Options | None = None) -> dict[str, Any]:
    """Run a cell to its result, or give the stored one.

    Raises `UsageError` for what a user can mend (nothing is written), `Interrupted` when asked to leave.
    """
    options = options or Options()
    with _threads(cell.training.threads):
        return _run(cell, options)


def _run(cell: Cell, options: Options) -> dict[str, Any]:
    name = cell_hash(cell)
    digests = source_digests(cell)
    folder = None if options.out is None else options.out / "cells" / name[:2] / name
    stored = _stored(folder, digests, options.rerun)
    if stored is not None:
        return stored
    if options.out is not None:
        writable(options.out)
    device = _device(cell.spec["device"])
    run = make_run(cell, device)
    machine = _platform(device, cell.training.threads)
    identity = hashlib.sha256(json.dumps([name, digests], sort_keys=True).encode()).hexdigest()
    checkpoints = Checkpoints(None if folder is None else folder / "checkpoints", identity, machine, options.checkpoint_seconds)
    made = [] if folder is None else [p for p in (folder, *folder.parents) if not p.exists()]
    if folder is not None:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if options.rerun:
                checkpoints.clear()
            (folder / "spec.json").write_text(json.dumps(cell.spec, indent=1))
    log = _Log(None if folder is None else folder / "metrics.jsonl")
    loop = Loop(run, checkpoints, lambda record: [report(record) for report in (log, *options.on_event)] and None, options.on_step)
    if options.on_start is not None:
        options.on_start(run)
    status, reason = "ok", None
    with _asked_to_leave(run):
        try:
            loop.execute()
        except Diverged as error:
            status, reason = error.status, str(error)
        except UsageError:
            if (run.progress.position.experience, run.progress.position.step) == (0, 0):  # refused by its first step: nothing stays
                _unmake(folder, made)
            raise
    result = _result(cell, name, run, loop, status, reason, {**machine, "source": digests})
    if folder is not None:
        _publish(folder, result, options.rerun)
        checkpoints.clear()
    return result


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out: '{path}' could not be written: {error.strerror or error}") from error


def _unmake(folder: Path | None, made: list[Path]) -> None:
    """Take back the folders a run made before it was refused."""
    if folder is None or folder not in made:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for path in made[1:]:
        try:
            path.rmdir()
        except OSError:  # another cell moved in
            return


def make_run(cell: Cell, device: torch.device) -> Run:
    """Stream, model and parts of a cell, put together and checked against each other."""
    stream = cell.scenario.stream(cell.spec["phase"], cell.seed)
    with _fixed_random_state(torch_seed(cell.seed, "initial_weights")):
        network = cell.model.build(stream.source.shape, stream.classes, cell.data_root)
    check_pairing(cell, stream, network, cell.model.pretrained)
    stream.load(device)
    network = network.to(device=device, dtype=torch.float64 if cell.training.precision == "float64" else torch.float32)
    return Run(
        stream,
        network,
        cell.parts,
        cell.training,
        cell.schedule,
        cell.seed,
        device,
        normalisation=_normalisation(cell, stream.source),
        pretrained=cell.model.pretrained,
        evaluation_mask=cell.evaluation.mask,
        memory_settings=_memory_settings(cell),
    )


def _memory_settings(cell: Cell) -> dict[str, Any] | None:
    for part in cell.parts:
        if "memory" in part.needs:
            # attributes, not settings: a part that declares none of them still shares the data set's default
            defaults = {"buffer_size": 500, "buffer": "reservoir", "insert": "first_epoch"}
            size, policy, insert = (getattr(part, name, None) or default for name, default in defaults.items())
            return {"size": size, "policy": policy, "insert": insert}
    return None


def _normalisation(cell: Cell, source: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    wanted = cell.training.normalise
    if wanted == "auto" and cell.model.pretrained and cell.model.normalisation is not None:
        return cell.model.normalisation
    if wanted == "dataset" or (wanted == "auto" and not source.grey):
        return source.mean, source.std
    return None


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device = 'cuda' is not available on this machine (valid: auto, cpu)")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _fixed_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.set_num_threads(count)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


@contextmanager
def _asked_to_leave(run: Run) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask the run to leave at its next safe place (only the main thread may listen)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if run.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        run.stop_requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- results ----------------------------------------------------------------------------------------------------


class _Log:
    """`metrics.jsonl`: a line an event; after a resume the lines the lost part had written are dropped."""

    def __init__(self, path: Path | None):
        self._path = path
        self._fresh = True

    def __call__(self, record: dict[str, Any]) -> None:
        if self._path is None:
            return
        with _writing(self._path):
            if self._fresh:
                self._fresh = False
                kept = self._before(record["step"]) if record["event"] == "resumed" else []
                self._path.write_text("".join(line + "\n" for line in kept))
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def _before(self, step: int) -> list[str]:
        lines = []
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a line that was torn when the process was killed
                if record["step"] <= step:
                    lines.append(line)
        return lines


def _result(cell: Cell, name: str, run: Run, loop: Loop, status: str, reason: str | None, environment: dict[str, Any]) -> dict[str, Any]:
    cost = {
        **run.cost_report(),
        "seconds": loop.seconds["training"],
        "deployment_seconds": loop.seconds["deployment"],
        "evaluation_seconds": loop.seconds["evaluation"],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "buffer_bytes": sum(memory.bytes() for memory in run.memories.values()),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }
    if run.device.type == "cuda":
        cost["peak_device_memory_mb"] = torch.cuda.max_memory_allocated(run.device) / 2**20
    return {
        "cell": name,
        "schema": SCHEMA,
        "status": status,
        "reason": reason,
        "strategy": cell.label,
        "metrics": loop.metrics(),
        "matrix": _rows(loop.R),
        "matrix_known_task": _rows(loop.masked) if run.stream.task_masked else None,
        "initial_accuracy": _rows(loop.initial[None])[0],
        "evaluation_sets": [{"name": e.name, "samples": len(e), "learned_in": e.learned_in} for e in run.stream.evaluation_sets],
        "cost": cost,
        "reports": {part.name: report for part in run.parts if (report := part.report())},
        "spec": cell.spec,
        "stream": {"fingerprint": run.stream.fingerprint, **run.stream.facts},
        "resume": "exact" if loop.exact else "not_exact",
        "weights_sha256": run.weights_digest(),
        "environment": environment,
    }


def _rows(values: Any) -> list[list[float | None]]:
    return [[None if v != v else v for v in row] for row in values.tolist()]


def _stored(folder: Path | None, digests: dict[str, str], rerun: bool) -> dict[str, Any] | None:
    if folder is None or rerun or not (folder / "result.json").exists():
        return None
    result = json.loads((folder / "result.json").read_text())
    if result["environment"]["source"] != digests:
        warnings.warn(
            f"result {result['cell']} was computed by other source code than is installed now; it is shown unchanged (--rerun computes it again)",
            ResultWarning,
            stacklevel=2,
        )
    return result


def _publish(folder: Path, result: dict[str, Any], replace: bool) -> None:
    """Make the result visible at once and whole; the first publication wins, a second is dropped."""
    temporary = folder / f".result-{uuid.uuid4().hex}"
    try:
        with temporary.open("w") as file:
            json.dump(result, file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, folder / "result.json")
        else:
            try:
                os.link(temporary, folder / "result.json")
            except FileExistsError:
                pass
            temporary.unlink()
        sync_folder(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"--out: the result of cell {result['cell']} could not be written to '{folder}': {error.strerror or error}") from error


__all__ = ["Cell", "Options", "ResultWarning", "cell_hash", "make_run", "registry", "run_cell"]
