"""Classifier alignment: retrain the head on features drawn from a Gaussian of every class seen."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from clsuite.settings import setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

RIDGE = 1e-4


class Alignment(Modifier):
    """Gaussian classifier alignment with logit normalisation; deployed for measuring, undone before the next experience.

    Source: Zhang et al. 2023, arXiv 2303.05118 (SLCA), and its code: per class the mean and full covariance + 1e-4 I of
    un-augmented training features, taken when the class was learned and never updated; from the second experience on, for
    `epochs` epochs, `samples_per_class` features of every class from N(s_c mu_c, Sigma_c), s_c = 0.9 + 0.1 (t_c + 1) /
    (t_now + 1); loss CE(z / (n T)), n = mean over experiences of the norm of their block of logits, gradient through n; SGD
    momentum 0.9, weight decay 5e-4, cosine by epoch. The head is restored after each evaluation. `temperature` null: no
    normalisation. Departure: one head of fixed size, of which only the rows of seen classes take part.
    """

    needs = frozenset({"classifier", "borders"})

    epochs: int = setting(5, ge=1, search=[5, 10])
    samples_per_class: int = setting(256, ge=1)
    batch_size: int = setting(256, ge=1)
    learning_rate: float = setting(0.01, gt=0, search=[0.003, 0.01, 0.03])
    temperature: float | None = setting(0.1, gt=0, search=[0.05, 0.1, 1.0], help="T of the logit normalisation (null: none)")
    shrink_old_means: bool = setting(True, help="scale means by s_c, as the source's code does")

    def acts_from(self, experiences: int) -> int:
        return 1

    def setup(self) -> None:
        self.means: dict[int, torch.Tensor] = {}
        self.factors: dict[int, torch.Tensor] = {}
        self.learned_in: dict[int, int] = {}
        self.saved_head: list[torch.Tensor] = []

    def after_experience(self, experience: Experience) -> None:
        ids = self.run.stream.ids(experience.segments)
        labels = self.run.stream.labels_of(ids)
        for c in experience.classes:
            if c in self.means or not (labels == c).any():
                continue
            features = self.run.features(ids[labels == c]).double()
            centred = features - features.mean(0)
            covariance = centred.T @ centred / max(len(features) - 1, 1) + RIDGE * torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
            self.means[c], self.factors[c] = features.mean(0), torch.linalg.cholesky(covariance)
            self.learned_in[c] = experience.index

    def before_evaluation(self) -> None:
        self.saved_head = [p.detach().clone() for p in self.model.head.parameters()]
        if self.run.experience > 0 and self.means:
            self.align()

    def after_evaluation(self) -> None:
        with torch.no_grad():
            for p, saved in zip(self.model.head.parameters(), self.saved_head, strict=True):
                p.copy_(saved)
        self.saved_head = []

    def draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """`samples_per_class` features of every class seen, and their places among the seen classes; shuffled."""
        now = self.run.experience
        drawn = []
        for c, mean in self.means.items():
            scale = 0.9 + 0.1 * (self.learned_in[c] + 1) / (now + 1) if self.shrink_old_means else 1.0
            z = torch.from_numpy(rng.standard_normal((self.samples_per_class, len(mean)))).to(mean.device)
            drawn.append(scale * mean + z @ self.factors[c].T)
        places = torch.arange(len(self.means)).repeat_interleave(self.samples_per_class)
        order = torch.from_numpy(rng.permutation(len(places)))
        head = self.model.head.weight
        return torch.cat(drawn)[order.to(head.device)].to(head.dtype), places[order].to(head.device)

    def align(self) -> None:
        """Retrain the head on drawn features."""
        head, rng = self.model.head, self.generator("features")
        seen = torch.tensor(list(self.means), device=head.weight.device)
        experiences = torch.tensor([self.learned_in[c] for c in self.means], device=head.weight.device)
        blocks = F.one_hot(experiences).to(head.weight.dtype)
        blocks = blocks[:, blocks.any(0)]
        optimizer = torch.optim.SGD(head.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4)
        per_epoch = math.ceil(len(seen) * self.samples_per_class / self.batch_size)
        for step in self.steps(self.epochs * per_epoch):
            epoch, within = divmod(step, per_epoch)
            if within == 0:
                x, y = self.draw(rng)
                optimizer.param_groups[0]["lr"] = self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            part = slice(within * self.batch_size, (within + 1) * self.batch_size)
            z = head(x[part])[:, seen]
            if self.temperature is not None:
                z = z / ((z.square() @ blocks).sqrt().mean(1, keepdim=True) + 1e-7) / self.temperature
            self.run.cost.feature_passes += len(z)
            self.update(F.cross_entropy(z, y[part]), optimizer)
        unseen = [c for c in range(self.run.classes) if c not in self.means]
        with torch.no_grad():  # weight decay has shrunk them
            for p, saved in zip(head.parameters(), self.saved_head, strict=True):
                p[unseen] = saved[unseen]
