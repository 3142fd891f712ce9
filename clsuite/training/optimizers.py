"""The main optimizer, from the shared settings and the groups the parts want."""

from __future__ import annotations

from typing import Any

import torch

from ..strategy import ParameterGroup
from .settings import Training


def build(settings: Training, groups: list[ParameterGroup], old: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """An optimizer with one group each; `old` hands over what it knows of every parameter (momentum and the like)."""
    chosen = [group for g in groups for group in _divided(settings, g)]
    new: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        new = torch.optim.SGD(chosen, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True)
    else:
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        new = kind(chosen, betas=(settings.betas[0], settings.betas[1]), eps=settings.epsilon, weight_decay=settings.weight_decay, fused=True)
    if old is not None:
        for group in groups:
            for p in group.parameters:
                if p in old.state:
                    new.state[p] = old.state[p]
    return new


def _divided(settings: Training, group: ParameterGroup) -> list[dict[str, Any]]:
    """A group as the optimizer wants it; in two where weight decay spares biases and norms."""

    def made(parameters: list[torch.nn.Parameter], **more: Any) -> dict[str, Any]:
        return {"params": parameters, "lr": group.learning_rate, "peak": group.learning_rate, "name": group.name, **more}

    if settings.decayed == "all" or not settings.weight_decay:
        return [made(group.parameters)]
    matrices = [p for p in group.parameters if p.ndim > 1]
    others = [p for p in group.parameters if p.ndim <= 1]
    return [g for g in (made(matrices), made(others, weight_decay=0.0)) if g["params"]]
