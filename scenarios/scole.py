"""SCoLe: very long streams in which a few classes at a time come back again and again."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np

from clsuite.errors import UsageError
from clsuite.scenario import ImageScenario, Phase, Pool
from clsuite.settings import setting
from clsuite.stream import EvaluationSet, Experience, Segment, Stream

SUBSETS = 20_000


class SCoLe(ImageScenario):
    """Each experience: all training images of a few classes drawn at random; scored on the full test set.

    Class i has weight (1 - f i)**entropy_decrease, shuffled over the classes by the seed; an experience draws its classes one
    after another without replacement. f = 0.05 up to 20 classes, 0.01 at 100 as in the source; ours in between and above is
    1 / N, where the source's weights would be negative.

    Source: Lesort et al. 2023, arXiv 2207.04543, and its code (sampling.py).
    """

    experiences: int = setting(500, ge=1, help="how many experiences")
    classes_per_experience: int = setting(2, ge=1, help="classes drawn in each")
    num_classes: int | None = setting(None, ge=1, help="use a random subset of this many classes (null: all)")
    entropy_decrease: float = setting(0.0, ge=0, le=100, help="imbalance of the class probabilities; 0: balanced")
    probability_reduction: float = setting(1.0, ge=1, le=1e6, help="probabilities of the classes just drawn are divided by this")
    periods: bool = setting(False, help="two periods, each with its own half of the classes")
    forgetting: bool = setting(False, help="the second half of the stream draws only from the first half of the classes")
    randomized_order: float = setting(
        1.0, ge=0, le=1, help="below 1: all pairs of classes in a cycle, each class replaced by a random one with this probability (a class may come alone)"
    )
    couples_share: float = setting(1.0, gt=0, le=1, help="share of all sets of classes that may ever occur")

    name = "scole"

    def stream(self, phase: Phase, seed: int) -> Stream:
        pool = self._subset(self.pool(phase), phase, seed)
        self._check(pool)
        weights = self._weights(pool.classes, phase, seed)
        drawn = self._draws(weights, phase, seed)
        # one array a class, shared by all its visits: thousands of experiences cost no memory
        train = pool.by_class("train")
        experiences = [Experience(t, tuple(Segment(t, train[c]) for c in classes), classes) for t, classes in enumerate(drawn)]
        counts = np.bincount([c for classes in drawn for c in classes], minlength=pool.classes)
        return self.make(
            pool,
            phase,
            seed,
            experiences,
            [EvaluationSet("test", pool.indices["test"], 0, tuple(range(pool.classes)))],
            has_task_ids=False,
            keep_schedule=True,
            facts={"class_frequencies": (counts / len(drawn)).tolist(), "class_probabilities": weights.tolist()},
        )

    def _subset(self, pool: Pool, phase: Phase, seed: int) -> Pool:
        if self.num_classes is None:
            return pool
        if self.num_classes > pool.classes:
            raise UsageError(f"scenario.num_classes = {self.num_classes} is more than the {pool.classes} classes {pool.source.name} has here")
        chosen = np.sort(self.generator(phase, seed, "classes").permutation(pool.class_labels)[: self.num_classes])

        def members(split: Literal["train", "test"]) -> np.ndarray:
            return pool.indices[split][np.isin(pool.source.labels(split)[pool.indices[split]], chosen)]

        return Pool(pool.source, chosen, {"train": members("train"), "test": members("test")})

    def _check(self, pool: Pool) -> None:
        size, least = self.classes_per_experience, pool.classes
        if self.periods and self.forgetting:
            raise UsageError("scenario.periods and scenario.forgetting both say what the second half of the stream draws from (valid: one of them)")
        if self.periods or self.forgetting:
            least = pool.classes // 2
        if self.split.split == "classes" and size < 2:
            raise UsageError("protocol.split = 'classes' needs scenario.classes_per_experience of at least 2, it is 1 (valid: protocol.split = samples)")
        if size > least:
            raise UsageError(f"scenario.classes_per_experience = {size} is more than the {least} classes there are to draw from")
        if self.couples_share < 1 and math.comb(pool.classes, size) > SUBSETS:
            raise UsageError(
                f"scenario.couples_share = {self.couples_share:g} needs at most {SUBSETS} sets of classes, "
                f"{size} of {pool.classes} give {math.comb(pool.classes, size)} (valid: 1, or fewer classes)"
            )
        if self.randomized_order < 1:
            if size != 2:
                raise UsageError(f"scenario.randomized_order = {self.randomized_order:g} needs scenario.classes_per_experience = 2, it is {size}")
            for name in ("entropy_decrease", "probability_reduction", "periods", "forgetting", "couples_share"):
                if getattr(self, name) != self.declared()[name].default:
                    raise UsageError(f"scenario.randomized_order = {self.randomized_order:g} draws no set of classes: scenario.{name} must keep its default")

    def _weights(self, classes: int, phase: Phase, seed: int) -> np.ndarray:
        """p_i in proportion to q_i**e, q_i = 1 - f i, in an order drawn from the seed."""
        q = 1 - min(0.05, 1 / classes) * np.arange(classes)
        p = q**self.entropy_decrease
        return self.generator(phase, seed, "imbalance").permutation(p / p.sum())

    def _draws(self, weights: np.ndarray, phase: Phase, seed: int) -> list[tuple[int, ...]]:
        """The classes of each experience, ascending."""
        total, half = len(weights), len(weights) // 2
        rng = self.generator(phase, seed, "draws")
        if self.randomized_order < 1:
            return self._cycle(total, rng)
        first = np.arange(half) if self.periods else np.arange(total)
        second = np.arange(half, total) if self.periods else np.arange(half) if self.forgetting else first
        parts = [(classes, self._allowed(total, classes, phase, seed)) for classes in (first, second)]
        p, drawn = weights.copy(), []
        for t in range(self.experiences):
            classes, sets = parts[2 * t >= self.experiences]
            if sets is None:
                chosen = rng.choice(classes, self.classes_per_experience, replace=False, p=p[classes] / p[classes].sum())
            else:
                # with unequal probabilities an allowed set weighs the product of its classes' (the source's draws are uniform)
                odds = (p[sets] / p[classes].max()).prod(axis=1)
                chosen = sets[rng.choice(len(sets), p=odds / odds.sum())]
            if self.probability_reduction > 1:
                p[chosen] /= self.probability_reduction
                p[classes] /= p[classes].sum()
            drawn.append(tuple(sorted(int(c) for c in chosen)))
        return drawn

    def _cycle(self, total: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        pairs = np.array(list(itertools.combinations(range(total), 2)))
        table = pairs[np.arange(self.experiences) % len(pairs)]
        table = np.where(rng.random(table.shape) < self.randomized_order, rng.integers(total, size=table.shape), table)
        return [tuple(sorted({int(c) for c in row})) for row in table]

    def _allowed(self, total: int, classes: np.ndarray, phase: Phase, seed: int) -> np.ndarray | None:
        """The sets within `classes` that may occur, of a share of all sets drawn from the seed; None: any set."""
        if self.couples_share == 1:
            return None
        sets = np.array(list(itertools.combinations(range(total), self.classes_per_experience)))
        kept = self.generator(phase, seed, "allowed").permutation(sets)[: max(1, round(self.couples_share * len(sets)))]
        kept = kept[np.isin(kept, classes).all(axis=1)]
        if not len(kept):
            raise UsageError(
                f"scenario.couples_share = {self.couples_share:g} leaves no set within classes {classes[0]}..{classes[-1]} (valid: a larger share)"
            )
        return kept
