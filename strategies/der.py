"""Dark experience replay: distil from logits stored with the replayed samples."""

from __future__ import annotations

from torch import Tensor

from clsuite.batch import Batch
from clsuite.memory import BufferPolicy, InsertPolicy
from clsuite.settings import setting
from clsuite.strategy import Strategy


class DER(Strategy):
    """Dark experience replay: match, on replayed samples, the logits the model had when it stored them.

    Source: Buzzega et al. 2020, arXiv 2004.07211, by the official code (Mammoth): the mean squared error is over batch and
    all outputs, unmasked logits of the augmented view in train mode are stored, replayed views are augmented anew, each term
    has a forward pass of its own. The code offers samples to the memory in every epoch (`insert: always`).
    """

    needs = frozenset({"memory", "classifier"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    buffer: BufferPolicy = setting("reservoir", help="which samples stay in the memory")
    insert: InsertPolicy = setting("first_epoch", help="when current samples are offered to the memory")
    replay_batch: int | None = setting(None, ge=1, search=[32, 64, 128], help="replayed samples in each term (null: the batch size)")
    alpha: float = setting(0.1, ge=0, search=[0.1, 0.2, 0.5, 1.0], help="weight of the distillation from stored logits")

    def setup(self) -> None:
        self.memory.column("logits", self.run.classes)

    def recall(self) -> Batch | None:
        """An independent draw from the memory; None while it is empty."""
        return self.memory.sample(self.replay_batch or self.run.batch_size) if self.memory else None

    def distillation(self, replayed: Batch) -> Tensor:
        return self.alpha * self.distance(self.logits(replayed), replayed["logits"])

    def training_step(self, batch: Batch) -> Tensor:
        replayed = self.recall()
        loss = self.loss(batch)
        if replayed is not None:
            loss = loss + self.distillation(replayed)
        self.update(loss)
        return loss
