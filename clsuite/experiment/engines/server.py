"""The process that workers are forked from: it imports what cells need, and does nothing else.

It talks to its driver over one Unix socket and holds no thread and no tensor, so that a fork of it is whole. The driver sends a line with a task's
number, and with it the task's own socket: there the worker reads the task and writes its answer. The server says, a JSON line each, which process
a task got and with which code that ended. A worker leads a session of its own. When the driver is gone, the socket ends, and every worker is killed
with all it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from ...errors import Interrupted, UsageError
from .ending import kill_group

PR_SET_PDEATHSIG = 1
REASON_LENGTH = 500
NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says of memory in errors that are no `MemoryError`."""


def main() -> None:
    """Serve on the socket whose number is the argument: prepare, say how that went, and fork a worker for every task until the driver is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    with channel.makefile("rb") as lines:
        order = lines.readline()
    if not order.endswith(b"\n"):  # the driver is gone
        os._exit(0)
    failed = _prepare(*json.loads(order))
    _flush()
    gc.collect()
    gc.freeze()  # workers share these pages; a collection would copy them
    workers: dict[int, int] = {}
    try:
        _fork_on_demand(channel, workers, {"failed": failed, "threads": _threads(), "cuda": _uses_cuda()})
    except OSError:  # the driver is gone, in the midst of a message
        pass
    finally:
        for pid in workers:
            kill_group(pid)
        for pid in workers:
            os.waitpid(pid, 0)
        os._exit(0)


def _prepare(preload: list[str], warm: list[Any] | None) -> dict[str, str]:
    """Import modules and call `warm` (target and argument), which fills caches that workers then share; what failed, with its reason."""
    failed = {}
    for name in preload:
        try:
            importlib.import_module(name)
        except BaseException as error:  # whatever a module does on import, the driver must hear of it
            failed[name] = _line(f"{type(error).__name__}: {error}")
    if warm is not None:
        try:
            _function(warm[0])(warm[1])
        except BaseException as error:
            failed[warm[0]] = _line(f"{type(error).__name__}: {error}")
    return failed


def _fork_on_demand(channel: socket.socket, workers: dict[int, int], hello: dict[str, Any]) -> None:
    wakeup, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _send(channel, hello)
    buffer, handles = b"", []
    while True:
        ready, _, _ = select.select([channel.fileno(), wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        _reap(channel, workers)
        if channel.fileno() not in ready:
            continue
        data, received, _, _ = socket.recv_fds(channel, 4096, 16)
        if not data:
            return
        handles += received
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            number, handle, server = int(line), handles.pop(0), os.getpid()
            try:
                pid = os.fork()
            except OSError as error:  # no room for another process
                os.close(handle)
                _send(channel, {"number": number, "code": 1, "unstarted": error.strerror})
                continue
            if pid == 0:
                _worker(handle, [channel.fileno(), wakeup, alarm, *handles], server)
            os.close(handle)
            workers[pid] = number
            _send(channel, {"number": number, "pid": pid})


def _reap(channel: socket.socket, workers: dict[int, int]) -> None:
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        if pid in workers:  # else something that a module started on import
            kill_group(pid)  # what it left behind
            _send(channel, {"number": workers.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _worker(handle: int, foreign: list[int], server: int) -> None:
    """The life of a forked worker; never returns."""
    code, me = 1, os.getpid()
    try:
        os.setsid()
        _die_with(server)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in foreign:
            os.close(other)
        os.set_inheritable(handle, False)
        with socket.socket(fileno=handle) as channel:
            task = json.loads(b"".join(iter(lambda: channel.recv(1 << 16), b"")))
            said = _answer(task)
            _flush()
            if os.getpid() == me:  # else a child the task has forked and let come back
                channel.sendall(said)
        code = 0
    except SystemExit as error:  # it leaves without a result
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
        if not isinstance(error.code, (int, type(None))):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code & 255)


def _answer(task: dict[str, Any]) -> bytes:
    """What the target returned, or how it failed, as JSON."""
    try:
        _write_to(task["log"])
        os.environ.update(task["environment"])
        value = _function(task["target"])(task["payload"])
        return json.dumps({"status": "ok", "value": value}).encode()
    except Interrupted:
        said = {"status": "interrupted", "reason": "SIGTERM"}
    except KeyboardInterrupt:
        said = {"status": "interrupted", "reason": "SIGINT"}
    except UsageError as error:
        said = {"status": "usage", "reason": _line(str(error))}
    except Exception as error:  # costs this cell alone; the whole story is in its log
        text = str(error)
        memory = isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY))
        said = {"status": "oom" if memory else "error", "reason": _line(f"{type(error).__name__}: {text}")}
        with contextlib.suppress(MemoryError):
            traceback.print_exc()
    return json.dumps(said).encode()


def _function(target: str) -> Callable[[Any], Any]:
    module, _, name = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return found


def _write_to(log: str) -> None:
    """From here on the process reads nothing and writes to its log, every line at once: it may be killed before it can flush."""
    handles = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for place, handle in enumerate((*handles, handles[1])):
        os.dup2(handle, place)
    for handle in handles:
        if handle > 2:
            os.close(handle)
    for place, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, open(place, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
    faulthandler.enable()  # a crash in native code tells where


def _flush() -> None:
    """Whatever a task has made of its streams, closed ones and none at all included."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _line(text: str) -> str:
    return (text.splitlines() or [""])[0][:REASON_LENGTH]


def _die_with(server: int) -> None:
    """On Linux a worker dies with its server, however that was killed; one whose server is gone already leaves at once."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _uses_cuda() -> bool:
    """A process forked from one that has begun to use a GPU cannot use any."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")
