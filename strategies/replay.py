"""Experience replay."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clsuite.batch import Batch
from clsuite.memory import BufferPolicy, InsertPolicy
from clsuite.settings import setting
from clsuite.strategy import Strategy


class Replay(Strategy):
    """Experience replay: every step also trains on samples of a memory.

    Source: Chaudhry et al. 2019, arXiv 1902.10486, by its authors' code. `combine: concat` is one mean over current and replayed samples, as
    there and in Mammoth's `er`; `sum` adds the two means, as the official codes of MIR and ER-ACE have plain replay.
    """

    needs = frozenset({"memory"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    buffer: BufferPolicy = setting("reservoir", help="which samples stay in the memory")
    insert: InsertPolicy = setting("first_epoch", help="when current samples are offered to the memory")
    replay_batch: int | None = setting(None, ge=1, search=[32, 64, 128], help="replayed samples in a step (null: the batch size)")
    combine: Literal["concat", "sum"] = setting("concat", help="one mean over all samples, or the sum of two means")

    def training_step(self, batch: Batch) -> Tensor:
        if not self.memory:
            loss = self.loss(batch)
        else:
            # the full number also beside the short last batch of an epoch, which would otherwise pull hard
            replayed = self.memory.sample(self.replay_batch or self.run.batch_size)
            loss = self.loss(batch + replayed) if self.combine == "concat" else self.loss(batch) + self.loss(replayed)
        self.update(loss)
        return loss
