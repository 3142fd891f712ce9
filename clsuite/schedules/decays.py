"""Schedules that decay from warm-up to the end by one formula."""

from __future__ import annotations

import math

from ..schedule import Schedule, refused
from ..settings import setting


class Rex(Schedule):
    """Reflected exponential: stays above the straight line, then falls.

    (1 - z) / (1 - z / 2), scaled to end at `minimum`. The 1/2 is the paper's; widely copied code has 0.9 in its place, a much flatter
    curve, which this is not.

    Source: Chen et al. 2021 (arXiv 2107.04197), by several implementations and reading notes.
    """

    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        return self.minimum + (1 - self.minimum) * (1 - z) / (1 - z / 2)


class Uba(Schedule):
    """Unified budget-aware: one parameter between a late drop (phi small), the cosine (phi = 2) and an early one.

    2 (1 + cos u) / (2 phi + (2 - phi) (1 + cos u)) with u = pi z, scaled to end at `minimum`. phi = 0 would stay at the peak and is refused.

    Source: the formula and phi = 0.8 are those of a third-party implementation; the paper itself ("Stepsize anything", arXiv 2505.24452)
    was available as an abstract only.
    """

    phi: float = setting(0.8, ge=0, search=[0.5, 1.0, 2.0, 5.0], help="> 0; smaller stays at the peak longer, 2 is the cosine")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        c = 1 + math.cos(math.pi * z)
        if c <= 0:  # z = 1, where phi = 0 would be 0 / 0
            return self.minimum
        return self.minimum + (1 - self.minimum) * 2 * c / (2 * self.phi + (2 - self.phi) * c)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        if self.phi <= 0:
            raise refused("phi", self.phi, "expected a number > 0 (0 never leaves the peak)")


class CosinePower(Schedule):
    """Cosine power annealing: a cosine in the exponent, which leaves the peak earlier than the cosine for p > 1.

    (p^(c + 1) - p) / (p^2 - p) with c = (1 + cos(pi z)) / 2, scaled to end at `minimum`; p = 1 is its limit, the cosine.

    Source: Hundt et al. 2019 (sharpDARTS, arXiv 1903.09900), by the authors' code, whose function has p = 10 (its script uses 2).
    """

    p: float = setting(10.0, gt=0, search=[1.0, 2.0, 10.0], help="1 is the cosine; larger decays earlier")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        c = 0.5 * (1 + math.cos(math.pi * z))
        log = math.log(self.p)
        # (p^c - 1) / (p - 1), which is the formula divided by p; expm1 keeps its digits as p -> 1
        q = c if log == 0 else math.expm1(c * log) / math.expm1(log)
        return self.minimum + (1 - self.minimum) * q


class InverseSqrt(Schedule):
    """Inverse square root of the step.

    sqrt(t / (n + t - warmup)) for update n >= warm-up, with t = `timescale`: 1 where warm-up ends, and sqrt(warmup / n) when t is the warm-up.
    It knows no horizon but for the value at it, which is held after it.

    Source: as in transformers' `get_inverse_sqrt_schedule`, which took it from big_vision.
    """

    timescale: int | None = setting(None, ge=1, help="steps over which the rate falls to 0.71 (null: the warm-up, or 10,000 without one)")

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        timescale = self.timescale or warmup or 10_000
        return math.sqrt(timescale / (min(step, max(horizon, warmup)) + timescale - warmup))
