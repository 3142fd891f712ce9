"""A multi-layer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from ..settings import setting
from .base import Model, Network, Shape


class MLPNetwork(Network):
    """Linear layers with ReLU on the flattened image; features are the last hidden activations."""

    def __init__(self, shape: Shape, hidden: list[int], classes: int):
        super().__init__()
        widths = [math.prod(shape), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return x

    def block_of(self, name: str) -> str:
        return name.rpartition(".")[0]  # one block a layer: hidden.1, hidden.2


class MLP(Model):
    """Fully connected ReLU network; an empty `hidden` is a linear classifier."""

    name = "mlp"

    hidden: list[int] = setting([100, 100], ge=1, help="units of each hidden layer")

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        return MLPNetwork(shape, self.hidden, classes)
