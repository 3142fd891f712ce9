"""Refresh learning: unlearn a little before every step, then learn as usual."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from clsuite.batch import Batch
from clsuite.settings import Span, setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

FISHER_DECAY = 1e-5
CHUNK = 50


class Refresh(Modifier):
    """Unlearn the current batch along its Fisher-weighted gradient, then relearn it with whatever the base does.

    Source: Wang et al. 2024, arXiv 2403.13249, and its code for DER++: per tensor, u = g ||theta|| / (||g|| + 1e-20), then
    theta <- theta + unlearn_step (u + 0.001 N(0, I)) / (1 + 0.001 F); F is the diagonal Fisher of the experience
    before (running sum with decay 1e-5), each sample weighted by its own probability. Arms for the ablation: `ascent` (the
    method), `descent`, `noise` (no gradient), `off`. Departures: F on `fisher_samples` samples in evaluation mode; several
    `steps` repeat the unlearning; around any base that trains on the current experience. On text (ours) p(y|x) of a window is the
    geometric mean over its tokens: their product would be 0 in floating point.
    """

    needs = frozenset({"incremental", "borders"})
    claims = frozenset({"moves_weights"})

    unlearn_step: float = setting(1e-5, ge=0, search=Span(1e-5, 1e-2, log=True), help="size of a step relative to each tensor's norm")
    steps: int = setting(  # type: ignore[assignment]  # the source's word; `Part.steps` goes by `run.interruptible` here
        1, ge=1, search=[1, 2], help="unlearning steps before each update"
    )
    arm: Literal["ascent", "descent", "noise", "off"] = setting("ascent", help="off, noise and descent are the controls")
    noise: float = setting(1e-3, ge=0, help="standard deviation of the noise, before unlearn_step scales it")
    fisher_weight: float = setting(1e-3, ge=0, help="how strongly the Fisher information protects a weight")
    fisher_samples: int = setting(1000, ge=1, help="samples of an experience that its Fisher information is estimated from")

    def setup(self) -> None:
        self.fisher = [torch.zeros_like(p) for p in self.model.parameters()]

    def before_step(self, batch: Batch) -> None:
        if self.arm == "off":
            return
        for _ in range(self.steps):
            self.unlearn(batch)

    def unlearn(self, batch: Batch) -> None:
        """One step along the gradient of the current batch, of relative size `unlearn_step` in every tensor."""
        parameters = list(self.model.parameters())
        gradients = self.gradients(batch) if self.arm != "noise" else [None] * len(parameters)
        sign = {"ascent": 1.0, "descent": -1.0, "noise": 0.0}[self.arm]
        total = sum(p.numel() for p in parameters)
        noise = torch.from_numpy(self.generator("noise").standard_normal(total, dtype=np.float32)).to(self.run.device) * self.noise
        with torch.no_grad():
            for p, g, F, z in zip(parameters, gradients, self.fisher, noise.split([p.numel() for p in parameters]), strict=True):
                direction = z.view_as(p).to(p.dtype)
                if g is not None:
                    direction = direction + sign * g * (p.norm() / (g.norm() + 1e-20))
                p.add_(direction / (1 + self.fisher_weight * F), alpha=self.unlearn_step)

    def after_experience(self, experience: Experience) -> None:
        ids = self.run.stream.ids(experience.segments)
        chosen = self.generator("fisher").choice(ids, min(self.fisher_samples, len(ids)), replace=False)
        estimate = self.estimate(chosen)
        for F, new in zip(self.fisher, estimate, strict=True):
            F.mul_(FISHER_DECAY).add_(new)

    def estimate(self, ids: np.ndarray) -> list[torch.Tensor]:
        """Mean over samples of p(y|x) (d log p(y|x) / d theta)^2, by parameter; log p of a window is the mean over its tokens."""
        run = self.run
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        sums = {id(p): torch.zeros_like(p) for p in parameters}
        modes = run.set_evaluation_mode()
        parts = torch.from_numpy(ids).split(CHUNK)
        for k in run.interruptible(len(parts)):
            pixels, targets = run.stream.gather(parts[k])
            # one sample at a time, as the source: vmap refuses channels-last tensors, and with convolutions it is slower on a CPU
            for x, y in zip(run.workload.inputs(pixels), targets, strict=True):
                with run.workload.autocast():
                    scores = self.model(x[None])
                scores = (scores.float() if scores.dtype == torch.bfloat16 else scores).log_softmax(-1)[0]
                log_probability = scores[y] if y.ndim == 0 else scores.gather(1, y[:, None]).mean()
                likelihood = log_probability.detach().exp()
                for p, g in zip(parameters, torch.autograd.grad(log_probability, parameters, allow_unused=True), strict=True):
                    if g is not None:
                        sums[id(p)] += likelihood * g**2
            run.cost.forward_passes += len(parts[k])
            run.cost.backward_passes += len(parts[k])
        run.restore_modes(modes)
        return [sums[id(p)] / len(ids) if id(p) in sums else torch.zeros_like(p) for p in self.model.parameters()]
