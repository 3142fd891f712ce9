"""What tests of strategies share: runs up to a step or to their end, what stands in them, and losses from the data alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import UsageError
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop
from clsuite.training.sampling import batches


def loop_of(run, on_step=None):
    return Loop(run, Checkpoints(None, "", {}), on_step=on_step)


def execute(run, on_step=None):
    loop = loop_of(run, on_step)
    loop.execute()
    return loop


def begun(run):
    """A run at its first step, and the batch of that step."""
    loop = loop_of(run)
    run.model.train()
    for part in run.parts:
        part.setup()
    loop._begin()
    batch, _ = next(batches(run, run.plan_of(0)))
    return loop, batch


def before_updates(run, see):
    """Call `see(loss, optimizer)` before every update."""
    real = run.update

    def update(loss, optimizer=None):
        see(loss, optimizer)
        real(loss, optimizer)

    run.update = update


def pixels(run, ids, split="train"):
    """Inputs of samples, from the source alone: grey images in 0..1, colour images by the mean and deviation of the data."""
    source = run.stream.source
    x = source.images(split)[np.asarray(ids)] / 255.0
    if source.shape[0] == 3:
        every = source.images("train") / 255.0
        x = (x - every.mean((0, 2, 3), keepdims=True)) / every.std((0, 2, 3), keepdims=True)
    return torch.from_numpy(x).to(next(run.model.parameters()).dtype)


def labels(run, ids, split="train"):
    return torch.from_numpy(run.stream.source.labels(split)[np.asarray(ids)]).long()


def crossed(run, ids):
    """The mean cross-entropy of samples, by hand."""
    logits = run.model(pixels(run, ids))
    return F.cross_entropy(logits, labels(run, ids))


def close(a, b, tolerance=1e-5):
    return a.item() == pytest.approx(b if isinstance(b, float) else b.item(), rel=tolerance, abs=1e-8)


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def buffers(run):
    return {name: b.detach().clone() for name, b in run.model.named_buffers()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def refused(call):
    with pytest.raises(UsageError) as error:
        call()
    text = str(error.value)
    assert text and "\n" not in text
    return text


def same(a, b):
    return all(a[key] == b[key] for key in ("weights_sha256", "metrics", "matrix", "initial_accuracy"))
