"""Averaged gradient episodic memory: no step may raise the loss on the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clsuite.memory import BufferPolicy, InsertPolicy
from clsuite.settings import setting
from clsuite.strategy import Modifier

from .importance import gradient_vector


class AGEM(Modifier):
    """A-GEM: where the gradient g would raise the loss on a draw from the memory, the component along that loss' gradient r is taken out.

    Source: Chaudhry et al. 2019, arXiv 1812.00420, by its authors' code: g - (g.r / r.r) r where g.r < 0, over the whole vector of weights; r is
    the gradient of the mean loss on `reference_batch` samples of earlier experiences (of all there are, where the stream has no borders),
    drawn anew for every step, uniformly and none twice; 256 of them, as there. The code keeps the last samples of each class, as many of each;
    Avalanche's `AGEMPlugin` keeps as many of each experience and draws as many of each into the reference batch; here `buffer` says
    which samples stay (`experience_balanced` with `insert: experience_end` fills the memory as Avalanche does).
    """

    needs = frozenset({"memory", "incremental"})
    claims = frozenset({"rewrites_gradients"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: as the base, or the data set's default)")
    buffer: BufferPolicy | None = setting(None, help="which samples stay in the memory (null: as the base has it)")
    insert: InsertPolicy | None = setting(None, help="when current samples are offered to the memory (null: as the base has it)")
    reference_batch: int = setting(256, ge=1, search=[64, 256], help="memory samples that the reference gradient is taken on")

    def setup(self) -> None:
        self.projections = torch.zeros((), dtype=torch.int64, device=self.run.device)

    def on_gradients(self) -> None:
        earlier = self.memory.experience != self.run.experience if self.run.stream.has_borders else np.ones(len(self.memory), dtype=bool)
        slots = np.flatnonzero(earlier)
        if not len(slots):
            return
        draws = self.generator("reference")  # its own, so that the base's draws are what they would have been
        batch = self.memory.at(draws.choice(slots, min(self.reference_batch, len(slots)), replace=False), draws)
        reference = self.gradients(batch)
        r = gradient_vector(self, reference)
        dot = torch.dot(gradient_vector(self, (p.grad for p in self.model.parameters())), r)
        scale = dot.clamp(max=0) / torch.dot(r, r).clamp_min(torch.finfo(r.dtype).tiny)
        for p, part in zip(self.model.parameters(), reference, strict=True):
            if p.grad is not None and part is not None:
                p.grad.sub_(scale * part)
        self.projections += dot < 0  # on the device, which is not waited for

    def report(self) -> dict[str, Any]:
        return {"projections": int(self.projections)}
