"""What a method defines: parts, and the hooks a run calls on them.

    class Replay(Strategy):
        \"\"\"Experience replay: every step also trains on samples of a memory.\"\"\"
        needs = {"memory"}
        buffer_size: int = setting(500, ge=1)

        def training_step(self, batch):
            if self.memory:
                batch = batch + self.memory.sample(len(batch))
            loss = self.loss(batch)
            self.update(loss)
            return loss

`strategy=derpp+ewc+fpf` is one base strategy and modifiers: an ordered list of parts that share one `self.run`. Nobody
wraps anybody. Hooks are called in list order; `plan`, `batch`, `rate_factor` and `parameter_groups` are piped from part to part,
penalties are summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .settings import Configurable, Setting

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from .batch import Batch
    from .memory import Memory
    from .plan import Plan
    from .stream import Experience
    from .training.run import Run


@dataclass
class ParameterGroup:
    """Parameters that share a peak learning rate."""

    name: str
    parameters: list[torch.nn.Parameter]
    learning_rate: float


class Part(Configurable):
    """Base of strategies and modifiers. Attributes set in hooks are the part's state: saved and restored exactly.

    `needs`: what the stream, model or base must offer, refused in one line otherwise: "memory", "borders", "task_ids",
    "classifier" (a head over classes), "incremental" (a base that steps on the current experience), "several_tasks".
    `claims`: abilities only one part may have: "rewrites_gradients", "owns_predict", "chooses_samples", "moves_weights", "sets_rates".
    `transient`: names of attributes that are not state.
    """

    needs: ClassVar[frozenset[str] | set[str]] = frozenset()
    claims: ClassVar[frozenset[str] | set[str]] = frozenset()
    offers: ClassVar[frozenset[str] | set[str]] = frozenset()
    transient: ClassVar[frozenset[str] | set[str]] = frozenset()
    imports: ClassVar[Sequence[str]] = ()
    """Modules that take seconds to import and are needed once it runs: a grid imports them once for all its cells."""

    name: str = ""
    run: Run

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        taken = [n for n in vars(cls) if isinstance(vars(cls)[n], Setting) and hasattr(Part, n) and n not in ("steps", *Part.declared())]
        if taken:
            raise TypeError(f"{cls.__name__}: a setting cannot be called '{taken[0]}', which every part already has")

    def weight_files(self, data_root: str | None) -> list[Path]:
        """Files of weights that the part reads, in a fixed order: their content is part of a cell's identity."""
        return []

    keeps_steps: ClassVar[bool] = False
    """Whether `plan` changes what batches of later experiences consist of but never how many steps there are (see `acts_from`)."""

    def acts_from(self, experiences: int) -> int:
        """How many experiences' training steps, of all there are, this part leaves alone; it keeps nothing before their end either.

        `k`: nothing of it is needed before the border hooks of experience k - 1. Cells that differ in such parts alone are trained
        together up to there.
        """
        return 0

    @classmethod
    def defines(cls, hook: str) -> bool:
        """Whether a hook does anything here."""
        return getattr(cls, hook) is not getattr(Part, hook)

    # -- hooks, in the order of a run ---------------------------------------------------------------------------

    def setup(self) -> None:
        """Make what the part keeps. Called once, before the first step, with model and stream in place."""

    def plan(self, plan: Plan) -> Plan:
        """What an experience trains on. A pure function of the plan and the settings: called for all experiences at the start."""
        return plan

    def parameter_groups(self, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Learning rates by group; called at the start of every experience."""
        return groups

    def before_experience(self, experience: Experience) -> None:
        """At the start of an experience."""

    def batch(self, batch: Batch) -> Batch:
        """What a batch consists of."""
        return batch

    def before_step(self, batch: Batch) -> None:
        """Once the batch of a step stands, before the base trains on it."""

    def penalty(self) -> Tensor | None:
        """A term added to the loss of `update`."""
        return None

    def on_gradients(self) -> None:
        """Between backward and clipping: parameters carry their gradients."""

    def rate_factor(self, factor: float) -> float:
        """The share of the peak rate that the next update uses, given what the schedule says; piped from part to part."""
        return factor

    def after_step(self) -> None:
        """After every step of `update`."""

    def after_experience(self, experience: Experience) -> None:
        """At the end of an experience, before its evaluation."""

    def end(self) -> None:
        """Once, after the last experience and before its evaluation."""

    def before_evaluation(self) -> None:
        """Make the model what one would deploy now."""

    def after_evaluation(self) -> None:
        """Undo `before_evaluation`."""

    def report(self) -> dict[str, Any]:
        """Plain values for the result, under the part's name."""
        return {}

    def memory_bytes(self) -> int:
        """Bytes of samples that the part remembers beside the run's own memories."""
        return 0

    def label(self) -> str:
        """How tables call the part: its name, and what must never be silent."""
        return self.name

    # -- what a part may use ------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        return self.run.model

    @property
    def memory(self) -> Memory:
        """The memory named "replay", shared by all parts that need one."""
        return self.run.memories["replay"]

    def loss(self, batch: Batch) -> Tensor:
        """The workload's mean loss of a batch; leaves `batch.logits`. Counts a forward pass a sample."""
        return self.run.loss(batch)

    def logits(self, batch: Batch) -> Tensor:
        """The model's unmasked logits [batch, classes] in train mode. Counts a forward pass a sample."""
        return self.run.logits(batch)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean squared difference over batch and outputs (the distillation of DER)."""
        return self.run.distance(a, b)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """One gradient step: penalties, backward, `on_gradients`, clipping, step, `after_step`.

        With an optimizer of one's own: a bare backward and step, counted as cost, without penalties, hooks or schedule.
        """
        self.run.update(loss, optimizer)

    def gradients(self, batch: Batch) -> list[Tensor | None]:
        """Gradients of the loss on a batch, by parameter; changes neither gradients nor running statistics. Counted."""
        return self.run.gradients(batch)

    def samples(self, ids: np.ndarray) -> Batch:
        """Training samples by id as a batch, without augmentation."""
        return self.run.samples(ids)

    def generator(self, purpose: str) -> np.random.Generator:
        """This part's own generator for a purpose; its state is the run's to save."""
        return self.run.part_generator(self, purpose)

    def steps(self, count: int) -> Iterator[int]:
        """0..count-1; marks the places where the run may be asked to leave inside a hook."""
        return self.run.interruptible(count)


class Strategy(Part):
    """A base strategy: it alone owns `training_step` and `predict`. Without a `training_step` of its own it fine-tunes."""

    offers: ClassVar[frozenset[str] | set[str]] = frozenset({"incremental"})

    resumes: ClassVar[str] = "exact"
    """How a run that was stopped goes on, for its result: `exact`ly where it was, or from `experience_borders`, with the same numbers."""

    def training_step(self, batch: Batch) -> Tensor | None:
        """Learn from a batch; returns its loss (None when nothing was learned)."""
        loss = self.loss(batch)
        self.update(loss)
        return loss

    def predict(self, x: Tensor) -> Tensor:
        """Scores [batch, classes] of normalised inputs; the largest is the prediction."""
        return self.model(x)


class Modifier(Part):
    """A part that acts around any base strategy."""
