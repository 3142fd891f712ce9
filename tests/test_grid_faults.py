"""Grids in which cells fail, drivers are killed or come in twos: every finished cell is there once, right, and untouched ever after."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from clsuite import cli
from clsuite.experiment.cell import run_cell
from clsuite.experiment.engines.local import LocalEngine, Task
from clsuite.experiment.file import Experiment, read
from clsuite.experiment.grid import TARGET
from clsuite.experiment.phases import run_grid
from clsuite.experiment.spec import resolve
from clsuite.experiment.store import Store

pytestmark = [
    pytest.mark.kill,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc"),
    pytest.mark.usefixtures("one_server"),
]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

PLUGINS = '''\
import os
import signal
import sys
import time
from pathlib import Path

from clsuite.errors import UsageError
from clsuite.strategy import Strategy

HERE = Path(__file__).parent


def fill():
    taken = []
    for _ in range(60):  # ends by itself where nobody ends it
        taken.append(bytearray(50_000_000))
        time.sleep(0.03)


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(600)


class Faulty(Strategy):
    """Fails in its second experience, in a way of its own for every seed."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        if self.run.experience == 1 and not (HERE / "mended").exists():
            if self.run.seed == 0:
                raise ValueError("on purpose")
            if self.run.seed == 1:
                raise UsageError("strategy.rate = 7 is not valid here (valid: 0 to 1)")
            if self.run.seed == 2:
                sys.exit(3)
            if self.run.seed == 3:
                os._exit(9)
            if self.run.seed == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.run.seed == 5:
                hang()
            if self.run.seed == 6:
                fill()
            if self.run.seed == 7:
                return loss * float("nan")
        return loss


class Counting(Strategy):
    """Notes every computation of a cell, once two drivers are there to compute it."""

    def before_experience(self, experience):
        if experience.index > 0:
            return
        driver = os.getppid()  # the process that this driver's workers are forked from
        (HERE / f"driver-{driver}").touch()
        until = time.monotonic() + 120
        while len(list(HERE.glob("driver-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        with (HERE / "computed").open("a") as file:
            file.write(f"{self.run.seed} {driver}\\n")
'''

FAULTY = """\
scenario: {{name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}}
model: {{name: mlp, hidden: [8]}}
training: {{epochs: 1, batch_size: 32}}
device: cpu
protocol: fixed
strategies: [naive, {{name: '{folder}/plugins.py:Faulty', label: faulty}}, replay, {{name: replay, label: small, buffer_size: 10}}, derpp]
seeds: 8
limits: {{timeout: 3, memory_mb: 600}}
"""

LONGER = """\
scenario: {name: class_incremental, dataset: digits, experiences: 5}
model: {name: mlp, hidden: [16]}
training: {epochs: 6, batch_size: 16}
device: cpu
protocol: fixed
strategies: [naive, replay]
seeds: 4
"""
CELLS = 8

COUNTING = """\
scenario: {{name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}}
model: {{name: mlp, hidden: [8]}}
training: {{epochs: 1, batch_size: 32}}
device: cpu
protocol: fixed
strategies: [{{name: '{folder}/plugins.py:Counting', label: counting}}]
seeds: 10
"""

ENDS = {  # by seed: status, reason, how often it is tried
    0: ("error", "ValueError: on purpose", 1),
    1: ("error", "strategy.rate = 7 is not valid here (valid: 0 to 1)", 1),
    2: ("error", "exited with code 3 without a result", 1),
    3: ("error", "exited with code 9 without a result", 1),
    4: ("killed", "killed by SIGKILL", 3),
    5: ("timeout", "not finished after 3 s", 3),
    6: ("oom", "more than the 600 MB it may", 3),
    7: ("diverged", "the loss became nan", 0),
}


@pytest.fixture(autouse=True)
def mark(lasting_servers) -> Iterator[str]:
    """What drivers of a test, and all they start, carry in their environment; none is left when the test is over, nor a worker of this process."""
    mark = f"faults-{uuid.uuid4().hex}"
    yield mark
    assert wait_for(lambda: not marked(mark), 15), f"left behind: {marked(mark)}"
    for server in lasting_servers:
        assert wait_for(lambda pid=server._process.pid: not children(pid), 15), f"left behind: {children(server._process.pid)}"


def children(pid: int) -> list[str]:
    return [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def marked(mark: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return bool(condition())


def grid(*arguments: object) -> int:
    """`clsuite grid` in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["grid", *map(str, arguments)])
    return int(ended.value.code or 0)


def driver(mark: str, *arguments: object, **options) -> subprocess.Popen:
    """`clsuite grid` in a process of its own."""
    command = [sys.executable, "-m", "clsuite", "grid", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "CLSUITE_TEST_MARK": mark}, **options)


def written(folder: Path, text: str) -> Path:
    (folder / "plugins.py").write_text(PLUGINS)
    (folder / "experiment.yaml").write_text(text.format(folder=folder) if "{folder}" in text else text)
    return folder / "experiment.yaml"


def results(out: Path) -> dict[Path, dict]:
    return {path.relative_to(out): json.loads(path.read_bytes()) for path in out.glob("cells/*/*/result.json")}


def numbers(found: dict[Path, dict]) -> dict[Path, tuple]:
    """What must be equal bit for bit."""
    return {path: (r["metrics"], r["matrix"], r["weights_sha256"]) for path, r in found.items()}


def files(out: Path, pattern: str = "**/*") -> dict[Path, tuple[int, int, int]]:
    """Files as they lie there: one that was written again has another inode or time."""
    return {path: (s.st_ino, s.st_mtime_ns, s.st_size) for path in out.glob(pattern) if path.is_file() and (s := path.stat())}


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Experiment:
    return read(written(tmp_path_factory.mktemp("longer"), LONGER))


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> dict[Path, tuple]:
    """The numbers of a grid of one worker that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert all(o.ok for o in run_grid(longer, out, workers=1))
    found = numbers(results(out))
    assert len(found) == CELLS
    return found


def test_of_forty_cells_eight_fail_in_eight_ways_and_the_others_are_right(tmp_path, capfd, longer):
    file, out = written(tmp_path, FAULTY), tmp_path / "out"
    store = Store(out)
    assert grid(file, "--out", out) == 1
    by_label: dict[str, dict[int, str]] = {}
    for row in store.plan():
        by_label.setdefault(row["label"], {})[row["seed"]] = row["cell"]
    assert sum(map(len, by_label.values())) == 40
    faulty = by_label.pop("faulty")
    for seed, (status, reason, tries) in ENDS.items():
        state, attempts = store.state(faulty[seed]), store.attempts(faulty[seed])
        assert (state.status, state.final) == (status, True), seed
        assert reason in (state.reason or ""), seed
        assert len(attempts) == tries and all(reason in a["reason"] and a["seconds"] > 0 for a in attempts), seed
        assert (store.result(faulty[seed]) is not None) == (status == "diverged")
    assert any("on purpose" in line for line in store.attempts(faulty[0])[0]["log"])
    printed = capfd.readouterr().out.splitlines()
    assert all(any(f"faulty, seed {seed}" in line and reason in line for line in printed) for seed, (_, reason, _) in ENDS.items())

    for label, cells in by_label.items():
        for cell in read(file).cells:
            if cell.label == label:
                alone = run_cell(resolve(cell.raw))
                stored = store.result(cells[cell.seed])
                assert stored is not None and stored["status"] == "ok"
                assert [stored[k] for k in ("metrics", "matrix", "weights_sha256")] == [alone[k] for k in ("metrics", "matrix", "weights_sha256")]

    before = files(out)
    assert grid(file, "--out", out) == 1
    assert "40 cells, 33 finished, 7 failed before (--rerun failed tries them again), 0 to run" in capfd.readouterr().err
    assert files(out) == before

    (tmp_path / "mended").touch()
    before = files(out, "cells/*/*/result.json")
    assert grid(file, "--out", out, "--rerun", "failed") == 1  # one has diverged, which is its result
    assert "40 cells, 33 finished, 7 to run" in capfd.readouterr().err
    after = files(out, "cells/*/*/result.json")
    assert len(after) == 40 and {path: after[path] for path in before} == before
    assert Counter(r["status"] for r in results(out).values()) == {"ok": 39, "diverged": 1}


def test_a_driver_killed_at_three_points_ends_with_the_numbers_of_one_left_alone(tmp_path, mark, longer, undisturbed):
    out = tmp_path / "out"
    kept: dict[Path, tuple[int, int, int]] = {}
    for pattern, count, delay in (("claim", 1, random.SystemRandom().uniform(0, 0.3)), ("result.json", 3, 0.0), ("result.json", 5, 0.0)):
        process = driver(mark, longer.path, "--out", out, "--workers", min(CORES, 2), stderr=subprocess.DEVNULL)
        assert wait_for(lambda: len(list(out.glob(f"cells/*/*/{pattern}"))) >= count, 120)  # noqa: B023
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        assert wait_for(lambda: not marked(mark), 10), f"left behind: {marked(mark)}"
        now = files(out, "cells/*/*/result.json")
        assert {path: now[path] for path in kept} == kept, "a result was written again"
        assert len(now) < CELLS
        kept = now
    assert kept
    assert all(o.ok for o in run_grid(longer, out))
    now = files(out, "cells/*/*/result.json")
    assert {path: now[path] for path in kept} == kept, "a result was written again"
    assert numbers(results(out)) == undisturbed


def test_two_drivers_on_one_folder_compute_every_cell_once(tmp_path, mark):
    file, out = written(tmp_path, COUNTING), tmp_path / "out"
    other = driver(mark, file, "--out", out, "--workers", 1, stderr=subprocess.PIPE, text=True)
    code = grid(file, "--out", out, "--workers", 1)
    said = other.communicate(timeout=300)[1]
    assert (code, other.returncode) == (0, 0), said
    lines = [line.split() for line in (tmp_path / "computed").read_text().splitlines()]
    assert sorted(int(seed) for seed, _ in lines) == list(range(10))
    assert len({pid for _, pid in lines}) == 2, "one driver did it all"
    assert [r["status"] for r in results(out).values()] == ["ok"] * 10


def test_numbers_do_not_depend_on_how_many_workers_there_are_or_on_the_order_of_cells(tmp_path, longer, undisturbed):
    with LocalEngine(1) as engine:
        for workers in (2, 4):
            out = tmp_path / str(workers)
            tasks = [
                Task(str(k), TARGET, {"raw": cell.raw, "out": str(out), "data_root": None}, tmp_path / "logs" / f"{workers}-{k}")
                for k, cell in enumerate(longer.cells)
            ]
            random.SystemRandom().shuffle(tasks)
            engine._workers = workers  # an engine of its own for each would import torch twice
            assert [(e.status, e.reason) for e in engine.run(tasks)] == [("ok", None)] * CELLS
            assert numbers(results(out)) == undisturbed
