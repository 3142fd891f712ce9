"""The built-in image sets: constants, the layouts each is found in, and the download."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import MissingData
from ..randomness import generator
from .cache import cached_array
from .layouts import read_cifar, read_idx, read_npz, read_sheets
from .places import Roots, download
from .source import ImageSource, Part

_DIGITS = [str(d) for d in range(10)]
_FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_CIFAR100_TEXT = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar cattle chair
chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter
palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = _CIFAR100_TEXT.split()


class Found(NamedTuple):
    """The two splits of a set that was found, and the files they come from."""

    train: Part
    test: Part
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """One way a set lies on disk: its folder under a root, and how to open it (None when a file is absent)."""

    folder: str
    open: Callable[[Path, str], Found | None]


def _idx(root: Path, folder: str) -> Found | None:
    def find(stem: str) -> Path | None:
        plain, packed = root / folder / stem, root / folder / f"{stem}.gz"
        return plain if plain.is_file() else packed if packed.is_file() else None

    files = [find(f"{split}-{part}-ubyte") for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]
    present = tuple(f for f in files if f is not None)
    if len(present) < 4:
        return None

    def part(images: Path, labels: Path) -> Part:
        name = f"idx-{Path(folder).name}-{images.name.partition('-')[0]}"
        return Part(lambda: read_idx(labels, 1), lambda: cached_array(name, [images], lambda: read_idx(images, 3)[:, None]))

    return Found(part(*present[:2]), part(*present[2:]), present)


def _sheets(name: str, train: str, test: str, labels: tuple[str, str]) -> Callable[[Path, str], Found | None]:
    def open_(root: Path, folder: str) -> Found | None:
        table, *packs = (root / folder / file for file in ("labels.npz", train, test))
        if not all(file.is_file() for file in (table, *packs)):
            return None

        def part(split: str, pack: Path, key: str) -> Part:
            return Part(lambda: read_npz(table, key), lambda: cached_array(f"{name}-{split}", [pack], lambda: read_sheets(pack)))

        return Found(part("train", packs[0], labels[0]), part("test", packs[1], labels[1]), (table, *packs))

    return open_


def _cifar(name: str, kind: str, train: tuple[str, ...], test: str, meta: str) -> Callable[[Path, str], Found | None]:
    def open_(root: Path, folder: str) -> Found | None:
        files = tuple(root / folder / file for file in (*train, test, meta))
        if not all(file.is_file() for file in files):
            return None

        def part(split: str) -> Part:
            decode = functools.cache(lambda: read_cifar(root, folder, kind, split == "train"))  # labels and images lie in the same files

            def images() -> np.ndarray:
                array = cached_array(f"{name}-{split}", files, lambda: decode()[0])
                decode.cache_clear()
                return array

            return Part(lambda: cached_array(f"{name}-{split}-labels", files, lambda: decode()[1]), images)

        return Found(part("train"), part("test"), files)

    return open_


@dataclass(frozen=True)
class Named:
    """A set with known shape, classes and statistics; called with the folders to search, it gives the source.

    Raises `MissingData` with every place looked at when it is in none of them and cannot be downloaded.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    defaults: dict[str, int | float]
    layouts: tuple[Layout, ...]
    torchvision: str | None = None
    stand_in: str | None = None
    """The folder of a part of this set that must not be taken for it."""

    def __call__(self, roots: list[Path]) -> ImageSource:
        source = self._search(roots)
        if source is not None:
            return source
        reason = "it cannot be downloaded"
        if self.torchvision is not None:
            to = roots.download_to if isinstance(roots, Roots) else roots[-1]
            reason = download(self.torchvision, self.name, to) or f"the download left no complete copy in {to}"
            source = self._search([to])
            if source is not None:
                return source
        raise MissingData(self._missing(roots, reason))

    def _search(self, roots: list[Path]) -> ImageSource | None:
        for root in roots:
            for layout in self.layouts:
                found = layout.open(root, layout.folder)
                if found is not None:
                    return ImageSource(
                        self.name,
                        self.shape,
                        self.class_names,
                        found.train,
                        found.test,
                        files=found.files,
                        mean=self.mean,
                        std=self.std,
                        defaults=self.defaults,
                    )
        return None

    def _missing(self, roots: list[Path], reason: str) -> str:
        folders = " or ".join(f"{layout.folder}/" for layout in self.layouts)
        text = f"data set '{self.name}' not found: looked for {folders} in {', '.join(map(str, roots))}"
        partial = [root / layout.folder for root in roots for layout in self.layouts if (root / layout.folder).is_dir()]
        if partial:
            text += f"; incomplete: {', '.join(map(str, partial))}"
        if self.stand_in and any((root / self.stand_in).is_dir() for root in roots):
            text += "; only its subset is there (dataset 'cifar10_subset')"
        network = ", or a network for the download" if self.torchvision else ""
        return f"{text}; {reason}; give --data-root or CLSUITE_DATA{network}"


_MNIST_DEFAULTS = {"epochs": 1, "batch_size": 128, "learning_rate": 0.1, "buffer_size": 500}
_CIFAR_DEFAULTS = {"epochs": 5, "batch_size": 32, "learning_rate": 0.03, "buffer_size": 500}
_CIFAR10_MEAN, _CIFAR10_STD = (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)

mnist = Named("mnist", (1, 28, 28), _DIGITS, (0.13066,), (0.30811,), _MNIST_DEFAULTS, (Layout("mnist", _idx), Layout("MNIST/raw", _idx)), torchvision="MNIST")
fashion_mnist = Named(
    "fashion_mnist",
    (1, 28, 28),
    _FASHION,
    (0.28604,),
    (0.35302,),
    _MNIST_DEFAULTS,
    (Layout("fashion-mnist", _idx), Layout("FashionMNIST/raw", _idx)),
    torchvision="FashionMNIST",
)
cifar10 = Named(
    "cifar10",
    (3, 32, 32),
    _CIFAR10,
    _CIFAR10_MEAN,
    _CIFAR10_STD,
    _CIFAR_DEFAULTS,
    (Layout("cifar-10-batches-py", _cifar("cifar10", "CIFAR10", tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")),),
    torchvision="CIFAR10",
    stand_in="cifar10-subset",
)
cifar100 = Named(
    "cifar100",
    (3, 32, 32),
    _CIFAR100,
    (0.50708, 0.48655, 0.44092),
    (0.26733, 0.25644, 0.27615),
    _CIFAR_DEFAULTS,
    (
        Layout("cifar100", _sheets("cifar100", "train.webp.zip", "test.webp.zip", ("train_fine", "test_fine"))),
        Layout("cifar-100-python", _cifar("cifar100", "CIFAR100", ("train",), "test", "meta")),
    ),
    torchvision="CIFAR100",
)
cifar10_subset = Named(
    "cifar10_subset",
    (3, 32, 32),
    _CIFAR10,
    _CIFAR10_MEAN,
    _CIFAR10_STD,
    _CIFAR_DEFAULTS,
    (Layout("cifar10-subset", _sheets("cifar10_subset", "train4000.webp.zip", "test2000.webp.zip", ("train", "test"))),),
)


def digits(roots: list[Path]) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits, 8x8, divided 80/20 within each class.

    Values 0..16 become `round(value * 255 / 16)`. Within class c the generator named (0, "digits", c) permutes the
    samples; the first `round(0.8 n_c)` train, the rest test; each split keeps the original order.
    """
    images, labels, files = _digits_table()
    train = np.zeros(len(labels), dtype=bool)
    for c in range(10):
        members = generator(0, "digits", c).permutation(np.flatnonzero(labels == c))
        train[members[: round(0.8 * len(members))]] = True
    pixels = np.round(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)

    def part(chosen: np.ndarray) -> Part:
        return Part(lambda: labels[chosen], lambda: pixels[chosen])

    return ImageSource(
        "digits",
        (1, 8, 8),
        _DIGITS,
        part(train),
        part(~train),
        files=files,
        mean=(0.30503,),
        std=(0.37582,),
        defaults={"epochs": 10, "batch_size": 16, "learning_rate": 0.1, "buffer_size": 50},
    )


def _digits_table() -> tuple[np.ndarray, np.ndarray, tuple[Path, ...]]:
    """Values [1797, 64], labels [1797], and the file they come from.

    The table is read straight from scikit-learn's package folder: importing scikit-learn takes seconds.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as text:
                table = np.loadtxt(text, delimiter=",")
            return table[:, :64], table[:, 64].astype(np.int64), (file,)
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data, data.target.astype(np.int64), ()
