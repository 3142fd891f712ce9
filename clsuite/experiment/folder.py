"""A cell's folder: what is written there, whole or not at all."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ResultWarning, UsageError
from ..training.checkpoint import sync_folder


def cell_folder(out: Path, name: str) -> Path:
    """Where the cell with a given hash lies below an `out` folder."""
    return Path(f"{out}/cells/{name[:2]}/{name}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"--out: '{path}' could not be written: {error.strerror or error}") from error


def unmake(folder: Path | None, made: list[Path]) -> None:
    """Take back the folders a run made before it was refused."""
    if folder is None or folder not in made:
        return
    shutil.rmtree(folder, ignore_errors=True)
    for path in made[1:]:
        try:
            path.rmdir()
        except OSError:  # another cell moved in
            return


def plain(value: Any) -> Any:
    """The value as JSON has words for it: numbers that are not finite become null, what is no plain value becomes text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


class Log:
    """`metrics.jsonl`: a line an event; after a resume the lines the lost part had written are dropped."""

    def __init__(self, path: Path | None):
        self._path = path
        self._fresh = True

    def __call__(self, record: dict[str, Any]) -> None:
        if self._path is None:
            return
        with writing(self._path):
            if self._fresh:
                self._fresh = False
                lines = self._path.read_text().splitlines() if record["event"] == "resumed" and self._path.exists() else []
                self._path.write_text("".join(line + "\n" for line in lines[: record.get("line", 0)]))
            with self._path.open("a") as file:
                file.write(json.dumps(plain(record)) + "\n")


def finished(folder: Path) -> dict[str, Any] | None:
    """The result in a cell's folder, or None while there is none: one that is damaged is none, with a warning."""
    path = folder / "result.json"
    try:
        return _whole(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"'{path}' is damaged and counts as missing: {error}", ResultWarning, stacklevel=2)
        return None


def _whole(data: bytes) -> dict[str, Any]:
    """A result by its bytes; raises `ValueError` for anything else."""
    result = json.loads(data)
    if not isinstance(result, dict) or "status" not in result:
        raise ValueError("it is no result of a cell")
    return result


def seconds_of(result: dict[str, Any]) -> float:
    """Seconds a finished cell took: training, deployment and evaluation."""
    return float(sum(result["cost"][key] for key in ("seconds", "deployment_seconds", "evaluation_seconds")))


def stored(folder: Path | None, digests: dict[str, str], rerun: bool) -> dict[str, Any] | None:
    result = None if folder is None or rerun else finished(folder)
    if result is None:
        return None
    if result["environment"]["source"] != digests:
        warnings.warn(
            f"result {result['cell']} was computed by other source code than is installed now; it is shown unchanged (--rerun computes it again)",
            ResultWarning,
            stacklevel=2,
        )
    return result


def put(path: Path, data: bytes, replace: bool) -> bool:
    """Make a file visible at once, whole and durable; without `replace` the first wins. Whether this one was taken."""
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


@contextmanager
def locked(handle: int) -> Iterator[None]:
    """Alone with an open file or folder, for milliseconds; where the file system has no locks, without. A lock ends with its process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do: a child forked meanwhile has the same open file


def _damaged(path: Path) -> bool:
    try:
        _whole(path.read_bytes())
        return False
    except ValueError:
        return True


def publish(folder: Path, result: dict[str, Any], replace: bool) -> None:
    """Make the result visible at once and whole; the first publication wins, a second is dropped, a damaged one is replaced."""
    path, data = folder / "result.json", json.dumps(plain(result), allow_nan=False).encode()
    try:
        if not put(path, data, replace) and _damaged(path):
            put(path, data, replace=True)
    except OSError as error:
        raise UsageError(f"--out: the result of cell {result['cell']} could not be written to '{folder}': {error.strerror or error}") from error
