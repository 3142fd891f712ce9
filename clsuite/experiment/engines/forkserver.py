"""The driver's side of the process that workers are forked from (`server.py`): start it, ask it for a worker, hear from it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ..results import ResultWarning

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")}
PATIENCE = 10.0

Call = tuple[str, Any]
"""A function as "module:function" and its argument, a plain value."""


class ServerEnded(Exception):
    """The server is gone, which nobody asked it to."""


class ForkServer:
    """A server that has imported `preload` and called `warm` ("module:function" and its argument); `trouble` says what went wrong with that.

    Raises `ServerEnded` when it ends over it.
    """

    def __init__(self, preload: Sequence[str], warm: Call | None, path: Sequence[str]) -> None:
        self.channel, theirs = socket.socketpair()
        self._buffer = b""
        # the driver's own search path: with -m the current folder would come first, and a file there could stand in for a module of ours
        program = f"import sys; sys.path[:] = {[*path, *sys.path]!r}; from clsuite.experiment.engines.server import main; main()"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, **ONE_THREAD},
                    start_new_session=True,
                )
            with contextlib.suppress(OSError):  # it has ended already
                self.channel.sendall(json.dumps([list(preload), warm]).encode() + b"\n")
            while not (said := self.messages()):
                pass
        except BaseException:
            self.channel.close()  # on which it leaves, should an interrupt have come before it had a name here
            if hasattr(self, "_process"):
                self._process.kill()
                self.end()
            raise
        hello = said[0]
        self.trouble = [f"{name}: {reason}" for name, reason in hello["failed"].items()]
        self.trouble += [f"{hello['threads']} threads after the imports"] if hello["threads"] > 1 else []
        self.trouble += ["the imports have begun to use a GPU"] if hello["cuda"] else []

    def fork(self, number: int, theirs: socket.socket) -> None:
        """Ask for a worker at the other end of a socket. A line so short is sent whole or not at all; raises `OSError` when the server is gone."""
        socket.send_fds(self.channel, [b"%d\n" % number], [theirs.fileno()])

    def messages(self) -> list[dict[str, Any]]:
        """The next it says, waiting for some of it; raises `ServerEnded`."""
        try:
            data = self.channel.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ServerEnded
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a part was lost where an interrupt broke in
                found.append(json.loads(line))
        return found

    def end(self) -> int:
        """Close the channel, on which the server kills its workers and leaves; its exit code."""
        self.channel.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def started(preload: Sequence[str], warm: Call | None, path: Sequence[str]) -> tuple[ForkServer, Sequence[str], Call | None]:
    """A server and what it has done: `preload` and `warm`, or with a warning nothing, when that failed or left behind what a fork cannot have.

    Raises `UsageError` when there can be no server at all.
    """
    if preload or warm:
        try:
            server = ForkServer(preload, warm, path)
            trouble = server.trouble
        except ServerEnded:
            trouble = ["it ended over the imports"]
        else:
            if not trouble:
                return server, preload, warm
            server.end()
        message = f"workers import everything themselves, which is slower: the server they are forked from could not ({'; '.join(trouble)})"
        warnings.warn(message, ResultWarning, stacklevel=2)
    try:
        return ForkServer((), None, path), (), None
    except ServerEnded:
        raise UsageError(f"no worker can be started: '{sys.executable}' ended at once (what it said of it stands above)") from None
