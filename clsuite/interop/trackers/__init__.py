"""Trackers: what a folder holds, shown in other people's dashboards. No run and no grid knows of them.

A *mirror* is a process of its own that reads the folder of an experiment and tells a tracker what is new; see `mirror`. Results
cannot depend on it: it starts after the folder stands, reads files that are there anyway, and is ended when it takes too long.

    clsuite grid FILE --track wandb          a mirror beside the grid
    clsuite sync DIR --to wandb              the same over finished cells, once

A tracker of your own is `--track module:Class`, a subclass of `base.Tracker`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from .base import Tracker

TRACKERS = {
    "wandb": ("clsuite.interop.trackers.wandb:Wandb", "wandb"),
    "tensorboard": ("clsuite.interop.trackers.tensorboard:TensorBoard", "tensorboard"),
    "trackio": ("clsuite.interop.trackers.trackio:Trackio", "trackio"),
}
"""Where a tracker is defined, and the package it needs."""
MODES = ("online", "offline", "disabled")
PROJECT = "clsuite"


@dataclass(frozen=True)
class Wanted:
    """A tracker as it was asked for. `mode` None: online where there is a key, else offline (W&B alone has modes)."""

    name: str
    mode: str | None = None
    project: str = PROJECT
    entity: str | None = None
    options: tuple[str, ...] = ()
    """What was given on the command line beside the name, to be said again."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it; `Wanted.of` takes it back."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Wanted:
        return cls(**{**values, "options": tuple(values["options"])})


def wanted(name: str | None, mode: str | None = None, project: str | None = None) -> Wanted | None:
    """The tracker that is asked for; None when there is none, or when its mode (`mode`, else `WANDB_MODE`) is `disabled`.

    Project and entity also come from `WANDB_PROJECT` and `WANDB_ENTITY`. Raises `UsageError` for an unknown tracker or mode and for
    one whose package is not installed.
    """
    if name is None:
        if mode is not None or project is not None:
            raise UsageError(f"--track-{'mode' if mode is not None else 'project'} needs --track (valid: {', '.join(TRACKERS)})")
        return None
    if mode is not None and mode not in MODES:
        raise UsageError(f"--track-mode = '{mode}' is not valid: expected {', '.join(MODES)}")
    if ":" not in name and name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if mode in ("online", "offline") and name != "wandb":
        raise UsageError(f"--track-mode = '{mode}' is for wandb; {name} has no modes")
    if name in TRACKERS and not _installed(TRACKERS[name][1]):
        raise UsageError(f"--track = '{name}' needs the package {TRACKERS[name][1]}, which is not installed (pip install {TRACKERS[name][1]})")
    environment = os.environ if name == "wandb" else {}
    if "disabled" in (mode, None if mode else environment.get("WANDB_MODE")):
        return None
    given: Sequence[str] = (*(["--track-mode", mode] if mode else []), *(["--track-project", project] if project else []))
    return Wanted(name, mode, project or environment.get("WANDB_PROJECT") or PROJECT, environment.get("WANDB_ENTITY") or None, tuple(given))


def created(wanted: Wanted, folder: Path) -> Tracker:
    """The tracker for a folder. Raises whatever its package raises."""
    target = TRACKERS[wanted.name][0] if wanted.name in TRACKERS else wanted.name
    module, _, name = target.partition(":")
    tracker: Tracker = getattr(importlib.import_module(module), name)(wanted, folder)
    return tracker


def _installed(package: str) -> bool:
    """Whether there is such a package; a mere folder of that name (wandb makes one where it runs) is none."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None
