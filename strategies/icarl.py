"""iCaRL: a sigmoid for every class, distillation, exemplars by herding, and the nearest mean of exemplars as the prediction."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.settings import setting
from clsuite.stream import Experience

from .exemplars import Exemplars


class ICaRL(Exemplars):
    """iCaRL: the features are learned with one sigmoid a class and distillation, the nearest mean of a class's exemplars predicts.

    Source: Rebuffi et al. 2017, arXiv 1611.07725 (the authors' code was read; what is said of the paper is from memory). Loss: binary
    cross-entropy of every output with the one-hot label, in which entries of old classes are replaced by the sigmoids of the network of the
    last border, on exemplars too. `loss_form: paper` is the sum over outputs of classes seen, averaged over samples; `code` the mean over all
    outputs (the authors' code, which trains at rate 2.0, and Avalanche 0.6): C times smaller with C outputs, hence not the default.
    Prediction: argmin ||f(x)/||f(x)|| - m_c||, m_c the mean of the exemplars' features of unit length, of unit length again, of the network as
    it is deployed. `mirrored_means` averages the exemplars' mirror images too, as the authors' code and Avalanche do (the paper does not,
    and digits are not symmetric). `classifier: head` predicts by the largest output of a class seen (the paper's hybrid 1), and so does the
    other while there are no exemplars.

    Exemplars are chosen at the end of an experience by herding among un-augmented samples; classes seen share the memory, those an older class
    loses are the last chosen (the code rounds the share up and may hold more than K). A batch holds new samples and exemplars in proportion,
    as if both were one shuffled set. Avalanche's old network is in training mode, the authors' and ours in evaluation mode.
    """

    claims = frozenset({"owns_predict"})
    transient = frozenset({"_means"})

    classifier: Literal["nearest_mean", "head"] = setting("nearest_mean", help="what predicts")
    loss_form: Literal["paper", "code"] = setting("paper", help="sum over outputs of classes seen, or mean over all outputs")
    mirrored_means: bool = setting(False, help="class means also average the exemplars' mirror images")

    def setup(self) -> None:
        super().setup()
        mask = self.run.training.logit_mask
        if mask != "none":
            raise UsageError(
                f"training.logit_mask = '{mask}' does nothing with strategy '{self.name}', whose outputs are not compared in training (valid: none)"
            )
        self._means: tuple[Tensor, Tensor] | None = None
        self.outputs = torch.arange(self.run.classes, device=self.run.device)

    def label(self) -> str:
        return self.name if self.classifier == "nearest_mean" else f"{self.name} (classifier: head)"

    def before_experience(self, experience: Experience) -> None:
        super().before_experience(experience)
        if self.loss_form == "paper":
            self.outputs = self.run.seen_classes().nonzero()[:, 0]

    def training_step(self, batch: Batch) -> Tensor:
        batch = self.with_exemplars(batch)
        logits = self.logits(batch)
        wanted = F.one_hot(batch.y, logits.shape[1]).to(logits.dtype)
        if self.old:
            wanted[:, self.old] = self.taught(batch)[:, self.old].sigmoid()
        found, wanted = logits[:, self.outputs], wanted[:, self.outputs]
        loss = F.binary_cross_entropy_with_logits(found, wanted)
        if self.loss_form == "paper":
            loss = loss * found.shape[1]
        self.update(loss)
        return loss

    # -- prediction ---------------------------------------------------------------------------------------------

    def after_step(self) -> None:
        self._means = None

    def after_experience(self, experience: Experience) -> None:
        super().after_experience(experience)
        self._means = None

    def after_evaluation(self) -> None:
        self._means = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def class_means(self) -> tuple[Tensor, Tensor]:
        """Means of exemplars by class, of unit length [classes, width], and which classes have any [classes]. Counted as deployment."""
        run, memory = self.run, self.memory
        training, run.cost = run.cost, run.costs["deployment"]  # also when a probe asks in the middle of training
        labels = torch.from_numpy(memory.labels).to(run.device)
        features = F.normalize(run.features(memory.ids).double(), dim=1)
        if self.mirrored_means:
            features = (features + F.normalize(self.mirrored(memory.ids).double(), dim=1)) / 2
        run.cost = training
        sums = torch.zeros(run.classes, features.shape[1], dtype=features.dtype, device=features.device).index_add_(0, labels, features)
        return F.normalize(sums, dim=1), torch.bincount(labels, minlength=run.classes) > 0

    def mirrored(self, ids: np.ndarray, chunk: int = 500) -> Tensor:
        """Features of mirror images [samples, width], in evaluation mode; counted."""
        run, found = self.run, []
        modes = run.set_evaluation_mode()
        for part in torch.from_numpy(ids).split(chunk):
            pixels, _ = run.stream.gather(part)
            found.append(self.model.features(run.workload.inputs(pixels).flip(-1)))
            run.cost.forward_passes += len(part)
        run.restore_modes(modes)
        return torch.cat(found)

    def predict(self, x: Tensor) -> Tensor:
        if self.classifier == "head" or not self.memory:
            return self.model(x).masked_fill(~self.run.seen_classes(), torch.finfo(torch.float32).min)
        if self._means is None:
            self._means = self.class_means()
        means, known = self._means
        distances = torch.cdist(F.normalize(self.model.features(x).double(), dim=1)[None], means[None])[0]
        return -distances.masked_fill(~known, torch.finfo(torch.float64).max)

    def report(self) -> dict[str, Any]:
        return {"exemplars": len(self.memory)}
