"""The table of what is seen when: samples, segments, experiences, streams.

A sample is one int64 id, `transform * len(data) + index`. A stream is a table of such ids made before training from a
seed; `Stream.gather(ids)` is the only way from ids to pixels and labels. The table can be shown, hashed and exported
without decoding an image.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .errors import UsageError
from .randomness import generator
from .transforms import Transforms

if TYPE_CHECKING:
    from torch import Tensor

    from .data.source import ImageSource

Indices = np.ndarray
Role = Literal["new", "rehearsed"]


@dataclass(frozen=True)
class Draw:
    """A seeded rule for indices: `count` of `pool` without replacement (with it when the pool is smaller)."""

    pool: Indices
    count: int
    seed: tuple[str | int, ...]

    def indices(self) -> Indices:
        return generator(*self.seed).choice(self.pool, self.count, replace=self.count > len(self.pool))


@dataclass(frozen=True)
class Segment:
    """A part of an experience: samples of one task under one transform.

    `content` holds data indices (int64) or a `Draw`; arrays may be shared between segments, so a stream of thousands
    of experiences stays small.
    """

    task: int
    content: Indices | Draw
    transform: int = 0
    role: Role = "new"

    @property
    def indices(self) -> Indices:
        return self.content.indices() if isinstance(self.content, Draw) else self.content

    def __len__(self) -> int:
        return self.content.count if isinstance(self.content, Draw) else len(self.content)


@dataclass(frozen=True)
class Experience:
    """What is trained on between two borders: segments, shuffled together (`ordered`: in the table's own order)."""

    index: int
    segments: tuple[Segment, ...]
    classes: tuple[int, ...]
    ordered: bool = False
    forced: bool = False

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @property
    def tasks(self) -> tuple[int, ...]:
        return tuple(sorted({segment.task for segment in self.segments}))


@dataclass(frozen=True)
class EvaluationSet:
    """Test samples scored together: a column of the accuracy matrix.

    `learned_in` is f(j), the experience in which the set was first learned. `classes` lists the classes its samples
    come from; task-incremental accuracy masks all others.
    """

    name: str
    indices: Indices
    learned_in: int
    classes: tuple[int, ...]
    transform: int = 0

    def __len__(self) -> int:
        return len(self.indices)


def _digest(*arrays: np.ndarray) -> str:
    h = hashlib.sha256()
    for array in arrays:
        h.update(f"{array.dtype}{array.shape}".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


@dataclass
class Stream:
    """A stream of experiences over one data source, with the sets it is evaluated on.

    `class_labels[c]` is the source's label of output c: outputs are 0..classes-1 whatever subset of the source's
    classes a phase may use. `has_borders`: methods may be told where an experience ends. `has_task_ids`: every training
    sample belongs to one known task. `task_masked`: task-incremental accuracy is defined. `facts` is what
    the scenario wants shown (a fitted exponent, for example).
    """

    world: ClassVar[str] = "images"
    """What samples are."""

    scenario: str
    phase: str
    seed: int
    source: ImageSource
    experiences: Sequence[Experience]
    evaluation_sets: Sequence[EvaluationSet]
    class_labels: np.ndarray
    transforms: Transforms = field(default_factory=Transforms)
    has_borders: bool = True
    has_task_ids: bool = True
    task_masked: bool = False
    keep_schedule: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        empty = [e.index for e in self.experiences if not len(e)]
        if empty:
            raise UsageError(f"scenario {self.scenario}: experience {empty[0]} has no sample; ask for fewer experiences or more data")
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.experiences)

    @property
    def classes(self) -> int:
        """Outputs of the head, fixed for the whole stream."""
        return len(self.class_labels)

    @functools.cached_property
    def _outputs(self) -> np.ndarray:
        outputs = np.full(self.source.classes, -1, dtype=np.int64)
        outputs[self.class_labels] = np.arange(len(self.class_labels))
        return outputs

    def outputs(self, split: Literal["train", "test"] = "train") -> np.ndarray:
        """The output (0..classes-1) of every sample of a split; -1 for classes outside this stream."""
        return self._outputs[self.source.labels(split)]

    def ids(self, segments: Sequence[Segment]) -> np.ndarray:
        """The sample ids of segments, in table order."""
        size = self.source.size("train")
        return np.concatenate([s.transform * size + s.indices for s in segments]) if segments else np.zeros(0, np.int64)

    def evaluation_ids(self, j: int) -> np.ndarray:
        """The ids (over the test split) of evaluation set j."""
        chosen = self.evaluation_sets[j]
        return chosen.transform * self.source.size("test") + chosen.indices

    def load(self, device: Any) -> None:
        """Put pixels, labels and transforms on a device; `gather` works from then on."""
        from .data.resident import Resident

        for split in ("train", "test"):
            self._arrays[split] = Resident(self.source.images(split), self.outputs(split), self.transforms, device)

    def gather(self, ids: Tensor, split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
        """Pixels (uint8, [batch, channels, height, width]) and outputs (int64, [batch]) of sample ids.

        The scenario's transforms are applied; normalisation and augmentation are the training's business.
        """
        return self._arrays[split].gather(ids)

    def labels_of(self, ids: np.ndarray) -> np.ndarray:
        """The outputs of training sample ids, without touching a pixel."""
        return self._train_outputs[ids % self.source.size("train")]

    @functools.cached_property
    def _train_outputs(self) -> np.ndarray:
        return self.outputs("train")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the whole table: experiences, segments, indices, transforms, evaluation sets, labels."""
        known: dict[int, str] = {}

        def content(value: Indices | Draw) -> str:
            if isinstance(value, Draw):
                return f"draw {content(value.pool)} {value.count} {json.dumps([str(s) for s in value.seed])}"
            if id(value) not in known:
                known[id(value)] = _digest(value)
            return known[id(value)]

        h = hashlib.sha256()
        h.update(json.dumps([self.source.name.partition(":")[0], self.class_labels.tolist(), self.transforms.kind]).encode())
        h.update(_digest(self.transforms.table).encode())
        for experience in self.experiences:
            h.update(f"{experience.index} {experience.ordered} {experience.classes}\n".encode())
            for s in experience.segments:
                h.update(f"{experience.index} {s.task} {s.transform} {s.role} {content(s.content)}\n".encode())
        for e in self.evaluation_sets:
            h.update(f"{e.name} {e.transform} {e.learned_in} {e.classes} {content(e.indices)}\n".encode())
        return h.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Statistics of the table as plain values; decodes no image."""
        counts = [len(e) for e in self.experiences]
        rehearsed = [sum(len(s) for s in e.segments if s.role == "rehearsed") for e in self.experiences]
        return {
            "scenario": self.scenario,
            "dataset": self.source.name,
            "phase": self.phase,
            "seed": self.seed,
            "experiences": len(self),
            "classes": self.classes,
            "samples": sum(counts),
            "samples_per_experience": counts,
            "rehearsed_per_experience": rehearsed,
            "classes_per_experience": [list(e.classes) for e in self.experiences],
            "evaluation_sets": [{"name": e.name, "samples": len(e), "learned_in": e.learned_in} for e in self.evaluation_sets],
            "borders": self.has_borders,
            "task_ids": self.has_task_ids,
            "fingerprint": self.fingerprint,
            **self.facts,
        }
