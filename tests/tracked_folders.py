"""Folders of finished grids that trackers are told of, and what tests do with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsuite import cli
from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.interop.trackers import Wanted
from clsuite.interop.trackers.cells import Cells
from clsuite.interop.trackers.mirror import Mirror
from clsuite.interop.trackers.record import Record

from .fake_trackers import Fake

FILE = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}
model: {name: mlp, hidden: [8]}
training: {batch_size: 16, epochs: 1}
strategies: [naive, replay]
search: {training: {learning_rate: [0.01, 0.1], weight_decay: null}}
protocol: {name: two-phase, trials: 2, tuning_seeds: 1, finalists: 1, finalist_seeds: 1}
seeds: 1
"""


def finished_grid(place: Path) -> Path:
    """A grid of eight cells: two trials, a finalist's further seed and one evaluation of two strategies."""
    (place / "tiny.yaml").write_text(FILE)
    run_grid(read(place / "tiny.yaml"), place / "tiny", workers=1)
    return place / "tiny"


def copy_of(folder: Path, place: Path) -> Path:
    """The grid again, nothing told of it."""
    return Path(shutil.copytree(folder, place / folder.name))


def begun(folder: Path) -> tuple[str, Path, bytes]:
    """A cell of the grid robbed of result and log: its hash, its folder, its result."""
    cell = Cells(folder).names()[0]
    place = Cells(folder).place(cell)
    result = (place / "result.json").read_bytes()
    (place / "result.json").unlink()
    (place / "metrics.jsonl").unlink()
    return cell, place, result


@contextmanager
def own_environment() -> Iterator[None]:
    """No setting of W&B from outside, and none left behind: a mirror is a process of its own and may set what it likes."""
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.syspath_prepend(str(Path(__file__).parent))
        yield
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def mirror(folder: Path, kind: type[Fake] = Fake, warn=None, clock=None, only=()) -> Mirror:
    tracker = kind(Wanted("fake"), folder)
    return Mirror(Cells(folder, only), tracker, Record(folder, "fake", tracker.destination), warn or (lambda line: None), clock or Clock())


def result_of(folder: Path, cell: str) -> dict:
    return json.loads((Cells(folder).place(cell) / "result.json").read_text())


def call(capsys, *argv: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(list(argv))
    out, err = capsys.readouterr()
    return left.value.code, out, err


def loss(step: int, value: float = 1.0) -> str:
    return json.dumps({"event": "loss", "experience": 0, "step": step, "loss": value, "learning_rate": 0.1}) + "\n"
