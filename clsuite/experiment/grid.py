"""Running the cells of an experiment that are not finished yet, one process a cell.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Interrupted, UsageError
from ..training.checkpoint import writable
from .cell import cell_hash
from .file import Experiment, resolved

WORKER = "from clsuite.experiment.grid import worker; worker()"


@dataclass
class Outcome:
    """A cell of the grid: its result, or why there is none."""

    label: str
    seed: int
    result: dict[str, Any] | None
    failure: str | None = None


def run_grid(
    experiment: Experiment, out: Path, data_root: str | None = None, workers: int = 1, notify: Callable[[str], None] | None = None, dry_run: bool = False
) -> list[Outcome]:
    """Run what is missing and return all outcomes in file order; raises `UsageError` before anything is written."""
    say = notify or (lambda line: None)
    cells = [resolved(planned, experiment.path, data_root) for planned in experiment.cells]
    hashes = [cell_hash(cell) for cell in cells]
    threads = max(cell.training.threads for cell in cells)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1 or (workers > 1 and workers * threads > cores):
        raise UsageError(f"--workers = {workers} with training.threads = {threads} is not valid on {cores} cores (valid: 1 to {max(cores // threads, 1)})")
    files = [out / "cells" / name[:2] / name / "result.json" for name in hashes]
    missing = [k for k, file in enumerate(files) if not file.exists()]
    say(f"{len(cells)} cells, {len(cells) - len(missing)} finished, {len(missing)} to run with {workers} worker(s)")
    failures: dict[int, str] = {}
    if missing and not dry_run:
        writable(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "experiment.yaml").write_text(experiment.path.read_text())
        _run_missing(experiment, missing, out, data_root, workers, failures, say)
    results = [json.loads(file.read_text()) if file.exists() else None for file in files]
    return [Outcome(p.label, p.seed, r, failures.get(k)) for k, (p, r) in enumerate(zip(experiment.cells, results, strict=True))]


def _run_missing(
    experiment: Experiment, missing: list[int], out: Path, data_root: str | None, workers: int, failures: dict[int, str], say: Callable[[str], None]
) -> None:
    running: set[subprocess.Popen[str]] = set()
    leaving = threading.Event()
    lock = threading.Lock()
    started, done = time.monotonic(), 0

    def one(k: int) -> None:
        nonlocal done
        if leaving.is_set():
            return
        planned = experiment.cells[k]
        task = json.dumps({"raw": planned.raw, "out": str(out), "data_root": data_root})
        with lock:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            running.add(process)
        _, errors = process.communicate(task)
        with lock:
            running.discard(process)
            done += 1
            if process.returncode not in (0, 75):
                lines = [line for line in errors.splitlines() if line.strip()] or [f"left with code {process.returncode}"]
                failures[k] = lines[-1]
            rate = (time.monotonic() - started) / done
            state = "failed: " + failures[k] if k in failures else "left" if process.returncode else "done"
            say(f"{planned.label}, seed {planned.seed}: {state} ({done}/{len(missing)}, about {rate * (len(missing) - done) / 60:.1f} min remain)")

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, k) for k in missing]
        try:
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            leaving.set()
            with lock:
                for process in running:
                    process.terminate()
            raise Interrupted from None


def worker() -> None:
    """Run the cell described on standard input. Leaves when its parent is gone: nothing of a killed grid runs on."""
    from .cell import Options, run_cell
    from .spec import resolve

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(75)

    threading.Thread(target=watch, daemon=True).start()
    task = json.loads(sys.stdin.read())
    try:
        run_cell(resolve(task["raw"], task["data_root"]), Options(Path(task["out"])))
    except Interrupted:
        sys.exit(75)
    except UsageError as error:
        sys.exit(f"clsuite: {error}")
