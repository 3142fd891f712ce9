"""Warm-up, stable, decay, several times over: the peak again after every decay."""

from __future__ import annotations

import itertools

from ..schedule import Schedule, in_steps, refused, share_of
from ..settings import setting
from .shapes import Shape, check_floor, shaped


class WsdS(Schedule):
    """WSD-S: periods at the peak that each end in a decay; the next jumps straight back to the peak, without warm-up.

    Warm-up happens once and belongs to the first period. Every period decays over its last `decay` steps (a share is one of the
    period, warm-up included) to `minimum` of its own peak, so that a model can be released there; training goes on from the
    decayed weights. `multipliers` scale the peak of each period; warm-up rises to the first.

    Update n of a period's end is the first of the next one, so no update but a run's last value sits at `minimum`; OLMo-core
    counts steps from 1 and spends the last update of a period at 0.

    Source: arXiv 2410.05192 (abstract); semantics of OLMo-core's `WSDS`, read in a port of it.
    """

    periods: list[int | float] = setting([0.5, 0.5], gt=0, help="lengths in steps that add up to the horizon, or shares that add up to 1")
    decay: int | float = setting(0.1, ge=0, help="end of every period, in steps or as a share of the period below 1")  # type: ignore[assignment]
    multipliers: list[float] | None = setting(None, gt=0, help="peak of each period as a share of the peak (null: 1)")
    shape: Shape = setting("linear", help="way down from the peak")
    minimum: float = setting(0.0, ge=0, le=1, help="share of the period's peak at its end; > 0 for exponential and inverse_linear")
    final_decay: bool = setting(True, help="whether the last period decays; false: it stays at its peak, whatever its length")

    def borders(self, horizon: int) -> list[int]:
        """The steps where periods begin, and the horizon; raises `UsageError` when the periods do not fill it."""
        if not self.periods:
            raise refused("periods", self.periods, "expected at least one period")
        if all(period < 1 for period in self.periods):
            total = sum(self.periods)
            if abs(total - 1) > 1e-9:
                raise refused("periods", self.periods, f"shares must add up to 1, these add up to {total:.6g}")
            inner = list(itertools.accumulate(self.periods))[:-1]  # rounding the sums, not the parts, keeps the end at the horizon
            return [0, *(share_of(share, horizon) for share in inner), horizon]
        found = [0, *itertools.accumulate(in_steps(period, horizon, "periods") for period in self.periods)]
        if not self.final_decay:  # the last period is open
            return [*found[:-1], max(horizon, found[-2] + 1)]
        if found[-1] != horizon:
            raise refused("periods", self.periods, f"they add up to {found[-1]} steps, expected the {horizon} steps of the horizon")
        return found

    def peak(self, period: int) -> float:
        """The share of the peak at which a period stays."""
        return 1.0 if self.multipliers is None else self.multipliers[period]

    def rises_to(self, horizon: int) -> float:
        return self.peak(0)

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        borders = self.borders(horizon)
        last = len(borders) - 2
        period = next((k for k in range(last) if step < borders[k + 1]), last)
        start, end = borders[period], borders[period + 1]
        decay = in_steps(self.decay, end - start, "decay")
        if step < end - decay or not decay or (period == last and not self.final_decay):
            return self.peak(period)
        return self.peak(period) * shaped(self.shape, min((step - (end - decay)) / decay, 1.0), self.minimum)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        borders, warmup = self.borders(horizon), self.steps_of("warmup", horizon)
        if self.multipliers is not None and len(self.multipliers) != len(self.periods):
            raise refused("multipliers", self.multipliers, f"expected one for each of the {len(self.periods)} periods")
        for k, (start, end) in enumerate(itertools.pairwise(borders)):
            if end <= start:
                raise refused("periods", self.periods, f"period {k + 1} has no step of the {horizon} steps of the horizon")
            decays = in_steps(self.decay, end - start, "decay") if self.final_decay or k < len(borders) - 2 else 0
            used = decays + (warmup if k == 0 else 0)
            if used > end - start:
                what = f"warmup {warmup} + decay {decays}" if k == 0 and warmup else f"decay {decays}"
                raise refused("decay", self.decay, f"{what} = {used} steps do not fit the {end - start} steps of period {k + 1}")
            if decays:
                check_floor(self.shape, self.minimum)

    @property
    def own_horizon(self) -> int | None:
        whole = self.final_decay and all(period >= 1 for period in self.periods)
        return sum(in_steps(period, 0, "periods") for period in self.periods) if whole else None

    def decay_start(self, horizon: int) -> int | None:
        """The first step of the last period's decay."""
        *_, start, end = self.borders(horizon)
        decay = in_steps(self.decay, end - start, "decay") if self.final_decay else 0
        return end - decay if decay else None

    def without_decay(self, horizon: int) -> Schedule:
        """The earlier periods as they are, in steps, and the last one without an end."""
        lengths: list[int | float] = [end - start for start, end in itertools.pairwise(self.borders(horizon))]
        fixed = {**self.settings(), "warmup": self.steps_of("warmup", horizon), "periods": lengths, "final_decay": False}
        return type(self)(**fixed)
