"""What training a common beginning once saves: an experiment run with and without it, in folders of their own, results compared.

python benchmarks/shared_start.py experiments/fpf_mnist.yaml --seeds 2
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.phases import run_grid
from clsuite.experiment.prefix import computed_seconds


def measured(file: Path, seeds: int, share: bool, folder: Path) -> tuple[float, list[Outcome]]:
    """Wall seconds of the whole experiment on one worker, and its outcomes."""
    started = time.perf_counter()
    outcomes = run_grid(read(file, [f"seeds={seeds}"]), folder, workers=1, share=share)
    return time.perf_counter() - started, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="an experiment with protocol fixed")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone_seconds, alone = measured(options.file, options.seeds, False, Path(folder) / "alone")
        together_seconds, together = measured(options.file, options.seeds, True, Path(folder) / "together")
    for a, b in zip(alone, together, strict=True):
        assert a.result and b.result and a.result["weights_sha256"] == b.result["weights_sha256"], f"{a.label}, seed {a.seed}: another result"
    computed, saved = computed_seconds([o.result for o in together if o.result])
    starts = {o.result["start_from"]["cell"] for o in together if o.result and "start_from" in o.result}
    print(f"{len(alone)} cells, the same weights both ways; {len(starts)} shared starts")
    print(f"each by itself  {alone_seconds:8.1f} s")
    print(f"shared starts   {together_seconds:8.1f} s   ratio {together_seconds / alone_seconds:.2f}")
    print(f"computing alone, by the cells' own clocks: {computed:.1f} s instead of {computed + saved:.1f} s, ratio {computed / (computed + saved):.2f}")


if __name__ == "__main__":
    main()
