"""The multi-power law: every change of the rate has a gain of its own, which a power law pays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .laws import ALPHA, L0, A, Law, Parameter, power_column, refuse_constant
from .rates import Array, Rates, forward_area

GROUPS = 2000
"""About as many changes of the rate a run has in a fit: neighbouring ones beyond it are taken together."""
BLOCK = 2_000_000
"""Pairs (step, change) that are evaluated at once."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """`area` S1 at each wanted step; the changes of the rate: where, by how much, to which rate, S1 before each."""

    area: Array
    drops: Array
    logs: Array
    before: Array
    counts: NDArray[np.int64]
    """How many of the changes lie at or before each wanted step."""


class MultiPower(Law):
    """L = L0 + A S1^-alpha - B sum_k (rate_{k-1} - rate_k) G(rate_k^-gamma S_k), G(x) = 1 - (1 + C x)^-beta.

    S_k is the sum of the rates from update k on; S1 includes warm-up (the source writes S1 + S_W). Only updates at which
    the rate changes after warm-up enter the sum. A prediction evaluates the sum exactly; a fit takes
    neighbouring changes together where there are thousands, which moves a loss of the 25M curves by less than 1e-5.

    Source: Luo et al. 2025 (arXiv 2503.12811).
    """

    name = "multi_power"
    title = "multi-power law"
    formula = "L = L0 + A S1^-alpha - B sum_k (rate_{k-1} - rate_k) (1 - (1 + C rate_k^-gamma S_k)^-beta)"
    source = "Luo et al. 2025, arXiv 2503.12811"
    coefficients = (L0, A, Parameter("B", "loss / rate", "gain by a fall of the rate"))
    shape = (
        ALPHA,
        Parameter("C", "1 / (rate^(1 - gamma) steps)", "speed at which a gain is paid out", low=1e-3, high=1e4),
        Parameter("beta", "1", "exponent of the payment", low=0.02, high=20.0),
        Parameter("gamma", "1", "how much faster at small rates", low=0.02, high=2.0),
    )
    grid = {"alpha": (0.3, 0.6), "C": (0.5, 2.0, 8.0), "beta": (0.3, 0.6, 1.0), "gamma": (0.3, 0.6, 0.9)}

    def prepare(self, rates: Rates, steps: NDArray[np.int64], exact: bool = True) -> Prepared:
        values, total = rates.values, forward_area(rates.values)
        start = len(rates) - len(rates.annealed)
        drops = -np.diff(values)
        drops[:start] = 0.0
        at = np.flatnonzero(np.abs(drops) > 1e-12 * values.max(initial=0.0))
        drops, at = drops[at], at + 1
        # a rate of zero pays out at once: the limit of G for a large argument
        logs = np.log(np.maximum(values[at], 1e-12 * values.max(initial=1e-300)))
        before = total[at - 1]
        if not exact and len(at):
            drops, logs, before, at = _together(drops, logs, before, at, steps)
        return Prepared(total[steps], drops, logs, before, np.searchsorted(at, steps, side="right"))

    def columns(self, shape: Array, prepared: Prepared) -> tuple[Array, Array]:
        alpha, speed, beta, gamma = shape
        power, slope = power_column(prepared.area, alpha)
        gain = np.zeros((4, len(power)))  # the sum, and its derivatives by C, beta and gamma
        scale = speed * np.exp(-gamma * prepared.logs)
        rows = max(1, BLOCK // max(len(scale), 1))
        for first in range(0, len(power), rows):
            part = slice(first, first + rows)
            most = int(prepared.counts[part].max(initial=0))
            if most == 0:
                continue
            argument = scale[:most] * np.maximum(prepared.area[part, None] - prepared.before[:most], 0.0)
            inner = np.log1p(argument)
            left = np.exp(-beta * inner)
            # a change after a step has S_k = 0, hence argument, payment and slopes of zero
            rise = beta * left * argument / (1 + argument)
            weights = prepared.drops[:most]
            gain[0, part] = (1 - left) @ weights
            gain[1, part] = rise @ weights / speed
            gain[2, part] = (inner * left) @ weights
            gain[3, part] = -(rise @ (weights * prepared.logs[:most]))
        columns = np.stack([np.ones_like(power), power, -gain[0]], axis=1)
        slopes = np.zeros((4, *columns.shape))
        slopes[0, :, 1] = slope
        slopes[1:, :, 2] = -gain[1:]
        return columns, slopes

    def check(self, curves: Sequence[tuple[str, Rates]]) -> None:
        super().check(curves)
        refuse_constant(curves, "B")


def _together(drops: Array, logs: Array, before: Array, at: NDArray[np.int64], steps: NDArray[np.int64]) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Neighbouring changes as one: of one sign, within few updates, never across a wanted step."""
    width = -(-len(at) // GROUPS)
    row = np.searchsorted(steps, at)
    since = at - np.concatenate([[0], steps])[row]
    new = (np.diff(row) != 0) | (np.diff((since - 1) // width) != 0) | (np.diff(np.sign(drops)) != 0)
    begins = np.concatenate([[0], np.flatnonzero(new) + 1])
    size = np.add.reduceat(np.abs(drops), begins)
    ends = np.concatenate([begins[1:], [len(at)]]) - 1
    return (
        np.add.reduceat(drops, begins),
        np.add.reduceat(np.abs(drops) * logs, begins) / size,
        np.add.reduceat(np.abs(drops) * before, begins) / size,
        at[ends],
    )
