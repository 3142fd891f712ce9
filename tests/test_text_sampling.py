"""Sampling over corpora, by temperature and by skill: the share of every corpus in every step, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import Diverged
from clsuite.experiment.cell import run_cell

from .text_batches import cell, check_stopped, refused, tables, text_run, watched

pytestmark = pytest.mark.unit

MIXED = {"name": "joint+temperature_sampling"}


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "naive+temperature_sampling"},
        MIXED,
        {"name": "naive+skill_it", "skill_it": {"update_every": 4, "window": 2, "probe_samples": 8}},
        {"name": "cumulative+skill_it", "skill_it": {"probe_samples": 8}},
    ],
    ids=str,
)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, strategy):
    check_stopped(tmp_path, strategy)


# -- temperature ------------------------------------------------------------------------------------------------


def test_probabilities_of_temperature_sampling_by_hand(monkeypatch):
    run = text_run({"name": "joint+temperature_sampling", "temperature_sampling": {"switch": 0.5}})
    found, kind = [], type(run.parts[1])
    real = kind.probabilities
    monkeypatch.setattr(kind, "probabilities", lambda self: (found.append((run.experience, self.place, real(self))), real(self))[1])
    seen, _ = watched(run, monkeypatch)
    assert [(e, n) for e, n, _ in found] == [(e, n) for e, steps in ((1, 35), (2, 45)) for n in range(steps)]
    for e, n, p in found:
        sizes = [200, 80, 80][: e + 1]
        hot = n < {1: 17.5, 2: 22.5}[e]
        weights = [s ** (1 / 5) if hot else s for s in sizes]
        assert p == pytest.approx([w / sum(weights) for w in weights])
    assert found[0][2] == pytest.approx([0.545696, 0.454304], abs=1e-5)  # 200^0.2 = 2.88540, 80^0.2 = 2.40225
    assert found[-1][2] == pytest.approx([5 / 9, 2 / 9, 2 / 9])
    hot, cold = seen[2][:22], seen[2][23:]
    drawn = [np.mean([e == 0 for *_, origin in part for e in origin]) for part in (hot, cold)]
    # 176 draws at 0.375 and 0.556: three standard errors
    assert abs(drawn[0] - 0.3752) < 0.11 and abs(drawn[1] - 5 / 9) < 0.113
    assert all(len(ids) == 8 for batches in seen for ids, *_ in batches)


def test_no_window_comes_again_before_its_corpus_is_used_up(monkeypatch):
    run = text_run({"name": "naive+temperature_sampling", "temperature_sampling": {"temperature": 100.0, "switch": 1.0}}, tokens=[640, 2560, 2560])
    seen, _ = watched(run, monkeypatch)
    own = tables(run)
    assert [i for ids, *_ in seen[0] for i in ids] == own[0]  # the first experience is left alone
    for c, size in enumerate((20, 80, 80)):
        order = [i for batches in seen[1:] for ids, _, origin in batches for i, e in zip(ids, origin, strict=True) if e == c]
        assert len(order) > 20
        for start in range(0, len(order), size):
            block = order[start : start + size]
            assert len(set(block)) == len(block) and set(block) <= set(own[c])
    for k, batches in enumerate(seen):
        assert all(c == (e == k) for _, current, origin in batches for c, e in zip(current, origin, strict=True))
        assert all(e <= k for *_, origin in batches for e in origin)


def test_temperature_sampling_is_refused_where_it_would_do_nothing():
    even = [2560, 2560, 2560]
    assert "same number of samples" in refused(MIXED, tokens=even)
    assert "both temperatures are 1" in refused({"name": "cumulative+temperature_sampling", "temperature_sampling": {"temperature": 1.0}})
    assert "never has more than one experience" in refused("downstream_only+temperature_sampling")
    assert "never has more than one experience" in refused("downstream_only+skill_it")
    assert run_cell(cell("naive+temperature_sampling", tokens=even))["status"] == "ok"  # replay in equal parts is something


# -- skill-it ---------------------------------------------------------------------------------------------------


def test_probabilities_of_skill_it_by_hand():
    run = text_run({"name": "joint+skill_it", "skill_it": {"eta": 0.5, "window": 3}})
    part = run.parts[1]
    part.setup()
    part.candidates = [0, 1]
    # A = [[1, .5], [.5, 1]], losses (2, 4) then (1, 3): exponents .5 (4 + 2.5) and .5 (5 + 3.5)
    a, b = math.exp(3.25), math.exp(4.25)
    assert part.weighted(np.array([[2.0, 4.0], [1.0, 3.0]])) == pytest.approx([a / (a + b), b / (a + b)])
    part.graph = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]  # row i, column j: training on 1 helps corpus 0 twice as much
    a, b = math.exp(0.5 * 3), math.exp(0.5 * 6)
    assert part.weighted(np.array([[2.0, 4.0], [1.0, 3.0]])) == pytest.approx([a / (a + b), b / (a + b)])


def test_skill_it_measures_on_held_samples_it_never_trains_on_and_pays_for_it(monkeypatch):
    run = text_run({"name": "naive+skill_it", "skill_it": {"update_every": 4, "window": 2, "probe_samples": 8}})
    part = run.parts[1]
    held = [set(part.held(c).tolist()) for c in range(3)]
    assert [len(h) for h in held] == [8, 8, 8] and all(h <= set(t) for h, t in zip(held, tables(run), strict=True))
    states, losses = {}, []
    real = type(part).measured

    def measured(self):
        states[len(losses)] = run.snapshot()
        losses.append(real(self))
        return losses[-1]

    monkeypatch.setattr(type(part), "measured", measured)
    seen, _ = watched(run, monkeypatch)
    assert not set().union(*held) & {i for batches in seen for ids, *_ in batches for i in ids}
    updates = part.report()["updates"]
    assert [(u["experience"], u["step"], len(u["losses"])) for u in updates] == [(1, 0, 2), (1, 4, 2), (1, 8, 2), (2, 0, 3), (2, 4, 3), (2, 8, 3)]
    # 45 steps of 8, and three measurements of two and of three corpora of 8 windows
    cost = run.costs["training"]
    assert (cost.forward_passes, cost.backward_passes, cost.gradient_steps) == (360 + 3 * 16 + 3 * 24, 360, 45)
    for k in (0, 5):
        run.restore_snapshot(states[k])
        run.model.eval()
        for c, found in enumerate(losses[k]):
            x, y = run.stream.gather(torch.from_numpy(np.array(sorted(held[c]))))
            with torch.no_grad():
                assert found == pytest.approx(float(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten())), rel=1e-5)
    A = np.where(np.eye(3, dtype=bool), 1.0, 0.5)
    weights = np.exp(0.5 * A @ (np.array(losses[4]) + np.array(losses[5])))  # the last two measurements
    assert updates[-1]["probabilities"] == pytest.approx((weights / weights.sum()).tolist())
    assert sum(part.report()["sampled"]) == 360


def test_skill_it_refuses_what_cannot_be():
    assert "graph = [[1.0]] is not valid: expected 3 rows of 3 numbers" in refused({"name": "naive+skill_it", "skill_it": {"graph": [[1.0]]}})
    assert "update_every = 1.5 is not valid" in refused({"name": "naive+skill_it", "skill_it": {"update_every": 1.5}})


def test_skill_it_stops_when_a_measurement_is_not_finite(monkeypatch):
    run = text_run("naive+skill_it")
    part = run.parts[1]
    part.setup()
    part.before_experience(run.stream.experiences[1])
    with torch.no_grad():
        next(run.model.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="skill_it"):
        part.probabilities()
