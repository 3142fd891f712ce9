"""What an experience trains on, decided before the first step: so that steps, horizon and cost are known."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from .stream import Experience


@dataclass(frozen=True)
class Mixture:
    """A share of every batch that comes from other experiences, in their table order, continued from step to step.

    `compute_equivalent`: the batch keeps its size, so current samples give way and the number of steps is unchanged.
    `additive`: batch B (1 + share), same steps.
    """

    content: tuple[Experience, ...]
    share: float
    kind: Literal["compute_equivalent", "additive"] = "compute_equivalent"

    def taken(self, step: int, batch_size: int) -> tuple[int, int]:
        """Positions [from, to) of the mixed-in samples that step `step` uses: floor(n B x) to floor((n + 1) B x)."""
        return math.floor(step * batch_size * self.share), math.floor((step + 1) * batch_size * self.share)


@dataclass(frozen=True)
class Plan:
    """The training of one experience. Parts change it in turn with `plan.replace(...)`.

    `content`: the experiences whose samples are the current ones (joint training lists all so far). `fresh_model`: the
    model starts again from its initial weights. `epochs=0` trains nothing. `measured` false:
    there is nothing to deploy after this experience, so its row of the matrix stays empty.
    """

    experience: Experience
    content: tuple[Experience, ...]
    epochs: int
    batch_size: int
    fresh_model: bool = False
    mixtures: tuple[Mixture, ...] = ()
    measured: bool = True

    def replace(self, **changes: Any) -> Plan:
        return dataclasses.replace(self, **changes)

    @property
    def samples(self) -> int:
        return sum(len(e) for e in self.content)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.samples / self.batch_size)

    @property
    def steps(self) -> int:
        """Batches that come by, over all epochs."""
        return self.epochs * self.steps_per_epoch
