"""The samples of one step: ids now, pixels when somebody looks.

A batch is a list of pieces (the current samples, a draw from a memory, ...). `a + b` joins them without touching a
pixel, so a strategy that replays gathers, augments and runs its network once over everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

View = Callable[["Batch"], tuple[Any, Any]]


class Batch:
    """Samples of one step.

    `ids` int64 [batch], always on the CPU. `x`, `y`: inputs and targets on the device, made at first use by the
    workload; the same view of a sample each time they are read. `draws` float32 [batch, k]: the random numbers of the
    samples' augmentation (None without augmentation). `experience`: where a sample came from. `current` marks samples
    that are not replayed. `columns`: what a memory stored with them. `logits`: what the model last said about them in
    `loss`, with gradient.
    """

    def __init__(
        self,
        view: View,
        ids: Tensor,
        experience: int | Tensor,
        current: bool = True,
        draws: np.ndarray | None = None,
        columns: dict[str, Tensor] | None = None,
    ):
        self._view = view
        self._joined_from: tuple[Batch, ...] = ()  # never the batch itself: a cycle would keep its logits until cycles are looked for
        self._ids = ids
        self._experience = experience
        self._current = current
        self._draws = draws
        self._seen: tuple[Any, Any] | None = None
        self._logits: Tensor | None = None
        self.columns = columns or {}

    @classmethod
    def _joined(cls, pieces: tuple[Batch, ...]) -> Batch:
        batch = cls(pieces[0]._view, torch.cat([p._ids for p in pieces]), 0)
        batch._joined_from = pieces
        common = set(pieces[0].columns).intersection(*(p.columns for p in pieces[1:]))
        batch.columns = {name: torch.cat([p.columns[name] for p in pieces]) for name in sorted(common)}
        return batch

    @property
    def _pieces(self) -> tuple[Batch, ...]:
        return self._joined_from or (self,)

    def __add__(self, other: Batch) -> Batch:
        return Batch._joined(self._pieces + other._pieces)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    @property
    def ids(self) -> Tensor:
        return self._ids

    @property
    def draws(self) -> np.ndarray | None:
        if len(self._pieces) == 1:
            return self._draws
        import numpy as np

        parts = [p._draws for p in self._pieces]
        return None if any(d is None for d in parts) else np.concatenate(parts)  # type: ignore[arg-type]

    @property
    def experience(self) -> Tensor:
        """int64 [batch] on the CPU: the experience each sample came from."""
        if len(self._pieces) > 1:
            return torch.cat([p.experience for p in self._pieces])
        if isinstance(self._experience, int):
            return torch.full((len(self),), self._experience, dtype=torch.int64)
        return self._experience

    @property
    def current(self) -> Tensor:
        """bool [batch] on the CPU: true for samples that are not replayed."""
        return torch.cat([torch.full((len(p),), p._current, dtype=torch.bool) for p in self._pieces])

    def current_only(self) -> Batch:
        """The samples that are not replayed (this batch itself when all are)."""
        pieces = tuple(p for p in self._pieces if p._current)
        if pieces == self._pieces or not pieces:
            return self if pieces else Batch(self._view, self._ids[:0], 0)
        return pieces[0] if len(pieces) == 1 else Batch._joined(pieces)

    def split(self, count: int) -> list[Batch]:
        """The batch in `count` parts of consecutive samples, as equal as can be; fewer where there are fewer samples."""
        count = min(count, len(self))
        bounds = [len(self) * k // count for k in range(count + 1)]
        return [self._range(a, b) for a, b in itertools.pairwise(bounds)]

    def _range(self, first: int, last: int) -> Batch:
        if not self._joined_from:
            origin = self._experience if isinstance(self._experience, int) else self._experience[first:last]
            draws = None if self._draws is None else self._draws[first:last]
            columns = {name: values[first:last] for name, values in self.columns.items()}
            return Batch(self._view, self._ids[first:last], origin, self._current, draws, columns)
        found, start = [], 0
        for piece in self._joined_from:
            a, b = max(first - start, 0), min(last - start, len(piece))
            if a < b:
                found.append(piece._range(a, b))
            start += len(piece)
        return found[0] if len(found) == 1 else Batch._joined(tuple(found))

    def _look(self) -> tuple[Any, Any]:
        if self._seen is None:
            if len(self._pieces) > 1 and any(p._seen is not None for p in self._pieces):
                views = [p._look() for p in self._pieces]
                self._seen = (torch.cat([v[0] for v in views]), torch.cat([v[1] for v in views]))
            else:
                self._seen = self._view(self)
        return self._seen

    @property
    def x(self) -> Any:
        return self._look()[0]

    @property
    def y(self) -> Any:
        return self._look()[1]

    @property
    def logits(self) -> Tensor | None:
        if self._logits is None and len(self._pieces) > 1:
            parts = [p._logits for p in self._pieces]
            return None if any(z is None for z in parts) else torch.cat(parts)  # type: ignore[arg-type]
        return self._logits

    @logits.setter
    def logits(self, value: Tensor) -> None:
        self._logits = value
        if len(self._pieces) > 1:
            start = 0
            for piece in self._pieces:
                piece._logits = value[start : start + len(piece)]
                start += len(piece)
