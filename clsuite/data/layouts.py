"""Decoders of files: IDX, sheets of WebP tiles, torchvision's CIFAR folders, folders of images by class.

Every decoder gives uint8 [samples, channels, height, width] or int64 [samples] and raises one `UsageError` that names
the file when it is damaged. Nothing is unpickled here.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .places import one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a decoder raises into one line that names the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, SyntaxError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read, it may be damaged: {one_line(error)}") from error


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, plain or gzip: uint8 with `dimensions` axes.

    Header: two zero bytes, type 8 (unsigned byte), the number of dimensions, then each dimension as big-endian uint32.
    """
    with readable(path):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < 4 + 4 * dimensions:
        raise UsageError(f"{path} is not an IDX file of bytes with {dimensions} dimensions (it starts with 0x{content[:4].hex()})")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    expected = 4 + 4 * dimensions + math.prod(shape)
    if len(content) != expected:
        raise UsageError(f"{path} is damaged: it holds {len(content)} bytes, its header {shape} asks for {expected}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def read_npz(path: Path, key: str) -> np.ndarray:
    """One array of an `.npz` file."""
    with readable(path), np.load(path, allow_pickle=False) as arrays:
        return arrays[key]


def read_sheets(path: Path, side: int = 32) -> np.ndarray:
    """A zip of RGB picture sheets in name order, each a row-major grid of tiles `side` pixels wide."""
    from PIL import Image

    parts = []
    with readable(path), zipfile.ZipFile(path) as sheets:
        for name in sorted(sheets.namelist()):
            with Image.open(io.BytesIO(sheets.read(name))) as image:
                sheet = np.asarray(image.convert("RGB"))
            rows, columns = sheet.shape[0] // side, sheet.shape[1] // side
            tiles = sheet.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3)
            parts.append(tiles.reshape(-1, 3, side, side))
    if not parts:
        raise UsageError(f"{path} holds no picture sheet")
    return np.concatenate(parts)


def read_cifar(root: Path, folder: str, kind: str, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `root/folder` through `torchvision.datasets.<kind>`, which compares MD5 sums before it unpickles."""
    import torchvision.datasets

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy deprecations about how the published files were pickled
            data = getattr(torchvision.datasets, kind)(root, train=train, download=False)
    except Exception as error:
        raise UsageError(f"{root / folder} is damaged or not the published data: {one_line(error)}") from error
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.asarray(data.targets, dtype=np.int64)


def files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files of `folder/<class>/`, classes and files in name order."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: expected PATH/train/<class>/ and PATH/test/<class>/ with images")
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        found[path.name] = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if not found[path.name]:
            raise UsageError(f"{path} holds no image (valid endings: {', '.join(sorted(SUFFIXES))})")
    if not found:
        raise UsageError(f"{folder} holds no class folder: expected PATH/train/<class>/ and PATH/test/<class>/ with images")
    return found


def survey(files: Sequence[Path]) -> tuple[int, int, int]:
    """The one (channels, height, width) of image files, from their headers; colour as soon as one file has colour."""
    from PIL import Image

    channels, size = 1, None
    for file in files:
        with readable(file), Image.open(file) as image:
            found, mode = image.size, image.mode
        if mode in ("I", "F") or mode.startswith("I;"):
            raise UsageError(f"{file} has more than 8 bits a channel; give 8-bit images")
        if size is None:
            size = found
        if found != size:
            raise UsageError(f"{file} is {found[0]}x{found[1]} (width x height), {files[0]} is {size[0]}x{size[1]}; all images must have one size")
        if mode not in ("1", "L", "LA"):
            channels = 3
    assert size is not None
    return channels, size[1], size[0]


def read_pictures(files: Sequence[Path], shape: tuple[int, int, int]) -> np.ndarray:
    """Image files of one size, grey or RGB; an alpha channel is dropped."""
    from PIL import Image

    images = np.empty((len(files), *shape), dtype=np.uint8)
    for k, file in enumerate(files):
        with readable(file), Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"))
        images[k] = pixels.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)
    return images
