"""Metrics: hand-computed matrices, and what must hold for every matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clsuite
from clsuite.training import metrics as m
from clsuite.training.evaluation import Evaluator

pytestmark = pytest.mark.unit
nan = math.nan

# three sets of 100, 300 and 50 samples, learned one by one
R = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.7, 0.95]])
N = np.array([100.0, 300.0, 50.0])
F = np.array([0, 1, 2])
B = np.array([0.3, 0.15, 0.1])


def test_seen_accuracy_weighs_sets_by_their_size():
    assert m.seen_accuracy(R, N, F, 0) == pytest.approx(0.9)
    assert m.seen_accuracy(R, N, F, 1) == pytest.approx((60 + 240) / 400)
    assert m.seen_accuracy(R, N, F, 2) == pytest.approx((50 + 210 + 47.5) / 450)


def test_final_accuracy_is_seen_after_the_last_experience():
    assert m.final_accuracy(R, N, F) == pytest.approx(307.5 / 450)


def test_average_incremental_accuracy_is_the_mean_of_seen():
    assert m.average_incremental_accuracy(R, N, F) == pytest.approx((0.9 + 0.75 + 307.5 / 450) / 3)


def test_plasticity_reads_each_set_right_after_it_was_learned():
    assert m.plasticity(R, F) == pytest.approx((0.9 + 0.8 + 0.95) / 3)


def test_backward_transfer_leaves_out_sets_learned_last():
    assert m.backward_transfer(R, F) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)


def test_forgetting_starts_from_the_best_accuracy_since_the_set_was_learned():
    later_best = R.copy()
    later_best[1, 0] = 0.96  # set 0 is best after experience 1
    later_best[0, 1] = 0.99  # before set 1 was learned: does not count
    assert m.forgetting(later_best, F) == pytest.approx(((0.96 - 0.5) + (0.8 - 0.7)) / 2)


def test_forgetting_is_negative_where_accuracy_still_rose():
    rising = np.array([[0.4, 0.1], [0.7, 0.9]])
    assert m.forgetting(rising, np.array([0, 1])) == pytest.approx(-0.3)


def test_forward_transfer_compares_with_the_initial_weights():
    assert m.forward_transfer(R, B, F) == pytest.approx(((0.2 - 0.15) + (0.3 - 0.1)) / 2)


def test_intransigence_compares_with_joint_training_when_each_set_was_learned():
    joint = np.array([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.97]])
    assert m.intransigence(R, joint, F) == pytest.approx((0.0 + 0.1 + 0.02) / 3)


def test_task_incremental_accuracy_gives_sets_equal_weight():
    assert m.task_incremental_accuracy(R) == pytest.approx((0.5 + 0.7 + 0.95) / 3)


def test_sets_learned_in_another_order_and_together_use_f_not_j():
    f = np.array([1, 0, 1])
    assert m.seen_accuracy(R, N, f, 0) == pytest.approx(0.2)  # set 1 alone
    assert m.seen_accuracy(R, N, f, 1) == pytest.approx((60 + 240 + 15) / 450)
    assert m.plasticity(R, f) == pytest.approx((0.6 + 0.2 + 0.3) / 3)
    assert m.backward_transfer(R, f) == pytest.approx(((0.5 - 0.6) + (0.7 - 0.2) + (0.95 - 0.3)) / 3)
    assert m.forgetting(R, f) == pytest.approx(((0.6 - 0.5) + (0.8 - 0.7) + (0.3 - 0.95)) / 3)
    assert m.forward_transfer(R, B, f) == pytest.approx(((0.9 - 0.3) + (0.1 - 0.1)) / 2)


def test_one_set_for_the_whole_stream_has_no_forward_transfer():
    one = np.array([[0.5], [0.7], [0.6]])
    f = np.array([0])
    assert m.average_incremental_accuracy(one, np.array([10.0]), f) == pytest.approx(0.6)
    assert m.backward_transfer(one, f) == pytest.approx(0.1)
    assert m.forgetting(one, f) == pytest.approx(0.1)
    assert m.forward_transfer(one, np.array([0.1]), f) is None


def test_a_single_experience_has_no_transfer_and_no_forgetting():
    one = np.array([[0.5]])
    f = np.array([0])
    assert m.backward_transfer(one, f) is None and m.forgetting(one, f) is None and m.plasticity(one, f) == 0.5


def test_missing_entries_of_long_streams_are_left_out():
    long = np.array([[0.9, nan, nan, nan], [0.7, 0.8, 0.1, 0.2], [nan, nan, 0.6, nan], [0.5, 0.6, 0.7, 0.95]])
    n, f = np.array([10.0, 10.0, 10.0, 10.0]), np.arange(4)
    assert math.isnan(m.seen_accuracy(long, n, f, 2))
    assert m.average_incremental_accuracy(long, n, f) == pytest.approx((0.9 + 0.75 + (0.5 + 0.6 + 0.7 + 0.95) / 4) / 3)
    assert m.plasticity(long, f) == pytest.approx((0.9 + 0.8 + 0.6 + 0.95) / 4)
    assert m.forgetting(long, f) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.6) + (0.6 - 0.7)) / 3)
    assert m.forward_transfer(long, np.full(4, 0.05), f) == pytest.approx(0.05)  # only R[1, 2] was measured
    assert m.summary(long, n, f, np.full(4, 0.05))["rows_measured"] == 3  # rows 0, 1 and 3 have all that was learned by then


def test_a_run_that_ended_early_has_no_final_accuracy():
    early = np.array([[0.9, 0.1], [nan, nan]])
    found = m.summary(early, np.ones(2), np.arange(2), np.zeros(2))
    assert found["final_accuracy"] is None and found["final_task_mean_accuracy"] is None and found["forgetting"] is None
    assert found["average_incremental_accuracy"] == pytest.approx(0.9)


def test_summary_takes_forward_transfer_of_class_incremental_streams_from_the_masked_matrix():
    masked, b = np.full((3, 3), 0.8), np.full(3, 0.5)
    assert m.summary(R, N, F, B, masked, b, class_incremental=True)["forward_transfer"] == pytest.approx(0.3)
    assert m.summary(R, N, F, B, class_incremental=True)["forward_transfer"] is None
    found = m.summary(R, N, F, B, masked, b)
    assert found["forward_transfer"] == pytest.approx(0.125)
    assert found["task_incremental_accuracy"] == pytest.approx(0.8)
    assert found["final_task_mean_accuracy"] == pytest.approx(2.15 / 3)
    assert found["rows_measured"] == 3


def test_calibration_error_by_hand():
    # largest softmax .9 right and .92 wrong share bin 14 of 15; .75 wrong (bin 12), .55 right (bin 9): alone
    confidences, right = [0.9, 0.92, 0.75, 0.55], [True, False, False, True]
    scores = torch.tensor([[math.log(c), math.log(1 - c)] for c in confidences], dtype=torch.float64)
    targets = torch.tensor([0 if r else 1 for r in right])
    sums = torch.zeros(3, m.BINS, dtype=torch.float64)
    Evaluator._answered(scores, targets, sums)
    assert sums[0].nonzero().flatten().tolist() == [8, 11, 13]
    assert m.calibration_error(*sums.numpy()) == pytest.approx((abs(1 - 1.82) + 0.75 + 0.45) / 4)


def test_calibration_error_of_nothing_is_null():
    assert m.calibration_error(*np.zeros((3, m.BINS))) is None


def test_calibration_counts_full_confidence_in_the_last_bin():
    sums = torch.zeros(3, m.BINS, dtype=torch.float64)
    Evaluator._answered(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]), sums)
    assert sums[0, -1] == 1 and m.calibration_error(*sums.numpy()) == 0


def test_steps_to_is_the_first_probe_that_reached_the_threshold():
    probes = [(10, 0.5), (20, 0.9), (30, 0.8), (40, 0.95)]
    assert m.steps_to(0.9, probes) == 20 and m.steps_to(0.99, probes) is None and m.steps_to(0.9, []) is None


@st.composite
def matrices(draw):
    """R [T, S], sizes, f (every experience from 0 on may learn any number of sets), b."""
    T, S = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    values = st.floats(0, 1, width=32)
    r = np.array(draw(st.lists(st.lists(values, min_size=S, max_size=S), min_size=T, max_size=T)))
    n = np.array(draw(st.lists(st.integers(1, 500), min_size=S, max_size=S)), dtype=float)
    f = np.array(draw(st.lists(st.integers(0, T - 1), min_size=S, max_size=S)))
    return r, n, f, np.array(draw(st.lists(values, min_size=S, max_size=S)))


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_every_metric_stays_within_its_bounds(case):
    found = m.summary(*case)
    for name in ("final_accuracy", "average_incremental_accuracy", "final_task_mean_accuracy", "plasticity"):
        assert found[name] is None or -1e-9 <= found[name] <= 1 + 1e-9
    for name in ("backward_transfer", "forward_transfer", "forgetting"):
        assert found[name] is None or -1 - 1e-9 <= found[name] <= 1 + 1e-9


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_forgetting_is_never_less_than_the_loss_since_learning(case):
    r, _, f, _ = case
    forgetting, transfer = m.forgetting(r, f), m.backward_transfer(r, f)
    assert (forgetting is None) == (transfer is None)
    assert forgetting is None or forgetting >= -transfer - 1e-9


@settings(max_examples=100, deadline=None)
@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_the_sets_does_not_matter(case, random):
    r, n, f, b = case
    order = list(range(len(n)))
    random.shuffle(order)
    shuffled = m.summary(r[:, order], n[order], f[order], b[order])
    for name, value in m.summary(r, n, f, b).items():
        assert shuffled[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


def test_the_share_of_predictions_that_fall_on_new_classes_is_counted_by_hand() -> None:
    stuck = clsuite.run("scenario.experiences=5", "scenario.dataset=digits", "strategy=naive", "training.epochs=5", "training.learning_rate=0.1")
    shares, matrix = stuck["new_classes"], stuck["matrix"]
    assert shares["predicted"][0] is shares["true"][0] is None  # nothing is old yet
    sizes = [e["samples"] for e in stuck["evaluation_sets"]]
    for i in range(1, 5):
        assert shares["true"][i] == pytest.approx(sizes[i] / sum(sizes[: i + 1]))
        assert matrix[i][:i] == [0.0] * i and shares["predicted"][i] == 1.0  # all that is old is taken for new
    kept = clsuite.run("scenario.experiences=5", "scenario.dataset=digits", "strategy=joint", "training.epochs=20", "training.learning_rate=0.1")
    assert abs(kept["new_classes"]["predicted"][4] - kept["new_classes"]["true"][4]) < 0.02
    permuted = clsuite.run("scenario=domain_incremental", "scenario.dataset=digits", "scenario.experiences=2", "strategy=naive")
    assert permuted["new_classes"]["predicted"] == [None, None]  # the classes stay: none is old
