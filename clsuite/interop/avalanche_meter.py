"""What Avalanche's loops cost, and the places where they may be left."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..errors import Diverged
from .avalanche_models import Backbone

if TYPE_CHECKING:
    from ..training.run import Run

LOSSES = 100
"""Losses that are looked at together; the device is not waited for in between."""


class Meter:
    """Counts samples that go forward and back through a network, and optimizer steps, while it is switched on.

    It is a hook of the network, which copies of it take along (teachers, temporary updates), a hook of all optimizers, and a plugin of
    the strategy. Every pass is a place where the run may be asked to leave.
    """

    def __init__(self, run: Run):
        self.run = run
        self._thread: int | None = None
        self._marks: Iterator[int] = iter(())
        self._losses: list[Tensor] = []

    def __deepcopy__(self, memo: Any) -> Meter:
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what this thread does within the block."""
        handle = register_optimizer_step_post_hook(self._stepped)
        self._thread, self._marks = threading.get_ident(), self.run.interruptible(2**62)
        try:
            yield
            self._look()
        finally:
            handle.remove()
            self._thread = None
            self._losses.clear()

    def watch(self, model: nn.Module) -> None:
        """Count the passes through a model: those through the run's network in it, or through all of it where that is not in it."""
        backbone = _backbone(model)
        (backbone or model).register_forward_hook(self.passed)
        if backbone is not None:
            model.register_forward_hook(self.answered)

    def passed(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """After a forward pass of the network."""
        if self._thread != threading.get_ident():
            return
        next(self._marks)
        count = len(inputs[0])
        self.run.cost.forward_passes += count
        self._count_back(output, count)

    def answered(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """After a forward pass of a model around the network: where all of that is frozen, what goes back ends before it."""
        backbone = _backbone(module)
        if self._thread == threading.get_ident() and backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
            self._count_back(output, len(inputs[0]))

    def _count_back(self, output: Any, count: int) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(functools.partial(self._went_back, count))

    def _went_back(self, count: int, gradient: Tensor) -> None:
        self.run.cost.backward_passes += count

    def _stepped(self, optimizer: Any, arguments: Any, named: Any) -> None:
        if self._thread == threading.get_ident():
            self.run.cost.gradient_steps += 1

    # -- as a plugin --------------------------------------------------------------------------------------------------

    def after_training_iteration(self, strategy: Any, **settings: Any) -> None:
        """Keep the loss to look at."""
        if isinstance(strategy.loss, Tensor):
            self._losses.append(strategy.loss.detach().reshape(()))
            if len(self._losses) >= LOSSES:
                self._look()

    def _look(self) -> None:
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        self._losses.clear()
        if not bool(torch.isfinite(losses).all()):
            raise Diverged(f"a loss of Avalanche's loop became non-finite in experience {self.run.experience}")


def _backbone(model: nn.Module) -> Backbone | None:
    return next((m for m in model.modules() if isinstance(m, Backbone)), None)


def memory_of(strategy: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Samples that an Avalanche strategy remembers, and their bytes: 8 for one by index, its own for one by pixels.

    Found in its buffers, and in the tensors of images and the lists of data sets that its plugins keep.
    """
    samples = total = 0
    seen: set[int] = set()
    apart = ("model", "optimizer", "evaluator", "_criterion", "plugins")
    ahead: list[Any] = [value for name, value in vars(strategy).items() if name not in apart and not name.startswith("mb")]  # of the last batch
    ahead += [plugin for plugin in strategy.plugins if plugin is not strategy.evaluator]
    while ahead:
        value = ahead.pop()
        if id(value) in seen or isinstance(value, (nn.Module, torch.optim.Optimizer, Meter)):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.ndim == len(shape) + 1 and tuple(value.shape[1:]) == shape:
                samples, total = samples + len(value), total + value.numel() * value.element_size()
        elif isinstance(value, (list, tuple)):
            ahead += [v for v in value if not isinstance(v, (int, float, str))]
        elif isinstance(value, dict):
            ahead += value.values()
        elif type(value).__module__.startswith("avalanche.benchmarks.utils") and hasattr(value, "targets"):
            samples, total = samples + len(value), total + 8 * len(value)
        elif type(value).__module__.startswith("avalanche.training"):
            ahead += vars(value).values()
    return samples, total
