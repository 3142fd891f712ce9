"""Our replay against Avalanche's: the same batches give the same weights, the same stream the same accuracy.

Avalanche is the reference here, run through its own loops, loaders and buffers; it is imported once, by a fixture.
"""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from clsuite.training import metrics

from .avalanche_runs import Samples, as_batch, begin, fed, largest_difference, settings_of, split_benchmark, weights

SIZE = 2000
SETTINGS = {"epochs": 20, "batch_size": 200, "learning_rate": 0.1}
"""Chosen because two runs of our own that differ in batch order and buffer draws alone differ by half a point (standard deviation)."""

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


def ours(seed=0, dataset="digits", strategy=None, **training):
    """A run of our replay with Avalanche's buffer and replayed batch size, and its loop."""
    scenario = {"name": "class_incremental", "dataset": dataset, "experiences": 5, **({"samples_per_class": 500} if dataset == "mnist" else {})}
    replay = {"name": "replay", "buffer": "experience_balanced", "insert": "experience_end", "replay_batch": training["batch_size"], **(strategy or {})}
    return begin(scenario, replay, seed, **training)


def replay_of(avalanche, run, kind=None, **more):
    """Avalanche's `Replay` with this run's settings and its initial weights."""
    return (kind or avalanche.supervised.Replay)(mem_size=run.memories["replay"].capacity, **{**settings_of(run), **more})


# -- one update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_same_batches_give_the_same_weights(avalanche, momentum):
    run, loop = ours(strategy={"buffer_size": 40}, epochs=1, batch_size=16, learning_rate=0.05, momentum=momentum, precision="float64")
    batches, mine, theirs = {}, [weights(run.model)], []
    loss = run.loss

    def recorded(batch):
        batches.setdefault(run.experience, []).append(as_batch(batch))
        assert batch.current.tolist() == sorted(batch.current.tolist(), reverse=True)  # current samples, then the memory's
        return loss(batch)

    strategy = replay_of(avalanche, run, fed(avalanche.supervised.Replay, batches, theirs))
    theirs.append(weights(strategy.model))
    run.loss = recorded
    loop._on_step = lambda run: mine.append(weights(run.model))
    loop.execute()
    for experience in split_benchmark(avalanche, run).train_stream:
        strategy.train(experience)

    assert len(mine) == len(theirs) >= 51
    assert {len(x) for i, seen in batches.items() if i > 0 for x, _, _ in seen[:-1]} == {32}  # 16 current and 16 of the memory
    assert min((a - b).abs().max() for a, b in pairwise(mine)) > 1e-6  # every step moved
    assert largest_difference(mine, theirs) < 1e-10


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
    run, loop = ours(strategy={"buffer_size": capacity}, epochs=1, batch_size=64, learning_rate=0.05)
    mine, theirs = [], []
    strategy = replay_of(avalanche, run)
    loop._report = lambda record: record["event"] == "experience" and mine.append(np.bincount(run.memories["replay"].experience).tolist())
    loop.execute()
    for experience in split_benchmark(avalanche, run).train_stream:
        strategy.train(experience)
        theirs.append([len(g.buffer) for g in strategy.plugins[0].storage_policy.buffer_groups.values()])
    assert mine == theirs
    assert [sum(row) for row in mine] == [capacity] * 5


# -- a whole stream ---------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif("CLSUITE_DATA" not in os.environ, reason="needs MNIST: the 360 test digits are too few to tell one point apart; set CLSUITE_DATA")
@pytest.mark.timeout(1200)
def test_final_accuracy_agrees_within_one_point(avalanche):
    differences = []
    for seed in range(5):
        run, loop = ours(seed, "mnist", strategy={"buffer_size": SIZE}, **SETTINGS)
        strategy = replay_of(avalanche, run)
        loop.execute()
        torch.manual_seed(seed)  # Avalanche shuffles and fills its buffer from the global generator
        benchmark = split_benchmark(avalanche, run)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        mine = loop.measurements.metrics(loop.seconds["training"])["final_accuracy"]
        theirs = accuracy(strategy.model, benchmark)
        assert min(mine, theirs) > 0.7  # a fifth would be the last experience alone
        differences.append(mine - theirs)
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
    run, _ = ours(strategy={"buffer_size": 40}, epochs=2, batch_size=16, learning_rate=0.05)
    theirs = avalanche.metrics
    wanted = theirs.accuracy_metrics(experience=True), theirs.bwt_metrics(stream=True), theirs.forgetting_metrics(stream=True)
    evaluator = avalanche.plugins.EvaluationPlugin(*wanted, loggers=[])
    benchmark = split_benchmark(avalanche, run)
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
