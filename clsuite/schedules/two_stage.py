"""The extension of a finished constant phase: a smaller constant, then the decay."""

from __future__ import annotations

from ..schedule import Schedule, refused
from ..settings import setting
from .wsd import StableDecay


class TwoStage(StableDecay):
    """WSD for a horizon that grew: at `boundary` the rate drops to a smaller constant, and the last `decay` steps end at `minimum`.

    Peak up to step `boundary` (counted from 0, warm-up included), a straight line over `drop` steps to `share` of the peak, hold,
    a straight line to `minimum` of the peak. Shares used in the published runs: 0.525 when the horizon doubled, 0.375 when it
    quadrupled, each from the step before the first run's decay (0.4 and 0.2 of the new horizon).

    Source: Schaipp et al. 2025 (arXiv 2501.18965), values from the published run logs.
    """

    boundary: int | float = setting(0.4, ge=0, help="the step where the rate starts to drop, absolute or as a share of the horizon below 1")
    drop: int | float = setting(1000, ge=0, help="the way down to the smaller constant, in steps or as a share of the horizon below 1")
    share: float = setting(0.525, gt=0, le=1, help="the smaller constant as a share of the peak")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        p = self.progress(step, horizon)
        if p is not None:
            return self.share + (self.minimum - self.share) * p
        since, drop = step - self.steps_of("boundary", horizon), self.steps_of("drop", horizon)
        if since < 0:
            return 1.0
        return self.share if since >= drop else 1 - (1 - self.share) * since / drop

    def check(self, horizon: int) -> None:
        super().check(horizon)
        self.must_fit(horizon, "boundary", "drop", "decay")
        warmup, boundary = self.steps_of("warmup", horizon), self.steps_of("boundary", horizon)
        if boundary < warmup:
            raise refused("boundary", self.boundary, f"step {boundary} lies within warm-up: expected at least {warmup}")
        if self.minimum > self.share:
            raise refused("minimum", self.minimum, f"expected at most the smaller constant, share = {self.share}")

    def without_decay(self, horizon: int) -> Schedule:
        fixed = {name: self.steps_of(name, horizon) for name in ("warmup", "boundary", "drop")}
        return type(self)(**{**self.settings(), **fixed, "decay": 0})
