"""The image workload: views (normalised, augmented in batches on the device) and the loss with its masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..randomness import generator
from .settings import Training

if TYPE_CHECKING:
    from torch import Tensor

    from ..batch import Batch
    from ..stream import Stream

DRAWS = 4
"""Random numbers a view needs: vertical and horizontal shift, flip, brightness."""


class ImageWorkload:
    """Turns sample ids into inputs and logits into losses."""

    def __init__(self, stream: Stream, training: Training, device: torch.device, normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None):
        self.stream, self.training, self.device = stream, training, device
        self.dtype = torch.float64 if training.precision == "float64" else torch.float32
        self.normalisation = normalisation
        if normalisation is not None:
            channels = stream.source.shape[0]
            mean, std = (torch.tensor([v[c % len(v)] for c in range(channels)], dtype=self.dtype, device=device).view(1, -1, 1, 1) for v in normalisation)
            self._mean, self._std = mean, std
        self._experience_classes = self._membership([e.classes for e in stream.experiences]) if training.logit_mask in ("experience", "seen") else None
        self._present = torch.zeros(stream.classes, dtype=torch.bool, device=device)
        self.experience: Callable[[], int] = lambda: 0  # the run tells where it is (`logit_mask: seen`)

    logging_interval = 100
    """Steps between looks at the loss; the device is not waited for in between."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Images are computed at full precision."""
        return nullcontext()

    def _membership(self, groups: list[tuple[int, ...]]) -> Tensor:
        table = torch.zeros(len(groups), self.stream.classes, dtype=torch.bool)
        for row, classes in zip(table, groups, strict=True):
            row[list(classes)] = True
        return table.to(self.device)

    # -- inputs -------------------------------------------------------------------------------------------------

    def draws(self, count: int, *name: str | int) -> np.ndarray | None:
        """The augmentation's random numbers for `count` samples, from a generator of that name; None without augmentation."""
        return self.draws_from(generator(*name), count) if self.training.augmentation else None

    def draws_from(self, rng: np.random.Generator, count: int) -> np.ndarray | None:
        return rng.random((count, DRAWS), dtype=np.float32) if self.training.augmentation else None

    def view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs (float [batch, channels, height, width]) and targets of a training batch."""
        pixels, targets = self.stream.gather(batch.ids)
        draws = batch.draws
        return (self.inputs(pixels) if draws is None else self._augmented(pixels, torch.from_numpy(draws).to(self.device))), targets

    def inputs(self, pixels: Tensor) -> Tensor:
        """uint8 pixels as the network sees them."""
        return self._normalised(pixels.to(self.dtype).div_(255))

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.normalisation is None else x.sub_(self._mean).div_(self._std)

    def _augmented(self, pixels: Tensor, draws: Tensor) -> Tensor:
        wanted = self.training.augmentation
        count, _, height, width = pixels.shape
        rows = torch.arange(height, device=self.device).expand(count, height)
        columns = torch.arange(width, device=self.device).expand(count, width)
        if "flip" in wanted:
            columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
        if "crop" in wanted:
            # zeros around the image before normalisation: black borders, as torchvision's RandomCrop on pixels gives
            padding = self.training.crop_padding
            pixels = F.pad(pixels, (padding,) * 4)
            shift = (draws[:, :2] * (2 * padding + 1)).long().clamp_(max=2 * padding)
            rows, columns = rows + shift[:, 0:1], columns + shift[:, 1:2]
        if "flip" in wanted or "crop" in wanted:
            sample = torch.arange(count, device=self.device)
            pixels = pixels[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        x = pixels.to(self.dtype).div_(255)
        if "brightness" in wanted:
            factor = 1 + self.training.brightness * (2 * draws[:, 3].to(self.dtype) - 1)
            x = x.mul_(factor.view(-1, 1, 1, 1)).clamp_(0, 1)
        return self._normalised(x.contiguous())

    # -- loss ---------------------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Forget the labels of the step before (`logit_mask: batch`)."""
        if self.training.logit_mask == "batch":
            self._present = torch.zeros_like(self._present)

    def note_labels(self, ids: Tensor) -> None:
        """The labels of a step: its current samples and everything drawn from a memory (`logit_mask: batch`)."""
        if self.training.logit_mask == "batch":
            labels = torch.from_numpy(self.stream.labels_of(ids.numpy())).to(self.device)
            self._present = self._present.index_fill(0, labels, True)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the outputs that `training.logit_mask` leaves; a target is never masked."""
        mask = self._allowed(batch)
        if mask is not None:
            mask = mask | F.one_hot(batch.y, logits.shape[-1]).bool()
            logits = logits.masked_fill(~mask, -torch.inf)
        return F.cross_entropy(logits, batch.y)

    def _allowed(self, batch: Batch) -> Tensor | None:
        kind = self.training.logit_mask
        if kind == "none":
            return None
        if kind == "batch":
            return self._present.index_fill(0, batch.y, True)
        assert self._experience_classes is not None
        if kind == "experience":
            return self._experience_classes[batch.experience.to(self.device)]
        return self._experience_classes[: self.experience() + 1].any(0)
