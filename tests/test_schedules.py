"""Learning-rate schedules: golden values, identities and outside references."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from clsuite.schedule import CATALOGUE, rates

from .schedule_cases import EXAMPLES, make

pytestmark = pytest.mark.unit


def test_every_schedule_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(CATALOGUE)


# -- golden values ----------------------------------------------------------------------------------------------

AT = (0, 2, 5, 10, 15, 18, 20)  # z = 0, .1, .25, .5, .75, .9, 1 of 20 steps
GOLDEN = [
    ("cosine", {"minimum": 0.1}, (1, 0.977975, 0.868198, 0.55, 0.231802, 0.122025, 0.1)),
    ("rex", {}, (1, 0.947368, 0.857143, 0.666667, 0.4, 0.181818, 0)),
    ("uba", {"phi": 0.5}, (1, 0.993768, 0.958871, 0.8, 0.406983, 0.091192, 0)),
    ("uba", {"phi": 1.0}, (1, 0.987613, 0.920991, 0.666667, 0.255479, 0.047774, 0)),
    ("uba", {"phi": 5.0}, (1, 0.940987, 0.699823, 0.285714, 0.064222, 0.009935, 0)),
    ("cosine_power", {"p": 2.0}, (1, 0.966361, 0.806946, 0.414214, 0.106840, 0.017107, 0)),
    ("cosine_power", {"p": 10.0}, (1, 0.939122, 0.681958, 0.240253, 0.044559, 0.006441, 0)),
    ("wsd", {"decay": 20, "shape": "inverse_linear", "minimum": 0.1}, (1, 0.526316, 0.307692, 0.181818, 0.129032, 0.109890, 0.1)),
    ("wsd", {"decay": 20, "shape": "one_minus_sqrt"}, (1, 0.683772, 0.5, 0.292893, 0.133975, 0.051317, 0)),
]


@pytest.mark.parametrize(("name", "values", "expected"), GOLDEN, ids=[f"{n}-{k}" for k, (n, _, _) in enumerate(GOLDEN)])
def test_golden_factors(name, values, expected):
    schedule = make(name, **values)
    schedule.check(20)
    assert [schedule.factor(n, 20) for n in AT] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize(("name", "at_150", "at_300"), [("infinite_cosine", 2.802297e-4, 2.325e-4), ("infinite_inverse_sqrt", 2.100351e-4, 1.856295e-4)])
def test_golden_rates_of_the_infinite_schedules(name, at_150, at_300, warmup):
    timescale = {"timescale": 10.0} if name == "infinite_inverse_sqrt" else {}
    schedule = make(name, warmup=warmup, cooldown=600, constant=1.65 / 3, hold=250, anneal=140, minimum=0.1, **timescale)
    horizon = warmup + 990
    schedule.check(horizon)
    rate = {n: 3e-4 * schedule.factor(n + warmup, horizon) for n in (0, 150, 300, 600, 700, 850, 920, 990, 2000)}
    assert list(rate.values()) == pytest.approx([3e-4, at_150, at_300, 1.65e-4, 1.65e-4, 1.65e-4, 7.035624e-5, 3e-5, 3e-5], rel=1e-6)
    filled = make(name, **{**schedule.settings(), "hold": None})
    assert rates(filled, horizon) == rates(schedule, horizon)


def test_golden_refined_schedules() -> None:
    assert rates(make("refined", gradient_norms=[0.7] * 10), 10) == pytest.approx([*(k / 9 for k in range(9, -1, -1)), 0], abs=1e-12)
    rising = make("refined", gradient_norms=[1.0, 2.0, 3.0, 4.0, 5.0], smoothing=0.0, exponent=-2)
    assert rates(rising, 5) == pytest.approx([1, 0.115189, 0.024566, 0.005392, 0, 0], abs=1e-6)


@pytest.mark.parametrize(("batch", "tokens", "rate"), [(8, 1e7, 0.008613), (8, 1e8, 0.002662), (8, 1e9, 0.000823), (64, 1e9, 0.006580)])
def test_golden_rates_of_the_power_law(batch, tokens, rate):
    schedule = make("power", a=4.0, b=-0.51, peak=0.02, batch=float(batch), tokens_per_step=100_000, decay=0)
    assert 0.02 * schedule.factor(int(tokens / 100_000), 20_000) == pytest.approx(rate, abs=1e-6)
    assert schedule.factor(0, 20_000) == schedule.factor(1, 20_000) == 1.0  # the cap


@pytest.mark.parametrize(
    ("name", "values", "area", "annealing"),
    [
        ("constant", {}, 1.0, (0.0, 0.0)),
        ("cosine", {"minimum": 0.1}, 0.55045, (0.340931, 0.085974)),
        ("wsd", {"decay": 0.2, "minimum": 0.1}, 0.91045, (0.083920, 0.051029)),
    ],
)
def test_golden_areas_of_the_loss_law(name, values, area, annealing):
    eta = [1e-3 * f for f in rates(make(name, **values), 1000)[:-1]]
    assert sum(eta) == pytest.approx(area, abs=1e-6)
    for decay, expected in zip((0.999, 0.99), annealing, strict=True):
        momentum = total = 0.0
        for before, now in itertools.pairwise(eta):
            momentum = decay * momentum + before - now
            total += momentum
        assert total == pytest.approx(expected, abs=1e-6)


def test_wsd_s_by_hand() -> None:
    plain = make("wsd_s", warmup=2, periods=[6, 5], decay=2)
    plain.check(11)
    assert rates(plain, 11) == pytest.approx([0.5, 1, 1, 1, 1, 0.5, 1, 1, 1, 1, 0.5, 0])
    stepped = make("wsd_s", warmup=2, periods=[6, 5], decay=0.4, multipliers=[0.8, 0.4], minimum=0.5)  # 40 %: 3 (2.4 rounded up) and 2 steps
    third = 1 / 6
    assert rates(stepped, 11) == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8 * (1 - third), 0.8 * (1 - 2 * third), 0.4, 0.4, 0.4, 0.4, 0.3, 0.2])


def test_two_stage_by_hand() -> None:
    """The published extension: horizon 100k, down from step 40,000 over 1,000 steps, the last 20 % to zero."""
    schedule = make("two_stage", warmup=300)
    found = {n: schedule.factor(n, 100_000) for n in (0, 299, 300, 40_000, 40_500, 41_000, 80_000, 90_000, 100_000)}
    assert list(found.values()) == pytest.approx([1 / 300, 1, 1, 1, 0.7625, 0.525, 0.525, 0.2625, 0])


# -- identities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimum", [0.0, 0.1])
def test_special_cases_are_what_they_become(minimum):
    cosine = rates(make("cosine", warmup=7, minimum=minimum), 200)
    assert rates(make("uba", warmup=7, phi=2.0, minimum=minimum), 200) == pytest.approx(cosine, abs=1e-9)
    for p in (1.0, 1 - 1e-12, 1 + 1e-12, 1 + 1e-10):
        assert rates(make("cosine_power", warmup=7, p=p, minimum=minimum), 200) == pytest.approx(cosine, abs=1e-9)
    linear = rates(make("linear", warmup=7, minimum=minimum), 200)
    assert rates(make("wsd", warmup=7, decay=193, minimum=minimum), 200) == pytest.approx(linear, abs=1e-9)
    assert rates(make("wsd", warmup=7, decay=193, shape="cosine", minimum=minimum), 200) == pytest.approx(cosine, abs=1e-9)
    assert rates(make("cyclic", warmup=7, period=193, minimum=minimum), 200) == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("exponent", [-2, -1])
def test_refined_of_constant_norms_is_linear(exponent):
    """Compared at z = n / (T - 1): the refined schedule has reached 0 at the last update."""
    straight = make("linear")
    refined = rates(make("refined", gradient_norms=[3.0] * 101, exponent=exponent), 101)
    assert refined == pytest.approx([straight.decay(n / 100) for n in range(101)] + [0.0], abs=1e-9)


def test_inverse_linear_is_linear_in_the_inverse() -> None:
    found = rates(make("wsd", decay=50, shape="inverse_linear", minimum=0.04), 100)
    assert [1 / f for f in found[50:]] == pytest.approx([1 + 24 * k / 50 for k in range(51)], abs=1e-9)


def test_exponential_decay_has_half_lives() -> None:
    found = rates(make("wsd", decay=40, shape="exponential", minimum=0.5**4), 100)
    assert [found[n] for n in (60, 70, 80, 90, 100)] == pytest.approx([1, 0.5, 0.25, 0.125, 0.0625], abs=1e-9)


def test_mirror_cosine_mirrors_the_cosine_at_the_straight_line() -> None:
    cosine, line, mirror = (rates(make("wsd", decay=60, shape=shape, minimum=0.2), 60) for shape in ("cosine", "linear", "mirror_cosine"))
    assert [a + b for a, b in zip(cosine, mirror, strict=True)] == pytest.approx([2 * f for f in line], abs=1e-9)
    assert mirror[15] < line[15] < cosine[15]


def test_infinite_schedules_with_the_peak_as_constant_are_wsd() -> None:
    wsd = rates(make("wsd", warmup=5, decay=0.15, shape="exponential", minimum=0.1), 400)
    for name in ("infinite_cosine", "infinite_inverse_sqrt"):
        assert rates(make(name, warmup=5, constant=1.0), 400) == pytest.approx(wsd, abs=1e-9)


@pytest.mark.parametrize("exponent", [-2, -1])
@pytest.mark.parametrize(("count", "smoothing"), [(50, 0.1), (51, 0.33), (20, 1.0), (7, 0.0), (2, 1.0)])
def test_refined_schedule_from_scipy(exponent, count, smoothing):
    """The formula on norms smoothed as the authors' README says: mirrored behind the end, the first norm repeated before the start."""
    from scipy.ndimage import median_filter

    norms = np.random.default_rng(count).lognormal(size=count) * 1e-3
    half = math.floor(smoothing * count / 2 + 1e-9)
    smooth = median_filter(np.pad(norms, (0, half), mode="reflect"), size=2 * half + 1, mode="nearest")[:count]
    weights = smooth**exponent
    eta = np.array([weights[t] * weights[t + 1 :].sum() for t in range(count)])
    found = rates(make("refined", gradient_norms=norms.tolist(), exponent=exponent, smoothing=smoothing), count)
    assert found == pytest.approx([*(eta / eta.max()), 0.0], abs=1e-9)


def test_running_median_by_hand() -> None:
    from clsuite.schedules.refined import running_median

    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    padded = [5.0, 5.0, *values, 2.0, 4.0]
    assert running_median(values, 2) == [statistics.median(padded[k : k + 5]) for k in range(5)]


# -- outside references -----------------------------------------------------------------------------------------


def _lambda(function, **values):
    import torch
    import transformers.optimization as reference

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return getattr(reference, function)(optimizer, **values).lr_lambdas[0]


WARMUP, STEPS = 12, 132
TOTAL = {"num_warmup_steps": WARMUP, "num_training_steps": STEPS}
REFERENCES = [
    ("get_cosine_schedule_with_warmup", TOTAL, "cosine", {}),
    ("get_cosine_with_min_lr_schedule_with_warmup", {**TOTAL, "min_lr_rate": 0.1}, "cosine", {"minimum": 0.1}),
    ("get_linear_schedule_with_warmup", TOTAL, "linear", {}),
    ("get_cosine_with_hard_restarts_schedule_with_warmup", {**TOTAL, "num_cycles": 4}, "cyclic", {"period": 30}),
    ("get_constant_schedule_with_warmup", {"num_warmup_steps": WARMUP}, "constant", {}),
    ("get_wsd_schedule", {**TOTAL, "num_decay_steps": 33, "decay_type": "linear"}, "wsd", {"decay": 0.25}),
    (
        "get_wsd_schedule",
        {**TOTAL, "num_decay_steps": 40, "decay_type": "cosine", "min_lr_ratio": 0.1},
        "wsd",
        {"decay": 40, "shape": "cosine", "minimum": 0.1},
    ),
    ("get_wsd_schedule", {**TOTAL, "num_decay_steps": 40, "decay_type": "1-sqrt"}, "wsd", {"decay": 40, "shape": "one_minus_sqrt"}),
    ("get_inverse_sqrt_schedule", {"num_warmup_steps": WARMUP}, "inverse_sqrt", {}),
    ("get_inverse_sqrt_schedule", {"num_warmup_steps": WARMUP, "timescale": 50}, "inverse_sqrt", {"timescale": 50}),
]


@pytest.mark.parametrize(("function", "theirs", "name", "ours"), REFERENCES, ids=[f"{f}-{k}" for k, (f, *_) in enumerate(REFERENCES)])
def test_same_curve_as_transformers(function, theirs, name, ours):
    """Theirs starts warm-up at 0 (or at the minimum), ours at 1 / warm-up: after it, and at the end, they are the same."""
    reference = _lambda(function, **theirs)
    found = rates(make(name, warmup=WARMUP, **ours), STEPS)
    assert found[WARMUP:] == pytest.approx([reference(n) for n in range(WARMUP, STEPS + 1)], abs=1e-12)
    if not theirs.get("min_lr_ratio"):
        assert found[:WARMUP] == pytest.approx([reference(n + 1) for n in range(WARMUP)], abs=1e-12)


def test_inverse_sqrt_without_warm_up_as_transformers() -> None:
    reference = _lambda("get_inverse_sqrt_schedule", num_warmup_steps=0)
    assert rates(make("inverse_sqrt"), 500) == pytest.approx([reference(n) for n in range(501)], abs=1e-12)


def _torch_rates(scheduler, steps, **values):
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **values)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_warm_restarts_as_torch(multiplier):
    theirs = _torch_rates("CosineAnnealingWarmRestarts", 100, T_0=10, T_mult=multiplier, eta_min=0.05)
    assert rates(make("cyclic", period=10, multiplier=float(multiplier), minimum=0.05), 100)[:-1] == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("multiplier", "horizon"), [(1.0, 30), (2.0, 70), (3.0, 40)])
def test_a_horizon_that_ends_with_a_cycle_ends_at_the_minimum(multiplier, horizon):
    schedule = make("cyclic", period=10, multiplier=multiplier, minimum=0.05)
    assert schedule.factor(horizon, horizon) == pytest.approx(0.05)
    assert schedule.factor(horizon, horizon + 1) == 1.0  # the next cycle


def test_triangular_cycles_as_torch() -> None:
    theirs = _torch_rates("CyclicLR", 100, base_lr=0.1, max_lr=1.0, step_size_up=12, cycle_momentum=False)
    assert rates(make("cyclic", shape="triangular", period=24, minimum=0.1), 100)[:-1] == pytest.approx(theirs, abs=1e-9)
