"""Which samples a step sees: every epoch every sample once, the same when started in the middle, paired between strategies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clsuite.experiment.cell import run_cell
from clsuite.plan import Mixture, Plan
from clsuite.strategy import Modifier, Strategy
from clsuite.training.loop import Loop
from clsuite.training.sampling import batches

pytestmark = pytest.mark.unit


@pytest.fixture
def run(run_of, small):
    return run_of(*small, "training.batch_size=13")


def plan(run, i=1, epochs=3, size=13, content=None, **more):
    e = run.stream.experiences
    return Plan(e[i], tuple(e[k] for k in content) if content else (e[i],), epochs, size, **more)


def listed(run, p, start=0):
    return [(b.ids.tolist(), b.current.tolist(), b.experience.tolist(), first) for b, first in batches(run, p, start)]


def ids_of(run, *experiences):
    return np.concatenate([run.stream.ids(run.stream.experiences[i].segments) for i in experiences])


@pytest.mark.parametrize("content", [None, (0, 1)])
def test_each_epoch_sees_each_sample_once_and_keeps_the_last_partial_batch(run, content):
    p = plan(run, content=content)
    everything = ids_of(run, *(content or (1,)))
    found = listed(run, p)
    per_epoch = math.ceil(len(everything) / 13)
    assert len(everything) % 13 and len(found) == 3 * per_epoch == p.steps
    orders = []
    for epoch in range(3):
        part = found[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [len(ids) for ids, *_ in part] == [13] * (per_epoch - 1) + [len(everything) % 13]
        orders.append(np.concatenate([ids for ids, *_ in part]))
        assert sorted(orders[-1]) == sorted(everything)
        assert all(first == (epoch == 0) for *_, first in part)
    assert not (orders[0] == orders[1]).all() and not (orders[0] == everything).all()


def test_samples_of_joint_training_know_where_they_came_from(run):
    origin = {int(i): e for e in (0, 1) for i in ids_of(run, e)}
    for ids, current, experience, _ in listed(run, plan(run, content=(0, 1))):
        assert experience == [origin[i] for i in ids] and all(current)


def mixture(run, share=0.3, kind="compute_equivalent", content=(0,)):
    return Mixture(tuple(run.stream.experiences[i] for i in content), share, kind)


@pytest.mark.parametrize("kind", ["plain", "joint", "compute_equivalent", "additive"])
def test_starting_at_any_step_gives_the_rest_of_the_uncut_iteration(run_of, small, kind):
    run = run_of(*small, "training.augmentation=[crop]")
    p = plan(run, content=(0, 1) if kind == "joint" else None, mixtures=(mixture(run, kind=kind),) if "e_e" in kind or kind == "additive" else ())
    whole = [(b.ids, b.draws) for b, _ in batches(run, p)]
    for start in range(p.steps + 1):
        rest = [(b.ids, b.draws) for b, _ in batches(run, p, start)]
        assert len(rest) == len(whole) - start
        for (ids, draws), (expected_ids, expected_draws) in zip(rest[:3], whole[start : start + 3], strict=True):
            assert torch.equal(ids, expected_ids) and (draws == expected_draws).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 1 / 3])
def test_compute_equivalent_replay_takes_its_place_in_a_batch_of_the_same_size(run, share):
    p = plan(run, mixtures=(mixture(run, share),))
    found = listed(run, p)
    assert len(found) == 3 * math.ceil(60 / 13)  # as many steps as without replay
    old, new = [], []
    for n, (ids, current, experience, _) in enumerate(found):
        mixed = math.floor((n + 1) * 13 * share) - math.floor(n * 13 * share)
        assert len(ids) == 13 and current.count(False) == mixed
        assert experience == [1 if c else 0 for c in current]
        old += [i for i, c in zip(ids, current, strict=True) if not c]
        new += [i for i, c in zip(ids, current, strict=True) if c]
    table = ids_of(run, 0).tolist()
    assert old == [table[k % len(table)] for k in range(len(old))]  # one cursor, never rewound
    # current samples go on where they stopped: the order of the epochs, cut nowhere
    # (all batches are full here, so that a small share reaches into a fourth epoch)
    epochs = [i for ids, *_ in listed(run, plan(run, epochs=4)) for i in ids]
    assert new == epochs[: len(new)]


def test_additive_replay_comes_on_top_of_the_batch(run):
    p = plan(run, size=20, mixtures=(mixture(run, 0.25, "additive"),))
    found = listed(run, p)
    assert len(found) == 3 * 3
    assert [(len(ids), current.count(True)) for ids, current, *_ in found] == [(25, 20)] * 9
    assert [ids[:20] for ids, *_ in found] == [ids for ids, *_ in listed(run, plan(run, size=20))]


def test_two_mixtures_share_a_batch(run):
    p = plan(run, i=2, size=20, mixtures=(mixture(run, 0.1, content=(0,)), mixture(run, 0.2, content=(1,))))
    for ids, _, experience, _ in listed(run, p):
        assert len(ids) == 20 and [experience.count(e) for e in range(3)] == [2, 4, 14]


@pytest.mark.parametrize(("share", "steps", "size", "expected"), [(0.05, 20, 32, 32), (0.29, 100, 1, 29), (1 / 3, 3, 13, 13), (0.07, 100, 100, 700)])
def test_counts_of_a_share_are_those_of_the_fraction_it_is_written_as(share, steps, size, expected):
    assert Mixture((), share).total(steps, size) == expected  # 0.29 * 100 is 28.999999999999996 in floating point


def test_a_share_is_divided_in_proportion_and_no_cursor_runs_backwards():
    rng = np.random.default_rng(0)
    cases = [((50, 10), 0.06, 10), ((3, 3), 0.2, 4), ((0, 7, 2), 0.3, 8)]
    cases += [(tuple(rng.integers(1, 1000, rng.integers(1, 8)).tolist()), float(rng.uniform(0.01, 0.99)), int(rng.integers(1, 64))) for _ in range(40)]
    for trained, share, size in cases:
        mixture = Mixture((), share, trained=trained)
        used = np.array([mixture.used(n, size) for n in range(301)])
        assert (used[0] == 0).all() and (np.diff(used, axis=0) >= 0).all()
        assert used.sum(1).tolist() == [mixture.total(n, size) for n in range(301)]
        parts = np.array(trained) / sum(trained)
        assert (np.abs(used - used.sum(1, keepdims=True) * parts) <= len(trained)).all()  # one floor for each experience
    # running sums 5/6 and 1 of 0.6 n, by hand at n = 1..10
    assert [Mixture((), 0.06, trained=(50, 10)).used(n, 10) for n in range(1, 11)] == [
        (0, 0),
        (0, 1),
        (0, 1),
        (1, 1),
        (2, 1),
        (2, 1),
        (3, 1),
        (3, 1),
        (4, 1),
        (5, 1),
    ]


@pytest.mark.parametrize("kind", ["compute_equivalent", "additive"])
@pytest.mark.parametrize("order", ["original", "shuffled"])
def test_cursors_of_several_experiences_are_the_same_when_started_anywhere(run, kind, order):
    earlier = tuple(run.stream.experiences[:2])
    p = plan(run, i=2, epochs=2, mixtures=(Mixture(earlier, 0.4, kind, (300, 20), (77, 5), order),))
    whole = listed(run, p)
    for start in range(p.steps + 1):
        assert listed(run, p, start) == whole[start:]
    found = [(e, i) for ids, current, origin, _ in whole for i, c, e in zip(ids, current, origin, strict=True) if not c]
    assert len(found) == math.floor(0.4 * 13 * p.steps)
    trained = [i for ids, *_ in listed(run, plan(run, i=1, epochs=1)) for i in ids][:20]  # the first 20 of its first epoch
    mine = [i for e, i in found if e == 1]
    assert set(mine) <= set(trained)
    if order == "original":
        assert mine == [trained[(5 + n) % 20] for n in range(len(mine))]
        first = [i for ids, *_ in listed(run, plan(run, i=0, epochs=1)) for i in ids]
        assert [i for e, i in found if e == 0] == [first[(77 + n) % len(first)] for n in range(len(found) - len(mine))]


def test_ordered_experiences_keep_the_order_of_the_table(run):
    ordered = replace(run.stream.experiences[1], ordered=True)
    found = listed(run, Plan(ordered, (ordered,), 2, 13))
    table = ids_of(run, 1).tolist()
    assert [i for ids, *_ in found for i in ids] == table + table


def test_an_experience_without_epochs_has_no_step(run):
    assert listed(run, plan(run, epochs=0)) == []


# -- pairing ----------------------------------------------------------------------------------------------------


class Idle(Strategy):
    """Learns nothing."""

    def training_step(self, batch):
        return None


class Noisy(Modifier):
    """Draws from its own and from the default generators at every step."""

    def before_step(self, batch):
        self.generator("noise").random(3)
        torch.rand(2), np.random.rand(2)


def trained_on(cell, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        real = Loop._train_on
        patch.setattr(Loop, "_train_on", lambda self, batch, first: (seen.append((batch.ids.tolist(), batch.draws)), real(self, batch, first))[1])
        run_cell(cell)
    return seen


def test_strategies_of_one_seed_see_equal_batches(cell_of, small, monkeypatch):
    raw = [*small, "training.augmentation=[crop]"]
    naive = trained_on(cell_of(*raw, "strategy=naive"), monkeypatch)
    assert len(naive) == 2 * (5 + 4 + 4)
    others = [
        cell_of(*raw, "strategy=replay"),
        cell_of(*raw, "training.learning_rate=0.5", "model.hidden=[7]"),
        cell_of(*raw, parts=[Idle(), Noisy()]),
    ]
    for other in others:
        for (ids, draws), (expected_ids, expected_draws) in zip(trained_on(other, monkeypatch), naive, strict=True):
            assert ids == expected_ids and (draws == expected_draws).all()
    assert [ids for ids, _ in trained_on(cell_of(*raw, "seed=1"), monkeypatch)] != [ids for ids, _ in naive]
