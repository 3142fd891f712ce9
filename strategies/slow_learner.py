"""The slow learner: a small learning rate for the backbone, the usual one for the head."""

from __future__ import annotations

from typing import Literal

from torch import nn

from clsuite.errors import UsageError
from clsuite.settings import setting
from clsuite.strategy import Modifier, ParameterGroup
from clsuite.stream import Experience

NORMS = (nn.modules.batchnorm._BatchNorm,)


class SlowLearner(Modifier):
    """Slow learner: the backbone learns at `backbone_rate`, the head at `training.learning_rate`.

    Source: Zhang et al. 2023, arXiv 2303.05118 (SLCA), and its code: backbone 1e-4, head 1e-2. A model without pretrained
    weights learns experience 0 at the full rate (ours). `batch_norm: frozen` keeps running statistics as they came;
    `follow` lets them move (ours: the source's network has none). Heads of earlier classes do not move when
    `training.logit_mask = experience` and there is no weight decay; `keep_old_heads` restores them exactly otherwise too (the source
    freezes them). In a language model with tied embeddings the head is the embedding, which then learns at the full rate.
    """

    needs = frozenset({"borders"})

    backbone_rate: float = setting(1e-4, ge=0, search=[1e-4, 1e-3, 1e-2], help="learning rate of everything but the head")
    batch_norm: Literal["frozen", "follow"] = setting("frozen", help="running statistics of the backbone while it learns slowly")
    keep_old_heads: bool = setting(False, help="rows of the head of earlier classes stay exactly as they are")

    @property
    def slow(self) -> bool:
        """Whether this experience is learned slowly."""
        return self.run.pretrained or (self.run.experience > 0 and not self.fresh)

    @property
    def fresh(self) -> bool:
        """Whether this experience starts from the initial weights again (`joint`): nothing earlier is in them to keep."""
        return self.run.plan_of(self.run.experience).fresh_model

    def label(self) -> str:
        return f"{self.name} (from {'pretrained' if self.run.pretrained else 'first_experience'})"

    def setup(self) -> None:
        if not self.run.pretrained and "incremental" not in self.run.base.offers:
            weights = "model.checkpoint" if self.run.stream.world == "text" else "model.weights"
            raise UsageError(f"strategy 'slow_learner' would never learn slowly around '{self.run.base.name}' without pretrained weights (give {weights})")
        if self.keep_old_heads and self.run.stream.world == "text":
            raise UsageError("strategy.slow_learner.keep_old_heads = True is not possible on text: every experience uses every token (valid: False)")
        self.old: list[int] = []

    def parameter_groups(self, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        if not self.slow:
            return groups
        head = {id(p) for p in self.model.select("head")}
        divided = []
        for group in groups:
            divided.append(ParameterGroup(f"{group.name}, backbone", [p for p in group.parameters if id(p) not in head], self.backbone_rate))
            divided.append(ParameterGroup(f"{group.name}, head", [p for p in group.parameters if id(p) in head], group.learning_rate))
        return divided

    def before_experience(self, experience: Experience) -> None:
        if self.slow and self.batch_norm == "frozen":
            for module in self.model.modules():
                if isinstance(module, NORMS):
                    module.eval()
        seen = {c for e in self.run.stream.experiences[: experience.index] for c in e.classes}
        self.old = sorted(seen - set(experience.classes)) if self.keep_old_heads and not self.fresh else []
        if self.old:
            self.rows = [p.detach()[self.old].clone() for p in self.model.head.parameters()]

    def after_step(self) -> None:
        if self.old:
            for p, rows in zip(self.model.head.parameters(), self.rows, strict=True):
                p.data[self.old] = rows
