"""Claims: who is at work on a cell. They only save work; that no result is there twice is the doing of `folder.publish` alone.

A claim is the file `claim` in a cell's folder: host, process, when that process started, and a token of its own. It is
linked into place, so it is there whole or not at all and one process alone gets it. Its age is the difference to a probe
file touched in the same folder, so that the clock of this machine, which may be wrong or jump, has no say.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folder import locked, put, writing

STALE_SECONDS = 600.0
REFRESH_SECONDS = 60.0


@dataclass
class Claim:
    """A claim this process holds, until `release` or until others judge it stale."""

    path: Path
    token: str
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def refresh(self) -> bool:
        """Say that the holder lives, once a minute; False when the claim is no longer ours."""
        try:
            with self.path.open("rb") as file:  # what was read is what is touched, whatever is renamed meanwhile
                if _holder(file.read()).get("token") != self.token:
                    return False
                os.utime(file.fileno())
                return True
        except OSError:
            return False

    def keep(self) -> Claim:
        """Refresh every minute in a thread until released."""

        def beat() -> None:
            while not self._done.wait(REFRESH_SECONDS):
                self.refresh()

        threading.Thread(target=beat, name="claim", daemon=True).start()
        return self

    def release(self) -> None:
        """Remove the claim if it is still ours."""
        self._done.set()
        with suppress(OSError), _alone(self.path.parent):
            found = self.path.read_bytes()
            if _holder(found).get("token") == self.token:
                _removed(self.path, found)


def claim(folder: Path) -> Claim | None:
    """Claim the cell of a folder, which is made when missing; None while another process holds it.

    A claim of a process of this host counts as long as that process lives. Any other, or one that cannot be read, counts
    until it has not been refreshed for 600 s. Raises `UsageError` when the folder cannot be written.
    """
    path = folder / "claim"
    mine = Claim(path, uuid.uuid4().hex)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "token": mine.token}
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            with suppress(FileNotFoundError):
                found = path.read_bytes()
                if not _stale(path, found) or not _removed(path, found):
                    return None
            return mine if put(path, json.dumps(holder).encode(), replace=False) else None


def held(folder: Path) -> bool:
    """Whether a living process has claimed the cell of a folder; nothing is written where that can be seen without."""
    path = folder / "claim"
    try:
        holder = _holder(path.read_bytes())
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        alive = _alive(holder["pid"], holder.get("started"))
        if alive is not None:
            return alive
    return age < STALE_SECONDS


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Judging, removing and creating as one step; `_removed` checks again for file systems without locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with locked(handle):
            yield
    finally:
        os.close(handle)


def _holder(found: bytes) -> dict[str, Any]:
    """What a claim says; nothing when it is torn."""
    try:
        holder = json.loads(found)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _stale(path: Path, found: bytes) -> bool:
    holder = _holder(found)
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        alive = _alive(holder["pid"], holder.get("started"))
        if alive is not None:
            return not alive
    return _old(path)


def _old(path: Path) -> bool:
    """Whether a claim was touched 600 s before a probe that is touched now."""
    probe = path.with_name(f".probe-{uuid.uuid4().hex}")
    probe.touch()
    try:
        age = probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    if age < -STALE_SECONDS:  # the clock was put back: its time says nothing, count from now
        with suppress(PermissionError):
            os.utime(path)
    return age >= STALE_SECONDS


def _removed(path: Path, judged: bytes) -> bool:
    """Remove the claim that was judged; one that came in its place is put back."""
    aside = path.with_name(f".claim-{uuid.uuid4().hex}")
    os.rename(path, aside)
    try:
        if aside.read_bytes() == judged:
            return True
        with suppress(FileExistsError):  # a third process was quicker: two work on the cell, the first result counts
            os.link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


def _alive(pid: int, started: Any) -> bool | None:
    """Whether the process that started then still runs; None when it cannot be known (other users' processes may be hidden)."""
    now = _started(pid)
    if now is not None:
        return bool(now == started)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return None
    return False if Path("/proc/self/stat").exists() else None  # a zombie is dead


def _started(pid: int) -> str | None:
    """When a process started, as text that no other process of this host shares with its number; None when there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
        with suppress(OSError):
            return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip() or None
        return None
    return None if state in "ZX" else f"{boot} {fields[18]}"  # field 22 of proc(5); the state is field 3
