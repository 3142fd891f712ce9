"""Infinite schedules: down to a constant that can be trained at for ever, and an anneal for a model to be shipped."""

from __future__ import annotations

import math

from ..schedule import Schedule, refused
from ..settings import setting


class Infinite(Schedule):
    """Base of the infinite schedules: warm-up, cooldown to a constant, the constant, an exponential anneal.

    With n counted from the end of warm-up, all lengths resolved to steps and c = `constant`:
    n <= cooldown: `cool(n / cooldown)`; then c; in the anneal c (minimum / c)^x, x its share that lies behind, and `minimum` after it.
    A main line stays at c over any number of data sets (`before_decay`); branches of it are annealed.
    """

    cooldown: int | float = setting(0.6, ge=0, help="from the peak to the constant, in steps or as a share of the horizon below 1")
    constant: float = setting(0.55, gt=0, le=1, help="the constant rate as a share of the peak")
    hold: int | float | None = setting(None, ge=0, help="the constant phase, in steps or as a share (null: all that is left before the anneal)")
    anneal: int | float = setting(0.15, ge=0, help="the anneal, in steps or as a share of the horizon below 1; 0: never")
    minimum: float = setting(0.1, ge=0, le=1, help="share of the peak at the end; > 0, since the anneal is exponential")

    def cool(self, x: float) -> float:
        """The share of the peak after a share x of the cooldown, from 1 to `constant`."""
        raise NotImplementedError

    def decay_start(self, horizon: int) -> int | None:
        """The first step of the anneal."""
        anneal = self.steps_of("anneal", horizon)
        if not anneal:
            return None
        return horizon - anneal if self.hold is None else sum(self.steps_of(name, horizon) for name in ("warmup", "cooldown", "hold"))

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        start = self.decay_start(horizon)
        if start is not None and step >= start:
            x = min((step - start) / self.steps_of("anneal", horizon), 1.0)
            return self.constant * (self.minimum / self.constant) ** x
        n, cooldown = step - warmup, self.steps_of("cooldown", horizon)
        return self.cool(n / cooldown) if n < cooldown else self.constant

    def check(self, horizon: int) -> None:
        super().check(horizon)
        self.must_fit(horizon, "warmup", "cooldown", *(["hold"] if self.hold is not None else []), "anneal")
        if self.decay_start(horizon) is None:
            return
        if self.minimum <= 0:
            raise refused("minimum", self.minimum, "the anneal is exponential and never reaches 0: expected a share of the peak > 0")
        if self.minimum > self.constant:
            raise refused("minimum", self.minimum, f"expected at most the constant rate, constant = {self.constant}")

    def without_decay(self, horizon: int) -> Schedule:
        fixed = {"warmup": self.steps_of("warmup", horizon), "cooldown": self.steps_of("cooldown", horizon), "hold": None, "anneal": 0}
        return type(self)(**{**self.settings(), **fixed})


class InfiniteCosine(Infinite):
    """Infinite schedule with a cosine cooldown: warm-up, half a cosine to `constant`, the constant, an exponential anneal.

    Cooldown c + (1 - c) (1 + cos(pi n / cooldown)) / 2. The defaults for `constant` (midpoint of peak and a tenth of it) and `cooldown` are
    the paper's by others' reading notes; the length of the anneal (about 0.14 to 0.15) is from memory, unverified.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), formulas as in the GPT-NeoX branch of its authors (pull request 1194, never merged).
    The anneal divides by its own length, as there; transcriptions of equation 1 of arXiv 2503.02844 that divide by a sum never reach the minimum.
    """

    def cool(self, x: float) -> float:
        return self.constant + 0.5 * (1 - self.constant) * (1 + math.cos(math.pi * x))


class InfiniteInverseSqrt(Infinite):
    """Infinite schedule with an inverse square root cooldown: warm-up, cooldown to `constant`, the constant, an exponential anneal.

    Cooldown 1 + (c - 1) h(n / cooldown) / h(1) with h(x) = 1 / sqrt(1 + timescale x) - 1. A `timescale` of 10 is the paper's from
    memory, unverified; the branch's own default is 1.

    Source: Ibrahim et al. 2024 (arXiv 2403.08763), formulas as in the GPT-NeoX branch of its authors (pull request 1194, never merged).
    """

    timescale: float = setting(10.0, gt=0, help="how fast the cooldown starts: h(x) = 1 / sqrt(1 + timescale x) - 1")

    def cool(self, x: float) -> float:
        return 1 + (self.constant - 1) * self._h(x) / self._h(1.0)

    def _h(self, x: float) -> float:
        return 1 / math.sqrt(1 + self.timescale * x) - 1
