"""ER-ACE, MIR, iCaRL, BiC, WA and SLDA do what their sources say: losses, choices and rules by hand, refusals, and going on exactly."""

from __future__ import annotations

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize

from clsuite.batch import Batch
from clsuite.experiment.cell import run_cell
from clsuite.memory import Memory, herding

from .test_strategies import COLOUR, before_updates, begun, close, crossed, draws, execute, labels, pixels, refused, spy, weights  # noqa: F401
from .text_runs import gone_on

pytestmark = pytest.mark.unit

DOMAINS = ["scenario=domain_incremental", "scenario.dataset=digits", "scenario.experiences=2", "device=cpu"]
"""A stream whose experiences all have every class."""
GRADUAL = ["scenario=blurry", "scenario.gradual=true", "scenario.dataset=digits", "scenario.experiences=5", "scenario.samples_per_class=20", "device=cpu"]
"""A stream without borders."""


@pytest.fixture
def seen(spy):  # noqa: F811
    """Of every step the ids of its current samples; strategies take the modifier `spy` for it."""
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    return current


# -- herding ----------------------------------------------------------------------------------------------------


def test_herding_by_hand():
    """Mean (1.5, 1.7) / 3: first (.5, sqrt .75) with .74; then wanted (.5, .267): (1, 0) with .5; then wanted (0, .834): (0, 1)."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(0.75)]])
    assert herding(features, 3).tolist() == [2, 0, 1] and herding(features, 1).tolist() == [2] and herding(features, 9).tolist() == [2, 0, 1]


def test_herding_is_the_rule_of_the_paper():
    """Algorithm 4: the next one brings the mean of those so far nearest to the mean of all; one that comes out again counts, unlisted."""
    rng, repeated = np.random.default_rng(0), 0
    for _ in range(20):
        x = rng.random((15, 4))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        total, listed, looks = np.zeros(4), [], 0
        while len(listed) < 8:
            looks += 1
            nearest = min(range(15), key=lambda i: np.linalg.norm(x.mean(0) - (total + x[i]) / looks))
            total += x[nearest]
            repeated += nearest in listed
            listed += [nearest] * (nearest not in listed)
        assert herding(x, 8).tolist() == listed
    assert repeated > 5


def test_herding_lists_every_sample_even_when_one_always_comes_out():
    assert sorted(herding(np.tile([[0.6, 0.8]], (5, 1)), 5)) == list(range(5))


def test_priorities_that_are_given_say_what_stays():
    memory = Memory(6, "class_balanced", np.random.default_rng(0), lambda *_: Batch(lambda b: (b.ids, b.ids), torch.zeros(0), 0))
    for c in range(3):
        ids = np.arange(10 * c, 10 * c + 10)
        memory.insert(ids, np.full(10, c), np.full(10, c), 1 / (1 + np.roll(np.arange(10), 4)))  # the order is 4, 5, ..., 3
    assert sorted(memory.ids) == [4, 5, 14, 15, 24, 25]


# -- ER-ACE -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compete", "combine"), [("present", "sum"), ("present_and_unseen", "sum"), ("present", "mean")])
def test_er_ace_masks_the_current_samples_and_not_the_replayed_ones(compete, combine, run_of, small, seen, draws):  # noqa: F811
    ace = [f"strategy.compete={compete}", f"strategy.combine={combine}", "strategy.buffer_size=30", "strategy.replay_batch=7"]
    run = run_of(*small, "strategy=er_ace+spy", *ace)
    known, narrower = set(), []

    def see(loss, optimizer):
        y = labels(run, seen[-1])
        known.update(y.tolist())
        competing = sorted(set(y.tolist()) | (set() if compete == "present" else set(range(10)) - known))
        logits = run.model(pixels(run, seen[-1]))[:, competing]
        expected = F.cross_entropy(logits, torch.tensor([competing.index(c) for c in y.tolist()]))
        narrower.append(len(competing) < 10)
        if draws:
            expected = expected + crossed(run, draws[-1].ids.numpy())
            expected = expected / 2 if combine == "mean" else expected
        assert close(loss, expected)

    before_updates(run, see)
    execute(run)
    assert len(draws) == 25 and sum(narrower) > 10


def test_er_ace_may_learn_the_first_experience_plainly(run_of, small, seen, draws):  # noqa: F811
    run = run_of(*small, "strategy=er_ace+spy", "strategy.start=second_experience", "strategy.buffer_size=30")
    before_updates(run, lambda loss, optimizer: run.experience == 0 and plain.append(close(loss, crossed(run, seen[-1]))))
    plain = []
    execute(run)
    assert plain == [True] * 10 and len(draws) == 16


def test_er_ace_leaves_the_rows_of_absent_classes_alone(run_of, small):
    run = run_of(*small, "strategy=er_ace", "strategy.start=first_step")
    _, batch = begun(run)
    before = run.model.head.weight.detach().clone()
    run.base.training_step(batch)
    moved = (run.model.head.weight != before).any(1)
    assert moved.nonzero()[:, 0].tolist() == sorted(set(batch.y.tolist())) != list(range(10))


# -- MIR --------------------------------------------------------------------------------------------------------


def test_mir_replays_what_a_step_on_the_current_samples_would_harm_most(run_of, small, seen, monkeypatch):
    run = run_of(
        *small, "strategy=mir+spy", "strategy.buffer_size=60", "strategy.replay_batch=5", "strategy.scored_per_replayed=3", "training.precision=float64"
    )
    memory, drawn, at, checked = run.memories["replay"], [], Memory.at, []
    monkeypatch.setattr(Memory, "at", lambda self, *a: (drawn.append(at(self, *a)), drawn[-1])[1])

    def see(loss, optimizer):
        if run.experience == 0:
            assert not drawn and close(loss, crossed(run, seen[-1]))
            return
        candidates, chosen = (b.ids.numpy() for b in drawn)
        drawn.clear()
        assert len(candidates) == 15 and set(run.stream.labels_of(candidates)) <= {c for e in run.stream.experiences[: run.experience] for c in e.classes}
        after = copy.deepcopy(run.model)
        F.cross_entropy(after(pixels(run, seen[-1])), labels(run, seen[-1])).backward()
        with torch.no_grad():
            for p in after.parameters():
                p -= 0.1 * p.grad
            rises = [F.cross_entropy(m(pixels(run, candidates)), labels(run, candidates), reduction="none") for m in (after, run.model)]
        highest = candidates[(rises[0] - rises[1]).argsort(descending=True)[:5]]
        assert sorted(chosen) == sorted(highest)
        checked.append(set(memory.experience))
        # the loss given to the update has the gradient of both means
        gradients = torch.autograd.grad(loss, list(run.model.parameters()), retain_graph=True)
        wanted = torch.autograd.grad(crossed(run, seen[-1]) + crossed(run, chosen), list(run.model.parameters()))
        for g, w in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)

    before_updates(run, see)
    execute(run)
    assert len(checked) == 16 and {0, 1} <= set().union(*checked)
    # forward: 400 current, and from experience 1 on twice 15 candidates and 5 replayed ones; backward: each sample once
    assert run.costs["training"].forward_passes == 400 + 16 * 35 and run.costs["training"].backward_passes == 400 + 16 * 5


def test_mir_takes_candidates_of_the_current_experience_where_it_is_told_to(run_of, small, cell_of):
    for settings, expected in ((["strategy.candidates=all"], True), ([], False)):
        run = run_of(*small, "strategy=mir", "strategy.buffer_size=500", *settings)
        found = []
        before_updates(
            run, lambda loss, optimizer, run=run, found=found: found.append((run.memories["replay"].experience[run.base.drawn()] == run.experience).any())
        )
        execute(run)
        assert any(found) is expected
    assert run_cell(cell_of(*GRADUAL, "training.epochs=1", "strategy=mir"))["status"] == "ok"
    assert "valid: all" in refused(lambda: run_cell(cell_of(*GRADUAL, "strategy=mir", "strategy.candidates=past")))
    assert "valid: first_step" in refused(lambda: run_cell(cell_of(*GRADUAL, "strategy=er_ace", "strategy.start=second_experience")))


def test_the_virtual_step_of_mir_leaves_no_trace(run_of, tiny):
    run = run_of(*COLOUR, "strategy=mir", "strategy.buffer_size=30", scenario={"dataset": tiny.name})
    _, batch = begun(run)
    run.memories["replay"].add(np.arange(30), run.stream.labels_of(np.arange(30)), np.full(30, -1))
    loss = run.base.loss(batch)
    gradients = dict(zip(weights(run), torch.autograd.grad(loss, list(run.model.parameters())), strict=True))
    before = {name: t.clone() for name, t in run.model.state_dict().items()}
    rises = run.base.rises(run.memories["replay"].everything(), gradients)
    assert rises.shape == (30,) and rises.abs().min() > 0
    assert all(torch.equal(t, before[name]) for name, t in run.model.state_dict().items())  # weights and running statistics


# -- iCaRL ------------------------------------------------------------------------------------------------------

ICARL = ["strategy.buffer_size=20"]


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_loss_of_icarl_by_hand(form, run_of, small, seen, draws):  # noqa: F811
    run = run_of(*small, "strategy=icarl+spy", *ICARL, f"strategy.loss_form={form}", "training.precision=float64")
    teachers, sizes = [None], []

    def see(loss, optimizer):
        i = run.experience
        if i == len(teachers):
            teachers.append(copy.deepcopy(run.base.teacher))
        replayed = draws[-1].ids.numpy() if i else np.zeros(0, int)
        ids = np.concatenate([seen[-1], replayed])
        sizes.append((len(seen[-1]), len(replayed)))
        p = torch.sigmoid(run.model(pixels(run, ids)))
        target = torch.eye(10, dtype=torch.float64)[labels(run, ids)]
        old = sorted({c for e in run.stream.experiences[:i] for c in e.classes})
        if old:
            target[:, old] = torch.sigmoid(teachers[i](pixels(run, ids)))[:, old].detach()
        terms = -(target * p.log() + (1 - target) * (1 - p).log())
        known = sorted({*old, *run.stream.experiences[i].classes})
        assert close(loss, terms[:, known].sum(1).mean() if form == "paper" else terms.mean())

    before_updates(run, see)
    execute(run)
    # 60 new samples and 20 exemplars in batches of 16: 12 and 4, so that an epoch has the 5 steps that 80 samples make
    assert sizes == [(16, 0)] * 10 + [(12, 4)] * 20
    assert not torch.equal(teachers[1].head.weight, teachers[2].head.weight)


def test_exemplars_may_be_added_to_whole_batches(run_of, small, seen, draws):  # noqa: F811
    execute(run_of(*small, "strategy=icarl+spy", *ICARL, "strategy.replay_batch=9"))
    assert [len(s) for s in seen] == [16] * 10 + [16, 16, 16, 12] * 4 and [len(d) for d in draws] == [9] * 16


def test_exemplars_are_those_of_herding_on_features_of_unit_length(run_of, small, spy):  # noqa: F811
    found = []

    def look(self, experience):
        memory, model = self.memory, self.model
        chosen = {c: memory.ids[memory.labels == c][np.argsort(-memory.priority[memory.labels == c])] for c in np.unique(memory.labels).tolist()}
        for c in experience.classes:
            ids = np.flatnonzero(self.run.stream.outputs() == c)
            ids = np.intersect1d(ids, self.run.stream.ids(experience.segments))
            with torch.no_grad():
                h = model.features(pixels(self.run, ids)).double().numpy()
            h /= np.linalg.norm(h, axis=1, keepdims=True)
            assert chosen[c].tolist() == ids[herding(h, len(chosen[c]))].tolist()
        found.append(chosen)

    spy(after_experience=look)
    execute(run_of(*small, "strategy=icarl+spy", *ICARL))
    assert [sorted(map(len, f.values())) for f in found] == [[5] * 4, [2] + [3] * 6, [2] * 10]
    for before, after in ((found[0], found[1]), (found[1], found[2])):
        assert all(after[c].tolist() == ids[: len(after[c])].tolist() for c, ids in before.items())  # those chosen last go first


def test_icarl_predicts_the_nearest_mean_of_its_exemplars(run_of, small):
    run = run_of(*small, "strategy=icarl", *ICARL)
    loop = execute(run)
    memory, test = run.memories["replay"], np.arange(run.stream.source.size("test"))
    features = {}
    with torch.no_grad():
        for split, ids in (("train", memory.ids), ("test", test)):
            h = run.model.features(pixels(run, ids, split)).double().numpy()
            features[split] = h / np.linalg.norm(h, axis=1, keepdims=True)
        scores = run.base.predict(pixels(run, test, "test")).numpy()
    means = np.stack([features["train"][memory.labels == c].mean(0) for c in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    distances = np.linalg.norm(features["test"][:, None] - means, axis=2)
    np.testing.assert_allclose(scores, -distances, atol=1e-5)
    y = run.stream.source.labels("test")
    hits = [(distances[e.indices].argmin(1) == y[e.indices]).mean() for e in run.stream.evaluation_sets]
    np.testing.assert_allclose(loop.measurements.R[-1], hits, atol=1e-9)


def test_class_means_are_of_the_network_as_it_is_deployed(run_of, small, spy):  # noqa: F811
    """A part that deploys other features: means of the network before would be far from them."""

    def negate(self):
        with torch.no_grad():
            for p in self.model.hidden.parameters():
                p.neg_()

    spy(before_evaluation=negate, after_evaluation=negate)
    run = run_of(*small, "strategy=icarl+spy", *ICARL, "training.probe_every=3")
    loop = execute(run)
    before = run.base.class_means()[0]
    with loop.deployed():
        run.base.predict(pixels(run, [0], "test"))
        deployed = run.base._means[0]
    assert not torch.allclose(before, deployed)
    negate(run.parts[1])
    torch.testing.assert_close(run.base.class_means()[0], deployed)


def test_mirrored_means_average_mirror_images_too(run_of, small):
    run = run_of(*small, "strategy=icarl", *ICARL, "strategy.mirrored_means=true")
    execute(run)
    memory = run.memories["replay"]
    means, known = run.base.class_means()
    assert known.all()
    x = pixels(run, memory.ids)
    with torch.no_grad():
        h = sum(F.normalize(run.model.features(v).double(), dim=1) for v in (x, x.flip(3)))
    for c in range(10):
        torch.testing.assert_close(means[c], F.normalize(h[memory.labels == c].sum(0), dim=0))


def test_the_head_of_icarl_may_predict_among_classes_seen(run_of, small, cell_of):
    run = run_of(*small, "strategy=icarl", *ICARL, "strategy.classifier=head")
    found = []
    loop = execute(run, on_step=lambda run: found.append(run.base.predict(pixels(run, np.arange(50), "test")).argmax(1)) if run.experience == 1 else None)
    seven = {c for e in run.stream.experiences[:2] for c in e.classes}
    assert set(torch.cat(found).tolist()) <= seven
    x = pixels(run, np.arange(50), "test")
    torch.testing.assert_close(run.base.predict(x), run.model(x))
    assert run.base.label() == "icarl (classifier: head)" and np.isfinite(loop.measurements.R[-1]).all()
    assert "training.logit_mask = 'seen' does nothing" in refused(lambda: run_cell(cell_of(*small, "strategy=icarl", "training.logit_mask=seen")))


# -- BiC --------------------------------------------------------------------------------------------------------

BIC = ["strategy.buffer_size=50", "strategy.validation=0.4"]
"""20 samples held out, 30 exemplars: 5, 2 and 2 held out of each class in experiences of 4, 7 and 10 classes seen."""


def test_bic_never_trains_on_what_it_holds_out(run_of, small, seen, draws):  # noqa: F811
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


def test_the_loss_of_bic_by_hand(run_of, small, seen, draws):  # noqa: F811
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


def test_the_weight_of_the_distillation_may_be_given(run_of, small, seen, draws):  # noqa: F811
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


# -- SLDA -------------------------------------------------------------------------------------------------------


def streamed(means, counts, covariance, t, x, y):
    """The source's update, sample by sample."""
    for r, c in zip(x, y, strict=True):
        residual = r - means[c]
        covariance = (t * covariance + t / (t + 1) * np.outer(residual, residual)) / (t + 1)
        means[c] += residual / (counts[c] + 1)
        counts[c] += 1
        t += 1
    return covariance, t


@pytest.mark.parametrize("way", ["streaming", "base", "fixed"])
def test_slda_by_hand(way, run_of, small, monkeypatch):
    from sklearn.covariance import OAS

    slda = ["strategy=slda", f"strategy.covariance={way}", "strategy.shrinkage=0.01"]
    run = run_of(*small, *slda, "training.precision=float64")
    monkeypatch.setattr("clsuite_strategies.slda.CHUNK", 17)  # several pieces an experience
    execute(run)
    means, counts, covariance, t = np.zeros((10, 20)), np.zeros(10), np.zeros((20, 20)), 0
    for e in run.stream.experiences:
        ids = run.stream.ids(e.segments)
        with torch.no_grad():
            x, y = run.model.features(pixels(run, ids)).numpy(), labels(run, ids).numpy()
        if way != "streaming" and e.index == 0:
            means[np.unique(y)] = [x[y == c].mean(0) for c in np.unique(y)]
            counts, t = np.bincount(y, minlength=10).astype(float), len(y)
            covariance = OAS(assume_centered=True).fit(x - means[y]).covariance_
        else:
            moved, t = streamed(means, counts, covariance, t, x, y)
            covariance = covariance if way == "fixed" else moved
    part = run.base
    np.testing.assert_allclose(part.means, means, atol=1e-12)
    np.testing.assert_allclose(part.scatter / part.scattered, covariance, atol=1e-12)
    assert part.counts.tolist() == counts.tolist() == [20] * 10
    test = pixels(run, np.arange(60), "test")
    with torch.no_grad():
        h = run.model.features(test).numpy()
        scores = run.base.predict(test).numpy()
    inverse = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(20))
    np.testing.assert_allclose(scores, h @ inverse @ means.T - 0.5 * np.einsum("ci,ij,cj->c", means, inverse, means), rtol=1e-7, atol=1e-8)


def test_slda_trains_nothing_after_the_first_experience_and_predicts_only_classes_seen(run_of, small, spy):  # noqa: F811
    predicted = {}
    spy(after_evaluation=lambda self: predicted.update({self.run.experience: self.run.base.predict(pixels(self.run, np.arange(300), "test")).argmax(1)}))
    run = run_of(*small, "strategy=slda+spy")
    ended = {}
    execute(run, on_step=lambda r: ended.update({r.experience: r.weights_digest()}))
    assert list(ended) == [0] and run.weights_digest() == ended[0] and run.costs["training"].gradient_steps == 10
    for i, found in predicted.items():
        assert set(found.tolist()) <= {c for e in run.stream.experiences[: i + 1] for c in e.classes}
    assert sorted(predicted) == [0, 1, 2] and len(predicted[2].unique()) > 7
    assert run.base.label() == "slda (encoder: first_experience)"


def test_slda_refuses_an_encoder_that_is_not_there(cell_of, small):
    text = refused(lambda: run_cell(cell_of(*small, "strategy=slda", "strategy.encoder=pretrained")))
    assert "strategy.encoder" in text and "first_experience, random" in text


# -- going on ---------------------------------------------------------------------------------------------------

STOPPED = {
    "er_ace": ["strategy=er_ace", "strategy.compete=present_and_unseen", "strategy.buffer_size=30"],
    "mir": ["strategy=mir+slow_learner", "strategy.buffer_size=30", "training.schedule.name=cosine"],
    "icarl": ["strategy=icarl+fpf", "strategy.buffer_size=30", "strategy.fpf.distillation=0.5", "strategy.fpf.period=7", "strategy.fpf.steps_each=2"],
    "bic": ["strategy=bic", "strategy.buffer_size=50", "strategy.bias_epochs=5", "strategy.exemplars=random"],
    "wa": ["strategy=wa+fpf", "strategy.buffer_size=30", "strategy.fpf.when=evaluation", "strategy.fpf.steps_each=2"],
    "slda": ["strategy=slda", "strategy.covariance=base"],
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name, cell_of, small, tmp_path):
    def make():
        return cell_of(*small, "training.augmentation=[crop]", "training.momentum=0.9", "training.border_optimizer=keep", *STOPPED[name])

    whole = run_cell(make())
    for at in (4, 10) if name == "slda" else (4, 10, 13, 18):  # in an experience, and where one ends
        again = gone_on(make, tmp_path / str(at), at)
        for key in ("weights_sha256", "matrix", "reports", "resume"):
            assert again[key] == whole[key] and again["resume"] == "exact"
        cost = {k: v for k, v in whole["cost"].items() if "passes" in k or k == "gradient_steps"}
        assert cost == {k: again["cost"][k] for k in cost}
