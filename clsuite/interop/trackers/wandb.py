"""Weights & Biases: a run a cell, all open in one process, online or as folders that `wandb sync` uploads later.

Written for wandb 0.31. Settings it does not know yet or any more are left out.
"""

from __future__ import annotations

import io
import netrc
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import Wanted
from .base import AXES, OpenRun, TrackedRun, Tracker

START_SECONDS = 30.0
FINISH_SECONDS = 30.0
HOST = "https://api.wandb.ai"
OF_ONE_RUN = ("RUN_ID", "RESUME", "NAME", "NOTES", "TAGS", "RUN_GROUP", "JOB_TYPE", "SWEEP_ID", "SWEEP_PARAM_PATH", "CONFIG_PATHS", "DIR")
"""Variables `WANDB_...` that are meant for one run and would be taken for all of them."""
SETTINGS: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "quiet": True,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": START_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
}
"""Nothing but what it is told: no source code, no repository, no machine, no packages, no console."""


class Wandb(Tracker):
    """Runs under the hash of their cell, so that a run that goes on stays one run."""

    def __init__(self, wanted: Wanted, folder: Path) -> None:
        super().__init__(wanted, folder)
        for name in OF_ONE_RUN:
            os.environ.pop(f"WANDB_{name}", None)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        for name in ("DATA", "CACHE", "ARTIFACT"):  # tables and pictures wait for their upload beside the runs, not in the home folder
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder.resolve() / "wandb"))
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        import wandb

        self._wandb = wandb
        self._url = os.environ.get("WANDB_BASE_URL") or str(getattr(wandb.setup().settings, "base_url", HOST))
        self.online = mode_of(wanted.mode, self._url) == "online"
        self.continues = self.online  # an offline folder is whole or it is made again
        known = getattr(wandb.Settings, "model_fields", SETTINGS)
        self._settings = wandb.Settings(**{name: value for name, value in SETTINGS.items() if name in known})

    @property
    def destination(self) -> str:
        project = f"{self.wanted.entity or ''}/{self.wanted.project}"
        return f"online {self._url} {project}" if self.online else f"offline {project}"

    @property
    def where(self) -> str:
        if self.online:
            return f"wandb (project {self.wanted.project})"
        return f"wandb (offline; upload with: wandb sync {self.folder}/wandb/offline-run-*)"

    def start(self, run: TrackedRun) -> WandbRun:
        if not self.online:  # one folder a cell, whole or about to be: what another process left of it is in part
            for left in (self.folder / "wandb").glob(f"offline-run-*-{run.id}"):
                shutil.rmtree(left, ignore_errors=True)
        return WandbRun(
            self._wandb,
            self._wandb.init(
                id=run.id,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                tags=list(run.tags),
                config=nested(run.config),
                project=self.wanted.project,
                entity=self.wanted.entity,
                dir=str(self.folder),
                mode="online" if self.online else "offline",
                resume="allow" if run.resume else None,
                reinit="create_new",
                settings=self._settings,
            ),
        )

    def close(self) -> None:
        self._wandb.teardown()


class WandbRun(OpenRun):
    """A run of W&B."""

    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run
        for axis, step in AXES.items():
            run.define_metric(f"{axis}/{step}", hidden=True)
            run.define_metric(f"{axis}/*", step_metric=f"{axis}/{step}")

    def log(self, values: Mapping[str, float], step_name: str, step: int) -> None:
        self._run.log({step_name: step, **values})

    def table(self, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._run.log({name: self._wandb.Table(columns=list(heads), data=[list(row) for row in rows])})

    def figure(self, name: str, png: bytes) -> None:
        from PIL import Image

        self._run.log({name: self._wandb.Image(Image.open(io.BytesIO(png)))})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def finish(self, status: str) -> None:
        self._run.tags = (*(self._run.tags or ()), status)
        self._run.finish(exit_code=0 if status == "ok" else 1)


def mode_of(asked: str | None, url: str) -> str:
    """`online` or `offline`: as asked, as `WANDB_MODE` says, else online where there is a key for this host."""
    mode = asked or {"dryrun": "offline", "run": "online"}.get(os.environ.get("WANDB_MODE", ""), os.environ.get("WANDB_MODE"))
    if mode in ("online", "offline"):
        return mode
    return "online" if _has_key(url) else "offline"


def _has_key(url: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    for file in [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]:
        try:
            if file and netrc.netrc(os.path.expanduser(file)).authenticators(urlsplit(url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as dictionaries: W&B wants no dots in keys, and shows a setting at its path."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *above, last = path.split(".")
        at = found
        for part in above:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):  # a value and settings below it: no specification has that, but a plug-in might
                break
        else:
            at[last] = value
            continue
        found[path] = value
    return found
