"""Blurry streams: classes have a main experience, but some of their samples come in others, or borders vanish altogether."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from clsuite.scenario import Phase, Pool
from clsuite.settings import setting
from clsuite.stream import EvaluationSet, Experience, Segment, Stream

from .class_incremental import ClassIncremental


class Blurry(ClassIncremental):
    """Class-incremental streams whose experiences overlap; every sample is still seen once.

    A random `share` of the samples of each class is spread evenly over the experiences that are not its main one;
    share 0 is `class_incremental`. `gradual`: a sample of main experience k (of T) comes at time
    Normal((k + 1/2) / T, width / T), truncated to [0, 1]; experiences are equal slices of the table sorted by time, and
    `share` has no effect. Test sets are by main experience. Our definitions.
    """

    share: float = setting(0.1, ge=0, le=1, help="share of each class's samples that come in other experiences")
    gradual: bool = setting(False, help="no borders: classes fade in and out over time")
    width: float = setting(0.5, gt=0, help="with gradual: standard deviation of a sample's time, in lengths of an experience")

    name = "blurry"

    def stream(self, phase: Phase, seed: int) -> Stream:
        pool = self.pool(phase)
        groups = self.groups(pool, phase, seed)
        test = pool.by_class("test")
        sets = [EvaluationSet(f"experience {i}", np.concatenate([test[c] for c in classes]), i, classes) for i, classes in enumerate(groups)]
        experiences = self._gradual(pool, groups, phase, seed) if self.gradual else self._shared(pool, groups, phase, seed)
        mixed = self.gradual or self.share > 0
        properties: dict[str, Any] = {"has_borders": not self.gradual, "keep_schedule": self.gradual, "has_task_ids": not mixed}
        return self.make(pool, phase, seed, experiences, sets, task_masked=len(groups) > 1, **properties)

    def _shared(self, pool: Pool, groups: list[tuple[int, ...]], phase: Phase, seed: int) -> list[Experience]:
        """One segment a class and experience, the main classes first; a segment's task is the main experience of its class."""
        train = pool.by_class("train")
        table: list[list[tuple[int, Segment]]] = [[(c, Segment(i, train[c])) for c in classes] for i, classes in enumerate(groups)]
        others: list[list[tuple[int, Segment]]] = [[] for _ in groups]
        for i, classes in enumerate(groups):
            for position, c in enumerate(classes):
                rng = self.generator(phase, seed, "blur", c)
                away = round(self.share * len(train[c])) if len(groups) > 1 else 0
                shuffled = rng.permutation(train[c])
                table[i][position] = (c, Segment(i, np.sort(shuffled[away:])))
                # in random order: the parts of array_split differ by one sample, and no experience is to be favoured
                elsewhere = rng.permutation([k for k in range(len(groups)) if k != i])
                for k, part in zip(elsewhere, np.array_split(shuffled[:away], len(elsewhere) or 1), strict=False):
                    others[k].append((c, Segment(i, np.sort(part))))
        rows = [[(c, s) for c, s in main + blurred if len(s)] for main, blurred in zip(table, others, strict=True)]
        return [Experience(i, tuple(s for _, s in row), tuple(c for c, _ in row)) for i, row in enumerate(rows)]

    def _gradual(self, pool: Pool, groups: list[tuple[int, ...]], phase: Phase, seed: int) -> list[Experience]:
        """One segment an experience, in order of time; its task is its number, as the stream has no task ids."""
        train, length = pool.by_class("train"), 1 / len(groups)
        order, times, outputs = [], [], []
        for k, classes in enumerate(groups):
            mean, deviation = (k + 0.5) * length, self.width * length
            low, high = ndtr(-mean / deviation), ndtr((1 - mean) / deviation)
            for c in classes:
                # inverse distribution function: truncated, so that nothing piles up at the ends
                u = self.generator(phase, seed, "time", c).uniform(low, high, len(train[c]))
                order.append(train[c])
                times.append(np.clip(mean + deviation * ndtri(u), 0, 1))
                outputs.append(np.full(len(train[c]), c))
        by_time = np.argsort(np.concatenate(times), kind="stable")
        slices = zip(*(np.array_split(np.concatenate(a)[by_time], len(groups)) for a in (order, outputs)), strict=True)
        return [Experience(i, (Segment(i, ids),), tuple(np.unique(seen).tolist()), ordered=True) for i, (ids, seen) in enumerate(slices)]
