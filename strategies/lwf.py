"""Learning without forgetting: what the network said before an experience is kept by distillation on the new samples."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.batch import Batch
from clsuite.models.base import Network
from clsuite.settings import Span, setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience


class LwF(Modifier):
    """Learning without forgetting: on current samples, outputs of earlier classes stay close to what the network of the last border says.

    Source: Li & Hoiem 2016, arXiv 1606.09282, and its code: the loss gets `alpha` * the cross-entropy between softmax(outputs / `temperature`)
    of the old network and of the new one, over the outputs of earlier classes. Its constant part is left out, as in Avalanche's `LwFPlugin`:
    the divergence KL(old || new), a mean over the batch, without a factor `temperature`^2. `outputs: seen` is one softmax over all
    classes seen before (Avalanche's without task labels); `experience` one for the classes of each earlier experience,
    summed (the source's, whose tasks have heads of their own; its loss on new samples looks at the new head alone:
    `training.logit_mask = experience`). The code's values are alpha 1 and temperature 2; the search range is ours.

    The old network is in evaluation mode and sees the same view of a sample (the source records its outputs beforehand). The source's
    warm-up, in which the new head learns alone, is left out. Samples replayed by the base are not distilled.
    """

    needs = frozenset({"borders", "classifier", "incremental"})
    transient = frozenset({"_batch"})

    alpha: float = setting(1.0, ge=0, search=Span(0.1, 10.0, log=True), help="weight of the distillation")
    temperature: float = setting(2.0, gt=0, help="what outputs are divided by before the softmax")
    outputs: Literal["seen", "experience"] = setting("seen", help="one softmax over all earlier classes, or one for each earlier experience")

    def acts_from(self, experiences: int) -> int:
        return 1

    def setup(self) -> None:
        self.teacher: Network | None = None
        self.groups: list[Tensor] = []
        """Outputs that share a softmax."""

    def before_step(self, batch: Batch) -> None:
        self._batch = batch

    def penalty(self) -> Tensor | None:
        if self.teacher is None:
            return None
        batch = self._batch
        with torch.no_grad():
            old = self.teacher(batch.x) / self.temperature
        self.run.cost.forward_passes += len(batch)
        new = (self.logits(batch) if batch.logits is None else batch.logits) / self.temperature
        terms = [F.kl_div(new[:, g].log_softmax(1), old[:, g].softmax(1), reduction="batchmean") for g in self.groups]
        return self.alpha * torch.stack(terms).sum()

    def after_experience(self, experience: Experience) -> None:
        if experience.index == len(self.run.stream) - 1:
            return  # nobody would learn from it
        self.teacher = self.run.copy_model().eval().requires_grad_(False)
        learned = self.run.stream.experiences[: experience.index + 1]
        groups = {tuple(sorted(e.classes)) for e in learned} if self.outputs == "experience" else {tuple(sorted({c for e in learned for c in e.classes}))}
        self.groups = [torch.tensor(g, device=self.run.device) for g in sorted(groups)]
