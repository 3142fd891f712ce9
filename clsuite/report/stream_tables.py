"""What streams show when, worked out from their settings in a process of its own, so that a report never waits for data or touches a network.

`python -m clsuite.report.stream_tables FILE` reads a JSON list of settings from its standard input and writes to FILE a line of JSON for
each: its table, or why there is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .text import some

if TYPE_CHECKING:
    from ..stream import EvaluationSet, Segment, Stream

SECONDS = 20.0
"""All tables together may take so long; those that are not ready by then are left out."""
EXPERIENCES, GROUPS, POINTS, NAMED = 400, 200, 20_000, 12
"""Experiences, classes (or corpora), pairs of experience and task in a table, and classes named of an evaluation set."""
Table = dict[str, Any]


def tables(wanted: Sequence[dict[str, Any]], seconds: float = SECONDS) -> list[Table]:
    """A table for each of the settings `{scenario, protocol, phase, seed}`; `{"missing": line}` where the stream cannot be made here.

    Data is looked for on this machine alone. A table has the keys of `table`.
    """
    if not wanted:
        return []
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "tables.jsonl"
        surroundings = {**os.environ, "CLSUITE_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        why = f"it took longer than {seconds:g} s to work out"
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(answer)],
                input=json.dumps(list(wanted)).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=surroundings,
                timeout=seconds,
                check=False,
            )
            if done.returncode:
                why = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
        except subprocess.TimeoutExpired:
            pass
        except OSError as error:
            why = f"no process could be started: {error.strerror or error}"
        lines = answer.read_text(encoding="utf-8").split("\n") if answer.exists() else []
    found: list[Table] = [json.loads(line) for line in lines[:-1]]
    return [*found, *({"missing": why} for _ in wanted[len(found) :])]


def main(answer: Path) -> None:
    with answer.open("w", encoding="utf-8") as file:
        for wanted in json.load(sys.stdin):
            try:
                found = table(made(wanted))
            except UsageError as error:
                found = {"missing": str(error)}
            except Exception as error:  # somebody else's scenario: anything may go wrong, and the next table is still wanted
                found = {"missing": f"{type(error).__name__}: {error}"}
            file.write(json.dumps(found) + "\n")
            file.flush()


def made(wanted: dict[str, Any]) -> Stream:
    """The stream of some settings; raises `UsageError` for what is not valid and `MissingData` where the data is not."""
    from .. import registry
    from ..scenario import Split

    given = dict(wanted["scenario"])
    name = given.pop("name")
    found = registry.load("scenarios", name)
    scenario = found(split=Split(**Split.validated(wanted["protocol"], "protocol")), data_root=None, **found.validated(given, "scenario"))
    scenario.name = name
    stream: Stream = scenario.stream(wanted["phase"], wanted["seed"])
    return stream


def table(stream: Stream) -> Table:
    """A stream as plain values.

    `experiences`: those in the table, of `of` there are; `new` and `returning`: their training samples; `groups`: names of classes, or of
    corpora where samples are windows of text, in the order in which they come, of `groups_of`; `samples`: those of each group,
    [experiences, groups]; `tasks`: rows (experience, task, samples, whether it returns); `sets`: the evaluation sets, with the first of
    the `classes_of` classes in each; `unit`: what a training sample counts for (tokens of a window, else 1); further `world`, `data`,
    `scenario`, `phase`, `seed`, `part`, `borders`, `task_ids`, `total` and `fingerprint`.
    """
    chosen = some(len(stream), EXPERIENCES)
    names = _group_names(stream)
    counter = _Counter(stream, len(names))
    counts = np.zeros((len(chosen), len(names)), np.int64)
    new, returning, tasks = [], [], []
    for row, i in enumerate(chosen):
        experience = stream.experiences[i]
        by_task: dict[tuple[int, bool], int] = {}
        for segment in experience.segments:
            counts[row] += counter.of(segment)
            key = (segment.task, segment.role == "rehearsed")
            by_task[key] = by_task.get(key, 0) + len(segment)
        tasks += [[i, task, n, back] for (task, back), n in sorted(by_task.items())]
        returning.append(sum(n for (_, back), n in by_task.items() if back))
        new.append(sum(by_task.values()) - returning[-1])
    first = np.where(counts.any(axis=0), (counts > 0).argmax(axis=0), len(chosen))
    order = [g for g in np.argsort(first, kind="stable").tolist() if first[g] < len(chosen)]
    order = [order[k] for k in some(len(order), GROUPS)]
    return {
        "scenario": stream.scenario,
        "world": stream.world,
        "data": stream.source.name,
        "phase": stream.phase,
        "seed": stream.seed,
        "part": stream.facts.get("part"),
        "of": len(stream),
        "experiences": chosen,
        "groups": [names[g] for g in order],
        "groups_of": len(names),
        "samples": counts[:, order].tolist(),
        "new": new,
        "returning": returning,
        "tasks": [tasks[k] for k in some(len(tasks), POINTS)],
        "total": sum(len(e) for e in stream.experiences),
        "unit": int(getattr(stream.source, "context", 1)),
        "sets": [_set(s, names) for s in stream.evaluation_sets],
        "borders": stream.has_borders,
        "task_ids": stream.has_task_ids,
        "fingerprint": stream.fingerprint,
    }


def _set(chosen: EvaluationSet, names: list[str]) -> dict[str, Any]:
    known = {"name": chosen.name, "samples": len(chosen), "learned_in": chosen.learned_in}
    return {**known, "classes": [names[c] for c in chosen.classes[:NAMED]], "classes_of": len(chosen.classes)}


def _group_names(stream: Stream) -> list[str]:
    corpora = getattr(stream.source, "corpora", None)
    if corpora is not None:
        return [str(corpus.name) for corpus in corpora]
    return [str(stream.source.class_names[label]) for label in stream.class_labels]


class _Counter:
    """Samples of each group in a segment; arrays that segments share are counted once."""

    def __init__(self, stream: Stream, groups: int):
        self._stream, self._groups = stream, groups
        self._known: dict[int, np.ndarray] = {}

    def of(self, segment: Segment) -> np.ndarray:
        """Int64 [groups]."""
        content = segment.content
        if not isinstance(content, np.ndarray):  # a draw has samples of its own every time
            return self._counted(segment.indices)
        if id(content) not in self._known:
            self._known[id(content)] = self._counted(content)
        return self._known[id(content)]

    def _counted(self, indices: np.ndarray) -> np.ndarray:
        return np.bincount(self._stream.labels_of(indices), minlength=self._groups)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
