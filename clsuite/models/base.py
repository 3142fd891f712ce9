"""What every network offers (features, a head, named parameter groups) and what builds one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from ..errors import unknown
from ..settings import Configurable

Shape = tuple[int, ...]
"""Of one sample: channels, height and width of an image; `(context,)`, the tokens of a window, of text."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, for pixels in 0..1."""

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
_NORM_NAMES = ("RMSNorm", "LayerNorm")  # transformers writes one class an architecture: LlamaRMSNorm and so on


class Network(nn.Module):
    """Images to class scores: `features`, then the linear `head`.

    Images are float [batch, channels, height, width], already normalised. A language model reads token ids and has
    features and scores of every position (`language.LanguageNetwork`).
    """

    head: nn.Linear

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: [batch, width]."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores before the softmax: [batch, classes]."""
        return self.head(self.features(x))

    def block_of(self, name: str) -> str:
        """The depth block a parameter belongs to: by default the part of the network it is registered under."""
        return name.split(".")[0]

    def groups(self) -> dict[str, list[str]]:
        """Parameter names by kind, in model order.

        `all`; `head`; `norm`, the affine parameters of Batch/Layer/Group/RMSNorm; `first_layer`, the first convolution or,
        without one, the first linear layer before the head; `embedding`, in networks that look tokens up, whose
        `first_layer` is then empty; and `block:<name>` for what is left, by depth. Every parameter is in exactly one
        group besides `all`: an embedding tied to the head is in `head`, under the name it was first registered by.
        """
        names = [name for name, _ in self.named_parameters()]
        modules = list(self.named_modules())
        head = {id(parameter) for parameter in self.head.parameters()}
        norms = {name for name, module in modules if isinstance(module, _NORM) or type(module).__name__.endswith(_NORM_NAMES)}
        embeddings = {name for name, module in modules if isinstance(module, nn.Embedding)}
        layers = [name for kind in (_CONV, nn.Linear) for name, module in modules if isinstance(module, kind) and name != "head"]
        first = layers[0] if layers and not embeddings else None

        groups: dict[str, list[str]] = {"all": names, "head": [], "norm": [], "first_layer": [], **({"embedding": []} if embeddings else {})}
        for name, parameter in self.named_parameters():
            owner = name.rpartition(".")[0]
            if id(parameter) in head:
                kind = "head"
            elif owner in norms:
                kind = "norm"
            elif owner in embeddings:
                kind = "embedding"
            elif owner == first:
                kind = "first_layer"
            else:
                kind = f"block:{self.block_of(name)}"
            groups.setdefault(kind, []).append(name)
        return groups

    def select(self, kind: str) -> list[nn.Parameter]:
        """The parameters of one group or of several joined by `+`, once each, in model order.

        A group this network has none of (`norm` in an MLP) gives an empty list; an unknown kind is a `UsageError`.
        """
        groups = self.groups()
        wanted: set[str] = set()
        for part in kind.split("+"):
            if part.strip() not in groups:
                raise unknown("parameter group", part.strip(), groups)
            wanted.update(groups[part.strip()])
        return [parameter for name, parameter in self.named_parameters() if name in wanted]


class Model(Configurable):
    """Builds a `Network` from settings.

    Weights that are not read from a file are those PyTorch's layers start with; whoever calls `build` seeds
    `torch.manual_seed` before.
    """

    name: ClassVar[str] = ""

    world: ClassVar[str] = "images"
    """What its networks read: `images` or `text`."""

    normalisation: Normalisation | None = None
    """What the pretrained weights were trained with; known once `build` has read them, else None."""

    @property
    def pretrained(self) -> bool:
        """Whether the built network carries pretrained weights."""
        return False

    def weight_file(self, data_root: str | None) -> Path | None:
        """The file pretrained weights come from, if any: its content is part of a cell's identity."""
        return None

    def weight_files(self, data_root: str | None) -> list[Path]:
        """All files pretrained weights come from, in a fixed order: what a cell's identity hashes."""
        file = self.weight_file(data_root)
        return [] if file is None else [file]

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        """A network for samples of `shape` and `classes` outputs (of text: the vocabulary).

        `data_root` is the first place weight files are looked for.
        """
        raise NotImplementedError

    suffix: ClassVar[str] = ".safetensors"
    """How the name of what `write` writes must end; empty for a folder."""

    def tensors(self, network: Network) -> dict[str, torch.Tensor]:
        """Weights and running statistics of a network, by the names that `write` gives them."""
        return dict(network.state_dict())

    def write(self, network: Network, tensors: dict[str, torch.Tensor], path: Path, normalisation: Normalisation | None) -> None:
        """Write what `tensors` gave, in whole tensors, so that the model's own setting for weights reads it; whole or absent."""
        from safetensors.torch import save_file

        mean_std = {} if normalisation is None else dict(zip(("mean", "std"), map(json.dumps, normalisation), strict=True))
        with replacing(path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary, mean_std)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary place beside `path`, renamed to it at the end of the block and removed when that fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")

    def clear() -> None:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)

    clear()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        clear()
