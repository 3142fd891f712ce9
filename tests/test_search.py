"""Search spaces and the samplers that draw from them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.samplers import BATCH, SAMPLERS, trials
from clsuite.experiment.space import Dimension, Space, searched
from clsuite.settings import Configurable, Span, setting

pytestmark = pytest.mark.unit


class Part(Configurable):
    rate: float = setting(0.1, gt=0, le=1, search=Span(0.001, 1.0, log=True))
    size: int = setting(10, ge=1, search=[10, 20, 40])
    kind: Literal["a", "b"] = setting("a", search=["a", "b"])
    plain: float = setting(0.5, ge=0)
    steps: int | None = setting(None, ge=1, le=100)


def space(**given) -> Space:
    return Space(tuple(searched(Part, "strategy", given=given)))


def test_a_component_brings_the_ranges_it_declares():
    assert [d.path for d in space().dimensions] == ["strategy.rate", "strategy.size", "strategy.kind"]


def test_fixed_settings_are_not_searched_and_null_keeps_the_default():
    assert [d.path for d in searched(Part, "strategy", fixed=["size"], given={"kind": None})] == ["strategy.rate"]


def test_only_named_settings_are_searched_when_asked():
    assert [d.path for d in searched(Part, "training", given={"size": [1, 2]}, named_only=True)] == ["training.size"]


def test_quantiles_map_to_equal_shares_of_a_list():
    dimension = Dimension("x", (10, 20, 40))
    assert [dimension.value(q) for q in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999999)] == [10, 10, 20, 20, 40, 40]


def test_a_logarithmic_span_has_its_geometric_mean_in_the_middle():
    dimension = Dimension("x", Span(0.001, 1.0, log=True))
    assert dimension.value(0.0) == pytest.approx(0.001)
    assert dimension.value(0.5) == pytest.approx(math.sqrt(0.001), rel=1e-5)


def test_whole_numbers_own_equal_shares_and_stay_within_the_span():
    dimension = Dimension("x", Span(1, 4), whole=True)
    counts = Counter(dimension.value((k + 0.5) / 4000) for k in range(4000))
    assert counts == {1: 1000, 2: 1000, 3: 1000, 4: 1000}
    assert {type(dimension.value(q)) for q in (0.0, 0.5, 0.9999)} == {int}
    assert Dimension("x", Span(1, 4, log=True), whole=True).value(1.0) == 4


@pytest.mark.parametrize(
    "given, said",
    [
        ({"rte": [0.1]}, "did you mean 'rate'"),
        ({"rate": []}, "strategy.rate is empty"),
        ({"rate": [0.1, 0.1]}, "has a value twice"),
        ({"rate": [0.1, 2.0]}, "strategy.rate = 2.0 is out of bounds"),
        ({"rate": {"low": 0.1, "high": 3.0}}, "strategy.rate = 3.0 is out of bounds"),
        ({"rate": {"low": 0.0, "high": 0.5, "log": True}}, "expected low < high"),
        ({"rate": {"low": 0.5, "high": 0.1}}, "expected low < high"),
        ({"rate": {"low": 0.1, "high": math.inf}}, "expected low < high"),
        ({"rate": {"low": 0.1, "hihg": 1}}, "is not valid"),
        ({"rate": "wide"}, "is not valid"),
        ({"size": ["big"]}, "expected a whole number"),
        ({"size": [10.5]}, "expected a whole number"),
        ({"kind": {"low": 0, "high": 1}}, "expected one of a, b"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_range_that_cannot_be_searched_is_refused(given, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        searched(Part, "strategy", given=given)


def test_a_value_and_a_range_together_are_refused():
    with pytest.raises(UsageError, match="both a value and a search range"):
        searched(Part, "strategy", fixed=["rate"], given={"rate": [0.1]})


def test_the_digest_tells_spaces_apart_and_only_those():
    assert space().digest == space().digest
    others = [space(size=[10, 20]), space(kind=None), space(rate={"low": 0.001, "high": 1.0}), space(rate=[0.001, 1.0])]
    assert len({space().digest, *(s.digest for s in others)}) == 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_trials_extend_the_search_and_change_none(sampler):
    found = space(rate=[0.1, 0.2, 0.3, 0.4])
    scores = [((7 * k) % 5) / 5 for k in range(24)]
    first, longer = trials(sampler, 0, found, 12, scores), trials(sampler, 0, found, 24, scores)
    assert len(first) == 12 and len(longer) == 24 and longer[:12] == first


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides_the_trials(sampler):
    found = space(rate=[0.1, 0.2, 0.3, 0.4])
    assert trials(sampler, 0, found, 8, [0.0] * 8) == trials(sampler, 0, found, 8, [0.0] * 8) != trials(sampler, 1, found, 8, [0.0] * 8)


def test_sobol_is_scipys_scrambled_sequence_by_index():
    from scipy.stats import qmc

    from clsuite.randomness import generator

    points = qmc.Sobol(3, scramble=True, rng=generator("sobol", 5)).fast_forward(7).random(1)[0]
    assert trials("sobol", 5, space(), 8)[7] == space().values(points)


def test_sobol_covers_every_category_evenly():
    counts = Counter(t["strategy.kind"] for t in trials("sobol", 0, space(), 16))
    assert counts == {"a": 8, "b": 8}  # a net in base 2 balances halves exactly


def test_the_grid_visits_every_point_once_in_a_shuffled_order():
    found = space(rate=[0.1, 0.2])
    points = trials("grid", 0, found, 100)
    assert len(points) == found.size == 12 and len({tuple(p.values()) for p in points}) == 12
    assert [p["strategy.rate"] for p in points] != sorted(p["strategy.rate"] for p in points)


def test_the_grid_refuses_a_continuous_range():
    with pytest.raises(UsageError, match=r"grid.*strategy\.rate"):
        trials("grid", 0, space(), 4)


def test_tpe_waits_for_a_whole_batch_and_ignores_scores_of_the_running_one():
    assert len(trials("tpe", 0, space(), 32)) == BATCH
    assert len(trials("tpe", 0, space(), 32, [0.5] * (BATCH - 1))) == BATCH
    full = trials("tpe", 0, space(), 32, [0.5] * BATCH)
    assert len(full) == 2 * BATCH
    assert trials("tpe", 0, space(), 32, [0.5] * BATCH + [0.9]) == full


def test_tpe_searches_where_scores_are_high_and_survives_failed_trials():
    found = Space((Dimension("x", Span(0.0, 1.0)),))
    scores: list[float] = []
    while len(scores) < 60:
        points = trials("tpe", 0, found, 60, scores)
        scores += [-abs(p["x"] - 0.7) if p["x"] < 0.9 else -math.inf for p in points[len(scores) :]]
    late = [p["x"] for p in trials("tpe", 0, found, 60, scores)[30:]]
    uniform = sum(abs(x / 30 - 0.7) for x in range(30)) / 30
    assert sum(abs(x - 0.7) for x in late) / len(late) < uniform / 2


def test_a_strategy_without_anything_to_search_has_one_trial():
    for sampler in SAMPLERS:
        assert trials(sampler, 0, Space(()), 16) == [{}]
