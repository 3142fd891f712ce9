"""What a task is, and how it ended: judged from its answer, from what was done to it, or from how it died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG_LINES = 20
LOG_BYTES = 16_384

Verdict = tuple[str, str]
"""A status and its reason."""


@dataclass(frozen=True)
class Task:
    """A call of `target` ("module:function") with `payload` in a process of its own; both it and what it returns are plain values.

    `timeout` in seconds, `memory_mb` for the private memory of the process and its children, `gpu`: needs a GPU slot.
    """

    key: str
    target: str
    payload: dict[str, Any]
    log: Path
    timeout: float | None = None
    memory_mb: float | None = None
    gpu: bool = False


@dataclass(frozen=True)
class Ending:
    """How a task ended: `ok`, `error`, `usage`, `oom`, `timeout`, `killed` or `interrupted`, with the last lines of its log.

    `interrupted`: it was asked to leave because the engine stops.
    """

    task: Task
    status: str
    reason: str | None
    value: Any
    log: list[str]
    seconds: float


def judged(answer: bytes, code: int, verdict: Verdict | None, kernel_killed: bool) -> tuple[str, str | None, Any]:
    """Status, reason and value of a process that ended with `code`.

    A result counts, whatever else happened; then what was done to the process (`verdict`); then what it said; then how it died.
    """
    said: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # it died before or while it answered
        said = json.loads(answer)
    if said.get("status") == "ok":
        return "ok", None, said["value"]
    if verdict is not None:
        return *verdict, None
    if said.get("status") == "interrupted":  # nobody here asked it to
        return "killed", f"ended by {said['reason']} from elsewhere", None
    if said:
        return said["status"], said["reason"], None
    if code >= 0:
        return "error", f"{died(code)} without a result", None
    if code == -signal.SIGKILL and kernel_killed:
        return "oom", "killed by the kernel, which ran out of memory", None
    return "killed", died(code), None


def died(code: int) -> str:
    """`exited with code 3`, `killed by SIGKILL`, or `killed by signal 40` where that has no name."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def size_of(log: Path) -> int:
    """The length of a log in bytes, 0 when there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def last_lines(log: Path, since: int = 0) -> list[str]:
    """The last lines of a log, read from its end; nothing from before the byte `since`, where an earlier attempt ended."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_BYTES, since))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []


def kernel_kills() -> int:
    """How often the kernel has killed a process for want of memory; 0 where it does not say."""
    try:
        return next(int(line.split()[1]) for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0


def kill_group(leader: int) -> None:
    """SIGKILL for a worker and all it started; one that has only just been forked leads no group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)
