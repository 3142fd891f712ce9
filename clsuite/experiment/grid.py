"""Running the cells of an experiment that are not finished yet, in worker processes.

The folder is the memory: the same command again runs only what is missing, and a cell that was cut goes on from its
checkpoint. A cell that fails costs itself alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..data.source import load_source
from ..errors import Interrupted, UsageError
from ..scenario import Scenario
from ..training.checkpoint import writable
from .claims import claim
from .file import Experiment, PlannedCell, resolved
from .identity import cell_hash, source_digests
from .spec import Cell
from .store import Store

WORKER = "from clsuite.experiment.grid import worker; worker()"


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
    """Runs cells of one experiment in worker processes, whatever the phase they belong to."""

    def __init__(self, experiment: Experiment, out: Path, data_root: str | None, workers: int | None, say: Callable[[str], None], dry_run: bool) -> None:
        self._experiment, self._data_root, self._say, self._dry_run = experiment, data_root, say, dry_run
        self.store = Store(out)
        firsts = [resolved(PlannedCell(label, 0, raw), experiment.path, data_root) for label, raw in experiment.strategies.items()]
        self._workers = _checked_workers(workers, max(cell.training.threads for cell in firsts))
        self._noted = False

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
        pool = [_Worker(self.store.out / "workers.log") for _ in range(min(self._workers, len(missing)))]
        free: SimpleQueue[_Worker] = SimpleQueue()
        for w in pool:
            free.put(w)
        leaving = threading.Event()
        started, done, lock = time.monotonic(), 0, threading.Lock()

        def one(k: int) -> None:
            nonlocal done
            folder = self.store.folder(hashes[k])
            process = free.get()
            try:
                held = None if leaving.is_set() else claim(folder)
                if held is None:  # another driver is at it
                    leaving.wait(1.0)
                    return
                try:
                    held.keep()
                    if self.store.state(hashes[k]).final:
                        return
                    failure = process.run({"raw": planned[k].raw, "out": str(self.store.cells), "data_root": self._data_root})
                    if failure and not leaving.is_set():
                        self.store.record(hashes[k], failure)
                finally:
                    held.release()
            finally:
                free.put(process)
            with lock:
                done += 1
                rate = (time.monotonic() - started) / done
                state = f"failed: {failure['reason']}" if failure else "done"
                remaining = f"({done}/{len(missing)}, about {rate * (len(missing) - done) / 60:.1f} min remain)"
                trial = "" if planned[k].trial is None else f", trial {planned[k].trial}"
                self._say(f"{planned[k].label}{trial}, seed {planned[k].seed}: {state} {remaining}")

        with ThreadPoolExecutor(len(pool)) as threads:
            futures = [threads.submit(one, k) for k in missing]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                leaving.set()
                raise Interrupted from None
            finally:
                for w in pool:
                    w.stop()


def _row(planned: PlannedCell, name: str) -> dict[str, Any]:
    return {"cell": name, "phase": planned.phase, "label": planned.label, "seed": planned.seed, "trial": planned.trial}


def _checked_workers(workers: int | None, threads: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    valid = max(cores // threads, 1)
    if workers is not None and not (workers == 1 or 1 <= workers <= valid):
        raise UsageError(f"--workers = {workers} with training.threads = {threads} is not valid on {cores} cores (valid: 1 to {valid})")
    return workers or valid


class _Worker:
    """A process that runs one cell after another. One that dies costs the cell it was on, and is started anew."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """Status and reason of a failure, or None."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
                )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (OSError, ValueError):  # it died, or was stopped
            answer = ""
        if not answer:
            code = process.wait()
            return {"status": "killed" if code < 0 else "error", "reason": f"the process ended with code {code}"}
        failure: dict[str, Any] | None = json.loads(answer)["failure"]
        return failure

    def stop(self) -> None:
        """Ask the process to leave: a running cell writes a checkpoint first."""
        if self._process is not None:
            with self._process:
                self._process.terminate()
            self._process = None


def worker() -> None:
    """Run the cells described on standard input, a JSON line each, answering a line each.

    Leaves when its parent is gone: nothing of a killed grid runs on.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a plug-in prints must not be taken for an answer
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(75)

    threading.Thread(target=watch, daemon=True).start()
    for line in sys.stdin:
        answers.write(json.dumps({"failure": _failure(json.loads(line))}) + "\n")
        answers.flush()


def _failure(task: dict[str, Any]) -> dict[str, Any] | None:
    from .cell import Options, run_cell
    from .spec import resolve

    try:
        run_cell(resolve(task["raw"], task["data_root"]), Options(Path(task["out"])))
    except Interrupted:
        sys.exit(75)
    except UsageError as error:
        return {"status": "usage", "reason": str(error)}
    except Exception as error:  # a cell that raises costs itself alone; the whole story is in workers.log
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return {"status": "oom" if memory else "error", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    return None
