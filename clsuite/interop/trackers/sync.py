"""`clsuite sync`: tell a tracker of the finished cells of a folder, each once."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ...errors import UsageError
from . import created, wanted
from .cells import Cells
from .mirror import Mirror
from .record import Record

SAY_SECONDS = 2.0


def sync_command(folder: Path, to: str, mode: str | None = None, project: str | None = None) -> int:
    """Upload what was not uploaded yet; the exit code, 1 when a cell could not be.

    A folder is a grid's or that of single runs. A sync that was ended goes on; a result that has changed since is sent again under
    the same id. Raises `UsageError` when there is no finished cell, and as `wanted` does.
    """
    cells = Cells(folder)
    finished = [cell for cell in cells.names() if cells.digest(cell) is not None]
    if not finished:
        raise UsageError(f"'{folder}' holds no finished cell (looked for {folder}/plan.jsonl and {folder}/cells/*/*/result.json)")
    want = wanted(to, mode, project)
    if want is None:
        print("nothing is sent: tracking is disabled (--track-mode or WANDB_MODE)", file=sys.stderr)
        return 0
    try:
        tracker = created(want, folder)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--to = '{to}' cannot be used: {type(error).__name__}: {' '.join(str(error).split())}") from error
    warnings: list[str] = []
    mirror = Mirror(cells, tracker, Record(folder, want.name, tracker.destination), warnings.append)
    before = len(mirror.pending())
    mirror.drain("interrupted", _Progress())
    tracker.close()
    left = mirror.pending()
    print(f"{mirror.told} sent, {len(finished) - before} there already, {len(left)} left: {tracker.where}")
    if left:
        print(f"clsuite: {len(left)} cells are not in {to}: {warnings[0] if warnings else 'another process tells of them'}", file=sys.stderr)
    return 1 if left else 0


class _Progress:
    """How far an upload is, on standard error every few seconds."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()

    def __call__(self, done: int, all_: int) -> None:
        now = time.monotonic()
        if now - self._said < SAY_SECONDS or done == all_:
            return
        self._said = now
        left = (now - self._started) / done * (all_ - done)
        print(f"clsuite: {done} of {all_} cells, about {left / 60:.1f} min remain", file=sys.stderr, flush=True)
