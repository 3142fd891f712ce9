"""A step in portions: parts of a batch that go through the network one after another, or in several processes, and make one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..batch import Batch
    from .run import Run


@dataclass(frozen=True)
class Portion:
    """What gradients are being gathered from: its share of the batch's mean, whether it is the first of this process, whether the last."""

    share: float = 1.0
    first: bool = True
    last: bool = True


WHOLE = Portion()


def train_on(run: Run, batch: Batch) -> Tensor | None:
    """One step of the base on a batch, in as many parts as `training.accumulation` says; its loss, of this process' part."""
    team, count = run.processes, run.training.accumulation
    if count == 1 and team.alone:
        return run.base.training_step(batch)
    own, share = team.own(batch)
    parts, before = own.split(count), (run.cost.forward_passes, run.cost.backward_passes)
    total: Tensor | None = None
    for k, part in enumerate(parts):
        portion = len(part) / len(own) * share
        run.portion = Portion(portion * team.count, k == 0, k == len(parts) - 1)  # processes average their gradients
        if not team.alone:
            run.model.set_requires_gradient_sync(run.portion.last)  # type: ignore[operator]
        loss = run.base.training_step(part)
        if loss is not None:
            total = loss.detach() * portion + (0.0 if total is None else total)
    run.portion = WHOLE
    for name, passes in zip(("forward_passes", "backward_passes"), before, strict=True):  # those of all processes
        setattr(run.cost, name, passes + (getattr(run.cost, name) - passes) * len(batch) // len(own))
    return total


def gradients(run: Run, batch: Batch) -> list[Tensor | None]:
    """Gradients of the mean loss by parameter, gathered in as many parts as a step of the base; see `Part.gradients`."""
    if run.training.accumulation == 1:
        return _gradients(run, batch)
    total: list[Tensor | None] = [None for _ in run.model.parameters()]
    for part in batch.split(run.training.accumulation):
        found = [None if g is None else g * (len(part) / len(batch)) for g in _gradients(run, part)]
        total = [g if t is None else t if g is None else t.add_(g) for t, g in zip(total, found, strict=True)]
    return total


def _gradients(run: Run, batch: Batch) -> list[Tensor | None]:
    buffers = [(b, b.clone()) for b in run.model.buffers()]
    before, logits = run._pending_backward, batch.logits
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    found = dict(zip(map(id, parameters), torch.autograd.grad(run.loss(batch), parameters, allow_unused=True), strict=True))
    run.cost.backward_passes += len(batch)
    run._pending_backward = before
    if logits is not None:
        batch.logits = logits
    with torch.no_grad():
        for buffer, saved in buffers:
            buffer.copy_(saved)
    return [found.get(id(p)) for p in run.model.parameters()]
