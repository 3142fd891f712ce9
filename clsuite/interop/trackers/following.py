"""One cell on its way to a tracker: begun or gone on with, told what is new, ended."""

from __future__ import annotations

from collections.abc import Callable

from .base import AXES, OpenRun, Tracker
from .cells import Cells
from .log import LogReader, Pace, Point, point
from .outcome import MOST_ENTRIES, entries, matrix, picture, seen_accuracy, summary
from .record import Marks, Record
from .redact import text


class Following:
    """What of a cell was read and told. Every method may raise what the tracker raises; `drop` then forgets the open run."""

    def __init__(self, cell: str, cells: Cells, tracker: Tracker, record: Record, clock: Callable[[], float]) -> None:
        self.cell = cell
        self._cells, self._tracker, self._record, self._clock = cells, tracker, record, clock
        self._log = LogReader(cells.place(cell) / "metrics.jsonl")
        self._pace = Pace(clock)
        self._open: OpenRun | None = None
        self._name = ""
        self._marks: Marks = {}
        self._read: Marks = {}
        self._waiting: list[Point] = []

    @property
    def open(self) -> bool:
        """Whether the tracker has the run open."""
        return self._open is not None

    def follow(self) -> None:
        """Tell what is new of a cell that is at work."""
        if self._begin():
            self._tell(last=False)

    def complete(self, digest: str) -> bool:
        """Tell all of a finished cell, whose result has this digest; False when it cannot be read."""
        result = self._cells.result(self.cell)
        if result is None or not self._begin():
            return False
        assert self._open is not None
        self._tell(last=True)
        for index, value in seen_accuracy(result):
            self._send(Point("seen", "seen", index, {"seen/accuracy": value}))
        if (found := matrix(result)) is not None and entries(found[1]) <= MOST_ENTRIES:
            self._open.table("matrix", *found)
        if (png := picture(result, self._name)) is not None:
            self._open.figure("matrix_picture", png)
        self._open.summary(summary(result))
        self._open.finish(str(result.get("status")))
        self._open = None
        self._record.finish(self.cell, digest)
        return True

    def end(self, status: str, reason: str | None = None) -> None:
        """Close the run of a cell that has no result: it failed, or it is interrupted."""
        if self._open is None and not self._begin():
            return
        assert self._open is not None
        self._tell(last=True)
        self._open.summary({"status": status, **({"reason": text(" ".join(reason.split()))} if reason else {})})
        self._open.finish(status)
        self._open = None

    def drop(self) -> None:
        """The tracker failed over this run: close it as far as it lets us, begin again next time."""
        run, self._open = self._open, None
        if run is not None:
            try:
                run.finish("interrupted")
            except (Exception, SystemExit):
                return

    def _begin(self) -> bool:
        """Have the run open; False while nothing says what the cell is."""
        if self._open is not None:
            return True
        known = self._record.partial(self.cell)
        resume = known is not None and self._tracker.continues
        run = self._cells.run(self.cell, resume, len(self._record.finished(self.cell)))
        if run is None:
            return False
        self._log.rewind()
        self._waiting, self._name = [], run.name
        self._marks = dict(known or {}) if resume else {}
        self._read = dict(self._marks)
        self._record.begin(self.cell, self._marks)
        self._open = self._tracker.start(run)
        return True

    def _tell(self, last: bool) -> None:
        """New points in their order, of the training axis no more than the pace allows; `last`: there is nothing after them."""
        for event in self._log.new():
            found = point(event)
            if found is not None and found.step > self._read.get(found.kind, -1):
                self._read[found.kind] = found.step
                self._waiting.append(found)
        paced = [k for k, p in enumerate(self._waiting) if p.axis != "experience"]
        kept = {paced[k] for k in self._pace.choose(len(paced), last)} if paced else set()
        if paced and not kept:  # none may be told now: they wait, and what comes after them with them
            return
        points, self._waiting = [p for k, p in enumerate(self._waiting) if k in kept or p.axis == "experience"], []
        for p in points:
            self._send(p)

    def _send(self, p: Point) -> None:
        if p.step <= self._marks.get(p.kind, -1):
            return
        assert self._open is not None
        self._marks[p.kind] = p.step
        self._record.mark(self.cell, self._marks)
        self._open.log(p.values, f"{p.axis}/{AXES[p.axis]}", p.step)
