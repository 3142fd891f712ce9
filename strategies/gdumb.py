"""GDumb: keep a balanced memory, train a fresh model on it alone."""

from __future__ import annotations

import math

import numpy as np
import torch

from clsuite.batch import Batch
from clsuite.memory import BufferPolicy
from clsuite.plan import Plan
from clsuite.settings import Span, setting
from clsuite.strategy import Strategy
from clsuite.stream import Experience


class GDumb(Strategy):
    """Greedy sampler and dumb learner: samples only pass by; after each experience a fresh model learns the memory.

    Source: Prabhu et al. 2020 (ECCV), by description and code. Departures: the sampler stays uniform within a class (the code takes the first
    samples of each), 30 passes over the memory (128 on MNIST, 256 on CIFAR), one cosine down to 0 over all of them (restarts between 0.05
    and 0.0005 after a first pass at 0.005), no CutMix (in half of the batches, not on MNIST), no weight decay (1e-6), no clipping (at norm
    10). The code reports its best pass on test data, this the last. Of the shared training settings only batch size, augmentation and masks
    act here: the rest belongs to an optimizer that never steps.
    """

    needs = frozenset({"memory", "classifier"})
    offers = frozenset()

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    buffer: BufferPolicy = setting("class_balanced", help="which samples stay in the memory")
    memory_epochs: int = setting(30, ge=1, search=[10, 30, 100], help="passes over the memory of each fresh model")
    memory_batch: int = setting(16, ge=1, search=[16, 32])
    memory_rate: float = setting(0.05, gt=0, search=Span(0.01, 0.2, log=True), help="learning rate at the start of its cosine")

    def plan(self, plan: Plan) -> Plan:
        return plan.replace(epochs=1)

    def training_step(self, batch: Batch) -> None:
        """Nothing is learned from the stream: the memory alone looks at it."""

    def after_experience(self, experience: Experience) -> None:
        self.run.reset_model()
        self.model.train()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.memory_rate, momentum=0.9)
        order = self.generator("order")
        per_epoch = math.ceil(len(self.memory) / self.memory_batch)
        for step in self.steps(self.memory_epochs * per_epoch):
            if step % per_epoch == 0:
                slots = order.permutation(len(self.memory))
            start = step % per_epoch * self.memory_batch
            optimizer.param_groups[0]["lr"] = self.memory_rate * 0.5 * (1 + np.cos(np.pi * step / (self.memory_epochs * per_epoch)))
            self.update(self.loss(self.memory.at(slots[start : start + self.memory_batch])), optimizer)
