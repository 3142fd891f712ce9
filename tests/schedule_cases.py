"""What tests of learning-rate schedules share: an example or more of every one."""

from __future__ import annotations

import math

import pytest

from clsuite import registry
from clsuite.schedule import Schedule

HORIZON = 2000
SHAPE_NAMES = ("linear", "cosine", "mirror_cosine", "square", "one_minus_sqrt", "exponential", "inverse_linear")
EXAMPLES: dict[str, list[dict]] = {
    "constant": [{}],
    "cosine": [{"minimum": 0.1}],
    "linear": [{}],
    "step": [{}],
    "wsd": [{"shape": s, "minimum": 0.1} for s in SHAPE_NAMES],
    "wsd_s": [{}, {"periods": [300, 700, 1000], "decay": 0.2, "multipliers": [1.0, 0.7, 0.5]}],
    "two_stage": [{"drop": 0.1, "minimum": 0.05}],
    "infinite_cosine": [{}, {"hold": 0.2}],
    "infinite_inverse_sqrt": [{}, {"cooldown": 900, "anneal": 250}],
    "power": [{"batch": 8.0}],
    "rex": [{"minimum": 0.02}],
    "uba": [{"phi": 0.5}],
    "cosine_power": [{"p": 2.0}],
    "inverse_sqrt": [{}, {"timescale": 100}],
    "cyclic": [{}, {"multiplier": 2.0, "period": 150}, {"shape": "triangular", "minimum": 0.1}],
    "refined": [{"gradient_norms": [1.0 + 0.5 * math.sin(k / 70) ** 2 for k in range(HORIZON)]}],
    "table": [{"factors": [1 / (1 + k) for k in range(HORIZON)]}],
}
CASES = [(name, values) for name, examples in EXAMPLES.items() for values in examples]
IDS = [f"{name}-{k}" for name, examples in EXAMPLES.items() for k in range(len(examples))]
NO_WARMUP = ("refined", "table")
each = pytest.mark.parametrize(("name", "values"), CASES, ids=IDS)


def make(name: str, **values) -> Schedule:
    return registry.load("schedules", name)(**values)
