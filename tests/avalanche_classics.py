"""What tests of classical methods against Avalanche's share: runs over digits, the same stream shuffled, and what is put right in Avalanche 0.6."""

from __future__ import annotations

import numpy as np
import torch

from .avalanche_runs import begin, split_benchmark, training_ids


def begun(strategy, experiences=2, seed=0, hidden=20, **training):
    """A run over digits, and its loop."""
    scenario = {"name": "class_incremental", "dataset": "digits", "experiences": experiences}
    return begin(scenario, strategy, seed, hidden, **{"precision": "float64", "epochs": 1, "batch_size": 16, "learning_rate": 0.05, **training})


def shuffled_benchmark(avalanche, run):
    """The same stream, its training samples in random order: Avalanche's BiC holds out the first of a class, and digits come writer by writer."""
    return split_benchmark(avalanche, run, np.random.default_rng(run.seed).permutation(training_ids(run)))


class Features(torch.nn.Module):
    """The features of a network as a module."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.features(x)


def mend(avalanche, monkeypatch):
    """Have Avalanche 0.6's BiC distil by classes and not by samples of the batch, on a torch whose schedules are never verbose."""

    def over_classes(self, new, old):
        return torch.nn.functional.cross_entropy(new / self.T, (old / self.T).softmax(1))

    schedule = avalanche.bic.MultiStepLR
    monkeypatch.setattr(avalanche.bic, "MultiStepLR", lambda optimizer, milestones, gamma, verbose: schedule(optimizer, milestones, gamma))
    monkeypatch.setattr(avalanche.bic.BiCPlugin, "cross_entropy", over_classes)
