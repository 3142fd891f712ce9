"""Corpora that are tokens already: `.npy` (any integer array of one dimension) and `.bin` (little-endian uint16, no header)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import UsageError
from ..layouts import readable
from .documents import block_size

TOKEN_ENDINGS = frozenset({".npy", ".bin"})
_CHUNK = 1 << 21


def token_documents(files: Sequence[Path], size: int, end_of_text: int) -> Iterator[np.ndarray]:
    """Documents as uint32 arrays: what stands between end-of-text tokens and file borders, long ones in blocks of tokens.

    `size` is the vocabulary's. Raises `UsageError` for floats, more than one dimension, and ids outside 0..size-1.
    """
    arrays = [_mapped(file) for file in files]
    block = block_size(sum(len(array) for array in arrays))
    for path, array in zip(files, arrays, strict=True):
        for first, last in _bounds(path, array, block, size, end_of_text):
            if last > first:
                yield np.array(array[first:last], dtype="<u4")


def _mapped(path: Path) -> np.ndarray:
    with readable(path):
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r" if path.stat().st_size else None, allow_pickle=False)
        else:
            length = path.stat().st_size
            if length % 2:
                raise UsageError(f"{path} holds {length} bytes, which is no whole number of uint16 tokens: save other types as .npy")
            array = np.memmap(path, "<u2", mode="r") if length else np.empty(0, "<u2")
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise UsageError(f"{path} holds {array.dtype} of shape {array.shape}: expected token ids, integers in one dimension")
    return array


def _bounds(path: Path, array: np.ndarray, block: int, size: int, end_of_text: int) -> Iterator[tuple[int, int]]:
    start = 0
    for base in range(0, len(array), _CHUNK):
        chunk = np.asarray(array[base : base + _CHUNK])
        wrong = (chunk < 0) | (chunk >= size) if chunk.dtype.kind == "i" else chunk >= size
        if wrong.any():
            at = int(np.argmax(wrong))
            raise UsageError(f"{path}: token {base + at} is {int(chunk[at])}, the tokenizer has ids 0..{size - 1}: choose the tokenizer that made the file")
        for end in (base + np.flatnonzero(chunk == end_of_text)).tolist():
            while end - start > 2 * block:
                yield start, start + block
                start += block
            yield start, end
            start = end + 1
        while base + len(chunk) - start > 2 * block:
            yield start, start + block
            start += block
    yield start, len(array)
