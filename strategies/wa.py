"""Weight aligning: replay and distillation, then the head's rows of new classes are made as long as those of old ones."""

from __future__ import annotations

from typing import Any, Literal

import torch

from clsuite.settings import setting
from clsuite.stream import Experience

from .exemplars import Distilling


class WA(Distilling):
    """WA: after every experience the rows of new classes in the head are scaled by mean length of old rows / mean length of new rows.

    Source: Zhao et al. 2020, arXiv 1911.07053, by the code of its first author, which was read and whose defaults these are. Training, on new
    samples and exemplars in proportion: (1 - l) cross-entropy + l cross-entropy of softmax(outputs / T) over old classes with that of the
    network of the last border, l = old / (old + new) classes, T = 2. After every step negative weights of the head become 0 (`positive`:
    the length of a row then tells how large its output is, where features are not negative, as after a ReLU; turn it off for features of both
    signs); lengths are L1 norms, the factor is at most 1. Avalanche 0.6 has no WA; PyCIL's has L2 norms, no limit, negative weights and
    `distillation` 2.

    Aligning changes the head for good, before the network of this border is kept as the next teacher. Departures: old rows stay what they
    were at a border (the code begins every experience with a new head, and corrects outputs, which is the same without biases); biases are not
    scaled. Exemplars as in `icarl`. Search ranges: Cha & Cho 2025, arXiv 2403.09066, and the default.
    """

    norm: Literal["l1", "l2"] = setting("l1", help="length of a row of the head")
    positive: bool = setting(True, help="weights of the head are kept from becoming negative")
    largest_factor: float | None = setting(1.0, gt=0, help="what new rows are scaled by at most (null: no limit)")
    distillation: float | None = setting(
        None, ge=0, search=[None, 0.5, 1.0, 1.5, 2.0, 3.0], help="weight added to a whole cross-entropy (null: l and 1 - l by numbers of classes)"
    )

    def setup(self) -> None:
        super().setup()
        self.factors: list[float] = []

    def after_step(self) -> None:
        if self.positive:
            with torch.no_grad():
                self.model.head.weight.clamp_(min=0)

    def after_experience(self, experience: Experience) -> None:
        if self.old:
            self.align(sorted(experience.classes))
        super().after_experience(experience)

    @torch.no_grad()
    def align(self, new: list[int]) -> None:
        """Scale the rows of new classes."""
        weight = self.model.head.weight
        lengths = torch.linalg.vector_norm(weight, ord=int(self.norm[1]), dim=1)
        factor = (lengths[self.old].mean() / lengths[new].mean()).item()
        factor = factor if self.largest_factor is None else min(factor, self.largest_factor)
        weight[new] *= factor
        self.factors.append(factor)

    def report(self) -> dict[str, Any]:
        return {"factors": self.factors}
