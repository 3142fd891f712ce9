"""FPF and k-FPF: fine-tune the forgetting-prone modules on the memory."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from clsuite.errors import UsageError
from clsuite.memory import BufferPolicy
from clsuite.settings import setting
from clsuite.strategy import Modifier

GROUPS = {"bn": "norm", "last_layer": "head", "first_conv": "first_layer", "all": "all"}

Modules = Literal["bn", "last_layer", "first_conv", "bn+last_layer", "bn+last_layer+first_conv", "all", "random"]


class FPF(Modifier):
    """Forgetting-prioritised fine-tuning: a few modules are fine-tuned on the memory, the rest stays as it is.

    Source: Zhao et al. 2023, arXiv 2304.04158; no official code: re-implemented from the abstract. Once at the end (`when:
    end`), before every evaluation and undone after it (`when: evaluation`), `times` times evenly over the whole run
    (k-FPF), or every `period` steps and at the end. `distillation` weighs the squared distance to stored logits (the KD
    variant). Which modules these are, their optimizer and all numbers are our choice: fresh SGD without momentum each time; running
    statistics of batch normalisation follow.
    `random` fine-tunes as many single weights as the default modules have, drawn once: the control.
    """

    needs = frozenset({"memory"})
    transient = frozenset({"_saved"})

    buffer_size: int | None = setting(None, ge=1, search=[200, 500, 1000], help="samples the memory holds (null: as the base, or the data set's default)")
    buffer: BufferPolicy | None = setting(None, help="which samples stay in the memory (null: as the base has it)")
    when: Literal["end", "evaluation"] = setting("end", help="with neither times nor period: once at the end, or before every evaluation")
    times: int | None = setting(None, ge=1, search=[3, 5, 9, 15], help="fine-tunings over the whole run, after steps round(S i / times)")
    period: int | None = setting(None, ge=1, help="fine-tune every so many steps, and at the end")
    modules: Modules | None = setting(None, help="what is fine-tuned (null: bn+last_layer, without batch normalisation last_layer)")
    steps_each: int = setting(300, ge=1, search=[100, 300], help="steps of one fine-tuning")
    replay_batch: int = setting(32, ge=1, help="memory samples in a step")
    learning_rate: float = setting(0.05, gt=0, search=[0.01, 0.05, 0.1], help="of the fine-tuning")
    distillation: float = setting(0.0, ge=0, search=[0.0, 0.1, 0.5], help="weight of the distance to stored logits")

    def acts_from(self, experiences: int) -> int:
        if self.times or self.period or self.distillation:
            return 0
        return experiences if self.when == "end" else 1

    def setup(self) -> None:
        if self.times is not None and self.period is not None:
            raise UsageError("strategy.fpf.times and strategy.fpf.period cannot both be given: choose one")
        if (self.times or self.period) and "incremental" not in self.run.base.offers:
            given = "times" if self.times else "period"
            raise UsageError(f"strategy.fpf.{given} counts steps, but strategy '{self.run.base.name}' does not train step by step (use strategy.fpf.when)")
        if self.when == "evaluation" and (self.times or self.period):
            raise UsageError("strategy.fpf.when = 'evaluation' excludes strategy.fpf.times and strategy.fpf.period: give one of them")
        if self.distillation and "incremental" not in self.run.base.offers:
            raise UsageError(f"strategy.fpf.distillation needs logits of the model in training, which strategy '{self.run.base.name}' does not keep (valid: 0)")
        if self.distillation:
            self.memory.column("logits", self.run.classes)
        self.fine_tunings = 0
        total = self.run.total_steps
        if self.times is not None:
            self.triggers = sorted({round(total * i / self.times) for i in range(1, self.times + 1)})
        else:
            self.triggers = [] if self.period is None else sorted({*range(self.period, total, self.period), total})
        chosen = self._chosen(self.modules if self.modules != "random" else None)
        if not chosen:
            raise UsageError(f"strategy.fpf.modules = '{self.modules}' is empty in this model (its groups: {', '.join(self.model.groups())})")
        if self.modules == "random":
            self.kept = self._random_entries(sum(p.numel() for p in chosen))

    def _chosen(self, modules: str | None) -> list[torch.nn.Parameter]:
        if modules is None:
            modules = "bn+last_layer" if self.model.select("norm") else "last_layer"
        return self.model.select("+".join(GROUPS[name] for name in modules.split("+")))

    def _random_entries(self, count: int) -> list[torch.Tensor]:
        """A mask for every parameter that is false in exactly `count` random places overall."""
        parameters = list(self.model.parameters())
        sizes = [p.numel() for p in parameters]
        flat = np.ones(sum(sizes), dtype=bool)
        flat[self.generator("modules").choice(len(flat), min(count, len(flat)), replace=False)] = False
        return [torch.from_numpy(m).view_as(p).to(p.device) for m, p in zip(np.split(flat, np.cumsum(sizes)[:-1]), parameters, strict=True)]

    def after_step(self) -> None:
        if self.run.step in self.triggers:
            self.fine_tune()

    def end(self) -> None:
        if not self.triggers and self.when == "end":
            self.fine_tune()

    def before_evaluation(self) -> None:
        if not self.triggers and self.when == "evaluation":
            self._saved = self.run.snapshot()
            self.fine_tune()

    def after_evaluation(self) -> None:
        if not self.triggers and self.when == "evaluation":
            self.run.restore_snapshot(self._saved)

    def fine_tune(self) -> None:
        """`steps_each` steps on memory samples, in the chosen modules alone."""
        if not self.memory:
            return
        parameters = list(self.model.parameters()) if self.modules == "random" else self._chosen(self.modules)
        fixed = [p for p in self.model.parameters() if p.requires_grad and not any(p is q for q in parameters)]
        optimizer = torch.optim.SGD(parameters, lr=self.learning_rate)
        before = [p.detach().clone() for p in parameters]
        draws = self.generator("memory")  # its own, so that the base's later draws are what they would have been
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.train()
        for p in fixed:
            p.requires_grad_(False)
        try:
            for _ in self.steps(self.steps_each):
                batch = self.memory.sample(self.replay_batch, draws)
                loss = self.loss(batch)
                if self.distillation and batch.logits is not None:
                    loss = loss + self.distillation * self.distance(batch.logits, batch["logits"])
                self.update(loss, optimizer)
                if self.modules == "random":
                    with torch.no_grad():
                        for p, old, kept in zip(parameters, before, self.kept, strict=True):
                            p.copy_(torch.where(kept, old, p))
        finally:
            for p in fixed:
                p.requires_grad_(True)
            self.run.restore_modes(modes)
        self.fine_tunings += 1

    def report(self) -> dict[str, Any]:
        tuned = sum(int((~k).sum()) for k in self.kept) if self.modules == "random" else sum(p.numel() for p in self._chosen(self.modules))
        return {"fine_tunings": self.fine_tunings, "triggers": self.triggers, "parameters": tuned, "last_row_only": not self.triggers and self.when == "end"}
