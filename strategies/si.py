"""Synaptic intelligence: importance from what each weight contributed to the fall of the loss while it was trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clsuite.settings import Span, setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

from .importance import gradient_vector, vector


class SI(Modifier):
    """Synaptic intelligence: weights are pulled back to those of the last border, each by what it did for the loss of earlier experiences.

    Source: Zenke et al. 2017, arXiv 1703.04200, by its authors' code: over the steps of an experience omega -= g * (change of theta), with g
    the gradient of the loss without this penalty; at its end Omega += omega / (Delta^2 + `damping`), with Delta the change over the whole
    experience, and where that is negative Omega becomes 0; the loss gets `strength` * sum Omega (theta - theta*)^2. The code's damping is 0.1
    for permuted MNIST and 10^-3 for CIFAR; A-GEM's official code uses a strength of 0.1 out of a grid from 0.1 to 1000. Default and range of
    the strength are ours: gradient descent diverges where learning rate * strength * Omega exceeds 1.

    Avalanche's `SynapticIntelligencePlugin` (after arXiv 1806.08568) is `gradient: total`, `negative: kept`, `largest: 0.001`,
    `damping: 1e-7` with `si_lambda` = 2 * `strength`; it leaves out parameters of batch normalisation, which are protected here.
    Gradients are taken before clipping.
    """

    revision = 2
    needs = frozenset({"borders", "incremental"})
    transient = frozenset({"_gradient", "_before"})

    strength: float = setting(0.01, ge=0, search=Span(1e-3, 100.0, log=True), help="c: weight of the penalty")
    damping: float = setting(0.1, gt=0, search=Span(1e-3, 0.1, log=True), help="xi: added to the squared change of a weight over an experience")
    gradient: Literal["loss", "total"] = setting("loss", help="what the path integral is over: the loss without this penalty, or all of it")
    negative: Literal["zero", "kept"] = setting("zero", help="negative importance: it would push a weight away")
    largest: float | None = setting(None, gt=0, help="largest importance of a weight (null: no limit)")

    def setup(self) -> None:
        self.total = torch.zeros_like(vector(self.model.parameters()))
        self.path = torch.zeros_like(self.total)
        self.importance: Tensor | None = None

    def before_experience(self, experience: Experience) -> None:
        self.anchor = vector(self.model.parameters()).detach()
        self.path = torch.zeros_like(self.path)

    def penalty(self) -> Tensor | None:
        if self.importance is None:
            return None
        moved = vector(self.model.parameters()) - self.anchor
        return self.strength * torch.dot(self.importance * moved, moved)

    def on_gradients(self) -> None:
        self._before = vector(self.model.parameters()).detach()
        self._gradient = gradient_vector(self, (p.grad for p in self.model.parameters()))
        if self.importance is not None and self.gradient == "loss":
            self._gradient -= 2 * self.strength * self.importance * (self._before - self.anchor)

    def after_step(self) -> None:
        self.path -= self._gradient * (vector(self.model.parameters()).detach() - self._before)

    def after_experience(self, experience: Experience) -> None:
        change = vector(self.model.parameters()).detach() - self.anchor
        self.total = self.total + self.path / (change.square() + self.damping)
        if self.negative == "zero":
            self.total = self.total.relu()
        self.importance = self.total if self.largest is None else self.total.clamp(max=self.largest)
