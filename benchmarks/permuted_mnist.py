"""The engine against a bare loop over resident tensors, on permuted MNIST: ratios of the same run, alternating.

    CLSUITE_DATA=... python benchmarks/permuted_mnist.py [--tasks 5] [--rounds 5]

Both train an MLP 784-100-100-10 with SGD 0.2 on batches of 128, one epoch of 60,000 samples a task, with and without a
reservoir of 500 samples replayed in every step, and evaluate all tasks after each. The bare loop knows nothing of this
package except where the pixels lie: it holds one tensor, draws its own permutations, and writes its update out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

BATCH, RATE, CAPACITY = 128, 0.2, 500


def bare_loop(data: dict[str, torch.Tensor], tasks: int, replay: bool, seed: int = 0) -> float:
    """Seconds of training and evaluating, as one would write it for this workload alone."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    permutations = [torch.arange(784)] + [torch.from_numpy(rng.permutation(784)) for _ in range(tasks - 1)]
    net = torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, fused=True)
    x, y, count = data["x"], data["y"], len(data["y"])
    buffer, labels, filled, offered = torch.zeros(CAPACITY, 784, dtype=torch.uint8), torch.zeros(CAPACITY, dtype=torch.int64), 0, 0
    started = time.perf_counter()
    for permutation in permutations:
        net.train()
        order = torch.from_numpy(rng.permutation(count))
        for start in range(0, count, BATCH):
            chosen = order[start : start + BATCH]
            pixels, targets = x[chosen].gather(1, permutation.expand(len(chosen), -1)), y[chosen]
            inputs, wanted = pixels, targets
            if replay and filled:
                slots = torch.from_numpy(rng.choice(filled, min(BATCH, filled), replace=False))
                inputs, wanted = torch.cat([pixels, buffer[slots]]), torch.cat([targets, labels[slots]])
            loss = F.cross_entropy(net(inputs.float().div_(255)), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if replay:
                arrivals = offered + np.arange(len(chosen))
                places = np.where(arrivals < CAPACITY, arrivals, rng.integers(0, arrivals + 1))
                kept = np.flatnonzero(places < CAPACITY)
                if kept.size:
                    target = torch.from_numpy(places[kept])
                    buffer[target], labels[target] = pixels[kept], targets[kept]
                offered += len(chosen)
                filled = min(offered, CAPACITY)
        net.eval()
        with torch.inference_mode():
            for tested in permutations:
                for part, truth in zip(data["x_test"].split(1000), data["y_test"].split(1000), strict=True):
                    (net(part.gather(1, tested.expand(len(part), -1)).float().div_(255)).argmax(1) == truth).double().sum()
    return time.perf_counter() - started


def engine(tasks: int, replay: bool, data_root: str | None) -> tuple[float, dict[str, Any]]:
    """Seconds of the engine's training and evaluation (making the stream and the model is outside, as in the bare loop)."""
    from clsuite.experiment.cell import make_run
    from clsuite.experiment.spec import resolve
    from clsuite.training.checkpoint import Checkpoints
    from clsuite.training.loop import Loop

    raw: dict[str, Any] = {
        "scenario": {"name": "domain_incremental", "dataset": "mnist", "experiences": tasks},
        "strategy": {"name": "replay", "buffer_size": CAPACITY, "replay_batch": BATCH} if replay else "naive",
        "training": {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE},
        "device": "cpu",
    }
    run = make_run(resolve(raw, data_root), torch.device("cpu"))
    loop = Loop(run, Checkpoints(None, "", {}))
    started = time.perf_counter()
    loop.execute()
    return time.perf_counter() - started, loop.measurements.metrics(loop.seconds["training"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-root", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    from clsuite.data.source import load_source

    source = load_source("mnist", arguments.data_root)
    data = {
        "x": torch.from_numpy(np.array(source.images("train"))).flatten(1),
        "y": torch.from_numpy(source.labels("train").copy()),
        "x_test": torch.from_numpy(np.array(source.images("test"))).flatten(1),
        "y_test": torch.from_numpy(source.labels("test").copy()),
    }
    rows = []
    for replay in (False, True):
        bare_loop(data, 1, replay), engine(1, replay, arguments.data_root)  # warm up both
        pairs = [(engine(arguments.tasks, replay, arguments.data_root)[0], bare_loop(data, arguments.tasks, replay)) for _ in range(arguments.rounds)]
        ratios = [a / b for a, b in pairs]
        rows.append(
            {
                "workload": "replay 500" if replay else "naive",
                "tasks": arguments.tasks,
                "rounds": arguments.rounds,
                "engine_seconds_a_task": round(statistics.median(a for a, _ in pairs) / arguments.tasks, 3),
                "bare_seconds_a_task": round(statistics.median(b for _, b in pairs) / arguments.tasks, 3),
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
