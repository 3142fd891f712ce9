"""Checks on arrays a caller hands over: NumPy or torch in, uint8 [N, C, H, W] and int64 [N] out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UsageError


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def read_pixels(value: Any, what: str) -> np.ndarray:
    """Images of any accepted type and axis order as a fresh uint8 [N, C, H, W]; `what` is the argument's name in errors."""
    array = _array(value)
    if array.ndim not in (3, 4) or not array.size:
        raise UsageError(f"{what} has shape {array.shape}: expected [N, H, W], [N, H, W, C] or [N, C, H, W] with at least one image")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise UsageError(f"{what} holds values from {low:g} to {high:g}: expected uint8, or floats in 0..1")
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UsageError(f"{what} is {array.dtype}: expected uint8, or floats in 0..1")
    if array.ndim == 3:
        array = array[:, None]
    else:
        first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
        if first == last:
            why = "either axis 1 or axis 3 may be the channels" if first else "neither axis 1 nor axis 3 is 1 or 3 channels"
            raise UsageError(f"{what} has shape {array.shape}: {why}; expected [N, H, W, C] or [N, C, H, W] with C 1 or 3")
        array = array if first else array.transpose(0, 3, 1, 2)
    return np.array(array, order="C")  # a copy: the caller may go on writing to theirs


def read_labels(value: Any, what: str, count: int) -> np.ndarray:
    """Labels of `count` images as int64 [count], none negative."""
    array = _array(value)
    if array.shape != (count,):
        raise UsageError(f"{what} has shape {array.shape}: expected one label for each of {count} images")
    if not np.issubdtype(array.dtype, np.integer):
        raise UsageError(f"{what} is {array.dtype}: expected integer labels 0..C-1")
    if array.min() < 0:
        raise UsageError(f"{what} has label {array.min()}: expected labels 0..C-1")
    return array.astype(np.int64)
