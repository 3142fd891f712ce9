"""What tests of image data share: small data sets as they lie in a folder, and errors in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def small_mnist(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8)[::-1].copy(),
    }


def write_mnist(folder: Path, packed: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    for name, array in small_mnist().items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return small_mnist()


def write_subset(root: Path) -> np.ndarray:
    """cifar10-subset with one sheet a split; returns the train images [100, 32, 32, 3]."""
    import zipfile

    folder = root / "cifar10-subset"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    sheet = np.zeros((320, 320, 3), np.uint8)
    for k in range(100):
        row, column = divmod(k, 10)
        sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = pixels[k]
    for file in ("train4000.webp.zip", "test2000.webp.zip"):
        Image.fromarray(sheet).save(folder / "000.webp", lossless=True, exact=True)
        with zipfile.ZipFile(folder / file, "w") as z:
            z.write(folder / "000.webp", "000.webp")
    labels = np.arange(100, dtype=np.uint8) % 10
    np.savez(folder / "labels.npz", train=labels, test=labels)
    return pixels


def write_folder(root: Path, size: tuple[int, int] = (5, 4), colour: bool = True) -> dict[str, np.ndarray]:
    """Two classes of PNGs, width x height = size; returns pixels by 'split/class/file'."""
    rng, pixels = np.random.default_rng(2), {}
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                array = rng.integers(0, 256, (size[1], size[0], 3) if colour else (size[1], size[0]), dtype=np.uint8)
                Image.fromarray(array).save(root / split / name / f"{k}.png")
                pixels[f"{split}/{name}/{k}"] = array
    return pixels


def message(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
