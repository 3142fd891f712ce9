"""Streams out: any stream of images as an Avalanche benchmark, samples gathered when they are asked for.

    benchmark = clsuite.to_avalanche(clsuite.stream("scenario=power_law"))
    for experience in benchmark.train_stream:
        strategy.train(experience)
    strategy.eval(benchmark.test_stream)

Nothing of the data set is copied: an experience is a table of the stream's own index arrays, and a sample is gathered from the resident
pixels of the source.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import UsageError
from . import part, quiet

if TYPE_CHECKING:
    from ..stream import EvaluationSet, Experience, Stream

SplitName = Literal["train", "test"]


class Table:
    """The samples of an experience in the order of the stream's table: data indices, with transform and task by segment."""

    def __init__(self, segments: Iterable[tuple[np.ndarray, int, int]]):
        rows = [row for row in segments if len(row[0])]
        self.arrays = [row[0] for row in rows]
        self.transforms, self.tasks = [row[1] for row in rows], [row[2] for row in rows]
        self.ends = list(accumulate(len(array) for array in self.arrays))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, k: int) -> tuple[int, int]:
        """Segment and data index of sample k."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        s = bisect.bisect_right(self.ends, k)
        return s, int(self.arrays[s][k - self.ends[s] + len(self.arrays[s])])


class Samples:
    """A map-style data set over a table: float32 [channels, height, width] in 0..1, and the class."""

    def __init__(self, stream: Stream, split: SplitName, table: Table):
        self.stream, self.split, self.table = stream, split, table
        self._size = stream.source.size(split)

    def __len__(self) -> int:
        return len(self.table)

    def id(self, k: int) -> int:
        """The stream's id of sample k; samples of one stream and split with one id are the same."""
        s, index = self.table.find(k)
        return self.table.transforms[s] * self._size + index

    def __getitem__(self, k: int) -> tuple[Any, int]:
        import torch

        pixels, target = self.stream.gather(torch.tensor([self.id(k)]), self.split)
        return pixels[0].to(torch.float32).div_(255), int(target)


class Column(Sequence[int]):
    """One value a sample, looked up when it is asked for: `values` are by data index, or by segment."""

    def __init__(self, table: Table, values: Sequence[int] | np.ndarray, by_segment: bool = False):
        self.table, self.values, self.by_segment = table, values, by_segment

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        segment, index = self.table.find(k)
        return int(self.values[segment if self.by_segment else index])


def to_avalanche(stream: Stream, transform: Callable[[Any], Any] | None = None, *, task_labels: bool | None = None) -> Any:
    """The stream as an Avalanche benchmark, for any of Avalanche's strategies and templates.

    `train_stream[i]` is experience i with all its segments, new and rehearsed, in the order of the table; `test_stream[j]` is evaluation
    set j. Samples are float32 [channels, height, width] in 0..1 of the stream's outputs; `transform` is applied on top, in training
    and evaluation. Task labels are the tasks of the segments where the stream has task ids or an experience mixes tasks, else 0;
    `task_labels` True or False decides otherwise. Evaluation set j has the task that is learned in its experience.

    Experiences carry `classes_in_this_experience`, `previous_classes`, `classes_seen_so_far`, `future_classes` (those that come in a
    later experience, whether seen before or not), `task_labels`, `task_label` (with one task) and `benchmark`; the benchmark carries
    `n_experiences`, `n_classes`, `n_classes_per_exp` (new ones) and `classes_order` (by first appearance).

    Raises `UsageError` for a stream of text and when Avalanche is absent or of a version that is not known to work.
    """
    if stream.world != "images":
        raise UsageError(f"a stream of {stream.world} cannot become an Avalanche benchmark (scenario '{stream.scenario}'); valid: a scenario of images")
    if transform is not None and not callable(transform):
        raise UsageError(f"transform = {transform!r} is not valid: expected a callable on one image, or None")
    part("benchmarks")  # what is missing is said before anything is made
    own = dataclasses.replace(stream)  # gathers on the CPU wherever the given stream is loaded
    own.load("cpu")
    labelled = stream.has_task_ids or any(len(e.tasks) > 1 for e in stream.experiences) if task_labels is None else task_labels
    train = [Table((s.indices, s.transform, s.task if labelled else 0) for s in e.segments) for e in stream.experiences]
    test = [Table([(e.indices, e.transform, _task_of(stream.experiences[e.learned_in], e) if labelled else 0)]) for e in stream.evaluation_sets]
    with quiet():
        return _benchmark({"train": _prepared(own, "train", train, labelled, transform), "test": _prepared(own, "test", test, labelled, transform)})


def _task_of(experience: Experience, chosen: EvaluationSet) -> int:
    """The task of the experience in which a set is first learned: the new one that is seen through the set's transform."""
    new = [s for s in experience.segments if s.role == "new"] or experience.segments
    return next((s.task for s in new if s.transform == chosen.transform), new[0].task)


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What one experience is made of: Avalanche's data set over its samples, its classes and its tasks, both ascending."""

    data: Any
    classes: list[int]
    tasks: list[int]


def _prepared(stream: Stream, split: SplitName, tables: list[Table], labelled: bool, transform: Callable[[Any], Any] | None) -> list[_Prepared]:
    utils = part("benchmarks.utils")
    outputs = stream.outputs(split)
    groups = None if transform is None else utils.TransformGroups({"train": (transform, None), "eval": (transform, None)})
    found = []
    for table in tables:
        tasks = _labels_class()([Column(table, table.tasks, by_segment=True)]) if labelled else utils.ConstantSequence(0, len(table))
        data = utils.TaskAwareSupervisedClassificationDataset(
            [Samples(stream, split, table)],
            data_attributes=[utils.DataAttribute(Column(table, outputs), "targets"), utils.TaskLabels(tasks)],
            transform_groups=copy.copy(groups),
        )
        classes = sorted({int(c) for array in table.arrays for c in np.unique(outputs[array])})
        found.append(_Prepared(data if split == "train" else data.eval(), classes, sorted(set(table.tasks))))
    return found


@functools.cache
def _labels_class() -> Any:
    """Avalanche's sequence of labels; its own cannot always be joined to the constant labels that a method gives its memory."""
    base = part("benchmarks.utils", "FlatData")

    def concat(labels: Any, other: Any) -> Any:
        return base.concat(labels, other if isinstance(other, base) else base([other]))

    return type("StreamLabels", (base,), {"concat": concat})


@functools.cache
def _experience_class() -> Any:
    """Avalanche's experience of one data set, which some of its methods replace while they train."""
    base = part("benchmarks.scenarios", "DatasetExperience")

    def replace(experience: Any, data: Any) -> None:
        experience._dataset = data

    return type("StreamExperience", (base,), {"dataset": property(lambda experience: experience._dataset, replace)})


def _benchmark(prepared: dict[str, list[_Prepared]]) -> Any:
    scenarios = part("benchmarks.scenarios")
    streams = []
    for name, rows in prepared.items():
        before, after = _seen(rows), _seen(rows[::-1])[::-1]
        experiences = []
        for i, row in enumerate(rows):
            experience = _experience_class()(dataset=row.data, current_experience=i)
            experience.classes_in_this_experience = row.classes
            experience.previous_classes = sorted(before[i])
            experience.classes_seen_so_far = sorted(before[i].union(row.classes))
            experience.future_classes = sorted(after[i])
            experience.task_labels = row.tasks
            if len(row.tasks) == 1:
                experience.task_label = row.tasks[0]
            experiences.append(experience)
        streams.append(scenarios.EagerCLStream(name, experiences))
    benchmark = scenarios.CLScenario(streams)
    for stream in streams:
        stream.benchmark = benchmark  # Avalanche's evaluator and some methods ask for it
        for experience in stream:
            experience.benchmark = benchmark
    rows = prepared["train"]
    benchmark.n_experiences, benchmark.task_labels = len(rows), [row.tasks for row in rows]
    benchmark.classes_order = list(dict.fromkeys(c for row in rows for c in row.classes))
    benchmark.n_classes = len(benchmark.classes_order)
    benchmark.n_classes_per_exp = [len(set(row.classes) - seen) for row, seen in zip(rows, _seen(rows), strict=True)]
    return benchmark


def _seen(rows: Sequence[_Prepared]) -> list[set[int]]:
    """The classes of all rows before each."""
    found: list[set[int]] = [set()]
    for row in rows:
        found.append(found[-1].union(row.classes))
    return found[:-1]
