"""Learning-rate schedules: pure functions of the absolute step and the horizon.

    class Constant(Schedule):
        def factor(self, step, horizon):
            return 1.0

`factor` multiplies the peak rate of every parameter group; update n = 0, 1, ..., horizon - 1 uses `factor(n, horizon)`, and
`factor(horizon, horizon)` is the value after the last update, held from there on.

Lengths (`warmup`, `decay`, ...) are whole steps, or a share of the horizon when they are below 1 (`in_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .errors import UsageError
from .settings import Configurable, setting

CATALOGUE = {
    "constant": "clsuite.schedule:Constant",
    "cosine": "clsuite.schedule:Cosine",
    "linear": "clsuite.schedule:Linear",
    "step": "clsuite.schedule:Step",
    "wsd": "clsuite.schedules.wsd:Wsd",
    "wsd_s": "clsuite.schedules.wsd_s:WsdS",
    "two_stage": "clsuite.schedules.two_stage:TwoStage",
    "infinite_cosine": "clsuite.schedules.infinite:InfiniteCosine",
    "infinite_inverse_sqrt": "clsuite.schedules.infinite:InfiniteInverseSqrt",
    "power": "clsuite.schedules.power:Power",
    "rex": "clsuite.schedules.decays:Rex",
    "uba": "clsuite.schedules.decays:Uba",
    "cosine_power": "clsuite.schedules.decays:CosinePower",
    "inverse_sqrt": "clsuite.schedules.decays:InverseSqrt",
    "cyclic": "clsuite.schedules.cyclic:Cyclic",
    "refined": "clsuite.schedules.refined:Refined",
    "table": "clsuite.schedules.table:Table",
}


def refused(name: str, value: Any, valid: str) -> UsageError:
    """The error for a setting of a schedule: its name, its value, what would be valid."""
    return UsageError(f"training.schedule.{name} = {value!r} is not valid: {valid}")


def in_steps(value: int | float, horizon: int, name: str = "length") -> int:
    """A length in steps: a value below 1 is that share of the horizon, rounded up; raises `UsageError` for 1.5 and the like."""
    if value < 1:
        return share_of(value, horizon)
    if value != int(value):
        raise refused(name, value, "expected a whole number of steps, or a share of the horizon below 1")
    return int(value)


def share_of(share: float, length: int) -> int:
    """ceil(share x length), where 7 % of 100 is 7: the product in floating point lies a rounding error above it."""
    return math.ceil(share * length * (1 - 1e-12))


class Schedule(Configurable):
    """Base of every schedule: warm-up by a linear rise, then `decay(z)` for z in [0, 1].

    A schedule of one's own defines `decay(z)`, or `after_warmup` where it has phases, or `factor` itself.
    """

    name: str = ""

    warmup: int | float = setting(0, ge=0, help="linear warm-up, in steps or as a share of the horizon below 1: update n uses (n + 1) / warmup of the peak")

    @classmethod
    def validated(cls, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """As everywhere; a length of 100.0 becomes 100, so that a cell has one spelling."""
        result, hints = super().validated(values, where), cls.hints()
        lengths = {k: v for k, v in result.items() if isinstance(v, float) and v == int(v) and hints[k] in (int | float, int | float | None)}
        return {**result, **{k: int(v) for k, v in lengths.items()}}

    def factor(self, step: int, horizon: int) -> float:
        """The share of the peak rate that update `step` (from 0) of `horizon` uses; from `horizon` on, the value after the last update."""
        warmup = self.steps_of("warmup", horizon)
        if step < warmup:
            return (step + 1) / warmup * self.rises_to(horizon)
        return self.after_warmup(step, warmup, horizon)

    def after_warmup(self, step: int, warmup: int, horizon: int) -> float:
        """The share of the peak at an absolute step >= `warmup` (in steps)."""
        return self.decay(min((step - warmup) / max(horizon - warmup, 1), 1.0))

    def decay(self, z: float) -> float:
        """The share of the peak after a fraction z of the decay."""
        return 1.0

    def rises_to(self, horizon: int) -> float:
        """The share of the peak at the end of warm-up."""
        return 1.0

    def check(self, horizon: int) -> None:
        """Raise `UsageError` in one line for settings that cannot be with a run of `horizon` updates."""
        warmup = self.steps_of("warmup", horizon)
        if horizon <= warmup:
            raise refused("warmup", self.warmup, f"its {warmup} steps must be fewer than the {horizon} steps of the horizon")

    @property
    def is_constant(self) -> bool:
        """Whether every update uses the peak rate itself."""
        return False

    @property
    def own_horizon(self) -> int | None:
        """The number of updates that its data were made for (a table's length); None for a schedule of any horizon."""
        return None

    @property
    def own_peak(self) -> float | None:
        """The absolute learning rate that its factors are shares of; None for a schedule of any peak."""
        return None

    def resolved(self, horizon: int) -> Schedule:
        """The same schedule with every length that is a share of the horizon in whole steps, so that another horizon leaves them as they are."""
        hints = self.hints()
        lengths = {name: value for name, value in self.settings().items() if hints[name] in (int | float, int | float | None) and isinstance(value, float)}
        found = type(self)(**{**self.settings(), **{name: in_steps(value, horizon, name) for name, value in lengths.items()}})
        found.name = self.name
        return found

    def decay_start(self, horizon: int) -> int | None:
        """The first step of the final decay of a schedule whose phase before it knows no horizon; None for every other schedule."""
        return None

    def before_decay(self, horizon: int) -> Schedule:
        """The schedule without its final decay, in whole steps and so free of the horizon: equal to it at every step before `decay_start`.

        Raises `ValueError` for a schedule that has no such decay.
        """
        if self.decay_start(horizon) is None:
            raise ValueError(f"schedule '{self.name or type(self).__name__}' has no final decay that could be left out")
        return self.without_decay(horizon)

    def without_decay(self, horizon: int) -> Schedule:
        """What `before_decay` returns; defined by every schedule whose `decay_start` can be a step."""
        raise NotImplementedError(f"{type(self).__name__} has a decay_start, so it must define without_decay")

    def steps_of(self, name: str, horizon: int) -> int:
        """The setting `name`, a length, in steps."""
        return in_steps(getattr(self, name), horizon, name)

    def must_fit(self, horizon: int, *names: str) -> None:
        """Raise `UsageError` when the lengths of these settings, one after the other, exceed the horizon; it names the longest."""
        steps = {name: self.steps_of(name, horizon) for name in names}
        if sum(steps.values()) > horizon:
            longest = max(steps, key=lambda name: steps[name])
            shown = " + ".join(f"{name} {count}" for name, count in steps.items())
            raise refused(longest, getattr(self, longest), f"{shown} = {sum(steps.values())} steps do not fit the {horizon} steps of the horizon")


class Constant(Schedule):
    """The peak rate throughout (after warm-up)."""

    @property
    def is_constant(self) -> bool:
        return self.warmup == 0


class Cosine(Schedule):
    """Half a cosine from the peak to `minimum` of it (Loshchilov & Hutter 2017)."""

    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(z, 1.0)))


class Linear(Schedule):
    """A straight line from the peak to `minimum` of it."""

    minimum: float = setting(0.0, ge=0, le=1, help="share of the peak at the end")

    def decay(self, z: float) -> float:
        return 1 - (1 - self.minimum) * min(z, 1.0)


class Step(Schedule):
    """The rate is multiplied by `gamma` at each milestone (fractions of the horizon)."""

    milestones: list[float] = setting([0.5, 0.75], gt=0, lt=1, help="fractions of the horizon")
    gamma: float = setting(0.1, gt=0, le=1)

    def decay(self, z: float) -> float:
        if sorted(self.milestones) != self.milestones:
            raise UsageError(f"training.schedule.milestones = {self.milestones} must ascend")
        return self.gamma ** sum(z >= m for m in self.milestones)

    def check(self, horizon: int) -> None:
        super().check(horizon)
        self.decay(0.0)


def rates(schedule: Schedule, horizon: int) -> list[float]:
    """The factors of the updates 0 .. horizon - 1 and, last, the one after them: horizon + 1 values."""
    return [schedule.factor(step, horizon) for step in range(horizon + 1)]
