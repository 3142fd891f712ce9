"""EWC, MAS and SI: importances and penalties of a linear classifier by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.strategy import Modifier

from .regularised_runs import (
    LINEAR,
    cross_entropy_gradients,
    fisher_by_hand,
    flat,
    gradient_of,
    noted_at_borders,
    of_linear,
    outputs_of,
    samples_of,
    spied,
)
from .strategy_runs import execute

pytestmark = pytest.mark.unit

# -- EWC --------------------------------------------------------------------------------------------------------


def test_fisher_information_of_samples_and_its_penalty_by_hand(run_of, small, register):
    seen = noted_at_borders(register, lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=3.0, fisher_samples=None))
    values = []
    execute(run, lambda r: values.append((flat(r.model), r.parts[1].penalty().item())) if r.experience == 1 else None)
    (anchor, found), *_ = seen
    expected = fisher_by_hand(run, 0, anchor)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    assert len(values) == 8 and values[-1][1] > 0
    for weights, value in values:
        assert value == pytest.approx(1.5 * float((expected * (weights - anchor) ** 2).sum()), rel=1e-9)


def test_fisher_information_of_batches_is_that_of_their_mean_loss(run_of, small, register):
    seen = noted_at_borders(register, lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("ewc", fisher="batch", fisher_samples=None))
    execute(run)
    (weights, found), *_ = seen
    gradients = [cross_entropy_gradients(weights, x, y).mean(0) for x, y in zip(*(t.split(16) for t in samples_of(run, 0)), strict=True)]
    torch.testing.assert_close(found, torch.stack(gradients).square().mean(0), rtol=1e-9, atol=1e-15)


def test_the_one_quadratic_that_is_kept_is_the_sum_of_those_of_all_experiences(run_of, small, register):
    """Equal gradients everywhere: the penalties differ by a constant."""
    seen = noted_at_borders(register)
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=2.0, fisher_samples=None))
    execute(run)
    terms = [(fisher_by_hand(run, i, weights), weights) for i, (weights, _) in enumerate(seen[:2])]
    for scale in (0.0, 0.3, 2.0):
        at = torch.from_numpy(np.random.default_rng(0).normal(scale=scale, size=650)) + seen[2][0]
        expected = sum(2.0 * importance * (at - anchor) for importance, anchor in terms)
        torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-13)


def test_online_information_decays_and_pulls_to_the_last_border(run_of, small, register):
    seen = noted_at_borders(register)
    run = run_of(*small, *LINEAR, strategy=spied("ewc", strength=2.0, mode="online", decay=0.25, fisher_samples=None))
    execute(run)
    (first, _), (second, _), (at, _) = seen
    expected = 2.0 * (0.25 * fisher_by_hand(run, 0, first) + fisher_by_hand(run, 1, second)) * (at - second)
    torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-15)


def test_with_a_mask_of_the_batch_information_is_about_the_classes_of_the_experience(run_of, small, register):
    """A sample alone has one class: its loss would be 0, and so would all information."""
    seen = noted_at_borders(register, lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, "training.logit_mask=batch", strategy=spied("ewc", fisher_samples=None))
    execute(run)
    weights, found = seen[0]
    (x, y), present = samples_of(run, 0), torch.zeros(10, dtype=torch.bool)
    present[list(run.stream.experiences[0].classes)] = True
    probabilities = outputs_of(weights, x).masked_fill(~present, -torch.inf).softmax(1)
    torch.testing.assert_close(found, of_linear(weights, x, probabilities - F.one_hot(y, 10)).square().mean(0), rtol=1e-9, atol=1e-15)
    assert found.sum() > 0


# -- MAS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [None, 0.25])
def test_importance_without_labels_by_hand(run_of, small, register, average):
    """|d ||Wx + b||^2| = |2 (Wx + b) x|, of single samples; summed over experiences, or averaged."""
    seen = noted_at_borders(register)
    run = run_of(*small, *LINEAR, strategy=spied("mas", strength=0.5, average=average, importance_samples=None))
    execute(run)

    def importance(i):
        (x, _), weights = samples_of(run, i), seen[i][0]
        return of_linear(weights, x, 2 * outputs_of(weights, x)).abs().mean(0)

    (a, b) = (1.0, 1.0) if average is None else (0.25, 0.75)
    at = seen[2][0]
    expected = 2 * 0.5 * (a * importance(0) + b * importance(1)) * (at - seen[1][0])
    torch.testing.assert_close(gradient_of(run, run.parts[1], at), expected, rtol=1e-9, atol=1e-13)


def test_importance_of_batches_is_the_size_of_their_mean_gradient(run_of, small, register):
    seen = noted_at_borders(register, lambda part: part.importance.clone())
    run = run_of(*small, *LINEAR, strategy=spied("mas", importance_of="batch", importance_samples=None))
    execute(run)
    weights, found = seen[0]
    expected = [of_linear(weights, x, 2 * outputs_of(weights, x)).mean(0).abs() for x in samples_of(run, 0)[0].split(16)]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-9, atol=1e-15)


# -- SI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient": "total"}, {"negative": "kept", "damping": 1e-3}, {"largest": 0.005}, {"negative": "kept", "largest": 0.001, "gradient": "total"}],
    ids=str,
)
def test_the_path_integral_by_hand(run_of, small, register, settings):
    """The gradient of the loss on each batch, taken anew before the step, times what the step then did to the weights; biases are made to climb."""
    path, ended, anchors = [[]], [], []

    class Spy(Modifier):
        def before_experience(self, experience):
            anchors.append(flat(self.model))
            path.append([])

        def before_step(self, batch):
            gradients = self.gradients(batch)
            path[-1].append([torch.cat([g.flatten() for g in gradients]), flat(self.model), None])

        def on_gradients(self):
            self.model.head.bias.grad.neg_()

        def after_step(self):
            path[-1][-1][2] = flat(self.model)

        def after_experience(self, experience):
            ended.append(flat(self.model))

    register("spy", Spy)
    strength, damping = 2.0, settings.get("damping", 0.1)
    run = run_of(*small, *LINEAR, "training.momentum=0.5", strategy=spied("si", strength=strength, **settings))
    found = []
    execute(run, lambda r: found.append(r.parts[1].importance) if r.experience > len(found) else None)
    found.append(run.parts[1].importance)

    total, expected = torch.zeros(650, dtype=torch.float64), torch.zeros(650, dtype=torch.float64)
    for i, steps in enumerate(path[1:]):
        omega = torch.zeros_like(total)
        for gradient, before, after in steps:
            if settings.get("gradient") == "total":
                gradient = gradient + 2 * strength * expected * (before - anchors[i])
            omega -= gradient * (after - before)
        total += omega / ((ended[i] - anchors[i]) ** 2 + damping)
        expected = total
        if settings.get("negative") != "kept":
            expected = expected.clamp(min=0)
        if "largest" in settings:
            expected = expected.clamp(max=settings["largest"])
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
    assert (total < 0).any() and (total > 0.005).any()
