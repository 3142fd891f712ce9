"""The power scheduler: a rate that follows the tokens seen so far."""

from __future__ import annotations

from ..schedule import Schedule, refused
from ..settings import setting
from .shapes import Shape, check_floor, shaped
from .wsd import StableDecay


class Power(StableDecay):
    """A power law of the tokens seen so far, P(n) = min(peak, batch a n^b), then a final decay.

    Units: n in tokens, before update k it is k `tokens_per_step`; `batch` in sequences of 4096 tokens; P and `peak` are absolute
    learning rates. The factor is P(n) / peak: set `training.learning_rate` to `peak`, or the whole curve is scaled.
    Warm-up is a straight line to P at its end; the last `decay` updates multiply P at the decay's start by `shape`, which ends at
    `minimum` (a share of that rate). Without the decay it knows no horizon: new data simply goes on (`before_decay`).

    a = 4, b = -0.51, peak 0.02 and the last 10 % are the paper's final values, which assume muP scaling; a = 4.6 is its fit, used as
    the default elsewhere. The paper decays exponentially to about 0; ending at 0.01 is ours.

    Source: Shen et al. 2024 (arXiv 2408.13359), "Power Scheduler".
    """

    a: float = setting(4.0, gt=0, help="scale of the law per sequence of the batch")
    b: float = setting(-0.51, lt=0, help="exponent of the law")
    batch: float = setting(128.0, gt=0, help="sequences of 4096 tokens an update (a batch of 32,768 tokens is 8)")
    tokens_per_step: int | None = setting(None, ge=1, help="tokens an update sees (null: 4096 batch)")
    peak: float = setting(0.02, gt=0, help="the largest learning rate, absolute; training.learning_rate must be the same")
    decay: int | float = setting(0.1, ge=0, help="the final decay, in steps or as a share of the horizon below 1; 0: never")
    shape: Shape = setting("exponential", help="way down in the final decay")
    minimum: float = setting(0.01, ge=0, le=1, help="end of the final decay as a share of the rate at its start")

    def law(self, step: int) -> float:
        """P / peak before update `step`, without warm-up and decay."""
        tokens = step * (4096 * self.batch if self.tokens_per_step is None else self.tokens_per_step)
        return min(1.0, self.batch * self.a * tokens**self.b / self.peak) if tokens > 0 else 1.0

    @property
    def own_peak(self) -> float | None:
        return self.peak

    def rises_to(self, horizon: int) -> float:
        return self.law(self.steps_of("warmup", horizon))

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        p, start = self.progress(step, horizon), self.decay_start(horizon)
        if p is None or start is None:
            return self.law(step)
        return self.law(start) * shaped(self.shape, p, self.minimum)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        if self.decay_start(horizon) is not None:
            check_floor(self.shape, self.minimum)
        if self.tokens_per_step is None and 4096 * self.batch < 1:
            raise refused("batch", self.batch, "expected at least one token an update (1/4096), or tokens_per_step")

    def without_decay(self, horizon: int) -> Schedule:
        return type(self)(**{**self.settings(), "warmup": self.steps_of("warmup", horizon), "decay": 0})
