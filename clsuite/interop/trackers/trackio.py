"""trackio, a dashboard on this machine (or a Space of one's own) with an interface like W&B's.

Its runs go by their name, which therefore ends with the hash of the cell; one axis of steps is all it has, so that losses lie over
training steps and experiences over their index, each in a group of its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Wanted
from .base import OpenRun, TrackedRun, Tracker


class Trackio(Tracker):
    """A run a cell; another result of the same cell is another run, since trackio replaces none."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        super().__init__(wanted, folder)
        import trackio

        self._trackio = trackio

    @property
    def destination(self) -> str:
        return self.wanted.project

    @property
    def where(self) -> str:
        return f"trackio (trackio show --project {self.wanted.project})"

    def start(self, run: TrackedRun) -> TrackioRun:
        again = f" ({run.again + 1})" if run.again else ""
        name = f"{run.name} {run.id[:12]}{again}"
        config = {**run.config, "job_type": run.job_type, "tags": list(run.tags)}
        return TrackioRun(self._trackio, self._trackio.init(project=self.wanted.project, name=name, group=run.group, config=config, resume="allow"))


class TrackioRun(OpenRun):
    """A run of trackio."""

    def __init__(self, trackio: Any, run: Any) -> None:
        self._trackio, self._run = trackio, run

    def log(self, values: Mapping[str, float], step_name: str, step: int) -> None:
        self._run.log({step_name: step, **values}, step=step)

    def table(self, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import pandas

        self._run.log({name: self._trackio.Table(dataframe=pandas.DataFrame([list(row) for row in rows], columns=list(heads)))})

    def figure(self, name: str, png: bytes) -> None:
        from PIL import Image

        self._run.log({name: self._trackio.Image(Image.open(io.BytesIO(png)))})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.log({f"summary/{name}": value for name, value in values.items()})

    def finish(self, status: str) -> None:
        self._run.log({"summary/status": status})
        self._run.finish()
