"""ER-ACE and MIR do what their sources say, and they, iCaRL, BiC, WA and SLDA go on exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.experiment.cell import run_cell
from clsuite.memory import Memory

from .strategy_runs import before_updates, begun, close, crossed, execute, labels, pixels, refused, weights
from .text_runs import gone_on

pytestmark = pytest.mark.unit

GRADUAL = ["scenario=blurry", "scenario.gradual=true", "scenario.dataset=digits", "scenario.experiences=5", "scenario.samples_per_class=20", "device=cpu"]
"""A stream without borders."""


# -- ER-ACE -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compete", "combine"), [("present", "sum"), ("present_and_unseen", "sum"), ("present", "mean")])
def test_er_ace_masks_the_current_samples_and_not_the_replayed_ones(compete, combine, run_of, small, seen, draws):
    ace = [f"strategy.compete={compete}", f"strategy.combine={combine}", "strategy.buffer_size=30", "strategy.replay_batch=7"]
    run = run_of(*small, "strategy=er_ace+spy", *ace)
    known, narrower = set(), []

    def see(loss, optimizer):
        y = labels(run, seen[-1])
        known.update(y.tolist())
        competing = sorted(set(y.tolist()) | (set() if compete == "present" else set(range(10)) - known))
        logits = run.model(pixels(run, seen[-1]))[:, competing]
        expected = F.cross_entropy(logits, torch.tensor([competing.index(c) for c in y.tolist()]))
        narrower.append(len(competing) < 10)
        if draws:
            expected = expected + crossed(run, draws[-1].ids.numpy())
            expected = expected / 2 if combine == "mean" else expected
        assert close(loss, expected)

    before_updates(run, see)
    execute(run)
    assert len(draws) == 25 and sum(narrower) > 10


def test_er_ace_may_learn_the_first_experience_plainly(run_of, small, seen, draws):
    run = run_of(*small, "strategy=er_ace+spy", "strategy.start=second_experience", "strategy.buffer_size=30")
    before_updates(run, lambda loss, optimizer: run.experience == 0 and plain.append(close(loss, crossed(run, seen[-1]))))
    plain = []
    execute(run)
    assert plain == [True] * 10 and len(draws) == 16


def test_er_ace_leaves_the_rows_of_absent_classes_alone(run_of, small):
    run = run_of(*small, "strategy=er_ace", "strategy.start=first_step")
    _, batch = begun(run)
    before = run.model.head.weight.detach().clone()
    run.base.training_step(batch)
    moved = (run.model.head.weight != before).any(1)
    assert moved.nonzero()[:, 0].tolist() == sorted(set(batch.y.tolist())) != list(range(10))


# -- MIR --------------------------------------------------------------------------------------------------------


def test_mir_replays_what_a_step_on_the_current_samples_would_harm_most(run_of, small, seen, monkeypatch):
    run = run_of(
        *small, "strategy=mir+spy", "strategy.buffer_size=60", "strategy.replay_batch=5", "strategy.scored_per_replayed=3", "training.precision=float64"
    )
    memory, drawn, at, checked = run.memories["replay"], [], Memory.at, []
    monkeypatch.setattr(Memory, "at", lambda self, *a: (drawn.append(at(self, *a)), drawn[-1])[1])

    def see(loss, optimizer):
        if run.experience == 0:
            assert not drawn and close(loss, crossed(run, seen[-1]))
            return
        candidates, chosen = (b.ids.numpy() for b in drawn)
        drawn.clear()
        assert len(candidates) == 15 and set(run.stream.labels_of(candidates)) <= {c for e in run.stream.experiences[: run.experience] for c in e.classes}
        after = copy.deepcopy(run.model)
        F.cross_entropy(after(pixels(run, seen[-1])), labels(run, seen[-1])).backward()
        with torch.no_grad():
            for p in after.parameters():
                p -= 0.1 * p.grad
            rises = [F.cross_entropy(m(pixels(run, candidates)), labels(run, candidates), reduction="none") for m in (after, run.model)]
        highest = candidates[(rises[0] - rises[1]).argsort(descending=True)[:5]]
        assert sorted(chosen) == sorted(highest)
        checked.append(set(memory.experience))
        # the loss given to the update has the gradient of both means
        gradients = torch.autograd.grad(loss, list(run.model.parameters()), retain_graph=True)
        wanted = torch.autograd.grad(crossed(run, seen[-1]) + crossed(run, chosen), list(run.model.parameters()))
        for g, w in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)

    before_updates(run, see)
    execute(run)
    assert len(checked) == 16 and {0, 1} <= set().union(*checked)
    # forward: 400 current, and from experience 1 on twice 15 candidates and 5 replayed ones; backward: each sample once
    assert run.costs["training"].forward_passes == 400 + 16 * 35 and run.costs["training"].backward_passes == 400 + 16 * 5


def test_mir_takes_candidates_of_the_current_experience_where_it_is_told_to(run_of, small, cell_of):
    for settings, expected in ((["strategy.candidates=all"], True), ([], False)):
        run = run_of(*small, "strategy=mir", "strategy.buffer_size=500", *settings)
        found = []
        before_updates(
            run, lambda loss, optimizer, run=run, found=found: found.append((run.memories["replay"].experience[run.base.drawn()] == run.experience).any())
        )
        execute(run)
        assert any(found) is expected
    assert run_cell(cell_of(*GRADUAL, "training.epochs=1", "strategy=mir"))["status"] == "ok"
    assert "valid: all" in refused(lambda: run_cell(cell_of(*GRADUAL, "strategy=mir", "strategy.candidates=past")))
    assert "valid: first_step" in refused(lambda: run_cell(cell_of(*GRADUAL, "strategy=er_ace", "strategy.start=second_experience")))


def test_the_virtual_step_of_mir_leaves_no_trace(colour):
    run = colour("strategy=mir", "strategy.buffer_size=30")
    _, batch = begun(run)
    run.memories["replay"].add(np.arange(30), run.stream.labels_of(np.arange(30)), np.full(30, -1))
    loss = run.base.loss(batch)
    gradients = dict(zip(weights(run), torch.autograd.grad(loss, list(run.model.parameters())), strict=True))
    before = {name: t.clone() for name, t in run.model.state_dict().items()}
    rises = run.base.rises(run.memories["replay"].everything(), gradients)
    assert rises.shape == (30,) and rises.abs().min() > 0
    assert all(torch.equal(t, before[name]) for name, t in run.model.state_dict().items())  # weights and running statistics


# -- going on ---------------------------------------------------------------------------------------------------


STOPPED = {
    "er_ace": ["strategy=er_ace", "strategy.compete=present_and_unseen", "strategy.buffer_size=30"],
    "mir": ["strategy=mir+slow_learner", "strategy.buffer_size=30", "training.schedule.name=cosine"],
    "icarl": ["strategy=icarl+fpf", "strategy.buffer_size=30", "strategy.fpf.distillation=0.5", "strategy.fpf.period=7", "strategy.fpf.steps_each=2"],
    "bic": ["strategy=bic", "strategy.buffer_size=50", "strategy.bias_epochs=5", "strategy.exemplars=random"],
    "wa": ["strategy=wa+fpf", "strategy.buffer_size=30", "strategy.fpf.when=evaluation", "strategy.fpf.steps_each=2"],
    "slda": ["strategy=slda", "strategy.covariance=base"],
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name, cell_of, small, tmp_path):
    def make():
        return cell_of(*small, "training.augmentation=[crop]", "training.momentum=0.9", "training.border_optimizer=keep", *STOPPED[name])

    whole = run_cell(make())
    for at in (4, 10) if name == "slda" else (4, 10, 13, 18):  # in an experience, and where one ends
        again = gone_on(make, tmp_path / str(at), at)
        for key in ("weights_sha256", "matrix", "reports", "resume"):
            assert again[key] == whole[key] and again["resume"] == "exact"
        cost = {k: v for k, v in whole["cost"].items() if "passes" in k or k == "gradient_steps"}
        assert cost == {k: again["cost"][k] for k in cost}
