"""What every learning-rate schedule promises, by example and by property."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clsuite.experiment.identity import cell_hash
from clsuite.experiment.spec import resolve
from clsuite.schedule import Constant, Schedule, in_steps, rates

from .schedule_cases import HORIZON, NO_WARMUP, SHAPE_NAMES, each, make

pytestmark = pytest.mark.unit


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
