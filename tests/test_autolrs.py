"""AutoLRS: its forecasts, its search and its stages, exact resuming, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from clsuite import registry
from clsuite.errors import Interrupted, UsageError
from clsuite.experiment.cell import Options, run_cell

from .strategy_runs import execute
from .text_parts import DIGITS, DROPPING, SEARCHING, cell, refused, text_run

pytestmark = pytest.mark.unit


def autolrs():
    import sys

    return sys.modules[registry.load("strategies", "autolrs").__module__]


@pytest.mark.parametrize(
    ("a", "b", "c", "steps", "at"), [(2.0, 0.05, 1.0, 40, 400), (3.0, 0.01, 0.5, 100, 1000), (1.0, 0.06, 3.0, 10, 100), (-1.0, 0.1, 4.0, 30, 300)]
)
def test_the_forecast_of_an_exponential_curve_is_its_value(a, b, c, steps, at):
    losses = a * np.exp(-b * np.arange(steps)) + c
    assert autolrs().forecast(losses, at) == pytest.approx(a * math.exp(-b * at) + c, abs=0.03)


def test_the_forecast_forgets_outliers_and_is_never_below_zero():
    losses = 2 * np.exp(-0.05 * np.arange(80)) + 1 + 0.01 * np.random.default_rng(0).standard_normal(80)
    spoiled = losses.copy()
    spoiled[10] += 5.0  # one of the 40 in the first half: 3 %
    module = autolrs()
    assert np.flatnonzero(np.isnan(module.smoothed(spoiled))).tolist() == [10]
    assert module.forecast(spoiled, 800) == pytest.approx(module.forecast(losses, 800), abs=0.1)
    assert module.forecast(np.linspace(1, 0.1, 20), 200) == pytest.approx(0, abs=0.01)
    # a straight line: the slowest curve that counts falls by 1 / (1 - exp(-1/2)) = 2.54 times what it fell by in the trial
    assert module.forecast(np.linspace(3, 2, 20), 200) == pytest.approx(3 - 2.54, abs=0.2)


def test_bayesian_optimisation_finds_the_best_rate_of_a_bowl(run_of):
    run = run_of(*DIGITS, strategy={"name": "naive+autolrs", "autolrs": {"low": 1e-3, "high": 0.1}})
    part = run.parts[1]
    part.setup()
    rates, values = [], []
    for _ in range(10):
        rates.append(part.propose(rates, values))
        values.append(1 + math.log(rates[-1] / 0.02) ** 2)
    assert 0.017 < rates[int(np.argmin(values))] < 0.0235 and len(set(rates)) == 10 and all(1e-3 <= r <= 0.1 for r in rates)


MOMENTUM = ["training.momentum=0.9", "training.epochs=2", "training.border_optimizer=keep", *DIGITS]


@pytest.mark.parametrize("world", ["images", "text"])
def test_a_search_leaves_no_trace_but_its_rate_and_its_cost(world, run_of):
    """The run after the search is, bit for bit, the plain run at the rate that was found."""
    strategy = {"name": "naive+autolrs", "autolrs": {"candidates": 3, "least_trial": 4}}
    run = run_of(*MOMENTUM, strategy=strategy) if world == "images" else text_run(strategy, model=DROPPING)
    found, expected = [], []
    execute(run, on_step=lambda r: found.append(r.weights_digest()))
    stages, peak, steps = run.parts[1].stages, float(run.training.learning_rate), run.plan_of(0).steps
    assert [s["length"] for s in stages] == [steps, run.plan_of(1).steps]
    rate = peak * (stages[0]["chosen"] / peak)  # as the optimizer has it
    other = run_of(*MOMENTUM, f"training.learning_rate={rate!r}") if world == "images" else text_run("naive", model=DROPPING, learning_rate=rate)
    execute(other, on_step=lambda r: expected.append(r.weights_digest()))
    assert found[:steps] == expected[:steps]
    cost, plain = run.costs["training"], other.costs["training"]
    assert cost.gradient_steps == plain.gradient_steps + 2 * 3 * 4
    assert cost.forward_passes - plain.forward_passes == cost.backward_passes - plain.backward_passes == 2 * 3 * 4 * run.batch_size


def test_stages_double_and_every_step_takes_the_rate_of_its_stage():
    run = text_run(
        {"name": "naive+autolrs", "autolrs": {"candidates": 2, "least_trial": 3, "first_stage": 2, "longest_stage": 4}},
        schedule={"name": "constant", "warmup": 3},
    )
    rates = []
    execute(run, on_step=lambda r: rates.append(r.learning_rate))
    stages = run.parts[1].stages
    # ten steps: two of warm-up below the peak, then 2, 4 and the 2 that are left; so again after the border
    assert [(s["experience"], s["step"], s["length"]) for s in stages] == [(0, 2, 2), (0, 4, 4), (0, 8, 2), (1, 12, 2), (1, 14, 4), (1, 18, 2)]
    for i in (0, 1):
        assert rates[10 * i : 10 * i + 2] == pytest.approx([1e-3, 2e-3])
    for s in stages:
        assert rates[s["step"] : s["step"] + s["length"]] == pytest.approx([s["chosen"]] * s["length"])
        assert s["chosen"] == min(zip(s["forecasts"], s["rates"], strict=True))[1] and all(3e-4 <= r <= 3e-2 for r in s["rates"])


def test_a_rate_that_diverges_is_never_chosen_and_ends_nothing(run_of):
    run = run_of(*DIGITS, "training.epochs=2", strategy={"name": "naive+autolrs", "autolrs": {"candidates": 4, "low": 1e-2, "high": 1e30}})
    with np.errstate(all="ignore"):
        execute(run)
    found = run.parts[1].stages
    assert any(f is None for s in found for f in s["forecasts"])
    assert all(s["forecasts"][s["rates"].index(s["chosen"])] is not None for s in found if any(f is not None for f in s["forecasts"]))


def test_a_search_that_is_asked_to_leave_begins_again_with_the_same_numbers(tmp_path, monkeypatch):
    def searching():
        return cell(SEARCHING, model=DROPPING, schedule={"name": "constant", "warmup": 3})

    whole = run_cell(searching())
    kind = registry.load("strategies", "autolrs")
    real, tries = kind._try, itertools.count(1)

    def leave(self, ids, rate):
        self.run.stop_requested = next(tries) == 30  # in the second search of three trials of three steps, or later
        return real(self, ids, rate)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_try", leave)
        with pytest.raises(Interrupted):
            run_cell(searching(), Options(tmp_path, 0.0))
    again = run_cell(searching(), Options(tmp_path))
    assert again["weights_sha256"] == whole["weights_sha256"] and again["reports"] == whole["reports"] and again["resume"] == "exact"
    assert again["cost"]["gradient_steps"] == whole["cost"]["gradient_steps"]


def test_two_that_decide_the_rate_are_refused(run_of):
    assert "schedule = 'cosine' and strategy 'autolrs' both decide" in refused("naive+autolrs", schedule="cosine")
    assert "border_peak_scale = 0.5" in refused("naive+autolrs", border_peak_scale=0.5)
    assert "both claim 'sets_rates'" in refused("naive+autolrs+autolrs")
    assert "low = 0.5 must be below strategy.autolrs.high = 0.03" in refused({"name": "naive+autolrs", "autolrs": {"low": 0.5}})
    assert "accumulation = 2" in refused("naive+autolrs", accumulation=2)
    with pytest.raises(UsageError, match="does not learn from the batches that come by"):
        execute(run_of(*DIGITS, strategy="gdumb+autolrs"))
