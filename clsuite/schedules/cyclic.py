"""Cycles: warm restarts and triangles."""

from __future__ import annotations

import math
from typing import Literal

from ..schedule import Schedule, refused
from ..settings import setting


class Cyclic(Schedule):
    """Cycles of `period` steps: half a cosine with a warm restart (SGDR), or up and down in straight lines (triangular).

    cosine: minimum + (1 - minimum) (1 + cos(pi z)) / 2 with z the share of the cycle that lies behind; the next cycle starts at the peak.
    triangular: from `minimum` to the peak and back. Each cycle is `multiplier` times as long as the one before. A horizon that ends
    with a cycle ends at `minimum`; any other cuts the last cycle.

    Source: Loshchilov & Hutter 2017 (arXiv 1608.03983) and Smith 2017 (arXiv 1506.01186), both from memory, unverified.
    """

    shape: Literal["cosine", "triangular"] = setting("cosine", help="a restart at the peak, or up and down")
    period: int | float = setting(0.25, gt=0, help="the first cycle, in steps or as a share of the horizon below 1")
    multiplier: float = setting(1.0, ge=1, le=100, help="length of a cycle over the one before")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the low end")

    def place(self, n: int, horizon: int, ended: bool) -> float:
        """The share of its cycle that lies behind step n of the cycles; at a border 1 when the run has `ended`, else 0."""
        length: float = self.steps_of("period", horizon)
        if self.multiplier == 1:
            z = n % length / length
            return 1.0 if ended and n and z == 0 else z
        rest: float = n
        while rest > length or (rest == length and not ended):
            rest -= length
            length *= self.multiplier
        return rest / length

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        z = self.place(min(step, max(horizon, warmup)) - warmup, horizon, step >= horizon)
        up = 0.5 * (1 + math.cos(math.pi * z)) if self.shape == "cosine" else 1 - abs(2 * z - 1)
        return self.minimum + (1 - self.minimum) * up

    def check(self, horizon: int) -> None:
        super().check(horizon)
        self.must_fit(horizon, "warmup", "period")
        if self.shape == "triangular" and self.warmup:
            raise refused("warmup", self.warmup, "triangular cycles rise by themselves: expected 0")
