"""Skill-It: corpora that help where the loss is high are sampled more often."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clsuite.errors import Diverged, UsageError
from clsuite.randomness import generator
from clsuite.settings import setting
from clsuite.stream import Experience

from .temperature_sampling import CorpusSampling

ACROSS = 0.5
"""Edges between different corpora where no graph is given."""


class SkillIt(CorpusSampling):
    """Every corpus is a skill: p_i in proportion to exp(eta x sum over the last measurements of sum_j A_ij L_j).

    Source: Chen et al. 2023, arXiv 2307.14430, re-implemented from notes on paper and released code, in the form of the code: the sum
    over the last `window` measurements multiplies the prior (all ones); the paper is usually described as multiplying the previous p.
    A_ij is the effect of training on i on the loss of j. The code gives 1 to A_ii and 0.5 to the edges of its example graphs, and has no
    edges where no graph is given; here `graph: null` has all of them, at 0.5.

    Departures. L_j is the mean loss on samples of corpus j that are held apart from all training of this part, in evaluation mode: the source
    measures on validation data, which here would be what is reported. There is a measurement at the first step of an experience with several
    candidates, where the source starts from its graph alone. p changes with every measurement, in the code with every so many. Skills are
    those seen so far: where experiences come one after another the set grows, and what was measured before a border is forgotten. A_ij is
    given, not estimated. Measuring is charged as forward passes.
    """

    transient = CorpusSampling.transient | {"_held"}
    everywhere = True

    eta: float = setting(0.5, gt=0, search=[0.1, 0.2, 0.5, 0.8], help="how strongly losses act")
    window: int = setting(3, ge=1, help="measurements that count")
    update_every: int | float = setting(0.2, gt=0, help="steps between measurements, or below 1 the share of an experience's steps")
    graph: list[list[float]] | None = setting(None, ge=0, help="A_ij by row (null: 1 on the diagonal, 0.5 elsewhere)")
    probe_samples: int = setting(64, ge=1, help="samples held apart of every corpus, at most a tenth of it")

    def setup(self) -> None:
        count = len(self.run.stream)
        if self.update_every >= 1 and self.update_every != int(self.update_every):
            raise UsageError(f"strategy.{self.name}.update_every = {self.update_every} is not valid: expected a whole number of steps, or a share below 1")
        if self.graph is not None and [len(row) for row in self.graph] != [count] * count:
            raise UsageError(f"strategy.{self.name}.graph = {self.graph} is not valid: expected {count} rows of {count} numbers, one for each experience")
        small = next((e.index for e in self.run.stream.experiences if len(np.unique(self.run.stream.ids(e.segments))) < 2), None)
        if small is not None:
            raise UsageError(f"strategy '{self.name}' cannot hold a sample apart: experience {small} has a single one")
        super().setup()
        self.history: list[list[float]] = []
        self.p: list[float] = []
        self.updates: list[dict[str, Any]] = []

    def before_experience(self, experience: Experience) -> None:
        super().before_experience(experience)
        self.history, self.p = [], []

    @property
    def interval(self) -> int:
        """Steps between measurements in this experience."""
        return int(self.update_every) if self.update_every >= 1 else max(1, math.ceil(self.update_every * self.planned))

    def probabilities(self) -> np.ndarray:
        if self.place % self.interval == 0:
            losses = self.measured()
            self.history = [*self.history, losses][-self.window :]
            self.p = self.weighted(np.array(self.history)).tolist()
            self.updates.append({"experience": self.run.experience, "step": self.place, "losses": losses, "probabilities": list(self.p)})
        return np.array(self.p)

    def weighted(self, losses: np.ndarray) -> np.ndarray:
        """p [candidates] after measurements `losses` [measurements, candidates]."""
        graph = np.array([[self.edge(i, j) for j in self.candidates] for i in self.candidates])
        exponent = self.eta * (graph @ losses.T).sum(1)
        weights = np.exp(exponent - exponent.max())
        return weights / weights.sum()

    def edge(self, i: int, j: int) -> float:
        """A_ij."""
        if self.graph is not None:
            return self.graph[i][j]
        return 1.0 if i == j else ACROSS

    @torch.no_grad()
    def measured(self) -> list[float]:
        """Mean loss on the samples held apart of every candidate, without augmentation; counted as forward passes."""
        modes = self.run.set_evaluation_mode()
        found = []
        for corpus in self.candidates:
            total, targets = 0.0, 0
            for ids in np.array_split(self.held(corpus), math.ceil(len(self.held(corpus)) / self.run.batch_size)):
                batch = self.samples(ids)
                y = batch.y.flatten()
                total += float(F.cross_entropy(self.logits(batch).flatten(0, -2).float(), y, reduction="sum"))
                targets += len(y)
            found.append(total / targets)
        self.run.restore_modes(modes)
        if not all(map(math.isfinite, found)):
            raise Diverged(f"a loss that '{self.name}' measured became non-finite in experience {self.run.experience}")
        return found

    def held(self, corpus: int) -> np.ndarray:
        """The ids of a corpus that are measured and never trained on."""
        if corpus not in self._held:
            ids = super().make_table(corpus)
            count = max(1, min(self.probe_samples, len(ids) // 10))
            self._held[corpus] = generator(self.run.seed, "held apart", corpus).permutation(ids)[:count]
        return self._held[corpus]

    def make_table(self, corpus: int) -> np.ndarray:
        return np.setdiff1d(super().make_table(corpus), self.held(corpus))

    @functools.cached_property
    def _held(self) -> dict[int, np.ndarray]:
        return {}

    def report(self) -> dict[str, Any]:
        """Samples drawn of every corpus, and every measurement with what followed from it."""
        return {**super().report(), "updates": list(self.updates)}
