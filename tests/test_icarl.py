"""iCaRL: herding, the loss, exemplars, class means and predictions by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.batch import Batch
from clsuite.experiment.cell import run_cell
from clsuite.memory import Memory, herding

from .strategy_runs import before_updates, close, execute, labels, pixels, refused

pytestmark = pytest.mark.unit


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


ICARL = ["strategy.buffer_size=20"]


@pytest.mark.parametrize("form", ["paper", "code"])
def test_the_loss_of_icarl_by_hand(form, run_of, small, seen, draws):
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


def test_exemplars_may_be_added_to_whole_batches(run_of, small, seen, draws):
    execute(run_of(*small, "strategy=icarl+spy", *ICARL, "strategy.replay_batch=9"))
    assert [len(s) for s in seen] == [16] * 10 + [16, 16, 16, 12] * 4 and [len(d) for d in draws] == [9] * 16


def test_exemplars_are_those_of_herding_on_features_of_unit_length(run_of, small, spy):
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


def test_class_means_are_of_the_network_as_it_is_deployed(run_of, small, spy):
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
