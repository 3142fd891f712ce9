"""What methods that weigh the importance of weights share: all weights as one vector, and means over the samples of an experience."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clsuite.batch import Batch
from clsuite.strategy import Part
from clsuite.stream import Experience

Gradients = Callable[[Batch], list[Tensor | None]]


def vector(tensors: Iterable[Tensor]) -> Tensor:
    """All entries of tensors in one row, [weights]; gradients flow back through it."""
    return torch.cat([t.flatten() for t in tensors])


def gradient_vector(part: Part, gradients: Iterable[Tensor | None]) -> Tensor:
    """Gradients by parameter in one row, [weights]: 0 where there is none."""
    return vector(torch.zeros_like(p) if g is None else g for p, g in zip(part.model.parameters(), gradients, strict=True))


def mean_over(part: Part, experience: Experience, samples: int | None, size: int, gradients: Gradients, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of `measure(gradient)` [weights] over groups of `size` samples of an experience, in evaluation mode and without augmentation.

    `samples` of them are drawn by the part's generator "importance"; None: all, in table order, where a shorter last group counts as
    a whole one. A loss with `training.logit_mask = batch` looks at the classes of all these samples, not at those of one group.
    """
    run = part.run
    ids = run.stream.ids(experience.segments)
    if samples is not None and samples < len(ids):
        ids = part.generator("importance").choice(ids, samples, replace=False)
    groups = [ids[k : k + size] for k in range(0, len(ids), size)]
    total = torch.zeros_like(vector(part.model.parameters()))
    modes = run.set_evaluation_mode()
    run.workload.note_labels(torch.from_numpy(ids))
    for k in part.steps(len(groups)):
        total += measure(gradient_vector(part, gradients(part.samples(groups[k]))))
    run.workload.begin_step()
    run.restore_modes(modes)
    return total / len(groups)
