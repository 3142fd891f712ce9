"""The memory: which samples stay, in what proportions, and that what is stored with a sample stays with it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clsuite.batch import Batch
from clsuite.memory import POLICIES, Memory, shares

pytestmark = pytest.mark.unit


def memory(capacity, policy="reservoir", seed=0):
    def draw(ids, experience, columns, rng=None):
        return Batch(lambda b: (b.ids, b.ids), ids, experience, False, None, columns)

    return Memory(capacity, policy, np.random.default_rng(seed), draw)


def offer(target, ids, labels=None, experience=0, columns=None):
    ids = np.asarray(ids)
    labels = ids % 10 if labels is None else np.broadcast_to(labels, ids.shape)
    target.add(ids, np.asarray(labels, np.int64), np.broadcast_to(experience, ids.shape).astype(np.int64), columns)


CUTS = {"one batch": [60], "ones": [1] * 60, "uneven": [7, 30, 1, 22]}


@pytest.mark.parametrize("cut", CUTS)
def test_the_reservoir_keeps_every_sample_with_the_same_probability(cut):
    kept = np.zeros(60)
    for seed in range(1500):
        m = memory(12, seed=seed)
        for part in np.split(np.arange(60), np.cumsum(CUTS[cut])[:-1]):
            offer(m, part)
        assert len(m) == len(set(m.ids)) == 12
        kept[m.ids] += 1
    # the counts sum to 12 a run, so their variance is that of draws without replacement: 12/60 * 48/60 * 60/59 of each
    chi_square = ((kept - 300) ** 2).sum() / (1500 * 0.2 * 0.8 * 60 / 59)
    assert stats.chi2.sf(chi_square, 59) > 1e-3


def test_pairs_of_samples_stay_together_as_often_as_chance_says():
    together = 0
    for seed in range(2000):
        m = memory(10, seed=seed)
        for start in range(0, 40, 8):
            offer(m, np.arange(start, start + 8))
        together += {0, 39} <= set(m.ids.tolist())
    p = 10 / 40 * 9 / 39
    assert abs(together - 2000 * p) < 4 * np.sqrt(2000 * p * (1 - p))


def test_within_a_class_every_sample_stays_with_the_same_probability():
    kept = np.zeros(60)
    for seed in range(1000):
        m = memory(12, "class_balanced", seed)
        for start in range(0, 60, 10):  # class 0 first, class 1 later: the quota of class 0 shrinks on the way
            offer(m, np.arange(start, start + 10), labels=int(start >= 40), experience=0)
        kept[m.ids] += 1
    for members, expected in ((slice(0, 40), 6 / 40), (slice(40, 60), 6 / 20)):
        assert kept[members].sum() == 6000
        deviation = np.abs(kept[members] - 1000 * expected).max()
        assert deviation < 4.5 * np.sqrt(1000 * expected * (1 - expected))


def test_class_balance_by_hand():
    m = memory(10, "class_balanced")
    offer(m, np.arange(100), labels=7)
    assert Counter(m.labels.tolist()) == {7: 10}
    offer(m, np.arange(100, 102), labels=3)  # two samples only: all kept, the rest stays with class 7
    assert Counter(m.labels.tolist()) == {7: 8, 3: 2}
    offer(m, np.arange(102, 202), labels=3)
    assert Counter(m.labels.tolist()) == {7: 5, 3: 5}
    offer(m, np.arange(202, 302), labels=9)  # 10 = 4 + 3 + 3, the remainder to the first class
    assert Counter(m.labels.tolist()) == {3: 4, 7: 3, 9: 3}


def test_experience_balance_by_hand():
    m = memory(9, "experience_balanced")
    for experience, expected in enumerate([{0: 9}, {0: 5, 1: 4}, {0: 3, 1: 3, 2: 3}, {0: 3, 1: 2, 2: 2, 3: 2}]):
        offer(m, np.arange(50) + 50 * experience, experience=experience)
        assert Counter(m.experience.tolist()) == expected


@pytest.mark.parametrize(
    ("available", "capacity", "expected"),
    [([5, 5], 4, [2, 2]), ([5, 5], 5, [3, 2]), ([1, 9, 9], 10, [1, 5, 4]), ([2, 1], 10, [2, 1]), ([0, 7], 3, [0, 3]), ([9, 9, 9], 2, [1, 1, 0]), ([3], 0, [0])],
)
def test_shares_by_hand(available, capacity, expected):
    assert shares(np.array(available), capacity).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 120))
def test_shares_waste_nothing_and_are_even_up_to_one(available, capacity):
    kept = shares(np.array(available), capacity)
    assert kept.sum() == min(capacity, sum(available))
    assert (kept <= available).all() and (kept >= 0).all()
    for k, a in zip(kept, available, strict=True):
        assert k == a or kept.max() - k <= 1  # only a group that gave all it had may have fewer


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(1, 30), st.lists(st.integers(1, 25), min_size=1, max_size=25), st.integers(0, 2**20))
def test_columns_stay_with_their_samples_and_capacity_holds(policy, capacity, sizes, seed):
    m = memory(capacity, policy, seed)
    m.column("logits", 3)
    m.column("logits", 3)  # asking again changes nothing
    offered = 0
    for k, size in enumerate(sizes):
        ids = np.arange(offered, offered + size)
        offered += size
        offer(m, ids, labels=ids * 7 % 5, experience=k // 3, columns={"logits": torch.tensor(ids)[:, None] * torch.tensor([1.0, 2.0, 3.0])})
        assert len(m) == min(capacity, offered) == len(m.labels) == len(m.experience)
    assert m.offered == offered and len(set(m.ids)) == len(m)
    assert (m.labels == m.ids * 7 % 5).all()
    drawn = m.sample(capacity)
    assert torch.equal(drawn["logits"], drawn.ids[:, None] * torch.tensor([1.0, 2.0, 3.0]))
    assert not drawn.current.any()


def test_a_sample_has_no_repetition_and_is_uniform():
    m = memory(20)
    offer(m, np.arange(20))
    counts = Counter()
    for _ in range(1000):
        ids = m.sample(5).ids.tolist()
        assert len(set(ids)) == 5
        counts.update(ids)
    assert all(abs(counts[i] - 250) < 4.5 * np.sqrt(250 * 0.75) for i in range(20))


def test_a_sample_larger_than_the_memory_is_all_of_it():
    m = memory(20)
    offer(m, np.arange(8))
    assert sorted(m.sample(50).ids.tolist()) == list(range(8)) == sorted(m.everything().ids.tolist())


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_generator_gives_the_same_memory(policy):
    found = []
    for seed in (1, 1, 2):
        m = memory(15, policy, seed)
        for k in range(10):
            offer(m, np.arange(k * 12, k * 12 + 12), experience=k // 4)
        found.append((m.ids.tolist(), m.sample(6).ids.tolist()))
    assert found[0] == found[1] != found[2]


def test_bytes_count_columns():
    m = memory(10)
    assert m.bytes() == 10 * 32
    m.column("logits", 7)
    assert m.bytes() == 10 * 32 + 10 * 7 * 4
