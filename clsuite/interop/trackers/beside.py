"""The driver's side of a mirror: start it beside a grid or a run, and end it in bounded time, saying what was not told.

Nothing here raises over a tracker. The mirror is a process of its own group with nothing of the driver's but two pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import Wanted
from .cells import Cells
from .mirror import pending
from .record import Record

WAIT_SECONDS = 60.0
"""How long a mirror may take for what is left when the grid is over ..."""
WAIT_INTERRUPTED = 5.0
"""... and when it was interrupted."""
QUIET_SECONDS = 2.0
TERMINATE_SECONDS = 2.0
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")}

Say = Callable[[str], None]


@contextlib.contextmanager
def tracked(wanted: Wanted | None, folder: Path, say: Say, only: Sequence[str] = ()) -> Iterator[Beside]:
    """A block that a mirror of `folder` may run beside (none when none is wanted). `only`: the cells to look at."""
    beside = Beside(wanted, folder, say, only)
    try:
        yield beside
    except BaseException:
        beside.close("interrupted", WAIT_INTERRUPTED)
        raise
    beside.close("ended", WAIT_SECONDS)


class Beside:
    """A mirror beside this process, from `start` on: a grid begins with its first line, before which the folder may be another experiment's."""

    def __init__(self, wanted: Wanted | None, folder: Path, say: Say, only: Sequence[str] = ()) -> None:
        self._wanted, self._folder, self._only, self._say = wanted, folder, list(only), say
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._heard: dict[str, Any] = {}

    def say(self, line: str) -> None:
        """Say a line; the first one starts the mirror."""
        self.start()
        self._say(line)

    def start(self) -> None:
        """Start the mirror, once; when that fails, a warning is all."""
        if self._wanted is None or self._process is not None or "warning" in self._heard:
            return
        # the driver's own search path: with -m the current folder would come first, and W&B makes one called wandb
        program = f"import sys; sys.path[:] = {sys.path!r}; from clsuite.interop.trackers.mirror import main; main(sys.argv[1])"
        arguments = {"folder": str(self._folder), "wanted": self._wanted.plain(), "only": self._only}
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", program, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )
        except OSError as error:
            self._warn(f"no mirror can be started: {error.strerror or error}", self._wanted.name)
            return
        self._process = process
        self._reader = threading.Thread(target=self._listen, args=(process, self._wanted.name), name="tracking", daemon=True)
        self._reader.start()

    def close(self, word: str, seconds: float) -> None:
        """Tell the mirror how the grid is over, give it so long for the rest, and say in one line what was told."""
        if self._wanted is None or self._process is None:
            return
        try:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.write(word.encode() + b"\n")
                self._process.stdin.close()
            reason = self._wait(self._process, self._wanted.name, seconds)
        finally:
            self._kill(self._process)
        if self._reader is not None:
            self._reader.join(TERMINATE_SECONDS)
        self._say(self._closing(self._wanted, reason))

    def _wait(self, process: subprocess.Popen[bytes], name: str, seconds: float) -> str | None:
        """Wait for the mirror to end; why it did not end well."""
        try:
            try:
                code = process.wait(min(seconds, QUIET_SECONDS))
            except subprocess.TimeoutExpired:
                self._say(f"tracking: up to {seconds:g} s for what {name} was not told yet")
                code = process.wait(max(0.0, seconds - QUIET_SECONDS))
        except subprocess.TimeoutExpired:
            return f"it took longer than {seconds:g} s"
        return f"its process ended with {code}" if code else None

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End what is left of the mirror and of what it started in its group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TERMINATE_SECONDS)

    def _closing(self, wanted: Wanted, reason: str | None) -> str:
        name, cells = wanted.name, Cells(self._folder, self._only)
        finished = [cell for cell in cells.names() if cells.digest(cell) is not None]
        missing = finished
        if "to" in self._heard:
            missing = pending(cells, Record(self._folder, name, self._heard["to"]))
        where = self._heard.get("where", name)
        if not missing:
            return f"tracking: {_count(len(finished))} in {where}"
        reason = self._heard.get("warning") or reason or "another process tells of them"
        later = shlex.join(["clsuite", "sync", str(self._folder), "--to", name, *wanted.options])
        return f"tracking: {len(missing)} of {_count(len(finished))} not in {where} ({reason}); later: {later}"

    def _listen(self, process: subprocess.Popen[bytes], name: str) -> None:
        """Take what the mirror says; its first warning is passed on at once."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if "warning" in said:
                        self._warn(str(said.pop("warning")), name)
                    self._heard |= said

    def _warn(self, reason: str, name: str) -> None:
        if "warning" not in self._heard:
            self._heard["warning"] = reason
            self._say(f"warning: {name} was not told of everything: {reason}")


def _count(cells: int) -> str:
    return f"{cells} finished cell{'' if cells == 1 else 's'}"
