"""What the parts of a run share: model, data, memories, optimizer, schedule, counters, `loss` and `update`."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..errors import Diverged, Interrupted, UsageError
from ..memory import Memory
from ..models.base import Network
from ..plan import Plan
from ..randomness import generator, torch_seed
from ..schedule import Schedule
from ..strategy import ParameterGroup, Part, Strategy
from ..stream import Stream
from .borders import Timeline
from .optimizers import build
from .portions import WHOLE, gradients
from .processes import Processes, whole
from .progress import Cost, Progress
from .settings import Training
from .workload import Workload

OWN_LOSSES = 100
"""Losses of parts' own loops that are looked at together; the device is not waited for in between."""


class Run:
    """One cell while it runs. Parts reach it as `self.run`."""

    def __init__(
        self,
        stream: Stream,
        model: Network,
        parts: list[Part],
        training: Training,
        schedule: Schedule,
        seed: int,
        device: torch.device,
        workload: Workload,
        pretrained: bool = False,
        evaluation_mask: str = "none",
        memory_settings: dict[str, Any] | None = None,
        probe_tokens: int | None = None,
        processes: Processes | None = None,
    ):
        self.processes = processes or Processes()
        self.stream, self.model, self.parts, self.training, self.schedule = stream, model, parts, training, schedule
        self.probe_tokens = probe_tokens
        self.seed, self.device, self.pretrained, self.evaluation_mask = seed, device, pretrained, evaluation_mask
        assert isinstance(parts[0], Strategy)
        self.base: Strategy = parts[0]
        self.workload: Workload = workload
        self.progress = Progress()
        self.workload.experience = lambda: self.experience
        self.costs = {"training": Cost(), "deployment": Cost()}
        self.cost = self.costs["training"]
        self.generators: dict[str, np.random.Generator] = {}
        self.memories: dict[str, Memory] = {}
        self.insert = (memory_settings or {}).get("insert", "first_epoch")
        self.stop_requested = False
        self.optimizer: torch.optim.Optimizer | None = None
        self._pending_backward = 0
        self.portion = WHOLE
        self._own_losses: list[Tensor] = []
        self.parameter_ids = {id(p) for p in model.parameters()}
        self._initial = {name: t.detach().clone() for name, t in model.state_dict().items()}
        if "memory" in set().union(*(p.needs for p in parts)):
            assert memory_settings is not None
            rng = generator(seed, "memory", "replay")
            self.memories["replay"] = Memory(memory_settings["size"], memory_settings["policy"], rng, self._remembered, device)
        self._occurrences = {id(part): sum(p.name == part.name for p in parts[:k]) for k, part in enumerate(parts)}
        for part in parts:
            part.run = self
        self._hooks = {
            name: [getattr(p, name) for p in parts if p.defines(name)]
            for name in ("batch", "before_step", "penalty", "on_gradients", "rate_factor", "after_step")
        }

    # -- where we are -------------------------------------------------------------------------------------------

    @property
    def experience(self) -> int:
        """The index of the current experience."""
        return self.progress.position.experience

    @property
    def step(self) -> int:
        """Updates of the main optimizer so far."""
        return self.progress.step

    @property
    def batch_size(self) -> int:
        """Current samples in a full step."""
        return int(self.training.batch_size or 1)

    @property
    def classes(self) -> int:
        """Outputs of the head."""
        return self.stream.classes

    def plan_of(self, i: int) -> Plan:
        """What experience i trains on, after all parts had their say."""
        experience = self.stream.experiences[i]
        plan = Plan(experience, (experience,), int(self.training.epochs or 1), self.batch_size)
        for part in self.parts:
            plan = part.plan(plan)
        return plan

    @functools.cached_property
    def timeline(self) -> Timeline:
        """The learning rate over the whole stream."""
        plans = [self.plan_of(i) for i in range(len(self.stream))]
        return Timeline(self.schedule, self.training, [p.steps for p in plans], [p.fresh_model for p in plans], self.keeps("schedule"))

    @property
    def total_steps(self) -> int:
        """Planned batches of the whole stream."""
        return self.timeline.ends[-1]

    @property
    def on_branch(self) -> bool:
        """Whether this is the branch that is annealed to be measured, not the line that goes on."""
        return self.progress.position.stage == "branch"

    def seen_classes(self, i: int | None = None) -> Tensor:
        """bool [classes] on the device: classes that came up to experience i (default: the current one)."""
        seen = torch.zeros(self.classes, dtype=torch.bool)
        for experience in self.stream.experiences[: (self.experience if i is None else i) + 1]:
            seen[list(experience.classes)] = True
        return seen.to(self.device)

    # -- samples ------------------------------------------------------------------------------------------------

    def current_batch(self, ids: Tensor, experience: int | Tensor, draws: np.ndarray | None, current: bool = True) -> Batch:
        """A batch of the stream's own samples."""
        return Batch(self.workload.view, ids, experience, current, draws)

    def samples(self, ids: np.ndarray) -> Batch:
        """Training samples by id, as they are; they count as current ones of this experience."""
        return self.current_batch(torch.from_numpy(ids), self.experience, None)

    def _remembered(self, ids: Tensor, experience: Tensor, columns: dict[str, Tensor], rng: np.random.Generator | None) -> Batch:
        self.workload.note_labels(ids)
        draws = self.workload.draws_from(rng or self._generator("memory", "augmentation"), len(ids))
        return Batch(self.workload.view, ids, experience, False, draws, columns)

    def fill_memories(self, batch: Batch) -> None:
        """Offer the current samples of a step to the memory; columns come from the batch, logits from its forward pass."""
        origin = batch.experience.numpy()
        new = np.flatnonzero(origin == self.experience)  # joint training sees old samples again; the memory was offered them before
        for memory in self.memories.values():
            columns = {name: self._column(name, batch) for name in memory.columns}
            if len(new) < len(origin):
                columns = {name: values[torch.from_numpy(new).to(values.device)] for name, values in columns.items()}
            ids = batch.ids.numpy()[new]
            memory.add(ids, self.stream.labels_of(ids), origin[new], columns)

    def _column(self, name: str, batch: Batch) -> Tensor:
        if name in batch.columns:
            return batch.columns[name]
        if name == "logits" and batch.logits is None:
            with torch.no_grad():
                self.logits(batch)
        return getattr(batch, name)

    @torch.no_grad()
    def features(self, ids: np.ndarray, chunk: int = 500) -> Tensor:
        """Features [samples, width] of training samples without augmentation, in evaluation mode. Counted as forward passes."""
        modes = self.set_evaluation_mode()
        found = []
        for part in torch.from_numpy(ids).split(chunk):
            pixels, _ = self.stream.gather(part)
            found.append(self.model.features(self.workload.inputs(pixels)))
            self.cost.forward_passes += len(part)
        self.restore_modes(modes)
        return torch.cat(found)

    # -- learning -----------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> Tensor:
        """The model's logits of a batch; counted."""
        with self.workload.autocast():
            batch.logits = self.model(batch.x)
        self.cost.forward_passes += len(batch)
        if torch.is_grad_enabled():
            self._pending_backward += len(batch)
        assert batch.logits is not None
        return batch.logits

    def loss(self, batch: Batch) -> Tensor:
        """The workload's mean loss of a batch; leaves `batch.logits`."""
        return self.workload.loss(self.logits(batch), batch)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean squared difference over batch and outputs."""
        return F.mse_loss(a, b)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """One gradient step, or a portion of its gradients; see `Part.update`."""
        own = optimizer is not None
        target = optimizer or self.optimizer
        portion = WHOLE if own else self.portion
        assert target is not None, "update needs an optimizer: it is made when an experience begins"
        if portion.share != 1.0:
            loss = loss * portion.share
        if not own and portion.last:
            for penalty in self._hooks["penalty"]:
                extra = penalty()
                loss = loss if extra is None else loss + extra
        if portion.first:
            target.zero_grad(set_to_none=True)
        loss.backward()
        self.cost.backward_passes += self._pending_backward
        self._pending_backward = 0
        if not portion.last:
            return
        if not own:
            for hook in self._hooks["on_gradients"]:
                hook()
            if self.training.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
            self._set_rates()
        target.step()
        self.cost.gradient_steps += 1
        if own:
            self._own_losses.append(loss.detach())
            if len(self._own_losses) >= OWN_LOSSES:
                self.check_own_losses()
        self.workload.begin_step()
        if not own:
            self.progress.step += 1
            self.progress.experience_step += 1
            for hook in self._hooks["after_step"]:
                hook()

    def check_own_losses(self) -> None:
        """Raise `Diverged` when a loss in a part's own loop was not finite."""
        losses, self._own_losses = self._own_losses, []
        if losses and not bool(torch.isfinite(torch.stack(losses)).all()):
            raise Diverged(f"a loss in a loop of a part's own became non-finite in experience {self.experience}")

    def gradients(self, batch: Batch) -> list[Tensor | None]:
        """Gradients of the loss by parameter (None where it does not depend on one), without side effects; counted."""
        return gradients(self, batch)

    # -- optimizer ----------------------------------------------------------------------------------------------

    def keeps(self, what: str) -> bool:
        """Whether the optimizer ("optimizer") or the schedule ("schedule") goes on over borders."""
        choice = getattr(self.training, f"border_{what}")
        if choice == "auto":
            return self.stream.keep_schedule or (what == "optimizer" and self.training.border_schedule in ("hold", "lengthen"))
        return choice in ("keep", "extend")

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups as all parts want them."""
        groups = [ParameterGroup("all", [p for p in self.model.parameters() if p.requires_grad], float(self.training.learning_rate or 0.0))]
        for part in self.parts:
            groups = part.parameter_groups(groups)
        return [g for g in groups if g.parameters]

    def make_optimizer(self, groups: list[ParameterGroup], keep_state: bool = False) -> None:
        """A new main optimizer; `keep_state` carries over what the old one knows of each parameter."""
        self.optimizer = build(self.training, groups, self.optimizer if keep_state else None)

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The main optimizer's groups as plain values; empty without one, or when it also holds weights of a part."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        if any(id(p) not in self.parameter_ids for group in groups for p in group["params"]):
            return []
        return [{"name": g["name"], "parameters": g["params"], "learning_rate": g["peak"]} for g in groups]

    def begin_optimizer(self) -> None:
        """At a border: a fresh optimizer, or the old state in the groups of this experience."""
        self.progress.experience_step = 0
        self.make_optimizer(self.parameter_groups(), self.keeps("optimizer"))

    def check_schedule(self) -> None:
        """Refuse a schedule that does not fit the steps it is used for; raises `UsageError`."""
        self.timeline.check()
        peak = getattr(self.schedule, "own_peak", None)
        if peak is not None and peak != self.training.learning_rate:
            raise UsageError(
                f"training.learning_rate = {self.training.learning_rate} must equal training.schedule.peak = {peak}, which the schedule's rates are in"
            )

    @property
    def learning_rate(self) -> float | None:
        """The rate of the last update, where all groups have one."""
        rates = set() if self.optimizer is None else {group["lr"] for group in self.optimizer.param_groups}
        return rates.pop() if len(rates) == 1 else None

    def _set_rates(self) -> None:
        if self.timeline.is_constant and not self._hooks["rate_factor"]:
            return
        factor = self.timeline.factor(self.experience, self.progress.experience_step, self.progress.step, self.on_branch)
        for change in self._hooks["rate_factor"]:
            factor = change(factor)
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    # -- the model ----------------------------------------------------------------------------------------------

    def reset_model(self) -> None:
        """Give the model its initial weights again, and the optimizer no memory."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict(keep_vars=True).items():
                tensor.copy_(self._initial[name])
        self.optimizer = None

    def set_evaluation_mode(self) -> list[tuple[torch.nn.Module, bool]]:
        """Evaluation mode everywhere; gives back what `restore_modes` needs."""
        modes = [(m, m.training) for m in self.model.modules()]
        self.model.eval()
        return modes

    @staticmethod
    def restore_modes(modes: list[tuple[torch.nn.Module, bool]]) -> None:
        for module, training in modes:
            module.training = training

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all weights and running statistics."""
        return {name: t.detach().clone() for name, t in self.model.state_dict().items()}

    def restore_snapshot(self, saved: dict[str, Tensor]) -> None:
        """Copy a snapshot back into the model."""
        with torch.no_grad():
            for name, tensor in self.model.state_dict(keep_vars=True).items():
                tensor.copy_(saved[name])

    def copy_model(self) -> Network:
        """A detached copy of the model."""
        return copy.deepcopy(self.model)

    def weights_digest(self) -> str:
        """SHA-256 over all weights and running statistics."""
        h = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            h.update(name.encode())
            h.update(whole(tensor.detach()).cpu().contiguous().numpy().tobytes())
        return h.hexdigest()

    # -- randomness, leaving ------------------------------------------------------------------------------------

    def part_generator(self, part: Part, purpose: str) -> np.random.Generator:
        """The generator named by (run seed, part, occurrence, purpose)."""
        return self._generator("part", part.name, self._occurrences[id(part)], purpose)

    def _generator(self, *name: str | int) -> np.random.Generator:
        key = " ".join(map(str, name))
        if key not in self.generators:
            self.generators[key] = generator(self.seed, *name)
        return self.generators[key]

    def seed_default_generators(self) -> None:
        """Dropout and careless plug-ins draw from the default generators: seeded by the cell, saved with it."""
        import random

        seed = torch_seed(self.seed, "default")
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def interruptible(self, count: int) -> Iterator[int]:
        """0..count-1, leaving between two when asked to; the hook then runs again from the checkpoint before it."""
        for k in range(count):
            if self.stop_requested and self.processes.alone:  # several leave together, between two hooks
                raise Interrupted
            yield k

    def cost_report(self) -> dict[str, Any]:
        """Training cost, and apart what was computed to deploy the model for measuring."""
        return {**asdict(self.costs["training"]), "deployment": asdict(self.costs["deployment"])}
