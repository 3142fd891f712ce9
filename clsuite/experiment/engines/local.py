"""Cells on this machine: a process each, forked from a server that has imported everything, with limits on time and memory.

The wait is for events; a cell that raises, hangs, exits, grows too large or is killed costs itself alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..machine import private_memory_mb
from ..results import ResultWarning

PRELOAD = ("torch", "torch._dynamo", "clsuite.experiment.cell")
SAMPLE_SECONDS = 0.5
GRACE_SECONDS = 10.0
LOG_LINES = 20
LOG_BYTES = 16_384
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")}


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
    """How a task ended: `ok`, `error`, `usage`, `oom`, `timeout`, `killed` or `interrupted`, with the last lines of its log."""

    task: Task
    status: str
    reason: str | None
    value: Any
    log: list[str]
    seconds: float


@dataclass
class _Running:
    task: Task
    handle: int
    slot: str | None
    started: float = field(default_factory=time.monotonic)
    pid: int | None = None
    answer: bytes = b""
    code: int | None = None
    verdict: tuple[str, str] | None = None
    kill_at: float | None = None
    kills_before: int = 0


class LocalEngine:
    """Runs tasks in forked processes, at most `workers` at once; a context manager."""

    def __init__(self, workers: int, preload: Sequence[str] = PRELOAD, gpus: Sequence[str] = (), path: Sequence[str] = ()) -> None:
        self._workers, self._slots, self._path = workers, list(gpus), list(path)
        self._running: dict[int, _Running] = {}
        self._number = 0
        self._start(preload)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, preload: Sequence[str]) -> None:
        self._channel, theirs = socket.socketpair()
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(p for p in (*self._path, *sys.path) if p)}
        command = [sys.executable, "-m", "clsuite.experiment.engines.server", str(theirs.fileno()), json.dumps(list(preload))]
        self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        theirs.close()
        self._buffer = b""
        hello = self._messages(wait=True)[0]
        if preload and (hello["failed"] or hello["threads"] > 1):
            why = "; ".join(f"{name}: {reason}" for name, reason in hello["failed"].items()) or f"{hello['threads']} threads after the imports"
            warnings.warn(
                f"workers import everything themselves, which is slower: the server they are forked from could not ({why})", ResultWarning, stacklevel=3
            )
            self._leave()
            self._start(())
            return
        self._channel.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel, selectors.EVENT_READ)

    def run(self, tasks: Iterable[Task]) -> Iterator[Ending]:
        """Run tasks, taken as workers become free, and give their endings in order of completion."""
        waiting = iter(tasks)
        exhausted = False
        while True:
            while not exhausted and len(self._running) < self._workers:
                task = next(waiting, None)
                if task is None:
                    exhausted = True
                else:
                    self._fork(task)
            if not self._running:
                return
            yield from self._step()

    def stop(self, grace: float = GRACE_SECONDS) -> list[Ending]:
        """Ask running workers to leave (a cell writes a checkpoint first), kill what has not left in time, end the server."""
        endings = []
        if self._server.poll() is None:
            for running in self._running.values():
                self._end(running, "interrupted", "asked to leave", grace)
            while self._running:
                endings += self._step()
        self._leave()
        return endings

    def _leave(self) -> None:
        self._channel.close()
        self._server.wait()

    def _fork(self, task: Task) -> None:
        self._number += 1
        read, write = os.pipe()
        os.set_blocking(read, False)
        slot = self._slots.pop(0) if task.gpu and self._slots else None
        environment = {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
        task.log.parent.mkdir(parents=True, exist_ok=True)
        running = _Running(task, read, slot, kills_before=_kernel_kills())
        message = {"number": self._number, "target": task.target, "payload": task.payload, "log": str(task.log), "environment": environment}
        data = json.dumps({**message, "path": self._path}).encode() + b"\n"
        self._channel.setblocking(True)
        sent = socket.send_fds(self._channel, [data], [write])
        self._channel.sendall(data[sent:])
        self._channel.setblocking(False)
        os.close(write)
        self._running[self._number] = running
        self._selector.register(read, selectors.EVENT_READ, self._number)

    def _step(self) -> list[Ending]:
        """Wait for the next event or limit, and give the endings it brought."""
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj is self._channel:
                for message in self._messages():
                    running = self._running[message["number"]]
                    running.pid, running.code = message.get("pid", running.pid), message.get("code", running.code)
            else:
                self._read(key.data)
        for running in self._running.values():
            self._check(running)
        ended = [number for number, running in self._running.items() if running.code is not None]
        return [self._ending(number) for number in ended]

    def _messages(self, wait: bool = False) -> list[dict[str, Any]]:
        while True:
            with contextlib.suppress(BlockingIOError):
                data = self._channel.recv(1 << 16)
                if not data:
                    raise RuntimeError("the process that workers are forked from has ended; run the same command to go on")
                self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            if lines or not wait:
                return [json.loads(line) for line in lines]

    def _read(self, number: int) -> None:
        running = self._running[number]
        with contextlib.suppress(BlockingIOError):
            while data := os.read(running.handle, 1 << 16):
                running.answer += data
            self._selector.unregister(running.handle)

    def _patience(self) -> float | None:
        """Seconds until a limit must be looked at."""
        now = time.monotonic()
        ends = [r.kill_at for r in self._running.values() if r.kill_at is not None]
        ends += [r.started + r.task.timeout for r in self._running.values() if r.task.timeout is not None and r.verdict is None]
        ends += [now + SAMPLE_SECONDS for r in self._running.values() if r.task.memory_mb is not None and r.verdict is None]
        return max(min(ends) - now, 0.0) if ends else None

    def _check(self, running: _Running) -> None:
        task, now = running.task, time.monotonic()
        if running.kill_at is not None and now >= running.kill_at and running.pid is not None:
            _kill(running.pid)
            running.kill_at = now + 1.0
        if running.verdict is not None or running.pid is None or running.code is not None:
            return
        if task.timeout is not None and now >= running.started + task.timeout:
            self._end(running, "timeout", f"not finished after {task.timeout:g} s", min(GRACE_SECONDS, task.timeout))
        elif task.memory_mb is not None and (used := private_memory_mb(running.pid)) > task.memory_mb:
            self._end(running, "oom", f"used {used:.0f} MB, more than the {task.memory_mb:g} MB it may", 0.0)

    def _end(self, running: _Running, status: str, reason: str, grace: float) -> None:
        running.verdict = status, reason
        running.kill_at = time.monotonic() + grace
        if grace and running.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)

    def _ending(self, number: int) -> Ending:
        running = self._running[number]
        if running.handle in self._selector.get_map():
            self._read(number)
        if running.handle in self._selector.get_map():
            self._selector.unregister(running.handle)
        os.close(running.handle)
        del self._running[number]
        if running.slot is not None:
            self._slots.append(running.slot)
        status, reason, value = _judged(running)
        return Ending(running.task, status, reason, value, last_lines(running.task.log), time.monotonic() - running.started)


def _judged(running: _Running) -> tuple[str, str | None, Any]:
    """Status, reason and value: an answer counts, else what we did to the process, else how it died."""
    with contextlib.suppress(ValueError):
        answer = json.loads(running.answer)
        if answer["status"] != "interrupted" or running.verdict is None:
            return answer["status"], answer.get("reason"), answer.get("value")
    if running.verdict is not None:
        return *running.verdict, None
    code = running.code or 0
    if code >= 0:
        return "error", f"exited with code {code} without a result", None
    if code == -signal.SIGKILL and _kernel_kills() > running.kills_before:
        return "oom", "killed by the kernel, which ran out of memory", None
    return "killed", f"killed by {signal.Signals(-code).name}", None


def last_lines(path: Path) -> list[str]:
    """The last lines of a log, read from its end."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_BYTES, 0))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _kernel_kills() -> int:
    """How often the kernel has killed a process for want of memory."""
    try:
        return next(int(line.split()[1]) for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return 0
