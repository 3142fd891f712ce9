"""What another library's code runs in: random numbers that are put back, one thread, no output, little patience with the network, no folders left behind."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 5.0
"""Silence on the network after which a connection is given up."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global generators seeded, and as they were afterwards."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch makes no thread of its own: the process may be one that others are forked from."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing reaches standard output or standard error."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def patience(network: bool = True) -> Iterator[None]:
    """Connections that stay silent are given up after seconds; none is opened without `network` or with CLSUITE_OFFLINE=1."""
    timeout, resolve = socket.getdefaulttimeout(), socket.getaddrinfo

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no connection is opened here")

    socket.setdefaulttimeout(SECONDS)
    if not network or os.environ.get("CLSUITE_OFFLINE") == "1":
        socket.getaddrinfo = refused
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        socket.getaddrinfo = resolve


@contextlib.contextmanager
def tidied(root: str) -> Iterator[None]:
    """When what is done fails, the empty folders it made in `root` are removed."""
    before = set(_entries(root))
    try:
        yield
    except BaseException:
        for made in sorted(set(_entries(root)) - before):
            for folder, _, _ in os.walk(made, topdown=False):
                with contextlib.suppress(OSError):  # one that holds something stays
                    os.rmdir(folder)
        raise


def _entries(root: str) -> list[Path]:
    return [p for p in Path(root).iterdir() if p.is_dir() and not p.is_symlink()] if os.path.isdir(root) else []
