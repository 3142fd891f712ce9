"""The engine against Avalanche on permuted MNIST with a replay memory of 500: seconds per task of the same run, alternating.

    CLSUITE_DATA=... python benchmarks/avalanche.py [--tasks 2] [--rounds 1] [--data-root PATH]

Both train an MLP 784-100-100-10 with SGD 0.2 on batches of 128 and 128 replayed, one epoch of 60,000 samples a task, and
evaluate all tasks after each, on one thread and on normalised inputs. Avalanche runs its own `PermutedMNIST` with its
default transforms and `Replay`, loaded with num_workers=0. Its downloader is the one thing replaced: the tensors of its
`TensorMNIST` come from memory, so that the benchmark runs without a network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

# this file is called like the library it measures: its folder must not be searched for imports
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

BATCH, RATE, CAPACITY = 128, 0.2, 500


def _begin_engine(tasks: int, data_root: str | None) -> Any:
    from clsuite.experiment.cell import make_run
    from clsuite.experiment.spec import resolve
    from clsuite.training.checkpoint import Checkpoints
    from clsuite.training.loop import Loop

    raw: dict[str, Any] = {
        "scenario": {"name": "domain_incremental", "dataset": "mnist", "experiences": tasks},
        "strategy": {"name": "replay", "buffer_size": CAPACITY, "replay_batch": BATCH},
        "training": {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE, "normalise": "dataset"},
        "device": "cpu",
    }
    return Loop(make_run(resolve(raw, data_root), torch.device("cpu")), Checkpoints(None, "", {}))


def engine(tasks: int, data_root: str | None) -> tuple[float, float]:
    """Seconds of training and evaluation (making stream and model is outside), and the final accuracy."""
    loop = _begin_engine(tasks, data_root)
    started = time.perf_counter()
    loop.execute()
    return time.perf_counter() - started, loop.measurements.metrics(loop.seconds["training"])["final_accuracy"]


def _mnist(data_root: str | None) -> Any:
    """What Avalanche's `get_mnist_dataset` gives, from our copy of the data."""
    from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST

    from clsuite.data.source import load_source

    source = load_source("mnist", data_root)

    def made(split: Any) -> Any:
        data = TensorMNIST.__new__(TensorMNIST)
        data.data = torch.from_numpy(np.array(source.images(split))).reshape(-1, 28, 28)
        data.targets = torch.from_numpy(np.array(source.labels(split)))
        data.transform = data.target_transform = data.transforms = None
        return data

    return made("train"), made("test")


def avalanche(tasks: int, data_root: str | None) -> tuple[float, float]:
    """The same of Avalanche (making benchmark, model and strategy is outside)."""
    from avalanche.benchmarks.classic import cmnist
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Replay

    torch.manual_seed(0)
    with patch.object(cmnist, "get_mnist_dataset", lambda root: _mnist(data_root)):
        benchmark = cmnist.PermutedMNIST(tasks, seed=0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )
    strategy = Replay(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=RATE),
        criterion=torch.nn.CrossEntropyLoss(),
        mem_size=CAPACITY,
        train_mb_size=BATCH,
        train_epochs=1,
        eval_mb_size=1000,
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )
    started = time.perf_counter()
    found: dict[str, float] = {}
    for experience in benchmark.train_stream:
        strategy.train(experience, num_workers=0)
        found = strategy.eval(benchmark.test_stream, num_workers=0)
    seconds = time.perf_counter() - started
    return seconds, next(value for name, value in found.items() if name.startswith("Top1_Acc_Stream/eval_phase/test_stream"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data-root", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    engine(1, arguments.data_root)  # warm up: the first run decodes the data
    pairs = [(engine(arguments.tasks, arguments.data_root), avalanche(arguments.tasks, arguments.data_root)) for _ in range(arguments.rounds)]
    ratios = [theirs[0] / ours[0] for ours, theirs in pairs]
    report = {
        "workload": "permuted MNIST, replay 500",
        "tasks": arguments.tasks,
        "rounds": arguments.rounds,
        "engine_seconds_a_task": round(statistics.median(ours[0] for ours, _ in pairs) / arguments.tasks, 3),
        "avalanche_seconds_a_task": round(statistics.median(theirs[0] for _, theirs in pairs) / arguments.tasks, 3),
        "avalanche_to_engine_median": round(statistics.median(ratios), 2),
        "avalanche_to_engine_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "engine_final_accuracy": round(statistics.mean(ours[1] for ours, _ in pairs), 4),
        "avalanche_final_accuracy": round(statistics.mean(theirs[1] for _, theirs in pairs), 4),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
