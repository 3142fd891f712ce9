"""Maximally interfered retrieval: replay what the coming step would harm most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.memory import BufferPolicy, InsertPolicy
from clsuite.settings import setting
from clsuite.strategy import Strategy


class MIR(Strategy):
    """ER-MIR: of a random part of the memory, the samples are replayed whose loss a step on the current ones alone would raise most.

    Source: Aljundi et al. 2019, arXiv 1908.04742, by its code, which was read: the virtual step is w - rate * gradient of the current loss,
    without momentum; score = loss after it - loss before it; the loss is the mean over current samples plus that over the chosen ones.
    The code replays 10 of 50 candidates beside a batch of 10 (search ranges ours). `candidates: past` leaves samples of the current experience
    out, as the code does; `all` needs no borders. Avalanche 0.6 has the same rule over what was stored at earlier borders, but leaves
    out the classes in the last batch before the border: those of the experience just learned are not replayed in the next.

    Scores are cross-entropies over all outputs, in the mode the network trains in. The virtual rate of a weight is that of its last update.
    Departures: running statistics of batch normalisation see only what is trained on (the code's pass over the candidates moves
    them); chosen samples are augmented anew; the code's comparison with logits stored earlier is not offered.
    """

    needs = frozenset({"memory", "classifier"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: the data set's default)")
    buffer: BufferPolicy = setting("reservoir", help="which samples stay in the memory")
    insert: InsertPolicy = setting("first_epoch", help="when current samples are offered to the memory")
    replay_batch: int | None = setting(None, ge=1, search=[32, 64, 128], help="replayed samples in a step (null: the batch size)")
    scored_per_replayed: int = setting(5, ge=1, search=[2, 5, 10], help="candidates that are drawn and scored for each sample that is replayed")
    candidates: Literal["past", "all"] | None = setting(
        None, help="samples of earlier experiences, or all in the memory (null: past where the stream has borders)"
    )

    def setup(self) -> None:
        if self.candidates == "past" and not self.run.stream.has_borders:
            raise UsageError(f"strategy.candidates = 'past' needs task borders, but scenario '{self.run.stream.scenario}' has none here (valid: all)")
        self.only_past = self.run.stream.has_borders if self.candidates is None else self.candidates == "past"

    @property
    def replayed(self) -> int:
        """Samples that are replayed in a step, where there are enough."""
        return self.replay_batch or self.run.batch_size

    def drawn(self) -> np.ndarray:
        """Slots of candidates (of all, where there are fewer), drawn from the memory."""
        slots = np.flatnonzero(self.memory.experience < self.run.experience) if self.only_past else np.arange(len(self.memory))
        return self.memory.rng.choice(slots, min(self.scored_per_replayed * self.replayed, len(slots)), replace=False)

    @torch.no_grad()
    def rises(self, candidates: Batch, gradients: Mapping[str, Tensor]) -> Tensor:
        """How much a step along the gradients would raise the loss of each candidate [candidates]."""
        assert self.run.optimizer is not None
        rates = {id(p): group["lr"] for group in self.run.optimizer.param_groups for p in group["params"]}
        before = dict(self.model.named_parameters())
        after = {name: before[name] - rates.get(id(before[name]), 0.0) * gradient for name, gradient in gradients.items()}
        losses = []
        for weights in (before, before | after):
            buffers = {name: b.clone() for name, b in self.model.named_buffers()}  # running statistics stay what they were
            logits = functional_call(self.model, weights | buffers, (candidates.x,))
            losses.append(F.cross_entropy(logits, candidates.y, reduction="none"))
            self.run.cost.forward_passes += len(candidates)
        return losses[1] - losses[0]

    def training_step(self, batch: Batch) -> Tensor:
        loss = self.loss(batch)
        slots = self.drawn()
        if not len(slots):
            self.update(loss)
            return loss
        weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
        gradients = {name: g for name, g in zip(weights, found, strict=True) if g is not None}
        rises = self.rises(self.memory.at(slots), gradients)
        highest = rises.topk(min(self.replayed, len(slots))).indices
        replayed = self.loss(self.memory.at(slots[highest.cpu().numpy()]))
        # the current gradient g is known: <g, w> has it as its gradient, so that the step needs no second pass backward over the current samples
        self.update(replayed + torch.stack([(g * weights[name]).sum() for name, g in gradients.items()]).sum())
        return loss.detach() + replayed
