"""The refined schedule: what the gradient norms of a run say about the next one."""

from __future__ import annotations

import bisect
import functools
from typing import Literal

from ..errors import UsageError
from ..settings import setting
from .table import Listed


class Refined(Listed):
    """A schedule from the gradient norms of an earlier run of the same length.

    Norms G_1 .. G_T are smoothed by a running median, weighted w_t = G_t^exponent, and update n = t - 1 uses
    w_t (w_{t+1} + ... + w_T), scaled to a maximum of 1: the last update has 0, and so has what follows. Constant norms give the straight
    line 1 - n / (T - 1), which is `linear` at z = n / (T - 1), not at n / T. The horizon must be the number of norms. Small
    norms at the start make a warm-up by themselves, so `warmup` must be 0. The peak is still to be searched.

    The median's window is 2 floor(smoothing T / 2) + 1 wide; before the first norm it repeats it, after the last it sees the norms
    mirrored. exponent -2 goes with L2 norms and SGD, -1 with L1 norms and Adam.

    Source: Defazio et al. 2023 (arXiv 2310.07831), by the authors' code and its README.
    """

    numbers = "gradient_norms"
    gradient_norms: list[float] | None = setting(None, gt=0, help="the norm of every update of the earlier run")
    exponent: Literal[-2, -1] = setting(-2, help="-2: SGD, L2 norms; -1: Adam, L1 norms")
    smoothing: float = setting(0.1, ge=0, le=1, help="width of the running median as a share of the norms; 0: none")

    def factor(self, step: int, horizon: int) -> float:
        curve = self._curve
        return curve[min(step, horizon, len(curve) - 1)]

    def check(self, horizon: int) -> None:
        super().check(horizon)
        count = len(self.listed())
        if count < 2 or count != horizon:
            raise UsageError(f"training.schedule.gradient_norms has {count} entries: expected as many as the horizon has steps, {horizon}, and at least 2")

    @functools.cached_property
    def _curve(self) -> list[float]:
        norms = self.listed()
        smooth = running_median(norms, int(self.smoothing * len(norms)) // 2)
        low = min(smooth)
        weights = [(g / low) ** self.exponent for g in smooth]  # at most 1: a factor common to all cancels
        after, curve = 0.0, []
        for weight in reversed(weights):
            curve.append(weight * after)
            after += weight
        top = max(curve)
        return [value / top if top else 0.0 for value in reversed(curve)]


def running_median(values: list[float], half: int) -> list[float]:
    """Medians of windows that reach `half` to each side; the first value is repeated before the start, the end is mirrored."""
    last = len(values) - 1
    padded = [values[0]] * half + values + [values[last - k] for k in range(1, half + 1)]
    window = sorted(padded[: 2 * half + 1])
    found = [window[half]]
    for k in range(1, len(values)):
        del window[bisect.bisect_left(window, padded[k - 1])]
        bisect.insort(window, padded[k + 2 * half])
        found.append(window[half])
    return found
