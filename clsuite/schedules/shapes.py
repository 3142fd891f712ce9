"""The ways down from a constant rate: shapes of a final decay."""

from __future__ import annotations

import math
from typing import Literal

from ..schedule import refused

Shape = Literal["linear", "cosine", "mirror_cosine", "square", "one_minus_sqrt", "exponential", "inverse_linear"]


def shaped(shape: Shape, p: float, minimum: float) -> float:
    """The factor after a share p of the decay, from 1 at p = 0 to `minimum` at p = 1.

    linear 1 - p; cosine (1 + cos(pi p)) / 2; mirror_cosine 2 (1 - p) - cosine, the cosine mirrored at the line; square 1 - p^2;
    one_minus_sqrt 1 - sqrt(p): all scaled to end at `minimum`. exponential minimum^p; inverse_linear 1 / (p / minimum + 1 - p).
    Raises `UsageError` for the last two when `minimum` is 0.

    Source: shapes as in the code of Hagele et al. 2024 (arXiv 2405.18392), read in a copy; inverse_linear is attributed to
    equation 8 of arXiv 2410.05192 by three code bases.
    """
    check_floor(shape, minimum)
    if shape == "exponential":
        return minimum**p
    if shape == "inverse_linear":
        return 1 / (p / minimum + (1 - p))
    cosine = 0.5 * (1 + math.cos(math.pi * p))
    down = {"linear": 1 - p, "cosine": cosine, "mirror_cosine": 2 * (1 - p) - cosine, "square": 1 - p * p, "one_minus_sqrt": 1 - math.sqrt(p)}[shape]
    return minimum + (1 - minimum) * down


def check_floor(shape: Shape, minimum: float) -> None:
    """Raise `UsageError` for a shape that never reaches 0 but is asked to."""
    if minimum <= 0 and shape in ("exponential", "inverse_linear"):
        raise refused("minimum", minimum, f"shape {shape} never reaches 0: expected a share of the peak > 0, such as 0.1")
