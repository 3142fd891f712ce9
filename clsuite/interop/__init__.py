"""Bridges to other libraries. Avalanche's package is imported only when it is asked for, and checked once.

    from clsuite import interop

    interop.avalanche()                                                # the package
    interop.part("training.supervised")                                # a module of it
    interop.part("training.supervised", "GDumb")                       # something in a module
    with interop.quiet():                                              # calls that would warn of their own deprecations
        ...

`avalanche_streams` lets streams out, `avalanche_benchmarks` lets benchmarks in, `avalanche_names` finds them by name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import UsageError, nearest

KNOWN = "0.6.0"
"""The version of Avalanche this is tested with."""
OLDEST, TOO_NEW = (0, 5), (0, 8)
"""Versions from the first, below the second, are let through; others are refused."""
_WORKING = f"version {KNOWN} is known to work (pip install avalanche-lib=={KNOWN})"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Avalanche's deprecation warnings, and those of what it imports, from users who cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        for message in ("Call to deprecated", "No loggers specified", "stream generator"):
            warnings.filterwarnings("ignore", message)
        yield


def installed() -> str | None:
    """The installed version of Avalanche, without importing it; None when there is none."""
    try:
        return importlib.metadata.version("avalanche-lib")
    except importlib.metadata.PackageNotFoundError:
        return None


def refusal() -> str | None:
    """Why the installed Avalanche is not used, in one line, without importing it; None when its version is let through."""
    version = installed()
    if version is None:
        return f"Avalanche is not installed; {_WORKING}"
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if OLDEST <= found < TOO_NEW:
        return None
    age = "old" if found < OLDEST else "new"
    return f"Avalanche {version} is too {age} (valid: from {_words(OLDEST)}, below {_words(TOO_NEW)}); {_WORKING}"


@functools.cache
def avalanche() -> Any:
    """Avalanche's package, imported and checked once (it takes seconds).

    Raises `UsageError` when it is absent, of a version that is not let through, or cannot be imported.
    """
    if refused := refusal():
        raise UsageError(refused)

    def package() -> Any:
        import avalanche as found

        return found

    return _imported("its package", package)


def part(module: str, name: str | None = None) -> Any:
    """A module of Avalanche by its path below the package, or what is called `name` in it; `UsageError` when this installation lacks it."""
    avalanche()
    found = _imported(f"avalanche.{module}", lambda: importlib.import_module(f"avalanche.{module}"))
    if name is None:
        return found
    if not hasattr(found, name):
        raise UsageError(f"Avalanche {installed()} has no '{name}' in avalanche.{module}{nearest(name, dir(found))}; {_WORKING}")
    return getattr(found, name)


def _imported(what: str, load: Callable[[], Any]) -> Any:
    try:
        with quiet():
            return load()
    except Exception as error:  # an optional package that is missing, a config file that cannot be written, a torch that does not fit
        raise UsageError(f"Avalanche {installed()}: {what} cannot be imported: {one_line(error)}; {_WORKING}") from error


def one_line(error: BaseException, limit: int = 200) -> str:
    """What kind of error it is and what it says, without line breaks."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _words(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
