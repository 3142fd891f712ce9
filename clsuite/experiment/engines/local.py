"""Cells on this machine: a process each, forked from a server that has imported everything, with limits on time and memory.

The wait is for events; a cell that raises, hangs, exits, grows too large or is killed costs itself alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UsageError
from ..machine import private_memory_mb
from .ending import Ending, Task, Verdict, died, judged, kernel_kills, kill_group, last_lines, size_of
from .forkserver import Call, ServerEnded, started

PRELOAD = ("clsuite.experiment.warm", "clsuite.data.resident", "numpy.ctypeslib")
"""What a cell imports, at once or on the way."""
SAMPLE_SECONDS = 0.5
GRACE_SECONDS = 10.0
KILL_SECONDS = 1.0
DEATHS = 3
CHANNEL = 0
"""What the selector calls the server; tasks count from 1."""


@dataclass
class _Running:
    """A task and its process; `asked`: it has got the SIGTERM that goes with its verdict, and until `kill_at` to leave."""

    task: Task
    socket: socket.socket
    slot: str | None
    started: float = field(default_factory=time.monotonic)
    kills_before: int = field(default_factory=kernel_kills)
    log_before: int = 0
    pid: int | None = None
    answer: bytearray = field(default_factory=bytearray)
    code: int | None = None
    verdict: Verdict | None = None
    asked: bool = False
    kill_at: float = 0.0


class LocalEngine:
    """Runs tasks in forked processes, at most `workers` at once; a context manager.

    The process they are forked from imports `preload` and calls `warm` ("module:function" and its argument), which may fill caches but must not start a
    thread or use a GPU. `gpus` are the slots for tasks with `gpu`, as values of CUDA_VISIBLE_DEVICES; `path` comes before the search path for modules.
    """

    def __init__(self, workers: int, preload: Sequence[str] = PRELOAD, gpus: Sequence[str] = (), path: Sequence[str] = (), warm: Call | None = None) -> None:
        self._workers, self._preload, self._path, self._warm = workers, preload, path, warm
        self._slots, self._free = len(gpus), list(gpus)
        self._running: dict[int, _Running] = {}
        self._ended: deque[Ending] = deque()
        self._number = 0
        self._deaths = 0
        self._sample_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._alive = False
        self._start()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, tasks: Iterable[Task]) -> Iterator[Ending]:
        """Run tasks in their order, each taken when a worker is free, and give their endings in order of completion.

        Raises `UsageError` when the process they are forked from dies again and again.
        """
        waiting = iter(tasks)
        task: Task | None = None
        while True:
            while len(self._running) < self._workers and (self._alive or not self._ended):  # what a lost server has cost is told first
                task = task or next(waiting, None)
                if task is None or (task.gpu and self._slots and not self._free):
                    break
                self._fork(task)
                task = None
            if self._ended:
                yield self._ended.popleft()
            elif self._running:
                self._step()
            else:
                return

    def stop(self, grace: float = GRACE_SECONDS) -> list[Ending]:
        """Ask running workers to leave (a cell writes a checkpoint first), kill what has not left in time, end the server."""
        until = time.monotonic() + grace + 2 * KILL_SECONDS
        try:
            for running in self._running.values():
                self._end(running, "interrupted", "asked to leave", grace)
            while self._running and self._alive and time.monotonic() < until:
                self._step(KILL_SECONDS)
        finally:
            self._leave()
            for number in list(self._running):  # nothing was heard of them
                self._finish(number)
        endings = list(self._ended)
        self._ended.clear()
        return endings

    # -- the server ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._server, self._preload, self._warm = started(self._preload, self._warm, self._path)
        try:
            self._selector.register(self._server.channel, selectors.EVENT_READ, CHANNEL)
            self._alive = True
        except BaseException:
            self._server.end()
            raise

    def _leave(self) -> int:
        """End the server and with it all workers; its exit code."""
        if self._alive:
            self._alive = False
            self._selector.unregister(self._server.channel)
        code = self._server.end()
        for running in self._running.values():
            if running.pid is not None and running.code is None:
                kill_group(running.pid)
        return code

    def _lost(self) -> None:
        """The server was killed, and all its workers with it."""
        self._deaths += 1
        how = died(self._leave())
        for running in self._running.values():
            if running.code is None:
                running.code = -signal.SIGKILL
                running.verdict = running.verdict or ("killed", f"ended with the process that workers are forked from, which was {how}")

    # -- tasks --------------------------------------------------------------------------------------------------

    def _fork(self, task: Task) -> None:
        if not self._alive:
            if self._deaths >= DEATHS:
                raise UsageError(
                    f"the process that workers are forked from was ended {self._deaths} times before any cell had ended: "
                    f"is there memory for --workers = {self._workers}? (valid: fewer)"
                )
            self._start()
        self._number += 1
        task.log.parent.mkdir(parents=True, exist_ok=True)
        slot = self._free[0] if task.gpu and self._slots else None
        environment = {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
        message = json.dumps({"target": task.target, "payload": task.payload, "log": str(task.log), "environment": environment}).encode()
        ours, theirs = socket.socketpair()
        self._running[self._number] = _Running(task, ours, None if slot is None else self._free.pop(0), log_before=size_of(task.log))
        with theirs, contextlib.suppress(OSError):  # the server or the worker is gone: the next step hears of it
            self._server.fork(self._number, theirs)
            theirs.close()
            ours.sendall(message)
            ours.shutdown(socket.SHUT_WR)
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, self._number)

    def _step(self, at_most: float = math.inf) -> None:
        """Wait for the next event or limit, and see to it."""
        patience = min(self._patience(), at_most)
        try:
            for key, _ in self._selector.select(None if patience == math.inf else patience):
                if key.data != CHANNEL:
                    self._read(self._running[key.data])
                    continue
                for message in self._server.messages():
                    self._hear(message)
        except ServerEnded:
            self._lost()
        sample = time.monotonic() >= self._sample_at
        for running in self._running.values():
            self._check(running, sample)
        if sample:
            self._sample_at = time.monotonic() + SAMPLE_SECONDS
        for number in [number for number, running in self._running.items() if running.code is not None]:
            self._finish(number)

    def _hear(self, message: dict[str, Any]) -> None:
        running = self._running.get(message["number"])
        if running is None:
            return
        running.pid, running.code = message.get("pid", running.pid), message.get("code")
        if "unstarted" in message:
            running.verdict = running.verdict or ("killed", f"its process could not be started: {message['unstarted']}")
        elif running.code is not None:
            self._deaths = 0

    def _read(self, running: _Running) -> None:
        with contextlib.suppress(BlockingIOError):
            with contextlib.suppress(ConnectionResetError):  # it ended before it had read its task
                while data := running.socket.recv(1 << 16):
                    running.answer += data
            self._selector.unregister(running.socket)

    def _patience(self) -> float:
        """Seconds until a limit must be looked at."""
        ends = [math.inf]
        for running in self._running.values():
            if running.pid is None:  # it is looked at when it is known
                continue
            if running.verdict is not None:
                ends.append(running.kill_at)
                continue
            if running.task.timeout is not None:
                ends.append(running.started + running.task.timeout)
            if running.task.memory_mb is not None:
                ends.append(self._sample_at)
        return max(min(ends) - time.monotonic(), 0.0)

    def _check(self, running: _Running, sample: bool) -> None:
        """Hold a process to its limits, and one that must leave to its time."""
        if running.pid is None or running.code is not None:
            return
        task, now = running.task, time.monotonic()
        if running.verdict is None and task.timeout is not None and now >= running.started + task.timeout:
            self._end(running, "timeout", f"not finished after {task.timeout:g} s", min(GRACE_SECONDS, task.timeout))
        elif running.verdict is None and task.memory_mb is not None and sample and (used := private_memory_mb(running.pid)) > task.memory_mb:
            self._end(running, "oom", f"used {used:.0f} MB, more than the {task.memory_mb:g} MB it may", 0.0)
        if running.verdict is not None and now >= running.kill_at:
            kill_group(running.pid)
            running.kill_at = now + KILL_SECONDS
        elif running.verdict is not None and not running.asked:
            running.asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)

    def _end(self, running: _Running, status: str, reason: str, grace: float) -> None:
        """Give a process until then to leave; `_check` asks it to."""
        if running.verdict is None:
            running.verdict, running.kill_at = (status, reason), time.monotonic() + grace

    def _finish(self, number: int) -> None:
        running = self._running[number]
        if running.socket in self._selector.get_map():
            self._read(running)
        if running.socket in self._selector.get_map():
            self._selector.unregister(running.socket)
        running.socket.close()
        del self._running[number]
        if running.slot is not None:
            self._free.append(running.slot)
        code = -signal.SIGKILL if running.code is None else running.code
        status, reason, value = judged(bytes(running.answer), code, running.verdict, kernel_kills() > running.kills_before)
        seconds = time.monotonic() - running.started
        self._ended.append(Ending(running.task, status, reason, value, last_lines(running.task.log, running.log_before), seconds))
