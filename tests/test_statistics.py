"""Statistics: cases computed by hand, published quantiles, other implementations, and how often the intervals hold the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clsuite.errors import UsageError
from clsuite.experiment import statistics as s

pytestmark = pytest.mark.unit
nan, inf = math.nan, math.inf
T_975 = {1: 12.706205, 2: 4.302653, 4: 2.776445, 9: 2.262157, 18: 2.100922}
"""Published quantiles of Student's t by degrees of freedom."""

number = st.floats(-1e6, 1e6).map(lambda v: round(v, 3) + 0.0)  # without a negative zero
by_seed = st.dictionaries(st.integers(0, 9), number)
some = settings(max_examples=60, deadline=None)


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def draws(n: int, samples: int) -> np.ndarray:
    """Samples of a normal variable with mean 5 and standard deviation 2."""
    return np.random.default_rng(n).normal(5, 2, size=(samples, n))


def coverage(samples: np.ndarray) -> float:
    found = [s.estimate(row.tolist()) for row in samples]
    return sum(e.low <= 5 <= e.high for e in found) / len(found)


# ---- one strategy


@pytest.mark.parametrize("n", [2, 3, 5, 10, 19])
def test_below_twenty_seeds_the_interval_is_students(n):
    values = [float(k) for k in range(n)]  # variance of 0..n-1 is n (n + 1) / 12
    found = s.estimate(values)
    assert (found.mean, found.n) == (pytest.approx((n - 1) / 2), n)
    assert found.spread == pytest.approx(math.sqrt(n * (n + 1) / 12))
    half = T_975[n - 1] * math.sqrt((n + 1) / 12)
    assert (found.mean - found.low, found.high - found.mean) == (pytest.approx(half, rel=1e-6), pytest.approx(half, rel=1e-6))


def test_from_twenty_seeds_the_interval_is_a_bootstrap():
    symmetric = [float(k) for k in range(-12, 13)]
    found = s.estimate(symmetric)
    normal = 1.959964 * math.sqrt(np.var(symmetric) / 25)  # the bootstrap's own variance divides by n
    assert found.high == pytest.approx(normal, rel=0.05)
    assert found.low == pytest.approx(-normal, rel=0.05)
    skewed = s.estimate([math.exp(k / 4) for k in range(20)])  # Student's interval would be symmetric
    assert skewed.high - skewed.mean > 1.1 * (skewed.mean - skewed.low)


def test_without_seeds_all_is_nan_and_with_one_the_interval_is():
    none, one = s.estimate([]), s.estimate([0.5])
    assert none.n == 0
    assert all(math.isnan(v) for v in (none.mean, none.spread, none.low, none.high))
    assert (one.mean, one.n) == (0.5, 1)
    assert all(math.isnan(v) for v in (one.spread, one.low, one.high))


@pytest.mark.parametrize("n", [2, 3, 19, 20, 25])
def test_equal_values_have_no_spread_and_an_interval_of_no_width(n):
    assert s.estimate([0.1] * n) == s.Estimate(0.1, 0.0, 0.1, 0.1, n)  # 0.1 is not a binary fraction: sums of it round


def test_values_that_differ_by_rounding_alone_still_have_an_interval():
    found = s.estimate([0.1] * 24 + [float(np.nextafter(0.1, 1))])
    assert 0.1 - 1e-15 < found.low <= found.high < 0.1 + 1e-15


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize(
    "function",
    [
        s.estimate,
        s.interquartile_mean,
        lambda v: s.paired(seeds(*v), seeds(*v)),
        lambda v: s.welch(v, [1.0, 2.0]),
        lambda v: s.probability_of_improvement([1.0, 2.0], v),
        lambda v: s.compare_all({"a": seeds(*v), "b": seeds(*v)}),
        lambda v: s.trend({0: v}),
    ],
)
def test_what_is_no_number_is_refused(function, bad):
    with pytest.raises(UsageError, match=f"value {bad} is not valid"):
        function([0.1, bad, 0.2])


@some
@given(st.lists(number, max_size=24), st.randoms())
def test_the_order_of_seeds_never_matters(values, random):
    shuffled = random.sample(values, len(values))
    assert str(s.estimate(shuffled)) == str(s.estimate(values))  # text, since NaN is no equal of itself
    assert str(s.interquartile_mean(shuffled)) == str(s.interquartile_mean(values))
    assert str(s.probability_of_improvement(shuffled, values[:5])) == str(s.probability_of_improvement(values, values[:5]))


@pytest.mark.parametrize("n", [5, 25])
def test_an_interval_follows_the_unit_of_its_values(n):
    values = draws(n, 1)[0]
    found, scaled = s.estimate(values.tolist()), s.estimate((1000 * values + 1e6).tolist())
    assert (scaled.low, scaled.high) == (pytest.approx(1000 * found.low + 1e6), pytest.approx(1000 * found.high + 1e6))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_students_interval_holds_the_true_mean_in_95_percent_of_experiments(n):
    assert coverage(draws(n, 2500)) == pytest.approx(0.95, abs=0.02)


def test_the_bootstrap_holds_the_true_mean_in_at_least_90_percent_of_experiments_from_twenty_seeds_on():
    assert coverage(draws(20, 300)) >= 0.9
    assert coverage(draws(30, 300)) >= 0.9


@pytest.mark.parametrize(("n", "published"), [(3, 0.75), (5, 0.85)])
def test_a_bootstrap_of_few_seeds_would_promise_too_much(monkeypatch, n, published):
    monkeypatch.setattr(s, "BOOTSTRAP_FROM", 2)
    assert coverage(draws(n, 1000)) == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # of eight, two at each end are cut: 3 4 5 6
        ([0, 1, 2, 3, 1000], 2),  # of five, one (1.25 rounded down)
        ([1, 2, 6], 3),  # of three, none
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values, mean):
    found = s.interquartile_mean(values)
    assert found.mean == pytest.approx(mean)
    assert (found.mean, found.n) == (pytest.approx(stats.trim_mean(values, 0.25)), len(values))


def test_the_interquartile_mean_has_an_interval_from_four_values_on():
    assert math.isnan(s.interquartile_mean([1, 2, 3]).low)
    four = s.interquartile_mean([1, 2, 3, 4])
    assert 1 <= four.low < four.mean < four.high <= 4
    assert s.interquartile_mean([0.1] * 4) == s.Estimate(0.1, 0.0, 0.1, 0.1, 4)
    assert s.interquartile_mean([]).n == 0


def test_one_failed_seed_does_not_move_the_interquartile_mean():
    good = [0.7, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77]
    assert s.interquartile_mean([0.1, *good[1:]]).mean == pytest.approx(s.interquartile_mean(good).mean)


# ---- two strategies


def test_pairs_are_the_seeds_both_have():
    found = s.paired({0: 0.9, 1: 0.8, 2: 0.7, 7: 0.0}, {2: 0.4, 1: 0.6, 0: 0.8, 9: 1.0})  # differences .1 .2 .3
    assert (found.mean, found.spread, found.n) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    assert found.low == pytest.approx(0.2 - T_975[2] * 0.1 / math.sqrt(3), rel=1e-6)
    assert s.paired({0: 1.0}, {1: 1.0}).n == 0


@some
@given(by_seed, by_seed)
def test_a_paired_difference_changes_its_sign_with_its_sides(a, b):
    forth, back = s.paired(a, b), s.paired(b, a)
    assert forth.n == back.n == len(a.keys() & b.keys())
    turned = pytest.approx([-back.mean, -back.high, -back.low, back.spread], abs=1e-6, nan_ok=True)
    assert [forth.mean, forth.low, forth.high, forth.spread] == turned


@pytest.mark.parametrize(
    ("a", "b", "error", "freedom"),
    [
        ([1, 2, 3], [4, 6, 5], math.sqrt(1 / 3 + 1 / 3), 4),  # equal variances and sizes: 2 (n - 1)
        ([1, 2, 3], [5, 5, 5, 5], math.sqrt(1 / 3), 2),  # a side without variance: n - 1 of the other
    ],
)
def test_welchs_interval_by_hand(a, b, error, freedom):
    found = s.welch(a, b)
    assert (found.mean, found.n) == (pytest.approx(2 - 5), 3)
    assert (found.low, found.high) == (pytest.approx(-3 - T_975[freedom] * error, rel=1e-6), pytest.approx(-3 + T_975[freedom] * error, rel=1e-6))


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, where a side is constant
@some
@given(st.lists(number, min_size=2, max_size=30), st.lists(number, min_size=2, max_size=30))
def test_welchs_interval_agrees_with_scipys(a, b):
    found = s.welch(a, b)
    if np.ptp(a) + np.ptp(b) < 0.001:
        return  # scipy divides by zero
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=1e-6, abs=1e-6), pytest.approx(expected.high, rel=1e-6, abs=1e-6))


def test_welchs_interval_needs_two_values_a_side():
    assert math.isnan(s.welch([1, 2, 3], [2]).low)
    assert s.welch([1, 2, 3], [2]).mean == 0
    assert s.welch([], [1, 2]).n == 0
    assert s.welch([0.1] * 3, [0.2] * 3) == s.Estimate(0.1 - 0.2, 0.0, 0.1 - 0.2, 0.1 - 0.2, 3)


def test_the_probability_of_improvement_counts_cross_pairs_and_halves_ties():
    assert s.probability_of_improvement([1, 2, 3], [2, 2]).probability == pytest.approx((0 + 1 + 2) / 6)
    assert s.probability_of_improvement([5, 6], [1, 2]).probability == 1
    assert s.probability_of_improvement([1, 1], [1]).probability == 0.5
    assert math.isnan(s.probability_of_improvement([], [1]).probability)


@some
@given(st.lists(number, min_size=1, max_size=12), st.lists(number, min_size=1, max_size=12))
def test_the_probability_of_improvement_is_mann_whitneys_u(a, b):
    found, back = s.probability_of_improvement(a, b), s.probability_of_improvement(b, a)
    assert found.probability == pytest.approx(stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))
    assert found.probability + back.probability == pytest.approx(1)


def test_the_interval_of_a_probability_resamples_each_side_by_itself():
    a, b = np.linspace(0, 1, 50), np.linspace(0.001, 1.001, 50)
    found = s.probability_of_improvement(a.tolist(), b.tolist())
    error = math.sqrt(101 / (12 * 50 * 50))  # of U / (n m) for two samples of one distribution (Mann and Whitney 1947)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found == s.probability_of_improvement(a.tolist(), b.tolist())
    assert math.isnan(s.probability_of_improvement([1, 2, 3], [1, 2, 3, 4]).low)


# ---- all pairs of strategies


def p_of(*differences: float) -> float | None:
    (found,) = s.compare_all({"a": seeds(*differences), "b": seeds(*[0.0] * len(differences))})
    return found.p


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([-1, -2, -3, -4, -5, -6], 2 / 64),
        ([-1, -2, 3, 4, 5, 6, 7, 8], 2 * 5 / 256),  # sum of the negative ranks 3: {} {1} {2} {3} {1 2} are as extreme
        ([-1, 1, 1, 2, 2, 3], 2 * 4 / 64),  # ranks 2 2 2 4.5 4.5 6: {} and three single ones
        ([0, 1, 2, 3, 4, 5], 2 / 32),  # a seed without a difference is left out
        ([0, *range(1, 21)], 2 / 2**20),
        ([0, 0, 0, 0, 0, 0], 1),
        ([0, 0, 0, 0, 0, 1], 1),
    ],
)
def test_the_signed_rank_test_is_exact(differences, p):
    assert p_of(*differences) == pytest.approx(p)


def test_below_six_pairs_there_is_no_p_value():
    assert p_of(1, 2, 3, 4, 5) is None


@pytest.mark.parametrize("n", [6, 9, 12, 50])
def test_the_smallest_p_value_of_n_pairs_is_two_in_two_to_the_n(n):
    assert p_of(*range(1, n + 1)) == pytest.approx(2 / 2**n)


def test_rounding_of_floating_point_numbers_breaks_no_ties():
    a, b = seeds(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), seeds(0.0, 0.1, 0.2, 0.3, 0.4, 0.7)
    (found,) = s.compare_all({"a": a, "b": b})
    assert found.p == pytest.approx(2 * 7 / 64)  # six ranks of 3.5: {} and six single ones
    (found,) = s.compare_all({"a": seeds(*[0.1 + 0.2] * 6), "b": seeds(*[0.3] * 6)})
    assert found.p == 1


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # times 4 3 2 1; the largest, .04, may not fall below .06
        ([0.01, 0.04, 0.20, 0.03, 0.005, 0.07], [0.05, 0.12, 0.20, 0.12, 0.03, 0.14]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(given, corrected):
    assert s.holm(given) == pytest.approx(corrected)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms())
def test_holms_correction_keeps_the_order_and_lies_between_p_and_bonferroni(p_values, random):
    found = s.holm(p_values)
    assert all(p <= c <= min(1, len(p_values) * p) for p, c in zip(p_values, found, strict=True))
    ordered = [c for _, c in sorted(zip(p_values, found, strict=True))]
    assert ordered == sorted(ordered)
    places = random.sample(range(len(found)), len(found))
    assert s.holm([p_values[k] for k in places]) == [found[k] for k in places]


@pytest.mark.parametrize("p", [nan, -0.1, 1.1])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(UsageError, match=r"expected 0\.\.1"):
        s.holm([0.1, p])


@pytest.mark.parametrize(("comparisons", "pairs"), [(7, 9), (28, 11)])
def test_holm_over_7_comparisons_needs_9_pairs_and_over_28_needs_11(comparisons, pairs):
    reaches = [min(s.holm([p_of(*range(1, n + 1)) or 1.0] + [1.0] * (comparisons - 1))) <= 0.05 for n in (pairs - 1, pairs)]
    assert reaches == [False, True]


def test_all_pairs_are_compared_over_the_seeds_they_share():
    scores = {"a": seeds(*[0.5 + k / 100 for k in range(8)]), "b": seeds(*[0.4] * 7), "c": seeds(0.1, 0.2, 0.9)}
    ab, ac, bc = s.compare_all(scores)
    assert [(c.a, c.b, c.n) for c in (ab, ac, bc)] == [("a", "b", 7), ("a", "c", 3), ("b", "c", 3)]
    assert ab.difference.mean == pytest.approx(0.13)
    assert (ab.p, ab.p_holm) == (pytest.approx(2 / 128), pytest.approx(2 / 128))  # the only one that has a p-value
    assert (ac.p, ac.p_holm) == (None, None)
    assert (ab.probability, ac.probability) == (1, pytest.approx(6 / 9))
    assert (ab.improvement.n_a, ab.improvement.n_b) == (7, 7)
    assert s.compare_all({"a": seeds(1.0)}) == []


def test_p_values_are_corrected_over_the_comparisons_that_have_one():
    scores = {"a": seeds(*range(10, 16)), "b": seeds(0, 0, 0, 0, 0, 0), "c": seeds(9, 9, 9, 9, 9, 9), "few": seeds(1, 2)}
    found = {(c.a, c.b): c.p_holm for c in s.compare_all(scores)}
    assert [found[pair] for pair in (("a", "b"), ("a", "c"), ("b", "c"))] == pytest.approx([3 * 2 / 64] * 3)
    assert [found[pair] for pair in found if "few" in pair] == [None] * 3


@some
@given(st.fixed_dictionaries({"a": by_seed, "b": by_seed, "c": by_seed}))
def test_comparisons_turn_round_with_their_sides(scores):
    forth = {(c.a, c.b): c for c in s.compare_all(scores)}
    back = {(c.b, c.a): c for c in s.compare_all(dict(reversed(scores.items())))}
    assert forth.keys() == back.keys()
    for pair, c in forth.items():
        assert c.difference.mean == pytest.approx(-back[pair].difference.mean, nan_ok=True)
        assert (c.p, c.p_holm) == (pytest.approx(back[pair].p), pytest.approx(back[pair].p_holm))
        assert c.probability == pytest.approx(1 - back[pair].probability, nan_ok=True)


# ---- orders


def test_ranks_start_at_one_for_the_best_and_ties_share_theirs():
    scores = {"a": 0.7, "b": 0.9, "c": 0.7, "d": -inf}
    assert s.ranks(scores) == {"b": 1, "a": 2.5, "c": 2.5, "d": 4}
    assert s.ranks(scores, higher_is_better=False) == {"d": 1, "a": 2.5, "c": 2.5, "b": 4}
    assert s.ranks({}) == {}
    with pytest.raises(UsageError, match="value nan"):
        s.ranks({"a": nan})


@pytest.mark.parametrize(
    ("a", "b", "tau", "p"),
    [
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6, 8 / 24),  # 5 concordant, 1 not; 1 + 3 orders have at most one inversion, as many at least five
        ([1, 2, 2, 3], [1, 2, 3, 4], 5 / math.sqrt(5 * 6), 4 / 24),  # one tie; two orders agree throughout, two disagree
        ([1, 2, 3], [3, 2, 1], -1, 2 / 6),
        ([1, 2], [1, 2], 1, 1),
        (list(range(9)), list(range(9)), 1, 2 / math.factorial(9)),
        ([-inf, 1, 2], [0, 1, 2], 1, 2 / 6),
    ],
)
def test_kendalls_tau_by_hand(a, b, tau, p):
    found = s.kendall_tau(dict(zip("abcdefghi", a, strict=False)), dict(zip("abcdefghi", b, strict=False)))
    assert (found.tau, found.p, found.n) == (pytest.approx(tau), pytest.approx(p), len(a))


def test_kendalls_tau_takes_the_names_both_have():
    assert s.kendall_tau({"a": 1, "b": 2, "c": 9}, {"b": 5, "a": 3, "d": 0}) == s.RankAgreement(1.0, 1.0, 2)


@pytest.mark.parametrize(("a", "b", "n"), [({}, {}, 0), ({"a": 1}, {"a": 2}, 1), ({"a": 1, "b": 1}, {"a": 1, "b": 2}, 2)])
def test_kendalls_tau_is_undefined_below_two_names_and_for_a_constant_side(a, b, n):
    assert s.kendall_tau(a, b) == s.RankAgreement(None, None, n)


@some
@given(st.permutations(range(7)))
def test_without_ties_the_p_value_of_tau_is_scipys_exact_one(order):
    names = "abcdefg"
    found = s.kendall_tau(dict(zip(names, range(7), strict=True)), dict(zip(names, order, strict=True)))
    expected = stats.kendalltau(range(7), order, method="exact")
    assert (found.tau, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))


# ---- profiles and trends


def test_a_performance_profile_by_hand():
    scores = {
        "a": {0: 0.9, 1: 0.9, 2: 0.5, 3: 0.1},  # reaches .8 on seeds 0 and 1
        "b": {0: 0.8, 1: 0.7, 2: 0.9, 3: 0.1},  # on 0 and 2
        "c": {0: 0.9, 1: 0.9, 2: 0.9},  # on 0, 1 and 2; seed 3 failed. Nobody reaches seed 3
    }
    costs = {"a": {0: 10, 1: 30, 2: 1, 3: 1}, "b": {0: 20, 1: 1, 2: 10, 3: 1}, "c": {0: 40, 1: 30, 2: 20}}
    # least costs 10, 30, 10: a 1 1 -, b 2 - 1, c 4 1 2
    found = s.performance_profile(scores, costs, 0.8, [1, 2, 4, inf])
    assert found == {"a": [0.5, 0.5, 0.5, 0.5], "b": [0.25, 0.5, 0.5, 0.5], "c": [0.25, 0.5, 0.75, 0.75]}


def test_a_profile_of_losses_reaches_its_target_from_above():
    losses = {"a": seeds(1.0, 3.0), "b": seeds(2.5, 1.5)}
    ones = {"a": seeds(1.0, 1.0), "b": seeds(1.0, 1.0)}
    assert s.performance_profile(losses, ones, 2.0, [1], higher_is_better=False) == {"a": [0.5], "b": [0.5]}


def test_a_ratio_holds_in_spite_of_rounding_and_of_a_cost_of_zero():
    reached = {"a": seeds(1.0), "b": seeds(1.0)}
    assert s.performance_profile(reached, {"a": seeds(0.1), "b": seeds(0.1 + 0.2)}, 1.0, [2.9, 3])["b"] == [0, 1]
    assert s.performance_profile(reached, {"a": seeds(0.0), "b": seeds(5.0)}, 1.0, [1, 1e9, inf]) == {"a": [1, 1, 1], "b": [0, 0, 1]}
    assert math.isnan(s.performance_profile({"a": {}}, {"a": {}}, 1.0, [1])["a"][0])


@pytest.mark.parametrize("costs", [{}, {"a": {}}, {"a": {0: nan}}, {"a": {0: -1.0}}, {"a": {0: inf}}])
def test_a_score_without_a_cost_is_refused(costs):
    with pytest.raises(UsageError, match="cost of a, seed 0"):
        s.performance_profile({"a": {0: 1.0}}, costs, 0.5, [1])


@some
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.integers(0, 5), st.tuples(st.floats(0, 1), st.integers(1, 99)), min_size=1), min_size=1))
def test_profiles_never_fall_and_somebody_is_cheapest_where_somebody_arrives(runs):
    scores, costs = ({name: {k: v[place] for k, v in own.items()} for name, own in runs.items()} for place in (0, 1))
    found = s.performance_profile(scores, costs, 0.5, [1, 2, 4, inf])
    assert all(0 <= low <= high <= 1 for shares in found.values() for low, high in itertools.pairwise(shares))
    arrived = {k for own in scores.values() for k, v in own.items() if v >= 0.5}
    everyone = {k for own in scores.values() for k in own}
    assert sum(shares[0] for shares in found.values()) >= len(arrived) / len(everyone) - 1e-9


def test_a_slope_by_hand():
    assert s.slope([1, 2, 2, 5]) == pytest.approx(6 / 5)  # x - 1.5: -1.5 -.5 .5 1.5; y - 2.5: -1.5 -.5 -.5 2.5
    assert s.slope([1, None, 5, None]) == pytest.approx(2)  # a missing point keeps its place
    assert s.slope([None, 3]) is None
    assert s.slope([]) is None


def test_a_trend_is_the_mean_slope_over_seeds_that_have_one():
    found = s.trend({0: [0, 1, 2], 1: [1, None, 5], 2: [None, 3, None]})
    assert (found.mean, found.n) == (pytest.approx(1.5), 2)
    assert found.high == pytest.approx(1.5 + T_975[1] * math.sqrt(0.5) / math.sqrt(2), rel=1e-6)
    assert s.trend({}).n == 0


@some
@given(st.lists(st.one_of(st.none(), number), min_size=2, max_size=8).filter(lambda c: sum(v is not None for v in c) > 1))
def test_a_slope_is_that_of_scipys_regression(curve):
    points = [(k, v) for k, v in enumerate(curve) if v is not None]
    assert s.slope(curve) == pytest.approx(stats.linregress(*zip(*points, strict=True)).slope, abs=1e-6)


# ---- optimism


def test_optimism_is_the_sum_of_its_parts():
    # reported .80; its settings .70 .74 .72 on fresh seeds, the frozen ones .70 each; seed 9 has no partner
    found = s.optimism(0.80, {0: 0.70, 1: 0.74, 2: 0.72, 9: 0.1}, {0: 0.70, 1: 0.70, 2: 0.70})
    assert (found.selection_bias.mean, found.transfer_regret.mean) == (pytest.approx(0.08), pytest.approx(0.02))
    assert found.total == pytest.approx(0.80 - 0.70)
    assert (found.selection_bias.n, found.transfer_regret.n) == (3, 3)
