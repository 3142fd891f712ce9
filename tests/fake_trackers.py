"""A tracker that writes down what it is told, and fails on request: raises, hangs or ends its process in the method it is asked to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from clsuite.interop.trackers.base import OpenRun, TrackedRun, Tracker

CALLS, FAULT = "calls.jsonl", "fault"
"""Files beside the folder that is told of: the calls so far, and what to do in which method (`raise log`, `raise *`: in all)."""


def calls(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def called(place: Path, method: str, run: str | None = None, **values: Any) -> None:
    """Write a call down, or fail over it as the file asks."""
    how, _, where = (place / FAULT).read_text().partition(" ") if (place / FAULT).exists() else ("", "", "")
    if where in (method, "*"):
        if how == "raise":
            raise RuntimeError(f"{method} on purpose")
        if how == "hang":
            _write(place, {"method": "hanging", "pid": os.getpid()})
            time.sleep(600)
        if how == "exit":
            os._exit(7)
    _write(place, {"method": method, "run": run, "pid": os.getpid(), **values})


def _write(place: Path, call: dict[str, Any]) -> None:
    handle = os.open(place / CALLS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(handle, json.dumps(call).encode() + b"\n")
    os.close(handle)


class Fake(Tracker):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.place = self.folder.resolve().parent
        called(self.place, "created")

    @property
    def destination(self) -> str:
        return "fake"

    def start(self, run: TrackedRun) -> FakeRun:
        called(self.place, "start", run.id, **{name: value for name, value in vars(run).items() if name != "id"})
        return FakeRun(self.place, run.id)

    def close(self) -> None:
        called(self.place, "close")


class FakeRun(OpenRun):
    def __init__(self, place: Path, run: str) -> None:
        self.place, self.run = place, run

    def log(self, values, step_name, step):
        called(self.place, "log", self.run, values=values, step_name=step_name, step=step)

    def table(self, name, heads, rows):
        called(self.place, "table", self.run, name=name, heads=heads, rows=rows)

    def figure(self, name, png):
        called(self.place, "figure", self.run, name=name, begins=png[:4].hex())

    def summary(self, values):
        called(self.place, "summary", self.run, values=values)

    def finish(self, status):
        called(self.place, "finish", self.run, status=status)


class Forgetful(Fake):
    """Cannot go on with a run that another process began."""

    continues = False
