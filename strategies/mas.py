"""Memory aware synapses: importance from how strongly the outputs react to a weight, without labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clsuite.batch import Batch
from clsuite.settings import Span, setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

from .importance import mean_over, vector


class MAS(Modifier):
    """Memory aware synapses: weights are pulled back to those of the last border, each by how strongly the outputs react to it.

    Source: Aljundi et al. 2018, arXiv 1711.09601, by its authors' code: the loss gets `strength` * sum Omega (theta - theta*)^2, where Omega is
    the mean of |d ||outputs||^2 / d theta| over samples (`importance_of: sample`), in evaluation mode, and importances of experiences are
    summed. The code also takes the gradient of whole batches (`batch`). `average: a` makes it a * old + (1 - a) * new, the `alpha` of
    Avalanche's `MASPlugin` (which is `batch` with `importance_samples: null`, in training mode). On text outputs are the logits of a
    token, and the mean is over tokens too.

    The code's strength is 1, at a learning rate of 0.0008; A-GEM's official code uses 0.1 at 0.03 to 0.1, with the importance of the last
    experience alone. Default and range are ours: gradient descent diverges where learning rate * strength * Omega exceeds 1, and Omega grows
    with the logits and the experiences.
    """

    needs = frozenset({"borders", "incremental"})

    strength: float = setting(0.01, ge=0, search=Span(1e-4, 10.0, log=True), help="lambda: weight of the penalty")
    importance_of: Literal["sample", "batch"] = setting("sample", help="absolute gradients of single samples, or of the mean over batches")
    importance_samples: int | None = setting(1000, ge=1, help="samples of an experience that importance is estimated from (null: all)")
    average: float | None = setting(None, ge=0, le=1, help="weight of earlier importance in a running average (null: importances are summed)")

    def acts_from(self, experiences: int) -> int:
        return 1

    def setup(self) -> None:
        self.importance: Tensor | None = None

    def penalty(self) -> Tensor | None:
        if self.importance is None:
            return None
        moved = vector(self.model.parameters()) - self.anchor
        return self.strength * torch.dot(self.importance * moved, moved)

    def after_experience(self, experience: Experience) -> None:
        if experience.index == len(self.run.stream) - 1:
            return  # nobody would be pulled by it
        size = 1 if self.importance_of == "sample" else self.run.batch_size
        new = mean_over(self, experience, self.importance_samples, size, self.sensitivity, torch.abs)
        if self.importance is None:
            self.importance = new
        elif self.average is None:
            self.importance = self.importance + new
        else:
            self.importance = self.average * self.importance + (1 - self.average) * new
        self.anchor = vector(self.model.parameters()).detach()

    def sensitivity(self, batch: Batch) -> list[Tensor | None]:
        """Gradients of the mean squared norm of the outputs, by parameter."""
        run = self.run
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with run.workload.autocast():
            outputs = self.model(batch.x)
        norm = outputs.to(parameters[0].dtype).square().sum(-1).mean()
        found = dict(zip(map(id, parameters), torch.autograd.grad(norm, parameters, allow_unused=True), strict=True))
        run.cost.forward_passes += len(batch)
        run.cost.backward_passes += len(batch)
        return [found.get(id(p)) for p in self.model.parameters()]
