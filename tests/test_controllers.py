"""What reads losses to set rates, and what is deployed in place of the weights: known best rates, exact sums, no trace left."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

from clsuite import registry
from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.spec import resolve
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .test_llm_pretraining import tiny

pytestmark = pytest.mark.unit

SEARCH = {"name": "naive+autolrs", "autolrs": {"candidates": 3, "least_trial": 3, "first_stage": 8, "longest_stage": 16}}


def module(name):
    return importlib.import_module(registry.load("strategies", name).__module__)


def begun(run):
    """A run at its first step."""
    run.model.train()
    for part in run.parts:
        part.setup()
    Loop(run, Checkpoints(None, "", {}))._begin()
    return run.parts[1]


def execute(run, on_step=None):
    loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=on_step)
    loop.execute()
    return loop


# -- AutoLRS ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bowl(run_of, small):
    """A search on f = x^2 / 2 + 1000 y^2 / 2 from (1, 0.00001) by gradient descent: x shrinks by 1 - rate a step, y explodes above 2 / 1000."""
    run = run_of(*small, strategy={"name": "naive+autolrs", "autolrs": {"low": 1e-5, "high": 0.1}})
    part = begun(run)
    with torch.no_grad():
        run.model.head.weight.flatten()[:2].copy_(torch.tensor([1.0, 1e-5]))

    def loss(batch):
        x, y = run.model.head.weight.flatten()[:2]
        return x**2 / 2 + 500 * y**2

    run.loss = loss
    return part


def test_the_rate_of_a_bowl_is_the_largest_that_does_not_explode(bowl):
    before = bowl.run.weights_digest()
    found = bowl.search(500)
    assert len(found["rates"]) == 10 and bowl.run.weights_digest() == before
    assert 8e-4 < found["chosen"] < 2e-3
    forecasts = dict(zip(found["rates"], found["forecasts"], strict=True))
    assert found["chosen"] == min((rate for rate, value in forecasts.items() if value is not None), key=forecasts.__getitem__)


def test_a_trial_that_explodes_is_charged_for_its_steps_alone(run_of, small):
    run = run_of(*small, strategy={"name": "naive+autolrs", "autolrs": {"candidates": 1, "low": 1e29, "high": 1e30}})
    part = begun(run)
    found = part.search(8)
    assert found["forecasts"] == [None]
    steps = run.cost.gradient_steps
    assert 0 < steps < 10
    # the pass whose loss was not finite has no backward pass, now or in the next step
    part.update(part.loss(run.samples(run.stream.ids(run.stream.experiences[0].segments)[:16])))
    assert run.cost.backward_passes == 16 * (steps + 1) and run.cost.forward_passes == 16 * (steps + 2)


def test_a_model_that_has_diverged_ends_as_diverged(tmp_path):
    def spoil(run):
        if run.step == 25:
            with torch.no_grad():
                run.model.head.weight.fill_(math.nan)

    result = run_cell(resolve(tiny(strategy=SEARCH, training={"schedule": "constant"})), Options(tmp_path, on_step=spoil))
    assert result["status"] == "diverged" and "\n" not in result["reason"]


def test_candidates_begin_with_one_loss_whatever_the_mask(run_of, small, monkeypatch):
    run = run_of(*small, "training.logit_mask=batch", strategy={"name": "naive+autolrs", "autolrs": {"candidates": 3, "first_stage": 2}})
    kind = type(run.parts[1])
    seen, real = [], kind._try
    monkeypatch.setattr(kind, "_try", lambda *arguments: seen.append(real(*arguments)) or seen[-1])
    execute(run)
    assert len(seen) >= 90 and len(seen) % 30 == 0  # searches of three trials of ten steps
    for first in range(0, len(seen), 30):
        assert seen[first] == seen[first + 10] == seen[first + 20]


def test_a_first_stage_longer_than_the_longest_is_refused():
    with pytest.raises(UsageError, match=r"strategy.autolrs.first_stage = 9000 .*strategy.autolrs.longest_stage = 8000") as error:
        run_cell(resolve(tiny(strategy={"name": "naive+autolrs", "autolrs": {"first_stage": 9000}}, training={"schedule": "constant"})))
    assert "\n" not in str(error.value)


# -- instruction residuals --------------------------------------------------------------------------------------


def bits(tensor):
    return tensor.view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def numbers(dtype, seed, count=50_000):
    """Finite numbers whose bits are random: all exponents, subnormal numbers and both zeros."""
    width = {torch.float32: 32, torch.bfloat16: 16}[dtype]
    drawn = np.random.default_rng(seed).integers(0, 2**width, count, dtype=np.uint64).astype(f"u{width // 8}").view(f"i{width // 8}")
    found = torch.from_numpy(drawn).view(dtype)
    extremes = torch.tensor(
        [0.0, -0.0, torch.finfo(dtype).max, -torch.finfo(dtype).max, torch.finfo(dtype).tiny, torch.finfo(dtype).smallest_normal], dtype=dtype
    )
    found[:6], found[6:12] = extremes, extremes.flip(0)
    return found[torch.isfinite(found)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_the_unchanged_base_gives_the_instruct_model_back_bit_for_bit(dtype, seed):
    residuals = module("instruction_residual")
    base, instruct = numbers(dtype, seed), numbers(dtype, seed + 10)
    count = min(len(base), len(instruct))
    for a, b in (
        (instruct[:count], base[:count]),
        (base.roll(1), base),
        (torch.cat([base, -base]), torch.cat([base, base])),  # equal and opposite, zeros of both signs
        (instruct[:count], torch.full((count,), -0.0, dtype=dtype)),
    ):
        found = residuals.with_residual({"w": b}, residuals.residual({"w": a}, {"w": b}))["w"]
        assert found.dtype == dtype and torch.equal(bits(found), bits(a))
