"""Compute-equivalent replay of everything seen: a share of every batch, at no extra step."""

from clsuite.plan import Mixture
from clsuite.settings import setting
from clsuite.strategy import Strategy


class ComputeEquivalentReplay(Strategy):
    """A share of each batch comes from all earlier experiences in their original order; the budget stays what it was."""

    share: float = setting(0.25, gt=0, lt=1, search=[0.05, 0.25, 0.5])

    def plan(self, plan):
        earlier = tuple(self.run.stream.experiences[: plan.experience.index])
        return plan.replace(mixtures=(Mixture(earlier, self.share),)) if earlier else plan
