"""DER++: dark experience replay with a second draw that is replayed with its labels."""

from __future__ import annotations

from torch import Tensor

from clsuite.batch import Batch
from clsuite.settings import setting

from .der import DER


class DERpp(DER):
    """DER++: current loss + alpha * distillation on one draw + beta * loss on an independent second draw.

    Source: Buzzega et al. 2020, arXiv 2004.07211, by the official code (Mammoth); rules as in `der`.
    """

    beta: float = setting(0.5, ge=0, search=[0.5, 1.0], help="weight of the loss on replayed labels")

    def training_step(self, batch: Batch) -> Tensor:
        distilled, replayed = self.recall(), self.recall()
        loss = self.loss(batch)
        if distilled is not None and replayed is not None:
            loss = loss + self.distillation(distilled) + self.beta * self.loss(replayed)
        self.update(loss)
        return loss
