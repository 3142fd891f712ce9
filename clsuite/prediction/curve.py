"""A finished run as the laws see it: its rates, and the losses at some of its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .rates import Array, Rates

FEWEST = 20
"""Losses a curve must have after warm-up."""
MOST = 1000
"""Losses that are used of a curve; more are averaged in blocks."""


@dataclass(frozen=True, eq=False)
class Curve:
    """`losses[i]` was measured after update `steps[i]` (ascending); `assumed` says in words what the file did not."""

    name: str
    rates: Rates
    steps: NDArray[np.int64]
    losses: Array
    assumed: tuple[str, ...] = ()
    logged: NDArray[np.int64] | None = None
    """The updates whose rates the file says; None: those of the losses."""

    def __len__(self) -> int:
        return len(self.steps)

    def with_rates(self, rates: Rates, assumed: tuple[str, ...]) -> Curve:
        return replace(self, rates=rates, assumed=assumed)


def block_means(steps: NDArray[np.int64], losses: Array, most: int = MOST) -> tuple[NDArray[np.int64], Array]:
    """At most `most` losses: means of neighbouring ones (of equal number but for one), each at the middle step of its block."""
    if len(steps) <= most:
        return steps, losses
    edges = np.linspace(0, len(steps), most + 1).astype(np.int64)
    means = np.add.reduceat(losses, edges[:-1]) / np.diff(edges)
    return steps[(edges[:-1] + edges[1:] - 1) // 2], means
