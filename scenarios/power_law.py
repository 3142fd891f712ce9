"""Power-law recurrence: every experience brings a new task, and earlier tasks return the more rarely the longer they rested."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from clsuite.errors import UsageError
from clsuite.scenario import ImageScenario, Phase, Pool
from clsuite.settings import setting
from clsuite.stream import Draw, EvaluationSet, Experience, Segment, Stream
from clsuite.transforms import Transforms

from . import recurrence
from .domain_incremental import domain_transforms


class PowerLaw(ImageScenario):
    """New tasks (permutations, rotations or groups of classes), mixed with samples of earlier tasks that return.

    A past task returns with probability min(1, scale * lag**-exponent), lag = experiences since it was last performed,
    rehearsals included (`reading: independent`); or every experience draws `returns` distinct past tasks in proportion
    to lag**-exponent (`budget`). A return brings `return_samples` random training samples of the task, drawn anew each
    time (with replacement when the task has fewer). A control keeps the new tasks and the number of rehearsed samples
    of every experience and changes only which past tasks supply them.

    Source: Gandhi et al. 2024, arXiv 2401.10393 (rule from the abstract; constants, readings and controls are ours).
    """

    kind: Literal["permutation", "rotation", "classes"] = setting("permutation", help="what a task is")
    experiences: int = setting(20, ge=1, help="how many experiences")
    tasks: int | None = setting(None, ge=1, help="how many tasks, one new in each experience while there are any (null: as many as experiences)")
    scale: float = setting(0.5, gt=0, help="probability of a return at lag 1")
    exponent: float = setting(1.0, ge=0, le=10, help="how fast the probability of a return falls with the lag")
    return_samples: int = setting(1000, ge=1, help="samples of every returning task (reading=independent)")
    reading: Literal["independent", "budget"] = setting("independent", help="independent: each task returns by itself; budget: a fixed number returns")
    returns: int = setting(2, ge=1, help="with reading=budget: distinct tasks drawn in an experience (all past tasks while there are fewer)")
    budget: int | None = setting(None, ge=1, help="with reading=budget: samples shared by the returns of an experience (null: returns x return_samples)")
    recency: Literal["last_performed", "first_learned"] = setting("last_performed", help="what the lag counts from")
    control: Literal["power_law", "none", "none_matched", "uniform", "exponential", "most_recent", "fixed_recency"] = setting(
        "power_law", help="which past tasks supply the rehearsed samples; none_matched: as many extra samples of the new task instead"
    )
    identity_first: bool = setting(True, help="experience 0 shows the images as they are")
    degrees: float = setting(180.0, gt=0, le=360, help="rotations are drawn uniformly from [0, degrees)")
    classes_per_task: int = setting(2, ge=1, help="with kind=classes: classes of a task")

    name = "power_law"

    def stream(self, phase: Phase, seed: int) -> Stream:
        pool = self.pool(phase)
        tasks, samples = self._tasks(pool), self._samples()
        power_law, table, tau = self._tables(tasks, phase, seed)
        groups, train, test = self._content(pool, tasks, phase, seed)
        maps = Transforms() if self.kind == "classes" else domain_transforms(self, pool, phase, seed, self.kind, tasks, self.identity_first, self.degrees)
        shown = [0] * tasks if self.kind == "classes" else list(range(tasks))

        def drawn(t: int, task: int, times: int, role: Literal["new", "rehearsed"]) -> Segment:
            # named by experience and task alone: a control in which the same task returns sees the same samples
            return Segment(task, Draw(train[task], times * samples, (seed, "stream", phase, "return", t, task)), shown[task], role)

        experiences = []
        for t, returned in enumerate(table.returned):
            segments = [Segment(t, train[t], shown[t])] if t < tasks else []
            for task, times in zip(*np.unique(returned, return_counts=True), strict=True):
                segments.append(drawn(t, int(task), int(times), "rehearsed"))
            if self.control == "none_matched" and power_law.counts[t]:
                segments.append(drawn(t, t, int(power_law.counts[t]), "new"))
            classes = tuple(dict.fromkeys(c for s in segments for c in groups[s.task]))
            experiences.append(Experience(t, tuple(segments), classes, forced=bool(table.forced[t])))
        sets = [EvaluationSet(f"{self.kind} {k}", test[k], k, groups[k], shown[k]) for k in range(tasks)]
        return self.make(
            pool,
            phase,
            seed,
            experiences,
            sets,
            maps,
            has_task_ids=all(len(e.tasks) == 1 for e in experiences),
            task_masked=self.kind == "classes" and tasks > 1,
            keep_schedule=True,
            facts={"recurrence": self._facts(table, samples, tau)},
        )

    def _tasks(self, pool: Pool) -> int:
        tasks = self.experiences if self.tasks is None else self.tasks
        if tasks > self.experiences:
            raise UsageError(f"scenario.tasks = {tasks} is more than scenario.experiences = {self.experiences}: each experience brings one new task at most")
        if self.control in ("none", "none_matched") and tasks < self.experiences:
            raise UsageError(
                f"scenario.control = '{self.control}' leaves experiences {tasks}..{self.experiences - 1} without a task (valid: scenario.tasks = null)"
            )
        if self.kind == "classes":
            if tasks * self.classes_per_task > pool.classes:
                raise UsageError(
                    f"scenario.tasks = {tasks} with scenario.classes_per_task = {self.classes_per_task} needs {tasks * self.classes_per_task} classes, "
                    f"{pool.source.name} has {pool.classes} here (valid: at most {pool.classes // self.classes_per_task} tasks)"
                )
            if self.split.split == "classes" and self.classes_per_task < 2:
                raise UsageError("protocol.split = 'classes' needs scenario.classes_per_task >= 2, it is 1 (or protocol.split = samples)")
        return tasks

    def _samples(self) -> int:
        """Samples of one return."""
        if self.reading == "independent" or self.budget is None:
            return self.return_samples
        if self.budget % self.returns:
            raise UsageError(f"scenario.budget = {self.budget} is not a multiple of scenario.returns = {self.returns}, which share it evenly")
        return self.budget // self.returns

    def _tables(self, tasks: int, phase: Phase, seed: int) -> tuple[recurrence.Returns, recurrence.Returns, float | None]:
        """The power-law table of this seed, the table in force (a control's or the same), the time constant."""
        rng = self.generator(phase, seed, "returns", self.reading)
        if self.reading == "independent":
            table = recurrence.independent(self.experiences, tasks, self.scale, self.exponent, self.recency, rng)
        else:
            table = recurrence.budget(self.experiences, tasks, self.returns, self.exponent, self.recency, rng)
        return table, *recurrence.controlled(table, self.control, self.exponent, lambda: self.generator(phase, seed, "returns", self.control))

    def _content(self, pool: Pool, tasks: int, phase: Phase, seed: int) -> tuple[list[tuple[int, ...]], list[np.ndarray], list[np.ndarray]]:
        """Classes, training samples and test samples of every task."""
        if self.kind != "classes":
            return [tuple(range(pool.classes))] * tasks, [pool.indices["train"]] * tasks, [pool.indices["test"]] * tasks
        order = self.generator(phase, seed, "class_order").permutation(pool.classes)[: tasks * self.classes_per_task]
        groups = [tuple(int(c) for c in row) for row in order.reshape(tasks, self.classes_per_task)]
        train, test = ([np.concatenate([found[c] for c in group]) for group in groups] for found in (pool.by_class("train"), pool.by_class("test")))
        return groups, train, test

    def _facts(self, table: recurrence.Returns, samples: int, tau: float | None) -> dict[str, Any]:
        saturation = (self.scale, self.exponent) if self.control == "power_law" else None
        return {"reading": self.reading, "control": self.control, **recurrence.facts(table, samples, self.reading, saturation, tau)}
