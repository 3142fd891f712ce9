"""Where data is looked for, and the download when it is nowhere."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .cache import cache_root

_SECONDS = 15.0
"""Silence on the network after which a download is given up."""


class Roots(list[Path]):
    """Folders searched for data, in order; `download_to` is where a download goes."""

    download_to: Path


def search_roots(data_root: str | None) -> Roots:
    """`data_root`, then `CLSUITE_DATA`, then the cache folder; `UsageError` when one that was asked for is no folder."""
    platform = cache_root() / "data"
    roots = Roots()
    for setting, value in (("data_root (--data-root)", data_root), ("CLSUITE_DATA", os.environ.get("CLSUITE_DATA"))):
        if not value:
            continue
        path = Path(value).expanduser()
        if not path.is_dir():
            raise UsageError(f"{setting} = {value!r} is not a folder: expected the folder that holds the data sets")
        roots.append(path)
    roots.append(platform)
    roots.download_to = roots[0] if data_root else platform
    return roots


def one_line(error: object, limit: int = 200) -> str:
    """An error's text without line breaks, cut to a readable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def download(kind: str, name: str, to: Path) -> str | None:
    """Fetch `torchvision.datasets.<kind>` into a folder; returns why not, or None when it is there now.

    Files are moved into place one by one when all have arrived and passed torchvision's checksums.
    """
    if os.environ.get("CLSUITE_OFFLINE") == "1":
        return "downloads are off (CLSUITE_OFFLINE=1)"
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to, prefix=".download-") as temporary:
            with _quiet(), _network_timeout(_SECONDS):
                import torchvision.datasets

                getattr(torchvision.datasets, kind)(temporary, download=True)
            for file in sorted(Path(temporary).rglob("*")):
                if file.is_file() and not file.name.endswith(".tar.gz"):
                    target = to / file.relative_to(temporary)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)
        print(f"downloaded {name} to {to}", file=sys.stderr)
    except Exception as error:  # network, disk, checksum, a proxy's page: the caller says what to do instead
        return f"download failed: {one_line(error)}"
    return None


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
