"""Elastic weight consolidation as a user would write it: a penalty, anchored at every border."""

import torch

from clsuite.settings import setting
from clsuite.strategy import Modifier


class EWC(Modifier):
    """Online EWC: quadratic pull towards the last border's weights, weighted by the diagonal of squared gradients."""

    needs = {"borders", "classifier"}
    strength: float = setting(10.0, ge=0, search=[1.0, 10.0, 100.0])

    def setup(self):
        self.anchor, self.importance = [], [torch.zeros_like(p) for p in self.model.parameters()]

    def penalty(self):
        if not self.anchor:
            return None
        terms = zip(self.model.parameters(), self.anchor, self.importance, strict=True)
        return self.strength / 2 * sum((F * (p - old) ** 2).sum() for p, old, F in terms)

    def after_experience(self, experience):
        chosen = self.generator("fisher").choice(self.run.stream.ids(experience.segments), 64)
        for k in range(len(chosen)):
            gradients = self.gradients(self.samples(chosen[k : k + 1]))
            for F, g in zip(self.importance, gradients, strict=True):
                F.add_(g**2, alpha=1 / len(chosen))
        self.anchor = [p.detach().clone() for p in self.model.parameters()]
