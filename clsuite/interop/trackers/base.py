"""What a tracker is: something that is told of runs and keeps them elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import Wanted

AXES = {"training": "step", "branch": "step", "experience": "index", "seen": "index"}
"""Groups of values and what each is drawn over: `training/loss` over `training/step`, `seen/accuracy` over `seen/index` (an experience)."""


@dataclass(frozen=True)
class TrackedRun:
    """A cell as a tracker sees it. Everything in it may be seen by others: `redact` has been over it.

    `id`: the hash of the cell. `name`: label, seed and trial. `group`: the experiment. `job_type`: the phase. `config`: settings by
    their paths, as `clsuite results` names them. `resume`: some of this run was sent before, go on after it; else whatever there is
    under the id is to be replaced. `again`: how many other results of this cell were sent before.
    """

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    resume: bool = False
    again: int = 0


class OpenRun(ABC):
    """A run that is being told. Any method may raise or take its time: only the mirror is hit."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step_name: str, step: int) -> None:
        """Values at a step of an axis: `training/loss` at `training/step`. Steps of an axis only grow."""

    @abstractmethod
    def table(self, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; a cell is a number, a text or None."""

    @abstractmethod
    def figure(self, name: str, png: bytes) -> None:
        """A picture."""

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """What the run came to."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """The end: `ok`, `diverged`, `error`, ..., or `interrupted`, after which it may go on."""


class Tracker(ABC):
    """A place that runs are sent to."""

    continues = True
    """Whether a run that was begun by another process can be gone on with; else it is told anew from its first line."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        self.wanted, self.folder = wanted, folder

    @property
    @abstractmethod
    def destination(self) -> str:
        """Where runs go, in the words of the record: what was sent there is not sent there again."""

    @property
    def where(self) -> str:
        """Where to look, in a few words for a person."""
        return self.destination

    @abstractmethod
    def start(self, run: TrackedRun) -> OpenRun:
        """Begin or go on with a run; several are open at a time."""

    def close(self) -> None:  # noqa: B027
        """Everything was told."""
