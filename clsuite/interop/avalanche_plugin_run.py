"""What parts of ours run against inside an Avalanche strategy: a `Run` made of its model, optimizer, data and memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..errors import UsageError
from ..plan import Plan
from ..randomness import generator
from ..schedule import Constant
from ..strategy import ParameterGroup, Part
from ..training.run import Run
from ..training.settings import Training
from .avalanche_plugin_model import Wrapped, wrap
from .avalanche_plugin_rules import Options, TheirStrategy, check
from .avalanche_plugin_samples import BorrowedMemory, SeenStream, buffer_of, fetch, known, updates

CHUNK = 1000
"""Samples offered to a memory at a time, as the loop does it."""


@dataclass(frozen=True)
class TheirPlan(Plan):
    """The plan of an experience whose batches their loader makes."""

    updates: int = 0
    """Batches of an epoch."""

    @property
    def steps_per_epoch(self) -> int:
        return self.updates


class TheirWorkload:
    """Inputs as the strategy's data sets give them, the strategy's own criterion, and the mask over logits."""

    logging_interval = 100

    def __init__(self, stream: SeenStream, criterion: Callable[[Tensor, Tensor], Tensor], mask: str):
        self.stream, self.criterion, self.mask = stream, criterion, mask
        self.experience: Callable[[], int] = lambda: 0
        smooth = getattr(criterion, "label_smoothing", 0.0)
        if mask != "none" and (smooth or not (isinstance(criterion, nn.CrossEntropyLoss) or criterion is F.cross_entropy)):
            name = getattr(criterion, "__name__", type(criterion).__name__)
            raise UsageError(f"logit_mask = '{mask}' needs the criterion torch.nn.CrossEntropyLoss without label smoothing, but it is {name} here")

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def draws(self, count: int, *name: str | int) -> None:
        """The transforms of the data sets draw for themselves."""

    def draws_from(self, rng: np.random.Generator, count: int) -> None:
        """The transforms of the data sets draw for themselves."""

    def view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.stream.augmented(batch.ids)

    def inputs(self, raw: Tensor) -> Tensor:
        return raw

    def begin_step(self) -> None:
        """Nothing is kept from step to step."""

    def note_labels(self, ids: Tensor) -> None:
        """Nothing is kept from step to step."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.criterion(self.masked(logits, batch.y), batch.y)

    def masked(self, logits: Tensor, y: Tensor) -> Tensor:
        """Logits [batch, classes] with minus infinity where `logit_mask` looks away; a target is never masked.

        `experience`: a mini-batch does not say where its samples came from, so that is the last experience that has the label.
        """
        if self.mask == "none":
            return logits
        allowed = F.one_hot(y, logits.shape[-1]).bool()
        if self.mask == "batch":
            allowed = allowed | allowed.any(0)
        elif self.mask == "seen":
            allowed = allowed | self._membership().any(0)
        else:
            table = self._membership()
            last = (table * torch.arange(1, len(table) + 1, device=table.device)[:, None]).argmax(0)
            allowed = allowed | table[last[y]]
        return logits.masked_fill(~allowed, -torch.inf)

    def _membership(self) -> Tensor:
        """bool [experiences begun, classes]."""
        table = torch.zeros(len(self.stream.experiences), self.stream.classes, dtype=torch.bool)
        for row, experience in zip(table, self.stream.experiences, strict=True):
            row[list(experience.classes)] = True
        return table.to(self.stream.device)


class AvalancheRun(Run):
    """A `Run` inside an Avalanche strategy: samples, losses, gradients, generators and costs are those of every run.

    Main steps are the strategy's. `begin_experience` takes in the next experience; hooks are called by the plugin.
    """

    model: Wrapped
    stream: SeenStream
    workload: TheirWorkload

    def __init__(self, strategy: Any, parts: list[Part], options: Options):
        self.options = options
        self._their_stream = getattr(strategy.experience, "origin_stream", None)
        self.planned = options.experiences or _length(self._their_stream)
        base = TheirStrategy(strategy)
        model = wrap(strategy.model, options.head)
        online = hasattr(strategy.experience, "access_task_boundaries")
        stream = SeenStream(model.head.out_features, strategy.device, not online, self.planned)
        training = Training(epochs=strategy.train_epochs, batch_size=strategy.train_mb_size, logit_mask=options.logit_mask)
        remembering = [p for p in parts if "memory" in p.needs]
        check(base, parts, online, self.planned, options)
        size, policy = (next((v for p in remembering if (v := getattr(p, name, None)) is not None), None) for name in ("buffer_size", "buffer"))
        borrowed = buffer_of(strategy) if size is None else None
        if remembering and size is None and borrowed is None:
            raise UsageError(f"strategy '{remembering[0].name}' needs a memory, and {base.name} has none: give buffer_size=, or a ReplayPlugin")
        if borrowed is not None and policy is not None:
            raise UsageError(f"buffer = '{policy}' is of a memory of the plugin's own, and {base.name} has one already: give buffer_size with it, or neither")
        super().__init__(
            stream,
            model,
            [base, *parts],
            training,
            Constant(),
            options.seed,
            strategy.device,
            TheirWorkload(stream, strategy._criterion, options.logit_mask),
            pretrained=options.pretrained,
            memory_settings={"size": size or 1, "policy": policy or "reservoir", "insert": "experience_end"},
        )
        if remembering and borrowed is not None:
            self.memories["replay"] = BorrowedMemory(borrowed, generator(options.seed, "memory", "replay"), stream)
        self.asked_for_steps = False
        self._replays = "ReplayPlugin" in {kind.__name__ for plugin in strategy.plugins for kind in type(plugin).__mro__}
        self._updates: list[int] = []
        self._shapes = model.shapes()
        self._groups: list[tuple[dict[str, Any], list[nn.Parameter], float, float]] = []

    @property
    def total_steps(self) -> int:
        """Updates over the whole stream: `total_steps`, or epochs times batches of the experiences there are."""
        self.asked_for_steps = True
        if self.options.total_steps is not None:
            return self.options.total_steps
        if self._their_stream is None or _length(self._their_stream) is None:
            raise UsageError("how many steps there will be cannot be seen from this Avalanche stream: give total_steps=")
        planned = enumerate(itertools.islice(self._their_stream, self.planned))
        return int(self.training.epochs or 1) * sum(updates(e, self.batch_size, self._replays and i > 0) for i, e in planned)

    def plan_of(self, i: int) -> TheirPlan:
        experience = self.stream.experiences[i]
        return TheirPlan(experience, (experience,), int(self.training.epochs or 1), self.batch_size, updates=self._updates[i])

    @property
    def is_last(self) -> bool:
        """Whether this experience is the last one."""
        if self.planned is None:
            return self.options.total_steps is not None and self.step >= self.options.total_steps
        return self.experience == self.planned - 1

    def check_model(self, strategy: Any) -> None:
        """Follow the strategy to the model it has now, and refuse one that grew."""
        if strategy.model is not self.model.model:
            self.model = wrap(strategy.model, self.options.head)
        if self.model.shapes() != self._shapes:
            raise UsageError(f"{type(strategy.model).__name__} grew: give it all its outputs at the start (IncrementalClassifier: initial_out_features)")

    def begin_experience(self, strategy: Any) -> None:
        """Take in the experience that the strategy is about to train on."""
        self.check_model(strategy)
        self.workload.criterion = strategy._criterion
        dataset = strategy.experience.dataset
        if not self.stream.experiences:
            self.model.check(fetch(dataset.eval(), [0], self.device)[0])
        experience = self.stream.begin(dataset)
        self._updates.append(updates(strategy.experience, self.batch_size, self._replays and experience.index > 0))
        self.progress.position.experience = experience.index
        self.progress.experience_step = 0
        self.optimizer = strategy.optimizer

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        if optimizer is None:
            raise UsageError("a plugin cannot make a step with the Avalanche strategy's own optimizer")
        super().update(loss, optimizer)

    def part_generator(self, part: Part, purpose: str) -> np.random.Generator:
        # by the part's place, not by its identity: the strategy, and the plugin in it, may be copied or loaded
        place = next(k for k, p in enumerate(self.parts) if p is part)
        return self._generator("part", part.name, sum(p.name == part.name for p in self.parts[:place]), purpose)

    def fill_own_memory(self) -> None:
        """Offer the samples of this experience to a memory of the plugin's own, if it has one."""
        if any(isinstance(memory, BorrowedMemory) for memory in self.memories.values()):
            return
        experience = self.stream.experiences[self.experience]
        for ids in torch.from_numpy(self.stream.ids(experience.segments)).split(CHUNK):
            self.fill_memories(self.current_batch(ids, experience.index, None))

    def look_again(self) -> None:
        """The strategy's memory may have changed since parts last looked."""
        for memory in self.memories.values():
            if isinstance(memory, BorrowedMemory):
                memory.forget()

    def current(self, strategy: Any, iteration: int) -> tuple[Batch, int]:
        """The current samples of the strategy's mini-batch, and its length; the loader of its replay puts them before those of the memory."""
        x, y, loader = strategy.mb_x, strategy.mb_y, strategy.dataloader
        whole = len(y)
        if "ReplayDataLoader" in {kind.__name__ for kind in type(loader).__mro__}:
            size = loader.batch_sizes[0]
            own = min(size, len(loader.datasets[0]) - iteration * size)
            x, y = x[:own], y[:own]
        return known(x, y, self.experience), whole

    # -- learning rates by group --------------------------------------------------------------------------------

    def divide_groups(self) -> None:
        """Ask the parts for the learning rates of this experience.

        A group keeps every option of the optimizer's group its parameters are in. The rate a part names is a peak: where a
        scheduler has moved the group's rate from its first value, the part's moves by the same factor.
        """
        assert self.optimizer is not None
        theirs = self.optimizer.param_groups
        owner = {id(p): k for k, group in enumerate(theirs) for p in group["params"]}
        peaks = [float(group.get("initial_lr", group["lr"])) for group in theirs]
        groups = [ParameterGroup(f"group {k}", list(group["params"]), peaks[k]) for k, group in enumerate(theirs)]
        for part in self.parts:
            groups = part.parameter_groups(groups)
        self._groups = []
        for group in groups:
            for k, original in enumerate(theirs):
                own = [p for p in group.parameters if owner[id(p)] == k]
                if own:
                    self._groups.append((original, own, group.learning_rate, peaks[k]))

    def step_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups for the next step."""
        return [{**original, "params": own, "lr": rate * (float(original["lr"]) / peak if peak else 1.0)} for original, own, rate, peak in self._groups]


def _length(stream: Any) -> int | None:
    """Experiences of an Avalanche stream; None where it is made on the way."""
    try:
        return None if stream is None else len(stream)
    except TypeError:
        return None
