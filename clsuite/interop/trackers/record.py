"""What a tracker was told already: `DIR/tracked/<tracker>.jsonl`, lines that are only ever appended.

    {"cell": ..., "to": destination, "did": "begun"}
    {"cell": ..., "to": destination, "did": "finished", "digest": of the result}

While a run is open, `DIR/tracked/<tracker>/<cell>` says up to which steps it was told, written before it is told: a mirror that is
killed leaves a gap at the worst, never a step that comes twice. Who tells of a cell holds it, so that several mirrors may share a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from .cells import lines

Marks = dict[str, int]


class Record:
    """The record of one tracker and destination in a folder; `name` is that of the tracker."""

    def __init__(self, folder: Path, name: str, destination: str) -> None:
        place = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
        self._file = folder / "tracked" / f"{place}.jsonl"
        self.log = self._file.with_suffix(".log")
        """What the tracker prints."""
        self._open = folder / "tracked" / place
        self._destination = destination
        self._lock: int | None = None
        self._seen: tuple[int, int] | None = None
        self._finished: dict[str, list[str]] = {}
        self._begun: dict[str, bool] = {}

    def finished(self, cell: str) -> list[str]:
        """Digests of the results of a cell that were told, the last one last."""
        self._read()
        return self._finished.get(cell, [])

    def partial(self, cell: str) -> Marks | None:
        """Up to which steps a run was told that was begun and not finished; None when there is none, or nobody knows how far it came."""
        self._read()
        if not self._begun.get(cell):
            return None
        with suppress(OSError, ValueError):
            found = json.loads((self._open / cell).read_bytes())
            if found.get("to") == self._destination:
                return {str(kind): int(step) for kind, step in found["marks"].items()}
        return None

    def begin(self, cell: str, marks: Marks) -> None:
        """A run is begun or gone on with."""
        self.mark(cell, marks)
        self._append({"cell": cell, "to": self._destination, "did": "begun"})

    def mark(self, cell: str, marks: Marks) -> None:
        """It will be told up to these steps now."""
        self._open.mkdir(parents=True, exist_ok=True)
        (self._open / cell).write_text(json.dumps({"to": self._destination, "marks": marks}))

    def finish(self, cell: str, digest: str) -> None:
        """All of a result was told."""
        self._append({"cell": cell, "to": self._destination, "did": "finished", "digest": digest})
        (self._open / cell).unlink(missing_ok=True)

    def hold(self, cell: str) -> bool:
        """Take a cell for this process; False while another one has it. Where the file system has no locks, it is taken."""
        return self._locked(cell, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, cell: str) -> None:
        """Leave a cell to others."""
        self._locked(cell, fcntl.LOCK_UN)

    def _locked(self, cell: str, how: int) -> bool:
        if self._lock is None:  # one byte of one file for every cell: such locks end with the process
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        byte = int.from_bytes(hashlib.sha256(cell.encode()).digest()[:7], "big")
        try:
            fcntl.lockf(self._lock, how, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        return True

    def _append(self, line: dict[str, str]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            torn = size and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, b"\n" * bool(torn) + json.dumps(line).encode() + b"\n")
        finally:
            os.close(handle)

    def _read(self) -> None:
        """Take note of what this and other processes have appended."""
        try:
            stat = self._file.stat()
        except OSError:
            return
        if (seen := (stat.st_size, stat.st_mtime_ns)) == self._seen:
            return
        self._seen, self._finished, self._begun = seen, {}, {}
        for line in lines(self._file):
            if line.get("to") == self._destination and isinstance(line.get("cell"), str):
                self._begun[line["cell"]] = line.get("did") == "begun"
                if line.get("did") == "finished":
                    self._finished.setdefault(line["cell"], []).append(str(line.get("digest")))
