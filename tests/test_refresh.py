"""Refresh: unlearning and Fisher information by hand, and what is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clsuite import registry
from clsuite.experiment.cell import run_cell

from .strategy_runs import before_updates, begun, buffers, close, crossed, execute, labels, moved, pixels, same, weights

pytestmark = pytest.mark.unit

REFRESH = ["strategy=naive+refresh", "strategy.refresh.fisher_samples=12"]


def gradient_by_hand(run, ids):
    gradients = torch.autograd.grad(crossed(run, ids), list(run.model.parameters()))
    return dict(zip(weights(run), gradients, strict=True))


@pytest.mark.parametrize(("arm", "sign"), [("ascent", 1), ("descent", -1)])
@pytest.mark.parametrize("fisher", [0.0, 500.0])
def test_unlearning_moves_every_tensor_by_the_same_share_along_its_gradient(arm, sign, fisher, run_of, small):
    run = run_of(
        *small, *REFRESH, f"strategy.refresh.arm={arm}", "strategy.refresh.noise=0.0", "strategy.refresh.unlearn_step=0.002", "training.precision=float64"
    )
    _, batch = begun(run)
    run.model.hidden[0].bias.data.zero_()
    refresh = run.parts[1]
    refresh.fisher = [torch.full_like(p, fisher) for p in run.model.parameters()]
    before, gradient = weights(run), gradient_by_hand(run, batch.ids)
    refresh.unlearn(batch)
    after = weights(run)
    assert torch.equal(after["hidden.0.bias"], before["hidden.0.bias"])  # a tensor of zeros has no scale to move by
    for name in before.keys() - {"hidden.0.bias"}:
        change, g = after[name] - before[name], gradient[name]
        expected = sign * 0.002 / (1 + 0.001 * fisher) * before[name].norm() * g / g.norm()
        torch.testing.assert_close(change, expected, rtol=1e-7, atol=1e-12)
        if not fisher:
            assert close(change.norm() / before[name].norm(), 0.002)


def test_the_noise_arm_moves_by_scaled_noise_alone(run_of, small):
    run = run_of(
        *small, *REFRESH, "strategy.refresh.arm=noise", "strategy.refresh.noise=0.5", "strategy.refresh.unlearn_step=0.01", "training.precision=float64"
    )
    _, batch = begun(run)
    before, passes = weights(run), run.cost.forward_passes
    run.parts[1].unlearn(batch)
    change = torch.cat([(weights(run)[name] - before[name]).flatten() for name in before])
    assert abs(float(change.std()) / (0.5 * 0.01) - 1) < 0.05 and abs(float(change.mean())) < 0.005 * 5 / len(change) ** 0.5
    assert run.cost.forward_passes == passes


def test_refresh_unlearns_the_current_batch_before_each_step(run_of, small, monkeypatch):
    kind, order = registry.load("strategies", "refresh"), []
    monkeypatch.setattr(kind, "unlearn", lambda self, batch: order.append(("unlearn", len(batch))))
    run = run_of(*small, *REFRESH, "strategy.refresh.steps=2")
    before_updates(run, lambda loss, optimizer: order.append("update"))
    execute(run)
    assert order[:6] == [("unlearn", 16), ("unlearn", 16), "update"] * 2 and len(order) == 3 * 26


@pytest.mark.parametrize("base", ["naive", "derpp"])
def test_refresh_switched_off_is_the_plain_base(base, cell_of, small):
    plain = run_cell(cell_of(*small, f"strategy={base}"))
    off = run_cell(cell_of(*small, f"strategy={base}+refresh", "strategy.refresh.fisher_samples=12", "strategy.refresh.arm=off"))
    on = run_cell(cell_of(*small, f"strategy={base}+refresh", "strategy.refresh.fisher_samples=12", "strategy.refresh.unlearn_step=0.01"))
    assert same(plain, off) and plain["weights_sha256"] != on["weights_sha256"]


def test_refresh_with_an_empty_step_is_the_plain_base_too(colour):
    plain = colour("strategy=naive")
    still = colour(*REFRESH, "strategy.refresh.unlearn_step=0.0")
    execute(plain), execute(still)
    assert plain.weights_digest() == still.weights_digest()


@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_fisher_information_is_that_of_a_loop_over_samples(model, run_of, small, colour):
    run = run_of(*small, *REFRESH, "training.precision=float64") if model == "mlp" else colour(*REFRESH, "training.precision=float64")
    loop, batch = begun(run)
    loop._train_on(batch, True)
    ids = np.random.default_rng(0).choice(run.stream.ids(run.stream.experiences[0].segments), 7, replace=False)
    state = {**weights(run), **buffers(run)}
    estimate = run.parts[1].estimate(ids)
    assert not moved(state, {**weights(run), **buffers(run)}) and run.model.training
    run.model.eval()
    expected = [torch.zeros_like(p) for p in run.model.parameters()]
    for x, y in zip(pixels(run, ids), labels(run, ids), strict=True):
        log_p = run.model(x[None]).log_softmax(1)[0, y]
        for total, g in zip(expected, torch.autograd.grad(log_p, list(run.model.parameters())), strict=True):
            total += log_p.detach().exp() * g**2 / len(ids)
    for found, value in zip(estimate, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-12)


def test_fisher_information_decays_to_a_hundred_thousandth_at_a_border(run_of, small, monkeypatch):
    run = run_of(*small, *REFRESH)
    begun(run)
    refresh = run.parts[1]
    monkeypatch.setattr(type(refresh), "estimate", lambda self, ids: [torch.full_like(p, 2.0 if len(ids) == 12 else math.nan) for p in self.model.parameters()])
    assert not any(value.any() for value in refresh.fisher)  # none in the first experience
    for experience, expected in zip(run.stream.experiences, (2.0, 2.0 + 2e-5, 2.0 + 2.00002e-5), strict=True):
        refresh.after_experience(experience)
        assert all(torch.allclose(value, torch.full_like(value, expected), rtol=1e-7, atol=0) for value in refresh.fisher)


def test_unlearning_leaves_running_statistics_alone(colour):
    run = colour(*REFRESH, "strategy.refresh.unlearn_step=0.01")
    _, batch = begun(run)
    before, old = buffers(run), weights(run)
    run.parts[1].unlearn(batch)
    assert not moved(before, buffers(run)) and moved(old, weights(run))
