"""The process that workers are forked from: it imports what cells need, and does nothing else.

It talks to its driver over one Unix socket, a JSON line a message, and holds no thread and no tensor, so that a fork of it is whole. A worker gets a
session of its own, its log as output, and a pipe for its answer. When the driver is gone, the socket ends, and every worker is killed with all it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG = 1
REASON_LENGTH = 500


def serve(channel: socket.socket, preload: list[str]) -> None:
    """Import `preload`, say how that went, and fork a worker for every task until the driver is gone."""
    failed = {}
    for name in preload:
        try:
            importlib.import_module(name)
        except BaseException as error:  # whatever a module does on import, the driver must hear of it
            failed[name] = f"{type(error).__name__}: {error}"[:REASON_LENGTH]
    gc.collect()
    gc.freeze()  # workers share these pages; a collection would copy them
    wakeup, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _send(channel, {"ready": os.getpid(), "failed": failed, "threads": _threads()})
    workers: dict[int, int] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([channel, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        _reap(channel, workers)
        if channel not in ready:
            continue
        data, handles, _, _ = socket.recv_fds(channel, 1 << 20, 16)
        if not data:
            for pid in workers:
                _kill(pid)
            os._exit(0)
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            task = json.loads(line)
            answer = handles.pop(0)
            pid = os.fork()
            if pid == 0:
                _worker(task, answer, [channel.fileno(), wakeup, alarm, *handles])
            os.close(answer)
            workers[pid] = task["number"]
            _send(channel, {"number": task["number"], "pid": pid})


def _worker(task: dict[str, Any], answer: int, foreign: list[int]) -> None:
    """The life of a forked worker; never returns."""
    code = 1
    try:
        os.setsid()
        _die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for handle in foreign:
            os.close(handle)
        log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(task["environment"])
        sys.path[:0] = task["path"]
        said = json.dumps(_answer(task)).encode()
        sys.stdout.flush()
        sys.stderr.flush()
        while said:
            said = said[os.write(answer, said) :]
        code = 0
    except SystemExit as error:  # a cell that leaves without a result
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 255)


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    """What the target returned, or how it failed."""
    from ...errors import Interrupted, UsageError

    try:
        module, _, function = task["target"].partition(":")
        return {"status": "ok", "value": getattr(importlib.import_module(module), function)(task["payload"])}
    except Interrupted:
        return {"status": "interrupted", "reason": "asked to leave"}
    except UsageError as error:
        return {"status": "usage", "reason": _line(str(error))}
    except Exception as error:  # costs this cell alone; the whole story is in its log
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return {"status": "oom" if memory else "error", "reason": _line(f"{type(error).__name__}: {error}")}


def _line(text: str) -> str:
    return (text.splitlines() or [""])[0][:REASON_LENGTH]


def _reap(channel: socket.socket, workers: dict[int, int]) -> None:
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _kill(pid)  # what a worker left behind in its session
        _send(channel, {"number": workers.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _die_with_parent() -> None:
    """On Linux a worker dies even when its server was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
