"""BiC and WA: losses, the pairs that are fitted and the rows that are scaled, what is held out, and what is refused."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize

from clsuite.experiment.cell import run_cell

from .strategy_runs import before_updates, close, crossed, execute, labels, pixels, refused

pytestmark = pytest.mark.unit

DOMAINS = ["scenario=domain_incremental", "scenario.dataset=digits", "scenario.experiences=2", "device=cpu"]
"""A stream whose experiences all have every class."""
GRADUAL = ["scenario=blurry", "scenario.gradual=true", "scenario.dataset=digits", "scenario.experiences=5", "scenario.samples_per_class=20", "device=cpu"]
"""A stream without borders."""


# -- BiC --------------------------------------------------------------------------------------------------------


BIC = ["strategy.buffer_size=50", "strategy.validation=0.4"]
"""20 samples held out, 30 exemplars: 5, 2 and 2 held out of each class in experiences of 4, 7 and 10 classes seen."""


def test_bic_never_trains_on_what_it_holds_out(run_of, small, seen, draws):
    run = run_of(*small, "strategy=bic+spy", *BIC)
    held = []
    loop = execute(run, on_step=lambda run: held.append(dict(run.base.held)))
    held.append(run.base.held)
    assert [{len(v) for v in h.values()} for h in (held[10], held[-2], held[-1])] == [{5}, {2}, {2}]
    every = {int(i) for h in held for ids in h.values() for i in ids}
    trained = {int(i) for ids in [*seen, *(d.ids.numpy() for d in draws)] for i in ids}
    assert len(every) == 4 * 5 + 6 * 2 and not every & trained and len(every | trained) == 200
    assert len(run.memories["replay"]) == 30 and Counter(run.memories["replay"].labels.tolist()) == dict.fromkeys(range(10), 3)
    assert all(set(run.stream.labels_of(ids)) == {c} for c, ids in run.base.held.items())
    assert run.base.report()["held_out"] == 20 and np.isfinite(loop.measurements.R).all()


def test_the_loss_of_bic_by_hand(run_of, small, seen, draws):
    run = run_of(*small, "strategy=bic+spy", *BIC, "strategy.temperature=1.5", "training.precision=float64")
    shares, teachers = [], {}

    def see(loss, optimizer):
        if optimizer is not None:
            return
        i = run.experience
        ids = np.concatenate([seen[-1], draws[-1].ids.numpy()]) if i else seen[-1]
        expected = crossed(run, ids)
        if i:
            teacher, pair = teachers.setdefault(i, (copy.deepcopy(run.base.teacher), (run.base.alpha, run.base.beta)))
            first, second = (list(run.stream.experiences[k].classes) for k in (0, 1))
            with torch.no_grad():
                z = teacher(pixels(run, ids))
                if i == 2:  # the outputs of the classes that were new to the teacher are corrected
                    z[:, second] = pair[0] * z[:, second] + pair[1]
            old = first if i == 1 else first + second
            distilled = -((z[:, old] / 1.5).softmax(1) * (run.model(pixels(run, ids))[:, old] / 1.5).log_softmax(1)).sum(1).mean()
            share = {1: 4 / 7, 2: 7 / 10}[i]
            expected = (1 - share) * expected + share * distilled
            shares.append(share)
        assert close(loss, expected)

    before_updates(run, see)
    execute(run)
    assert set(shares) == {4 / 7, 7 / 10} and teachers[1][1] == (1.0, 0.0) and abs(teachers[2][1][0] - 1) > 1e-3


def test_the_two_parameters_minimise_the_loss_of_the_samples_held_out(run_of, small):
    steps = ["strategy.bias_epochs=1000", "strategy.bias_decays=[]", "training.batch_size=20"]  # all 20 held out in every step
    run = run_of(*small, "strategy=bic", *BIC, *steps, "training.precision=float64")
    execute(run)
    ids = np.concatenate(list(run.base.held.values()))
    with torch.no_grad():
        z, y = run.model(pixels(run, ids)), labels(run, ids)
    new = torch.zeros(10, dtype=torch.bool)
    new[list(run.stream.experiences[2].classes)] = True

    def objective(pair):
        return float(F.cross_entropy(torch.where(new, pair[0] * z + pair[1], z), y) + 0.1 * pair[1] ** 2 / 2)

    best = optimize.minimize(objective, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
    assert abs(best[0] - 1) > 0.05
    np.testing.assert_allclose(run.base.pairs[-1], best, atol=1e-5)


def test_bic_deploys_the_pair_in_the_head_and_takes_it_back(run_of, small):
    run = run_of(*small, "strategy=bic", *BIC, "strategy.bias_epochs=20")
    loop = execute(run)
    x, digest = pixels(run, np.arange(40), "test"), run.weights_digest()
    with torch.no_grad():
        plain = run.model(x)
        alpha, beta = run.base.pairs[-1]
        new = list(run.stream.experiences[2].classes)
        expected = plain.clone()
        expected[:, new] = alpha * plain[:, new] + beta
        with loop.deployed():
            torch.testing.assert_close(run.base.predict(x), expected)
            assert run.weights_digest() != digest
    assert run.weights_digest() == digest and len(run.base.pairs) == 2


def test_bic_refuses_what_it_cannot_work_with(cell_of, small):
    assert "leaves no room for exemplars beside 10 samples held out" in refused(lambda: run_cell(cell_of(*small, "strategy=bic", "strategy.buffer_size=10")))
    for name in ("bic", "wa"):
        text = refused(lambda name=name: run_cell(cell_of(*DOMAINS, f"strategy={name}")))
        assert f"'{name}' needs experiences that leave out classes seen before" in text
        assert "borders" in refused(lambda name=name: run_cell(cell_of(*GRADUAL, f"strategy={name}")))
    assert "chooses_samples" in refused(lambda: run_cell(cell_of(*small, "strategy=bic+stream_replay")))


# -- WA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "limit"), [("l1", "null"), ("l2", "null"), ("l2", "1.0")])
def test_wa_makes_new_rows_as_long_as_old_ones(norm, limit, run_of, small):
    heads = {}
    wa = [f"strategy.norm={norm}", f"strategy.largest_factor={limit}", "strategy.positive=false", "strategy.buffer_size=20"]
    run = run_of(*small, "strategy=wa", *wa)
    execute(run, on_step=lambda run: heads.update({run.experience: run.model.head.weight.detach().clone()}))
    for i, factor in zip((1, 2), run.base.factors, strict=True):
        new = list(run.stream.experiences[i].classes)
        old = [c for e in run.stream.experiences[:i] for c in e.classes]
        lengths = heads[i].abs().sum(1) if norm == "l1" else heads[i].square().sum(1).sqrt()
        expected = float(lengths[old].mean() / lengths[new].mean())
        assert factor == pytest.approx(expected if limit == "null" else min(1.0, expected), rel=1e-5)
    after = run.model.head.weight.detach()
    torch.testing.assert_close(after[new], factor * heads[2][new])
    assert torch.equal(after[old], heads[2][old]) and torch.equal(run.base.teacher.head.weight, after)


def test_wa_keeps_the_weights_of_the_head_from_becoming_negative(run_of, small):
    run = run_of(*small, "strategy=wa", "strategy.buffer_size=20")
    least = []
    execute(run, on_step=lambda run: least.append(run.model.head.weight.min().item()))
    assert set(least) == {0.0} and len(least) == 30


def test_the_weight_of_the_distillation_may_be_given(run_of, small, seen, draws):
    run = run_of(*small, "strategy=wa+spy", "strategy.buffer_size=20", "strategy.distillation=3.0", "strategy.positive=false", "training.precision=float64")

    def see(loss, optimizer):
        if run.experience != 1:
            return
        ids, old = np.concatenate([seen[-1], draws[-1].ids.numpy()]), list(run.stream.experiences[0].classes)
        teacher.append(copy.deepcopy(run.base.teacher)) if not teacher else None
        with torch.no_grad():
            p = (teacher[0](pixels(run, ids))[:, old] / 2).softmax(1)
        assert close(loss, crossed(run, ids) - 3 * (p * (run.model(pixels(run, ids))[:, old] / 2).log_softmax(1)).sum(1).mean())

    teacher = []
    before_updates(run, see)
    execute(run)
    assert teacher
