"""Our replay against Avalanche's: the same batches give the same weights, the same stream the same accuracy.

Avalanche is the reference here, run through its own loops, loaders and buffers; it is imported once, by a fixture.
"""

from __future__ import annotations

import copy
import os
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from clsuite.experiment.cell import make_run
from clsuite.experiment.spec import resolve
from clsuite.training import metrics
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .avalanche_samples import Samples

SIZE = 2000
SETTINGS = {"epochs": 20, "batch_size": 200, "learning_rate": 0.1}
"""Chosen because two runs of our own that differ in batch order and buffer draws alone differ by half a point (standard deviation)."""

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


@pytest.fixture(scope="module")
def avalanche():
    """The parts of Avalanche that are used here (the import takes some seconds)."""
    from avalanche.benchmarks import nc_benchmark, utils
    from avalanche.evaluation import metrics
    from avalanche.training import plugins, supervised

    return SimpleNamespace(nc_benchmark=nc_benchmark, utils=utils, metrics=metrics, plugins=plugins, Replay=supervised.Replay)


def begin(seed=0, dataset="digits", experiences=5, strategy=None, **training):
    """A run of our replay with Avalanche's buffer, optimizer policy and replayed batch size."""
    raw = {
        "scenario": {"name": "class_incremental", "dataset": dataset, "experiences": experiences},
        "strategy": {"name": "replay", "buffer": "experience_balanced", "insert": "experience_end", "replay_batch": training["batch_size"], **(strategy or {})},
        "training": {"border_optimizer": "keep", **training},  # Avalanche 0.6 keeps momentum at a border
        "device": "cpu",
        "seed": seed,
    }
    if dataset == "mnist":
        raw["scenario"]["samples_per_class"] = 500
    run = make_run(resolve(raw, os.environ.get("CLSUITE_DATA")), torch.device("cpu"))
    return run, Loop(run, Checkpoints(None, "", {}))


def benchmark_of(avalanche, run):
    """The same stream as Avalanche's split benchmarks are made: class order given, no task labels."""
    stream = run.stream

    def samples(split, ids):
        pixels, targets = stream.gather(torch.from_numpy(ids), split)
        return Samples(run.workload.inputs(pixels), targets)

    return avalanche.nc_benchmark(
        samples("train", np.concatenate([stream.ids(e.segments) for e in stream.experiences])),
        samples("test", np.concatenate([stream.evaluation_ids(j) for j in range(len(stream.evaluation_sets))])),
        n_experiences=len(stream),
        task_labels=False,
        fixed_class_order=[c for e in stream.experiences for c in e.classes],
    )


def replay_of(avalanche, run, kind=None, evaluator=None):
    """Avalanche's `Replay` with this run's settings and its initial weights."""
    training, model = run.training, copy.deepcopy(run.model)
    return (kind or avalanche.Replay)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum),
        criterion=torch.nn.CrossEntropyLoss(),
        mem_size=run.memories["replay"].capacity,
        train_mb_size=training.batch_size,
        train_epochs=training.epochs,
        eval_mb_size=1000,
        evaluator=evaluator,
    )


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


# -- one update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_same_batches_give_the_same_weights(avalanche, momentum):
    run, loop = begin(strategy={"buffer_size": 40}, epochs=1, batch_size=16, learning_rate=0.05, momentum=momentum, precision="float64")
    batches, ours, theirs = {}, [weights(run.model)], []
    loss = run.loss

    def recorded(batch):
        batches.setdefault(run.experience, []).append([batch.x.clone(), batch.y.clone(), torch.zeros(len(batch), dtype=torch.int64)])
        assert batch.current.tolist() == sorted(batch.current.tolist(), reverse=True)  # current samples, then the memory's
        return loss(batch)

    class Fed(avalanche.Replay):
        """Avalanche's strategy, its buffer included, on the recorded batches in place of its own."""

        def _before_training_exp(self, **settings):
            super()._before_training_exp(**settings)
            self.dataloader = batches[self.experience.current_experience]

        def _after_update(self, **settings):
            super()._after_update(**settings)
            theirs.append(weights(self.model))

    strategy = replay_of(avalanche, run, Fed)
    theirs.append(weights(strategy.model))
    run.loss = recorded
    loop._on_step = lambda run: ours.append(weights(run.model))
    loop.execute()
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)

    assert len(ours) == len(theirs) >= 51
    assert {len(x) for i, seen in batches.items() if i > 0 for x, _, _ in seen[:-1]} == {32}  # 16 current and 16 of the memory
    assert min((a - b).abs().max() for a, b in pairwise(ours)) > 1e-6  # every step moved
    assert max((a - b).abs().max() for a, b in zip(ours, theirs, strict=True)) < 1e-10


def test_their_loader_concatenates_current_then_memory_and_ends_with_the_current_data(avalanche):
    def data(first, count):
        samples = Samples(torch.arange(first, first + count), torch.zeros(count, dtype=torch.int64))
        return avalanche.utils.as_taskaware_classification_dataset(samples)

    sizes = {"batch_size": 16, "batch_size_mem": 16}
    loader = avalanche.utils.data_loader.ReplayDataLoader(data(0, 70), data(1000, 40), oversample_small_tasks=True, shuffle=True, **sizes)
    batches = [x for x, *_ in loader]
    current = [b[b < 1000] for b in batches]
    memory = [b[b >= 1000] for b in batches]
    for b, c, m in zip(batches, current, memory, strict=True):
        assert b.tolist() == [*c.tolist(), *m.tolist()]
    # steps of an epoch: those of the current data, whose last batch may be short while the replayed one is not cut with it
    assert [len(c) for c in current] == [16, 16, 16, 16, 6]
    assert torch.cat(current).sort().values.tolist() == list(range(70))
    # the memory comes in passes without repetition, with a short batch where a pass ends; ours is an independent draw a step
    assert [len(m) for m in memory] == [16, 16, 8, 16, 16]
    assert torch.cat(memory[:3]).sort().values.tolist() == list(range(1000, 1040))


@pytest.mark.parametrize("capacity", [40, 43])
def test_both_buffers_divide_their_capacity_alike(avalanche, capacity):
    run, loop = begin(strategy={"buffer_size": capacity}, epochs=1, batch_size=64, learning_rate=0.05)
    ours, theirs = [], []
    strategy = replay_of(avalanche, run)
    loop._report = lambda record: record["event"] == "experience" and ours.append(np.bincount(run.memories["replay"].experience).tolist())
    loop.execute()
    for experience in benchmark_of(avalanche, run).train_stream:
        strategy.train(experience)
        theirs.append([len(g.buffer) for g in strategy.plugins[0].storage_policy.buffer_groups.values()])
    assert ours == theirs
    assert [sum(row) for row in ours] == [capacity] * 5


# -- a whole stream ---------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif("CLSUITE_DATA" not in os.environ, reason="needs MNIST: the 360 test digits are too few to tell one point apart; set CLSUITE_DATA")
@pytest.mark.timeout(1200)
def test_final_accuracy_agrees_within_one_point(avalanche):
    differences = []
    for seed in range(5):
        run, loop = begin(seed, "mnist", strategy={"buffer_size": SIZE}, **SETTINGS)
        strategy = replay_of(avalanche, run)
        loop.execute()
        torch.manual_seed(seed)  # Avalanche shuffles and fills its buffer from the global generator
        benchmark = benchmark_of(avalanche, run)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        ours = loop.measurements.metrics(loop.seconds["training"])["final_accuracy"]
        theirs = accuracy(strategy.model, benchmark)
        assert min(ours, theirs) > 0.7  # a fifth would be the last experience alone
        differences.append(ours - theirs)
    mean, half = np.mean(differences), stats.t.ppf(0.95, 4) * stats.sem(differences)
    assert mean - half > -0.01 and mean + half < 0.01, f"90 % interval {mean - half:+.4f} .. {mean + half:+.4f} of {np.round(differences, 4)}"


@torch.inference_mode()
def accuracy(model, benchmark):
    """Over all test samples of the stream."""
    model.eval()
    hits = [model(x).argmax(1) == y for e in benchmark.test_stream for x, y, _ in torch.utils.data.DataLoader(e.dataset.eval(), batch_size=1000)]
    return torch.cat(hits).double().mean().item()


# -- metrics ----------------------------------------------------------------------------------------------------


def test_backward_transfer_is_theirs_on_their_own_run(avalanche):
    run, _ = begin(strategy={"buffer_size": 40}, epochs=2, batch_size=16, learning_rate=0.05)
    theirs = avalanche.metrics
    wanted = theirs.accuracy_metrics(experience=True), theirs.bwt_metrics(stream=True), theirs.forgetting_metrics(stream=True)
    evaluator = avalanche.plugins.EvaluationPlugin(*wanted, loggers=[])
    benchmark = benchmark_of(avalanche, run)
    strategy = replay_of(avalanche, run, evaluator=evaluator)
    rows = []
    for experience in benchmark.train_stream:
        strategy.train(experience)
        found = strategy.eval(benchmark.test_stream)
        rows.append([found[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp{j:03d}"] for j in range(5)])
    R, f = np.array(rows), np.arange(5)
    assert metrics.backward_transfer(R, f) == pytest.approx(found["StreamBWT/eval_phase/test_stream"], abs=1e-9)
    assert abs(found["StreamBWT/eval_phase/test_stream"]) > 0.01
    # theirs takes the accuracy just after learning a set, ours (as Chaudhry et al. 2018) the best before the last experience
    assert metrics.forgetting(R, f) >= found["StreamForgetting/eval_phase/test_stream"]
    n = np.array([len(e.dataset) for e in benchmark.test_stream])
    assert metrics.final_accuracy(R, n, f) == pytest.approx(accuracy(strategy.model, benchmark), abs=1e-9)


def test_backward_transfer_and_forgetting_from_their_classes(avalanche):
    R, f = np.random.default_rng(0).random((6, 6)), np.arange(6)
    transfer, drop, from_best = avalanche.metrics.BWT(), avalanche.metrics.Forgetting(), avalanche.metrics.Forgetting()
    for i in range(6):
        for j in range(6):
            transfer.update(j, R[i, j], initial=i == j)
            drop.update(j, R[i, j], initial=i == j)
    for j in range(5):
        from_best.update(j, R[j:5, j].max(), initial=True)
        from_best.update(j, R[5, j])
    before_last = range(5)  # the last experience cannot have been forgotten: their streams leave it out too
    assert metrics.backward_transfer(R, f) == pytest.approx(np.mean([R[5, j] - R[j, j] for j in before_last]), abs=1e-12)
    assert metrics.backward_transfer(R, f) == pytest.approx(np.mean([transfer.result_key(j) for j in before_last]), abs=1e-12)
    assert metrics.backward_transfer(R, f) == pytest.approx(-np.mean([drop.result_key(j) for j in before_last]), abs=1e-12)
    assert metrics.forgetting(R, f) == pytest.approx(np.mean(list(from_best.result().values())), abs=1e-12)
