"""Image data by name: shapes, labels and statistics at once, pixels when they are asked for.

    source = load_source("mnist")
    source.labels("train")    # int64 [60000]; no image is decoded
    source.images("train")    # uint8 [60000, 1, 28, 28]

Names: the catalogue in `clsuite.data`, entry points of the group `clsuite.data`, `folder:PATH` for images by class,
`memory:DIGEST` for arrays given to `images`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UsageError, unknown
from . import CATALOGUE
from .arrays import read_labels, read_pixels
from .cache import cached_text, file_key
from .layouts import files_by_class, read_pictures, survey
from .places import Roots, one_line, search_roots

SplitName = Literal["train", "test"]
Builder = Callable[[list[Path]], "ImageSource"]
GROUP = "clsuite.data"

GENERIC_DEFAULTS: dict[str, int | float] = {"epochs": 1, "batch_size": 64, "learning_rate": 0.05, "buffer_size": 200}
"""Training defaults for data nobody has tuned for."""


@dataclass(frozen=True)
class Part:
    """How to get one split: integer labels [N], and uint8 images [N, channels, height, width]; each is called once."""

    labels: Callable[[], np.ndarray]
    images: Callable[[], np.ndarray]


class ImageSource:
    """Images of one shape with integer labels 0..classes-1, in a train and a test split.

    `shape` is (channels, height, width). `mean` and `std` are per channel, in 0..1, for named sets constants of the
    train split; a constant channel has std 1/255 so that it can be divided by. `defaults` are training settings that fit
    the data: `epochs`, `batch_size`, `learning_rate`, `buffer_size`. `files` are what the data is read from (none: memory).
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        class_names: Sequence[str],
        train: Part,
        test: Part,
        *,
        files: Sequence[Path] = (),
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        defaults: Mapping[str, int | float] = GENERIC_DEFAULTS,
        title: str | None = None,
    ):
        self.name = name
        self.title = title or name
        self.shape = shape
        self.class_names = list(class_names)
        self.files = tuple(files)
        self.defaults: dict[str, Any] = dict(defaults)
        self._parts = {"train": train, "test": test}
        self._statistics = (mean, std) if mean is not None and std is not None else None
        self._labels: dict[str, np.ndarray] = {}
        self._images: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"ImageSource({self.name!r}, shape={self.shape}, classes={self.classes})"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def grey(self) -> bool:
        """Whether images have one channel."""
        return self.shape[0] == 1

    def measured_on_train(self) -> ImageSource:
        """The same data with the training samples also in the place of the test samples; arrays are shared, not copied."""
        train = Part(lambda: self.labels("train"), lambda: self.images("train"))
        found = ImageSource(self.name, self.shape, self.class_names, train, train, mean=self.mean, std=self.std, defaults=self.defaults, title=self.title)
        found.identity = f"{self.identity} measured on train"
        return found

    def size(self, split: SplitName) -> int:
        """Samples in a split."""
        return len(self.labels(split))

    def labels(self, split: SplitName) -> np.ndarray:
        """Labels of a split: int64 [N]. No image is decoded, except where labels and images share a file."""
        if split not in self._labels:
            labels = np.ascontiguousarray(self._part(split).labels(), dtype=np.int64)
            if not len(labels) or labels.min() < 0 or labels.max() >= self.classes:
                raise UsageError(f"data set '{self.name}': {split} labels must be 0..{self.classes - 1} and at least one")
            self._labels[split] = labels
        return self._labels[split]

    def images(self, split: SplitName) -> np.ndarray:
        """Pixels of a split: uint8 [N, channels, height, width], C-contiguous, read-only where mapped from the cache."""
        if split not in self._images:
            images = self._part(split).images()
            expected = (self.size(split), *self.shape)
            if images.shape != expected or images.dtype != np.uint8:
                raise UsageError(f"data set '{self.name}': {split} images are {images.dtype} {images.shape}, expected uint8 {expected}")
            # not ascontiguousarray: it would turn a memory map into a plain array
            self._images[split] = images if images.flags.c_contiguous else np.ascontiguousarray(images)
        return self._images[split]

    def _part(self, split: str) -> Part:
        if split not in self._parts:
            raise unknown("split", split, self._parts)
        return self._parts[split]

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of the decoded data, the same for every layout of it.

        For train, then test: the image shape as text `[N, C, H, W]`, the image bytes, the labels as little-endian int64.
        """
        if not self.files:
            return self._identity()
        return cached_text("identity", file_key(self.files, self.name), "[0-9a-f]{64}", self._identity)

    def _identity(self) -> str:
        h = hashlib.sha256()
        splits: tuple[SplitName, ...] = ("train", "test")
        for split in splits:
            images = self.images(split)
            h.update(str(list(images.shape)).encode())
            h.update(images.reshape(-1).data)
            h.update(self.labels(split).astype("<i8").tobytes())
        return h.hexdigest()

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in 0..1."""
        return self._mean_and_std[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in 0..1 (population formula, at least 1/255)."""
        return self._mean_and_std[1]

    @functools.cached_property
    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self._statistics is not None:
            return self._statistics
        images = self.images("train")
        values = np.arange(256) / 255
        means, stds = [], []
        for c in range(self.shape[0]):
            # counts per value are exact integers: the result does not depend on the order of summation
            counts = sum(np.bincount(images[k : k + 4096, c].reshape(-1), minlength=256) for k in range(0, len(images), 4096))
            share = counts / np.sum(counts)
            mean = float(share @ values)
            means.append(mean)
            stds.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1 / 255))
        return tuple(means), tuple(stds)


_MEMORY: dict[str, ImageSource] = {}
_LOADED: dict[tuple[str, tuple[Path, ...]], ImageSource] = {}


def load_source(name: str, data_root: str | None = None) -> ImageSource:
    """The source of that name, once per process and search path.

    `data_root` is searched before the environment's `CLSUITE_DATA` and the platform's cache folder. Raises `UsageError`
    for an unknown name or a damaged file, `MissingData` when the data is nowhere and cannot be downloaded.
    """
    if name.startswith("memory:"):
        if name not in _MEMORY:
            raise UsageError(f"dataset = '{name}' is data in memory that this process does not hold: call clsuite.images(...) with the same arrays first")
        return _MEMORY[name]
    roots = search_roots(data_root)
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser().absolute()
        key: tuple[str, tuple[Path, ...]] = (name, (path,))
        build: Builder = functools.partial(_folder, name, path)
    else:
        key = (name, tuple(root.absolute() for root in roots))
        build = _from_roots(name)
    if key not in _LOADED:
        _LOADED[key] = build(roots)
    return _LOADED[key]


def _from_roots(name: str) -> Builder:
    if name in CATALOGUE:
        module, attribute = CATALOGUE[name].split(":")
        return getattr(importlib.import_module(module, __package__), attribute)
    return _third_party(name)


def _third_party(name: str) -> Builder:
    """The builder another package has under this name; its own faults are told as such."""
    points = [p for p in importlib.metadata.entry_points(group=GROUP) if p.attr]
    for point in points:
        if point.name != name:
            continue
        try:
            build = point.load()
        except Exception as error:  # another package's code: anything may go wrong, and must not stop this one
            warnings.warn(f"data set '{name}' of entry point {point.value} is left out: {type(error).__name__}: {one_line(error)}", stacklevel=4)
            continue

        def checked(roots: list[Path], build: Callable[..., Any] = build, value: str = point.value) -> ImageSource:
            source = build(roots)
            if not isinstance(source, ImageSource):
                raise UsageError(f"data set '{name}': {value} gave {type(source).__name__}, expected clsuite.data.source.ImageSource")
            return source

        return checked
    raise unknown("data set", name, [*CATALOGUE, *(p.name for p in points), "folder:PATH"])


def _folder(name: str, path: Path, roots: Roots) -> ImageSource:
    """`PATH/train/<class>/*` and `PATH/test/<class>/*`, classes in name order, all images of one size."""
    train, test = files_by_class(path / "train"), files_by_class(path / "test")
    if list(train) != list(test):
        odd = sorted(set(train) ^ set(test))[0]
        there, absent = ("train", "test") if odd in train else ("test", "train")
        raise UsageError(f"{path / there / odd} has no counterpart {path / absent / odd}: train and test need the same class folders")
    files = [f for split in (train, test) for members in split.values() for f in members]
    facts = cached_text("survey", file_key(files), r"\d+ \d+ \d+", lambda: " ".join(map(str, survey(files))))
    channels, height, width = map(int, facts.split())
    shape = (channels, height, width)

    def part(split: dict[str, list[Path]]) -> Part:
        return Part(
            lambda: np.repeat(np.arange(len(split)), [len(members) for members in split.values()]),
            lambda: read_pictures([f for members in split.values() for f in members], shape),
        )

    return ImageSource(name, shape, list(train), part(train), part(test), files=files)


def images(x: Any, y: Any, x_test: Any, y_test: Any, name: str | None = None) -> ImageSource:
    """A source from arrays in memory (NumPy or torch), named `memory:DIGEST` after its content.

    Images: uint8, or floats in 0..1 (stored as `round(255 x)`), shaped [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1
    or 3. Labels: integers 0..C-1, every class present in `y`. `name` is a title for people. The same arrays have the
    same name in every process; a process that is to load them by name must have made this call. Raises `UsageError`.
    """
    pixels = {"train": read_pixels(x, "x"), "test": read_pixels(x_test, "x_test")}
    labels = {"train": read_labels(y, "y", len(pixels["train"])), "test": read_labels(y_test, "y_test", len(pixels["test"]))}
    if pixels["train"].shape[1:] != pixels["test"].shape[1:]:
        raise UsageError(f"x_test has images of shape {pixels['test'].shape[1:]}, x of shape {pixels['train'].shape[1:]} (channels, height, width)")
    present = np.unique(labels["train"])
    if present[-1] != len(present) - 1:
        raise UsageError(f"y has {len(present)} classes but values up to {present[-1]}: expected labels 0..{len(present) - 1}, each at least once")
    if labels["test"].max() >= len(present):
        raise UsageError(f"y_test has label {labels['test'].max()}, which y lacks: expected labels 0..{len(present) - 1}")
    parts = [Part(functools.partial(labels.__getitem__, split), functools.partial(pixels.__getitem__, split)) for split in ("train", "test")]
    source = ImageSource("memory:", tuple(pixels["train"].shape[1:]), [str(c) for c in range(len(present))], *parts, title=name)
    source.name = f"memory:{source.identity[:12]}"
    source.title = name or source.name
    return _MEMORY.setdefault(source.name, source)
