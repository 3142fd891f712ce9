"""Learning rates from schedules of the registry: candidates to be ranked, and the true rates of a curve that logged few."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import registry
from ..errors import UsageError
from ..experiment.overrides import parse_overrides
from ..schedule import Schedule
from .curve import Curve
from .rates import Rates

LONGEST = 10_000_000
AGREE = 0.01
"""How far a logged rate may lie from that of the schedule a user says it came from (relative)."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A schedule to be ranked: what the user wrote, and the rates it gives."""

    text: str
    rates: Rates


def make_schedule(text: str, reserved: Sequence[str] = (), warmup: int | None = None) -> tuple[Schedule, dict[str, Any]]:
    """The schedule that `name key=value ...` names, and the values of the reserved keys; `warmup` where the text gives none."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"schedule '{text}' is not valid: {error}") from error
    if not words or "=" in words[0]:
        raise UsageError(f"schedule '{text}' is not valid: expected a name and settings, such as 'cosine minimum=0.1'")
    values = parse_overrides(words[1:], ())
    kept = {key: values.pop(key) for key in reserved if key in values}
    found = registry.load("schedules", words[0])
    made: Schedule = found(**found.validated(values, f"schedule {words[0]}"))
    # a schedule with a horizon or a peak of its own brings its beginning with it
    if warmup is not None and "warmup" not in values and made.own_horizon is None and made.own_peak is None:
        made = found(**found.validated({**values, "warmup": warmup}, f"schedule {words[0]}"))
    return made, kept


def rates_of(schedule: Schedule, steps: int, peak: float) -> np.ndarray:
    """The rate of every update; raises `UsageError` where the schedule gives none."""
    rates = peak * np.array([schedule.factor(step, steps) for step in range(steps)], dtype=float)
    if not np.isfinite(rates).all() or (rates < 0).any() or not (rates > 0).any():
        raise UsageError(f"schedule '{schedule.name}' gives rates that are not finite, below 0, or all 0 over {steps} steps")
    return rates


def candidate(text: str, curves: Sequence[Curve], steps: int | None, peak: float | None) -> Candidate:
    """A schedule over `steps` updates with the peak rate `peak`; None: its own, else the longest and the highest of the curves.

    Warm-up is that of the first curve unless the text gives one. Where the curves go over to other data, the candidate
    follows the pre-training of the first curve, and `steps` are counted from the boundary.
    """
    first = curves[0].rates
    edge = first.boundary
    longest = max(len(c.rates) - (c.rates.boundary or 0) for c in curves)
    schedule, _ = make_schedule(text, warmup=first.warmup if edge is None else None)
    steps = checked((schedule.own_horizon or longest) if steps is None else steps, "--steps")
    try:
        schedule.check(steps)
    except UsageError as error:
        raise UsageError(f"--schedule '{text}' over {steps} steps: {str(error).removeprefix('training.schedule.')}") from error
    highest = max(float(c.rates.values.max()) for c in curves)
    rates = rates_of(schedule, steps, checked_rate((schedule.own_peak or highest) if peak is None else peak, "--peak"))
    if edge is None:
        return Candidate(text, Rates(rates, schedule.steps_of("warmup", steps)))
    return Candidate(text, Rates(np.concatenate([first.values[:edge], rates]), first.warmup, edge))


def with_schedule(curve: Curve, text: str) -> Curve:
    """The curve with the rates of a schedule that also says `horizon` and `learning_rate`; it must agree with the rates in the file."""
    schedule, given = make_schedule(text, ("horizon", "learning_rate"))
    if set(given) != {"horizon", "learning_rate"}:
        raise UsageError(f"--rates {curve.name}: '{text}' must also say horizon=STEPS and learning_rate=PEAK")
    horizon, peak = checked(given["horizon"], "horizon"), checked_rate(given["learning_rate"], "learning_rate")
    length = len(curve.rates)
    if horizon < length:
        raise UsageError(f"--rates {curve.name}: horizon = {horizon} is not valid: the curve has {length} steps")
    schedule.check(horizon)
    rates = rates_of(schedule, horizon, peak)[:length]
    logged = curve.logged if curve.logged is not None else curve.steps
    wrong = np.flatnonzero(np.abs(rates[logged] - curve.rates.values[logged]) > AGREE * curve.rates.values[logged])
    if len(wrong):
        step = int(logged[wrong[0]])
        raise UsageError(f"--rates {curve.name}: '{text}' gives {rates[step]:.6g} at step {step}, but the file says {curve.rates.values[step]:.6g}")
    warmup = schedule.steps_of("warmup", horizon)
    return curve.with_rates(Rates(rates, warmup, curve.rates.boundary), (f"rates of the schedule '{text}', which agrees with every row of the file",))


def checked(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= LONGEST:
        raise UsageError(f"{name} = {value!r} is not valid: expected a whole number from 2 to {LONGEST}")
    return value


def checked_rate(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise UsageError(f"{name} = {value!r} is not valid: expected a number > 0")
    return float(value)
