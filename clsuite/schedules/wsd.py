"""Warm-up, stable, decay."""

from __future__ import annotations

from ..schedule import Constant, Schedule
from ..settings import setting
from .shapes import Shape, check_floor, shaped


class StableDecay(Schedule):
    """Base of schedules whose last `decay` steps leave a phase that knows no horizon."""

    # The name of a length here; what the base calls decay(z) is the shape.
    decay: int | float = setting(0.2, ge=0, help="the final decay, in steps or as a share of the horizon below 1; 0: never")  # type: ignore[assignment]

    def decay_start(self, horizon: int) -> int | None:
        steps = self.steps_of("decay", horizon)
        return horizon - steps if steps else None

    def progress(self, step: int, horizon: int) -> float | None:
        """How much of the final decay lies behind, from 0 to 1 (and 1 after the horizon); None before it."""
        start = self.decay_start(horizon)
        return None if start is None or step < start else min((step - start) / (horizon - start), 1.0)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        self.must_fit(horizon, "warmup", "decay")


class Wsd(StableDecay):
    """Warm-up, the peak rate, and a decay at the end (WSD, trapezoid).

    The last `decay` steps fall from the peak to `minimum` of it in the given `shape`. A run goes on from the checkpoint before
    the decay without knowing the horizon: `before_decay` is the constant rate. A decay of 0.1 is a convention; published runs
    of 124M parameters did better with a linear decay over 0.4 to 0.6.

    Source: Hagele et al. 2024 (arXiv 2405.18392) and arXiv 2410.05192; shapes in `clsuite.schedules.shapes`.
    """

    shape: Shape = setting("linear", help="way down from the peak")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end; > 0 for exponential and inverse_linear")

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        p = self.progress(step, horizon)
        return 1.0 if p is None else shaped(self.shape, p, self.minimum)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        if self.decay_start(horizon) is not None:
            check_floor(self.shape, self.minimum)

    def without_decay(self, horizon: int) -> Schedule:
        return Constant(warmup=self.steps_of("warmup", horizon))
