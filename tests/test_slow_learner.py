"""The slow learner: which weights learn slowly, from where on, and which not at all."""

from __future__ import annotations

import pytest
import torch

from clsuite.experiment.cell import run_cell

from .strategy_runs import buffers, execute, moved, refused, weights

pytestmark = pytest.mark.unit


def rates(run, spy_log):
    names = {id(p): name for name, p in run.model.named_parameters()}
    return [{names[id(p)]: g["lr"] for g in groups for p in g["params"]} for groups in spy_log]


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_backbone_learns_slowly_once_it_knows_something(pretrained, colour, weight_file, spy):
    log = []
    spy(before_experience=lambda self, e: log.append(self.run.optimizer.param_groups))
    files = [weight_file] if pretrained else []
    run = colour(*files, "strategy=naive+slow_learner+spy", "strategy.slow_learner.backbone_rate=0.003")
    execute(run)
    first, second = rates(run, log)
    head = {"head.weight", "head.bias"}
    assert second == {name: 0.05 if name in head else 0.003 for name in weights(run)}
    assert first == (second if pretrained else dict.fromkeys(weights(run), 0.05))
    assert run.parts[1].label() == f"slow_learner (from {'pretrained' if pretrained else 'first_experience'})"


def test_a_slow_learner_that_would_never_be_slow_is_refused(cell_of, small):
    assert "slow_learner" in refused(lambda: run_cell(cell_of(*small, "strategy=joint+slow_learner")))


def test_a_backbone_rate_of_zero_keeps_the_backbone(run_of, small, spy):
    ended = []
    spy(after_experience=lambda self, e: ended.append(weights(self.run)))
    run = run_of(*small, "strategy=naive+slow_learner+spy", "strategy.slow_learner.backbone_rate=0.0", "training.momentum=0.9")
    execute(run)
    assert moved(ended[0], ended[1]) == moved(ended[1], ended[2]) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("choice", ["frozen", "follow"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_running_statistics_of_a_slow_backbone_stay_or_follow(choice, pretrained, colour, weight_file, spy):
    states = []
    spy(before_experience=lambda self, e: states.append(buffers(self.run)), end=lambda self: states.append(buffers(self.run)))
    files = [weight_file] if pretrained else []
    run = colour(*files, "strategy=naive+slow_learner+spy", f"strategy.slow_learner.batch_norm={choice}")
    execute(run)
    first, second = moved(states[0], states[1]), moved(states[1], states[2])
    assert bool(second) == (choice == "follow")
    assert bool(first) == (choice == "follow" or not pretrained)


@pytest.mark.parametrize("keep", [True, False])
def test_heads_of_earlier_classes_can_be_kept_exactly(keep, run_of, small, spy):
    ended, steps = [], []
    spy(after_experience=lambda self, e: ended.append(weights(self.run)))
    settings = [f"strategy.slow_learner.keep_old_heads={str(keep).lower()}", "training.weight_decay=0.01", "training.momentum=0.9"]
    run = run_of(*small, "strategy=naive+slow_learner+spy", *settings, "training.logit_mask=experience")
    execute(run, on_step=lambda r: steps.append((r.experience, r.model.head.weight.detach().clone())))
    old, new = list(run.stream.experiences[0].classes), list(run.stream.experiences[1].classes)
    still = [torch.equal(w[old], ended[0]["head.weight"][old]) for i, w in steps if i > 0]
    assert all(still) if keep else not any(still)
    assert torch.equal(ended[2]["head.bias"][old + new], torch.cat([ended[0]["head.bias"][old], ended[1]["head.bias"][new]])) == keep
    rest = list(run.stream.experiences[2].classes)
    assert not torch.equal(ended[2]["head.weight"][rest], ended[1]["head.weight"][rest])
