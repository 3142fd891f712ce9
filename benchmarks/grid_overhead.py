"""What the grid costs beside its cells: scheduling a cell, starting a worker, planning ten thousand cells.

    python benchmarks/grid_overhead.py [--cells 1000] [--workers N]

The cells train on one sample of each digit with a strategy that does nothing, so that what is left is the machinery: the same
cells run in a loop in one process are taken off. The start of the first worker, which imports torch, is told apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

STRATEGY = """\
from clsuite.strategy import Strategy


class Nothing(Strategy):
    def training_step(self, batch):
        return None
"""

EXPERIMENT = """\
scenario: {{name: class_incremental, dataset: digits, experiences: 1, samples_per_class: 1}}
model: {{name: mlp, hidden: [1]}}
training: {{epochs: 1, batch_size: 100}}
protocol: fixed
device: cpu
strategies: [{strategies}]
seeds: {seeds}
"""

TARGETS = {"overhead a cell": 50.0, "a worker, from asking to its end (median)": 100.0, "dry run of 10,000 cells": 5000.0}


def nothing(payload: dict) -> None:
    """A task that returns at once."""


def experiment(folder: Path, strategies: int, seeds: int) -> Path:
    """An experiment file of empty cells."""
    (folder / "nothing.py").write_text(STRATEGY)
    file = folder / f"empty_{strategies}x{seeds}.yaml"
    entries = ", ".join(f"{{name: '{folder}/nothing.py:Nothing', label: n{k}, with: {{training: {{learning_rate: {k + 1}.0}}}}}}" for k in range(strategies))
    file.write_text(EXPERIMENT.format(strategies=entries, seeds=seeds))
    return file


def cells_in_one_process(file: Path, out: Path, cells: int) -> float:
    """Seconds a cell when they are run one after the other, with their folders, in this process."""
    from clsuite.experiment.cell import Options, run_cell
    from clsuite.experiment.file import read
    from clsuite.experiment.spec import resolve

    planned = read(file).cells[:cells]
    run_cell(resolve(planned[0].raw), Options(out / "warm"))
    began = time.perf_counter()
    for cell in planned:
        run_cell(resolve(cell.raw), Options(out))
    return (time.perf_counter() - began) / len(planned)


def cells_in_a_grid(file: Path, out: Path, workers: int) -> float:
    """Seconds of the whole grid."""
    from clsuite.experiment.file import read
    from clsuite.experiment.phases import run_grid

    began = time.perf_counter()
    outcomes = run_grid(read(file), out, workers=workers)
    seconds = time.perf_counter() - began
    assert all(o.ok for o in outcomes), next(o.failure for o in outcomes if not o.ok)
    return seconds


def workers_that_do_nothing(folder: Path, count: int) -> tuple[float, list[float]]:
    """Seconds of the first start, imports included, and of every bare worker after it."""
    from clsuite.experiment.engines.local import LocalEngine, Task

    began = time.perf_counter()
    with LocalEngine(1, path=[str(Path(__file__).parent)]) as engine:
        first = time.perf_counter() - began
        found = [ending for k in range(count + 1) for ending in engine.run([Task(str(k), f"{Path(__file__).stem}:nothing", {}, folder / "log")])]
    assert all(ending.status == "ok" for ending in found)
    return first, [ending.seconds for ending in found[1:]]


def planning(file: Path, out: Path) -> float:
    """Seconds of reading a file and of a dry run."""
    from clsuite.experiment.file import read
    from clsuite.experiment.phases import run_grid

    began = time.perf_counter()
    run_grid(read(file), out, dry_run=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    parser.add_argument("--planned", type=int, default=10_000)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = experiment(folder, 1, arguments.cells)
        first, starts = workers_that_do_nothing(folder, 100)
        cell = cells_in_one_process(file, folder / "one", min(arguments.cells, 200))
        wall = cells_in_a_grid(file, folder / "grid", arguments.workers)
        dry = planning(experiment(folder, 20, arguments.planned // 20), folder / "dry")
    rows = {
        "start of the engine, once": first,
        "a worker, from asking to its end (median)": statistics.median(starts),
        f"a worker, the slowest of {len(starts)}": max(starts),
        "an empty cell in a loop in one process": cell,
        f"an empty cell in a grid of {arguments.cells} on {arguments.workers} worker(s)": (wall - first) * arguments.workers / arguments.cells,
        "overhead a cell": (wall - first) * arguments.workers / arguments.cells - cell,
        f"dry run of {arguments.planned:,} cells": dry,
    }
    print(f"{'':60}{'ms':>10}{'target':>10}{'ratio':>8}")
    for what, seconds in rows.items():
        target = TARGETS.get(what)
        print(f"{what:60}{1000 * seconds:10.1f}" + ("" if target is None else f"{target:10.0f}{1000 * seconds / target:8.2f}"))


if __name__ == "__main__":
    main()
