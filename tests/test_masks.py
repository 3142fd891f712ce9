"""Views and losses of image training, against loops over single samples written here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.unit
BASE = ["scenario.experiences=3", "scenario.class_order=[3,1,5,0,2,4]", "model.hidden=[8]", "training.batch_size=8", "device=cpu"]
CLASSES = [(3, 1), (5, 0), (2, 4)]  # of each experience, as the class order says


@pytest.fixture
def masked_run(run_of, tiny):
    def make(mask, strategy="replay", *more):
        return run_of(*BASE, f"training.logit_mask={mask}", f"strategy={strategy}", *more, scenario={"dataset": tiny.name})

    return make


def ids_of(run, *classes):
    """Two sample ids of each class."""
    labels = run.stream.source.labels("train")
    return np.concatenate([np.flatnonzero(labels == c)[:2] for c in classes])


def step(run, experience, replayed):
    """A step's batch: samples of two classes of `experience`, and a memory draw of `replayed` classes, in the way of the loop."""
    run.progress.position.experience = experience
    current = run.current_batch(torch.from_numpy(ids_of(run, *CLASSES[experience])), experience, None)
    run.workload.begin_step()
    run.workload.note_labels(current.ids)
    if not replayed:
        return current
    origin = {c: e for e, classes in enumerate(CLASSES) for c in classes}
    ids = ids_of(run, *replayed)
    run.memories["replay"].add(ids, run.stream.labels_of(ids), np.array([origin[c] for c in run.stream.labels_of(ids)]), {})
    return current + run.memories["replay"].sample(100)


def cross_entropy(logits, targets, allowed):
    """Mean of -log softmax over the allowed outputs of each sample, in float64."""
    total = 0.0
    for z, y, classes in zip(logits.tolist(), targets.tolist(), allowed, strict=True):
        assert y in classes
        total += math.log(sum(math.exp(z[c]) for c in classes)) - z[y]
    return total / len(targets)


def allowed_by_hand(mask, batch, experience):
    labels = set(batch.y.tolist())
    if mask == "none":
        return [set(range(6))] * len(batch)
    if mask == "batch":
        return [labels] * len(batch)
    if mask == "experience":
        return [set(CLASSES[e]) for e in batch.experience.tolist()]
    return [{c for classes in CLASSES[: experience + 1] for c in classes}] * len(batch)


@pytest.mark.parametrize("mask", ["none", "batch", "experience", "seen"])
@pytest.mark.parametrize(("experience", "replayed"), [(0, ()), (1, (3,)), (2, (3, 0)), (2, (1,))])
def test_the_loss_is_cross_entropy_over_the_outputs_the_mask_leaves(masked_run, mask, experience, replayed):
    run = masked_run(mask)
    batch = step(run, experience, replayed)
    logits = torch.randn(len(batch), 6, generator=torch.Generator().manual_seed(0)) * 3
    expected = cross_entropy(logits, batch.y, allowed_by_hand(mask, batch, experience))
    assert float(run.workload.loss(logits, batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mask", ["batch", "experience", "seen"])
def test_gradients_of_masked_outputs_are_zero_and_of_others_are_not(masked_run, mask):
    run = masked_run(mask)
    batch = step(run, 1, (3,))
    logits = torch.randn(len(batch), 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    run.workload.loss(logits, batch).backward()
    for row, classes in zip(logits.grad, allowed_by_hand(mask, batch, 1), strict=True):
        assert all((row[c] != 0) == (c in classes) for c in range(6))


def test_the_batch_mask_holds_in_every_loss_of_a_step(masked_run):
    """With a loss for the current and one for the replayed samples, both see the labels of both."""
    run = masked_run("batch")
    batch = step(run, 2, (3, 0))
    current = batch.current_only()
    logits = torch.randn(len(current), 6, generator=torch.Generator().manual_seed(2))
    assert float(run.workload.loss(logits, current)) == pytest.approx(cross_entropy(logits, current.y, [{2, 4, 3, 0}] * 4), rel=1e-5)


def test_the_batch_mask_forgets_the_step_before(masked_run):
    run = masked_run("batch")
    step(run, 0, ())
    batch = step(run, 1, ())
    logits = torch.randn(len(batch), 6, generator=torch.Generator().manual_seed(2))
    assert float(run.workload.loss(logits, batch)) == pytest.approx(cross_entropy(logits, batch.y, [{5, 0}] * 4), rel=1e-5)


def test_the_seen_mask_of_replayed_samples_alone_holds_what_the_stream_has_shown(masked_run):
    run = masked_run("seen")
    batch = step(run, 2, (3,))
    replayed = run.memories["replay"].everything()
    assert set(replayed.experience.tolist()) == {0} and len(batch) > len(replayed)
    logits = torch.randn(len(replayed), 6, generator=torch.Generator().manual_seed(3))
    assert float(run.workload.loss(logits, replayed)) == pytest.approx(cross_entropy(logits, replayed.y, [set(range(6))] * 2), rel=1e-5)


@pytest.mark.parametrize("mask", ["experience", "seen"])
def test_a_target_is_never_masked(masked_run, mask):
    run = masked_run(mask)
    run.progress.position.experience = 0
    batch = run.current_batch(torch.from_numpy(ids_of(run, 4)), 0, None)  # class 4 belongs to experience 2
    logits = torch.zeros(2, 6)
    assert float(run.workload.loss(logits, batch)) == pytest.approx(math.log(3))  # classes 3, 1 and the target


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_replay_under_the_batch_mask_sees_current_and_replayed_classes(masked_run, combine):
    run = masked_run("batch", "replay", f"strategy.combine={combine}", "strategy.replay_batch=100")
    run.begin_optimizer()
    batch = step(run, 1, (3,)).current_only()
    weights = run.snapshot()
    loss = run.base.training_step(batch)
    after = run.model(torch.zeros(1, 3, 8, 8))
    run.restore_snapshot(weights)
    replayed = run.memories["replay"].everything()
    terms = [cross_entropy(run.model(b.x), b.y, [{5, 0, 3}] * len(b)) for b in (batch, replayed)]
    expected = sum(terms) if combine == "sum" else (4 * terms[0] + 2 * terms[1]) / 6
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert not torch.equal(after, run.model(torch.zeros(1, 3, 8, 8)))


# -- views ------------------------------------------------------------------------------------------------------


def by_hand(pixels, draws, wanted, padding=4, brightness=63 / 255, mean=None, std=None):
    """One sample at a time: zero padding, window, mirror, brightness, normalisation."""
    out = []
    for image, (down, right, mirror, light) in zip(pixels.numpy(), draws, strict=True):
        x = image
        if "crop" in wanted:
            padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
            top, left = min(int(down * (2 * padding + 1)), 2 * padding), min(int(right * (2 * padding + 1)), 2 * padding)
            x = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        if "flip" in wanted and mirror < 0.5:
            x = x[:, :, ::-1]
        x = x.astype(np.float64) / 255
        if "brightness" in wanted:
            x = np.clip(x * (1 + brightness * (2 * light - 1)), 0, 1)
        out.append(x if mean is None else (x - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1)))
    return np.stack(out)


AUGMENTATIONS = [["crop"], ["flip"], ["brightness"], ["crop", "flip"], ["crop", "flip", "brightness"]]


@pytest.mark.parametrize("wanted", AUGMENTATIONS, ids="+".join)
@pytest.mark.parametrize("normalise", ["none", "dataset"])
def test_views_equal_a_loop_over_samples(run_of, tiny, wanted, normalise):
    run = run_of(*BASE, scenario={"dataset": tiny.name}, training={"augmentation": wanted, "normalise": normalise, "crop_padding": 2, "brightness": 0.8})
    ids = torch.arange(60)
    draws = np.random.default_rng(5).random((60, 4), dtype=np.float32)
    draws[0], draws[1] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    x, y = run.workload.view(run.current_batch(ids, 0, draws))
    pixels = torch.from_numpy(tiny.images("train")[:60])
    statistics = {"mean": tiny.mean, "std": tiny.std} if normalise == "dataset" else {}
    assert x.shape == (60, 3, 8, 8) and x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), by_hand(pixels, draws, wanted, 2, 0.8, **statistics), atol=2e-6)
    assert y.tolist() == tiny.labels("train")[:60].tolist()
    if normalise == "none":
        assert x.min() >= 0 and x.max() <= 1
    again, _ = run.workload.view(run.current_batch(ids, 0, draws))
    assert torch.equal(x, again)


def test_colour_images_are_normalised_by_default_and_not_clipped(run_of, tiny):
    run = run_of(*BASE, scenario={"dataset": tiny.name})
    x, _ = run.workload.view(run.current_batch(torch.arange(84), 0, None))
    np.testing.assert_allclose(x.mean((0, 2, 3)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 2, 3), unbiased=False).numpy(), 1, atol=1e-5)


def test_draws_are_four_a_sample_and_none_without_augmentation(run_of, tiny):
    plain = run_of(*BASE, scenario={"dataset": tiny.name})
    assert plain.workload.draws(5, 0, "augmentation", 0, 0) is None
    augmented = run_of(*BASE, scenario={"dataset": tiny.name}, training={"augmentation": ["flip"]})
    draws = augmented.workload.draws(5, 0, "augmentation", 0, 0)
    assert draws.shape == (5, 4) and draws.dtype == np.float32
    assert (draws == augmented.workload.draws(5, 0, "augmentation", 0, 0)).all() and (draws != augmented.workload.draws(5, 0, "augmentation", 0, 1)).any()


def test_replayed_samples_are_augmented_anew_at_every_draw(run_of, tiny):
    run = run_of(*BASE, "strategy=replay", scenario={"dataset": tiny.name}, training={"augmentation": ["crop", "flip", "brightness"]})
    ids = np.arange(5)
    run.memories["replay"].add(ids, run.stream.labels_of(ids), np.zeros(5, np.int64))
    first, second = run.memories["replay"].at(np.arange(5)), run.memories["replay"].at(np.arange(5))
    assert first.ids.tolist() == second.ids.tolist() and not torch.equal(first.x, second.x)


def test_evaluation_inputs_are_not_augmented(run_of, tiny):
    run = run_of(*BASE, scenario={"dataset": tiny.name}, training={"augmentation": ["crop", "flip", "brightness"], "normalise": "none"})
    pixels = torch.from_numpy(tiny.images("test"))
    np.testing.assert_allclose(run.workload.inputs(pixels).numpy(), tiny.images("test") / 255, atol=1e-6)
