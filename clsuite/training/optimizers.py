"""The main optimizer, from the shared settings and the groups the parts want."""

from __future__ import annotations

from typing import Any

import torch

from ..strategy import ParameterGroup
from .settings import Training


def build(settings: Training, groups: list[ParameterGroup], old: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """An optimizer with one group each; `old` hands over what it knows of every parameter (momentum and the like)."""
    chosen: list[dict[str, Any]] = [{"params": g.parameters, "lr": g.learning_rate, "peak": g.learning_rate, "name": g.name} for g in groups]
    new: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        new = torch.optim.SGD(chosen, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True)
    else:
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        new = kind(chosen, weight_decay=settings.weight_decay, fused=True)
    if old is not None:
        for group in groups:
            for p in group.parameters:
                if p in old.state:
                    new.state[p] = old.state[p]
    return new
