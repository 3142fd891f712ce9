"""The references and GDumb: what they train on, what they start from, and what they never look at."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import clsuite
from clsuite.experiment.cell import run_cell

from .strategy_runs import execute, moved, same, weights

pytestmark = pytest.mark.unit


def trained_on(run_of, small, spy, name):
    """For every experience: the weights it began with, those it ended with, and how often each sample was seen."""
    began, ended, seen = [], [], []
    spy(
        before_experience=lambda self, e: (began.append(weights(self.run)), seen.append([])),
        before_step=lambda self, batch: seen[-1].extend(batch.ids.tolist()),
        after_experience=lambda self, e: ended.append(weights(self.run)),
    )
    run = run_of(*small, f"strategy={name}+spy")
    initial = weights(run)
    execute(run)
    own = [sorted(run.stream.ids(e.segments).tolist()) for e in run.stream.experiences]
    return initial, began, ended, seen, own


@pytest.mark.parametrize("name", ["joint", "cumulative", "naive"])
def test_what_the_references_train_on_and_start_from(name, run_of, small, spy):
    initial, began, ended, seen, own = trained_on(run_of, small, spy, name)
    for i in range(3):
        data = own[i] if name == "naive" else list(itertools.chain(*own[: i + 1]))
        assert sorted(seen[i]) == sorted(data * 2)  # two epochs
        expected = initial if name == "joint" or i == 0 else ended[i - 1]
        assert not moved(began[i], expected)
    assert moved(ended[1], ended[2]) == set(initial)


@pytest.mark.parametrize("experiences", [50, 51])
def test_joint_trains_long_streams_only_at_the_end(experiences, run_of):
    rng = np.random.default_rng(0)
    y = np.arange(experiences).repeat(2)
    x = rng.integers(0, 255, (len(y), 4, 4, 1)).astype(np.uint8)
    data = clsuite.images(x, y, x, y)
    run = run_of("strategy=joint", f"scenario.experiences={experiences}", "device=cpu", scenario={"dataset": data.name})
    plans = [run.plan_of(i) for i in range(experiences)]
    assert [plan.epochs > 0 for plan in plans[:-1]] == [experiences == 50] * (experiences - 1)
    assert plans[-1].epochs > 0 and plans[-1].fresh_model and plans[-1].samples == 2 * experiences


GDUMB = ["strategy.buffer_size=25", "strategy.memory_epochs=4", "strategy.memory_batch=8"]


def test_gdumb_keeps_a_class_balanced_memory_and_never_steps_on_the_stream(run_of, small, spy):
    counts = []
    spy(after_experience=lambda self, e: counts.append(np.unique(self.memory.labels, return_counts=True)[1]))
    run = run_of(*small, "strategy=gdumb+spy", *GDUMB)
    changed = []
    run_before = weights(run)
    execute(run, on_step=lambda r: changed.append(bool(moved(run_before, weights(r)))) if r.experience == 0 else None)
    assert [len(c) for c in counts] == [4, 7, 10]
    assert all(c.sum() == 25 and c.max() - c.min() <= 1 for c in counts)
    assert run.step == 0 and len(changed) == 5 and not any(changed)  # one pass over 80 samples
    assert run.costs["training"].gradient_steps == 3 * 4 * math.ceil(25 / 8)


def test_gdumb_forgets_the_model_it_had(cell_of, small, spy):
    spy(name="noise", before_experience=lambda self, e: [p.data.normal_() for p in self.model.parameters()] and None)
    plain = run_cell(cell_of(*small, "strategy=gdumb", *GDUMB))
    noisy = run_cell(cell_of(*small, "strategy=gdumb+noise", *GDUMB))
    assert same(plain, noisy)


def test_gdumb_learns_what_it_remembers(cell_of, small):
    result = run_cell(cell_of(*small, "strategy=gdumb", "strategy.buffer_size=100", "strategy.memory_epochs=30"))
    assert result["metrics"]["final_accuracy"] > 0.6  # ten classes of ten samples


def test_gdumb_learns_nothing_but_its_memory(run_of, small):
    run = run_of(*small, "strategy=gdumb", *GDUMB)
    gathered = []
    real = run.stream.gather
    run.stream.gather = lambda ids, split="train": (gathered.append(set(ids.tolist())) if split == "train" else None, real(ids, split))[1]
    execute(run)
    late = gathered[-4 * math.ceil(25 / 8) :]
    assert set().union(*late) == set(run.memories["replay"].ids.tolist()) and len(gathered) == 3 * len(late)
