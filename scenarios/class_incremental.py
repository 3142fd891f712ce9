"""Class-incremental streams: new classes in every experience, one head over all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clsuite.errors import UsageError
from clsuite.scenario import ImageScenario, Phase, Pool
from clsuite.settings import setting
from clsuite.stream import EvaluationSet, Experience, Segment, Stream


def class_groups(order: np.ndarray, experiences: int, first_classes: int | None) -> list[tuple[int, ...]]:
    """The classes of each experience; refuses what cannot be divided evenly."""
    total = len(order)
    if first_classes is None:
        if experiences > total or total % experiences:
            valid = ", ".join(str(d) for d in range(1, total + 1) if total % d == 0)
            raise UsageError(f"scenario.experiences = {experiences} does not divide {total} classes (valid: {valid}; or give scenario.first_classes)")
        sizes = [total // experiences] * experiences
    else:
        rest = total - first_classes
        if experiences < 2 or rest < experiences - 1 or rest % (experiences - 1):
            raise UsageError(
                f"scenario.first_classes = {first_classes} leaves {rest} of {total} classes, which {experiences - 1} further experiences cannot share evenly"
            )
        sizes = [first_classes] + [rest // (experiences - 1)] * (experiences - 1)
    borders = np.cumsum([0, *sizes])
    return [tuple(int(c) for c in order[a:b]) for a, b in pairwise(borders)]


class ClassIncremental(ImageScenario):
    """Each experience brings new classes; accuracy is over one head, task-incremental accuracy from the same run."""

    experiences: int = setting(5, ge=1, help="how many experiences the classes are divided into")
    first_classes: int | None = setting(None, ge=1, help="a larger first experience: classes in experience 0")
    class_order: list[int] | None = setting(None, help="output numbers in the order they come (null: drawn from the seed)")

    name = "class_incremental"

    def order(self, pool: Pool, phase: Phase, seed: int) -> np.ndarray:
        """The order in which the classes come."""
        if self.class_order is None:
            return self.generator(phase, seed, "class_order").permutation(pool.classes)
        if sorted(self.class_order) != list(range(pool.classes)):
            raise UsageError(f"scenario.class_order = {self.class_order} is not an order of the classes 0..{pool.classes - 1}")
        return np.asarray(self.class_order)

    def groups(self, pool: Pool, phase: Phase, seed: int) -> list[tuple[int, ...]]:
        """The classes of each experience; a division by classes needs at least two in each, in both phases."""
        groups = class_groups(self.order(pool, phase, seed), self.experiences, self.first_classes)
        if self.split.split == "classes" and min(map(len, groups)) < 2:
            raise UsageError(
                f"protocol.split = 'classes' leaves {pool.classes} classes a phase for scenario.experiences = {self.experiences}: "
                "fewer than two classes in an experience (valid: fewer experiences, or protocol.split = samples)"
            )
        return groups

    def stream(self, phase: Phase, seed: int) -> Stream:
        pool = self.pool(phase)
        groups = self.groups(pool, phase, seed)
        train, test = pool.by_class("train"), pool.by_class("test")
        experiences = [Experience(i, tuple(Segment(i, train[c]) for c in classes), classes) for i, classes in enumerate(groups)]
        sets = [EvaluationSet(f"experience {i}", np.concatenate([test[c] for c in classes]), i, classes) for i, classes in enumerate(groups)]
        return self.make(pool, phase, seed, experiences, sets, task_masked=len(groups) > 1)
