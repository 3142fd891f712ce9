"""What an experience trains on, decided before the first step: so that steps, horizon and cost are known."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from .stream import Experience


@dataclass(frozen=True)
class Mixture:
    """A share of every batch that comes from other experiences, continued from step to step.

    `compute_equivalent`: the batch keeps its size, so current samples give way and the number of steps is unchanged.
    `additive`: batch B (1 + share), same steps.

    `trained` empty: one cursor goes through all content in table order. Else it holds, for each experience of the content, how many
    of its samples were trained on (repetitions counted): the share is divided in proportion, and each experience has a cursor of its own,
    which begins at `starts`, stays within the samples that were trained on, and goes round when they are used up. `order` is that in
    which they were trained on, or a permutation by the run seed.

    Shares are the fractions they are written as (0.05 is 1/20), so counts are exact.
    """

    content: tuple[Experience, ...]
    share: float
    kind: Literal["compute_equivalent", "additive"] = "compute_equivalent"
    trained: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    order: Literal["original", "shuffled"] = "original"

    def total(self, steps: int, batch_size: int) -> int:
        """Samples mixed in by the first `steps` steps of an experience: floor(n B x)."""
        share = self._share
        return steps * batch_size * share.numerator // share.denominator

    def taken(self, step: int, batch_size: int) -> tuple[int, int]:
        """Positions [from, to) of the mixed-in samples that step `step` uses: floor(n B x) to floor((n + 1) B x)."""
        return self.total(step, batch_size), self.total(step + 1, batch_size)

    def used(self, steps: int, batch_size: int) -> tuple[int, ...]:
        """Samples of each experience of the content that the first `steps` steps mix in; for content with cursors of its own.

        With S_c the running sums of `trained` and M the total, experiences up to c get M_c = floor(M_{c+1} S_c / S_{c+1}): the
        cumulative shares floor(n B x S_c / S), one floor within the other. (Differences of the bare floors can fall from one step to the
        next, and a cursor would run backwards; these cannot.)
        """
        found, upto = [], self.total(steps, batch_size)
        for count, before in zip(reversed(self.trained), reversed(self._sums), strict=True):
            below = upto * before // (before + count) if count else upto
            found.append(upto - below)
            upto = below
        return tuple(reversed(found))

    @functools.cached_property
    def _share(self) -> Fraction:
        return Fraction(self.share).limit_denominator(10**9)

    @functools.cached_property
    def _sums(self) -> tuple[int, ...]:
        """Samples trained on in the experiences before each."""
        return (0, *itertools.accumulate(self.trained[:-1]))


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

    @property
    def trained(self) -> int:
        """Samples of the content that its steps train on, repetitions counted: with a mixture every batch is full, and some of them gave way."""
        if not self.mixtures:
            return self.epochs * self.samples
        given_way = sum(m.total(self.steps, self.batch_size) for m in self.mixtures if m.kind == "compute_equivalent")
        return self.steps * self.batch_size - given_way
