"""Elastic weight consolidation, with a penalty for every experience or a single one that decays (online)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clsuite.settings import Span, setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

from .importance import mean_over, vector


class EWC(Modifier):
    """Elastic weight consolidation: weights are pulled back to where earlier experiences left them, each by its Fisher information.

    Source: Kirkpatrick et al. 2017, arXiv 1612.00796: the loss gets `strength` / 2 * sum_k sum F_k (theta - theta_k)^2, one term for each
    earlier experience k (`mode: separate`; that there are several is from memory). `online`: one term, at the weights of the last border, with
    F = `decay` * F + F_k, as in Mammoth's `ewc_on` (after Schwarz et al. 2018, arXiv 1805.06370, from memory). F is the empirical Fisher
    information, squared gradients of the loss at the true labels after an experience: of single samples (`fisher: sample`), or of the mean
    loss of batches (`batch`), which is smaller by about the batch size; the source hardly says how it is computed (van de Ven 2025,
    arXiv 2502.11756). On text a sample is a window and its loss the mean over tokens.

    Avalanche's `EWCPlugin` is `fisher: batch` with `fisher_samples: null` and `ewc_lambda` = `strength` / 2. Default and range are ours: A-GEM's
    official code uses 10 out of a grid from 1 to 10^4, but its information is scaled to 0..1 and its penalty not halved. Gradient descent
    diverges where learning rate * strength * F exceeds 2.
    Quadratic terms add up to one, with F = sum F_k around the mean of the theta_k weighted by F_k, up to a constant: that one is
    kept, so the cost does not grow with the number of experiences.
    """

    needs = frozenset({"borders", "incremental"})

    strength: float = setting(10.0, ge=0, search=Span(0.1, 1e4, log=True), help="lambda: weight of the penalty, halved in the loss")
    mode: Literal["separate", "online"] = setting("separate", help="a term for each earlier experience, or a single one with decay")
    decay: float = setting(1.0, ge=0, le=1, help="gamma of `online`: what earlier information is multiplied with at a border")
    fisher: Literal["sample", "batch"] = setting("sample", help="squared gradients of single samples, or of the mean loss of batches")
    fisher_samples: int | None = setting(1000, ge=1, help="samples of an experience that its information is estimated from (null: all)")

    def acts_from(self, experiences: int) -> int:
        return 1

    def setup(self) -> None:
        self.importance = torch.zeros_like(vector(self.model.parameters()))
        self.anchor: Tensor | None = None

    def penalty(self) -> Tensor | None:
        if self.anchor is None:
            return None
        moved = vector(self.model.parameters()) - self.anchor
        return self.strength / 2 * torch.dot(self.importance * moved, moved)

    def after_experience(self, experience: Experience) -> None:
        if experience.index == len(self.run.stream) - 1:
            return  # nobody would be pulled by it
        size = 1 if self.fisher == "sample" else self.run.batch_size
        new = mean_over(self, experience, self.fisher_samples, size, self.gradients, torch.square)
        weights = vector(self.model.parameters()).detach()
        if self.mode == "online" or self.anchor is None:
            self.importance = self.decay * self.importance + new
            self.anchor = weights
        else:
            self.importance = self.importance + new
            share = new / self.importance.clamp_min(torch.finfo(new.dtype).tiny)  # 0 where no experience found any information
            self.anchor = self.anchor + share * (weights - self.anchor)
