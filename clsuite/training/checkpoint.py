"""Checkpoints: whole or absent, two kept, a damaged one falls back to the one before.

A checkpoint is a folder `<attempt>-<number>` with `tensors.safetensors`, `state.json` and, written last, a
`manifest.json` that holds the digests of both. It is written under a temporary name and renamed. Every attempt writes
under its own name, so two processes on one folder cannot mix theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

from ..errors import UsageError

KEPT = 2
FIRST_COST = 0.05
"""Seconds a checkpoint is taken to cost before one was written, so that a cell of a second writes none."""


class CheckpointWarning(UserWarning):
    """A checkpoint that was left aside."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.blake2b(file.read()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class Checkpoints:
    """The checkpoints of one cell.

    `seconds`: the time budget inside an experience; at borders one is written whenever that costs less than a
    twentieth of the time since the last. `identity` says what may resume what (source digests): a checkpoint of
    another identity is left aside. `platform` is compared too, but only noted: elsewhere the numbers may differ in the
    last bits.
    """

    def __init__(self, folder: Path | None, identity: str, platform: dict[str, Any], seconds: float = 30.0):
        self.folder, self.identity, self.platform, self.seconds = folder, identity, platform, seconds
        self._attempt = uuid.uuid4().hex[:8]
        self._number = 0
        self._last = time.monotonic()
        self._cost = FIRST_COST

    def due(self, border: bool = False) -> bool:
        """Whether a checkpoint should be written now."""
        since = time.monotonic() - self._last
        return self.folder is not None and since >= (min(self.seconds, 20 * self._cost) if border else self.seconds)

    def save(self, state: Any, tensors: dict[str, Any], write: bool = True) -> None:
        """Write a checkpoint and drop all but the newest two; without `write`, another process does and this one only notes the time."""
        if self.folder is None:
            return
        from safetensors import SafetensorError

        started = time.monotonic()
        try:
            if write:
                self._save(state, tensors)
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UsageError(f"--out: a checkpoint could not be written to '{self.folder}': {reason}") from error
        self._last = time.monotonic()
        self._cost = self._last - started

    def _save(self, state: Any, tensors: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        existing = self._newest_first()
        self._number = max([self._number, *(self._number_of(p) for p in existing)]) + 1
        final = self.folder / f"{self._attempt}-{self._number:06d}"
        temporary = self.folder / f".{final.name}.tmp"
        temporary.mkdir()
        try:
            save_file(tensors, temporary / "tensors.safetensors")
            with (temporary / "tensors.safetensors").open("rb") as file:
                os.fsync(file.fileno())
            _write(temporary / "state.json", json.dumps(state))
            digests = {name: _digest(temporary / name) for name in ("tensors.safetensors", "state.json")}
            _write(temporary / "manifest.json", json.dumps({"identity": self.identity, "platform": self.platform, "digests": digests}))
            temporary.rename(final)
        except Exception:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self.folder)
        for old in self._newest_first()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[Any, dict[str, Any], bool] | None:
        """The newest whole checkpoint as (state, tensors, exact), or None.

        `exact` is false when it was written on another machine type, version, device type or thread count.
        """
        for path in self._newest_first():
            try:
                manifest = json.loads((path / "manifest.json").read_text())
                for name, expected in manifest["digests"].items():
                    if _digest(path / name) != expected:
                        raise ValueError(f"{name} does not match its digest")
                if manifest["identity"] != self.identity:
                    warnings.warn(f"checkpoint {path.name} was written by other source code and is left aside", CheckpointWarning, stacklevel=2)
                    continue
                from safetensors.torch import load_file

                state = json.loads((path / "state.json").read_text())
                return state, load_file(path / "tensors.safetensors"), manifest["platform"] == self.platform
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"checkpoint {path.name} is damaged ({error}); falling back to the one before", CheckpointWarning, stacklevel=2)
        return None

    def clear(self) -> None:
        """Drop all checkpoints: the result stands."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _number_of(path: Path) -> int:
        return int(path.name.rpartition("-")[2])

    def _newest_first(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name.rpartition("-")[2].isdigit()]
        return sorted(found, key=lambda p: (self._number_of(p), p.stat().st_mtime_ns), reverse=True)


def writable(folder: Path, option: str = "--out") -> None:
    """Raise `UsageError` in one line when nothing can be written to a folder, or to the one it would be made in; makes none itself."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        probe = there / f".probe-{uuid.uuid4().hex}"
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{option} = '{folder}' cannot be written: {error.strerror or error}") from error
