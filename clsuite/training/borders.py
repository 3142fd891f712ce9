"""The learning rate over a whole stream: what the schedule does at a border, and recipes that have a name.

A border is where one experience ends and the next begins. `Timeline` says which share of the peak rate every update uses, where a line
that is not annealed branches off to be measured, and refuses what cannot be.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, nearest, unknown
from ..schedule import Schedule, in_steps
from .settings import Training

REWARMED = {"name": "cosine", "minimum": 0.1, "warmup": 0.01}
STABLE = {"name": "wsd", "decay": 0.2, "warmup": 0.01}
GOES_ON = {"border_schedule": "lengthen", "border_optimizer": "keep", "border_start_from": "pre_decay"}

PRESETS: dict[str, dict[str, Any]] = {
    # Gupta et al. 2023, arXiv 2308.04014. Whether its optimizer state was kept is from memory, unverified; the follow-up resets it.
    "gupta2023": {"schedule": REWARMED, "border_schedule": "restart", "border_optimizer": "keep"},
    # Ibrahim et al. 2024, arXiv 2403.08763: re-warm over 1 % of the new steps, re-decay, optimizer states reset.
    "ibrahim2024": {"schedule": REWARMED, "border_schedule": "restart", "border_optimizer": "reset"},
    # The infinite schedule of the same paper: a constant main line, annealed branches. That the state is kept is the natural reading.
    "infinite": {"schedule": {"name": "infinite_cosine", "warmup": 0.01}, **GOES_ON},
    # Hagele et al. 2024, arXiv 2405.18392: on from the state before the decay.
    "wsd": {"schedule": STABLE, **GOES_ON},
    # arXiv 2410.05192: on from the decayed state, straight back at the peak.
    "wsd_s": {"schedule": STABLE, "border_schedule": "restart", "border_optimizer": "keep", "border_rewarm": 0},
    # The same function with the longer horizon at the absolute step: the rate jumps to where a longer cosine would be.
    "extend": {"schedule": REWARMED, "border_schedule": "lengthen", "border_optimizer": "keep"},
    # Schaipp et al. 2025, arXiv 2501.18965, values of the run logs: 0.525 of the peak when the horizon doubles (0.375 when it quadruples).
    "two_stage": {"schedule": STABLE, **GOES_ON, "border_rewarm": 1000, "border_peak_scale": 0.525},
    # The control of Gupta et al.: the rate at which the loaded checkpoint ended.
    "hold": {"schedule": REWARMED, "border_schedule": "hold", "border_optimizer": "keep"},
}


def preset(name: Any) -> dict[str, Any]:
    """The settings of the training that a named recipe stands for; raises `UsageError`."""
    if name is None:
        return {}
    if name not in PRESETS:
        raise UsageError(f"training.border: {unknown('recipe', str(name), PRESETS)}")
    return PRESETS[name]


def expanded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with `border` replaced by what it stands for; what is given beside it counts more. Raises `UsageError` for an unknown name."""
    names = ("border", *Training.declared())
    for name in given:
        if name not in names:
            raise UsageError(f"unknown setting 'training.{name}'{nearest(name, names)} (valid: {', '.join(names)})")
    return layered(preset(given.get("border")), {k: v for k, v in given.items() if k != "border"})


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of training, those of later layers over those of earlier ones; a schedule without a name changes settings of the one below it."""
    found: dict[str, Any] = {}
    for layer in layers:
        below, above = found.get("schedule", {}), layer.get("schedule")
        found.update(layer)
        if isinstance(above, Mapping) and "name" not in above:
            found["schedule"] = {**({"name": below} if isinstance(below, str) else below), **above}
    return found


def shared_before(training: Mapping[str, Any], keep_schedule: bool) -> dict[str, Any]:
    """The settings with those that act from the first border on at neutral values: what two runs may share before it."""
    way = training["border_schedule"]
    whole = way == "extend" or (way == "auto" and keep_schedule)
    neutral = {"border_schedule": "extend" if whole else "restart", "border_optimizer": "reset", "border_rewarm": None, "border_peak_scale": 1.0}
    return {**training, **neutral}


class Timeline:
    """Shares of the peak rate for a stream whose experiences have the given `steps`; `fresh[i]`: the model of experience i starts anew.

    `step` counts updates since the beginning of the stream, `here` since that of the experience. Policies from the first border on:
    `restart`, the schedule anew with the experience as its horizon; `hold`, the rate at which the experience before ended; `lengthen`, the
    same function of the absolute step with the horizon reached by then; `extend`, one horizon over the whole stream from the start.

    A line with `border_start_from = pre_decay` leaves out the final decay until the last experience. What is measured at a border is a
    branch: from step `branch_from(i)` it trains on the same samples at the rates of the decay, and is then left behind. Lengths
    given as shares are then shares of the first experience. A model that starts anew, or is not gone on from, is annealed as it is.
    """

    def __init__(self, schedule: Schedule, training: Training, steps: Sequence[int], fresh: Sequence[bool], whole: bool):
        self.training, self.steps, self.fresh = training, list(steps), list(fresh)
        self.ends = list(itertools.accumulate(steps))
        self.way: str = "extend" if whole else "restart" if training.border_schedule == "auto" else training.border_schedule
        self.branches = training.border_start_from == "pre_decay"
        first = next((n for n in steps if n), 0)  # the first that trains at all
        self._given, self.schedule = schedule, schedule.resolved(first) if self.branches and self.way == "lengthen" else schedule

    @property
    def last(self) -> int:
        return len(self.steps) - 1

    @functools.cached_property
    def is_constant(self) -> bool:
        """Whether every update uses the peak rate itself."""
        return self.schedule.is_constant and (self.training.border_peak_scale == 1.0 or self.way == "extend")

    def factor(self, i: int, here: int, step: int, branch: bool = False) -> float:
        """The share of the peak that an update of experience i uses, on the main line or on the branch of its border."""
        if self.fresh[i]:
            return self._given.factor(here, self.steps[i])
        if self.way == "extend":
            return self.schedule.factor(step, self.ends[-1])
        if self.way == "hold" and i > 0:
            return self._held
        at, horizon = self._place(i, here, step)
        schedule = self._schedule_of(i) if branch or not self._leaves_decay_out(i) else self._without_decay(i, horizon)
        return schedule.factor(at, horizon) * self._scale(i, here)

    def branch_from(self, i: int) -> int | None:
        """The step of experience i at which the branch leaves the main line; None where nothing branches."""
        if not self._leaves_decay_out(i):
            return None
        offset, horizon = self._place(i, 0, self.ends[i] - self.steps[i])
        start = self._schedule_of(i).decay_start(horizon)
        return None if start is None else start - offset

    def check(self) -> None:
        """Raise `UsageError` in one line for settings that cannot be with these steps."""
        training, schedule = self.training, self.schedule
        moved = training.border_rewarm is not None or training.border_peak_scale != 1.0
        if moved and self.way in ("hold", "extend"):
            name = "border_rewarm" if training.border_rewarm is not None else "border_peak_scale"
            raise UsageError(f"training.{name} = {getattr(training, name)} does nothing with border_schedule = {self.way} (it goes with restart and lengthen)")
        for i in range(len(self.steps)):
            if self.steps[i]:
                self._check(i)
        if self.way == "hold" and len(self.steps) > 1 and not any(self.fresh) and self._held <= 0:
            raise UsageError(
                f"training.border_schedule = 'hold' would train at rate 0: schedule '{schedule.name}' ends there (valid: a schedule with a floor > 0)"
            )

    def _check(self, i: int) -> None:
        if self.fresh[i] or self.way != "hold" or i == 0:
            _, horizon = self._place(i, 0, 0)
            self._schedule_of(i).check(horizon)
        transition = self._rewarm_steps(i) or 0
        if transition > self.steps[i] and self.way == "lengthen" and self.training.border_peak_scale != 1.0:
            raise UsageError(
                f"training.border_rewarm = {transition} is longer than the {self.steps[i]} steps of experience {i}, so the new peak would never be reached"
                f" (valid: at most {self.steps[i]}, or a share below 1)"
            )
        if not self.branches:
            return
        if self.way == "extend":
            raise UsageError("training.border_start_from = 'pre_decay' needs borders that know of one another (border_schedule = lengthen, restart or hold)")
        offset, horizon = self._place(i, 0, self.ends[i] - self.steps[i])
        start = self._schedule_of(i).decay_start(horizon)
        if start is None and (i == 0 or self.way != "hold"):
            raise UsageError(
                f"training.border_start_from = 'pre_decay' needs a schedule with a final decay, which '{self.schedule.name}' with these settings has not"
                " (valid: wsd, infinite_cosine, infinite_inverse_sqrt, power, two_stage)"
            )
        if start is not None and start < offset and self.way != "hold":
            raise UsageError(
                f"training.schedule: the final decay of experience {i} would begin {offset - start} steps before it does:"
                f" it must be no longer than its {self.steps[i]} steps"
            )

    def describe(self) -> list[dict[str, Any]]:
        """For every experience what was resolved: its steps, the length of the transition after its border, where its branch begins.

        `anew` marks one whose model starts from random weights.
        """
        found = []
        for i, steps in enumerate(self.steps):
            first = self.ends[i] - steps
            rates = {"first_rate": self.factor(i, 0, first), "last_rate": self.factor(i, steps - 1, first + steps - 1)} if steps else {}
            anew = {"anew": True} if self.fresh[i] else {}
            found.append({"steps": steps, "rewarm_steps": self._rewarm_steps(i), "branch_from": self.branch_from(i), **rates, **anew})
        return found

    # -- parts of it --------------------------------------------------------------------------------------------

    @functools.cached_property
    def _held(self) -> float:
        first = self.steps[0]
        schedule = self.schedule.before_decay(first) if self._leaves_decay_out(0) else self.schedule
        return schedule.factor(first, first)

    def _leaves_decay_out(self, i: int) -> bool:
        return self.branches and i < self.last and not self.fresh[i] and not self.fresh[i + 1] and not (self.way == "hold" and i > 0)

    def _place(self, i: int, here: int, step: int) -> tuple[int, int]:
        """The step and the horizon that the schedule is asked for."""
        if self.way == "extend" and not self.fresh[i]:
            return step, self.ends[-1]
        return (step, self.ends[i]) if self.way == "lengthen" and not self.fresh[i] else (here, self.steps[i])

    def _schedule_of(self, i: int) -> Schedule:
        if self.fresh[i]:
            return self._given  # a model that starts anew has a schedule of its own, shares and all
        if i == 0 or self.way != "restart" or self.training.border_rewarm is None:
            return self.schedule
        return self._rewarmed[self._rewarm_steps(i) or 0]

    def _without_decay(self, i: int, horizon: int) -> Schedule:
        """The schedule of experience i for the line that goes on; made once, not at every step."""
        if i not in self._undecayed:
            self._undecayed[i] = self._schedule_of(i).before_decay(horizon)
        return self._undecayed[i]

    @functools.cached_property
    def _undecayed(self) -> dict[int, Schedule]:
        return {}

    @functools.cached_property
    def _rewarmed(self) -> dict[int, Schedule]:
        """The schedule with each length of warm-up that a border has."""
        lengths = {self._rewarm_steps(i) or 0 for i in range(1, len(self.steps))}
        found = {}
        for length in lengths:
            found[length] = type(self.schedule)(**{**self.schedule.settings(), "warmup": length})
            found[length].name = self.schedule.name
        return found

    def _rewarm_steps(self, i: int) -> int | None:
        """The length of the transition after the border before experience i, in steps."""
        given = self.training.border_rewarm
        if i == 0 or given is None:
            return None
        if given >= 1 and given != int(given):
            raise UsageError(f"training.border_rewarm = {given} is not valid: expected a whole number of steps, or a share of the experience below 1")
        return in_steps(given, self.steps[i], "border_rewarm")

    def _scale(self, i: int, here: int) -> float:
        """What the peak is multiplied with: after every border `border_peak_scale` more, reached in a straight line where the rate goes on."""
        scale = self.training.border_peak_scale
        if i == 0 or scale == 1.0 or self.fresh[i]:
            return 1.0
        if self.way == "restart":
            return scale
        transition = self._rewarm_steps(i) or 0
        done = 1.0 if here + 1 >= transition else (here + 1) / transition
        return scale ** (i - 1) * (1 + (scale - 1) * done)
