"""Bias correction: replay and distillation, then two numbers that bring the outputs of new classes down to those of old ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.plan import Plan
from clsuite.randomness import generator
from clsuite.settings import setting
from clsuite.stream import Experience, Segment

from .exemplars import Distilling

MOMENTUM = 0.9
LARGE_BETA = 0.1
"""Weight of beta^2 / 2 in the second stage."""


class BiC(Distilling):
    """BiC: samples of every class are held out of training, and on them o -> alpha o + beta is fitted for the outputs of new classes.

    Source: Wu et al. 2019, arXiv 1905.13260, by its code, which was read. First stage, on new samples and exemplars in proportion: (1 - l)
    cross-entropy + l cross-entropy of softmax(outputs / T) over old classes with that of the network of the last border, l = old / (old + new)
    classes, T = 2. That network's outputs are corrected, those of the classes that were new to it, by the one pair fitted last (what
    earlier pairs did was learned since). Second stage, from the second experience on: cross-entropy of the samples held out + 0.1 beta^2 / 2,
    SGD with momentum 0.9 from alpha 1, beta 0, nothing augmented, the network fixed and in evaluation mode (the code's batch normalisation is
    in training mode here). The rate is divided by ten at shares of the epochs: 0.3, 0.6, 0.8, 0.9 in the code (default), 0.25, 0.5, 0.75 in
    Avalanche 0.6. The pair is deployed in the head for measuring, and undone after it.

    `validation` is the share of the memory that holds the samples held out, in equal numbers for all classes seen, at least one; the
    memory of exemplars (by herding, classes seen share it) is what is left; Avalanche adds them on top. The code herds anew at every border,
    among the exemplars it still has, by features that are not of unit length. Samples of a class are held out of its
    first experience, in random order, as many as its share then is. Avalanche's distillation takes the softmax of the old outputs over
    the batch, not over classes (`dim=0`): an error that is not offered. With `training.logit_mask = none` both stages look at all outputs;
    the code's look at those of classes seen only. Search ranges of `validation` and `temperature`: Cha & Cho 2025, arXiv 2403.09066; of
    `bias_rate`: ours.
    """

    claims = frozenset({"chooses_samples"})

    validation: float = setting(0.1, gt=0, lt=1, search=[0.05, 0.1, 0.15, 0.2, 0.3], help="share of the memory for samples held out of training")
    bias_epochs: int = setting(200, ge=1, help="passes over the samples held out")
    bias_rate: float = setting(0.1, gt=0, search=[0.01, 0.03, 0.1], help="learning rate of alpha and beta at first")
    bias_decays: list[float] = setting([0.3, 0.6, 0.8, 0.9], ge=0, le=1, help="shares of the epochs after which it is a tenth")

    # -- samples held out ---------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Samples that may be held out: part of the memory, and no less than one a class."""
        return max(int(self.validation * super().most), self.run.classes)

    @property
    def most(self) -> int:
        return super().most - self.room

    def quota(self, i: int) -> int:
        """Samples of each class seen that are held out in experience i."""
        return self.room // len({c for e in self.run.stream.experiences[: i + 1] for c in e.classes})

    def held_out(self, i: int) -> dict[int, np.ndarray]:
        """Ids by class that experience i does not train on: of its classes that never came before, at most all but one sample."""
        stream = self.run.stream
        before = {c for e in stream.experiences[:i] for c in e.classes}
        ids = stream.ids(stream.experiences[i].segments)
        labels = stream.labels_of(ids)
        found = {}
        for c in sorted(set(stream.experiences[i].classes) - before):
            of_class = np.unique(ids[labels == c])
            found[c] = generator(self.run.seed, "held out", i, c).permutation(of_class)[: min(self.quota(i), len(of_class) - 1)]
        return found

    def plan(self, plan: Plan) -> Plan:
        out = np.concatenate([np.zeros(0, np.int64), *self.held_out(plan.experience.index).values()])
        segments = tuple(self.without(segment, out) for segment in plan.experience.segments)
        return super().plan(plan.replace(content=(dataclasses.replace(plan.experience, segments=segments),)))

    def without(self, segment: Segment, out: np.ndarray) -> Segment:
        indices = segment.indices
        return dataclasses.replace(segment, content=indices[~np.isin(self.run.stream.ids([segment]), out)])

    # -- the run ------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        super().setup()
        self.memory.capacity = self.most
        if self.most < 1:
            raise UsageError(
                f"strategy.buffer_size = {self.buffer_size} leaves no room for exemplars beside {self.room} samples held out (valid: at least {self.room + 1})"
            )
        self.held: dict[int, np.ndarray] = {}
        self.corrected: list[int] = []
        self.alpha, self.beta = 1.0, 0.0
        self.fitted_in = 0
        self.pairs: list[tuple[float, float]] = []
        self.saved: list[Tensor] = []

    def taught_old(self, batch: Batch) -> Tensor:
        return self.correct(self.taught(batch), self.alpha, self.beta)[:, self.old]

    def correct(self, logits: Tensor, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
        """alpha o + beta in the columns of the classes that are corrected, [..., classes]."""
        chosen = torch.zeros(self.run.classes, dtype=torch.bool, device=logits.device)
        chosen[self.corrected] = True
        return torch.where(chosen, alpha * logits + beta, logits)

    def after_experience(self, experience: Experience) -> None:
        super().after_experience(experience)
        self.held |= self.held_out(experience.index)
        self.held = {c: ids[: self.quota(experience.index)] for c, ids in self.held.items()}
        self.corrected, self.alpha, self.beta = [], 1.0, 0.0
        if self.old:
            self.corrected = sorted(experience.classes)
            self.fit()
            self.pairs.append((self.alpha, self.beta))
        self.fitted_in = experience.index

    def fit(self) -> None:
        """The second stage: alpha and beta by the samples held out."""
        run, rng = self.run, self.generator("bias")
        ids = np.concatenate(list(self.held.values()))
        y = torch.from_numpy(run.stream.labels_of(ids)).to(run.device)
        with torch.no_grad():
            logits = self.model.head(run.features(ids))
        if run.training.logit_mask != "none":
            logits = logits.masked_fill(~run.seen_classes(), torch.finfo(logits.dtype).min)
        alpha, beta = (torch.tensor(v, dtype=logits.dtype, device=run.device, requires_grad=True) for v in (1.0, 0.0))
        optimizer = torch.optim.SGD([alpha, beta], lr=self.bias_rate, momentum=MOMENTUM)
        per_epoch = math.ceil(len(ids) / run.batch_size)
        for step in self.steps(self.bias_epochs * per_epoch):
            epoch, within = divmod(step, per_epoch)
            if within == 0:
                order = torch.from_numpy(rng.permutation(len(ids))).to(run.device)
                optimizer.param_groups[0]["lr"] = self.bias_rate * 0.1 ** sum(epoch >= share * self.bias_epochs for share in self.bias_decays)
            part = order[within * run.batch_size : (within + 1) * run.batch_size]
            loss = F.cross_entropy(self.correct(logits[part], alpha, beta), y[part]) + LARGE_BETA * beta.square() / 2
            self.update(loss, optimizer)
        self.alpha, self.beta = alpha.item(), beta.item()

    def before_evaluation(self) -> None:
        now = min(self.run.experience, len(self.run.stream) - 1)
        if self.corrected and self.fitted_in == now:
            head = self.model.head
            self.saved = [p.detach().clone() for p in head.parameters()]
            with torch.no_grad():
                head.weight[self.corrected] *= self.alpha
                head.bias[self.corrected] = self.alpha * head.bias[self.corrected] + self.beta

    def after_evaluation(self) -> None:
        if self.saved:
            with torch.no_grad():
                for p, saved in zip(self.model.head.parameters(), self.saved, strict=True):
                    p.copy_(saved)
        self.saved = []

    def memory_bytes(self) -> int:
        return 8 * self.room

    def report(self) -> dict[str, Any]:
        return {"pairs": [list(pair) for pair in self.pairs], "held_out": sum(map(len, self.held.values()))}
