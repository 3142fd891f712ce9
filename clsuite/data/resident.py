"""A split kept on a device as uint8, with the scenario's transforms: the way from sample ids to pixels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from ..transforms import Transforms

_CPU_CHUNK = 256
"""Samples transformed at a time on a CPU: index tables and float images of one chunk stay in its cache."""


class Resident:
    """Images uint8 [N, C, H, W] and outputs int64 [N] on a device, read by id = transform * N + index.

    `permutation`: out[p] = in[table[k][p]] in every channel. `rotation`: counter-clockwise by table[k] degrees about the
    centre, bilinear, zeros outside, rounded to uint8. A transform that changes nothing costs nothing.
    """

    def __init__(self, images: np.ndarray, outputs: np.ndarray, transforms: Transforms, device: Any):
        self.device = torch.device(device)
        self.images = _shared(images).to(self.device)
        self.outputs = _shared(outputs).to(self.device)
        self.kind = transforms.kind
        self._size, _, height, width = images.shape
        self._table = torch.zeros(0)
        self._plain = [True]
        table = transforms.table
        if self.kind == "permutation":
            pixels = height * width
            if table.ndim != 2 or table.shape[1] != pixels or table.min() < 0 or table.max() >= pixels:
                raise UsageError(f"permutation table of shape {table.shape} does not fit images of {height}x{width}: expected [K, {pixels}] of 0..{pixels - 1}")
            self._plain = (table == np.arange(pixels)).all(1).tolist()
            self._table = _shared(np.asarray(table, dtype=np.int64)).to(self.device)
        elif self.kind == "rotation":
            self._plain = (table % 360 == 0).tolist()
            self._table = torch.from_numpy(_grids(table, height, width)).to(self.device)

    def gather(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (uint8 [B, C, H, W]) and outputs (int64 [B]) of ids (int64 [B], here or on the CPU).

        Ids on the CPU tell without a device synchronisation whether they share one transform, which is faster.
        """
        if self.kind == "identity" or not len(ids):
            index = ids.to(self.device, non_blocking=True)
            return self.images.index_select(0, index), self.outputs.index_select(0, index)
        low = high = -1
        if ids.device.type == "cpu":
            low, high = (int(value) // self._size for value in torch.aminmax(ids))
            if low < 0 or high >= len(self._plain):
                raise IndexError(f"sample ids reach transforms {low}..{high}; there are {len(self._plain)}")
        ids = ids.to(self.device, non_blocking=True)
        if low == high >= 0:
            index = ids - low * self._size if low else ids
            pixels = self.images.index_select(0, index)
            if not self._plain[low]:
                pixels = self._transformed(pixels, slice(low, low + 1))
            return pixels, self.outputs.index_select(0, index)
        transform = torch.div(ids, self._size, rounding_mode="floor")
        index = ids - transform * self._size
        return self._transformed(self.images.index_select(0, index), transform), self.outputs.index_select(0, index)

    def _transformed(self, pixels: Tensor, transform: Tensor | slice) -> Tensor:
        """Apply one transform to all samples (a slice of length 1), or one to each; may write to `pixels`."""
        apply = self._permuted if self.kind == "permutation" else self._rotated
        if self.device.type != "cpu" or len(pixels) <= _CPU_CHUNK:
            return apply(pixels, self._rows(transform))
        for start in range(0, len(pixels), _CPU_CHUNK):
            part = slice(start, start + _CPU_CHUNK)
            pixels[part] = apply(pixels[part], self._rows(transform if isinstance(transform, slice) else transform[part]))
        return pixels

    def _rows(self, transform: Tensor | slice) -> Tensor:
        return self._table[transform] if isinstance(transform, slice) else self._table.index_select(0, transform)

    def _permuted(self, pixels: Tensor, table: Tensor) -> Tensor:
        rows = pixels.flatten(2)
        return rows.gather(2, table[:, None].expand_as(rows)).view_as(pixels)

    def _rotated(self, pixels: Tensor, grid: Tensor) -> Tensor:
        if len(grid) == 1 and len(pixels) > 1 and self.device.type == "cpu":
            # samples as channels of one image: interpolation weights are computed once
            return _sample(pixels.reshape(1, -1, *pixels.shape[2:]), grid).view_as(pixels)
        return _sample(pixels, grid.expand(len(pixels), -1, -1, -1))


def _sample(pixels: Tensor, grid: Tensor) -> Tensor:
    values = torch.nn.functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.round_().to(torch.uint8)


def _grids(degrees: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where each output pixel is read, in grid_sample's coordinates: float32 [K, H, W, 2].

    Computed in float64, element by element, so that a sample's pixels do not depend on the batch it comes in.
    """
    angle = np.deg2rad(np.asarray(degrees, dtype=np.float64))[:, None, None]
    x = ((2 * np.arange(width) + 1) / width - 1)[None, None, :]
    y = ((2 * np.arange(height) + 1) / height - 1)[None, :, None]  # downwards
    aspect = height / width
    return np.stack([x * np.cos(angle) - y * np.sin(angle) * aspect, x * np.sin(angle) / aspect + y * np.cos(angle)], axis=-1).astype(np.float32)


def _shared(array: np.ndarray) -> Tensor:
    """A tensor on the array's own memory; a mapped file is not copied, and nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch warns about read-only memory
        return torch.from_numpy(np.ascontiguousarray(array))
