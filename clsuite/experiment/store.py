"""The folder of an experiment as its memory: identity, plan, results and attempts.

    experiment.yaml, identity.json     what the experiment is
    cells.txt                          where its cells lie, when several experiments share them
    plan.jsonl                         the cells it has: cell, phase, label, seed, ...
    cells/<2 hex>/<hash>/              result.json, attempts.jsonl, claim, ... (elsewhere with `--cells`)

Lists are lines that are only ever appended, a write each: what a power cut or a full disk tears is one line, and the
reader skips it.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..training.checkpoint import sync_folder
from .folder import cell_folder, finished, locked, plain, put, writing

FORGIVEN = "forgiven"
CELLS = "cells.txt"
SHARED_START = "shared start"
"""The phase of cells that others go on from."""
TRANSIENT = ("oom", "timeout", "killed")  # of the machine, not of the cell: tried again
LASTING = ("error", "usage")
TRIES = 3


@dataclass(frozen=True)
class State:
    """How a cell stands. `status`: `ok`, `diverged`, `error`, `oom`, `timeout`, `killed` or `missing`; `final`: not to be run again."""

    status: str
    reason: str | None = None
    final: bool = False


class Store:
    """The folder of one experiment; `cells` is the folder that holds its cells when several experiments share them."""

    def __init__(self, out: Path, cells: Path | None = None):
        self.out = out
        self.cells = out if cells is None else cells

    @classmethod
    def of(cls, out: Path) -> Store:
        """The store as the grid left it, which says in the folder where its cells lie."""
        try:
            return cls(out, Path((out / CELLS).read_text().strip()))
        except OSError:
            return cls(out)

    def folder(self, name: str) -> Path:
        """The folder of the cell with this hash."""
        return cell_folder(self.cells, name)

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a cell, or None while there is none."""
        return finished(self.folder(name))

    def record(self, name: str, attempt: dict[str, Any]) -> None:
        """Note an attempt that gave no result: `status`, `reason`, `log` (last lines), `host`, `pid`, `seconds`."""
        _append(self.folder(name) / "attempts.jsonl", [attempt])

    def attempts(self, name: str) -> list[dict[str, Any]]:
        """The attempts at a cell that count: those since it was last forgiven."""
        found = _lines(self.folder(name) / "attempts.jsonl")
        last = max((k for k, attempt in enumerate(found) if attempt.get("status") == FORGIVEN), default=-1)
        return found[last + 1 :]

    def forgive(self, name: str) -> None:
        """Let the attempts so far count no more, so that the cell is run again."""
        if self.attempts(name):
            self.record(name, {"status": FORGIVEN})

    def state(self, name: str) -> State:
        """How a cell stands: its result, else an error of its own, else its last attempt; three times cut short is final."""
        result = self.result(name)
        if result is not None:
            return State(result["status"], result.get("reason"), True)
        attempts = self.attempts(name)
        lasting = [a for a in attempts if a.get("status") in LASTING]
        if lasting:
            return State("error", lasting[-1].get("reason"), True)
        transient = [a for a in attempts if a.get("status") in TRANSIENT]
        if transient:
            return State(transient[-1]["status"], transient[-1].get("reason"), len(transient) >= TRIES)
        return State("missing")

    def add_plan(self, rows: list[dict[str, Any]]) -> None:
        """Append the rows that the plan does not end with: of those for one place (all but the cell) the last counts."""
        last = {_place(row): row_key(row) for row in self._plan_lines()}
        if new := {row_key(row): row for row in rows if last.get(_place(row)) != row_key(row)}:
            _append(self.out / "plan.jsonl", list(new.values()))

    def plan(self) -> list[dict[str, Any]]:
        """The planned cells in the order they were added, each once."""
        return list({row_key(row): row for row in self._plan_lines()}.values())

    def superseded(self) -> set[str]:
        """Keys (`row_key`) of the planned rows in whose place another cell stands now, since a strategy was tuned anew."""
        last = {_place(row): row_key(row) for row in self._plan_lines()}
        return {row_key(row) for row in self._plan_lines()} - set(last.values())

    def _plan_lines(self) -> list[dict[str, Any]]:
        return [row for row in _lines(self.out / "plan.jsonl") if {"cell", "phase", "label"} <= set(row)]

    def open(self, identity: dict[str, Any], text: str) -> None:
        """Begin or go on with the experiment of this identity, described by `text`.

        Raises `UsageError`, with nothing written, when the folder holds an experiment of another identity.
        """
        identity = json.loads(json.dumps(plain(identity)))
        path = self.out / "identity.json"
        with writing(path):
            if not path.exists():
                self.out.mkdir(parents=True, exist_ok=True)
                put(path, json.dumps(identity, indent=1).encode(), replace=False)  # of two drivers the first says what it is
            self._check(path, identity)
        self._keep("experiment.yaml", text)
        if self.cells != self.out:
            self._keep(CELLS, f"{self.cells}\n")

    def _keep(self, name: str, text: str) -> None:
        file, data = self.out / name, text.encode()
        with writing(file):
            if not file.exists() or file.read_bytes() != data:
                put(file, data, replace=True)

    def _check(self, path: Path, identity: dict[str, Any]) -> None:
        try:
            there = json.loads(path.read_bytes())
        except ValueError as error:
            raise UsageError(f"--out: '{path}' is damaged: {error} (valid: the file as it was, or another --out)") from error
        if found := _difference(there, identity, ""):
            key, old, new = found
            raise UsageError(f"--out = '{self.out}' holds another experiment: {key} is {_shown(old)} there and {_shown(new)} here (another --out is needed)")


def row_key(row: dict[str, Any]) -> str:
    """A row of the plan as text, for comparing."""
    return json.dumps(plain(row), sort_keys=True)


def _place(row: dict[str, Any]) -> str:
    return row_key({key: value for key, value in row.items() if key != "cell" or row.get("phase") == SHARED_START})


def _difference(there: Any, here: Any, key: str) -> tuple[str, Any, Any] | None:
    """The first dotted key whose values differ, with both values."""
    if isinstance(there, dict) and isinstance(here, dict):
        for k in [*here, *(k for k in there if k not in here)]:
            if found := _difference(there.get(k, ...), here.get(k, ...), f"{key}.{k}" if key else k):
                return found
        return None
    same = there is here or (there is not ... and here is not ... and json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True))
    return None if same else (key or "the identity", there, here)


def _shown(value: Any) -> str:
    text = "absent" if value is ... else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append JSON lines in one write that is on the disk afterwards; what was torn before stays a line of its own."""
    data = "".join(json.dumps(plain(row)) + "\n" for row in rows).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with locked(handle):
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) != b"\n":
                    data = b"\n" + data
                if os.write(handle, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
        finally:
            os.close(handle)
        if not size:
            sync_folder(path.parent)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole JSON objects."""
    found = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
