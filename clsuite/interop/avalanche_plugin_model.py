"""Any network with a linear classifier as a `Network`: its head, what the head reads, and its groups of parameters."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UsageError, unknown
from ..models.base import Network

MULTI_HEAD = ("MultiTaskModule", "MultiHeadClassifier")
"""Avalanche's classes of networks that are told the task of a sample; asked for by name, so that nothing need be imported."""


class Wrapped(Network):
    """A network of somebody else's. Its weights are the same tensors; its forward pass is its own.

    The head is looked up at every use, because some networks put a new layer in its place.
    """

    def __init__(self, model: nn.Module, head: str):
        super().__init__()
        self.model, self._head = model, head

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        found = self.model.get_submodule(self._head)
        assert isinstance(found, nn.Linear)
        return found

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head was given in a forward pass: [batch, width]."""
        seen: list[torch.Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self.model(x)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0].ndim != 2:
            raise UsageError(f"head = '{self._head}' is not a classifier that the model ends with: a forward pass uses it {len(seen)} times (give head=...)")
        return seen[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(x)
        return scores

    def block_of(self, name: str) -> str:
        return super().block_of(name.removeprefix("model."))

    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all parameters."""
        return [(name, tuple(p.shape)) for name, p in self.model.named_parameters()]

    @torch.no_grad()
    def check(self, x: torch.Tensor) -> None:
        """Refuse a head that is not what the model ends with, by the shape of one sample's scores; changes nothing."""
        modes = [(m, m.training) for m in self.modules()]
        self.eval()
        try:
            scores, expected = self.model(x), self.head(self.features(x))
        finally:
            for module, training in modes:
                module.training = training
        if not isinstance(scores, torch.Tensor) or scores.shape != expected.shape:
            shape = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise UsageError(f"head = '{self._head}' gives {list(expected.shape)}, but the model gives {shape}: name the layer it ends with (head=...)")


def wrap(model: nn.Module, head: str | None) -> Wrapped:
    """A network with the head of that name; by default the `nn.Linear` called `classifier`, or the last one there is.

    Raises `UsageError` for networks with several heads and for those without a linear one.
    """
    for module in model.modules():
        if {kind.__name__ for kind in type(module).__mro__} & set(MULTI_HEAD):
            raise UsageError(f"{type(model).__name__} has a head for every task ({type(module).__name__}), and this needs one linear head for all classes")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"{type(model).__name__} has no torch.nn.Linear that could be its head")
    if head is not None and head not in linear:
        raise unknown(f"linear layer of {type(model).__name__}: head =", head, linear)
    return Wrapped(model, head or ("classifier" if "classifier" in linear else linear[-1]))
