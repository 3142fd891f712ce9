"""Experience replay with an asymmetric cross-entropy: current samples compete among the classes of their batch alone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.memory import BufferPolicy, InsertPolicy
from clsuite.settings import setting
from clsuite.strategy import Strategy


class ERACE(Strategy):
    """ER-ACE: the loss of current samples looks at the classes of the batch, that of replayed samples at all; both are added.

    Source: Caccia et al. 2022, arXiv 2104.05025 (the authors' code was read; what is said of the paper is from memory): classes that are
    not in the batch get no gradient from current samples, so that their features are not pushed away when new classes come.
    `compete: present` is the paper's equation and what Avalanche 0.6 does; `present_and_unseen` also leaves the outputs of classes that
    never came, as the authors' code does where classes come in the order of their labels (it leaves every label from the highest seen on,
    that one included). Current and replayed samples have a forward pass of their own; the loss of replayed samples is the
    workload's (all outputs, as in both codes; with `training.logit_mask = seen` those seen, as in the paper), and that mask has no say in the
    loss of current samples.

    `combine: sum` is the authors'; Avalanche halves it. `start: first_step` is the authors' (replay as soon as the memory holds
    something, no borders needed); `second_experience` learns experience 0 by plain cross-entropy without replay, as Avalanche and
    Mammoth do. Avalanche offers all samples of an experience to its memory before it trains on them; ours come as they are trained on.
    """

    needs = frozenset({"memory", "classifier"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    buffer: BufferPolicy = setting("reservoir", help="which samples stay in the memory")
    insert: InsertPolicy = setting("first_epoch", help="when current samples are offered to the memory")
    replay_batch: int | None = setting(None, ge=1, search=[32, 64, 128], help="replayed samples in a step (null: the batch size)")
    compete: Literal["present", "present_and_unseen"] = setting("present", help="outputs the loss of current samples looks at")
    combine: Literal["sum", "mean"] = setting("sum", help="how the two losses are joined")
    start: Literal["first_step", "second_experience"] = setting("first_step", help="what comes before is plain cross-entropy without replay")

    def setup(self) -> None:
        if self.start == "second_experience" and not self.run.stream.has_borders:
            raise UsageError(
                f"strategy.start = 'second_experience' needs task borders, but scenario '{self.run.stream.scenario}' has none here (valid: first_step)"
            )
        self.seen = torch.zeros(self.run.classes, dtype=torch.bool, device=self.run.device)

    def asymmetric(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of current samples among the outputs that compete."""
        present = torch.zeros_like(self.seen).index_fill(0, batch.y, True)
        self.seen = self.seen | present
        competing = present if self.compete == "present" else present | ~self.seen
        return F.cross_entropy(self.logits(batch).masked_fill(~competing, -torch.inf), batch.y)

    def training_step(self, batch: Batch) -> Tensor:
        if self.start == "second_experience" and self.run.experience == 0:
            loss = self.loss(batch)
        else:
            loss = self.asymmetric(batch)
            if self.memory:
                loss = loss + self.loss(self.memory.sample(self.replay_batch or self.run.batch_size))
                loss = loss / 2 if self.combine == "mean" else loss
        self.update(loss)
        return loss
