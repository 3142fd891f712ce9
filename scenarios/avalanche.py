"""Benchmarks of Avalanche as streams: its classic ones by name, one's own, or one that was imported."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from clsuite.errors import UsageError
from clsuite.interop.avalanche_benchmarks import ImportedBenchmark, Membership
from clsuite.interop.avalanche_names import EMBEDDED, find
from clsuite.scenario import ImageScenario, Phase, Pool, Scenario
from clsuite.settings import setting
from clsuite.stream import EvaluationSet, Experience, Segment, Stream


class Avalanche(Scenario):
    """The experiences of an Avalanche benchmark of image classification, its test stream as evaluation sets.

    The benchmark is made with `benchmark_seed` whatever the seed of the run, so all runs see the same experiences. Its samples are grouped
    by task label within an experience. Test experience j belongs to training experience j where there are as many; otherwise to the first
    training experience with its task label, or else to the first by which all its classes were seen. A division of the data between
    phases divides the distinct samples, and leaves every experience its part.

    Source: Lomonaco et al. 2021, arXiv 2104.00405, and the sources of the benchmarks it names.
    """

    name = "avalanche"
    world = "images"
    model = "mlp"
    splits = ("none", "classes", "experiences", "samples")

    benchmark: str = setting(EMBEDDED, help="a classic benchmark (SplitMNIST), FILE.py:function, or the name of an imported one; SplitDigits needs no data")
    n_experiences: int | None = setting(None, ge=1, help="the benchmark's argument of that name")
    benchmark_seed: int | None = setting(0, ge=0, help="the benchmark's argument seed (null: not given); what it draws otherwise is seeded with it too")
    arguments: dict | None = setting(None, help="further arguments of the benchmark, such as {return_task_id: true}")
    round_pixels: bool = setting(False, help="allow pixels that are no multiples of 1/255, rounded")
    samples_per_class: int | None = setting(None, ge=1, help="keep only so many training samples of each class (null: all), the same for every seed")
    borders: bool = setting(True, help="whether methods are told where experiences end; false for streams of small pieces")

    @functools.cached_property
    def table(self) -> ImportedBenchmark:
        """The benchmark as resident pixels and a table; made when it is first asked for."""
        given = {"n_experiences": self.n_experiences, "seed": self.benchmark_seed}
        return find(self.benchmark, given, self.arguments or {}, self.data_root, self.round_pixels)

    @functools.cached_property
    def _images(self) -> ImageScenario:
        """The scenario over the same pixels that says what a phase may see."""
        found = ImageScenario(self.split, self.data_root, dataset=self.table.source.name, samples_per_class=self.samples_per_class)
        found.name = self.name
        return found

    @property
    def defaults(self) -> Mapping[str, Any]:  # type: ignore[override]
        return self.table.defaults

    def content(self) -> dict[str, dict[str, Any]]:
        making = dict.fromkeys(("n_experiences", "benchmark_seed", "arguments", "round_pixels"))
        return {"scenario": {**making, "benchmark": self.table.identity}, "protocol": {}}

    @property
    def title(self) -> str:
        return self.table.title

    def stream(self, phase: Phase, seed: int) -> Stream:
        self.check_split(phase)
        pool = self._images.pool(phase)
        outputs = np.full(pool.source.classes, -1)
        outputs[pool.class_labels] = np.arange(pool.classes)
        experiences = self._experiences(pool, outputs[pool.source.labels("train")], phase)
        sets = self._evaluation_sets(pool, outputs[pool.source.labels("test")], phase)
        tasks = [set(row.tasks.tolist()) for row in self.table.train]
        return self._images.make(
            pool,
            phase,
            seed,
            experiences,
            sets,
            has_borders=self.borders,
            has_task_ids=self._labelled and all(len(t) == 1 for t in tasks),
            task_masked=len(sets) > 1 and any(len(e.classes) < pool.classes for e in sets),
            keep_schedule=not self.borders,
            facts={"benchmark": self.table.title, "pixels": "after evaluation transforms" if self.table.transformed else "before transforms"},
        )

    @property
    def _labelled(self) -> bool:
        """Whether task labels tell anything: in most class-incremental benchmarks all are 0."""
        return len({int(t) for row in self.table.train for t in np.unique(row.tasks)}) > 1

    def _experiences(self, pool: Pool, outputs: np.ndarray, phase: Phase) -> list[Experience]:
        found = []
        for i, row in enumerate(_within(self.table.train, pool.indices["train"], pool.source.size("train"))):
            classes = np.unique(outputs[row.indices]).tolist()
            if len(classes) < (2 if self.split.split == "classes" else 1):
                raise self._too_little(f"{len(classes)} classes of experience {i}", phase)
            tasks = dict.fromkeys(row.tasks.tolist()) if self._labelled else (i,)
            segments = tuple(Segment(t, row.indices[row.tasks == t] if self._labelled else row.indices) for t in tasks)
            found.append(Experience(i, segments, tuple(classes)))
        return found

    def _evaluation_sets(self, pool: Pool, outputs: np.ndarray, phase: Phase) -> list[EvaluationSet]:
        rows, learned = self._measured()
        names = ["test"] if len(rows) == 1 else [f"experience {j}" for j in range(len(rows))]
        found = []
        for j, row in enumerate(_within(rows, pool.indices["test"], pool.source.size("test"))):
            if not len(row):
                raise self._too_little(f"no sample of test experience {j}", phase)
            found.append(EvaluationSet(names[j], row.indices, learned[j], tuple(np.unique(outputs[row.indices]).tolist())))
        return found

    def _too_little(self, what: str, phase: Phase) -> UsageError:
        cause, valid = f"protocol.split = '{self.split.split}'", {"classes": "samples, experiences", "samples": "experiences"}.get(self.split.split, "")
        if not valid:
            cause, valid = f"scenario.samples_per_class = {self.samples_per_class}", "more"
        return UsageError(f"{cause} leaves {what} of benchmark '{self.table.title}' in the {phase} phase, too little to learn or to measure (valid: {valid})")

    def _measured(self) -> tuple[tuple[Membership, ...], list[int]]:
        """Who is in each evaluation set, and the experience in which it was first learned."""
        table = self.table
        if self.split.held_out is None:
            return table.test, [self._learned_in(j) for j in range(len(table.test))]
        if len(table.test) == 1:  # held-out samples of all experiences, in the place of the whole test set
            both = [np.concatenate(parts) for parts in zip(*((row.indices, row.tasks) for row in table.train), strict=True)]
            kept = np.unique(both[0], return_index=True)[1]
            return (Membership(both[0][kept], both[1][kept]),), [self._learned_in(0)]
        if len(table.test) == len(table.train):
            return table.train, list(range(len(table.train)))
        raise UsageError(
            f"protocol.held_out = {self.split.held_out:g}: benchmark '{table.title}' has {len(table.test)} test and {len(table.train)} training experiences, "
            "so nothing says which held-out samples take their place (valid: null)"
        )

    def _learned_in(self, j: int) -> int:
        table, row = self.table, self.table.test[j]
        if len(table.test) == len(table.train):
            return j
        if len(table.test) == 1:
            return 0
        tasks = set(row.tasks.tolist())
        if self._labelled:
            return next((i for i, other in enumerate(table.train) if tasks & set(other.tasks.tolist())), 0)
        wanted, train, test = set(), table.source.labels("train"), table.source.labels("test")
        wanted.update(test[row.indices].tolist())
        for i, other in enumerate(table.train):
            wanted.difference_update(train[other.indices].tolist())
            if not wanted:
                return i
        return len(table.train) - 1


def _within(rows: tuple[Membership, ...], allowed: np.ndarray, size: int) -> list[Membership]:
    mask = np.zeros(size, dtype=bool)
    mask[allowed] = True
    return [row.only(mask) for row in rows]
