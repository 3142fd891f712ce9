"""Modifiers of ours as a plugin of an Avalanche strategy: one line in a script that is there already.

    strategy = Replay(model=model, optimizer=optimizer, criterion=criterion, mem_size=500, plugins=[clsuite.avalanche_plugin("fpf", steps_each=300)])

The plugin runs the part itself, not a second version of it, against a `Run` made of the strategy's model, optimizer, data and memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..batch import Batch
from ..errors import ResultWarning, UsageError
from ..strategy import Part
from ..training.settings import Training
from .avalanche_plugin_rules import Options, parts_of
from .avalanche_plugin_run import AvalancheRun


class AvalanchePlugin:
    """Calls the hooks of parts from the callbacks of an Avalanche strategy. Made by `avalanche_plugin`.

    An Avalanche plugin is whatever has its callbacks, so nothing of Avalanche is imported here.

    | ours | when |
    |---|---|
    | `setup`, `before_experience` | `before_training_exp` |
    | `before_step` | `before_training_iteration`, on the current samples of the mini-batch |
    | `penalty`, `on_gradients` | `before_backward`, `after_backward` |
    | `parameter_groups` | from `before_update` to `after_update`; schedulers see the strategy's own groups |
    | `after_step` | `after_update` |
    | `after_experience` | `after_training_exp` |
    | `end` | `after_training`, or an evaluation before it, once the last experience is done |
    | `before_evaluation`, `after_evaluation` | `before_eval`, `after_eval`; not in the middle of an experience |
    """

    def __init__(self, parts: list[Part], options: Options):
        self.parts, self.options = parts, options
        self.run: AvalancheRun | None = None
        self._within = self._end_is_due = self._deployed = self._told = False
        self._iteration = self._whole = 0
        self._batch: Batch | None = None
        self._groups: list[dict[str, Any]] | None = None
        self._draws: tuple[int, dict[str, np.random.Generator]] = (-1, {})

    def __repr__(self) -> str:
        return f"avalanche_plugin({'+'.join(p.name for p in self.parts)!r})"

    def report(self) -> dict[str, Any]:
        """What the parts say of themselves, by name, and what they computed (samples passed, steps made)."""
        if self.run is None:
            return {}
        return {**{p.name: found for p in self.parts if (found := p.report())}, "cost": self.run.cost_report()}

    # -- training -----------------------------------------------------------------------------------------------

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        if self.run is None:
            self._refuse(strategy)
            run = AvalancheRun(strategy, self.parts, self.options)
            run.begin_experience(strategy)
            for part in self.parts:
                part.setup()
            self.run = run  # now that nothing was refused
        else:
            run = self.run
            run.begin_experience(strategy)
        self._within = True
        if self._defining("parameter_groups"):
            run.divide_groups()
        for part in self.parts:
            part.before_experience(run.stream.experiences[run.experience])

    def _refuse(self, strategy: Any) -> None:
        others = [p for p in strategy.plugins if isinstance(p, AvalanchePlugin)]
        if len(others) > 1:
            names = "+".join(part.name for p in others for part in p.parts)
            raise UsageError(f"a strategy takes one plugin of clsuite: join them, avalanche_plugin('{names}', ...)")
        if type(strategy).__name__ == "JointTraining":
            raise UsageError("JointTraining trains once, on everything: there is no border at which a plugin of clsuite could act")

    def _defining(self, hook: str) -> list[Part]:
        return [p for p in self.parts if p.defines(hook)]

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        self._iteration = 0

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        parts = self._defining("before_step")
        if parts:
            self._batch, self._whole = self._running.current(strategy, self._iteration)
            for part in parts:
                part.before_step(self._batch)
        self._iteration += 1

    def after_forward(self, strategy: Any, **_: Any) -> None:
        if self._batch is not None and len(strategy.mb_output) == self._whole:  # what a strategy adds later may stand anywhere
            self._batch.logits = strategy.mb_output[: len(self._batch)]
        if self.options.logit_mask != "none":
            strategy.mb_output = self._running.workload.masked(strategy.mb_output, strategy.mb_y)

    def before_backward(self, strategy: Any, **_: Any) -> None:
        for part in self._defining("penalty"):
            extra = part.penalty()
            if extra is not None:
                strategy.loss = strategy.loss + extra

    def after_backward(self, strategy: Any, **_: Any) -> None:
        for part in self._defining("on_gradients"):
            part.on_gradients()

    def before_update(self, strategy: Any, **_: Any) -> None:
        if self._defining("parameter_groups"):
            self._groups = strategy.optimizer.param_groups
            strategy.optimizer.param_groups = self._running.step_groups()

    def after_update(self, strategy: Any, **_: Any) -> None:
        run = self._running
        if self._groups is not None:
            strategy.optimizer.param_groups, self._groups = self._groups, None
        run.progress.step += 1
        run.progress.experience_step += 1
        run.look_again()
        for part in self._defining("after_step"):
            part.after_step()

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        run = self._running
        self._within = False
        self._check_steps(strategy)
        run.fill_own_memory()
        for part in self.parts:
            part.after_experience(run.stream.experiences[run.experience])
        run.check_own_losses()
        self._end_is_due = run.is_last

    def _check_steps(self, strategy: Any) -> None:
        run = self._running
        made, planned = run.progress.experience_step, run.plan_of(run.experience).steps
        if made == 0 and any(self._defining(hook) for hook in ("before_step", "penalty", "on_gradients", "after_step", "parameter_groups")):
            raise UsageError(f"{type(strategy).__name__} makes no updates that a plugin is told of, so {self!r} would do nothing")
        if made != planned and run.asked_for_steps and self.options.total_steps is None and not self._told:
            self._told = True
            text = f"experience {run.experience} took {made} updates where {planned} were planned: what counts those of the whole stream is off"
            text += " (give total_steps=)"
            warnings.warn(text, ResultWarning, stacklevel=2)

    def after_training(self, strategy: Any, **_: Any) -> None:
        self._end_if_due()

    def _end_if_due(self) -> None:
        """`end`, once the strategy's own memory has taken in the last experience: its plugin stands behind this one."""
        if self._end_is_due:
            self._end_is_due = False
            run = self._running
            run.look_again()
            with torch.enable_grad():
                for part in self.parts:
                    part.end()
            run.check_own_losses()

    # -- evaluation ---------------------------------------------------------------------------------------------

    def before_eval(self, strategy: Any, **_: Any) -> None:
        if self.run is None or self._within:
            return
        self._end_if_due()
        run = self.run
        run.look_again()
        # evaluated again without training in between, the model is deployed with the same draws
        if self._draws[0] == run.experience:
            run.generators = copy.deepcopy(self._draws[1])
        else:
            self._draws = (run.experience, copy.deepcopy(run.generators))
        self._deployed = True
        with self._deploying():
            for part in self.parts:
                part.before_evaluation()
        run.check_own_losses()

    def after_eval(self, strategy: Any, **_: Any) -> None:
        if self._deployed:
            self._deployed = False
            self._running.check_model(strategy)
            with self._deploying():
                for part in reversed(self.parts):
                    part.after_evaluation()

    @contextmanager
    def _deploying(self) -> Iterator[None]:
        """Gradients are possible, costs are those of deployment, and what is drawn leaves training as it would have been."""
        run = self._running
        devices = [run.device] if run.device.type == "cuda" else []
        run.cost = run.costs["deployment"]
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                yield
        finally:
            run.cost = run.costs["training"]

    @property
    def _running(self) -> AvalancheRun:
        assert self.run is not None, "the strategy did not say that an experience began"
        return self.run


def avalanche_plugin(
    name: str,
    *,
    seed: int = 0,
    head: str | None = None,
    experiences: int | None = None,
    total_steps: int | None = None,
    pretrained: bool = False,
    logit_mask: str | None = None,
    **settings: Any,
) -> AvalanchePlugin:
    """One or several modifiers, joined by `+`, as a plugin of an Avalanche strategy; also a combination of them by its name.

    `settings`: those of the modifier, or of several a dictionary by name (`alignment={"epochs": 10}`). `seed`: of what the parts
    draw. `head`: name of the linear layer the model ends with (default: `classifier`, or the last linear layer).
    `experiences`, `total_steps`: how many the script trains on, where that is not the whole stream or cannot be seen from it.
    `pretrained`: the model carries pretrained weights. `logit_mask`: outputs the loss looks at, as `training.logit_mask`.

    Parts that need a memory draw from the strategy's own; with `buffer_size` the plugin keeps one beside it, filled when
    an experience ends. Raises `UsageError`, in one line, for settings that are not valid and for methods that no plugin can be.
    """
    parts, training = parts_of(name, settings)
    mask = logit_mask if logit_mask is not None else training.get("logit_mask", "none")
    Training.validated({"logit_mask": mask})
    for option, value in (("experiences", experiences), ("total_steps", total_steps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"{option} = {value!r} is not valid: expected a whole number >= 1")
    return AvalanchePlugin(parts, Options(seed, head, experiences, total_steps, pretrained, mask))
