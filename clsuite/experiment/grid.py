"""Running the cells of an experiment that are not finished yet, in worker processes.

The folder is the memory: the same command again runs only what is missing, and a cell that was cut goes on from its
checkpoint. A cell that fails costs itself alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Interrupted
from ..training.checkpoint import writable
from .assembly import device_of
from .claims import Claim, claim
from .engines.local import Ending, LocalEngine, Task
from .file import Experiment, PlannedCell
from .identity import cell_content, content_hash, source_digests
from .limits import checked_workers, gpu_slots
from .prefix import Prefix, shared
from .spec import Cell, resolve
from .store import SHARED_START, TRANSIENT, TRIES, Store

TARGET = "clsuite.experiment.grid:run_task"
WARM = "clsuite.experiment.grid:warm"
SAY_SECONDS = 2.0
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class GridOptions:
    """How a grid is run; none of it changes a number.

    `cells`: a folder for the cells, shared by several experiments. `rerun`: `failed` tries failed cells again, `changed` computes
    cells again that other source code made. `oversubscribe`: workers times threads may exceed the cores. `share`: what cells have in
    common up to some experience is computed once (`prefix`).
    """

    data_root: str | None = None
    workers: int | None = None
    dry_run: bool = False
    rerun: str | None = None
    cells: Path | None = None
    oversubscribe: bool = False
    share: bool = True
    say: Callable[[str], None] = lambda line: None


@dataclass
class Outcome:
    """A cell of the grid: its result, or why there is none.

    `samples`: training samples it is planned to see (in a dry run). `referred`: metrics that compare it with other cells.
    """

    label: str
    seed: int
    result: dict[str, Any] | None
    failure: str | None = None
    phase: str = "evaluation"
    trial: int | None = None
    status: str = "missing"
    samples: int | None = None
    referred: dict[str, float | None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class _Job:
    """A planned cell with its hash; `changed`: its result was made by other source code and is to be replaced."""

    planned: PlannedCell
    cell: Cell
    name: str
    changed: bool = False
    start: Prefix | None = None


class Grid:
    """Runs cells of one experiment in worker processes, whatever the phase they belong to; a context manager."""

    def __init__(self, experiment: Experiment, out: Path, options: GridOptions) -> None:
        self.experiment, self.options = experiment, options
        self.store = Store(out, None if options.cells is None else options.cells.resolve())
        firsts = [experiment.resolved(PlannedCell(label, 0, raw), options.data_root) for label, raw in experiment.strategies.items()]
        self._workers = checked_workers(options.workers, max(cell.training.threads for cell in firsts), options.oversubscribe)
        self._gpus = gpu_slots(experiment.limits.cells_per_gpu) if any(device_of(cell.spec["device"]).type == "cuda" for cell in firsts) else []
        if self._gpus:
            self._workers = min(self._workers, len(self._gpus))
        self._engine: LocalEngine | None = None
        self._known: dict[str, tuple[Cell, dict[str, Any]]] = {}
        self._sizes: dict[str, int] = {}
        self._tried: set[str] = set()
        self._failures: dict[str, list[str]] = defaultdict(list)
        self._noted = False

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.stop()

    def begin(self) -> None:
        """Say in the folder what experiment it holds; refused when it holds another."""
        experiment = self.experiment
        data = resolve({"scenario": experiment.scenario}, self.options.data_root).scenario.content()["scenario"]
        for folder in {self.store.out, self.store.cells}:
            writable(folder)
        protocol = {"name": experiment.protocol.name, **experiment.protocol.split}
        self.store.open({"scenario": experiment.scenario, "data": data.get("dataset", data), "protocol": protocol}, experiment.text)

    def run(self, planned: list[PlannedCell], phase: str) -> list[Outcome]:
        """Run what is missing of the cells and give all their outcomes in order; a failure of the machine is tried again twice."""
        jobs = self._jobs(planned)
        missing = self._missing(jobs, phase)
        if not self.options.dry_run:
            self.store.add_plan([_row(job) for job in jobs])
        if missing and not self.options.dry_run:
            if self._engine is None:
                raws = [{**raw, "seed": 0} for raw in self.experiment.strategies.values()]
                self._engine = LocalEngine(self._workers, gpus=self._gpus, warm=(WARM, {"raws": raws, "data_root": self.options.data_root}))
            self._run_all(self._engine, missing)
        return [self._outcome(job) for job in jobs]

    def _run_all(self, engine: LocalEngine, missing: list[_Job]) -> None:
        """Run cells to the end, what they have in common first."""
        starts = shared(job.cell for job in missing) if self.options.share else {}
        if starts:
            missing = [dataclasses.replace(job, start=starts.get(k)) for k, job in enumerate(missing)]
            self._run_starts(engine, list(starts.values()))
        self._passes(engine, missing)

    def _run_starts(self, engine: LocalEngine, used: list[Prefix]) -> None:
        """Run the prefixes that cells go on from; a longer one may go on from a shorter one."""
        prefixes: dict[str, Prefix] = {}
        for p in used:
            while p is not None and p.name not in prefixes:
                prefixes[p.name] = p
                p = p.start  # type: ignore[assignment]
        jobs = {name: _Job(PlannedCell(p.cell.label, p.cell.seed, p.cell.spec, SHARED_START), p.cell, name, start=p.start) for name, p in prefixes.items()}
        self.store.add_plan([_row(job) for job in jobs.values()])
        open_ = [job for job in jobs.values() if not self._finished(job)]
        self.options.say(f"{len(used)} cells begin alike: {len(prefixes)} shared starts, {len(open_)} to run")
        for depth in sorted({p.depth for p in prefixes.values()}):
            self._passes(engine, [job for job in open_ if prefixes[job.name].depth == depth])

    def _passes(self, engine: LocalEngine, missing: list[_Job]) -> None:
        all_ = missing
        while missing:
            self._run(engine, missing)
            missing = [job for job in missing if not self._finished(job)]
        if kept := sum(job.changed and self._other_source(job.name, job.cell) for job in all_):
            self.options.say(f"{kept} cells could not be computed again: their earlier results stay")

    def _jobs(self, planned: Sequence[PlannedCell]) -> list[_Job]:
        """Cells with their hashes; those that differ in the seed alone are resolved once."""
        jobs = []
        for p in planned:
            alike = json.dumps({key: value for key, value in p.raw.items() if key != "seed"}, sort_keys=True)
            if alike not in self._known:
                cell = self.experiment.resolved(p, self.options.data_root)
                self._known[alike] = cell, cell_content(cell)
            cell, content = self._known[alike]
            cell = dataclasses.replace(cell, spec={**cell.spec, "seed": p.seed})
            name = content_hash({**content, "seed": p.seed})
            jobs.append(_Job(p, cell, name, self.options.rerun == "changed" and self._other_source(name, cell)))
        return jobs

    def _missing(self, jobs: list[_Job], phase: str) -> list[_Job]:
        """What has to be run, each cell once (two labels may mean the same); says how the phase stands."""
        if self.options.rerun == "failed" and not self.options.dry_run:
            for name in {job.name for job in jobs} - self._tried:
                self.store.forgive(name)
        self._tried |= {job.name for job in jobs}
        first = {job.name: job for job in reversed(jobs)}
        missing = [job for job in jobs if first[job.name] is job and not self._finished(job)]
        failed = sum(not job.changed and (state := self.store.state(job.name)).final and state.status not in ("ok", "diverged") for job in jobs)
        open_ = {job.name for job in missing}
        counts = [f"{len(jobs)} cells", f"{sum(job.name not in open_ for job in jobs) - failed} finished"]
        counts += [f"{failed} failed before (--rerun failed tries them again)"] if failed else []
        self.options.say(f"{phase}: {', '.join(counts)}, {len(missing)} to run with {self._workers} worker(s)")
        if not self._noted and (other := sum(self._other_source(job.name, job.cell) for job in jobs)):
            self._noted = True
            again = "" if self.options.rerun == "changed" else " (--rerun changed computes them again)"
            self.options.say(f"{other} of the finished cells were computed by other source code than is installed now{again}")
        return missing

    def _finished(self, job: _Job) -> bool:
        if job.changed:  # its old result stays where computing it again fails, as often as any cell is tried
            endings = self._failures[job.name]
            return not self._other_source(job.name, job.cell) or len(endings) >= TRIES or not set(endings) <= set(TRANSIENT)
        return self.store.state(job.name).final

    def _other_source(self, name: str, cell: Cell) -> bool:
        """Whether a stored result was computed by other source code than is installed now."""
        result = self.store.result(name)
        return result is not None and result["environment"]["source"] != source_digests(cell)

    def _outcome(self, job: _Job) -> Outcome:
        state, result, p = self.store.state(job.name), self.store.result(job.name), job.planned
        samples = self._samples(job.cell) if self.options.dry_run else None
        return Outcome(p.label, p.seed, result, None if result else state.reason, p.phase, p.trial, state.status, samples)

    def _samples(self, cell: Cell) -> int:
        """Training samples of the stream, every epoch counted; what strategies add to them is not known beforehand."""
        stream = cell.stream_key
        if stream not in self._sizes:
            self._sizes[stream] = sum(len(e) for e in cell.scenario.stream(cell.spec["phase"], cell.seed).experiences)
        return self._sizes[stream] * int(cell.training.epochs or 1)

    def _run(self, engine: LocalEngine, missing: list[_Job]) -> None:
        """One pass over the missing cells: those that nobody else is at are run, the others left for the next pass."""
        held: dict[str, Claim] = {}
        jobs = {job.name: job for job in missing}
        progress = _Remaining(len(missing))

        def tasks() -> Iterator[Task]:
            for name, job in jobs.items():
                mine = claim(self.store.folder(name))
                if mine is None:  # another driver is at it
                    continue
                held[name] = mine.keep()
                if self._finished(job):
                    held.pop(name).release()
                    continue
                yield self._task(job)

        def ended(ending: Ending) -> None:
            name = ending.task.key
            if ending.status not in ("ok", "interrupted"):
                self._failures[name].append(ending.status)
                self.store.record(name, {"status": ending.status, "reason": ending.reason, "log": ending.log, "seconds": round(ending.seconds, 3), **_here()})
            held.pop(name).release()

        try:
            for ending in engine.run(tasks()):
                ended(ending)
                p = jobs[ending.task.key].planned
                trial = "" if p.trial is None else f", trial {p.trial}"
                if line := progress.line(f"{p.label}{trial}, seed {p.seed}", None if ending.status == "ok" else f"{ending.status}: {ending.reason}"):
                    self.options.say(line)
        except KeyboardInterrupt:
            for ending in engine.stop():
                ended(ending)
            raise Interrupted from None
        finally:
            for mine in held.values():
                mine.release()
        if not progress.done:
            time.sleep(WAIT_SECONDS)  # other drivers hold all that is missing

    def _task(self, job: _Job) -> Task:
        limits = self.experiment.limits
        payload = {"raw": job.planned.raw, "out": str(self.store.cells), "data_root": self.options.data_root, "rerun": job.changed}
        if job.start is not None:
            payload["start_from"] = job.start.task
        return Task(job.name, TARGET, payload, self.store.folder(job.name) / "log.txt", limits.timeout, limits.memory_mb, bool(self._gpus))


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


def _row(job: _Job) -> dict[str, Any]:
    p = job.planned
    return {"cell": job.name, "phase": p.phase, "label": p.label, "seed": p.seed, "trial": p.trial}


def _here() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Run the cell a task describes, in the process made for it."""
    from .cell import Options, run_cell

    start = task.get("start_from")
    start_from = None if start is None else (resolve(start["raw"], task["data_root"]), start["kept"])
    options = Options(Path(task["out"]), rerun=task.get("rerun", False), start_from=start_from)
    result = run_cell(resolve(task["raw"], task["data_root"]), options)
    return {"status": result["status"]}


def warm(task: dict[str, Any]) -> None:
    """Look up what the cells of an experiment have in common, in the process theirs are forked from: catalogues, components, data, digests."""
    from .warm import import_for

    for raw in task["raws"]:
        cell = resolve(raw, task["data_root"])
        content_hash(cell_content(cell))
        for component in (cell.model, *cell.parts):
            import_for(component)
