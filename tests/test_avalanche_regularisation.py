"""EWC, SI, MAS, LwF and A-GEM against Avalanche's plugins: the same batches give the same weights, the same streams the same accuracy."""

from __future__ import annotations

import os
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from .avalanche_runs import as_batch, begin, fed, largest_difference, same_benchmark, settings_of, weights

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]

CLASSES = {"name": "class_incremental", "dataset": "digits", "experiences": 5, "samples_per_class": 45}
PERMUTED = {"name": "domain_incremental", "dataset": "mnist", "samples_per_class": 100}


METHODS = {
    "ewc": (
        lambda x: {"strength": 2 * x, "fisher": "batch", "fisher_samples": None},
        lambda p, x: p.EWCPlugin(x),
    ),
    "ewc online": (
        lambda x: {"strength": 2 * x, "fisher": "batch", "fisher_samples": None, "mode": "online", "decay": 0.5},
        lambda p, x: p.EWCPlugin(x, mode="online", decay_factor=0.5),
    ),
    "si": (
        lambda x: {"strength": x / 2, "damping": 0.01, "gradient": "total", "negative": "kept", "largest": 0.001},
        lambda p, x: p.SynapticIntelligencePlugin(x, eps=0.01),
    ),
    "mas": (
        lambda x: {"strength": x, "importance_of": "batch", "importance_samples": None, "average": 0.5},
        lambda p, x: p.MASPlugin(x, 0.5),
    ),
    "lwf": (
        lambda x: {"alpha": x, "temperature": 2.0},
        lambda p, x: p.LwFPlugin(x, 2.0),
    ),
    "agem": (
        lambda x: {"buffer_size": x, "buffer": "experience_balanced", "insert": "experience_end", "reference_batch": x},
        lambda p, x: p.AGEMPlugin(x, x),
    ),
}
"""Our settings and Avalanche's plugin, each of its strength: lambda of the penalty, weight of the distillation, samples of an experience in the memory."""


def ours(method, strength, scenario, seed=0, hidden=20, **training):
    """A run of ours around `naive`, and its loop; without a method, `naive` alone."""
    modifiers = [{"name": method.split()[0], **METHODS[method][0](strength)}] if method else []
    return begin(scenario, {"name": "naive", "modifiers": modifiers}, seed, hidden, **training)


@pytest.fixture
def copies(avalanche, monkeypatch):
    """Avalanche 0.6 keeps views of live weights in SI where they lie on the CPU already: with copies, it does what it does on a GPU."""
    plugin = avalanche.plugins.SynapticIntelligencePlugin

    def copying(real):
        def copied(model, target, excluded):
            real(model, target, excluded)
            for kept in target.values():
                kept.data = kept.data.clone()

        return staticmethod(copied)

    for name in ("extract_weights", "extract_grad"):
        monkeypatch.setattr(plugin, name, copying(getattr(plugin, name)))


@pytest.fixture
def in_float64():
    """Avalanche makes importances and paths in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- the same batches -------------------------------------------------------------------------------------------

SHORT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9, "precision": "float64"}
"""12 steps in each experience, of which the last of an epoch has 10 samples."""


def executed(run, loop):
    """The weights before the first step and after each."""
    found = [weights(run.model)]
    loop._on_step = lambda run: found.append(weights(run.model))
    loop.execute()
    return found


@pytest.fixture(scope="module")
def naive():
    return executed(*ours(None, None, CLASSES, **SHORT))[-1]


@pytest.mark.parametrize(
    ("method", "strength"),
    [("ewc", 2.0), ("ewc online", 2.0), ("si", 2.0), ("mas", 0.25), ("lwf", 1.5), ("agem", 30)],
)
def test_the_same_batches_give_the_same_weights(avalanche, in_float64, copies, naive, method, strength):
    run, loop = ours(method, strength, CLASSES, **SHORT)
    batches, references, theirs = {}, [], [weights(run.model)]
    gradients = run.gradients

    run._hooks["before_step"].append(lambda batch: batches.setdefault(run.experience, []).append(as_batch(batch)))
    plugin = METHODS[method][1](avalanche.plugins, strength)
    if method == "agem":
        run.gradients = lambda batch: (references.append(as_batch(batch)), gradients(batch))[1]
        drawn = iter(references)
        plugin.sample_from_memory = lambda: next(drawn)

    kind = fed(avalanche.supervised.Naive, batches, theirs)
    strategy = kind(plugins=[plugin], **settings_of(run, epochs=1))  # the recorded batches are those of all epochs
    mine = executed(run, loop)
    for experience in same_benchmark(avalanche, run).train_stream:
        strategy.train(experience)

    assert len(mine) == len(theirs) == 61
    assert min((a - b).abs().max() for a, b in pairwise(mine)) > 1e-6  # every step moved
    assert (mine[-1] - naive).abs().max() > 1e-3  # and the method had its say
    assert largest_difference(mine, theirs) < 1e-10


def test_synaptic_intelligence_of_avalanche_does_nothing_on_a_cpu(avalanche):
    """Why the other tests give it copies: its old weights, and those it pulls back to, are views of the live ones."""
    run, _ = ours(None, None, CLASSES, **{**SHORT, "precision": "float32"})
    ended = []
    for plugins in ([], [avalanche.plugins.SynapticIntelligencePlugin(1e6)]):
        torch.manual_seed(0)
        strategy = avalanche.supervised.Naive(plugins=plugins, **settings_of(run))
        for experience in same_benchmark(avalanche, run).train_stream:
            strategy.train(experience)
        ended.append(weights(strategy.model))
    assert torch.equal(*ended)


# -- a whole stream ---------------------------------------------------------------------------------------------

LONG = {"epochs": 20, "batch_size": 200, "learning_rate": 0.2, "hidden": 100}
"""Large batches of permuted MNIST, where runs that differ in batch order alone differ by half a point (standard deviation)."""


@pytest.mark.data
@pytest.mark.skipif("CLSUITE_DATA" not in os.environ, reason="needs MNIST: the 360 test digits are too few to tell one point apart; set CLSUITE_DATA")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("method", "strength", "experiences"),
    [("ewc", 512.0, 3), ("si", 16.0, 3), ("mas", 0.0625, 3), ("lwf", 1.0, 3), ("agem", 250, 2)],
)
def test_final_accuracy_agrees_within_one_point(avalanche, copies, method, strength, experiences):
    """A-GEM on two experiences: our memory divides its capacity among those seen, theirs grows with them."""
    differences = []
    for seed in range(5):
        run, loop = ours(method, strength, {**PERMUTED, "experiences": experiences}, seed, **LONG)
        strategy = avalanche.supervised.Naive(plugins=[METHODS[method][1](avalanche.plugins, strength)], **settings_of(run))
        loop.execute()
        mine = loop.measurements.metrics(loop.seconds["training"])["final_accuracy"]
        torch.manual_seed(seed)  # Avalanche shuffles from the global generators
        random.seed(seed)
        for experience in same_benchmark(avalanche, run).train_stream:
            strategy.train(experience)
        run.model.load_state_dict(strategy.model.state_dict())
        accuracy, *_ = loop.measurements.evaluator.measure(list(range(experiences)))
        assert min(mine, accuracy.mean()) > 0.7
        differences.append(mine - accuracy.mean())  # sets of one size
    mean, half = np.mean(differences), stats.t.ppf(0.95, 4) * stats.sem(differences)
    assert mean - half > -0.01 and mean + half < 0.01, f"90 % interval {mean - half:+.4f} .. {mean + half:+.4f} of {np.round(differences, 4)}"
