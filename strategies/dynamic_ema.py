"""Dynamic EMA: an average of the weights, deployed for measuring, whose weight follows from gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from clsuite.errors import UsageError
from clsuite.settings import setting
from clsuite.strategy import Modifier
from clsuite.stream import Experience

FALLBACK = {"code": 0.01, "paper": 0.99}
"""The coefficient where its formula gives none between 0 and 1: of the new weights in the code, of the old average in the paper."""


class DynamicEMA(Modifier):
    """Dynamic EMA: theta is trained as ever, the average theta* is deployed for measuring.

    Source: Qiao et al. 2025, arXiv 2410.10868 ("Large Continual Instruction Assistant"), re-implemented from notes on paper and official
    repository, which differ. All norms are L1, g_t is the gradient of step t, theta_t the weights after it.

    `form: code`, per tensor: alpha = 2 (1 + |g_t|) / (|theta_t - theta*_{t-1}| |g_t - g_{t-1}|), or 0.01 where that is not between 0 and
    1; theta* <- (1 - alpha) theta* + alpha theta_t. `form: paper`, per layer: beta = (|L'| + 1) / (|theta_t - theta*_{t-1}| |L''|), or 0.99;
    theta* <- beta theta* + (1 - beta) theta_t. L'' is read as g_t - g_{t-1}, as the code has it (unverified for the paper).

    Ours. `start: auto`: a pretrained model, which the source has, is averaged from its first step on; without pretrained weights theta* begins as
    theta at the first border, so that no random weights are averaged. The first step has no g_{t-1} and takes the fallback; from then on it
    is kept over borders. g_t is what the optimizer got, after clipping and rewriting; a part that puts new tensors in the place of gradients,
    instead of changing them, must stand before this one. Looks along the way see theta; running statistics of batch normalisation are those of theta. The
    source's grouping of instructions (which LoRA to reuse) is not part of it.
    """

    needs = frozenset({"incremental", "borders"})
    transient = frozenset({"_gradients", "_saved", "_layers"})

    form: Literal["code", "paper"] = setting("code", search=["code", "paper"], help="whose coefficient: that of the source's code or of its paper")
    start: Literal["auto", "first_experience", "first_border"] = setting(
        "auto", help="when averaging begins; auto: with experience 0 if the model is pretrained, else after it"
    )

    def acts_from(self, experiences: int) -> int:
        return 1 if self.start == "first_border" else 0

    @property
    def averages_first(self) -> bool:
        """Whether experience 0 is averaged."""
        return self.run.pretrained if self.start == "auto" else self.start == "first_experience"

    def label(self) -> str:
        return f"{self.name} ({self.form}, from {'first_experience' if self.averages_first else 'first_border'})"

    def setup(self) -> None:
        for part in self.run.parts[: self.run.parts.index(self)]:
            if part.defines("before_evaluation"):
                if part is self.run.base:
                    raise UsageError(f"strategy '{part.name}' deploys weights of its own, so it cannot be combined with 'dynamic_ema'")
                raise UsageError(
                    f"strategy '{part.name}' changes what is deployed and 'dynamic_ema' puts its average in place of it: name dynamic_ema before {part.name}"
                )
        self.average: list[Tensor] = []
        self.previous: list[Tensor] = []
        self.coefficients = torch.zeros(2, dtype=torch.int64, device=self.run.device)
        self._gradients: list[Tensor | None] = []
        self._saved: dict[str, Tensor] = {}
        self._layers = self._tensors_of_layers() if self.form == "paper" else [[k] for k, _ in enumerate(self.model.parameters())]

    def _tensors_of_layers(self) -> list[list[int]]:
        layers: dict[str, list[int]] = {}
        for k, (name, _) in enumerate(self.model.named_parameters()):
            layers.setdefault("head" if name.startswith("head.") else self.model.block_of(name), []).append(k)
        return list(layers.values())

    def before_experience(self, experience: Experience) -> None:
        if experience.index == 0 and self.averages_first:
            self.begin()

    def after_experience(self, experience: Experience) -> None:
        if experience.index == 0 and not self.averages_first:
            self.begin()

    def begin(self) -> None:
        """Let the average be the weights as they are."""
        self.average = [p.detach().clone() for p in self.model.parameters()]

    def on_gradients(self) -> None:
        self._gradients = [p.grad for p in self.model.parameters()]  # the tensors themselves: clipping changes them in place

    @torch.no_grad()
    def after_step(self) -> None:
        if not self.average:
            return
        weights = [p.detach() for p in self.model.parameters()]
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, self._gradients, strict=True)]
        for layer in self._layers:
            coefficient = self.coefficient(layer, weights, gradients)
            new = coefficient if self.form == "code" else 1 - coefficient
            for k in layer:
                self.average[k].mul_(1 - new).add_(weights[k] * new)
        self.previous, self._gradients = [g.clone() for g in gradients], []

    def coefficient(self, layer: list[int], weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """alpha (`code`) or beta (`paper`) of the tensors of a layer, a scalar on the device."""
        fallback = torch.full((), FALLBACK[self.form], device=self.run.device, dtype=weights[0].dtype)
        if not self.previous:
            return fallback

        def norm(a: list[Tensor], b: list[Tensor] | None = None) -> Tensor:
            return torch.stack([(a[k] if b is None else a[k] - b[k]).abs().sum() for k in layer]).sum()

        factor = 2.0 if self.form == "code" else 1.0
        found = factor * (1 + norm(gradients)) / (norm(weights, self.average) * norm(gradients, self.previous))
        valid = (found > 0) & (found < 1)
        self.coefficients += torch.stack([valid, torch.ones_like(valid)])
        return torch.where(valid, found, fallback)

    def before_evaluation(self) -> None:
        self._saved = {}
        if self.average:
            self._saved = self.run.snapshot()
            with torch.no_grad():
                for p, value in zip(self.model.parameters(), self.average, strict=True):
                    p.copy_(value)

    def after_evaluation(self) -> None:
        if self._saved:
            self.run.restore_snapshot(self._saved)
            self._saved = {}

    def report(self) -> dict[str, Any]:
        """How often the formula gave a coefficient between 0 and 1; elsewhere the fallback was used."""
        used, asked = self.coefficients.tolist()
        return {"coefficients_from_formula": used / asked if asked else None}
