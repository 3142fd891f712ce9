"""Domain-incremental streams: the same classes, seen through another permutation or rotation in every experience."""

from __future__ import annotations

from typing import Literal

from clsuite.scenario import ImageScenario, Phase, Pool
from clsuite.settings import setting
from clsuite.stream import EvaluationSet, Experience, Segment, Stream
from clsuite.transforms import Transforms


def domain_transforms(scenario: ImageScenario, pool: Pool, phase: Phase, seed: int, kind: str, tasks: int, identity_first: bool, degrees: float) -> Transforms:
    """`tasks` transforms of one kind, from generators that differ between phases.

    Rotations are drawn uniformly from [0, degrees) for every task.
    """
    if kind == "permutation":
        _, height, width = pool.source.shape
        return Transforms.permutations(tasks, height * width, (seed, "stream", phase, "permutation"), identity_first)
    angles = [scenario.generator(phase, seed, "rotation", k).uniform(0, degrees) for k in range(tasks)]
    return Transforms.rotations([0.0, *angles[1:]] if identity_first else angles)


class DomainIncremental(ImageScenario):
    """The classes stay, the pixels change: permuted or rotated images with one shared head."""

    kind: Literal["permutation", "rotation"] = setting("permutation", help="what changes between experiences")
    experiences: int = setting(10, ge=1, help="how many permutations or rotations")
    identity_first: bool = setting(True, help="experience 0 shows the images as they are")
    degrees: float = setting(180.0, gt=0, le=360, help="rotations are drawn uniformly from [0, degrees)")

    name = "domain_incremental"

    def stream(self, phase: Phase, seed: int) -> Stream:
        pool = self.pool(phase)
        transforms = domain_transforms(self, pool, phase, seed, self.kind, self.experiences, self.identity_first, self.degrees)
        classes = tuple(range(pool.classes))
        train, test = pool.indices["train"], pool.indices["test"]
        experiences = [Experience(k, (Segment(k, train, transform=k),), classes) for k in range(self.experiences)]
        sets = [EvaluationSet(f"{self.kind} {k}", test, k, classes, transform=k) for k in range(self.experiences)]
        return self.make(pool, phase, seed, experiences, sets, transforms)
