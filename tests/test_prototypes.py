"""Nearest class mean, SLDA and alignment: statistics of features, predictions and losses by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clsuite.experiment.cell import run_cell

from .strategy_runs import before_updates, begun, execute, labels, moved, pixels, refused, weights

pytestmark = pytest.mark.unit

# -- nearest class mean -----------------------------------------------------------------------------------------


def numpy_nearest_mean(run, test_ids):
    """Distances [samples, classes] to class means of normalised features of an MLP, in numpy."""
    layers = [(p["weight"].double().numpy(), p["bias"].double().numpy()) for p in ({k: v.detach() for k, v in m.named_parameters()} for m in run.model.hidden)]

    def features(x):
        h = x.double().flatten(1).numpy()
        for weight, bias in layers:
            h = np.maximum(h @ weight.T + bias, 0)
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    ids = np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences])
    h, y = features(pixels(run, ids)), labels(run, ids).numpy()
    means = np.stack([h[y == c].mean(0) for c in range(10)])
    return np.linalg.norm(features(pixels(run, test_ids, "test"))[:, None] - means, axis=2)


@pytest.mark.parametrize("encoder", ["random", "first_experience"])
def test_ncm_predicts_the_nearest_mean_of_normalised_features(encoder, run_of, small):
    run = run_of(*small, "strategy=ncm", f"strategy.encoder={encoder}")
    initial = weights(run)
    ended = {}
    loop = execute(run, on_step=lambda r: ended.update({r.experience: weights(r)}))
    test = np.arange(run.stream.source.size("test"))
    distances = numpy_nearest_mean(run, test)
    run.model.eval()
    with torch.no_grad():
        scores = run.base.predict(pixels(run, test, "test")).numpy()
    np.testing.assert_allclose(scores, -distances, atol=1e-5)
    y = run.stream.source.labels("test")
    hits = [(distances[e.indices].argmin(1) == y[e.indices]).mean() for e in run.stream.evaluation_sets]
    np.testing.assert_allclose(loop.measurements.R[-1], hits, atol=1e-9)
    assert run.base.label() == f"ncm (encoder: {encoder})"
    if encoder == "random":
        assert run.costs["training"].gradient_steps == 0 and not moved(initial, weights(run))
    else:
        assert run.costs["training"].gradient_steps == 10 and list(ended) == [0]  # the steps of experience 0
        assert moved(initial, ended[0]) and not moved(ended[0], weights(run))


def test_ncm_with_pretrained_weights_trains_nothing(colour, weight_file):
    run = colour(weight_file, "strategy=ncm")
    before = run.weights_digest()
    loop = execute(run)
    assert run.base.label() == "ncm (encoder: pretrained)" and run.base.report() == {"encoder": "pretrained"}
    assert run.weights_digest() == before and run.costs["training"].gradient_steps == 0
    assert np.isfinite(loop.measurements.R).all()


def test_ncm_without_a_choice_or_weights_learns_its_encoder_and_says_so(cell_of, small):
    assert run_cell(cell_of(*small, "strategy=ncm"))["strategy"] == "ncm (encoder: first_experience)"


def test_ncm_refuses_an_encoder_that_is_not_there(cell_of, small):
    text = refused(lambda: run_cell(cell_of(*small, "strategy=ncm", "strategy.encoder=pretrained")))
    assert "strategy.encoder" in text and "first_experience, random" in text


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


def test_slda_trains_nothing_after_the_first_experience_and_predicts_only_classes_seen(run_of, small, spy):
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


# -- alignment --------------------------------------------------------------------------------------------------


ALIGN = ["strategy.alignment.samples_per_class=20", "strategy.alignment.batch_size=32", "strategy.alignment.epochs=3"]


def head(run):
    return torch.cat([p.detach().flatten() for p in run.model.head.parameters()]).clone()


def test_an_aligned_head_is_deployed_and_taken_back(run_of, small, spy):
    outer, inner, rows = [], [], []
    spy("outer", before_evaluation=lambda self: outer.append(head(self.run)), after_evaluation=lambda self: outer.append(head(self.run)))

    def deployed(self):
        inner.append(head(self.run))
        rows.append((self.run.experience, weights(self.run)))

    spy("inner", before_evaluation=deployed)
    run = run_of(*small, "strategy=naive+outer+alignment+inner", *ALIGN)
    execute(run)
    for i in range(3):
        before, aligned, after = outer[2 * i], inner[i], outer[2 * i + 1]
        assert torch.equal(before, after)
        assert torch.equal(before, aligned) == (i == 0)  # none in experience 0
    unseen = list(run.stream.experiences[2].classes)
    aligned, before = inner[1].view(-1)[: 10 * 20].view(10, 20), outer[2].view(-1)[: 10 * 20].view(10, 20)
    assert torch.equal(aligned[unseen], before[unseen])  # rows of classes nobody has seen take no part


def test_alignment_changes_what_is_measured_and_nothing_that_is_trained(cell_of, small):
    plain = run_cell(cell_of(*small, "strategy=naive"))
    aligned = run_cell(cell_of(*small, "strategy=naive+alignment", *ALIGN))
    assert aligned["weights_sha256"] == plain["weights_sha256"]
    assert aligned["matrix"][0] == plain["matrix"][0]
    assert aligned["metrics"]["final_accuracy"] > plain["metrics"]["final_accuracy"] + 0.1  # naive knows three classes at the end
    assert aligned["cost"]["gradient_steps"] == plain["cost"]["gradient_steps"]
    # 7 and 10 classes of 20 drawn features, batches of 32, 3 epochs
    assert aligned["cost"]["deployment"]["gradient_steps"] == 3 * (math.ceil(140 / 32) + math.ceil(200 / 32))


def test_class_statistics_are_numpy_s_on_plain_features_when_a_class_was_learned(run_of, small, spy):
    known = {}

    def gather(self, experience):
        with torch.no_grad():
            for c in experience.classes:
                ids = np.flatnonzero(self.run.stream.source.labels("train") == c)
                ids = np.intersect1d(ids, self.run.stream.ids(experience.segments))
                h = self.model.features(pixels(self.run, ids)).double().numpy()
                known[c] = (h.mean(0), np.cov(h, rowvar=False) + 1e-4 * np.eye(20), experience.index)

    spy(after_experience=gather)
    run = run_of(*small, "strategy=naive+alignment+spy", *ALIGN, "training.augmentation=[crop,flip]")
    execute(run)
    part = run.parts[1]
    assert sorted(part.means) == sorted(known) == list(range(10))
    for c, (mean, covariance, learned) in known.items():
        np.testing.assert_allclose(part.means[c], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(part.factors[c] @ part.factors[c].T, covariance, rtol=1e-3, atol=1e-5)
        assert part.learned_in[c] == learned


class Flat:
    """A generator of nothing but zeros, in order."""

    standard_normal = staticmethod(np.zeros)
    permutation = staticmethod(np.arange)


@pytest.mark.parametrize("shrink", [True, False])
def test_means_of_older_classes_are_shrunk(shrink, run_of, small):
    run = run_of(*small, "strategy=naive+alignment", *ALIGN, f"strategy.alignment.shrink_old_means={str(shrink).lower()}")
    execute(run)
    run.progress.position.experience = 2
    part = run.parts[1]
    x, places = part.draw(Flat)
    scale = {0: 0.9 + 0.1 / 3, 1: 0.9 + 0.2 / 3, 2: 1.0} if shrink else dict.fromkeys(range(3), 1.0)
    for k, c in enumerate(part.means):
        assert (places == k).sum() == 20
        expected = scale[part.learned_in[c]] * part.means[c].float()
        torch.testing.assert_close(x[places == k], expected.expand(20, -1), rtol=1e-5, atol=1e-6)


def test_drawn_features_have_the_covariance_of_their_class(run_of, small):
    run = run_of(*small, "strategy=naive+alignment", *ALIGN)
    execute(run)
    run.progress.position.experience = 2
    part = run.parts[1]
    part.samples_per_class = 4000
    x, places = part.draw(np.random.default_rng(0))
    for k, c in enumerate(part.means):
        expected = (part.factors[c] @ part.factors[c].T).numpy()
        found = np.cov(x[places == k].double().numpy(), rowvar=False)
        assert np.abs(found - expected).max() < 0.12 * expected.max()


@pytest.mark.parametrize("temperature", [0.1, 0.5, None])
def test_the_loss_of_logit_normalisation_by_hand(temperature, run_of, small, monkeypatch):
    text = "null" if temperature is None else temperature
    run = run_of(*small, "strategy=naive+alignment", "strategy.alignment.epochs=1", f"strategy.alignment.temperature={text}", "training.precision=float64")
    begun(run)
    part, layer = run.parts[1], run.model.head
    run.progress.position.experience = 1
    # classes 7 and 2 from experience 0, class 4 from experience 1: two blocks
    part.means = {c: torch.zeros(20, dtype=torch.float64) for c in (7, 2, 4)}
    part.learned_in = {7: 0, 2: 0, 4: 1}
    part.samples_per_class, part.batch_size = 2, 6
    x, y = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 20))), torch.tensor([0, 1, 2, 2, 1, 0])
    monkeypatch.setattr(type(part), "draw", lambda self, rng: (x, y))
    W, b = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    losses = []
    for features, place in zip(x, y, strict=True):
        z7, z2, z4 = (W[c] @ features + b[c] for c in (7, 2, 4))
        n = ((z7**2 + z2**2).sqrt() + (z4**2).sqrt()) / 2 + 1e-7
        z = torch.stack([z7, z2, z4])
        z = z if temperature is None else z / (n * temperature)
        losses.append(-z[place] + z.exp().sum().log())
    expected = sum(losses) / 6
    gradients = torch.autograd.grad(expected, [W, b])
    seen = []
    before_updates(run, lambda loss, optimizer: seen.append(loss.item()))
    part.before_evaluation()
    assert seen == [pytest.approx(expected.item(), rel=1e-9)]
    torch.testing.assert_close(layer.weight.grad, gradients[0], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(layer.bias.grad, gradients[1], rtol=1e-7, atol=1e-10)
