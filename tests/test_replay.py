"""Replay and DER: what a step trains on, what the memory takes in and when, and losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clsuite.memory import Memory

from .strategy_runs import before_updates, close, crossed, execute, pixels, refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_a_replay_step_is_one_mean_over_all_samples_or_the_sum_of_two(combine, run_of, small, spy, draws):
    current, seen = [], []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=replay+spy", "strategy.buffer_size=30", "strategy.replay_batch=7", f"strategy.combine={combine}")

    def see(loss, optimizer):
        replayed = draws[-1].ids.numpy() if draws else np.zeros(0, int)
        assert len(draws) == len(current) - 1  # the first step finds an empty memory; later ones draw once
        if not draws or combine == "concat":
            expected = crossed(run, np.concatenate([current[-1], replayed]))
        else:
            expected = crossed(run, current[-1]) + crossed(run, replayed)
        assert close(loss, expected)
        seen.append(len(replayed))

    before_updates(run, see)
    execute(run)
    assert seen == [0] + [7] * 25


def test_replay_draws_as_many_samples_as_the_batch_has_by_default(run_of, small, draws):
    run = run_of(*small, "strategy=replay", "strategy.buffer_size=100")
    sizes = []
    before_updates(run, lambda loss, optimizer: sizes.append(len(draws[-1]) if draws else 0))
    execute(run)
    # experience 0: 80 samples in steps of 16; 1 and 2: 60 samples, the last step of an epoch has 12 current ones
    assert sizes == [0, *[16] * 25]  # the full number also beside the short last step


@pytest.mark.parametrize("insert", ["first_epoch", "always", "experience_end"])
def test_the_memory_is_sampled_before_current_samples_enter_it(insert, run_of, small, spy, draws, monkeypatch):
    stepped, added, real = [], [], Memory.add
    spy(before_step=lambda self, batch: stepped.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=replay+spy", "strategy.buffer_size=1000", f"strategy.insert={insert}")

    def add(self, ids, *arguments):
        added.append((len(stepped), ids.copy()))
        real(self, ids, *arguments)

    monkeypatch.setattr(Memory, "add", add)
    before_updates(run, lambda loss, optimizer: known.append([i for _, ids in added for i in ids]))
    known = []
    execute(run)
    steps = [step for step, _ in added]
    if insert == "first_epoch":  # epochs of 5, 4 and 4 steps
        assert steps == [1, 2, 3, 4, 5, 11, 12, 13, 14, 19, 20, 21, 22]
    elif insert == "always":
        assert steps == list(range(1, 27))
    else:
        assert steps == [10, 18, 26]
    if insert != "experience_end":
        for step, ids in added:
            assert np.array_equal(ids, stepped[step - 1])  # current samples only, although the step also replayed
    full = [ids for ids in known if ids]
    assert len(draws) == len(full) > 0
    for batch, ids in zip(draws, full, strict=True):
        assert set(batch.ids.tolist()) <= set(ids)
    if insert == "first_epoch":
        assert sorted(run.memories["replay"].ids) == sorted(np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences]))


@pytest.mark.parametrize("base", ["replay", "der", "derpp", "naive+fpf"])
@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "experience_balanced"])
def test_the_buffer_setting_reaches_the_memory(base, policy, run_of, small):
    where = "strategy.fpf" if "fpf" in base else "strategy"
    memory = run_of(*small, f"strategy={base}", f"{where}.buffer={policy}", f"{where}.buffer_size=33").memories["replay"]
    assert (memory.policy, memory.capacity) == (policy, 33)


def watch_dark(run, draws, current, beta):
    """Check the loss of every step of `der` or `derpp` by hand; returns the logits stored by id and the numbers of draws."""
    stored, counts = {}, []

    def see(loss, optimizer):
        with torch.no_grad():
            now = run.model(pixels(run, current[-1]))
        for i, row in zip(current[-1], now, strict=True):
            stored.setdefault(int(i), row)  # every sample passes once in the first epoch
        expected = crossed(run, current[-1])
        counts.append(len(draws))
        if draws:
            old = torch.stack([stored[int(i)] for i in draws[0].ids])
            expected = expected + 0.7 * (run.model(pixels(run, draws[0].ids)) - old).square().sum() / old.numel()
        if len(draws) > 1:
            expected = expected + beta * crossed(run, draws[1].ids)
            independent.append(draws[0].ids.tolist() != draws[1].ids.tolist())
        assert close(loss, expected)
        draws.clear()

    independent = []
    before_updates(run, see)
    execute(run)
    assert all(independent)
    return stored, counts


def test_der_is_cross_entropy_plus_alpha_times_the_squared_distance_to_stored_logits(run_of, small, spy, draws):
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=der+spy", "strategy.buffer_size=40", "strategy.alpha=0.7", "strategy.replay_batch=9")
    _, counts = watch_dark(run, draws, current, None)
    assert counts == [0, *[1] * 25]


def test_derpp_adds_beta_times_the_cross_entropy_of_a_second_draw(run_of, small, spy, draws):
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    run = run_of(*small, "strategy=derpp+spy", "strategy.buffer_size=40", "strategy.alpha=0.7", "strategy.beta=0.3", "strategy.replay_batch=9")
    stored, counts = watch_dark(run, draws, current, 0.3)
    assert counts == [0, *[2] * 25]
    memory = run.memories["replay"]
    kept = torch.stack([stored[int(i)] for i in memory.ids])
    torch.testing.assert_close(memory.columns["logits"][: len(memory)], kept, rtol=1e-5, atol=1e-6)


def test_der_has_no_beta(run_of, small):
    assert "unknown setting 'strategy.beta'" in refused(lambda: run_of(*small, "strategy=der", "strategy.beta=0.5"))


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_stored_logits_are_unmasked_and_those_of_the_training_pass(name, colour, spy):
    current, first = [], []
    spy(before_step=lambda self, batch: (current.append(batch.ids.tolist()), first.append(None)))
    run = colour(f"strategy={name}+spy", "strategy.buffer_size=200", "training.logit_mask=experience", "training.augmentation=[crop,flip]")

    def see(module, arguments, logits):
        if module.training and first and first[-1] is None:  # the current samples come first in a step
            first[-1] = logits.detach().clone()

    run.model.register_forward_hook(see)
    execute(run)
    said = {i: row for ids, rows in zip(current, first, strict=True) for i, row in zip(ids, rows, strict=True)}
    memory = run.memories["replay"]
    assert len(memory) == 84
    for i, row in zip(memory.ids, memory.columns["logits"], strict=False):
        assert torch.equal(row, said[int(i)]) and torch.isfinite(row).all() and row.abs().min() > 0
