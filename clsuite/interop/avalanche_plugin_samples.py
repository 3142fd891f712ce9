"""Samples of Avalanche's experiences by number, and its buffers as a memory that parts can draw from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..errors import UsageError
from ..memory import Memory
from ..stream import Experience, Segment, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = -1
"""The id of samples of a mini-batch: loaders do not say which samples they took."""


def fetch(dataset: Any, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of some samples of an Avalanche data set, on a device."""
    x, y = dataset.collate_fn([dataset[int(i)] for i in indices])[:2]
    return x.to(device), y.to(device)


def labels(dataset: Any) -> np.ndarray:
    """The targets of an Avalanche data set, int64."""
    found = getattr(dataset, "targets", None)
    return np.array([int(y) for y in found] if found is not None else [int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)


def updates(experience: Any, batch_size: int, replaying: bool) -> int:
    """Updates of an epoch: batches of the data, or, where samples have task labels and nothing is replayed, of its longest task.

    Avalanche's own loader then divides a batch evenly between tasks and repeats the shorter ones.
    """
    data = experience.dataset
    tasks = getattr(data, "targets_task_labels", None)
    if tasks is None or replaying or not hasattr(experience, "task_labels"):
        return math.ceil(len(data) / batch_size)
    sizes = [len(tasks.val_to_idx[task]) for task in tasks.uniques]
    even, left = divmod(batch_size, len(sizes))
    return max(math.ceil(n / max(even + (k < left), 1)) for k, n in enumerate(sizes))


class SeenStream(Stream):
    """The experiences that were begun, in the order of training: sample i of the data set of experience e is id `start of e` + i.

    `planned`: how many there will be, which is its length; where that is not known it is always one more than there are.
    """

    def __init__(self, classes: int, device: torch.device, bordered: bool, planned: int | None):
        super().__init__("avalanche", "evaluation", 0, None, [], [], np.arange(classes), has_borders=bordered)  # type: ignore[arg-type]
        self.experiences: list[Experience] = []
        self.device, self.planned = device, planned
        self._data: list[Any] = []
        self._labels: list[np.ndarray] = []
        self._starts: list[int] = [0]

    def __len__(self) -> int:
        return len(self.experiences) + 1 if self.planned is None else self.planned

    def begin(self, dataset: Any) -> Experience:
        """Add an experience with the samples of a data set."""
        start, count = self._starts[-1], len(dataset)
        y = labels(dataset)
        if y.min() < 0 or y.max() >= self.classes:
            raise UsageError(
                f"targets go from {y.min()} to {y.max()}, but the head has outputs 0..{self.classes - 1}: it needs one for every class of the stream"
            )
        segment = Segment(len(self.experiences), np.arange(start, start + count))
        classes = y[np.sort(np.unique(y, return_index=True)[1])].tolist()  # in the order of their first samples
        self.experiences.append(Experience(len(self.experiences), (segment,), tuple(classes)))
        self._data.append(dataset)
        self._labels.append(y)
        self._starts.append(start + count)
        return self.experiences[-1]

    def ids(self, segments: Sequence[Segment]) -> np.ndarray:
        return np.concatenate([s.indices for s in segments]) if segments else np.zeros(0, np.int64)

    def _places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Experience and index of samples."""
        if (ids < 0).any():
            raise UsageError("which samples a mini-batch of an Avalanche loader holds is not known: a part that asks for it cannot be a plugin")
        experience = np.searchsorted(self._starts, ids, side="right") - 1
        return experience, ids - np.asarray(self._starts)[experience]

    def labels_of(self, ids: np.ndarray) -> np.ndarray:
        self._places(ids)
        return np.concatenate(self._labels)[ids]

    def gather(self, ids: Tensor, split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
        """Inputs, as evaluation transforms them, and targets."""
        return self._fetch(ids, "eval")

    def augmented(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs, as training transforms them, and targets."""
        return self._fetch(ids, "train")

    def _fetch(self, ids: Tensor, group: Literal["train", "eval"]) -> tuple[Tensor, Tensor]:
        experience, index = self._places(ids.numpy())
        found: list[tuple[Tensor, Tensor]] = []
        places: list[np.ndarray] = []
        for e in np.unique(experience):
            chosen = np.flatnonzero(experience == e)
            found.append(fetch(getattr(self._data[e], group)(), index[chosen].tolist(), self.device))
            places.append(chosen)
        back = torch.from_numpy(np.argsort(np.concatenate(places))).to(self.device)
        return torch.cat([x for x, _ in found])[back], torch.cat([y for _, y in found])[back]


def buffer_of(strategy: Any) -> Any:
    """The storage policy of an Avalanche strategy or of one of its plugins; None without a memory."""
    for holder in (strategy, *strategy.plugins):
        policy = getattr(holder, "storage_policy", None)
        if policy is not None and hasattr(policy, "buffer"):
            return policy
    return None


class BorrowedMemory(Memory):
    """The memory that the Avalanche strategy keeps, as it stands: parts draw from it, the strategy fills it."""

    def __init__(self, policy: Any, rng: np.random.Generator, stream: SeenStream):
        super().__init__(policy.max_size, "reservoir", rng, known, stream.device)
        self.policy_of_theirs, self._stream = policy, stream
        self._buffer: Any = None

    def forget(self) -> None:
        """Look at the buffer again when it is next asked for; some are put together anew at every look."""
        self._buffer = None

    @property
    def buffer(self) -> Any:
        if self._buffer is None:
            self._buffer = self.policy_of_theirs.buffer.train()
        return self._buffer

    def __len__(self) -> int:
        return len(self.buffer)

    def column(self, name: str, width: int, dtype: torch.dtype = torch.float32) -> None:
        raise UsageError(f"the Avalanche strategy's memory keeps no '{name}' with its samples: give buffer_size, for a memory of the plugin's own")

    def at(self, slots: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        return known(*fetch(self.buffer, slots.tolist(), self._device), len(self._stream.experiences) - 1, current=False)

    def add(self, ids: np.ndarray, labels: np.ndarray, experience: np.ndarray, columns: dict[str, Tensor] | None = None) -> None:
        """Nothing: the strategy fills it."""


def known(x: Tensor, y: Tensor, experience: int, current: bool = True) -> Batch:
    """Samples at hand as a batch; their ids are not known."""
    batch = Batch(lambda _: (x, y), torch.full((len(y),), UNKNOWN, dtype=torch.int64), experience, current)
    batch.x  # noqa: B018  # seen now: joined to other batches, each keeps its own inputs
    return batch
