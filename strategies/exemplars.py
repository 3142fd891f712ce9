"""What iCaRL, BiC and WA share: exemplars of earlier classes, chosen at the end of an experience, and the network as it was then."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.memory import herding
from clsuite.models.base import Network
from clsuite.plan import Plan
from clsuite.settings import setting
from clsuite.strategy import Strategy
from clsuite.stream import Experience


class Exemplars(Strategy):
    """Base of methods that train on an experience together with exemplars of the classes before it.

    The memory belongs to classes seen in equal parts and changes at borders only. Exemplars are chosen by herding among un-augmented
    samples of the experience, features of unit length in evaluation mode; those an older class loses are the last chosen. The sources train
    on one shuffled set of new samples and exemplars: here a batch is divided between the two in proportion, so that an epoch has as many
    steps as on that set, and its exemplars are drawn from the memory; `replay_batch` adds that many to a whole batch of new samples.

    Old classes of an experience are those of earlier experiences that it does not have itself.
    """

    needs = frozenset({"memory", "classifier", "borders"})
    buffer = "class_balanced"
    insert = "never"  # by the engine: `after_experience` does it

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    exemplars: Literal["herding", "random"] = setting("herding", help="which samples of a class become exemplars")
    replay_batch: int | None = setting(None, ge=1, help="exemplars added to a batch (null: they share the batch in proportion)")

    def setup(self) -> None:
        self.teacher: Network | None = None
        self.old: list[int] = []
        self.recalled = 0

    @property
    def most(self) -> int:
        """Exemplars the memory holds at most."""
        return int(self.buffer_size or 0)

    def plan(self, plan: Plan) -> Plan:
        stored = min(self.most, sum(len(e) for e in self.run.stream.experiences[: plan.experience.index]))
        if self.replay_batch is not None or not stored:
            return plan
        return plan.replace(batch_size=min(max(1, round(plan.batch_size * plan.samples / (plan.samples + stored))), max(1, plan.batch_size - 1)))

    def before_experience(self, experience: Experience) -> None:
        self.old = self.old_classes(experience.index)
        self.recalled = self.replay_batch or max(1, self.run.batch_size - self.run.plan_of(experience.index).batch_size)

    def old_classes(self, i: int) -> list[int]:
        """Classes of earlier experiences that experience i does not have."""
        before, now = self.run.stream.experiences[:i], self.run.stream.experiences[i]
        return sorted({c for e in before for c in e.classes} - set(now.classes))

    def with_exemplars(self, batch: Batch) -> Batch:
        """The batch with the exemplars of its step."""
        return batch + self.memory.sample(self.recalled) if self.memory else batch

    @torch.no_grad()
    def taught(self, batch: Batch) -> Tensor:
        """Logits of the network as it was at the last border, in evaluation mode; counted."""
        assert self.teacher is not None
        self.run.cost.forward_passes += len(batch)
        logits: Tensor = self.teacher(batch.x)
        return logits

    def after_experience(self, experience: Experience) -> None:
        self.remember(experience)
        self.teacher = self.run.copy_model().eval().requires_grad_(False)

    def remember(self, experience: Experience) -> None:
        """Choose exemplars among what the experience trained on; its classes and those before share the memory."""
        stream, plan = self.run.stream, self.run.plan_of(experience.index)
        ids = np.setdiff1d(np.concatenate([stream.ids(e.segments) for e in plan.content]), self.memory.ids)
        if not len(ids):
            return
        labels = stream.labels_of(ids)
        classes = np.unique(labels)
        most = math.ceil(self.memory.capacity / len(np.union1d(classes, self.memory.labels)))
        features = F.normalize(self.run.features(ids).double(), dim=1).cpu().numpy() if self.exemplars == "herding" else None
        rng = self.generator("exemplars")
        orders = []
        for c in classes:
            places = np.flatnonzero(labels == c)
            orders.append(rng.permutation(places)[:most] if features is None else places[herding(features[places], most)])
        chosen = np.concatenate(orders)
        priority = np.concatenate([1 / (1 + np.arange(len(order))) for order in orders])
        origin = np.full(len(chosen), experience.index, dtype=np.int64)
        self.memory.insert(ids[chosen], labels[chosen], origin, priority, self.columns_of(ids[chosen]))

    def columns_of(self, ids: np.ndarray) -> dict[str, Tensor]:
        """What other parts want stored with samples: logits."""
        if not self.memory.columns:
            return {}
        with torch.no_grad():
            return {"logits": self.logits(self.samples(ids))}


class Distilling(Exemplars):
    """Cross-entropy on new samples and exemplars, and distillation of the outputs of old classes (BiC's first stage, which WA has too).

    loss = (1 - l) cross-entropy + l distillation, l = old / (old + new) classes; distillation is the cross-entropy between
    softmax(outputs / T) of the network of the last border and of this one, over the old classes. No distillation without old classes.
    """

    temperature: float = setting(2.0, gt=0, search=[0.5, 1.0, 1.5, 2.0, 2.5], help="what outputs are divided by before the softmax")
    distillation: float | None = setting(None, ge=0, help="weight added to a whole cross-entropy (null: l and 1 - l by numbers of classes)")

    def setup(self) -> None:
        super().setup()
        seen: set[int] = set()
        for experience in self.run.stream.experiences:
            if seen - set(experience.classes):
                return
            seen |= set(experience.classes)
        raise UsageError(
            f"strategy '{self.name}' needs experiences that leave out classes seen before, which scenario '{self.run.stream.scenario}' has none of here"
        )

    def taught_old(self, batch: Batch) -> Tensor:
        """What the outputs of old classes are to be [batch, old]."""
        return self.taught(batch)[:, self.old]

    def training_step(self, batch: Batch) -> Tensor:
        batch = self.with_exemplars(batch)
        loss = self.loss(batch)
        if self.old:
            assert batch.logits is not None
            wanted = (self.taught_old(batch) / self.temperature).softmax(1)
            distilled = F.cross_entropy(batch.logits[:, self.old] / self.temperature, wanted)
            if self.distillation is None:
                share = len(self.old) / (len(self.old) + len(self.run.stream.experiences[self.run.experience].classes))
                loss = (1 - share) * loss + share * distilled
            else:
                loss = loss + self.distillation * distilled
        self.update(loss)
        return loss
