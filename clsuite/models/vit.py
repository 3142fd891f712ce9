"""Vision transformers from timm, pretrained by default."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UsageError, nearest
from ..settings import setting
from .base import Model, Network, Shape


class ViTNetwork(Network):
    """A timm backbone and our own head; images are resized to the backbone's input size, grey ones repeated where it needs three channels."""

    def __init__(self, backbone: nn.Module, channels: int, size: tuple[int, int], classes: int):
        super().__init__()
        self.backbone = backbone
        self.channels = channels
        self.size = size
        self.head = nn.Linear(int(backbone.num_features), classes)  # type: ignore[arg-type]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] != self.channels:
            x = x.expand(-1, self.channels, -1, -1)
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bicubic", antialias=True)  # antialias: as Pillow does, which pretraining used
        return self.backbone(x)

    def block_of(self, name: str) -> str:
        parts = name.split(".")[1:]  # without `backbone`
        return ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]


class ViT(Model):
    """A timm vision transformer. Random weights come only when asked for: pretrained ones that cannot be had are an error."""

    name = "vit"

    architecture: str = setting("vit_tiny_patch16_224", help="a vision transformer of timm")
    pretrained: bool = setting(True, help="timm's weights (downloaded or from its cache); false starts from random ones")
    image_size: int | None = setting(None, ge=1, help="side in pixels images are resized to; null for the architecture's own")

    def build(self, shape: Shape, classes: int, data_root: str | None) -> Network:
        import timm  # here: seconds to import

        if not timm.is_model(self.architecture):
            raise UsageError(f"model.architecture = {self.architecture!r} is not in timm{nearest(self.architecture, timm.list_models())}")
        if self.pretrained and shape[0] not in (1, 3):
            raise UsageError(f"model.pretrained = true needs images of 1 or 3 channels, these have {shape[0]}: set model.pretrained=false for random weights")
        channels = 3 if self.pretrained else shape[0]
        backbone = self._backbone(channels)
        config: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
        height, width = (self.image_size, self.image_size) if self.image_size else config["input_size"][1:]
        if getattr(getattr(backbone, "patch_embed", None), "num_patches", 1) < 1:
            raise UsageError(f"model.image_size = {self.image_size} is smaller than one patch of {self.architecture}")
        self.normalisation = (tuple(config["mean"]), tuple(config["std"])) if self.pretrained else None
        return ViTNetwork(backbone, channels, (height, width), classes)

    def _backbone(self, channels: int) -> nn.Module:
        import timm

        options: dict[str, Any] = {} if self.image_size is None else {"img_size": self.image_size}
        try:
            return timm.create_model(self.architecture, pretrained=self.pretrained, num_classes=0, in_chans=channels, **options)
        except Exception as error:  # the hub client, its transport and timm each raise errors of their own
            if options and isinstance(error, TypeError):
                raise UsageError(f"model.image_size = {self.image_size} cannot be used: {self.architecture} takes no image size") from error
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
            if not self.pretrained:
                raise UsageError(f"model.architecture = {self.architecture!r} cannot be built ({reason})") from error
            raise UsageError(
                f"model.architecture = {self.architecture!r}: no pretrained weights could be had ({reason}); set model.pretrained=false for random weights"
            ) from error
