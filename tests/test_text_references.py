"""The references over corpora: joint training on all of them, and training on the last alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from clsuite.experiment.cell import make_run, run_cell
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .text_batches import IMAGES, cell, check_stopped, tables, text_run, watched
from .text_runs import train_bare

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("strategy", ["joint", "downstream_only"])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, strategy):
    check_stopped(tmp_path, strategy)


def test_joint_training_shuffles_all_corpora_together_and_sees_every_window_once(monkeypatch):
    run = text_run("joint")
    rates = []
    initial = run.weights_digest()
    seen, began = [[] for _ in range(3)], []
    real = type(run.base).training_step
    with monkeypatch.context() as patch:

        def step(self, batch):
            if not seen[run.experience]:
                began.append(run.weights_digest())
            seen[run.experience].append(batch.ids.tolist())
            return real(self, batch)

        patch.setattr(type(run.base), "training_step", step)
        loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=lambda r: rates.append(r.optimizer.param_groups[0]["lr"]))
        loop.execute()
    own = tables(run)
    assert [len(batches) for batches in seen] == [25, 35, 45]
    for i in range(3):
        flat = list(itertools.chain(*seen[i]))
        assert sorted(flat) == sorted(itertools.chain(*own[: i + 1])) and began[i] == initial
        if i:
            assert 20 < sum(w in set(own[0]) for w in flat[: len(flat) // 2]) < len(flat) // 2 - 20  # shuffled together
    for part in (rates[:25], rates[25:60], rates[60:]):  # one schedule over each union, to the same peak
        assert max(part) == pytest.approx(3e-3) and part[-1] < 4e-4
    cost = run.costs["training"]
    assert (cost.gradient_steps, cost.forward_passes, cost.backward_passes) == (105, 200 + 280 + 360, 200 + 280 + 360)


def test_downstream_only_is_a_run_on_the_last_corpus_from_initial_weights(monkeypatch):
    run = text_run("downstream_only")
    initial = run.weights_digest()
    seen, loop = watched(run, monkeypatch)
    assert [len(batches) for batches in seen] == [0, 0, 10] and [i for ids, *_ in seen[2] for i in ids] == tables(run)[2]
    assert np.isnan(loop.measurements.R[:2]).all() and np.isfinite(loop.measurements.R[2]).all()
    assert run.weights_digest() != initial and run.total_steps == run.costs["training"].gradient_steps == 10
    result = run_cell(cell("downstream_only"))
    assert result["matrix"][:2] == [[None] * 3] * 2 and result["metrics"]["forgetting"] is None and result["metrics"]["final_loss"] > 0


def test_downstream_only_trains_as_a_loop_over_the_bare_network():
    # no biases: the gradient of a key's bias is rounding error, which Adam would blow up to a full step
    more = {"model": {"name": "llama", "layers": 1, "width": 16, "heads": 2}, "training": {"batch_size": 8, "schedule": "constant"}}
    run, reference = (make_run(cell("downstream_only", **more), torch.device("cpu")) for _ in range(2))
    Loop(run, Checkpoints(None, "", {}, math.inf)).execute()
    model, stream = reference.model, reference.stream
    train_bare(model, stream, stream.experiences[2].segments[0].indices)
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_downstream_only_on_images_measures_the_last_row(run_of, monkeypatch):
    run = run_of(*IMAGES, "training.epochs=1", "training.batch_size=10", "strategy=downstream_only")
    seen, loop = watched(run, monkeypatch)
    assert [len(batches) for batches in seen] == [0, 0, 6]
    assert np.isnan(loop.measurements.R[:2]).all() and loop.measurements.R[2, 2] > 0
