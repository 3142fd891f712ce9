"""Residual networks for small images (He et al. 2016, arXiv 1512.03385), and the weight files some of them can start from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from ..errors import MissingData, UsageError
from ..settings import setting
from .base import Model, Network, Normalisation, Shape

CIFAR10_NORMALISATION: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What akamaster/pytorch_resnet_cifar10 trained with (ImageNet's constants); its weights do not say so themselves."""


class PaddedShortcut(nn.Module):
    """Option A, without parameters: every second pixel, zeros for the new channels (half before, half after)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        before = (outputs - inputs) // 2
        self.padding = (0, 0, 0, 0, before, outputs - inputs - before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)


def _projection(inputs: int, outputs: int) -> nn.Module:
    """Option B: a 1x1 convolution of stride 2 with batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the image where it widens the channels."""

    def __init__(self, inputs: int, outputs: int, projection: bool):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if inputs == outputs:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = _projection(inputs, outputs) if projection else PaddedShortcut(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(Network):
    """3x3 stem, stages `layer1`, `layer2`, ... of basic blocks, global average pooling.

    A grey image given to a three-channel stem is repeated to three channels.
    """

    def __init__(self, channels: int, widths: list[int], blocks: int, classes: int, *, projection: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        for stage, (inputs, outputs) in enumerate(zip([widths[0], *widths], widths, strict=False), 1):
            rest = [BasicBlock(outputs, outputs, projection) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(BasicBlock(inputs, outputs, projection), *rest))
        self.head = nn.Linear(widths[-1], classes)
        # Channels last trains resnet20 about a fifth faster on one CPU thread (513 -> 622 images/s, batch 32).
        self.to(memory_format=torch.channels_last)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 1 and self.conv1.in_channels == 3:
            x = x.expand(-1, 3, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3))


class ResNet18(Model):
    """ResNet-18 in its CIFAR form: 3x3 stem, no max-pooling, widths w, 2w, 4w, 8w, option B shortcuts."""

    name = "resnet18"

    width: int = setting(64, ge=1, help="channels of the first stage; 20 is the reduced network of GEM")

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        return ResNet(shape[0], [self.width * 2**i for i in range(4)], 2, classes, projection=True)


class _CifarResNet(Model):
    """6n+2 layers: 16, 32 and 64 channels, n blocks a stage, option A shortcuts (He et al., section 4.2)."""

    blocks: ClassVar[int]

    weights: str | None = setting(
        None, help="pretrained weights: a name such as 'resnet20-cifar10', looked up as weights/<name>.safetensors, or a path that ends in .safetensors"
    )

    @property
    def pretrained(self) -> bool:
        return self.weights is not None

    def weight_file(self, data_root: str | None) -> Path | None:
        return None if self.weights is None else find_weights(self.weights, data_root)

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        if self.weights is None:
            return ResNet(shape[0], [16, 32, 64], self.blocks, classes, projection=False)
        path = find_weights(self.weights, data_root)
        tensors, metadata = read_weights(path)
        stem = tensors.get("conv1.weight")
        repeat = shape[0] == 1 and stem is not None and stem.ndim == 4 and stem.shape[1] == 3
        channels = 3 if repeat else shape[0]
        network = ResNet(channels, [16, 32, 64], self.blocks, classes, projection=False)
        load_weights(network, tensors, path)
        self.normalisation = _normalisation(metadata, path, channels)
        return network


class ResNet20(_CifarResNet):
    """ResNet-20 for CIFAR: 0.27 million parameters."""

    name = "resnet20"
    blocks = 3


class ResNet32(_CifarResNet):
    """ResNet-32 for CIFAR: 0.46 million parameters."""

    name = "resnet32"
    blocks = 5


class ResNet56(_CifarResNet):
    """ResNet-56 for CIFAR: 0.85 million parameters."""

    name = "resnet56"
    blocks = 9


def find_weights(weights: str, data_root: str | None) -> Path:
    """The file a `weights` setting means: `weights/<name>.safetensors` in the data roots, or the path itself.

    The roots are `data_root`, the environment's CLSUITE_DATA and the user's cache. Raises `MissingData`.
    """
    if weights.endswith(".safetensors"):
        candidates = [Path(weights).expanduser()]
    elif not weights or Path(weights).name != weights:
        raise UsageError(f"model.weights = {weights!r} is not valid: expected a name without folders, or a path that ends in .safetensors")
    else:
        roots = [data_root, os.environ.get("CLSUITE_DATA"), os.path.join(platformdirs.user_cache_dir("clsuite"), "data")]
        candidates = [Path(root).expanduser() / "weights" / f"{weights}.safetensors" for root in dict.fromkeys(roots) if root]
    for path in candidates:
        if path.is_file():
            return path
    raise MissingData(f"model.weights = {weights!r}: no such file (looked for {', '.join(map(str, candidates))})")


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; one that cannot be read is a `UsageError`."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"model.weights: {path} cannot be read ({str(error).splitlines()[0]})") from error


def load_weights(network: Network, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into a network by name (`linear` means the head); a head with another number of classes stays as it is.

    A tensor that is missing, unexpected or of another shape is a `UsageError`, and nothing is copied.
    """
    found = {("head." + name.removeprefix("linear.") if name.startswith("linear.") else name): tensor for name, tensor in tensors.items()}
    target = network.state_dict()
    if "head.weight" in found and "head.bias" in found:
        weight, bias = found["head.weight"].shape, found["head.bias"].shape
        if len(weight) == 2 and weight[0] != network.head.out_features and weight[1] == network.head.in_features and bias == weight[:1]:
            found.update({"head.weight": network.head.weight.detach(), "head.bias": network.head.bias.detach()})
    for name, tensor in target.items():
        if name.endswith("num_batches_tracked"):
            continue  # a counter that published weights often lack; it has no part in the scores
        if name not in found:
            raise UsageError(f"model.weights: {path} has no tensor '{name}'")
        if found[name].shape != tensor.shape:
            raise UsageError(f"model.weights: {path} has '{name}' of shape {list(found[name].shape)}, the network needs {list(tensor.shape)}")
    unexpected = sorted(set(found) - set(target))
    if unexpected:
        raise UsageError(f"model.weights: {path} has a tensor '{unexpected[0]}' that this network lacks")
    network.load_state_dict(found, strict=False)


def _normalisation(metadata: dict[str, str], path: Path, channels: int) -> Normalisation | None:
    """`mean` and `std` from a file's metadata (a JSON list each); the CIFAR-10 files without them have known constants."""
    if "mean" not in metadata or "std" not in metadata:
        return CIFAR10_NORMALISATION if path.stem.endswith("-cifar10") and channels == 3 else None
    try:
        mean, std = (tuple(float(v) for v in json.loads(metadata[key])) for key in ("mean", "std"))
    except (ValueError, TypeError) as error:
        raise UsageError(f"model.weights: {path} has metadata mean/std that are not lists of numbers") from error
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise UsageError(f"model.weights: {path} has metadata mean/std that are not {channels} numbers each, std above 0")
    return mean, std
