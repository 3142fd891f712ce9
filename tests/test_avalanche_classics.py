"""ER-ACE, MIR, iCaRL, BiC and SLDA against Avalanche's: the same batches give the same weights, the same streams the same accuracy.

Avalanche's strategies run with their own losses, virtual steps, exemplars, means and corrections, on the samples that ours drew. It has no WA.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from clsuite.experiment.cell import make_run
from clsuite.experiment.spec import resolve
from clsuite.memory import Memory
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .test_avalanche import Samples, weights

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


@pytest.fixture(scope="module")
def avalanche():
    """The parts of Avalanche that are used here (the import takes some seconds)."""
    from avalanche.benchmarks import nc_benchmark, utils
    from avalanche.training import losses, storage_policy, supervised
    from avalanche.training.plugins import bic, mir

    return SimpleNamespace(nc_benchmark=nc_benchmark, utils=utils, losses=losses, policies=storage_policy, supervised=supervised, bic=bic, mir=mir)


class Double:
    """torch, where what is called float has 64 bits."""

    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def double(avalanche, monkeypatch):
    """What Avalanche makes without a type, or as `torch.float`, is float64."""
    monkeypatch.setattr(avalanche.losses, "torch", Double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def mended(avalanche, monkeypatch):
    """Avalanche 0.6's BiC, its distillation by classes and not by samples of the batch, on a torch whose schedules are never verbose."""

    def over_classes(self, new, old):
        return torch.nn.functional.cross_entropy(new / self.T, (old / self.T).softmax(1))

    schedule = avalanche.bic.MultiStepLR
    monkeypatch.setattr(avalanche.bic, "MultiStepLR", lambda optimizer, milestones, gamma, verbose: schedule(optimizer, milestones, gamma))
    monkeypatch.setattr(avalanche.bic.BiCPlugin, "cross_entropy", over_classes)


def begin(strategy, experiences=2, seed=0, width=20, **training):
    """A run over digits with Avalanche's policy for the optimizer at borders, and its loop."""
    raw = {
        "scenario": {"name": "class_incremental", "dataset": "digits", "experiences": experiences},
        "model": {"name": "mlp", "hidden": [width]},
        "strategy": strategy,
        "training": {"border_optimizer": "keep", "precision": "float64", "epochs": 1, "batch_size": 16, "learning_rate": 0.05, **training},
        "device": "cpu",
        "seed": seed,
    }
    run = make_run(resolve(raw), torch.device("cpu"))
    return run, Loop(run, Checkpoints(None, "", {}))


@dataclass
class Step:
    """What a step of ours was made of: its experience, its current samples, and every draw from the memory."""

    experience: int
    current: tuple
    draws: list = field(default_factory=list)


def executed(run, loop, monkeypatch):
    """Run to the end; its steps, and its weights before and after each."""
    steps, ours = [], [weights(run.model)]
    step, at = type(run.base).training_step, Memory.at

    def training_step(self, batch):
        steps.append(Step(run.experience, seen(batch)))
        return step(self, batch)

    def drawn(self, *arguments):
        batch = at(self, *arguments)
        steps[-1].draws.append(seen(batch))
        return batch

    monkeypatch.setattr(type(run.base), "training_step", training_step)
    monkeypatch.setattr(Memory, "at", drawn)
    loop._on_step = lambda run: ours.append(weights(run.model))
    loop.execute()
    return steps, ours


def seen(batch):
    """Inputs, targets and task labels, as Avalanche's loaders give them."""
    return batch.x.clone(), batch.y.clone(), torch.zeros(len(batch), dtype=torch.int64)


def joined(step):
    return [torch.cat(parts) for parts in zip(step.current, *step.draws, strict=True)]


def fed(kind, batches, prepare=lambda strategy: None):
    """Avalanche's strategy on given batches in place of its own; `theirs` collects the weights after every step."""

    class Fed(kind):
        theirs: list

        def _before_training_exp(self, **settings):
            super()._before_training_exp(**settings)
            self.dataloader = batches[self.experience.current_experience]
            prepare(self)

        def _after_update(self, **settings):
            super()._after_update(**settings)
            self.theirs.append(weights(self.model))

    return Fed


def by_experience(steps, batch=lambda step: list(step.current)):
    return {i: [batch(s) for s in steps if s.experience == i] for i in {s.experience for s in steps}}


def benchmark_of(avalanche, run):
    """The same stream as Avalanche's split benchmarks are made, its training samples in random order: their BiC holds out the first of a
    class, and digits come writer by writer."""
    stream = run.stream
    train = np.random.default_rng(run.seed).permutation(np.concatenate([stream.ids(e.segments) for e in stream.experiences]))
    test = np.concatenate([stream.evaluation_ids(j) for j in range(len(stream.evaluation_sets))])
    order = [c for e in stream.experiences for c in e.classes]
    tables = samples_of(run, train), samples_of(run, test, "test")
    return avalanche.nc_benchmark(*tables, n_experiences=len(stream), task_labels=False, fixed_class_order=order)


def samples_of(run, ids, split="train"):
    pixels, targets = run.stream.gather(torch.from_numpy(ids), split)
    return Samples(run.workload.inputs(pixels), targets)


def options(run, model, epochs=1):
    """Avalanche's settings; one epoch where what it is fed holds all of them."""
    training = run.training
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": training.batch_size,
        "train_epochs": epochs,
        "eval_mb_size": 1000,
        "evaluator": None,
    }


def compare(ours, theirs, tolerance=1e-10):
    assert len(ours) == len(theirs) >= 51
    assert min((a - b).abs().max() for a, b in pairwise(ours)) > 1e-7  # every step moved
    assert max((a - b).abs().max() for a, b in zip(ours, theirs, strict=True)) < tolerance


# -- the same batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_er_ace_makes_the_same_weights(avalanche, momentum, monkeypatch):
    run, loop = begin({"name": "er_ace", "buffer_size": 40, "combine": "mean", "start": "second_experience"}, momentum=momentum)
    model = copy.deepcopy(run.model)
    steps, ours = executed(run, loop, monkeypatch)
    assert {len(s.draws) for s in steps if s.experience == 0} == {0} and {len(s.draws) for s in steps if s.experience == 1} == {1}

    def replay(strategy):
        if strategy.experience.current_experience > 0:
            strategy.replay_loader = iter([s.draws[0] for s in steps if s.draws])

    strategy = fed(avalanche.supervised.ER_ACE, by_experience(steps), replay)(**options(run, model))
    strategy.theirs = [weights(model)]
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)
    compare(ours, strategy.theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_mir_chooses_the_same_samples_and_makes_the_same_weights(avalanche, momentum, monkeypatch):
    run, loop = begin({"name": "mir", "buffer_size": 100, "replay_batch": 12, "scored_per_replayed": 4}, momentum=momentum)
    model = copy.deepcopy(run.model)
    steps, ours = executed(run, loop, monkeypatch)
    assert {tuple(len(x) for x, *_ in s.draws) for s in steps if s.experience == 1 and s.draws} == {(48, 12)}  # candidates, then those chosen

    class Plugin(avalanche.mir.MIRPlugin):
        """Their plugin on our candidates."""

        def before_training_exp(self, strategy, **settings):
            self.replay_loader = iter([s.draws[0] for s in steps if s.draws]) if strategy.experience.current_experience > 0 else None

    strategy = fed(avalanche.supervised.Naive, by_experience(steps))(plugins=[Plugin(12, 100, 48)], **options(run, model))
    strategy.theirs = [weights(model)]
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)
    compare(ours, strategy.theirs)


class Features(torch.nn.Module):
    """The features of a network as a module."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.features(x)


def test_icarl_makes_the_same_weights_exemplars_and_predictions(avalanche, double, monkeypatch):
    run, loop = begin({"name": "icarl", "buffer_size": 60, "loss_form": "code", "mirrored_means": True}, learning_rate=1.0)
    network = copy.deepcopy(run.model)
    stream, kept = run.stream, []
    x = run.workload.inputs(stream.gather(torch.from_numpy(stream.evaluation_ids(0)), "test")[0])
    loop._report = lambda record: record["event"] == "experience" and kept.append((exemplars(run), run.base.predict(x).detach()))
    steps, ours = executed(run, loop, monkeypatch)

    settings = options(run, network)
    del settings["model"], settings["criterion"]
    kind = fed(avalanche.supervised.ICaRL, by_experience(steps, joined))
    strategy = kind(feature_extractor=Features(network), classifier=network.head, memory_size=60, buffer_transform=None, fixed_memory=True, **settings)
    strategy.theirs = [weights(network)]
    plugin = strategy.plugins[0]
    for i, experience in enumerate(benchmark_of(avalanche, run).train_stream):
        strategy.train(experience)
        mine, scores = kept[i]
        theirs = {
            y[0]: torch.stack([row for _, row in sorted(zip(order.tolist(), x, strict=True), key=lambda pair: pair[0])])
            for x, y, order in zip(plugin.x_memory, plugin.y_memory, plugin.order, strict=True)
        }
        assert mine.keys() == theirs.keys()
        for c, pixels in mine.items():
            assert torch.equal(pixels, theirs[c].flatten(1)), c
        strategy.model.eval()
        known = sorted(mine)
        with torch.no_grad():
            torch.testing.assert_close(scores[:, known], strategy.model(x)[:, known], rtol=0, atol=1e-9)
    compare(ours, strategy.theirs)


def exemplars(run):
    """Inputs of exemplars by class, in the order in which they were chosen."""
    memory = run.memories["replay"]
    found = {}
    for c in np.unique(memory.labels).tolist():
        slots = np.flatnonzero(memory.labels == c)
        slots = slots[np.argsort(-memory.priority[slots])]
        found[c] = run.workload.inputs(run.stream.gather(torch.from_numpy(memory.ids[slots]))[0]).flatten(1)
    return found


def test_bic_makes_the_same_weights_and_the_same_two_parameters(avalanche, double, mended, monkeypatch):
    # 30 samples held out at most, one batch of the second stage: theirs comes in an order of its own
    settings = {"name": "bic", "buffer_size": 60, "validation": 0.5, "bias_decays": [0.25, 0.5, 0.75], "replay_batch": 20}
    run, loop = begin(settings, experiences=5, batch_size=32, epochs=2, learning_rate=0.1)
    model, held = copy.deepcopy(run.model), []
    loop._report = lambda record: record["event"] == "experience" and held.append(dict(run.base.held))
    steps, ours = executed(run, loop, monkeypatch)

    class Plugin(avalanche.bic.BiCPlugin):
        """Their plugin on our samples held out."""

        def before_train_dataset_adaptation(self, strategy, **settings):
            i = strategy.clock.train_exp_counter
            self.class_to_tasks |= dict.fromkeys(run.stream.experiences[i].classes, i)
            self.val_buffer = {
                c: SimpleNamespace(buffer=avalanche.utils.as_taskaware_classification_dataset(samples_of(run, ids))) for c, ids in held[i].items()
            }

    plugin = Plugin(mem_size=60, stage_2_epochs=200)
    strategy = fed(avalanche.supervised.Naive, by_experience(steps, joined))(plugins=[plugin], **options(run, model))
    strategy.theirs = [weights(model)]
    pairs = []
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)
        if plugin.bias_layer is not None:
            pairs.append((plugin.bias_layer.alpha.item(), plugin.bias_layer.beta.item()))
    compare(ours, strategy.theirs)
    assert len(pairs) == 4 and max(abs(alpha - 1) for alpha, _ in pairs) > 0.1
    np.testing.assert_allclose(run.base.pairs, pairs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("encoder", ["first_experience", "random"])
def test_slda_has_the_same_means_covariance_and_predictions(avalanche, double, encoder, monkeypatch):
    run, loop = begin({"name": "slda", "encoder": encoder, "covariance": "streaming"}, experiences=5, epochs=5)
    loop.execute()
    stream, tables = run.stream, {}
    for e in run.stream.experiences:
        ids = torch.from_numpy(stream.ids(e.segments))
        pixels, y = stream.gather(ids)
        tables[e.index] = [[run.workload.inputs(pixels), y, torch.zeros_like(y)]]
    kind = fed(avalanche.supervised.StreamingLDA, tables)
    strategy = kind(slda_model=Features(run.model), criterion=torch.nn.CrossEntropyLoss(), input_size=20, num_classes=10, evaluator=None)
    strategy.theirs = []
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)
    assert strategy.num_updates == run.base.scattered == stream.source.size("train")
    torch.testing.assert_close(run.base.means, strategy.muK, rtol=0, atol=1e-11)
    torch.testing.assert_close(run.base.scatter / run.base.scattered, strategy.Sigma, rtol=0, atol=1e-11)
    x = run.workload.inputs(stream.gather(torch.arange(stream.source.size("test")), "test")[0])
    with torch.no_grad():
        theirs = strategy.predict(run.model.features(x))
        torch.testing.assert_close(run.base.predict(x), theirs, rtol=1e-8, atol=1e-8)
    assert len(theirs.argmax(1).unique()) == 10


# -- where Avalanche 0.6 does something else on purpose or by mistake ---------------------------------------------


def test_their_bic_distils_over_the_samples_of_the_batch(avalanche):
    """Which makes weights depend on what else is in a batch; the other tests of BiC put it right."""
    new, old = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    theirs = avalanche.bic.BiCPlugin().cross_entropy(new, old)
    log, over_batch, over_classes = (new / 2).log_softmax(1), (old / 2).softmax(0), (old / 2).softmax(1)
    torch.testing.assert_close(theirs, -(over_batch * log).sum(1).mean())
    assert abs(theirs + (over_classes * log).sum(1).mean()) > 0.1


def test_their_mir_does_not_replay_the_experience_before(avalanche):
    """It leaves out the classes of the last batch at a border, where they are new: the last but one experience is forgotten at the end."""
    settings, training = METHODS["mir"]
    run, loop = begin(settings, **STREAM, **{**training, "epochs": 20})
    strategy, predict = theirs_of(avalanche, run, avalanche.mir.MIRPlugin(96, 288, 288))
    benchmark = benchmark_of(avalanche, run)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    loop.execute()
    forgotten = benchmark.test_stream[3].dataset.eval()
    x, y, _ = next(iter(torch.utils.data.DataLoader(forgotten, batch_size=1000)))
    with torch.no_grad():
        assert (predict(x).argmax(1) == y).double().mean() < 0.3 < 0.6 < loop.measurements.R[4, 3]


# -- a whole stream ---------------------------------------------------------------------------------------------

STREAM = {"experiences": 5, "width": 50, "precision": "float32"}
METHODS = {
    "er_ace": (
        {"name": "er_ace", "buffer_size": 480, "buffer": "class_balanced", "combine": "mean", "start": "second_experience"},
        {"batch_size": 144, "epochs": 60, "learning_rate": 0.05},
    ),
    "mir": (
        {"name": "mir", "buffer_size": 288, "buffer": "class_balanced", "insert": "experience_end", "scored_per_replayed": 3},
        {"batch_size": 96, "epochs": 40, "learning_rate": 0.05},
    ),
    "icarl": ({"name": "icarl", "buffer_size": 300, "loss_form": "code", "mirrored_means": True}, {"batch_size": 48, "epochs": 10, "learning_rate": 1.0}),
    "bic": (
        {
            "name": "bic",
            "buffer_size": 160,
            "validation": 0.4,
            "exemplars": "random",
            "replay_batch": 96,
            "bias_decays": [0.25, 0.5, 0.75],
            "bias_epochs": 60,
        },
        {"batch_size": 96, "epochs": 40, "learning_rate": 0.2},
    ),
    "slda": ({"name": "slda", "encoder": "random", "covariance": "streaming"}, {"batch_size": 48}),
}
"""Ours with Avalanche's choices; rates, epochs and sizes such that two runs of ours that differ in batch order and draws alone differ by less than
half a point (standard deviation). Memories hold a whole number of draws: where a pass over its memory ends, Avalanche replays a short batch."""


def theirs_of(avalanche, run, *plugins):
    """Avalanche's own strategy with this run's settings and initial weights, and what it predicts with."""
    model, name, supervised = copy.deepcopy(run.model), run.base.name, avalanche.supervised
    settings = options(run, model, run.training.epochs)
    size, batch = METHODS[name][0].get("buffer_size"), run.training.batch_size
    if name == "er_ace":
        return supervised.ER_ACE(mem_size=size, batch_size_mem=batch, **settings), model
    if name == "mir":
        return supervised.Naive(plugins=list(plugins), **settings), model
    if name == "icarl":
        del settings["model"], settings["criterion"]
        strategy = supervised.ICaRL(
            feature_extractor=Features(model), classifier=model.head, memory_size=size, buffer_transform=None, fixed_memory=True, **settings
        )
        return strategy, strategy.model
    if name == "bic":
        exemplars = size - run.base.room  # theirs are beside the samples held out
        policy = avalanche.policies.ClassBalancedBuffer(exemplars)
        plugin = avalanche.bic.BiCPlugin(exemplars, storage_policy=policy, val_percentage=run.base.room / exemplars, stage_2_epochs=60)
        return supervised.Naive(plugins=[plugin], **settings), lambda x: plugin.bias_forward(model(x))
    strategy = supervised.StreamingLDA(
        slda_model=Features(model), criterion=torch.nn.CrossEntropyLoss(), input_size=50, num_classes=10, train_mb_size=batch, evaluator=None
    )
    return strategy, lambda x: strategy.predict(model.features(x))


def fill_at_the_beginning(loop):
    """The memory is offered the samples of an experience before it is trained on, as Avalanche's ER-ACE has it.

    Ours fills it as samples come by, which alone made its final accuracy 0.2 to 1.0 points worse in three settings of this kind (12 seeds each).
    """
    run, begin_experience = loop.run, loop._begin
    run.insert = "never"

    def begun():
        begin_experience()
        loop._fill_memories_from(run.plan_of(run.experience))

    loop._begin = begun


@pytest.mark.parametrize("name", METHODS)
def test_accuracy_over_the_stream_agrees_within_one_point(avalanche, mended, name):
    """Average incremental accuracy: the mean, over experiences, of the accuracy on all test samples of classes seen."""

    class AllOfThePast(avalanche.mir.MIRPlugin):
        """Their MIR with candidates of every class of earlier experiences."""

        def before_training_exp(self, strategy, **settings):
            buffer = self.storage_policy.buffer
            loader = torch.utils.data.DataLoader(buffer, batch_size=self.subsample, shuffle=True) if len(buffer) else None
            self.replay_loader = loader and avalanche.mir.cycle(loader)

    differences = []
    for seed in range(5):
        run, loop = begin(METHODS[name][0], seed=seed, **STREAM, **METHODS[name][1])
        strategy, predict = theirs_of(avalanche, run, AllOfThePast(96, 288, 288))
        if name == "er_ace":
            fill_at_the_beginning(loop)
        loop.execute()
        torch.manual_seed(seed)  # Avalanche shuffles and fills its memories from the global generator
        benchmark, theirs = benchmark_of(avalanche, run), []
        for i, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            theirs.append(accuracy(strategy, predict, benchmark, sorted({c for e in run.stream.experiences[: i + 1] for c in e.classes}), i))
        ours = loop.measurements.metrics(1.0)["average_incremental_accuracy"]
        assert min(ours, np.mean(theirs)) > 0.8  # the last experience alone would give 0.46
        differences.append(ours - np.mean(theirs))
    mean, half = np.mean(differences), stats.t.ppf(0.95, 4) * stats.sem(differences)
    assert mean - half > -0.01 and mean + half < 0.01, f"90 % interval {mean - half:+.4f} .. {mean + half:+.4f} of {np.round(differences, 4)}"


@torch.no_grad()
def accuracy(strategy, predict, benchmark, classes, last):
    """Over all test samples up to experience `last`, among the classes seen (the nearest mean of a class never seen is the origin)."""
    strategy.model.eval()
    data = [next(iter(torch.utils.data.DataLoader(e.dataset.eval(), batch_size=1000))) for e in benchmark.test_stream[: last + 1]]
    x, y = torch.cat([x for x, *_ in data]), torch.cat([y for _, y, *_ in data])
    found = torch.tensor(classes)[predict(x)[:, classes].argmax(1)]
    strategy.model.train()
    return (found == y).double().mean().item()
