"""Loss laws: the loss at an update as a function of the learning rates of all updates until then.

    law = Annealing(momentum=0.999)
    law.predict({"L0": 2.6, "A": 0.43, "alpha": 0.55, "C": 0.41}, Rates(rates))

Every law is a sum of columns with one coefficient each, `sum_j coefficient_j * column_j(shape)`; the few parameters that
are not coefficients shape the columns. A fit needs nothing else of a law.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, unknown
from .rates import Array, Rates, annealing_area, forward_area

MOMENTUM = 0.999
MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.997, 0.998, 0.999, 0.9993, 0.9995, 0.9998)
"""The momenta (lambda) among which the fitting curves may choose."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law: `unit` is in terms of loss, rate and step; `positive` ones are fitted by their logarithm.

    A fit stays between `low` and `high`, where the law still says what it means; a parameter that ends at one of them
    is not determined by the curves.
    """

    name: str
    unit: str
    meaning: str
    positive: bool = True
    low: float = 1e-12
    high: float = 1e12


class Law:
    """Base of every law."""

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    coefficients: ClassVar[tuple[Parameter, ...]]
    shape: ClassVar[tuple[Parameter, ...]]
    grid: ClassVar[Mapping[str, Sequence[float]]]
    """Where fits start: every combination of these shapes, each with its best coefficients."""
    uses_momentum: ClassVar[bool] = False
    needs_boundary: ClassVar[bool] = False
    curves_needed: ClassVar[int] = 1

    def __init__(self, momentum: float = MOMENTUM):
        if not 0 < momentum < 1:
            raise UsageError(f"lambda = {momentum:g} is not valid: expected a number > 0 and < 1")
        self.momentum = momentum

    def prepare(self, rates: Rates, steps: NDArray[np.int64], exact: bool = True) -> Any:
        """What the columns need of a run, computed once; `steps` are the updates after which a loss is wanted."""
        raise NotImplementedError

    def columns(self, shape: Array, prepared: Any) -> tuple[Array, Array]:
        """The columns, (steps, coefficients), and their derivatives by each shape parameter, (shape, steps, coefficients)."""
        raise NotImplementedError

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.coefficients + self.shape

    def settings(self) -> dict[str, float]:
        """What is fixed before a fit."""
        return {"lambda": self.momentum} if self.uses_momentum else {}

    def starts(self) -> list[Array]:
        return [np.array(values) for values in itertools.product(*(self.grid[p.name] for p in self.shape))]

    def evaluate(self, values: Array, prepared: Any) -> tuple[Array, Array]:
        """Losses (steps,) and their derivatives by every parameter (steps, parameters)."""
        k = len(self.coefficients)
        columns, slopes = self.columns(values[k:], prepared)
        return columns @ values[:k], np.concatenate([columns, np.einsum("qnk,k->nq", slopes, values[:k])], axis=1)

    def predict(self, parameters: Mapping[str, float], rates: Rates, steps: NDArray[np.int64] | None = None) -> Array:
        """Losses after the updates `steps` (None: after every update)."""
        names = [p.name for p in self.parameters]
        for name in parameters:
            if name not in names:
                raise unknown(f"parameter of the law '{self.name}'", name, names)
        missing = [name for name in names if name not in parameters]
        if missing:
            raise UsageError(f"the law '{self.name}' needs '{missing[0]}' (its parameters: {', '.join(names)})")
        values = np.array([parameters[name] for name in names], dtype=float)
        at = np.arange(len(rates)) if steps is None else np.asarray(steps, dtype=np.int64)
        return self.evaluate(values, self.prepare(rates, at))[0]

    def check_run(self, name: str, rates: Rates) -> None:
        """Refuse a run of which the law says nothing."""
        if self.needs_boundary and rates.boundary is None:
            raise UsageError(f"{name}: the law '{self.name}' needs the step at which the data change: give --boundary STEP or a column 'experience'")
        if not self.needs_boundary and rates.boundary is not None:
            raise UsageError(f"{name}: the data change at step {rates.boundary}, but the law '{self.name}' holds for one data set; use --law continual")

    def check(self, curves: Sequence[tuple[str, Rates]]) -> None:
        """Refuse curves, given by name and rates, to which the law cannot be fitted."""
        if len(curves) < self.curves_needed:
            raise UsageError(f"the law '{self.name}' needs at least {self.curves_needed} curves to fit, but {len(curves)} is given")
        for name, rates in curves:
            self.check_run(name, rates)


L0 = Parameter("L0", "loss", "loss that remains")
A = Parameter("A", "loss (rate steps)^alpha", "height of the power law")
ALPHA = Parameter("alpha", "1", "exponent of the forward area S1", low=0.01, high=5.0)


def power_column(area: Array, exponent: float) -> tuple[Array, Array]:
    """area^-exponent, and its derivative by the exponent."""
    area = np.maximum(area, 1e-300)  # before the first rate above 0 nothing was learned
    column = np.exp(np.minimum(-exponent * np.log(area), 230.0))
    return column, -np.log(area) * column


class WithoutAnnealing(Law):
    """L = L0 + A S1^-alpha: the baseline that knows how much was learned but not how the rate fell.

    Source: the law of Tissue et al. 2024 (arXiv 2408.11029) with C = 0.
    """

    name = "without_annealing"
    title = "without annealing"
    formula = "L = L0 + A S1^-alpha"
    source = "arXiv 2408.11029 with C = 0"
    coefficients = (L0, A)
    shape = (ALPHA,)
    grid = {"alpha": (0.1, 0.3, 0.5, 0.8)}

    def prepare(self, rates: Rates, steps: NDArray[np.int64], exact: bool = True) -> Array:
        return forward_area(rates.values)[steps]

    def columns(self, shape: Array, prepared: Array) -> tuple[Array, Array]:
        power, slope = power_column(prepared, shape[0])
        zeros = np.zeros_like(power)
        return np.stack([np.ones_like(power), power], axis=1), np.stack([zeros, slope], axis=1)[None]

    def check_run(self, name: str, rates: Rates) -> None:
        """Any run will do, also one whose data change: the baseline stands beside every law."""


class Annealing(Law):
    """L = L0 + A S1^-alpha - C S2: a power law of the forward area, less what annealing has gained.

    `momentum` is lambda, about 1 / (1 - lambda) updates of memory. Warm-up counts in S1, not in S2.

    Source: Tissue et al. 2024 (arXiv 2408.11029).
    """

    name = "annealing"
    title = "annealing law"
    formula = "L = L0 + A S1^-alpha - C S2"
    source = "Tissue et al. 2024, arXiv 2408.11029"
    coefficients = (L0, A, Parameter("C", "loss / (rate steps)", "gain by the annealing area S2"))
    shape = (ALPHA,)
    grid = {"alpha": (0.1, 0.3, 0.5, 0.8)}
    uses_momentum = True

    def prepare(self, rates: Rates, steps: NDArray[np.int64], exact: bool = True) -> tuple[Array, Array]:
        start = len(rates) - len(rates.annealed)
        area = np.concatenate([np.zeros(start), annealing_area(rates.annealed, self.momentum)])
        return forward_area(rates.values)[steps], area[steps]

    def columns(self, shape: Array, prepared: tuple[Array, Array]) -> tuple[Array, Array]:
        power, slope = power_column(prepared[0], shape[0])
        zeros = np.zeros_like(power)
        return np.stack([np.ones_like(power), power, -prepared[1]], axis=1), np.stack([zeros, slope, zeros], axis=1)[None]

    def check(self, curves: Sequence[tuple[str, Rates]]) -> None:
        super().check(curves)
        refuse_constant(curves, "C")


class Continual(Law):
    """L = L0 + A (S1_pt + S1_cpt)^-alpha - C1 S2_pt - C2 S2_cpt + B (1 - (1 + E S1_cpt)^-beta).

    The loss on one validation set through pre-training (pt) and continual pre-training on other data (cpt). S1_pt and
    S2_pt stop growing at the boundary. S2_cpt starts there with m = 0, and its first difference is the jump from the last
    rate of pre-training: rewarming makes it negative, which is the bump. B is the shift between the data sets: positive
    on the first data (forgetting), negative on the second.

    Source: Wang et al. 2025 (arXiv 2505.07796). That the momentum starts again at the boundary, with the jump counted, is
    our reading.
    """

    name = "continual"
    title = "law for continual pre-training"
    formula = "L = L0 + A (S1_pt + S1_cpt)^-alpha - C1 S2_pt - C2 S2_cpt + B (1 - (1 + E S1_cpt)^-beta)"
    source = "Wang et al. 2025, arXiv 2505.07796"
    coefficients = (
        L0,
        A,
        Parameter("C1", "loss / (rate steps)", "gain by the annealing area of pre-training"),
        Parameter("C2", "loss / (rate steps)", "gain by the annealing area after the boundary"),
        Parameter("B", "loss", "shift between the data sets", positive=False, low=-1e3, high=1e3),
    )
    shape = (
        ALPHA,
        Parameter("E", "1 / (rate steps)", "speed of the shift", low=1e-3, high=1e6),
        Parameter("beta", "1", "exponent of the shift", low=0.02, high=20.0),
    )
    grid = {"alpha": (0.2, 0.5), "E": (1.0, 10.0, 100.0), "beta": (0.2, 0.5, 1.0)}
    uses_momentum = True
    needs_boundary = True
    curves_needed = 2

    def prepare(self, rates: Rates, steps: NDArray[np.int64], exact: bool = True) -> tuple[Array, ...]:
        edge = len(rates) if rates.boundary is None else rates.boundary
        start = min(rates.warmup, edge)
        first, second = np.zeros(len(rates)), np.zeros(len(rates))
        if edge > start:
            first[start:edge] = annealing_area(rates.values[start:edge], self.momentum)
            first[edge:] = first[edge - 1]
        after = np.zeros(len(rates))
        if edge < len(rates):
            second[edge:] = annealing_area(rates.values[edge:], self.momentum, rates.values[edge - 1] if edge else None)
            after[edge:] = forward_area(rates.values[edge:])
        return forward_area(rates.values)[steps], first[steps], second[steps], after[steps]

    def columns(self, shape: Array, prepared: tuple[Array, ...]) -> tuple[Array, Array]:
        (total, first, second, after), (alpha, speed, beta) = prepared, shape
        power, slope = power_column(total, alpha)
        inner = np.log1p(speed * after)
        left = np.exp(-beta * inner)
        columns = np.stack([np.ones_like(power), power, -first, -second, 1 - left], axis=1)
        slopes = np.zeros((3, *columns.shape))
        slopes[0, :, 1] = slope
        slopes[1, :, 4] = beta * left * after / (1 + speed * after)
        slopes[2, :, 4] = inner * left
        return columns, slopes

    def check(self, curves: Sequence[tuple[str, Rates]]) -> None:
        super().check(curves)
        before = [(name, Rates(r.values[: r.boundary], r.warmup)) for name, r in curves if r.boundary]
        refuse_constant(before, "C1", " before the boundary")
        after = [(name, Rates(r.values[max((r.boundary or 1) - 1, 0) :])) for name, r in curves]
        refuse_constant(after, "C2", " after the boundary")


def refuse_constant(curves: Sequence[tuple[str, Rates]], parameter: str, where: str = "") -> None:
    """A gain by annealing cannot be told from curves of which none anneals."""
    if all(rates.constant for _, rates in curves):
        names = ", ".join(name for name, _ in curves)
        raise UsageError(f"{names}: all rates are equal{where}: {parameter} cannot be fitted; add a curve whose rate changes")
