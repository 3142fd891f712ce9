"""The folder of an experiment as a mirror reads it: files alone, nothing of the engine, so that no mirror imports torch.

    plan.jsonl, identity.json, cells.txt     cells with label, phase, trial; protocol; where shared cells lie
    cells/<2 hex>/<hash>/                    spec.json, metrics.jsonl, attempts.jsonl, result.json

Only `result.json` is whole by promise. Of everything else what cannot be read yet counts as not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .base import TrackedRun
from .redact import clean, secret, text

SHARED_START = "shared start"
"""The phase of cells that only others go on from; they are no result."""
LONGEST_NAME, LONGEST_TAG = 120, 64
"""Characters; W&B refuses longer tags."""
_FORGIVEN = "forgiven"

Row = dict[str, Any]


class Cells:
    """The cells of a folder: those of its plan, or of single runs; `only` some of them."""

    def __init__(self, folder: Path, only: Sequence[str] = ()) -> None:
        self.folder = folder
        self.name = text(folder.resolve().name)
        self._only = tuple(only)
        self._plan: list[Row] = []
        self._planned: dict[str, list[Row]] = {}
        self._plan_size = -1
        self._digests: dict[str, tuple[Any, str]] = {}
        self._base: Path | None = None

    def names(self) -> list[str]:
        """Hashes of the cells, in the order they were planned."""
        if self._only:
            return list(self._only)
        self._read_plan()
        if self._planned or (self.folder / "plan.jsonl").exists():
            return list(self._planned)
        return sorted(path.name for path in self.folder.glob("cells/*/*"))

    def place(self, cell: str) -> Path:
        """The folder of a cell."""
        if self._base is None:
            shared = _text(self.folder / "cells.txt")
            self._base = (Path(shared.strip()) if shared else self.folder) / "cells"
        return self._base / cell[:2] / cell

    def digest(self, cell: str) -> str | None:
        """What a result is recognised by; None while there is none."""
        path = self.place(cell) / "result.json"
        try:
            stat = path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if cell not in self._digests or self._digests[cell][0] != seen:
                self._digests[cell] = seen, hashlib.sha256(path.read_bytes()).hexdigest()
            return self._digests[cell][1]
        except OSError:
            return None

    def result(self, cell: str) -> Row | None:
        return _object(self.place(cell) / "result.json")

    def news(self, cell: str) -> float:
        """When the log or the attempts of a cell were last written, in seconds since 1970; 0 when there are none."""
        return max(_time(self.place(cell) / "metrics.jsonl"), _time(self.place(cell) / "attempts.jsonl"))

    def failure(self, cell: str) -> Row | None:
        """The attempt that a cell's log ends with; None while it may still grow."""
        place = self.place(cell)
        attempts = lines(place / "attempts.jsonl")
        if not attempts or attempts[-1].get("status") == _FORGIVEN or _time(place / "metrics.jsonl") > _time(place / "attempts.jsonl"):
            return None
        return attempts[-1]

    def run(self, cell: str, resume: bool = False, again: int = 0) -> TrackedRun | None:
        """A cell as trackers see it, without secrets; None while nothing says what it is."""
        result = self.result(cell)
        spec = (result or {}).get("spec") or _object(self.place(cell) / "spec.json")
        if not spec:
            return None
        self._read_plan()
        rows = self._planned.get(cell, []) or [{"label": (result or {}).get("strategy") or strategy(spec), "phase": spec.get("phase"), "trial": None}]
        row, seed = rows[0], spec.get("seed")
        trials = [r["trial"] for r in rows if r.get("trial") is not None]
        name = ", ".join([str(row["label"]), *([f"trial {row['trial']}"] if row.get("trial") is not None else []), f"seed {seed}"])
        own = {"cell": cell, "experiment": self.name, "label": row["label"], "phase": row["phase"], "trial": row.get("trial"), "seed": seed}
        settings = {path: value for path, value in flat(spec).items() if path not in ("phase", "seed") and not secret(path)}
        tags = [*_tags(spec), self._protocol(spec), *(str(r["label"]) for r in rows), *(f"trial {trial}" for trial in trials)]
        if all(self._superseded(r) for r in rows):
            tags.append("superseded")
        return TrackedRun(
            id=cell,
            name=shortened(text(name), LONGEST_NAME),
            group=shortened(self.name, LONGEST_NAME),
            job_type=shortened(text(str(row["phase"])), LONGEST_TAG),
            tags=tuple(dict.fromkeys(shortened(text(tag), LONGEST_TAG) for tag in tags if tag)),
            config=clean({**own, **settings}),
            resume=resume,
            again=again,
        )

    def _protocol(self, spec: Row) -> str:
        identity = _object(self.folder / "identity.json") or {}
        protocol = identity.get("protocol") or {}
        return str(protocol.get("name") or (spec.get("protocol") or {}).get("split") or "")

    def _superseded(self, row: Row) -> bool:
        """Whether another cell stands in the place of a row now, since a strategy was tuned anew."""
        return next((r["cell"] != row["cell"] for r in reversed(self._plan) if _place(r) == _place(row)), False)

    def _read_plan(self) -> None:
        path = self.folder / "plan.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size == self._plan_size:
            return
        self._plan_size, self._plan, self._planned = size, [], {}
        for row in lines(path):
            if str(row.get("cell")).isalnum() and row.get("phase") != SHARED_START and {"label", "seed"} <= row.keys():
                self._plan.append(row)
                self._planned.setdefault(row["cell"], []).append(row)


def flat(values: Row, path: str = "") -> Row:
    """Settings by their dotted paths, as `clsuite results` names them."""
    found: Row = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}{key}.")
        elif key == "modifiers" and isinstance(value, list):
            for k, modifier in enumerate(value):
                found |= flat(modifier, f"{path}modifiers.{k}.")
        else:
            found[path + key] = value
    return found


def strategy(spec: Row) -> str:
    """The name of a strategy with its modifiers: `replay+fpf`."""
    given = spec.get("strategy") or {}
    return "+".join(str(part.get("name")) for part in [given, *(given.get("modifiers") or [])])


def shortened(value: str, most: int) -> str:
    return value if len(value) <= most else value[: most - 3] + "..."


def lines(path: Path) -> list[Row]:
    """The lines of a file that are whole JSON objects."""
    found = []
    for line in (_text(path) or "").split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _tags(spec: Row) -> list[str]:
    scenario = spec.get("scenario") or {}
    data = scenario.get("dataset") or scenario.get("benchmark") or " -> ".join(scenario.get("corpora") or []) or scenario.get("shift")
    return [str(scenario.get("name") or ""), str(data or ""), strategy(spec)]


def _place(row: Row) -> str:
    return json.dumps({key: value for key, value in row.items() if key != "cell"}, sort_keys=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _object(path: Path) -> Row | None:
    try:
        value = json.loads(_text(path) or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
