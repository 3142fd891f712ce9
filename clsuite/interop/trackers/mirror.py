"""The mirror: follows a folder and tells a tracker what is new. As a process of its own it hangs by a pipe from the driver.

The driver writes `ended` or `interrupted` when its grid is over, and closes the pipe; the mirror tells the rest and leaves. When
the pipe closes without a word the driver is gone, and the mirror ends itself after a while, whatever it hangs in. It answers in JSON
lines: `{"to": destination, "where": ...}`, `{"warning": ...}`, `{"left": cells not told}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import Wanted, created
from .base import Tracker
from .cells import Cells
from .following import Following
from .record import Record
from .redact import text

LOOK_SECONDS = 1.0
UPLOAD_SECONDS = 2.0
"""Finished cells are told for so long before running ones are looked at again."""
SHARE = 20.0
"""The pause after a look is at least as many times as long as the look."""
PATIENCE = 30.0
LONGEST_PATIENCE = 600.0
"""Seconds a tracker that failed is left alone, doubled with every further failure."""
TRIES = 3
"""Failures in a row after which the rest is not tried when nobody waits."""
ORPHANED_SECONDS = 60


class Mirror:
    """Tells a tracker of a folder. What the tracker raises costs the cell it was told of, and a warning."""

    def __init__(self, cells: Cells, tracker: Tracker, record: Record, warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._cells, self._tracker, self._record, self._warn, self._clock = cells, tracker, record, warn, clock
        self._since = time.time()
        self._at: dict[str, Following] = {}
        self._known: dict[str, float] = {}
        self._failures, self._quiet_until = 0, 0.0
        self.told = 0

    def look(self) -> None:
        """Tell what is new: first of running cells, then of finished ones for a while."""
        if self._clock() < self._quiet_until:
            return
        waiting = []
        for cell in self._cells.names():
            if (digest := self._cells.digest(cell)) is not None:
                waiting += [cell] if untold(cell, digest, self._record) else []
            elif self._is_open(cell) or self._cells.news(cell) > self._known.get(cell, self._since):
                self._try(cell, self._follow)
        started = self._clock()
        for cell in waiting:
            if self._clock() - started > UPLOAD_SECONDS or self._clock() < self._quiet_until:
                return
            self._try(cell, self._complete)

    def drain(self, status: str, progress: Callable[[int, int], None] = lambda done, all_: None) -> None:
        """Tell of all finished cells and close what is open, with `status`; gives up after three failures in a row."""
        self._failures = 0
        waiting = self.pending()
        for k, cell in enumerate(waiting):
            self._try(cell, self._complete)
            progress(k + 1, len(waiting))
            if self._failures >= TRIES:
                return
        for following in [f for f in self._at.values() if f.open]:
            if self._failures < TRIES:
                self._try(following.cell, lambda f: f.end(status))

    def pending(self) -> list[str]:
        """Cells that have a result the tracker was not told of."""
        return pending(self._cells, self._record)

    def _is_open(self, cell: str) -> bool:
        return cell in self._at and self._at[cell].open

    def _follow(self, following: Following) -> None:
        failure = self._cells.failure(following.cell)
        if failure is None:
            following.follow()
        else:
            self._known[following.cell] = self._cells.news(following.cell)
            following.end(str(failure.get("status") or "error"), failure.get("reason"))
            self._drop(following.cell)

    def _complete(self, following: Following) -> None:
        digest = self._cells.digest(following.cell)
        if digest is not None and untold(following.cell, digest, self._record):  # another mirror may have been there
            self.told += following.complete(digest)
        self._drop(following.cell)

    def _try(self, cell: str, action: Callable[[Following], None]) -> None:
        if cell not in self._at:
            if not self._record.hold(cell):
                return
            self._at[cell] = Following(cell, self._cells, self._tracker, self._record, self._clock)
        following = self._at[cell]
        try:
            action(following)
            self._failures = 0
        except (Exception, SystemExit) as error:
            self._warn(f"{type(error).__name__}: {text(' '.join(str(error).split()))}")
            self._quiet_until = self._clock() + min(PATIENCE * 2**self._failures, LONGEST_PATIENCE)
            self._failures += 1
            following.drop()

    def _drop(self, cell: str) -> None:
        del self._at[cell]
        self._record.release(cell)


def pending(cells: Cells, record: Record) -> list[str]:
    """Cells whose result, as it is now, was not told."""
    return [cell for cell in cells.names() if (digest := cells.digest(cell)) is not None and untold(cell, digest, record)]


def untold(cell: str, digest: str, record: Record) -> bool:
    """Whether another result than this one was told of a cell last, or none."""
    return [digest] != record.finished(cell)[-1:]


class Channel:
    """The mirror's end of the pipes to its driver."""

    def __init__(self, heard: int, said: int) -> None:
        self._heard, self._said, self._text = heard, said, ""
        self.closed = False

    def say(self, **values: Any) -> None:
        """One line to the driver, if it is still there."""
        with suppress(OSError):
            os.write(self._said, json.dumps(values).encode() + b"\n")

    def wait(self, seconds: float) -> str | None:
        """What the driver said within so many seconds; None while the grid goes on."""
        if not self.closed and select.select([self._heard], [], [], seconds)[0]:
            data = os.read(self._heard, 1024).decode()
            self._text, self.closed = self._text + data, not data
        if "\n" in self._text:
            return self._text.partition("\n")[0]
        return "gone" if self.closed else None


def main(arguments: str) -> None:
    """Follow a folder as the driver asks: `arguments` are the JSON of `folder`, `wanted` and `only`."""
    given = json.loads(arguments)
    with suppress(OSError):
        os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder, want = Path(given["folder"]), Wanted.of(given["wanted"])
    channel = _apart(folder, want)
    cells = Cells(folder, given["only"])
    try:
        tracker = created(want, folder)
        record = Record(folder, want.name, tracker.destination)
        channel.say(to=tracker.destination, where=tracker.where)
    except (Exception, SystemExit) as error:
        channel.say(warning=f"{type(error).__name__}: {text(' '.join(str(error).split()))}")
        sys.exit(1)
    mirror = Mirror(cells, tracker, record, lambda line: channel.say(warning=line))
    said, pause = None, 0.0
    while said is None:
        said = channel.wait(pause)
        started = time.monotonic()
        if said is None:
            mirror.look()
            pause = max(LOOK_SECONDS, SHARE * (time.monotonic() - started))
    if said == "gone":
        signal.alarm(ORPHANED_SECONDS)
    mirror.drain("unfinished" if said == "ended" else "interrupted")
    with suppress(Exception):
        tracker.close()
    channel.say(left=len(mirror.pending()))


def _apart(folder: Path, want: Wanted) -> Channel:
    """The pipes under numbers of their own, which no process the tracker starts gets; what is printed goes to a file."""
    channel = Channel(os.dup(0), os.dup(1))
    place = folder / "tracked"
    place.mkdir(parents=True, exist_ok=True)
    log = os.open(Record(folder, want.name, "").log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((0, nothing), (1, log), (2, log)):
        os.dup2(target, number)
    return channel
