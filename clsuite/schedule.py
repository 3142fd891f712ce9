"""Learning-rate schedules: pure functions of the absolute step and the horizon.

    class Constant(Schedule):
        def factor(self, step, horizon):
            return 1.0

`factor` multiplies the peak rate of every parameter group; update n = 0, 1, ..., horizon - 1 uses `factor(n, horizon)`.
"""

from __future__ import annotations

import math

from .errors import UsageError
from .settings import Configurable, setting

CATALOGUE = {
    "constant": "clsuite.schedule:Constant",
    "cosine": "clsuite.schedule:Cosine",
    "linear": "clsuite.schedule:Linear",
    "step": "clsuite.schedule:Step",
}


class Schedule(Configurable):
    """Base of every schedule: warm-up by a linear rise, then `decay(z)` for z in [0, 1)."""

    name: str = ""

    warmup: int = setting(0, ge=0, help="steps of linear warm-up: update n uses (n + 1) / warmup of the peak")

    def factor(self, step: int, horizon: int) -> float:
        """The share of the peak rate that update `step` of `horizon` uses."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.decay((step - self.warmup) / max(horizon - self.warmup, 1))

    def decay(self, z: float) -> float:
        """The share of the peak after a fraction z of the decay."""
        return 1.0

    @property
    def is_constant(self) -> bool:
        return False


class Constant(Schedule):
    """The peak rate throughout (after warm-up)."""

    @property
    def is_constant(self) -> bool:
        return self.warmup == 0


class Cosine(Schedule):
    """Half a cosine from the peak to `minimum` of it (Loshchilov & Hutter 2017)."""

    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(z, 1.0)))


class Linear(Schedule):
    """A straight line from the peak to `minimum` of it."""

    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        return 1 - (1 - self.minimum) * min(z, 1.0)


class Step(Schedule):
    """The rate is multiplied by `gamma` at each milestone (fractions of the horizon)."""

    milestones: list[float] = setting([0.5, 0.75], gt=0, lt=1, help="fractions of the horizon")
    gamma: float = setting(0.1, gt=0, le=1)

    def decay(self, z: float) -> float:
        if sorted(self.milestones) != self.milestones:
            raise UsageError(f"training.schedule.milestones = {self.milestones} must ascend")
        return self.gamma ** sum(z >= m for m in self.milestones)
