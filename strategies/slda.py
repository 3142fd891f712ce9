"""Streaming linear discriminant analysis on the features of a frozen encoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clsuite.settings import setting
from clsuite.stream import Experience

from .frozen_encoder import FrozenEncoder

CHUNK = 4096
"""Samples whose running means are in memory at once."""


class SLDA(FrozenEncoder):
    """Deep SLDA: class means and one shared covariance are updated sample by sample, the discriminant is linear.

    Source: Hayes & Kanan 2020, arXiv 1909.01520, by its code, which was read. With t samples seen and r = x - (mean of its class before it, 0 at first):
    covariance <- (t covariance + t / (t + 1) r r') / (t + 1). Score of class k: <w_k, x> - <w_k, mean_k> / 2, w_k = ((1 - shrinkage) covariance
    + shrinkage I)^-1 mean_k. Samples come in table order, un-augmented; the sums of many updates are formed at once (the same numbers
    up to rounding). Classes never seen are not predicted (in the code their score is 0).

    `covariance: streaming` begins with nothing, as Avalanche 0.6 does; `base` begins with the means and the covariance of the
    first experience, shrunk by the oracle approximating estimator (Chen et al. 2010; as the source's experiment does, default), and goes on
    streaming; `fixed` never changes that covariance. `encoder` as in `ncm`. The search range is ours.
    """

    transient = frozenset({"_discriminant"})

    shrinkage: float = setting(1e-4, gt=0, le=1, search=[1e-4, 1e-3, 1e-2, 1e-1], help="share of the identity in the covariance")
    covariance: Literal["base", "streaming", "fixed"] = setting("base", help="where the covariance begins, and whether it changes after that")

    def setup(self) -> None:
        super().setup()
        width = self.model.head.in_features
        self.means = torch.zeros(self.run.classes, width, dtype=torch.float64, device=self.run.device)
        self.counts = torch.zeros(self.run.classes, dtype=torch.float64, device=self.run.device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=self.run.device)
        self.scattered = 0
        """Samples in the covariance, which is `scatter / scattered`."""
        self._discriminant: tuple[Tensor, Tensor] | None = None

    def after_experience(self, experience: Experience) -> None:
        ids = self.run.stream.ids(experience.segments)
        y = torch.from_numpy(self.run.stream.labels_of(ids)).to(self.run.device)
        x = self.run.features(ids).double()
        if self.covariance != "streaming" and not self.scattered:
            self.begin(x, y)
        else:
            for part, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
                self.learn(part, labels)
        self._discriminant = None

    def begin(self, x: Tensor, y: Tensor) -> None:
        """Means and covariance of a first set of samples at once."""
        self.counts = torch.bincount(y, minlength=len(self.counts)).to(x)
        self.means = self.sums_of(x, y) / self.counts.clamp(min=1)[:, None]
        self.scattered = len(x)
        self.scatter = oracle_approximating(x - self.means[y]) * len(x)

    def learn(self, x: Tensor, y: Tensor) -> None:
        """What the source's update, sample by sample, comes to: x [n, width], y [n]."""
        order = y.argsort(stable=True)
        of_class = x[order]
        number = torch.arange(len(x), device=x.device)
        first = torch.searchsorted(y[order], y[order])  # where the samples of its class begin
        before = of_class.cumsum(0) - of_class
        earlier = before - before[first] + (self.means * self.counts[:, None])[y[order]]
        means = earlier / (self.counts[y[order]] + number - first).clamp(min=1)[:, None]
        if self.covariance != "fixed":
            residual = of_class - means
            t = self.scattered + order.to(x)
            self.scatter = self.scatter + residual.T @ (residual * (t / (t + 1))[:, None])
            self.scattered += len(x)
        sums = self.means * self.counts[:, None] + self.sums_of(x, y)
        self.counts = self.counts + torch.bincount(y, minlength=len(self.counts)).to(x)
        self.means = sums / self.counts.clamp(min=1)[:, None]

    def sums_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Sums by class [classes, width]."""
        return torch.zeros_like(self.means).index_add_(0, y, x)

    @torch.inference_mode(False)
    def discriminant(self) -> tuple[Tensor, Tensor]:
        """Weights [width, classes] and offsets [classes] of the scores."""
        covariance = self.scatter / max(1, self.scattered)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * torch.eye(len(covariance)).to(covariance)
        weights = torch.linalg.solve(shrunk, self.means.T)
        return weights, (self.means.T * weights).sum(0) / 2

    def predict(self, x: Tensor) -> Tensor:
        if self._discriminant is None:
            self._discriminant = self.discriminant()
        weights, offsets = self._discriminant
        scores = self.model.features(x).double() @ weights - offsets
        return scores.masked_fill(self.counts == 0, torch.finfo(torch.float64).min)


def oracle_approximating(residuals: Tensor) -> Tensor:
    """The covariance of centred samples [n, width], shrunk towards its mean variance: Chen et al. 2010, arXiv 0907.4698, as scikit-learn's OAS has it."""
    n, width = residuals.shape
    covariance = residuals.T @ residuals / n
    variance = covariance.trace() / width
    mean_square = covariance.square().mean()
    share = (mean_square + variance**2) / ((n + 1) * (mean_square - variance**2 / width))
    share = share.nan_to_num(nan=1.0).clamp(max=1.0)  # samples without any variance
    return (1 - share) * covariance + share * variance * torch.eye(width).to(covariance)
