"""Which modules change most when the task changes: the ranking behind FPF. Changes no number of a run."""

from __future__ import annotations

from typing import Any

import torch

from clsuite.settings import setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience


class Sensitivity(Modifier):
    """Records, by group of parameters, how far they move across a border relative to how far they move within tasks.

    Source: Zhao et al. 2023, arXiv 2304.04158, re-implemented from the abstract, which ranks modules by how they move in training. The measure
    is from memory and ours: D = ||theta' - theta||_1 / |theta| between snapshots every 1/`snapshots` of an experience; the ratio is the mean
    D over intervals that start at a border to the mean D over all others.
    """

    needs = frozenset({"incremental", "borders", "several_tasks"})

    snapshots: int = setting(5, ge=2, help="snapshots in an experience")

    def setup(self) -> None:
        self.across: dict[str, list[float]] = {}
        self.within: dict[str, list[float]] = {}
        self.last: dict[str, torch.Tensor] = {}
        self.at: list[int] = []
        self.done = 0

    def before_experience(self, experience: Experience) -> None:
        planned = self.run.plan_of(experience.index).steps
        self.at = sorted({max(1, round(planned * k / self.snapshots)) for k in range(1, self.snapshots + 1)})
        self.done = 0
        if not self.last:
            self.last = self._groups()

    def _groups(self) -> dict[str, torch.Tensor]:
        named = dict(self.model.named_parameters())
        return {kind: torch.cat([named[n].detach().flatten() for n in names]).clone() for kind, names in self.model.groups().items() if names and kind != "all"}

    def after_step(self) -> None:
        self.done += 1
        if self.done not in self.at:
            return
        now = self._groups()
        across = self.done == self.at[0] and self.run.experience > 0
        for kind, values in now.items():
            change = (values - self.last[kind]).abs().mean()
            (self.across if across else self.within).setdefault(kind, []).append(float(change))
        self.last = now

    def report(self) -> dict[str, Any]:
        rows = {}
        for kind, inside in self.within.items():
            border = self.across.get(kind, [])
            if border and inside and sum(inside):
                rows[kind] = (sum(border) / len(border)) / (sum(inside) / len(inside))
        return {"ratio": dict(sorted(rows.items(), key=lambda item: -item[1])), "parameters": {k: len(v) for k, v in self.last.items()}}
