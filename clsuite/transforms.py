"""What a task may do to whole images: permute their pixels or rotate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .randomness import generator


@dataclass(frozen=True)
class Transforms:
    """Index maps or angles applied to whole images; transform 0 is usually the identity.

    `permutation`: `table` is int64 [K, height * width], the pixel each position takes its value from.
    `rotation`: `table` is float64 [K], degrees counter-clockwise. `identity`: no table.
    """

    kind: Literal["identity", "permutation", "rotation"] = "identity"
    table: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __len__(self) -> int:
        return 1 if self.kind == "identity" else len(self.table)

    @staticmethod
    def permutations(count: int, pixels: int, name: tuple[str | int, ...], identity_first: bool = True) -> Transforms:
        """`count` random permutations of the pixels; number k depends on `name` and k alone."""
        rows = [np.arange(pixels) if k == 0 and identity_first else generator(*name, k).permutation(pixels) for k in range(count)]
        return Transforms("permutation", np.stack(rows))

    @staticmethod
    def rotations(degrees: Sequence[float]) -> Transforms:
        return Transforms("rotation", np.asarray(degrees, dtype=np.float64))
