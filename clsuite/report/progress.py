"""How far a run is and how long it will still take, on standard error.

A step costs one addition: a thread of its own reads the counter now and then, so a long hook is shown too.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..training.run import Run

EVERY = {True: 0.25, False: 10.0}
"""Seconds between two looks, on a terminal and elsewhere."""


def clock(seconds: float) -> str:
    """`0:01:05`."""
    return str(timedelta(seconds=round(seconds)))


class Progress:
    """Hooks for `Options`: `on_start` and `on_step`; `close` when the run is over, however it ended.

    The remaining time is the time so far divided by the share of planned batches done. Work outside of steps
    (evaluation, `after_experience`) counts as it comes, so the estimate settles after the first experience.
    """

    def __init__(self, every: float | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = EVERY[self._terminal] if every is None else every
        self._run: Run | None = None
        self._calls = self._before = self._total = 0
        self._started = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Any = None

    def on_start(self, run: Run) -> None:
        """Begin to look."""
        self._run, self._total, self._started = run, run.total_steps, time.monotonic()
        if self._terminal:
            self._open_bar()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)
        self._thread.start()

    def on_step(self, run: Run) -> None:
        """Count a batch; the first one also tells where a resumed run went on."""
        if not self._calls:
            position = run.progress.position
            self._before = sum(run.plan_of(i).steps for i in range(position.experience)) + position.step - 1
            self._started = time.monotonic()
        self._calls += 1

    @property
    def started(self) -> bool:
        """Whether anything ran: a stored result starts nothing."""
        return self._run is not None

    def close(self) -> None:
        """Stop looking and clear the bar."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    @property
    def remaining(self) -> float | None:
        """Seconds left; None before anything is known."""
        done, total = self._before + self._calls, max(self._total, 1)
        return None if self._calls < 2 else (time.monotonic() - self._started) * max(total - done, 0) / self._calls

    def line(self) -> str:
        """Where the run stands, in one line."""
        assert self._run is not None
        done, left = self._before + self._calls, self.remaining
        where = f"experience {min(self._run.experience + 1, len(self._run.stream))} of {len(self._run.stream)}"
        if not self._total:  # batches that another library draws are not known here
            return where
        about = "" if left is None else f", about {clock(left)} left"
        return f"{where}, batch {done} of {self._total} ({100 * done / self._total:.0f} %){about}"

    def _look(self) -> None:
        while not self._over.wait(self._every):
            if self._bar is None:
                print(f"clsuite: {self.line()}", file=sys.stderr, flush=True)
            else:
                self._bar.update(0, completed=self._before + self._calls, description=self.line(), refresh=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(BarColumn(bar_width=30), TextColumn("{task.description}"), console=Console(stderr=True), auto_refresh=False, transient=True)
        self._bar.add_task("starting", total=max(self._total, 1))
        self._bar.start()
