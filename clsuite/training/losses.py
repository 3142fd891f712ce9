"""The losses of a run, looked at once an interval: logging, and whether the run diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import Diverged


class Losses:
    """Losses of this interval on the device, and whether the run diverges.

    Diverged: a non-finite loss, or more than ten times the first loss for 100 steps in a row.
    """

    def __init__(self, interval: int, total: Callable[[Tensor], Tensor] = lambda values: values) -> None:
        self.every = interval
        self._total = total  # over processes, each of which adds its share of a step's loss
        self.first: float | None = None
        self.high = 0
        self.count = 0
        self.interval: list[float] = []
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self._pending.append(loss.detach())

    def gather(self) -> None:
        """Move what is pending from the device into `interval`."""
        if self._pending:
            self.interval += self._total(torch.stack(self._pending).double()).tolist()
            self._pending = []

    def full(self) -> bool:
        return len(self.interval) + len(self._pending) >= self.every

    def close(self) -> float | None:
        """The mean of the interval that ends here; raises `Diverged`."""
        self.gather()
        values, self.interval = self.interval, []
        for value in values:
            self.count += 1
            if not self.first:  # a loss of exactly zero (a mask that leaves one class) is no scale to measure others by
                self.first = value
            self.high = self.high + 1 if value > 10 * self.first else 0
            if not math.isfinite(value):
                raise Diverged(f"the loss became {value} at step {self.count}")
            if self.high >= 100:
                raise Diverged(f"the loss stayed above ten times its first value ({self.first:.3g}) for 100 steps, at step {self.count}")
        return sum(values) / len(values) if values else None

    def state(self) -> dict[str, Any]:
        self.gather()
        return {"first": self.first, "high": self.high, "count": self.count, "interval": self.interval}

    def restore(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
