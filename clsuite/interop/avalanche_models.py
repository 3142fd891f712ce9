"""The run's network in the forms that Avalanche's strategies want, and its images as the run sees them.

Nothing of Avalanche is imported here: checkpoints name these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..models.base import Network, Normalisation
from ..training.images import DRAWS

if TYPE_CHECKING:
    from ..training.images import ImageWorkload


class Backbone(nn.Module):
    """A network without its head: images to features."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.network.head = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        return self.network.features(x)


class Wrapped(nn.Module):
    """A network whose last layer is the attribute `head`, as strategies that look for it, swap it or read features expect."""

    def __init__(self, body: Backbone, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def get_features(self, x: Tensor) -> Tensor:
        """What the head reads."""
        return self.body(x)

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Tensor:
        return self.head(self.body(x))


def projection(width: int, outputs: int) -> nn.Module:
    """Two linear layers with ReLU between: [batch, width] to [batch, outputs]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


class View:
    """One image in 0..1 [channels, height, width] as the run's networks see it: normalised, in training also augmented. On the CPU."""

    def __init__(self, workload: ImageWorkload, augmented: bool):
        self.workload = workload
        self.augmented = augmented and bool(workload.training.augmentation)

    def __deepcopy__(self, memo: Any) -> View:
        return self

    def __call__(self, image: Tensor) -> Tensor:
        pixels = image[None].mul(255).round().to(torch.uint8)
        if self.augmented:  # drawn by torch's own generator, as Avalanche's loaders draw their order
            return self.workload._augmented(pixels, torch.rand(1, DRAWS))[0]
        return self.workload.inputs(pixels)[0]


class Normalised(nn.Module):
    """Images in 0..1 as the run normalises them: what a generator's images go through."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalisation: Normalisation | None, channels: int):
        super().__init__()
        for name, values in zip(("mean", "std"), normalisation or ((0.0,), (1.0,)), strict=True):
            self.register_buffer(name, torch.tensor([values[c % len(values)] for c in range(channels)]).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def pairs(model: nn.Module, network: Network) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors of a network with those of the model that was made of a copy of it: as many as are still there in their old shape."""
    own = network.state_dict(keep_vars=True)
    backbone = next((m for m in model.modules() if isinstance(m, Backbone)), None)
    if backbone is None:
        return
    inside = {id(m) for m in backbone.modules()}
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in inside and m.weight.shape == network.head.weight.shape]
    theirs = dict(backbone.network.state_dict(keep_vars=True))
    if heads:
        theirs.update({f"head.{name}": tensor for name, tensor in heads[-1].state_dict(keep_vars=True).items()})
    for name, tensor in own.items():
        if name in theirs and theirs[name].shape == tensor.shape:
            yield tensor, theirs[name]
