"""Running the cells of an experiment that are not finished yet, in worker processes.

The folder is the memory: the same command again runs only what is missing, and a cell that was cut goes on from its
checkpoint. A cell that fails costs itself alone.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.source import load_source
from ..errors import Interrupted
from ..scenario import Scenario
from ..training.checkpoint import writable
from .assembly import device_of
from .claims import Claim, claim
from .engines.local import Ending, LocalEngine, Task
from .file import Experiment, PlannedCell, resolved
from .identity import cell_hash, source_digests
from .limits import checked_workers, gpu_slots
from .spec import Cell, resolve
from .store import Store

TARGET = "clsuite.experiment.grid:run_task"
SAY_SECONDS = 2.0
WAIT_SECONDS = 1.0


@dataclass
class Outcome:
    """A cell of the grid: its result, or why there is none."""

    label: str
    seed: int
    result: dict[str, Any] | None
    failure: str | None = None
    phase: str = "evaluation"
    trial: int | None = None
    status: str = "missing"

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class Grid:
    """Runs cells of one experiment in worker processes, whatever the phase they belong to; a context manager."""

    def __init__(self, experiment: Experiment, out: Path, data_root: str | None, workers: int | None, say: Callable[[str], None], dry_run: bool) -> None:
        self._experiment, self._data_root, self._say, self._dry_run = experiment, data_root, say, dry_run
        self.store = Store(out)
        firsts = [resolved(PlannedCell(label, 0, raw), experiment.path, data_root) for label, raw in experiment.strategies.items()]
        self._workers = checked_workers(workers, max(cell.training.threads for cell in firsts))
        self._gpus = gpu_slots(experiment.limits.cells_per_gpu) if any(device_of(cell.spec["device"]).type == "cuda" for cell in firsts) else []
        if self._gpus:
            self._workers = min(self._workers, len(self._gpus))
        self._engine: LocalEngine | None = None
        self._noted = False

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.stop()

    def begin(self) -> None:
        """Say in the folder what experiment it holds; refused when it holds another."""
        experiment = self._experiment
        dataset = load_source(experiment.scenario.get("dataset", Scenario.declared()["dataset"].default), self._data_root).identity
        writable(self.store.out)
        protocol = {"name": experiment.protocol, **experiment.split}
        self.store.open({"scenario": experiment.scenario, "data": dataset, "protocol": protocol}, experiment.text)

    def run(self, planned: list[PlannedCell], phase: str) -> list[Outcome]:
        """Run what is missing of the cells and give all their outcomes in order; a failure of the machine is tried again twice."""
        cells = [resolved(p, self._experiment.path, self._data_root) for p in planned]
        hashes = [cell_hash(cell) for cell in cells]
        states = {name: self.store.state(name) for name in hashes}
        missing = [k for k, name in enumerate(hashes) if not states[name].final and hashes.index(name) == k]  # two labels may mean one cell
        failed = sum(states[name].final and self.store.result(name) is None for name in hashes)
        counts = f"{len(cells)} cells, {len(cells) - len(missing) - failed} finished, "
        counts += (f"{failed} failed before (--rerun failed tries them again), " if failed else "") + f"{len(missing)} to run"
        self._say(f"{phase}: {counts} with {self._workers} worker(s)")
        self._note_other_source(cells, hashes)
        if missing and not self._dry_run:
            self.store.add_plan([_row(p, name) for p, name in zip(planned, hashes, strict=True)])
            if self._engine is None:
                self._engine = LocalEngine(self._workers, gpus=self._gpus)
            while missing:
                self._run(planned, hashes, missing)
                missing = [k for k in missing if not self.store.state(hashes[k]).final]
        return [self._outcome(p, name) for p, name in zip(planned, hashes, strict=True)]

    def forgive(self, planned: list[PlannedCell]) -> None:
        """Let the failed ones among the cells be tried again."""
        for p in planned:
            self.store.forgive(cell_hash(resolved(p, self._experiment.path, self._data_root)))

    def _outcome(self, planned: PlannedCell, name: str) -> Outcome:
        state = self.store.state(name)
        result = self.store.result(name)
        return Outcome(planned.label, planned.seed, result, None if result else state.reason, planned.phase, planned.trial, state.status)

    def _note_other_source(self, cells: list[Cell], hashes: list[str]) -> None:
        """Stored numbers stay as they are; that other code made them is said, once."""
        results = [(cell, self.store.result(name)) for cell, name in zip(cells, hashes, strict=True)]
        other = [r for cell, r in results if r is not None and r["environment"]["source"] != source_digests(cell)]
        if other and not self._noted:
            self._noted = True
            self._say(
                f"{len(other)} of the finished cells were computed by other source code than is installed now; remove their folders to compute them again"
            )

    def _run(self, planned: list[PlannedCell], hashes: list[str], missing: list[int]) -> None:
        """One pass over the missing cells: those that nobody else is at are run, the others left for the next pass."""
        held: dict[str, Claim] = {}
        place = {hashes[k]: k for k in missing}
        progress = _Remaining(len(missing))

        def tasks() -> Iterator[Task]:
            for name, k in place.items():
                mine = claim(self.store.folder(name))
                if mine is None:  # another driver is at it
                    continue
                held[name] = mine.keep()
                if self.store.state(name).final:
                    held.pop(name).release()
                    continue
                payload = {"raw": planned[k].raw, "out": str(self.store.cells), "data_root": self._data_root}
                limits = self._experiment.limits
                yield Task(name, TARGET, payload, self.store.folder(name) / "log.txt", limits.timeout, limits.memory_mb, bool(self._gpus))

        def ended(ending: Ending) -> None:
            name = ending.task.key
            if ending.status not in ("ok", "interrupted"):
                self.store.record(name, {"status": ending.status, "reason": ending.reason, "log": ending.log, "seconds": round(ending.seconds, 3), **_here()})
            held.pop(name).release()

        assert self._engine is not None
        try:
            for ending in self._engine.run(tasks()):
                ended(ending)
                cell = planned[place[ending.task.key]]
                trial = "" if cell.trial is None else f", trial {cell.trial}"
                failure = None if ending.status == "ok" else f"{ending.status}: {ending.reason}"
                if line := progress.line(f"{cell.label}{trial}, seed {cell.seed}", failure):
                    self._say(line)
        except KeyboardInterrupt:
            for ending in self._engine.stop():
                ended(ending)
            raise Interrupted from None
        finally:
            for mine in held.values():
                mine.release()
        if not progress.done:
            time.sleep(WAIT_SECONDS)  # other drivers hold all that is missing


class _Remaining:
    """How far a pass over cells is, said at most every few seconds; failures are always said."""

    def __init__(self, total: int) -> None:
        self._total, self._started, self._said = total, time.monotonic(), -math.inf
        self.done = 0

    def line(self, cell: str, failure: str | None) -> str | None:
        self.done += 1
        now = time.monotonic()
        if failure is None and now - self._said < SAY_SECONDS and self.done < self._total:
            return None
        self._said = now
        left = (now - self._started) / self.done * (self._total - self.done)
        return f"{cell}: {failure or 'done'} ({self.done}/{self._total}, about {left / 60:.1f} min remain)"


def _row(planned: PlannedCell, name: str) -> dict[str, Any]:
    return {"cell": name, "phase": planned.phase, "label": planned.label, "seed": planned.seed, "trial": planned.trial}


def _here() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Run the cell a task describes, in the process made for it."""
    from .cell import Options, run_cell

    result = run_cell(resolve(task["raw"], task["data_root"]), Options(Path(task["out"])))
    return {"status": result["status"]}
