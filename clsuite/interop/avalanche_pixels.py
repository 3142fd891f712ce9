"""What a sample of a benchmark is: its item before the transforms that can be exchanged, and its pixels as 8-bit numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from . import KNOWN, installed
from .avalanche_streams import Samples

_EXACT = 1e-3
"""How far 255 times a float may lie from a whole number: above the rounding of float32 and float16 is told as inexact."""


class NotPixels(Exception):
    """A sample that is no image of 8-bit numbers; the message says why, without the place."""


@dataclass(frozen=True)
class Place:
    """Where a sample lies: the data set that holds it, its number there, and the frozen transforms on the way, the innermost first."""

    holder: Any
    number: int
    frozen: tuple[Any, ...] = ()

    @property
    def origin(self) -> tuple[tuple[Any, ...], int]:
        """What the sample is read from, and its number there: samples for which both are the same are the same."""
        if isinstance(self.holder, Samples):  # a stream that went out: its experiences share the stream's ids
            return (self.holder.stream, self.holder.split, *self.frozen), self.holder.id(self.number)
        return (self.holder, *self.frozen), self.number

    def item(self) -> tuple[Any, Any]:
        """Image and label."""
        found = self.holder[self.number]
        for groups in self.frozen:
            found = groups(found, group_name="eval")
        if not isinstance(found, (tuple, list)) or len(found) < 2:
            raise NotPixels(f"a sample is {type(found).__name__}, not (image, label)")
        return found[0], found[1]


def untransformed(data: Any, k: int) -> Place:
    """Sample k of an Avalanche data set before the transforms that can be exchanged (the groups `train` and `eval`)."""
    frozen: list[Any] = []
    flat = getattr(data, "_flat_data", data)
    while hasattr(flat, "_get_idx"):
        if not hasattr(flat, "_datasets"):
            raise UsageError(f"the data sets of Avalanche {installed()} are built otherwise than known here; version {KNOWN} is known to work")
        own = getattr(flat, "_frozen_transform_groups", None)
        if own is not None and type(own).__name__ != "EmptyTransformGroups":
            frozen.insert(0, own)
        part, k = flat._get_idx(k)
        flat = flat._datasets[part]
        flat = getattr(flat, "_flat_data", flat)
    return Place(flat, k, tuple(frozen))


def pixels(image: Any, rounded: bool) -> np.ndarray:
    """An image as uint8 [channels, height, width], channels 1 or 3; raises `NotPixels` where that would change it.

    Pillow images of 8 bits (other modes than grey become RGB), uint8 arrays and tensors, and floats in 0..1 that are multiples of 1/255.
    `rounded`: other floats in 0..1 become round(255 x).
    """
    first = hasattr(image, "detach")  # tensors have their channels first, other arrays last, as far as their shape allows it
    if hasattr(image, "mode") and hasattr(image, "convert"):
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise NotPixels(f"an image of mode {image.mode} has more than 8 bits a channel")
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return _planes(_bytes(image.detach().cpu().numpy() if first else np.asarray(image), rounded), first)


def _bytes(array: np.ndarray, rounded: bool) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise NotPixels(f"an image holds {array.dtype}, not uint8 or floats in 0..1")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise NotPixels(f"an image holds values from {low:.3g} to {high:.3g}, not in 0..1 (normalised in the data set itself?)")
    scaled = array.astype(np.float64) * 255
    nearest = np.rint(scaled)
    off = np.abs(scaled - nearest)
    if not rounded and off.max() > _EXACT:
        raise NotPixels(f"an image holds {float(array.flat[off.argmax()]):.6g}, no multiple of 1/255, and pixels are kept as 8 bits")
    return nearest.astype(np.uint8)


def _planes(array: np.ndarray, channels_first: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3), array.shape[2] in (1, 3)
        if first and (channels_first or not last):
            return array
        if last:
            return array.transpose(2, 0, 1)
    raise NotPixels(f"a sample has shape {list(array.shape)}, not [height, width], [channels, height, width] or [height, width, channels] with 1 or 3 channels")
