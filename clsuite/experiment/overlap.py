"""Whether two phases share a sample: decided by what the samples are, not by what their data set is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from ..errors import UsageError
from ..randomness import generator
from ..stream import Draw, Stream

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


def check_disjoint(tuning: Iterable[Stream], evaluation: Iterable[Stream]) -> None:
    """Raises `UsageError` when a sample of one phase, to train or to test on, occurs in the other.

    Within one source a sample is its place in it; across sources it is its pixels (a 64-bit hash), so that a copy under another name
    is found.
    """
    first, second = _used(tuning), _used(evaluation)
    for a, own in first.items():
        for b, other in second.items():
            pairs = [(own[1][s], other[1][s]) for s in SPLITS] if a == b else [(_hashes(*own), _hashes(*other))]
            shared = sum(len(np.intersect1d(*pair)) for pair in pairs)
            if shared:
                names = own[0].source.name if a == b else f"{own[0].source.name} and {other[0].source.name}"
                raise UsageError(f"the tuning and the evaluation phase share {shared} samples of {names}; valid: a protocol.split that keeps them apart")


def _used(streams: Iterable[Stream]) -> dict[str, tuple[Stream, dict[str, np.ndarray]]]:
    """By source: one of its streams, and the indices all of them use."""
    found: dict[str, tuple[Stream, dict[str, np.ndarray]]] = {}
    for stream in streams:
        known = found.setdefault(stream.source.identity, (stream, {s: np.zeros(stream.source.size(s), bool) for s in SPLITS}))[1]
        for experience in stream.experiences:
            for segment in experience.segments:
                known["train"][segment.content.pool if isinstance(segment.content, Draw) else segment.content] = True
        for evaluation_set in stream.evaluation_sets:
            known["test"][evaluation_set.indices] = True
    return {name: (stream, {s: np.flatnonzero(mask) for s, mask in masks.items()}) for name, (stream, masks) in found.items()}


def _hashes(stream: Stream, indices: dict[str, np.ndarray]) -> np.ndarray:
    """A hash of what every sample is made of: the documents of text, or a random linear map of pixels modulo 2^64."""
    if stream.world == "text":
        return np.concatenate([stream.source.digests(split) for split in SPLITS])  # type: ignore[attr-defined]
    found = []
    for split in SPLITS:
        images = stream.source.images(split)
        size = int(np.prod(images.shape[1:]))
        weights = generator("sample identity").integers(0, 2**64, size, dtype=np.uint64) | np.uint64(1)
        for k in range(0, len(indices[split]), 1000):
            found.append(np.asarray(images[indices[split][k : k + 1000]]).reshape(-1, size).astype(np.uint64) @ weights)
    return np.concatenate(found)
