"""Which corpus a sample comes from: sampling with a temperature that cools down, and what such modifiers share."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import torch

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.plan import Plan
from clsuite.randomness import generator
from clsuite.settings import setting
from clsuite.strategy import Modifier, Strategy
from clsuite.stream import Experience


class CorpusSampling(Modifier):
    """Base of modifiers that fill every batch anew: each place draws a corpus i with probability p_i, and reads its next sample.

    A corpus is what one experience brings; candidates are those the base trains on and all that were trained on before. The samples
    of a corpus come in an order of the run seed, none twice before all came (a sample that the experience lists twice counts once); the
    order is another one each time round. Batches keep their sizes and steps their number. With a fresh model the reading begins anew.
    """

    needs = frozenset({"borders", "several_tasks"})
    claims = frozenset({"chooses_samples"})
    transient = frozenset({"_plans", "_tables", "_orders"})
    everywhere = False
    """Whether batches are filled anew also where there is one candidate only."""

    def setup(self) -> None:
        base, count = self.run.base, len(self.run.stream)
        self.cursors = [0] * count
        self.sampled = [0] * count
        self.candidates: list[int] = []
        self.content: list[int] = []
        self.place = self.planned = 0
        if "incremental" not in base.offers and type(base).training_step is not Strategy.training_step:
            raise UsageError(f"strategy '{self.name}' cannot be used here: '{base.name}' does not learn from the batches that come by")
        if any(plan.mixtures for plan in self._plans):
            raise UsageError(f"strategy '{self.name}' cannot be used here: another part of the strategy already mixes earlier samples into the batches")
        mixed = [(self.candidates_of(i), _content(plan)) for i, plan in enumerate(self._plans) if plan.steps and len(self.candidates_of(i)) > 1]
        if not mixed:
            raise UsageError(f"strategy '{self.name}' would do nothing: '{base.name}' never has more than one experience to sample from")
        self.check(mixed)

    def check(self, mixed: list[tuple[list[int], list[int]]]) -> None:
        """Raise `UsageError` where sampling would do nothing; `mixed`: candidates and content of every experience with several candidates."""

    def probabilities(self) -> np.ndarray:
        """p_i of the candidates, float64, for step `self.place` of the `self.planned` of this experience."""
        raise NotImplementedError

    def candidates_of(self, i: int) -> list[int]:
        """Experiences that samples of experience i may come from."""
        earlier = {j for j in range(i) if self._plans[j].steps}
        return sorted(earlier | set(_content(self._plans[i])))

    def before_experience(self, experience: Experience) -> None:
        plan = self._plans[experience.index]
        self.candidates, self.content = self.candidates_of(experience.index), _content(plan)
        self.place, self.planned = 0, plan.steps
        if plan.fresh_model:
            self.cursors = [0] * len(self.cursors)

    def batch(self, batch: Batch) -> Batch:
        if len(self.candidates) > 1:
            counts = np.bincount(self.generator("corpora").choice(len(self.candidates), len(batch), p=self.probabilities()), minlength=len(self.candidates))
        elif self.everywhere:
            counts = np.array([len(batch)])
        else:
            return batch
        self.place += 1
        chosen = dict(zip(self.candidates, counts.tolist(), strict=True))
        pieces = [self._piece([c for c in self.candidates if (c in self.content) == current and chosen[c]], chosen, current) for current in (True, False)]
        first, *rest = [piece for piece in pieces if piece is not None]
        return functools.reduce(operator.add, rest, first)

    def _piece(self, corpora: list[int], counts: dict[int, int], current: bool) -> Batch | None:
        if not corpora:
            return None
        ids = np.concatenate([self._next(c, counts[c]) for c in corpora])
        origin = np.repeat(corpora, [counts[c] for c in corpora])
        draws = self.run.workload.draws_from(self.generator("augmentation"), len(ids))
        return self.run.current_batch(torch.from_numpy(ids), torch.from_numpy(origin), draws, current)

    def _next(self, corpus: int, count: int) -> np.ndarray:
        """Read on by `count` samples in a corpus."""
        size, found = len(self.table(corpus)), []
        self.sampled[corpus] += count
        while count:
            rounds, at = divmod(self.cursors[corpus], size)
            step = min(count, size - at)
            found.append(self._order(corpus, rounds)[at : at + step])
            self.cursors[corpus] += step
            count -= step
        return np.concatenate(found)

    def _order(self, corpus: int, rounds: int) -> np.ndarray:
        if self._orders.get(corpus, (-1,))[0] != rounds:
            self._orders[corpus] = rounds, generator(self.run.seed, "corpus order", corpus, rounds).permutation(self.table(corpus))
        return self._orders[corpus][1]

    def table(self, corpus: int) -> np.ndarray:
        """The ids of a corpus that batches are filled from, each once."""
        if corpus not in self._tables:
            self._tables[corpus] = self.make_table(corpus)
        return self._tables[corpus]

    def make_table(self, corpus: int) -> np.ndarray:
        """See `table`."""
        return np.unique(self.run.stream.ids(self.run.stream.experiences[corpus].segments))

    @functools.cached_property
    def _plans(self) -> list[Plan]:
        return [self.run.plan_of(i) for i in range(len(self.run.stream))]

    @functools.cached_property
    def _tables(self) -> dict[int, np.ndarray]:
        return {}

    @functools.cached_property
    def _orders(self) -> dict[int, Any]:
        return {}

    def report(self) -> dict[str, Any]:
        """Samples that were drawn of every experience's corpus."""
        return {"sampled": list(self.sampled)}


def _content(plan: Plan) -> list[int]:
    return [e.index for e in plan.content] if plan.epochs else []


class TemperatureSampling(CorpusSampling):
    """Small corpora are sampled more often than they are large: p_i in proportion to |D_i|^(1 / temperature), which cools down to 1.

    Source: Li et al. 2024, arXiv 2410.04579 (Cooldown): temperature 5 in the first half of training, then 1, one switch. |D_i| is the
    number of different samples that experience i brings. Steps n < `switch` x steps of an experience use `temperature`.

    Made for bases that train on everything so far (`joint`, `cumulative`), as in the source, where all corpora are there from the start.
    Around a base that trains on the current experience alone it is a replay of everything seen (ours): the current corpus gives way,
    so fewer of its samples are seen in the same number of steps; with corpora of one size that is sampling them evenly, whatever the temperature.
    The first experience is left alone.
    """

    temperature: float = setting(5.0, gt=0, search=[2.0, 5.0, 20.0], help="of the first part; above 1 small corpora are sampled more often than they are large")
    final_temperature: float = setting(1.0, gt=0, help="of the rest")
    switch: float = setting(0.5, ge=0, le=1, search=[0.25, 0.5, 0.75], help="share of an experience's steps after which the temperature changes")

    def acts_from(self, experiences: int) -> int:
        return 1

    def check(self, mixed: list[tuple[list[int], list[int]]]) -> None:
        plain = {self.temperature, self.final_temperature} == {1.0}
        if any(set(candidates) != set(content) or not (plain or self._even(candidates)) for candidates, content in mixed):
            return
        why = "both temperatures are 1" if plain else "all of them have the same number of samples (give them different ones, for example scenario.tokens)"
        raise UsageError(f"strategy '{self.name}' would do nothing: '{self.run.base.name}' trains on all experiences so far as it is, and {why}")

    def _even(self, candidates: list[int]) -> bool:
        return len({len(self.table(c)) for c in candidates}) == 1

    def probabilities(self) -> np.ndarray:
        temperature = self.temperature if self.place < self.switch * self.planned else self.final_temperature
        weights = np.array([len(self.table(c)) for c in self.candidates], float) ** (1 / temperature)
        return weights / weights.sum()
