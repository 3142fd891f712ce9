"""Which samples a step sees: the order of an epoch, and shares of a batch that come from other experiences.

Everything here is a function of (run seed, experience, epoch, step): resuming in the middle of an epoch draws nothing
twice, and two strategies with the same plan see the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..plan import Mixture, Plan
from ..randomness import generator
from ..stream import Experience

if TYPE_CHECKING:
    from .run import Run


def table(run: Run, content: tuple[Experience, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids of experiences in table order, and the experience each came from."""
    ids = [run.stream.ids(e.segments) for e in content]
    return np.concatenate(ids), np.repeat([e.index for e in content], [len(i) for i in ids])


def batches(run: Run, plan: Plan, start: int = 0) -> Iterator[tuple[Batch, bool]]:
    """The batches of an experience from step `start` on, and whether each belongs to the first epoch."""
    if plan.steps == 0:
        return
    current = _Epochs(run, plan)
    mixed = [_Mixed(run, plan, mixture, k) for k, mixture in enumerate(plan.mixtures)]
    size, per_epoch = plan.batch_size, plan.steps_per_epoch
    for step in range(start, plan.steps):
        if not mixed:
            epoch, within = divmod(step, per_epoch)
            yield current.slice(epoch, within * size, min((within + 1) * size, len(current))), epoch == 0
            continue
        first = step * size - sum(m.given_way(step) for m in mixed)
        last = (step + 1) * size - sum(m.given_way(step + 1) for m in mixed)
        pieces = [current.slice(a // len(current), a % len(current), a % len(current) + b - a) for a, b in _cut(first, last, len(current))]
        pieces += [piece for m in mixed if (piece := m.at(step)) is not None]
        batch = pieces[0]
        for piece in pieces[1:]:
            batch = batch + piece
        yield batch, first < len(current)


class _Epochs:
    """Slices of an epoch's order; the order and the augmentation's draws of an epoch are made once and kept for it."""

    def __init__(self, run: Run, plan: Plan):
        self._run, self._plan = run, plan
        self._ids, self._origin = table(run, plan.content)
        self._single = plan.content[0].index if len(plan.content) == 1 else None
        self._epoch = -1

    def __len__(self) -> int:
        return len(self._ids)

    def _enter(self, epoch: int) -> None:
        run, i = self._run, self._plan.experience.index
        ordered = self._plan.experience.ordered and self._single is not None
        order = np.arange(len(self)) if ordered else generator(run.seed, "order", i, epoch).permutation(len(self))
        self._order, self._tags = self._ids[order], self._origin[order]
        self._draws = run.workload.draws(len(self), run.seed, "augmentation", i, epoch)
        self._epoch = epoch

    def slice(self, epoch: int, first: int, last: int) -> Batch:
        if epoch != self._epoch:
            self._enter(epoch)
        origin: int | Tensor = torch.from_numpy(self._tags[first:last]) if self._single is None else self._single
        draws = None if self._draws is None else self._draws[first:last]
        return self._run.current_batch(torch.from_numpy(self._order[first:last]), origin, draws)


class _Mixed:
    """The samples a mixture adds, going round when they run out."""

    def __init__(self, run: Run, plan: Plan, mixture: Mixture, number: int):
        self._run, self._mixture, self._size = run, mixture, plan.batch_size
        self._name = (run.seed, "augmentation", "mixture", number, plan.experience.index)
        if mixture.trained:
            self._tables = [_trained_on(run, e, count, mixture.order) for e, count in zip(mixture.content, mixture.trained, strict=True)]
        else:
            self._ids, self._origin = table(run, mixture.content)

    def given_way(self, step: int) -> int:
        """Current samples that gave way before `step`: none where the mixture comes on top of the batch."""
        return self._mixture.total(step, self._size) if self._mixture.kind == "compute_equivalent" else 0

    def at(self, step: int) -> Batch | None:
        first, last = self._mixture.taken(step, self._size)
        if first == last:
            return None
        ids, origin = self._from_each(step) if self._mixture.trained else self._from_all(first, last)
        draws = self._run.workload.draws(len(ids), *self._name, step)
        return self._run.current_batch(torch.from_numpy(ids), torch.from_numpy(origin), draws, current=False)

    def _from_all(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        where = np.arange(first, last) % len(self._ids)
        return self._ids[where], self._origin[where]

    def _from_each(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        mixture = self._mixture
        before, after = mixture.used(step, self._size), mixture.used(step + 1, self._size)
        starts = mixture.starts or (0,) * len(before)
        pieces = [ids[np.arange(start + a, start + b) % len(ids)] for ids, start, a, b in zip(self._tables, starts, before, after, strict=True) if a < b]
        origin = np.repeat([e.index for e in mixture.content], np.subtract(after, before))
        return np.concatenate(pieces), origin


def _first_order(run: Run, experience: Experience) -> np.ndarray:
    """Places in an experience's table in the order in which its first epoch trains on them, when it is trained on alone."""
    return np.arange(len(experience)) if experience.ordered else generator(run.seed, "order", experience.index, 0).permutation(len(experience))


def _trained_on(run: Run, experience: Experience, count: int, order: str) -> np.ndarray:
    """The ids of the samples of an experience that `count` samples of training reached, in the order of training or shuffled."""
    ids = run.stream.ids(experience.segments)[_first_order(run, experience)[:count]]
    return generator(run.seed, "replay order", experience.index).permutation(ids) if order == "shuffled" else ids


def _cut(first: int, last: int, length: int) -> list[tuple[int, int]]:
    """[first, last) cut at multiples of `length`."""
    pieces = []
    while first < last:
        stop = min(last, (first // length + 1) * length)
        pieces.append((first, stop))
        first = stop
    return pieces
