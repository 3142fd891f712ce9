"""Nearest mean of features: no classifier is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.stream import Experience

from .frozen_encoder import FrozenEncoder


class NCM(FrozenEncoder):
    """Nearest class mean: features are normalised, averaged by class, and the nearest mean is the prediction.

    Source: Janson et al. 2022, arXiv 2210.04428: h = f(x) / ||f(x)||, means not normalised again, argmin ||h - m_c||.
    `encoder` says where the features come from and is part of the label: `pretrained`, `first_experience` (trained on
    experience 0, then frozen) or `random`; null is `pretrained` where the model has weights, else `first_experience`.
    """

    def setup(self) -> None:
        super().setup()
        width = self.model.head.in_features
        self.sums = torch.zeros(self.run.classes, width, dtype=torch.float64, device=self.run.device)
        self.counts = torch.zeros(self.run.classes, dtype=torch.float64, device=self.run.device)

    def after_experience(self, experience: Experience) -> None:
        ids = self.run.stream.ids(experience.segments)
        labels = torch.from_numpy(self.run.stream.labels_of(ids)).to(self.run.device)
        features = F.normalize(self.run.features(ids).double(), dim=1)
        self.sums.index_add_(0, labels, features)
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))

    def predict(self, x: Tensor) -> Tensor:
        h = F.normalize(self.model.features(x).double(), dim=1)
        means = self.sums / self.counts.clamp(min=1)[:, None]
        distances = torch.cdist(h[None], means[None])[0]
        return -distances.masked_fill(self.counts == 0, torch.finfo(torch.float64).max)
