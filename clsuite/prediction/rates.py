"""The learning rate of every update of a run, and the two areas under it that the laws are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rates:
    """Learning rates by update: `values[n]` is the rate of update n = 0, 1, ..., T - 1.

    The first `warmup` updates count in S1 but never in S2. `boundary` is the first update on the second data set, None
    for a run on one.
    """

    values: Array
    warmup: int = 0
    boundary: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def annealed(self) -> Array:
        """The rates after warm-up; only these have an annealing area."""
        return self.values[min(self.warmup, len(self.values) - 1) :]

    @property
    def constant(self) -> bool:
        """Whether the rate never changes after warm-up (to one part in a million)."""
        rest = self.annealed
        return bool(np.ptp(rest) <= 1e-6 * rest.max(initial=0.0))


def forward_area(rates: Array) -> Array:
    """S1: the sum of the rates up to and including each update (unit: rate x steps).

    Source: Tissue et al. 2024 (arXiv 2408.11029).
    """
    return np.cumsum(rates)


def annealing_area(rates: Array, momentum: float, before: float | None = None) -> Array:
    """S2: the sum of the annealing momenta up to and including each update (unit: rate x steps).

    m_i = momentum m_{i-1} + (rate_{i-1} - rate_i), and m = 0 before. `before` is the rate that preceded the first one;
    None: the first rate, so that the first update anneals nothing. A rate that rises makes S2 fall.

    Source: Tissue et al. 2024 (arXiv 2408.11029).
    """
    drops = -np.diff(rates, prepend=rates[0] if before is None else before)
    return np.cumsum(lfilter([1.0], [1.0, -momentum], drops))
