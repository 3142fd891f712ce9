"""One cell: run to its result, or its stored result.

A cell's folder is `OUT/cells/<2 hex>/<hash>/` with `spec.json`, `metrics.jsonl`, `checkpoints/` while it runs, and
`result.json` once it is done. The same cell again gives the stored result.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import Diverged, ResultWarning, UsageError
from ..training.checkpoint import Checkpoints, writable
from ..training.loop import Loop, Start
from ..training.processes import Processes
from ..training.run import Run
from .assembly import device_of, make_run
from .folder import Log, cell_folder, finished, publish, seconds_of, stored, unmake, writing
from .identity import SCHEMA, cell_hash, provenance, source_digests
from .machine import forget_peak_memory, peak_memory_mb, platform_of
from .spec import Cell
from .weights import check_place, save_weights

MOST_RATES = 50
"""Experiences up to which a result says what the schedule came to in each."""


@dataclass
class Options:
    """How a cell is run; none of it changes a number.

    `weights`: where to write the weights the cell ends with.
    `start_from`: the cell of a prefix in the same `out`, and the places of its parts among this cell's.
    """

    out: Path | None = None
    checkpoint_seconds: float = 30.0
    rerun: bool = False
    weights: Path | None = None
    on_start: Callable[[Run], None] | None = None
    on_step: Callable[[Run], None] | None = None
    on_event: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    start_from: tuple[Cell, Sequence[int]] | None = None
    processes: Processes = field(default_factory=Processes)


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
    folder = None if options.out is None else cell_folder(options.out, name)
    known = stored(folder, digests, options.rerun)
    if known is not None:
        if options.weights is not None:
            raise UsageError(f"--weights = '{options.weights}': the cell is finished and kept no weights (--rerun computes it again)")
        return known
    if options.weights is not None:
        check_place(cell, options.weights)
    if options.out is not None:
        writable(options.out)
    device = device_of(cell.spec["device"])
    forget_peak_memory(device)
    run = make_run(cell, device, options.processes)
    machine = platform_of(device, cell.training.threads)
    if not options.processes.alone:
        machine["processes"] = options.processes.count
    checkpoints = _checkpoints(cell, name, folder, machine, options.checkpoint_seconds)
    made = [] if folder is None else [p for p in (folder, *folder.parents) if not p.exists()]
    leads = options.processes.leads
    if folder is not None and leads:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if options.rerun:
                checkpoints.clear()
            (folder / "spec.json").write_text(json.dumps(cell.spec, indent=1))
    options.processes.wait()
    log = Log(None if folder is None else folder / "metrics.jsonl")
    listeners: list[Callable[[dict[str, Any]], None]] = [log, *options.on_event] if leads else []

    def report(record: dict[str, Any]) -> None:
        for listener in listeners:
            listener(record)

    start = None if folder is None else _start(folder, options, machine)
    loop = Loop(run, checkpoints, report, options.on_step, None if start is None else start.loop)
    if options.on_start is not None:
        options.on_start(run)
    status, reason = "ok", None
    with _asked_to_leave(run):
        try:
            loop.execute(cell.until)
        except Diverged as error:
            status, reason = error.status, str(error)
        except UsageError:
            if (run.progress.position.experience, run.progress.position.step) == (0, 0):  # refused by its first step: nothing stays
                unmake(folder, made)
            raise
    result = _result(cell, name, run, loop, status, reason, {**machine, **provenance(), "source": digests})
    if cell.until is not None:
        result["until"] = cell.until
    if start is not None and loop.started:
        result["start_from"] = start.facts
    if options.weights is not None and status == "ok":
        save_weights(cell, loop, options.weights)  # not charged to the method
    if folder is not None and leads:
        publish(folder, result, options.rerun)
        if cell.until is None or status != "ok":
            checkpoints.clear()
    options.processes.wait()
    return result


def _checkpoints(cell: Cell, name: str, folder: Path | None, machine: dict[str, Any], seconds: float) -> Checkpoints:
    identity = hashlib.sha256(json.dumps([name, source_digests(cell)], sort_keys=True).encode()).hexdigest()
    return Checkpoints(None if folder is None else folder / "checkpoints", identity, machine, seconds)


@dataclass(frozen=True)
class _Prefix:
    """A finished prefix to go on from, and what the result says of it."""

    loop: Start
    facts: dict[str, Any]


def _start(folder: Path, options: Options, machine: dict[str, Any]) -> _Prefix | None:
    """The prefix a cell may start from, when it is there; its log so far becomes the cell's."""
    if options.start_from is None or options.out is None:
        return None
    cell, kept = options.start_from
    name = cell_hash(cell)
    there = cell_folder(options.out, name)
    result = finished(there)
    if result is None or result["status"] != "ok":
        return None
    if (there / "metrics.jsonl").exists() and not (folder / "metrics.jsonl").exists():
        shutil.copyfile(there / "metrics.jsonl", folder / "metrics.jsonl")
    facts = {"cell": name, "until": cell.until, "seconds": seconds_of(result), "start_from": result.get("start_from")}
    return _Prefix(Start(_checkpoints(cell, name, there, machine, math.inf), kept), facts)


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


def _result(cell: Cell, name: str, run: Run, loop: Loop, status: str, reason: str | None, environment: dict[str, Any]) -> dict[str, Any]:
    cost = {
        **run.cost_report(),
        "seconds": loop.seconds["training"],
        "deployment_seconds": loop.seconds["deployment"],
        "evaluation_seconds": loop.seconds["evaluation"],
        "peak_memory_mb": peak_memory_mb(),
        "buffer_bytes": sum(memory.bytes() for memory in run.memories.values()) + sum(part.memory_bytes() for part in run.parts),
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
        "metrics": loop.measurements.metrics(loop.seconds["training"]),
        **loop.measurements.document(),
        "evaluation_sets": [{"name": e.name, "samples": len(e), "learned_in": e.learned_in} for e in run.stream.evaluation_sets],
        "cost": cost,
        "reports": _reports(run),
        **({"rates": run.timeline.describe()} if len(run.stream) <= MOST_RATES else {}),
        "spec": cell.spec,
        "stream": {"fingerprint": run.stream.fingerprint, **run.stream.facts},
        "resume": run.base.resumes if loop.exact else "not_exact",
        "weights_sha256": run.weights_digest(),
        "environment": environment,
    }


def _reports(run: Run) -> dict[str, Any]:
    """What parts say of themselves, by name; a second part of one name is `name 2`."""
    found: dict[str, Any] = {}
    for part in run.parts:
        if report := part.report():
            count = sum(name.partition(" ")[0] == part.name for name in found) + 1
            found[part.name if count == 1 else f"{part.name} {count}"] = report
    return found


__all__ = ["Cell", "Options", "ResultWarning", "cell_hash", "make_run", "run_cell"]
