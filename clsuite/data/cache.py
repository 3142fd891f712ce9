"""Results on disk that are dear to compute: decoded arrays and short texts, keyed by the files they come from.

A cached file is written to a temporary name and renamed, so that several processes may fill the cache at once. One that
is damaged or cannot be written costs time, never a run: the value is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

_FORMAT = 1
"""Raised when the decoded form of the same files changes."""


def cache_root() -> Path:
    """The suite's cache folder on this platform (`XDG_CACHE_HOME` is honoured on Linux)."""
    return _cache_root(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))


@functools.cache
def _cache_root(xdg: str | None, home: str | None) -> Path:
    """Of one surrounding; asked for once a cell, and slow to find out."""
    return Path(platformdirs.user_cache_dir("clsuite", appauthor=False))


def file_key(files: Iterable[Path], *extra: str) -> str:
    """A key that changes when a file's path, size or modification time changes."""
    h = hashlib.sha256(f"{_FORMAT} {extra}".encode())
    for file in files:
        stat = file.stat()
        h.update(f"{os.path.abspath(file)}|{stat.st_size}|{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return h.hexdigest()[:24]


def cached_array(name: str, files: Iterable[Path], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """`compute()`, memory-mapped read-only from the cache when an undamaged copy is there or can be written."""
    path = cache_root() / "arrays" / f"{name}-{file_key(files, name)}.npy"
    found = _read(path)
    if found is not None:
        return found
    array = np.ascontiguousarray(compute())

    def write(file: Any) -> None:
        np.lib.format.write_array(file, array, allow_pickle=False)
        file.write(zlib.crc32(array.reshape(-1).view(np.uint8).data).to_bytes(4, "big"))

    stored = _read(path) if _replace(path, write) else None
    return array if stored is None else stored


def _read(path: Path) -> np.ndarray | None:
    """The array, if header, length and the CRC-32 behind it agree."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        end = array.offset + array.nbytes
        with path.open("rb") as file:
            file.seek(end)
            tail = file.read()
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data).to_bytes(4, "big")
        return array if tail == crc else None
    except Exception:  # whatever is wrong with a cached file, its content can be computed again
        return None


def cached_text(kind: str, key: str, pattern: str | Callable[[str], bool], compute: Callable[[], str]) -> str:
    """`compute()`, or the cached text under this key when all of it matches `pattern` (an expression, or a function that judges it)."""
    path = cache_root() / kind / f"{key}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if re.fullmatch(pattern, text) if isinstance(pattern, str) else pattern(text):
            return text
    text = compute()
    _replace(path, lambda file: file.write(text.encode()))
    return text


def _replace(path: Path, write: Callable[[Any], object]) -> bool:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            temporary = file.name
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return True
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return False
