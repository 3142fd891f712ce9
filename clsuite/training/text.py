"""The text workload: windows of tokens and the next-token loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .settings import Training

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..batch import Batch
    from ..stream import Stream


class TextWorkload:
    """Turns sample ids into windows of tokens and logits into losses."""

    logging_interval = 10
    """Steps between looks at the loss: loss laws are fitted to what is logged."""

    def __init__(self, stream: Stream, training: Training, device: torch.device):
        self.stream, self.training, self.device = stream, training, device
        self.experience: Callable[[], int] = lambda: 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes in bfloat16 where `training.precision` says so; weights and losses stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.training.precision == "bfloat16" else nullcontext()

    def draws(self, count: int, *name: str | int) -> np.ndarray | None:
        return None

    def draws_from(self, rng: np.random.Generator, count: int) -> np.ndarray | None:
        return None

    def view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a training batch: int64 [batch, context] each."""
        return self.stream.gather(batch.ids)

    def inputs(self, tokens: Tensor) -> Tensor:
        return tokens

    def begin_step(self) -> None:
        """Nothing is kept from step to step."""

    def note_labels(self, ids: Tensor) -> None:
        """Losses look at the whole vocabulary, whatever a step consists of."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next token, in nats per token."""
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.y.flatten())
