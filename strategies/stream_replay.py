"""Replay from the stream itself: a share of every batch comes from what earlier experiences trained on."""

from __future__ import annotations

import functools
from typing import Any, Literal

from clsuite.errors import UsageError
from clsuite.plan import Mixture, Plan
from clsuite.settings import setting
from clsuite.strategy import Modifier


class StreamReplay(Modifier):
    """A fixed share of every batch is taken from all earlier experiences, each read on from where the last border left it.

    Source: Ibrahim et al. 2024, arXiv 2403.08763. In its `compute_equivalent` form replayed samples take the place of current ones, so
    steps and budget stay what they were; `additive` puts them on top (batch B (1 + share), same steps). Step n of an experience replays
    floor((n + 1) B x) - floor(n B x) samples, divided among earlier experiences in proportion to how much of each was trained on (the
    replay of others not counted), and never a sample that was not trained on; how they are counted and divided is ours. Every batch of such
    an experience is full: where B does not divide an experience, its last batch begins again at its first samples.

    Nothing is stored: samples are read again from the stream, so it needs access to old data, and no memory.
    """

    needs = frozenset({"borders", "incremental", "several_tasks"})
    claims = frozenset({"chooses_samples"})
    transient = frozenset({"_plans", "_mixtures"})
    keeps_steps = True

    share: float = setting(0.05, gt=0, lt=1, search=[0.01, 0.05, 0.1, 0.25, 0.5], help="of a batch (additive: on top of it) that is replayed")
    kind: Literal["compute_equivalent", "additive"] = setting("compute_equivalent", help="whether current samples give way, or batches grow")
    order: Literal["original", "shuffled"] = setting("original", help="samples come in the order in which they were trained on, or in one of the run seed")

    def acts_from(self, experiences: int) -> int:
        return 1

    @functools.cached_property
    def _plans(self) -> list[Plan]:
        """What experiences train on, from the first on, as far as it was asked for."""
        return []

    @functools.cached_property
    def _mixtures(self) -> dict[int, Mixture]:
        """The replay of each experience that has one."""
        return {}

    def setup(self) -> None:
        mixed = next((i for i in range(len(self.run.stream)) if len(self.run.plan_of(i).content) > 1), None)
        if mixed is not None:
            raise UsageError(
                f"strategy '{self.name}' cannot be used here: '{self.run.base.name}' trains on earlier experiences as it is, in whole, from"
                f" experience {mixed} on (valid: a base that trains on the current one alone)"
            )

    def plan(self, plan: Plan) -> Plan:
        k = plan.experience.index
        self._look_at(k)
        reached = [i for i in range(k) if self._plans[i].trained]
        if not reached or not plan.epochs:
            return plan
        replay = Mixture(
            content=tuple(self.run.stream.experiences[i] for i in reached),
            share=self.share,
            kind=self.kind,
            trained=tuple(self._plans[i].trained for i in reached),
            starts=tuple(sum(self._used(j).get(i, 0) for j in range(i + 1, k)) for i in reached),
            order=self.order,
        )
        self._mixtures[k] = replay
        return plan.replace(mixtures=(*plan.mixtures, replay))

    def _look_at(self, experiences: int) -> None:
        """Know the plans of the first `experiences`; in this order each asks only for what is known."""
        for i in range(len(self._plans), experiences):
            self._plans.append(self.run.plan_of(i))

    def _used(self, k: int) -> dict[int, int]:
        """Samples of each earlier experience that the whole of experience k replays."""
        replay = self._mixtures.get(k)
        if replay is None:
            return {}
        plan = self._plans[k]
        return dict(zip((e.index for e in replay.content), replay.used(plan.steps, plan.batch_size), strict=True))

    def report(self) -> dict[str, Any]:
        """For every experience, planned samples trained on as current ones, and as replayed ones in all later experiences."""
        count = len(self.run.stream)
        self._look_at(count)
        return {
            "trained": [plan.trained for plan in self._plans],
            "replayed": [sum(self._used(k).get(i, 0) for k in range(count)) for i in range(count)],
        }
