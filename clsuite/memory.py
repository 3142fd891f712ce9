"""Replay buffers: ids with columns.

Every sample that is offered draws a random priority; the memory keeps the highest priorities of each group, and groups
share the capacity as evenly as their sizes allow. With one group that is a reservoir (a uniform sample of everything
offered, Vitter 1985); with the class as group it is class-balanced reservoir sampling (Chrysakis & Moens 2020); with
the experience as group it is an experience-balanced buffer. Who offers samples may give their priorities: with the place
in the order of `herding` as priority, a class-balanced memory keeps iCaRL's exemplars. Samples are ids, so a memory of images costs no pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .batch import Batch

BufferPolicy = Literal["reservoir", "class_balanced", "experience_balanced"]
InsertPolicy = Literal["first_epoch", "always", "experience_end"]
POLICIES = get_args(BufferPolicy)

LOOKS = 1000
"""Looks after which herding passes over samples that it has listed already."""


def shares(available: np.ndarray, capacity: int) -> np.ndarray:
    """How many of each group are kept: as even as possible, nothing wasted; a remainder goes to the first groups."""
    kept = np.zeros_like(available)
    left = capacity
    while left and (open_groups := np.flatnonzero(kept < available)).size:
        step = max(left // len(open_groups), 1)
        for g in open_groups[: left // step]:
            given = min(step, int(available[g] - kept[g]), left)
            kept[g] += given
            left -= given
    return kept


def herding(features: np.ndarray, count: int) -> np.ndarray:
    """Places of `count` samples (of all, where there are fewer), such that the first k of them have a mean near that of all, for every k.

    `features` float [samples, width], of unit length. Source: Welling 2009; Rebuffi et al. 2017, arXiv 1611.07725, algorithm 4: the next
    is argmin ||mean - (x + sum of those before) / k||, which among vectors of one length is argmax <k mean - sum of those before, x>. As in
    the authors' code a sample that comes out again moves the sum on and is not listed twice; after 1000 looks, where that code stops with
    fewer samples, listed ones are passed over (ours).
    """
    mean = features.mean(axis=0)
    wanted, listed = mean.copy(), np.zeros(len(features), dtype=bool)
    order: list[int] = []
    looks = 0
    while len(order) < min(count, len(features)):
        scores = features @ wanted
        nearest = int(np.argmax(scores if looks < LOOKS else np.where(listed, -np.inf, scores)))
        if not listed[nearest]:
            listed[nearest] = True
            order.append(nearest)
        wanted += mean - features[nearest]
        looks += 1
    return np.array(order, dtype=np.int64)


class Memory:
    """Up to `capacity` sample ids, with labels, experiences and the columns that parts registered.

    `draw` makes a batch of ids (the run binds it to the data). All bookkeeping is on the CPU; columns live on `device`.
    """

    def __init__(self, capacity: int, policy: BufferPolicy, rng: np.random.Generator, draw: Callable[..., Batch], device: Any = "cpu"):
        self.capacity, self.policy = capacity, policy
        self.rng, self._draw, self._device = rng, draw, device
        self.offered = 0
        self.ids = np.zeros(0, np.int64)
        self.labels = np.zeros(0, np.int64)
        self.experience = np.zeros(0, np.int64)
        self.priority = np.zeros(0, np.float64)
        self.columns: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str, width: int, dtype: torch.dtype = torch.float32) -> None:
        """Keep `batch.columns[name]` (for "logits": what the model said) [width] with every sample; idempotent."""
        if name not in self.columns:
            self.columns[name] = torch.zeros(self.capacity, width, dtype=dtype, device=self._device)

    def sample(self, count: int, rng: np.random.Generator | None = None) -> Batch:
        """A batch of `count` stored samples without repetition (all of them when fewer are stored).

        With a generator of one's own, the draws of everybody else stay what they would have been.
        """
        return self.at((rng or self.rng).choice(len(self), min(count, len(self)), replace=False), rng)

    def at(self, slots: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """The stored samples at given slots as a batch, with their columns; `rng` draws their augmentation."""
        where = torch.from_numpy(slots)
        columns = {name: values.index_select(0, where.to(values.device)) for name, values in self.columns.items()}
        return self._draw(torch.from_numpy(self.ids[slots]), torch.from_numpy(self.experience[slots]), columns, rng)

    def everything(self) -> Batch:
        """All stored samples as one batch."""
        return self.at(np.arange(len(self)))

    def add(self, ids: np.ndarray, labels: np.ndarray, experience: np.ndarray, columns: dict[str, Tensor] | None = None) -> None:
        """Offer samples: int64 [n] each; `columns` hold a tensor [n, width] for every registered column. What stays is a random choice."""
        self.insert(ids, labels, experience, self.rng.random(len(ids)), columns)

    def insert(self, ids: np.ndarray, labels: np.ndarray, experience: np.ndarray, priority: np.ndarray, columns: dict[str, Tensor] | None = None) -> None:
        """Offer samples as `add` does; `priority` float [n] says what stays longest within its group."""
        self.offered += len(ids)
        candidates = self._candidates(priority, labels, experience)
        if not candidates.size:
            return
        merged = np.concatenate([self.priority, priority[candidates]])
        keep = self._kept(merged, self._groups(labels[candidates], experience[candidates]))
        stored = len(self)
        free = np.flatnonzero(~keep[:stored])
        taken = candidates[keep[stored:]]
        slots = np.concatenate([free, np.arange(stored, stored + len(taken) - len(free))])
        grow = max(len(taken) - len(free), 0)
        for name, values in (("ids", ids), ("labels", labels), ("experience", experience), ("priority", priority)):
            column = getattr(self, name)
            column = np.concatenate([column, np.zeros(grow, column.dtype)]) if grow else column
            column[slots] = values[taken]
            setattr(self, name, column)
        if self.columns:
            target, chosen = torch.from_numpy(slots), torch.from_numpy(taken)
            for name, stored_column in self.columns.items():
                offered = (columns or {})[name].detach()
                stored_column[target.to(stored_column.device)] = offered[chosen.to(offered.device)].to(stored_column)

    def _groups(self, labels: np.ndarray, experience: np.ndarray) -> np.ndarray:
        if self.policy == "class_balanced":
            return np.concatenate([self.labels, labels])
        return np.concatenate([self.experience, experience])

    def _candidates(self, priority: np.ndarray, labels: np.ndarray, experience: np.ndarray) -> np.ndarray:
        """Samples that may enter: below the lowest priority of a full reservoir none can, so most steps end here."""
        if len(self) < self.capacity or self.policy != "reservoir":
            return np.arange(len(priority))
        return np.flatnonzero(priority > self.priority.min())

    def _kept(self, priority: np.ndarray, groups: np.ndarray) -> np.ndarray:
        if len(priority) <= self.capacity:
            return np.ones(len(priority), dtype=bool)
        if self.policy == "reservoir":  # one group: the highest priorities, without sorting
            keep = np.zeros(len(priority), dtype=bool)
            keep[np.argpartition(-priority, self.capacity - 1)[: self.capacity]] = True
            return keep
        _, group, available = np.unique(groups, return_inverse=True, return_counts=True)
        quota = shares(available, self.capacity)
        order = np.lexsort((-priority, group))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(available) - available, available)
        return rank < quota[group]

    def bytes(self) -> int:
        """What the memory costs: ids, labels, experiences, priorities and columns."""
        return self.capacity * 4 * 8 + sum(c.numel() * c.element_size() for c in self.columns.values())
