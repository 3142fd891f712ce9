"""Nearest mean of features: no classifier is trained."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.errors import UsageError
from clsuite.plan import Plan
from clsuite.settings import setting
from clsuite.strategy import Strategy
from clsuite.stream import Experience


class NCM(Strategy):
    """Nearest class mean: features are normalised, averaged by class, and the nearest mean is the prediction.

    Source: Janson et al. 2022, arXiv 2210.04428: h = f(x) / ||f(x)||, means not normalised again, argmin ||h - m_c||.
    `encoder` says where the features come from and is part of the label: `pretrained`, `first_experience` (trained on
    experience 0, then frozen) or `random`; null is `pretrained` where the model has weights, else `first_experience`.
    """

    needs = frozenset({"classifier"})
    claims = frozenset({"owns_predict"})
    offers = frozenset()

    encoder: Literal["pretrained", "first_experience", "random"] | None = setting(None, help="null: pretrained if the model is, else first_experience")

    @property
    def features_from(self) -> str:
        return self.encoder or ("pretrained" if self.run.pretrained else "first_experience")

    def label(self) -> str:
        return f"{self.name} (encoder: {self.features_from})"

    def setup(self) -> None:
        if self.encoder == "pretrained" and not self.run.pretrained:
            raise UsageError("strategy.encoder = 'pretrained', but the model has no pretrained weights (valid here: first_experience, random)")
        if self.encoder == "random" and self.run.pretrained:
            raise UsageError("strategy.encoder = 'random', but the model has pretrained weights (valid here: pretrained, first_experience)")
        width = self.model.head.in_features
        self.sums = torch.zeros(self.run.classes, width, dtype=torch.float64, device=self.run.device)
        self.counts = torch.zeros(self.run.classes, dtype=torch.float64, device=self.run.device)

    def plan(self, plan: Plan) -> Plan:
        learns = self.features_from == "first_experience" and plan.experience.index == 0
        return plan if learns else plan.replace(epochs=0)

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

    def report(self) -> dict[str, Any]:
        return {"encoder": self.features_from}
