"""Benchmarks in: what an Avalanche benchmark holds as resident pixels and a table of who is in which experience.

    benchmark = clsuite.from_avalanche(avalanche_benchmark)
    clsuite.run(scenario={"name": ..., "benchmark": benchmark}, strategy="replay")      # its experiences
    clsuite.run(scenario={"name": ..., "dataset": benchmark.source}, strategy="replay")   # its images alone

A sample is its pixels and its label: one that occurs in several experiences, or twice in the data, is held once and has one number.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import source as sources
from ..data.source import GENERIC_DEFAULTS, ImageSource, Part
from ..errors import UsageError
from . import avalanche, one_line, quiet
from .avalanche_pixels import NotPixels, Place, pixels, untransformed

PREFIX = "imported:"
_LOOKS = 3
"""Samples of an experience that are read twice, to see whether what is read is random."""


@dataclass(frozen=True, eq=False)
class Membership:
    """The samples of one experience, in its order: numbers in the source and task labels, int64 [samples] each."""

    indices: np.ndarray
    tasks: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def only(self, chosen: np.ndarray) -> Membership:
        """Those whose place in `chosen`, a mask over the source, is true."""
        kept = chosen[self.indices]
        return Membership(self.indices[kept], self.tasks[kept])


@dataclass(frozen=True, eq=False)
class ImportedBenchmark:
    """An Avalanche benchmark as data: `source` holds its distinct samples, `train` and `test` its experiences.

    `labels[c]` is the benchmark's label of class c. `transformed`: pixels are taken after the benchmark's evaluation transforms,
    because before them they were no images of one size.
    """

    source: ImageSource
    train: tuple[Membership, ...]
    test: tuple[Membership, ...]
    labels: tuple[int, ...]
    transformed: bool = False
    title: str = ""
    defaults: Mapping[str, Any] = field(default_factory=lambda: GENERIC_DEFAULTS)

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 over the pixels, the labels, and who is in which experience with which task label."""
        h = hashlib.sha256(json.dumps([self.source.identity, self.labels]).encode())
        for name, rows in (("train", self.train), ("test", self.test)):
            for i, row in enumerate(rows):
                h.update(f"{name} {i} {len(row)}".encode() + row.indices.astype("<i8").tobytes() + row.tasks.astype("<i8").tobytes())
        return h.hexdigest()

    @property
    def name(self) -> str:
        """What settings call it in this process."""
        return f"{PREFIX}{self.identity[:12]}"


_IMPORTED: dict[str, ImportedBenchmark] = {}


def imported(name: str) -> ImportedBenchmark:
    """The benchmark that was imported under a name; raises `UsageError` in a process that has not imported it."""
    if name not in _IMPORTED:
        raise UsageError(f"scenario.benchmark = '{name}' was imported in another process: call clsuite.from_avalanche(...) with the same benchmark first")
    return _IMPORTED[name]


def from_avalanche(
    benchmark: Any, *, round_pixels: bool = False, title: str | None = None, defaults: Mapping[str, Any] = GENERIC_DEFAULTS
) -> ImportedBenchmark:
    """The samples and the experiences of an Avalanche benchmark of image classification, read once.

    Taken: pixels before the exchangeable transforms (after frozen ones, which make permuted and rotated benchmarks), `targets`, task
    labels, which sample is in which experience, training and test streams. Where images differ in size before those transforms, pixels
    are taken after the ones for evaluation. Not taken: transforms that can be exchanged, other streams, anything else on experiences.

    Pixels are kept as 8 bits. `round_pixels` allows floats in 0..1 that are no multiples of 1/255, as round(255 x). `title` is what tables
    call it, `defaults` training settings that fit its data. Raises `UsageError` in one line for what cannot be imported.
    """
    avalanche()
    with quiet():
        train, test = (_experiences(benchmark, split) for split in ("train", "test"))
        try:
            found = _read(train, test, round_pixels, transformed=False)
        except NotPixels as raw:
            try:
                found = _read(train, test, round_pixels, transformed=True)
            except NotPixels as after:
                changed = "" if str(after) == str(raw) else f"; after its transforms for evaluation, {after}"
                hint = "" if "1/255" not in f"{raw}{changed}" else " (valid: round_pixels = true, to round them)"
                raise UsageError(f"benchmark cannot be imported: {raw}{changed}{hint}") from after
    parts, labels, transformed = found
    source = _source(parts, labels, title)
    members, held = (tuple(part.members) for part in parts)
    result = ImportedBenchmark(source, members, held, labels, transformed, title or source.name, dict(defaults))
    _IMPORTED[result.name] = result
    return result


def _source(parts: Sequence[_Samples], labels: tuple[int, ...], title: str | None) -> ImageSource:
    """The samples as data in memory, found by its name; classes that are only tested count too, which `images` does not allow."""
    train, test = (_part(np.searchsorted(labels, part.labels), part.images()) for part in parts)
    shape = parts[0].shape
    assert shape is not None
    source = ImageSource("memory:", (shape[0], shape[1], shape[2]), [str(label) for label in labels], train, test, title=title)
    source.name = f"memory:{source.identity[:12]}"
    source.title = title or source.name
    return sources._MEMORY.setdefault(source.name, source)


def _part(labels: np.ndarray, pixels: np.ndarray) -> Part:
    return Part(lambda: labels, lambda: pixels)


def _experiences(benchmark: Any, split: str) -> list[Any]:
    stream = getattr(benchmark, f"{split}_stream", None)
    if stream is None:
        raise UsageError(f"benchmark {type(benchmark).__name__} has no {split}_stream: expected an Avalanche benchmark with a training and a test stream")
    found = list(stream)
    if not found:
        raise UsageError(f"benchmark {type(benchmark).__name__}: its {split}_stream has no experience")
    for i, experience in enumerate(found):
        if not hasattr(getattr(experience, "dataset", None), "targets"):
            raise UsageError(f"{split} experience {i} of the benchmark has no data set with class labels (targets): only classification can be imported")
    return found


def _read(train: Sequence[Any], test: Sequence[Any], rounded: bool, transformed: bool) -> tuple[list[_Samples], tuple[int, ...], bool]:
    parts: list[_Samples] = []
    for split, experiences in (("train", train), ("test", test)):
        part = _Samples(split, rounded, transformed, None if not parts else parts[0].shape)
        for i, experience in enumerate(experiences):
            part.add(i, experience)
        parts.append(part)
    labels = tuple(sorted({label for part in parts for label in part.labels}))
    return parts, labels, transformed


class _Samples:
    """The distinct samples of one split in order of first appearance, and which of them each experience has."""

    def __init__(self, split: str, rounded: bool, transformed: bool, shape: tuple[int, ...] | None):
        self.split, self.rounded, self.transformed, self.shape = split, rounded, transformed, shape
        self.labels: list[int] = []
        self.members: list[Membership] = []
        self._bytes = bytearray()
        self._by_content: dict[bytes, int] = {}
        self._by_place: dict[tuple[int, ...], dict[int, int]] = {}
        self._alive: list[Any] = []  # what `_by_place` goes by: an id is only its object's as long as the object lives

    def images(self) -> np.ndarray:
        assert self.shape is not None
        return np.frombuffer(self._bytes, np.uint8).reshape(-1, *self.shape)

    def add(self, number: int, experience: Any) -> None:
        data, where = experience.dataset, f"{self.split} experience {number}"
        if self.transformed and hasattr(data, "eval"):
            data = data.eval()
        targets = [int(t) for t in data.targets]
        if not targets:
            raise UsageError(f"{where} of the benchmark has no sample")
        if min(targets) < 0:
            raise UsageError(f"{where} of the benchmark has label {min(targets)}: expected labels >= 0")
        indices = [self._number(data, k, label, where, look=k < _LOOKS) for k, label in enumerate(targets)]
        self.members.append(Membership(np.array(indices, dtype=np.int64), _tasks(experience, len(targets))))

    def _number(self, data: Any, k: int, label: int, where: str, look: bool) -> int:
        place = Place(data, k) if self.transformed else untransformed(data, k)
        owner, number = place.origin
        key = (label, *map(id, owner))
        if key not in self._by_place:
            self._by_place[key] = {}
            self._alive.append(owner)
        known = self._by_place[key]
        if number not in known:
            where = f"{where} of the benchmark: sample {k}"
            image = self._pixels(place, label, where)
            if look and not np.array_equal(image, self._pixels(place, label, where)):
                raise UsageError(f"{where} is random: two readings of it differ (valid: random transforms among those that can be exchanged)")
            known[number] = self._kept(image, label)
        return known[number]

    def _pixels(self, place: Place, label: int, where: str) -> np.ndarray:
        try:
            image, given = place.item()
            if int(given) != label:
                raise UsageError(f"{where} comes with label {int(given)}, its targets say {label}")
            found = pixels(image, self.rounded)
        except (NotPixels, UsageError):
            raise
        except Exception as error:  # the data set's own code, or a file that cannot be read
            raise UsageError(f"{where} cannot be read: {one_line(error)}") from error
        self.shape = self.shape or found.shape
        if found.shape != self.shape:
            raise NotPixels(f"its images differ in shape: {list(self.shape)} and {list(found.shape)} [channels, height, width]")
        return found

    def _kept(self, image: np.ndarray, label: int) -> int:
        raw = image.tobytes()
        content = hashlib.blake2b(raw, digest_size=16, key=str(label).encode()).digest()
        number = self._by_content.setdefault(content, len(self.labels))
        if number == len(self.labels):
            self._bytes += raw
            self.labels.append(label)
        return number


def _tasks(experience: Any, count: int) -> np.ndarray:
    """The task labels of an experience's samples: 0 where there are none."""
    labels = getattr(experience.dataset, "targets_task_labels", None)
    if labels is None:
        own = list(getattr(experience, "task_labels", None) or [0])
        labels = [own[0] if len(own) == 1 else 0] * count
    return np.array([int(t) for t in labels], dtype=np.int64)
