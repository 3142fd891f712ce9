"""What the scenarios promise: phases that share nothing, samples seen as often as said, draws with the stated probabilities."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clsuite.scenario
from clsuite.errors import UsageError
from clsuite.scenario import Split
from clsuite.stream import Stream
from clsuite_scenarios import CATALOGUE, FACTS, recurrence
from clsuite_scenarios.blurry import Blurry
from clsuite_scenarios.class_incremental import ClassIncremental
from clsuite_scenarios.domain_incremental import DomainIncremental
from clsuite_scenarios.power_law import PowerLaw
from clsuite_scenarios.scole import SCoLe

pytestmark = pytest.mark.unit
CONTROLS = ["none", "none_matched", "uniform", "exponential", "most_recent", "fixed_recency"]


@dataclass
class Fake:
    """An image source with labels and no pixels; class sizes differ."""

    name: str
    classes: int
    per_class: int = 21
    shape: tuple[int, int, int] = (1, 3, 4)

    @property
    def identity(self) -> str:
        return f"identity of {self.name}"

    def labels(self, split: str) -> np.ndarray:
        sizes = [(self.per_class if split == "train" else 6) + c % 3 for c in range(self.classes)]
        return np.random.default_rng(3).permutation(np.repeat(np.arange(self.classes), sizes)).astype(np.int64)

    def size(self, split: str) -> int:
        return len(self.labels(split))


SOURCES = {f.name: f for f in (Fake("ten", 10), Fake("other", 10, 17), Fake("forty", 40), Fake("large", 10, 600))}


@pytest.fixture(autouse=True, scope="module")
def fake_sources():
    real = clsuite.scenario.load_source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clsuite.scenario, "load_source", lambda name, root=None: SOURCES[name] if name in SOURCES else real(name, root))
        yield


def experience_ids(stream: Stream) -> list[np.ndarray]:
    return [stream.ids(e.segments) for e in stream.experiences]


def labels(stream: Stream, ids: np.ndarray) -> np.ndarray:
    return stream.outputs("train")[ids % stream.source.size("train")]


seeds = st.integers(0, 10_000)
scenarios = st.sampled_from(
    [
        (ClassIncremental, {"experiences": 5}),
        (ClassIncremental, {"experiences": 4, "first_classes": 4}),
        (DomainIncremental, {"experiences": 3}),
        (DomainIncremental, {"experiences": 3, "kind": "rotation"}),
        (Blurry, {"experiences": 5, "share": 0.3}),
        (Blurry, {"experiences": 2, "gradual": True}),
        (PowerLaw, {"experiences": 6, "return_samples": 15}),
        (PowerLaw, {"experiences": 6, "return_samples": 400, "reading": "budget", "kind": "rotation", "control": "uniform"}),
        (PowerLaw, {"experiences": 9, "tasks": 2, "kind": "classes", "return_samples": 5}),
        (SCoLe, {"experiences": 12}),
        (SCoLe, {"experiences": 12, "num_classes": 4, "entropy_decrease": 2.0}),
    ]
)


def build(kind: type, values: dict[str, Any], division: str, **split: Any) -> Any:
    """A scenario for two phases; a division by classes halves them, so it gets twice as many."""
    if division == "datasets":
        split["tuning_dataset"] = "other"
    values = {"dataset": "forty" if division == "classes" else "ten", **values}
    if kind is ClassIncremental and values.get("first_classes") and division == "classes":
        values.update(first_classes=8)
    return kind(Split(split=division, **split), **values)


@settings(max_examples=400, deadline=None)
@given(scenarios, st.sampled_from(["classes", "samples", "datasets"]), seeds, st.booleans(), seeds, seeds, st.sampled_from([None, 5]))
def test_two_phases_share_no_sample_and_every_id_is_in_range(which, division, split_seed, swap, tuning_seed, evaluation_seed, limit):
    """Whatever the seeds: no training or test image of one phase is an image of the other."""
    scenario = build(*which, division, split_seed=split_seed, swap=swap)
    scenario.samples_per_class = limit
    seen = {}
    for phase, seed in (("tuning", tuning_seed), ("evaluation", evaluation_seed)):
        stream = scenario.stream(phase, seed)
        size = stream.source.size("train")
        train, test = np.concatenate(experience_ids(stream)), np.concatenate([stream.evaluation_ids(j) for j in range(len(stream.evaluation_sets))])
        assert train.dtype == np.int64 and train.min() >= 0 and train.max() < size * len(stream.transforms)
        assert test.min() >= 0 and test.max() < stream.source.size("test") * len(stream.transforms)
        assert labels(stream, train).min() >= 0 and labels(stream, train).max() < stream.classes
        for e in stream.experiences:
            found = set(labels(stream, stream.ids(e.segments)).tolist())
            # a few samples of a returning task may miss one of its classes
            assert found == set(e.classes) or (found < set(e.classes) and any(s.role == "rehearsed" for s in e.segments))
        for j, e in enumerate(stream.evaluation_sets):
            assert set(e.classes) == set(stream.outputs("test")[stream.evaluation_ids(j) % stream.source.size("test")].tolist())
        seen[phase] = {
            (stream.source.identity, s, int(i)) for s, ids, n in (("train", train, size), ("test", test, stream.source.size("test"))) for i in ids % n
        }
    assert seen["tuning"] and seen["evaluation"] and not seen["tuning"] & seen["evaluation"]


@settings(max_examples=60, deadline=None)
@given(scenarios, st.sampled_from(["samples", "datasets", "classes"]), seeds, seeds)
def test_the_partition_is_the_same_for_every_run_seed_and_swap_exchanges_it(which, division, seed, other):
    def images(phase, seed, swap):
        pool = build(*which, division, swap=swap).pool(phase)
        return pool.source.name, pool.indices["train"].tolist(), pool.indices["test"].tolist()

    assert images("tuning", seed, False) == images("tuning", other, False) == images("evaluation", seed, True)


@settings(max_examples=60, deadline=None)
@given(scenarios, seeds)
def test_the_same_seed_gives_the_same_table_and_another_seed_another(which, seed):
    kind, values = which
    first, again, other = (kind(dataset="ten", **values).stream("evaluation", s).fingerprint for s in (seed, seed, seed + 1))
    assert first == again != other


def test_tuning_and_evaluation_permutations_differ():
    for scenario in (DomainIncremental, PowerLaw):
        a, b = (scenario(Split(split="samples"), dataset="ten", experiences=5).stream(p, 0).transforms.table for p in ("tuning", "evaluation"))
        assert (a[0] == np.arange(12)).all() and not any((a[k] == b[k]).all() for k in range(1, 5))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 2, 5, 10]), seeds)
def test_class_incremental_shows_every_training_sample_once(experiences, seed):
    stream = ClassIncremental(dataset="ten", experiences=experiences).stream("evaluation", seed)
    assert (np.sort(np.concatenate(experience_ids(stream))) == np.arange(stream.source.size("train"))).all()
    assert [len(e.classes) for e in stream.experiences] == [10 // experiences] * experiences
    assert sorted(c for e in stream.experiences for c in e.classes) == list(range(10))


# ---- blurry


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([1, 2, 5, 10]), st.floats(0, 1), seeds)
def test_blurry_shows_each_sample_once_and_the_share_asked_elsewhere(experiences, share, seed):
    stream = Blurry(dataset="ten", experiences=experiences, share=share).stream("evaluation", seed)
    ids = experience_ids(stream)
    assert (np.sort(np.concatenate(ids)) == np.arange(stream.source.size("train"))).all()
    main = {c: j for j, e in enumerate(stream.evaluation_sets) for c in e.classes}
    counts = np.stack([np.bincount(labels(stream, i), minlength=10) for i in ids])
    for c in range(10):
        elsewhere = np.delete(counts[:, c], main[c])
        total = counts[:, c].sum()
        assert abs(elsewhere.sum() - share * total) <= 0.5 if experiences > 1 else not len(elsewhere)
        assert not len(elsewhere) or elsewhere.max() - elsewhere.min() <= 1
    assert stream.has_borders and stream.has_task_ids == (share == 0) and stream.task_masked == (experiences > 1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 5]), seeds)
def test_blurry_without_share_is_class_incremental(experiences, seed):
    a = Blurry(dataset="ten", experiences=experiences, share=0.0).stream("evaluation", seed)
    b = ClassIncremental(dataset="ten", experiences=experiences).stream("evaluation", seed)
    assert a.fingerprint == b.fingerprint and [e.classes for e in a.experiences] == [e.classes for e in b.experiences]


def test_gradual_times_follow_the_truncated_normal_and_each_sample_comes_once():
    """Positions in the table, of the one class of each main experience, against the truncated normal integrated by hand."""
    stream = Blurry(dataset="large", experiences=10, gradual=True, width=0.8).stream("evaluation", 1)
    ids = np.concatenate(experience_ids(stream))
    assert (np.sort(ids) == np.arange(stream.source.size("train"))).all()
    assert {len(e) for e in stream.experiences} <= {len(ids) // 10, len(ids) // 10 + 1}
    assert all(e.ordered for e in stream.experiences) and not stream.has_borders and not stream.has_task_ids
    grid = (np.arange(20_000) + 0.5) / 20_000
    density = np.exp(-0.5 * ((grid[None] - (np.arange(10)[:, None] + 0.5) / 10) / 0.08) ** 2)
    density /= density.sum(axis=1, keepdims=True)
    # a sample's place in the sorted table estimates the distribution function of all times at its time
    place = np.cumsum(density.mean(axis=0))
    expected = density @ place
    found = [np.flatnonzero(labels(stream, ids) == e.classes[0]).mean() / len(ids) for e in stream.evaluation_sets]
    assert np.abs(np.array(found) - expected).max() < 0.012
    # truncated, not clamped: nothing piles up at the start, where a quarter of the first class would stand together
    first = labels(stream, ids)[:60]
    second_class = stream.evaluation_sets[1].classes[0]
    assert (first == second_class).sum() > 0


def test_gradual_experiences_overlap_more_when_wider():
    present = [sum(len(e.classes) for e in Blurry(dataset="ten", gradual=True, width=w).stream("evaluation", 0).experiences) for w in (0.01, 0.5, 5.0)]
    assert present[0] < present[1] < present[2] and present[0] <= 16


# ---- power law


def power_law(seed: int = 0, **values: Any) -> Stream:
    return PowerLaw(**{"dataset": "ten", "return_samples": 10, **values}).stream("evaluation", seed)


def rehearsed(stream: Stream) -> list[list[int]]:
    """Tasks that return in each experience, read from the segments."""
    return [[s.task for s in e.segments if s.role == "rehearsed"] for e in stream.experiences]


def returns_by_lag(returned: list[list[int]], tasks: int, skip: set[int] = frozenset()) -> dict[int, list[int]]:
    """The plain loop of the definition: {lag: [at risk, returned]}."""
    last, table = {}, {}
    for t, now in enumerate(returned):
        for task, when in last.items():
            row = table.setdefault(t - when, [0, 0])
            row[0] += 1
            row[1] += task in now and t not in skip
        last.update(dict.fromkeys(now, t))
        if t < tasks:
            last[t] = t
    return table


@pytest.mark.parametrize("scale, exponent, tasks", [(0.5, 1.0, 40), (0.8, 0.5, 40), (1.5, 1.5, 40), (0.5, 1.0, 3)])
def test_a_task_returns_with_the_probability_of_its_lag(scale, exponent, tasks):
    """Counted by hand over 60 streams: within four binomial errors of min(1, c L^-d) at every lag."""
    total: dict[int, np.ndarray] = {}
    for seed in range(60):
        stream = power_law(seed, experiences=40, tasks=tasks, scale=scale, exponent=exponent)
        forced = {e.index for e in stream.experiences if e.forced}
        counted = returns_by_lag(rehearsed(stream), tasks, forced)
        assert [[lag, *counted[lag]] for lag in sorted(counted)] == stream.facts["recurrence"]["at_risk"]
        for lag, row in counted.items():
            total[lag] = total.get(lag, 0) + np.array(row)
        for e in stream.experiences:
            assert e.segments and (not e.forced or (len(e.segments) == 1 and e.index >= tasks))
    checked = 0
    for lag, (n, y) in total.items():
        p = min(1.0, scale * lag**-exponent)
        if n * p * (1 - p) > 5 or p == 1:
            assert abs(y - n * p) <= 4 * math.sqrt(n * p * (1 - p)), lag
            checked += 1
    assert checked >= (1 if scale > 1 else 5)


def test_forced_returns_are_drawn_in_proportion_to_the_power_of_the_lag():
    """Two tasks, almost no free return: the share of the task at the smaller lag against L^-d by hand."""
    wins, expected, variance = 0, 0.0, 0.0
    stream = power_law(0, experiences=3000, tasks=2, scale=1e-6, exponent=1.0)
    last = {0: 0, 1: 1}
    for t, now in list(enumerate(rehearsed(stream)))[2:]:
        weights = {k: 1 / (t - last[k]) for k in last}
        p = weights[0] / sum(weights.values())
        wins, expected, variance = wins + now.count(0), expected + p, variance + p * (1 - p)
        last[now[0]] = t
    assert stream.facts["recurrence"]["forced"] >= 2990 and abs(wins - expected) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("values", [{}, {"exponent": 2.0}, {"reading": "budget"}, {"tasks": 4}, {"recency": "first_learned", "scale": 3.0}], ids=str)
def test_the_fitted_exponent_is_within_three_errors_of_the_one_asked(values):
    values = {"experiences": 100, **values}
    asked, good = values.get("exponent", 1.0), 0
    for seed in range(20):
        fit = power_law(seed, **values).facts["recurrence"]
        good += abs(fit["exponent"] - asked) <= 3 * fit["error"]
    assert good >= 19


def test_the_fit_agrees_with_a_grid_search_of_the_likelihood():
    rows = np.array([[1, 200, 90], [2, 110, 31], [3, 80, 12], [5, 50, 6], [9, 30, 1]])
    c, d = np.meshgrid(np.linspace(0.3, 0.6, 601), np.linspace(0.5, 1.7, 601), indexing="ij")
    likelihood = sum(y * np.log(c * lag**-d) + (n - y) * np.log(1 - c * lag**-d) for lag, n, y in rows)
    best = np.unravel_index(likelihood.argmax(), likelihood.shape)
    fit = recurrence.bernoulli_fit(rows, np.zeros(5, bool))
    assert abs(fit.exponent - d[best]) < 0.003 and abs(fit.scale - c[best]) < 0.001
    # the error from the curvature of the profile over c, by second differences on the grid
    profile, step = likelihood.max(axis=0), d[0, 40] - d[0, 0]
    k = best[1]
    assert fit.error == pytest.approx((-(profile[k + 40] - 2 * profile[k] + profile[k - 40]) / step**2) ** -0.5, rel=0.05)


def test_the_choice_fit_agrees_with_a_grid_search_of_the_likelihood():
    """Three of five tasks an experience, drawn one after another: the likelihood written out draw by draw."""
    table = recurrence.budget(120, 5, 3, 1.0, "last_performed", np.random.default_rng(4))
    grid = np.linspace(0.0, 2.0, 2001)
    likelihood, last = np.zeros_like(grid), {}
    for t, drawn in enumerate(table.returned):
        left = {k: math.log(t - when) for k, when in last.items()}
        for k in drawn.tolist():
            likelihood -= grid * left[k] + np.log(sum(np.exp(-grid * x) for x in left.values()))
            del left[k]
        last.update(dict.fromkeys(drawn.tolist(), t))
        if t < 5:
            last[t] = t
    fit, best = recurrence.choice_fit(table), int(likelihood.argmax())
    assert abs(fit.exponent - grid[best]) <= 0.001
    assert fit.error == pytest.approx((-(likelihood[best + 50] - 2 * likelihood[best] + likelihood[best - 50]) / 0.05**2) ** -0.5, rel=0.02)


def test_saturated_lags_say_nothing_about_the_exponent():
    rows = np.array([[1, 10, 10], [2, 200, 120], [3, 150, 60], [6, 100, 21]])
    assert recurrence.bernoulli_fit(rows, rows[:, 0] == 1) == recurrence.bernoulli_fit(rows[1:], np.zeros(3, bool))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(CONTROLS), st.sampled_from(["independent", "budget"]), st.sampled_from(["permutation", "rotation"]), st.booleans(), st.integers(1, 4), seeds
)
def test_controls_keep_the_new_tasks_and_the_rehearsed_samples_of_every_experience(control, reading, kind, fewer, returns, seed):
    values = {"experiences": 15, "kind": kind, "reading": reading, "returns": returns, "scale": 0.9}
    if fewer and not control.startswith("none"):
        values["tasks"] = 4
    base, other = power_law(seed, **values), power_law(seed, control=control, **values)
    assert (base.transforms.table == other.transforms.table).all()
    for a, b in zip(base.experiences, other.experiences, strict=True):
        assert [s.task for s in a.segments if s.role == "new"] == sorted({s.task for s in b.segments if s.role == "new"})
        samples = [sum(len(s) for s in e.segments if s.role == "rehearsed") for e in (a, b)]
        assert samples[1] == (0 if control.startswith("none") else samples[0])
        assert len(a) == len(b) or control == "none"
        assert all(s.task < b.index for s in b.segments if s.role == "rehearsed")
    facts = other.facts["recurrence"]
    assert facts["rehearsed_samples"] == sum(other.describe()["rehearsed_per_experience"])
    if control.startswith("none"):
        assert facts["exponent"] is facts["error"] is facts["mean_lag"] is facts["rehearsed_shares"] is None and facts["rehearsed_samples"] == 0


def test_uniform_most_recent_and_fixed_recency_draw_as_they_say():
    values = {"experiences": 400, "reading": "budget", "returns": 1}
    assert all(now == [t - 1] for t, now in list(enumerate(rehearsed(power_law(control="most_recent", **values))))[1:])
    for control, weight in (("uniform", lambda lag: 1.0), ("fixed_recency", lambda lag: 1 / lag)):
        older = expected = variance = 0.0
        for t, now in list(enumerate(rehearsed(power_law(control=control, **values))))[2:]:
            weights = [weight(t - k) for k in range(t)]
            p = sum(weights[: t // 2]) / sum(weights)
            older, expected, variance = older + (now[0] < t // 2), expected + p, variance + p * (1 - p)
        assert abs(older - expected) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("reading", ["independent", "budget"])
def test_the_exponential_control_has_the_mean_lag_of_the_power_law(reading):
    for seed in range(5):
        base, other = (power_law(seed, experiences=150, reading=reading, control=c).facts["recurrence"] for c in ("power_law", "exponential"))
        lags = [(lag, y) for lag, _, y in base["at_risk"]]
        assert base["mean_lag"] == pytest.approx(sum(lag * y for lag, y in lags) / sum(y for _, y in lags))
        assert other["mean_lag"] == pytest.approx(base["mean_lag"], rel=0.02) and other["time_constant"] > 0


def test_the_budget_reading_draws_distinct_tasks_and_shares_the_budget():
    stream = power_law(experiences=30, reading="budget", returns=3, budget=60)
    for e in stream.experiences:
        back = [s for s in e.segments if s.role == "rehearsed"]
        assert len(back) == len({s.task for s in back}) == min(3, e.index) and all(len(s) == 20 for s in back)


def test_returned_samples_are_drawn_anew_and_paired_between_controls():
    base = power_law(experiences=60)
    back = [s for e in base.experiences for s in e.segments if s.role == "rehearsed" and s.task == 0]
    assert len({tuple(sorted(s.indices)) for s in back}) == len(back) > 2 and all(len(set(s.indices)) == 10 for s in back)
    drawn = {(e.index, s.task): s.indices for e in base.experiences for s in e.segments if s.role == "rehearsed"}
    other = {(e.index, s.task): s.indices for e in power_law(experiences=60, control="uniform").experiences for s in e.segments if s.role == "rehearsed"}
    shared = drawn.keys() & other.keys()
    assert shared and all((drawn[k] == other[k]).all() for k in shared)


def test_power_law_of_classes_masks_disjoint_tasks():
    stream = power_law(experiences=20, tasks=5, kind="classes", classes_per_task=2)
    assert stream.task_masked and stream.keep_schedule and len(stream.transforms) == 1
    assert sorted(c for e in stream.evaluation_sets for c in e.classes) == list(range(10)) and [e.learned_in for e in stream.evaluation_sets] == list(range(5))


# ---- scole


def scole(seed: int = 0, **values: Any) -> Stream:
    return SCoLe(**{"dataset": "ten", **values}).stream("evaluation", seed)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.sampled_from([None, 10, 7]), st.sampled_from([0.0, 3.0]), st.sampled_from([1.0, 2.0]), seeds)
def test_scole_draws_distinct_classes_with_all_their_images(size, classes, entropy, reduction, seed):
    stream = scole(seed, experiences=20, classes_per_experience=size, num_classes=classes, entropy_decrease=entropy, probability_reduction=reduction)
    assert stream.classes == (classes or 10) and len(set(stream.class_labels.tolist())) == stream.classes
    for e in stream.experiences:
        assert len(set(e.classes)) == size
        assert (np.sort(stream.ids(e.segments)) == np.flatnonzero(np.isin(stream.outputs(), e.classes))).all()
    (only,) = stream.evaluation_sets
    assert (np.sort(only.indices) == np.flatnonzero(stream.outputs("test") >= 0)).all() and only.learned_in == 0
    assert not stream.task_masked and not stream.has_task_ids and stream.keep_schedule


@pytest.mark.parametrize("entropy", [0.0, 2.0, 6.0])
def test_scole_frequencies_follow_the_weights_of_the_source(entropy):
    """One class at a time: frequencies against (1 - 0.05 i)^e within four binomial errors, in some order of the classes."""
    stream = scole(3, experiences=4000, classes_per_experience=1, entropy_decrease=entropy)
    weights = [(1 - 0.05 * i) ** entropy for i in range(10)]
    expected = np.array(weights) / sum(weights)
    assert np.sort(stream.facts["class_probabilities"]) == pytest.approx(np.sort(expected))
    p, counts = np.array(stream.facts["class_probabilities"]), np.bincount([e.classes[0] for e in stream.experiences], minlength=10)
    assert (np.abs(counts - 4000 * p) <= 4 * np.sqrt(4000 * p * (1 - p))).all()
    assert stream.facts["class_frequencies"] == pytest.approx((counts / 4000).tolist())


def test_scole_reduction_evens_out_the_visits():
    spread = [np.std(scole(experiences=300, entropy_decrease=4.0, probability_reduction=r).facts["class_frequencies"]) for r in (1.0, 3.0)]
    assert spread[1] < spread[0] / 5


def test_scole_periods_and_forgetting_cut_the_stream_in_the_middle():
    periods, forgetting = scole(experiences=101, periods=True), scole(experiences=101, forgetting=True)
    for t in range(101):
        first = 2 * t < 101
        assert all((c < 5) == first for c in periods.experiences[t].classes)
        assert first or all(c < 5 for c in forgetting.experiences[t].classes)
    assert any(c >= 5 for e in forgetting.experiences[:51] for c in e.classes)


def test_scole_allows_only_a_share_of_the_couples():
    seen = {e.classes for e in scole(experiences=2000, couples_share=0.2).experiences}
    assert len(seen) == 9  # a fifth of 45 pairs
    assert len({e.classes for e in scole(experiences=2000).experiences}) == 45


def test_scole_order_of_pairs_is_a_cycle_that_randomness_breaks():
    ordered = [e.classes for e in scole(experiences=90, randomized_order=0.0).experiences]
    assert ordered[:3] == [(0, 1), (0, 2), (0, 3)] and ordered[:45] == ordered[45:] and len(set(ordered)) == 45
    mixed = [e.classes for e in scole(experiences=900, randomized_order=0.3).experiences]
    kept = np.mean([a == ordered[t % 45] for t, a in enumerate(mixed)])
    # both classes kept 0.49, or replaced by themselves or by each other: between 0.5 and 0.57
    assert 0.43 < kept < 0.62


# ---- refusals, speed, catalogue


@pytest.mark.parametrize(
    "kind, split, values, words",
    [
        (ClassIncremental, {}, {"experiences": 3}, ["scenario.experiences = 3", "10 classes", "1, 2, 5, 10"]),
        (Blurry, {}, {"experiences": 4}, ["scenario.experiences = 4"]),
        (ClassIncremental, {}, {"experiences": 4, "first_classes": 6}, ["scenario.first_classes = 6"]),
        (ClassIncremental, {"split": "classes"}, {"experiences": 5}, ["protocol.split", "scenario.experiences = 5"]),
        (Blurry, {"split": "classes"}, {"experiences": 5}, ["protocol.split", "scenario.experiences = 5"]),
        (Blurry, {}, {"class_order": [0, 1]}, ["scenario.class_order"]),
        (PowerLaw, {}, {"kind": "classes", "tasks": 6}, ["scenario.tasks = 6", "classes_per_task = 2", "12 classes"]),
        (PowerLaw, {"split": "classes"}, {"kind": "classes", "tasks": 4, "classes_per_task": 1}, ["protocol.split", "scenario.classes_per_task"]),
        (PowerLaw, {}, {"tasks": 30}, ["scenario.tasks = 30", "scenario.experiences = 20"]),
        (PowerLaw, {}, {"tasks": 5, "control": "none"}, ["scenario.control = 'none'"]),
        (PowerLaw, {}, {"reading": "budget", "returns": 3, "budget": 100}, ["scenario.budget = 100", "scenario.returns = 3"]),
        (SCoLe, {}, {"num_classes": 11}, ["scenario.num_classes = 11"]),
        (SCoLe, {}, {"classes_per_experience": 6, "periods": True}, ["scenario.classes_per_experience = 6", "5 classes"]),
        (SCoLe, {}, {"periods": True, "forgetting": True}, ["scenario.periods", "scenario.forgetting"]),
        (SCoLe, {}, {"couples_share": 0.01, "periods": True}, ["scenario.couples_share = 0.01"]),
        (SCoLe, {}, {"randomized_order": 0.5, "classes_per_experience": 3}, ["scenario.randomized_order", "scenario.classes_per_experience"]),
        (SCoLe, {}, {"randomized_order": 0.5, "forgetting": True}, ["scenario.randomized_order", "scenario.forgetting"]),
    ],
)
def test_wrong_settings_are_refused_in_one_line(kind, split, values, words):
    with pytest.raises(UsageError) as error:
        kind(Split(**split), dataset="ten", **values).stream("evaluation", 0)
    assert "\n" not in str(error.value) and all(w in str(error.value) for w in words), str(error.value)


@pytest.mark.parametrize("value", [{"share": 1.5}, {"width": 0.0}, {"gradual": 1}])
def test_values_out_of_bounds_are_refused(value):
    with pytest.raises(UsageError, match=next(iter(value))):
        Blurry(dataset="ten", **value)


@pytest.mark.parametrize(
    "make, seconds",
    [
        (lambda: power_law(experiences=400), 1.0),
        (lambda: power_law(experiences=400, control="exponential"), 1.0),
        (lambda: power_law(experiences=5000, tasks=400, reading="budget"), 6.0),
        (lambda: scole(experiences=5000), 2.0),
    ],
    ids=["power law", "exponential", "budget", "scole"],
)
def test_long_streams_are_made_quickly(make, seconds):
    best = math.inf
    for _ in range(3):  # the best of three: other work may share the machine
        start = time.process_time()
        make()
        best = min(best, time.process_time() - start)
        if best < seconds:
            break
    assert best < seconds


def test_every_scenario_of_the_catalogue_names_its_source_and_runs_on_embedded_data():
    import importlib

    assert CATALOGUE.keys() == FACTS.keys() and all(FACTS[name]["source"] for name in FACTS)
    for name, target in CATALOGUE.items():
        module, attribute = target.split(":")
        scenario = getattr(importlib.import_module(module, "clsuite_scenarios"), attribute)
        assert scenario.name == name and scenario.__doc__
        if name == "avalanche":
            continue  # its own tests run it: the import of Avalanche takes seconds
        stream = scenario().stream("evaluation", 0)
        assert len(stream) >= (5 if stream.world == "images" else 2) and stream.describe()["fingerprint"] == stream.fingerprint
