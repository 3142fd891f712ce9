"""Learning-rate schedules: golden values, identities, outside references, and what every one of them promises."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clsuite import registry
from clsuite.cli import main
from clsuite.errors import UsageError
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.spec import resolve
from clsuite.schedule import CATALOGUE, Constant, Schedule, in_steps, rates

pytestmark = pytest.mark.unit

HORIZON = 2000
SHAPE_NAMES = ("linear", "cosine", "mirror_cosine", "square", "one_minus_sqrt", "exponential", "inverse_linear")
EXAMPLES: dict[str, list[dict]] = {
    "constant": [{}],
    "cosine": [{"minimum": 0.1}],
    "linear": [{}],
    "step": [{}],
    "wsd": [{"shape": s, "minimum": 0.1} for s in SHAPE_NAMES],
    "wsd_s": [{}, {"periods": [300, 700, 1000], "decay": 0.2, "multipliers": [1.0, 0.7, 0.5]}],
    "two_stage": [{"drop": 0.1, "minimum": 0.05}],
    "infinite_cosine": [{}, {"hold": 0.2}],
    "infinite_inverse_sqrt": [{}, {"cooldown": 900, "anneal": 250}],
    "power": [{"batch": 8.0}],
    "rex": [{"minimum": 0.02}],
    "uba": [{"phi": 0.5}],
    "cosine_power": [{"p": 2.0}],
    "inverse_sqrt": [{}, {"timescale": 100}],
    "cyclic": [{}, {"multiplier": 2.0, "period": 150}, {"shape": "triangular", "minimum": 0.1}],
    "refined": [{"gradient_norms": [1.0 + 0.5 * math.sin(k / 70) ** 2 for k in range(HORIZON)]}],
    "table": [{"factors": [1 / (1 + k) for k in range(HORIZON)]}],
}
CASES = [(name, values) for name, examples in EXAMPLES.items() for values in examples]
IDS = [f"{name}-{k}" for name, examples in EXAMPLES.items() for k in range(len(examples))]
NO_WARMUP = ("refined", "table")
each = pytest.mark.parametrize(("name", "values"), CASES, ids=IDS)


def make(name: str, **values) -> Schedule:
    return registry.load("schedules", name)(**values)


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


# -- what every schedule promises -------------------------------------------------------------------------------


@each
def test_rates_are_a_pure_function_of_the_step(name, values):
    first, order = rates(make(name, **values), HORIZON), list(range(HORIZON + 1))
    random.Random(0).shuffle(order)
    again = make(name, **values)
    assert {n: again.factor(n, HORIZON) for n in order} == dict(enumerate(first))
    assert [again.factor(n, HORIZON) for n in range(700, 720)] == first[700:720]  # as a run that goes on at step 700 asks


@each
def test_the_value_after_the_last_update_is_held(name, values):
    schedule = make(name, **values)
    schedule.check(HORIZON)
    end = schedule.factor(HORIZON, HORIZON)
    assert math.isfinite(end) and end >= 0
    assert {schedule.factor(HORIZON + k, HORIZON) for k in (1, 2, 999, 10**6)} == {end}
    if "minimum" in values and name != "power":
        assert end == pytest.approx(values["minimum"], abs=1e-12)


@each
def test_warm_up_rises_in_equal_parts(name, values):
    if name in NO_WARMUP or values.get("shape") == "triangular":
        pytest.skip("has no warm-up")
    for warmup, steps in ((40, 40), (0.02, 40), (1, 1), (0.0101, 21)):
        schedule = make(name, **values, warmup=warmup)
        schedule.check(HORIZON)
        top = schedule.factor(steps, HORIZON)
        assert [schedule.factor(n, HORIZON) for n in range(steps)] == pytest.approx([top * (n + 1) / steps for n in range(steps)], abs=1e-12)
        if name != "power":
            assert top == pytest.approx(1.0)


@each
def test_a_table_of_the_same_rates_is_the_same_schedule(name, values):
    found = rates(make(name, **values), HORIZON)
    table = make("table", factors=found)
    table.check(HORIZON)
    assert rates(table, HORIZON) == found and table.factor(HORIZON + 5, HORIZON) == found[-1]


BORDERS = [
    *(("wsd", {"shape": s, "minimum": 0.1, "warmup": 0.01, "decay": 0.3}, (0.01, 0.7, 1)) for s in SHAPE_NAMES),
    ("infinite_cosine", {"warmup": 0.01}, (0.01, 0.61, 0.85, 1)),
    ("infinite_inverse_sqrt", {"warmup": 0.01, "hold": 0.1, "anneal": 0.15}, (0.01, 0.61, 0.71, 0.86, 1)),
    ("two_stage", {"warmup": 0.01, "drop": 0.1}, (0.01, 0.4, 0.5, 0.8, 1)),
    ("power", {"warmup": 0.01, "batch": 8.0}, (0.01, 0.9, 1)),
    ("rex", {"warmup": 0.01}, (0.01, 1)),
    ("uba", {"warmup": 0.01}, (0.01, 1)),
    ("cosine_power", {"warmup": 0.01}, (0.01, 1)),
    ("inverse_sqrt", {"warmup": 0.01}, (0.01, 1)),
    ("cyclic", {"shape": "triangular"}, (0.125, 0.25, 0.5, 0.75, 1)),
]


@pytest.mark.parametrize(("name", "values", "borders"), BORDERS, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(BORDERS)])
def test_no_jump_at_the_border_of_a_phase(name, values, borders):
    """Ten times as many steps make the largest change at a border at least 2.5 times smaller (1 - sqrt: 3.2 times); a jump would stay."""
    schedule = make(name, **values)
    for border in borders:
        largest = []
        for horizon in (10_000, 100_000):
            schedule.check(horizon)
            around = [schedule.factor(round(border * horizon) + k, horizon) for k in range(-2, 3)]
            largest.append(max(abs(b - a) for a, b in itertools.pairwise(around)))
        assert largest[0] < 0.02 and largest[1] <= 0.4 * largest[0] + 1e-12, (border, largest)


@pytest.mark.parametrize(
    ("name", "values", "start"),
    [
        ("wsd", {"warmup": 0.01}, 800),
        ("wsd", {"warmup": 3, "decay": 0.25, "shape": "cosine"}, 750),
        ("wsd_s", {"warmup": 0.01}, 950),
        ("wsd_s", {"periods": [200, 300, 500], "decay": 30, "multipliers": [1.0, 0.8, 0.7]}, 970),
        ("wsd_s", {"periods": [1000], "multipliers": [0.5]}, 900),
        ("infinite_cosine", {"warmup": 0.01}, 850),
        ("infinite_inverse_sqrt", {"warmup": 0.01, "hold": 0.1, "timescale": 3.0}, 710),
        ("power", {"warmup": 0.05, "batch": 4.0}, 900),
        ("two_stage", {"drop": 0.1, "warmup": 0.05}, 800),
    ],
)
def test_what_comes_before_the_final_decay_knows_no_horizon(name, values, start):
    schedule = make(name, **values)
    schedule.check(1000)
    assert schedule.decay_start(1000) == start
    main_line = schedule.before_decay(1000)
    for horizon in (1000, 1001, 3000):
        main_line.check(horizon)
        assert [main_line.factor(n, horizon) for n in range(start)] == [schedule.factor(n, 1000) for n in range(start)]
    assert main_line.factor(5000, 1000) == main_line.factor(5000, 10_000)
    assert main_line.decay_start(1000) is None
    assert type(main_line)(**main_line.settings()).factor(500, 1000) == main_line.factor(500, 1000)  # it can be written down


def test_wsd_before_its_decay_is_constant() -> None:
    main_line = make("wsd", warmup=0.015).before_decay(1000)
    assert type(main_line) is Constant and main_line.warmup == 15 and isinstance(main_line.warmup, int)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step", "rex", "uba", "cosine_power", "inverse_sqrt", "cyclic"])
def test_schedules_without_a_constant_phase_have_no_branch(name):
    assert make(name).decay_start(1000) is None
    with pytest.raises(ValueError, match=f"'{name}' has no final decay"):
        make(name).before_decay(1000)


def test_a_decay_of_zero_is_no_decay() -> None:
    assert rates(make("wsd", decay=0), 100) == [1.0] * 101
    assert make("infinite_cosine", anneal=0, minimum=0.0).factor(10**6, 1000) == 0.55
    for name, values in (("wsd", {"decay": 0}), ("infinite_cosine", {"anneal": 0}), ("power", {"decay": 0}), ("two_stage", {"decay": 0})):
        with pytest.raises(ValueError):
            make(name, **values).before_decay(100)


# -- lengths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "horizon", "steps"),
    [(0, 100, 0), (0.0, 100, 0), (7, 100, 7), (7.0, 100, 7), (1, 100, 1), (0.07, 100, 7), (0.1, 30, 3), (0.29, 100, 29), (0.071, 100, 8), (1e-9, 100, 1)],
)
def test_a_length_is_steps_or_a_share_rounded_up(value, horizon, steps):
    assert in_steps(value, horizon) == steps and isinstance(in_steps(value, horizon), int)


@given(share=st.integers(0, 999), horizon=st.integers(1, 10**6))
def test_a_share_is_rounded_up_as_it_is_written(share, horizon):
    assert in_steps(share / 1000, horizon) == -(-share * horizon // 1000)


def test_a_length_has_one_spelling() -> None:
    hashes = [cell_hash(resolve({"training": {"schedule": {"name": "wsd", **values}}})) for values in ({"decay": 100, "warmup": 0.0}, {"decay": 100.0})]
    assert hashes[0] == hashes[1]
    found = make("infinite_cosine", warmup=3.0, cooldown=0.5, hold=7.0, constant=1.0).settings()
    assert [repr(found[k]) for k in ("warmup", "cooldown", "hold", "constant")] == ["3", "0.5", "7", "1.0"]


def test_shares_of_wsd_s_fill_any_horizon() -> None:
    schedule = make("wsd_s", periods=[0.3333, 0.3333, 0.3334])
    for horizon in range(30, 130):
        schedule.check(horizon)
        assert schedule.borders(horizon)[-1] == horizon and schedule.factor(horizon, horizon) == 0


# -- refusals ---------------------------------------------------------------------------------------------------

REFUSED = {
    "warm-up as long as the run": ("cosine", {"warmup": 100}, ["warmup = 100", "100 steps"]),
    "warm-up longer than the run": ("constant", {"warmup": 200}, ["warmup = 200"]),
    "warm-up that is no step": ("cosine", {"warmup": 1.5}, ["warmup = 1.5", "whole number", "below 1"]),
    "decay that is no step": ("wsd", {"decay": 20.5}, ["decay = 20.5", "whole number"]),
    "phases of wsd": ("wsd", {"warmup": 30, "decay": 0.8}, ["decay = 0.8", "warmup 30 + decay 80 = 110", "100"]),
    "phases of infinite": ("infinite_cosine", {"warmup": 30}, ["cooldown = 0.6", "warmup 30 + cooldown 60 + anneal 15 = 105"]),
    "phases of infinite with hold": ("infinite_inverse_sqrt", {"hold": 0.3}, ["cooldown 60 + hold 30 + anneal 15 = 105"]),
    "phases of power": ("power", {"warmup": 0.95}, ["warmup = 0.95", "decay 10 = 105"]),
    "phases of two_stage": ("two_stage", {}, ["drop = 1000", "boundary 40 + drop 1000 + decay 20"]),
    "two_stage within warm-up": ("two_stage", {"boundary": 5, "drop": 5, "warmup": 10}, ["boundary = 5", "at least 10"]),
    "two_stage that rises": ("two_stage", {"drop": 5, "minimum": 0.6}, ["minimum = 0.6", "share = 0.525"]),
    "exponential to zero": ("wsd", {"shape": "exponential"}, ["minimum = 0.0", "> 0"]),
    "inverse linear to zero": ("wsd", {"shape": "inverse_linear"}, ["minimum = 0.0", "> 0"]),
    "periods with an exponential to zero": ("wsd_s", {"shape": "exponential"}, ["minimum = 0.0", "> 0"]),
    "power to zero": ("power", {"minimum": 0.0}, ["minimum = 0.0", "> 0"]),
    "power of less than a token": ("power", {"batch": 1e-6}, ["batch = 1e-06", "one token"]),
    "anneal to zero": ("infinite_cosine", {"minimum": 0.0}, ["minimum = 0.0", "> 0"]),
    "anneal that rises": ("infinite_inverse_sqrt", {"minimum": 0.7}, ["minimum = 0.7", "constant = 0.55"]),
    "phi of zero": ("uba", {"phi": 0.0}, ["phi = 0.0", "> 0"]),
    "milestones that descend": ("step", {"milestones": [0.7, 0.3]}, ["milestones", "ascend"]),
    "no periods": ("wsd_s", {"periods": []}, ["periods = []", "at least one"]),
    "shares that do not add up": ("wsd_s", {"periods": [0.5, 0.4]}, ["periods", "add up to 1", "0.9"]),
    "steps that do not add up": ("wsd_s", {"periods": [50, 40]}, ["periods", "90 steps", "100"]),
    "a period that is no step": ("wsd_s", {"periods": [50.5, 49.5]}, ["periods = 50.5", "whole number"]),
    "a period without a step": ("wsd_s", {"periods": [0.985, 0.001, 0.014]}, ["period 2 has no step"]),
    "a decay longer than a period": ("wsd_s", {"periods": [10, 90], "decay": 20}, ["decay = 20", "period 1"]),
    "warm-up longer than a period": ("wsd_s", {"periods": [10, 90], "decay": 0.5, "warmup": 6}, ["warmup 6 + decay 5 = 11", "period 1"]),
    "multipliers of other periods": ("wsd_s", {"multipliers": [1.0]}, ["multipliers = [1.0]", "2 periods"]),
    "a period longer than the run": ("cyclic", {"period": 101}, ["period = 101", "100"]),
    "triangles with a warm-up": ("cyclic", {"shape": "triangular", "warmup": 3}, ["warmup = 3", "expected 0"]),
    "no table": ("table", {}, ["factors = None", "file"]),
    "a short table": ("table", {"factors": [1.0] * 99}, ["factors", "99 entries", "100"]),
    "a table with a warm-up": ("table", {"factors": [1.0] * 100, "warmup": 3}, ["warmup = 3", "expected 0"]),
    "no norms": ("refined", {}, ["gradient_norms = None", "file"]),
    "too few norms": ("refined", {"gradient_norms": [1.0] * 99}, ["gradient_norms", "99 entries", "100"]),
    "too many norms": ("refined", {"gradient_norms": [1.0] * 101}, ["gradient_norms", "101 entries", "100"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    name, values, words = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        make(name, **values).check(100)
    message = str(caught.value)
    assert message.startswith("training.schedule.") and "\n" not in message
    assert all(word in message for word in words), message


def test_one_norm_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        make("refined", gradient_norms=[1.0]).check(1)


@pytest.mark.parametrize("values", [{"gradient_norms": [1.0, 0.0]}, {"gradient_norms": [1.0, math.inf]}, {"exponent": -3}, {"smoothing": 1.1}])
def test_norms_that_cannot_be_are_refused(values):
    with pytest.raises(UsageError):
        make("refined", **values)


# -- tables in files --------------------------------------------------------------------------------------------

FILES = {
    "list.json": ("[1, 0.5, 0.25]", {}),
    "object.json": ('{"rates": [1, 0.5, 0.25], "name": "x"}', {"column": "rates"}),
    "plain.csv": ("1\n0.5\n\n0.25\n", {}),
    "header.csv": ("factor\n1\n0.5\n0.25\n", {}),
    "columns.csv": ("step, factor\n0,1\n1,0.5\n2,0.25\n", {"column": "factor"}),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_stands_for_its_numbers(file, tmp_path):
    text, column = FILES[file]
    (tmp_path / file).write_text(text)
    path = str(tmp_path / file)
    found, plain = make("table", file=path, **column), make("table", factors=[1.0, 0.5, 0.25])
    assert found.settings() == plain.settings() and found.own_horizon == 3
    norms = make("refined", file=path, **column, smoothing=0.0)
    assert rates(norms, 3) == rates(make("refined", gradient_norms=[1.0, 0.5, 0.25], smoothing=0.0), 3)
    hashes = {cell_hash(resolve({"training": {"schedule": {"name": "table", **values}}})) for values in ({"file": path, **column}, {"factors": [1, 0.5, 0.25]})}
    assert len(hashes) == 1  # where the file lies is not part of what was trained


WRONG_FILES = {
    "missing": ("no.csv", None, {}, ["no.csv", "cannot be read"]),
    "other kind": ("a.txt", "1\n", {}, ["a.txt", ".csv or .json"]),
    "word": ("a.csv", "1\ntwo\n", {}, ["line 2", "'two'"]),
    "infinite": ("a.csv", "1\ninf\n", {}, ["line 2", "'inf'"]),
    "negative": ("a.csv", "1\n-1\n", {}, ["out of bounds", ">= 0"]),
    "empty": ("a.csv", "\n", {}, ["holds no numbers"]),
    "two columns": ("a.csv", "a,b\n1,2\n", {}, ["2 columns", "a, b"]),
    "no such column": ("a.csv", "factor,b\n1,2\n", {"column": "factr"}, ["'factr'", "did you mean 'factor'?"]),
    "no header": ("a.csv", "1,2\n", {"column": "b"}, ["no header"]),
    "short row": ("a.csv", "a,b\n1,2\n1\n", {"column": "b"}, ["line 3", "''"]),
    "not JSON": ("a.json", "[1,", {}, ["not valid JSON"]),
    "no list": ("a.json", '{"a": 1}', {}, ["list of numbers", "column"]),
    "no such key": ("a.json", '{"a": [1]}', {"column": "b"}, ["no key 'b'", "valid: a"]),
    "true": ("a.json", "[1, true]", {}, ["entry 1", "True"]),
    "both": ("a.json", "[1]", {"factors": [1.0]}, ["factors is given too"]),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_in_one_line(case, tmp_path):
    file, text, values, words = WRONG_FILES[case]
    if text is not None:
        (tmp_path / file).write_text(text)
    found = registry.load("schedules", "table")
    with pytest.raises(UsageError) as caught:
        found.validated({"file": str(tmp_path / file), **values}, "training.schedule")
    message = str(caught.value)
    assert message.startswith("training.schedule.file = ") and "\n" not in message
    assert all(word in message for word in words), message


def test_a_column_without_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match="column = 'a' is not valid"):
        make("table", factors=[1.0], column="a")


# -- plug-ins ---------------------------------------------------------------------------------------------------


def test_a_schedule_of_ones_own_needs_one_function() -> None:
    class Square(Schedule):
        def decay(self, z):
            return 1 - z * z

    class Alternating(Schedule):
        def factor(self, step, horizon):
            return 1.0 if step % 2 else 0.5

    square = Square(warmup=0.1)
    square.check(20)
    assert rates(square, 20) == pytest.approx([0.5, 1, *(1 - (k / 18) ** 2 for k in range(19))])
    assert square.factor(30, 20) == 0 and square.decay_start(20) is None and not square.is_constant
    Alternating().check(4)
    assert rates(Alternating(), 4) == [0.5, 1, 0.5, 1, 0.5]
    with pytest.raises(ValueError, match="'Square' has no final decay"):
        square.before_decay(20)


# -- properties -------------------------------------------------------------------------------------------------

SHAPES = st.sampled_from(SHAPE_NAMES)
UNIT, FLOOR = st.floats(0, 1), st.floats(1e-3, 0.5)
FALLING = st.one_of(
    st.builds(lambda m: ("cosine", {"minimum": m}), UNIT),
    st.builds(lambda m: ("linear", {"minimum": m}), UNIT),
    st.builds(lambda m: ("rex", {"minimum": m}), UNIT),
    st.builds(lambda m, phi: ("uba", {"minimum": m, "phi": phi}), UNIT, st.floats(1e-3, 50)),
    st.builds(lambda m, p: ("cosine_power", {"minimum": m, "p": p}), UNIT, st.floats(1e-3, 1e3)),
    st.builds(lambda t: ("inverse_sqrt", {"timescale": t}), st.integers(1, 10**5)),
    st.builds(lambda m, s, d: ("wsd", {"minimum": m, "shape": s, "decay": d}), FLOOR, SHAPES, st.floats(0, 0.6)),
    st.builds(lambda m, c, h: ("infinite_cosine", {"minimum": m, "constant": c, "cooldown": h}), FLOOR, st.floats(0.5, 1), st.floats(0, 0.4)),
    st.builds(lambda m, c, t: ("infinite_inverse_sqrt", {"minimum": m, "constant": c, "timescale": t}), FLOOR, st.floats(0.5, 1), st.floats(0.01, 1e3)),
    st.builds(lambda a, b, s: ("power", {"batch": a, "b": b, "shape": s}), st.floats(0.01, 1e3), st.floats(-2, -0.01), SHAPES),
    st.builds(lambda m, s, d: ("two_stage", {"minimum": m, "share": s, "drop": d}), FLOOR, st.floats(0.5, 1), st.floats(0, 0.3)),
)


@settings(max_examples=300, deadline=None)
@given(case=FALLING, horizon=st.integers(40, 400), warmup=st.one_of(st.integers(0, 8), st.floats(0, 0.2)))
def test_falling_schedules_fall_within_0_and_the_peak(case, horizon, warmup):
    name, values = case
    schedule = make(name, **values, warmup=0.0 if name == "power" else warmup)
    schedule.check(horizon)
    found = rates(schedule, horizon)
    steps = in_steps(schedule.warmup, horizon)
    assert all(-1e-12 <= f <= 1 + 1e-12 for f in found)
    assert found[:steps] == sorted(found[:steps])
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(found[steps:]))


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(5, 60), min_size=1, max_size=4),
    decay=st.floats(0, 0.8),
    data=st.data(),
    shape=SHAPES,
    minimum=FLOOR,
)
def test_wsd_s_stays_below_the_peak_of_each_period(lengths, decay, data, shape, minimum):
    multipliers = data.draw(st.lists(st.floats(0.1, 3), min_size=len(lengths), max_size=len(lengths)))
    schedule = make("wsd_s", periods=lengths, decay=decay, multipliers=multipliers, shape=shape, minimum=minimum)
    horizon = sum(lengths)
    schedule.check(horizon)
    found, start = rates(schedule, horizon), 0
    for length, top in zip(lengths, multipliers, strict=True):
        period = found[start : start + length]
        assert period[0] == pytest.approx(top) and all(top * minimum - 1e-12 <= f <= top + 1e-12 for f in period)
        assert all(b <= a + 1e-12 for a, b in itertools.pairwise(period))
        start += length
    if decay:
        assert found[-1] == pytest.approx(multipliers[-1] * minimum)


@settings(max_examples=100, deadline=None)
@given(shape=st.sampled_from(["cosine", "triangular"]), period=st.integers(1, 50), multiplier=st.floats(1, 4), minimum=UNIT, horizon=st.integers(50, 300))
def test_cycles_stay_between_minimum_and_peak(shape, period, multiplier, minimum, horizon):
    schedule = make("cyclic", shape=shape, period=period, multiplier=multiplier, minimum=minimum)
    schedule.check(horizon)
    assert all(minimum - 1e-12 <= f <= 1 + 1e-12 for f in rates(schedule, horizon))


# -- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """`clsuite show schedule ...` in an empty folder: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as left:
            main(["show", "schedule", *argv])
        out, err = capsys.readouterr()
        return left.value.code, out, err.splitlines()

    return run


@each
def test_every_schedule_can_be_shown(call, name, values):
    items = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    code, out, err = call(name, *items, f"steps={HORIZON}", "learning_rate=2.0e-3", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, [])
    assert list(shown)[:5] == ["name", "settings", "horizon", "learning_rate", "rates"]
    schedule = make(name, **values)
    assert [*shown["rates"], shown["after"]] == pytest.approx([2e-3 * f for f in rates(schedule, HORIZON)], rel=1e-12)
    assert (shown["horizon"], shown["decay_start"]) == (HORIZON, schedule.decay_start(HORIZON))
    code, out, err = call(name, *items, f"steps={HORIZON}")
    lines = out.splitlines()
    assert (code, err) == (0, []) and name in lines[0] and f"{HORIZON} steps" in lines[0] and "*" in out
    assert len(lines[0]) < 400 and all(ord(c) < 128 for c in out)


def test_a_shown_schedule_can_be_read_as_a_table(call, tmp_path):
    out = call("wsd", "horizon=50", "warmup=4", "--json")[1]
    (tmp_path / "wsd.json").write_text(out)
    shown = json.loads(call("table", "file=wsd.json", "column=rates", "--json")[1])
    assert shown["rates"] == json.loads(out)["rates"] and shown["horizon"] == 50  # as long as its table


def test_the_power_law_is_shown_in_its_own_units(call):
    shown = json.loads(call("power", "batch=8", "tokens_per_step=100000", "decay=0", "steps=1001", "--json")[1])
    assert shown["learning_rate"] == 0.02
    assert [shown["rates"][k] for k in (100, 1000)] == pytest.approx([0.008613, 0.002662], abs=1e-6)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["wsd", "decay=0.9", "warmup=200"], ["training.schedule.decay = 0.9", "do not fit", "1000"]),
        (["wsd", "shape=sqare"], ["shape", "did you mean 'square'?"]),
        (["cosine", "warmup=-1"], ["warmup = -1", ">= 0"]),
        (["wsd", "steps=0"], ["steps = 0"]),
        (["wsd", "steps=10", "horizon=10"], ["steps = 10", "horizon = 10"]),
        (["uba", "phi=0"], ["phi = 0.0"]),
        (["table", "file=none.csv"], ["none.csv", "cannot be read"]),
    ],
)
def test_a_schedule_that_cannot_be_is_not_shown(call, tmp_path, argv, words):
    code, out, err = call(*argv)
    assert (code, out, len(err)) == (2, "", 1) and all(word in err[0] for word in words), err
    assert not list(tmp_path.iterdir())
