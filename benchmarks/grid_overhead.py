"""What the grid costs beside its cells: scheduling a cell, starting a worker, planning ten thousand cells.

    python benchmarks/grid_overhead.py [--cells 1000] [--workers N] [--planned 10000]

The cells train on one sample of each digit with a strategy that does nothing, so that what is left is the machinery; the same
cells run in a loop in one process are taken off. Wall-clock time is times the workers, and pessimistic where others use the
machine as well; processor time (driver, server and workers together) hardly depends on them. The start of the engine, which
imports torch once, is told apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def nothing(payload: dict[str, Any]) -> None:
    """A task that returns at once."""


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What some work gives, its seconds, and the processor seconds of this process and of all it has waited for."""

    def used() -> float:
        return sum(t.ru_utime + t.ru_stime for t in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    wall, processor = time.perf_counter(), used()
    value = work()
    return value, time.perf_counter() - wall, used() - processor


def experiment(folder: Path, strategies: int, seeds: int) -> Path:
    """An experiment file of empty cells."""
    (folder / "nothing.py").write_text(STRATEGY)
    file = folder / f"empty_{strategies}x{seeds}.yaml"
    entries = ", ".join(f"{{name: '{folder}/nothing.py:Nothing', label: n{k}, with: {{training: {{learning_rate: {k + 1}.0}}}}}}" for k in range(strategies))
    file.write_text(EXPERIMENT.format(strategies=entries, seeds=seeds))
    return file


def in_a_loop(file: Path, out: Path, cells: int) -> None:
    """Cells one after the other, with their folders, in this process."""
    from clsuite.experiment.cell import Options, run_cell
    from clsuite.experiment.file import read
    from clsuite.experiment.spec import resolve

    for cell in read(file).cells[:cells]:
        run_cell(resolve(cell.raw), Options(out))


def in_a_grid(file: Path, out: Path, **options: Any) -> None:
    """All cells of a file, or a plan of them."""
    from clsuite.experiment.file import read
    from clsuite.experiment.phases import run_grid

    outcomes = run_grid(read(file), out, **options)
    if not options.get("dry_run"):
        assert all(o.ok for o in outcomes), next(o.failure for o in outcomes if not o.ok)


def bare_workers(folder: Path, count: int) -> list[float]:
    """Seconds from asking for a worker to its end, for tasks that return at once; the first is left out."""
    from clsuite.experiment.engines.local import LocalEngine, Task

    with LocalEngine(1, path=[str(Path(__file__).parent)]) as engine:
        found = [ending for k in range(count + 1) for ending in engine.run([Task(str(k), f"{Path(__file__).stem}:nothing", {}, folder / "log")])]
    assert all(ending.status == "ok" for ending in found)
    return [ending.seconds for ending in found[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    parser.add_argument("--planned", type=int, default=10_000)
    arguments = parser.parse_args()
    import torch

    import clsuite.experiment.warm  # noqa: F401  (what cells import is not theirs)
    from clsuite.experiment.engines.local import LocalEngine

    torch.set_num_threads(1)
    cells, workers = arguments.cells, arguments.workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, looped = experiment(folder, 1, cells), min(cells, 200)
        _, start, start_processor = measured(lambda: LocalEngine(1).stop())
        starts = bare_workers(folder, 100)
        in_a_loop(file, folder / "first", 1)
        _, loop, loop_processor = measured(lambda: in_a_loop(file, folder / "loop", looped))
        _, grid, grid_processor = measured(lambda: in_a_grid(file, folder / "grid", workers=workers))
        _, dry, _ = measured(lambda: in_a_grid(experiment(folder, 20, arguments.planned // 20), folder / "dry", dry_run=True))
    cell, cell_processor = loop / looped, loop_processor / looped
    gridded, gridded_processor = (grid - start) * workers / cells, (grid_processor - start_processor) / cells
    print(f"{cells} empty cells on {workers} worker(s), load {os.getloadavg()[0]:.1f}")
    print(f"{'milliseconds':48}{'wall':>10}{'processor':>11}{'target':>8}{'ratio':>7}")
    for what, wall, processor, target in (
        ("start of the engine, once", start, start_processor, None),
        ("bare worker, median of 100", statistics.median(starts), None, 100),
        ("bare worker, slowest of 100", max(starts), None, None),
        ("empty cell in a loop in one process", cell, cell_processor, None),
        ("empty cell in the grid", gridded, gridded_processor, None),
        ("overhead a cell", gridded - cell, gridded_processor - cell_processor, 50),
        (f"dry run of {arguments.planned:,} cells", dry, None, 5000),
    ):
        line = f"{what:48}{1000 * wall:10.1f}" + (f"{1000 * processor:11.1f}" if processor is not None else " " * 11)
        print(line + (f"{target:8}{1000 * wall / target:7.2f}" if target else ""))


if __name__ == "__main__":
    main()
