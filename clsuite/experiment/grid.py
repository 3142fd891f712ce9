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

from ..errors import Interrupted, UsageError
from ..training.checkpoint import writable
from .file import Experiment, resolved
from .folder import cell_folder
from .identity import cell_hash, source_digests
from .spec import Cell

WORKER = "from clsuite.experiment.grid import worker; worker()"


@dataclass
class Outcome:
    """A cell of the grid: its result, or why there is none."""

    label: str
    seed: int
    result: dict[str, Any] | None
    failure: str | None = None


def run_grid(
    experiment: Experiment,
    out: Path,
    data_root: str | None = None,
    workers: int | None = None,
    notify: Callable[[str], None] | None = None,
    dry_run: bool = False,
) -> list[Outcome]:
    """Run what is missing and return all outcomes in file order; raises `UsageError` before anything is written."""
    say = notify or (lambda line: None)
    cells = [resolved(planned, experiment.path, data_root) for planned in experiment.cells]
    hashes = [cell_hash(cell) for cell in cells]
    threads = max(cell.training.threads for cell in cells)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(cores // threads, 1) if workers is None else workers
    if workers < 1 or (workers > 1 and workers * threads > cores):
        raise UsageError(f"--workers = {workers} with training.threads = {threads} is not valid on {cores} cores (valid: 1 to {max(cores // threads, 1)})")
    files = [cell_folder(out, name) / "result.json" for name in hashes]
    missing = [k for k, file in enumerate(files) if not file.exists() and hashes.index(hashes[k]) == k]  # two labels may mean one cell
    say(f"{len(cells)} cells, {len(cells) - len(missing)} finished, {len(missing)} to run with {workers} worker(s)")
    _note_other_source(say, cells, files)
    failures: dict[int, str] = {}
    if missing and not dry_run:
        writable(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "experiment.yaml").write_text(experiment.text)
        _run_missing(experiment, missing, out, data_root, workers, failures, say)
    results = [json.loads(file.read_text()) if file.exists() else None for file in files]
    return [Outcome(p.label, p.seed, r, failures.get(k)) for k, (p, r) in enumerate(zip(experiment.cells, results, strict=True))]


def _note_other_source(say: Callable[[str], None], cells: list[Cell], files: list[Path]) -> None:
    """Stored numbers stay as they are; that other code made them is said."""
    other = [
        file for cell, file in zip(cells, files, strict=True) if file.exists() and json.loads(file.read_text())["environment"]["source"] != source_digests(cell)
    ]
    if other:
        say(f"{len(other)} of the finished cells were computed by other source code than is installed now; remove their folders to compute them again")


def _run_missing(
    experiment: Experiment, missing: list[int], out: Path, data_root: str | None, workers: int, failures: dict[int, str], say: Callable[[str], None]
) -> None:
    pool = [_Worker(out / "workers.log") for _ in range(min(workers, len(missing)))]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for w in pool:
        free.put(w)
    leaving = threading.Event()
    started, done, lock = time.monotonic(), 0, threading.Lock()

    def one(k: int) -> None:
        nonlocal done
        if leaving.is_set():
            return
        planned = experiment.cells[k]
        process = free.get()
        failure = process.run({"raw": planned.raw, "out": str(out), "data_root": data_root})
        free.put(process)
        with lock:
            done += 1
            if failure and not leaving.is_set():
                failures[k] = failure
            rate = (time.monotonic() - started) / done
            state = f"failed: {failure}" if failure else "done"
            say(f"{planned.label}, seed {planned.seed}: {state} ({done}/{len(missing)}, about {rate * (len(missing) - done) / 60:.1f} min remain)")

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


class _Worker:
    """A process that runs one cell after another. One that dies costs the cell it was on, and is started anew."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: dict[str, Any]) -> str | None:
        """Why the cell failed, or None."""
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
            return f"the process ended with code {process.wait()}"
        failure = json.loads(answer)["failure"]
        return None if failure is None else str(failure)

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


def _failure(task: dict[str, Any]) -> str | None:
    from .cell import Options, run_cell
    from .spec import resolve

    try:
        run_cell(resolve(task["raw"], task["data_root"]), Options(Path(task["out"])))
    except Interrupted:
        sys.exit(75)
    except Exception as error:  # a cell that raises costs itself alone; the whole story is in workers.log
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, UsageError) else str(error)
    return None
