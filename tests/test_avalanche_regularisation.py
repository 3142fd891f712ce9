"""EWC, SI, MAS, LwF and A-GEM against Avalanche's plugins: the same batches give the same weights, the same streams the same accuracy."""

from __future__ import annotations

import copy
import os
import random
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from clsuite.experiment.cell import make_run
from clsuite.experiment.spec import resolve
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .avalanche_samples import Samples

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]

CLASSES = {"name": "class_incremental", "dataset": "digits", "experiences": 5, "samples_per_class": 45}
PERMUTED = {"name": "domain_incremental", "dataset": "mnist", "samples_per_class": 100}


@pytest.fixture(scope="module")
def avalanche():
    """The parts of Avalanche that are used here (the import takes some seconds)."""
    from avalanche.benchmarks import benchmark_from_datasets, utils
    from avalanche.training import plugins, supervised

    return SimpleNamespace(benchmark=benchmark_from_datasets, dataset=utils._make_taskaware_classification_dataset, plugins=plugins, Naive=supervised.Naive)


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


def begin(method, strength, scenario, seed=0, hidden=20, **training):
    """A run of ours around `naive`; without a method, `naive` alone."""
    name, *_ = method.split() if method else [None]
    raw = {
        "scenario": scenario,
        "model": {"name": "mlp", "hidden": [hidden]},
        "strategy": {"name": "naive", "modifiers": [{"name": name, **METHODS[method][0](strength)}] if name else []},
        "training": {"border_optimizer": "keep", **training},  # Avalanche 0.6 keeps momentum at a border
        "device": "cpu",
        "seed": seed,
    }
    run = make_run(resolve(raw, os.environ.get("CLSUITE_DATA")), torch.device("cpu"))
    return run, Loop(run, Checkpoints(None, "", {}))


def benchmark_of(avalanche, run):
    """The same experiences, their samples in table order, without task labels."""
    stream = run.stream

    def data(experience):
        pixels, targets = stream.gather(torch.from_numpy(stream.ids(experience.segments)))
        return avalanche.dataset(Samples(run.workload.inputs(pixels), targets), task_labels=0)

    return avalanche.benchmark(train=[data(e) for e in stream.experiences])


def theirs_of(avalanche, run, plugins, kind=None):
    """Avalanche's naive strategy with plugins, with this run's settings and its initial weights."""
    training, model = run.training, copy.deepcopy(run.model)
    return (kind or avalanche.Naive)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=training.batch_size,
        train_epochs=training.epochs,
        eval_mb_size=1000,
        plugins=plugins,
        evaluator=None,
    )


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


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
    return executed(*begin(None, None, CLASSES, **SHORT))[-1]


@pytest.mark.parametrize(
    ("method", "strength"),
    [("ewc", 2.0), ("ewc online", 2.0), ("si", 2.0), ("mas", 0.25), ("lwf", 1.5), ("agem", 30)],
)
def test_the_same_batches_give_the_same_weights(avalanche, in_float64, copies, naive, method, strength):
    run, loop = begin(method, strength, CLASSES, **SHORT)
    seen, references, theirs = {}, [], []
    gradients = run.gradients

    def as_batch(batch):
        return [batch.x.clone(), batch.y.clone(), torch.zeros(len(batch), dtype=torch.int64)]

    run._hooks["before_step"].append(lambda batch: seen.setdefault(run.experience, []).append(as_batch(batch)))
    plugin = METHODS[method][1](avalanche.plugins, strength)
    if method == "agem":
        run.gradients = lambda batch: (references.append(as_batch(batch)), gradients(batch))[1]
        drawn = iter(references)
        plugin.sample_from_memory = lambda: next(drawn)

    class Fed(avalanche.Naive):
        """Avalanche's strategy on the recorded batches in place of its own."""

        def _before_training_exp(self, **settings):
            super()._before_training_exp(**settings)
            self.dataloader = seen[self.experience.current_experience]

        def _after_update(self, **settings):
            super()._after_update(**settings)
            theirs.append(weights(self.model))

    strategy = theirs_of(avalanche, run, [plugin], Fed)
    strategy.train_epochs = 1  # the recorded batches are those of all epochs
    theirs.append(weights(strategy.model))
    ours = executed(run, loop)
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)

    assert len(ours) == len(theirs) == 61
    assert min((a - b).abs().max() for a, b in pairwise(ours)) > 1e-6  # every step moved
    assert (ours[-1] - naive).abs().max() > 1e-3  # and the method had its say
    assert max((a - b).abs().max() for a, b in zip(ours, theirs, strict=True)) < 1e-10


def test_synaptic_intelligence_of_avalanche_does_nothing_on_a_cpu(avalanche):
    """Why the other tests give it copies: its old weights, and those it pulls back to, are views of the live ones."""
    run, _ = begin(None, None, CLASSES, **{**SHORT, "precision": "float32"})
    ended = []
    for plugins in ([], [avalanche.plugins.SynapticIntelligencePlugin(1e6)]):
        torch.manual_seed(0)
        strategy = theirs_of(avalanche, run, plugins)
        for experience in benchmark_of(avalanche, run).train_stream:
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
        run, loop = begin(method, strength, {**PERMUTED, "experiences": experiences}, seed, **LONG)
        strategy = theirs_of(avalanche, run, [METHODS[method][1](avalanche.plugins, strength)])
        loop.execute()
        ours = loop.measurements.metrics(loop.seconds["training"])["final_accuracy"]
        torch.manual_seed(seed)  # Avalanche shuffles from the global generators
        random.seed(seed)
        for experience in benchmark_of(avalanche, run).train_stream:
            strategy.train(experience)
        run.model.load_state_dict(strategy.model.state_dict())
        accuracy, *_ = loop.measurements.evaluator.measure(list(range(experiences)))
        assert min(ours, accuracy.mean()) > 0.7
        differences.append(ours - accuracy.mean())  # sets of one size
    mean, half = np.mean(differences), stats.t.ppf(0.95, 4) * stats.sem(differences)
    assert mean - half > -0.01 and mean + half < 0.01, f"90 % interval {mean - half:+.4f} .. {mean + half:+.4f} of {np.round(differences, 4)}"
