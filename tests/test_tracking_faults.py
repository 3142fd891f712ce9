"""Whatever a tracker does, a grid ends with the same results, soon, and says in one line what was not told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from clsuite import cli
from clsuite.interop.trackers import Wanted, beside
from clsuite.interop.trackers.beside import tracked
from clsuite.interop.trackers.cells import Cells

from .fake_trackers import CALLS, FAULT, calls

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]

FILE = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}
model: {name: mlp, hidden: [8]}
training: {batch_size: 16, epochs: 1}
strategies: [naive, replay]
protocol: fixed
seeds: 2
"""
FAKE = "fake_trackers:Fake"


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """The same for all tests, so that one server serves them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tiny.yaml").write_text(FILE)
    return tmp_path


@pytest.fixture
def told(tmp_path):
    return lambda method=None: [c for c in calls(tmp_path / CALLS) if method in (None, c["method"])]


@pytest.fixture
def grid(place, capsys):
    """Run the grid of tiny.yaml into `out`: exit code, standard output, lines about tracking on standard error."""

    def run(*arguments: str) -> tuple[object, str, list[str]]:
        with pytest.raises(SystemExit) as left:
            cli.main(["grid", str(place / "tiny.yaml"), "--out", str(place / "out"), "--workers", "1", *arguments])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith(("tracking: ", "warning: ")) and " up to " not in line]
        return left.value.code or 0, out, lines

    return run


def results(folder: Path) -> dict[str, str]:
    """Results without what depends on the clock and the memory, as they are written."""
    found = {}
    for file in folder.glob("cells/*/*/result.json"):
        result = json.loads(file.read_text())
        result["cost"] = {k: v for k, v in result["cost"].items() if "seconds" not in k and k != "peak_memory_mb"}
        found[result["cell"]] = json.dumps(result)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The results of the grid that nobody tracked."""
    folder = tmp_path_factory.mktemp("untracked")
    (folder / "tiny.yaml").write_text(FILE)
    with pytest.raises(SystemExit):
        cli.main(["grid", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--workers", "1"])
    found = results(folder / "out")
    assert len(found) == 4
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_tracked_grid_has_the_results_of_one_that_is_not(tmp_path, grid, told, expected):
    code, _, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected
    assert lines[-1] == "tracking: 4 finished cells in fake"
    assert sorted(c["run"] for c in told("finish")) == sorted(expected) and {c["status"] for c in told("finish")} == {"ok"}
    assert len({c["pid"] for c in told()}) == 1 and told()[0]["pid"] != os.getpid()
    assert grid("--track", FAKE)[2][-1] == "tracking: 4 finished cells in fake" and len(told("start")) == 4  # once each


@pytest.mark.parametrize("method", ["created", "start", "log", "table", "figure", "summary", "finish", "*"])
def test_a_tracker_that_raises(tmp_path, grid, told, expected, monkeypatch, method):
    (tmp_path / FAULT).write_text(f"raise {method}")
    code, out, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected and "replay" in out
    what = f"RuntimeError: {'created' if method == '*' else method} on purpose"
    assert lines[0] == f"warning: {FAKE} was not told of everything: {what}"
    where = FAKE if method in ("created", "*") else "fake"
    assert lines[-1] == f"tracking: 4 of 4 finished cells not in {where} ({what}); later: clsuite sync {tmp_path}/out --to {FAKE}"
    assert len(lines) == 2
    if method == "table":  # and later it is done
        (tmp_path / FAULT).unlink()
        with pytest.raises(SystemExit) as left:
            cli.main(["sync", str(tmp_path / "out"), "--to", FAKE])
        assert not left.value.code and sorted(c["run"] for c in told("summary")) == sorted(expected)


def test_a_tracker_that_raises_at_the_very_end_has_been_told(tmp_path, grid, expected, monkeypatch):
    (tmp_path / FAULT).write_text("raise close")
    assert grid("--track", FAKE)[2] == ["tracking: 4 finished cells in fake"] and results(tmp_path / "out") == expected


@pytest.mark.parametrize("method", ["created", "start", "log", "finish"])
def test_a_tracker_that_hangs(tmp_path, grid, told, expected, monkeypatch, method):
    (tmp_path / FAULT).write_text(f"hang {method}")
    real, patience = beside.Beside.close, []

    def close(self, word, seconds):
        patience.append((word, seconds))
        while not told("hanging"):
            time.sleep(0.01)
        real(self, word, 0.5)

    monkeypatch.setattr(beside.Beside, "close", close)
    code, _, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected and patience == [("ended", 60.0)]
    assert re.fullmatch(rf"tracking: 4 of 4 finished cells not in \S+ \(it took longer than 0.5 s\); later: clsuite sync {tmp_path}/out --to {FAKE}", lines[-1])
    assert not any(alive(c["pid"]) for c in told())


@pytest.mark.parametrize("method", ["start", "log"])
def test_a_tracker_that_ends_the_process(tmp_path, grid, expected, monkeypatch, method):
    (tmp_path / FAULT).write_text(f"exit {method}")
    code, _, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected
    assert lines[-1] == f"tracking: 4 of 4 finished cells not in fake (its process ended with 7); later: clsuite sync {tmp_path}/out --to {FAKE}"


def test_a_mirror_that_is_killed(tmp_path, grid, expected, monkeypatch):
    real = beside.Beside.start

    def start(self):
        real(self)
        os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(beside.Beside, "start", start)
    code, _, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected
    assert lines[-1] == f"tracking: 4 of 4 finished cells not in {FAKE} (its process ended with -9); later: clsuite sync {tmp_path}/out --to {FAKE}"


def test_a_mirror_that_cannot_be_started(tmp_path, grid, expected, monkeypatch):
    def refused(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(beside, "subprocess", SimpleNamespace(Popen=refused, PIPE=-1, DEVNULL=-3))
    code, _, lines = grid("--track", FAKE)
    assert code == 0 and results(tmp_path / "out") == expected
    assert lines == [f"warning: {FAKE} was not told of everything: no mirror can be started: Cannot allocate memory"]


def test_wandb_without_a_network(tmp_path, grid, expected, monkeypatch):
    """Online, with a key, and nobody listens."""
    assert grid()[0] == 0
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(beside, "WAIT_SECONDS", 6.0)
    lines: list[str] = []
    with tracked(Wanted("wandb"), tmp_path / "out", lines.append) as mirror:
        mirror.start()
    assert results(tmp_path / "out") == expected
    assert lines[-1].startswith("tracking: 4 of 4 finished cells not in wandb") and lines[-1].endswith(f"; later: clsuite sync {tmp_path}/out --to wandb")
    assert "0" * 40 not in "".join(lines)


def test_an_interrupted_grid_does_not_wait_for_its_tracker(tmp_path, monkeypatch, told):
    (tmp_path / FAULT).write_text("hang created")
    monkeypatch.setattr(beside, "WAIT_INTERRUPTED", 0.5)
    monkeypatch.setattr(beside, "WAIT_SECONDS", 300.0)
    said = []
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), tracked(Wanted(FAKE), tmp_path / "out", said.append) as mirror:
        mirror.say("begun")
        while not told("hanging"):
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert said[0] == "begun" and said[-1].startswith("tracking: 0 finished cells") and not any(alive(c["pid"]) for c in told())


def test_a_mirror_outlives_its_driver_no_longer_than_it_must(tmp_path, told, grid):
    assert grid()[0] == 0
    program = (
        f"import os, signal, sys, time\nsys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\nfrom clsuite.interop.trackers import Wanted\nfrom clsuite.interop.trackers.beside import Beside\n"
        f"Beside(Wanted({FAKE!r}), Path({str(tmp_path / 'out')!r}), print).start()\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    until = time.monotonic() + 60
    while not (told("close") and not alive(told()[0]["pid"])):  # it tells what is finished, and leaves
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(told("finish")) == 4


def test_sixteen_cells_at_once_are_all_told(tmp_path, place, told, capsys):
    (place / "tiny.yaml").write_text(FILE.replace("[naive, replay]", "[naive]").replace("seeds: 2", "seeds: 16"))
    with pytest.raises(SystemExit) as left:
        cli.main(["grid", str(place / "tiny.yaml"), "--out", str(place / "out"), "--workers", "16", "--oversubscribe", "--track", FAKE])
    assert not left.value.code and capsys.readouterr().err.splitlines()[-1] == "tracking: 16 finished cells in fake"
    assert len(told("start")) == len(told("finish")) == len({c["run"] for c in told("finish")}) == 16


def test_sixteen_mirrors_of_one_folder_tell_each_cell_once(tmp_path, told, grid):
    assert grid()[0] == 0
    cells = Cells(tmp_path / "out").names()

    def run(k: int) -> list[str]:
        said: list[str] = []
        with tracked(Wanted(FAKE), tmp_path / "out", said.append, [cells[k % 4]] if k < 8 else []) as mirror:
            mirror.start()
        return said

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(run, range(16)))
    assert len({c["pid"] for c in told("created")}) == 16
    assert sorted(c["run"] for c in told("start")) == sorted(c["run"] for c in told("finish")) == sorted(cells)
    assert all(len(lines) in (1, 2) and "warning" not in lines[-1] for lines in said)


def test_a_run_that_was_asked_to_leave_goes_on_as_the_same_tracked_run(tmp_path, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import os\nimport signal\nfrom pathlib import Path\n\nfrom clsuite.strategy import Strategy\n\n\n"
        "class Leaves(Strategy):\n"
        "    def before_experience(self, experience):\n"
        "        if experience.index == 1 and not Path('left').exists():\n"
        "            Path('left').touch()\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    run = ["run", "scenario.dataset=digits", "scenario.experiences=2", "scenario.samples_per_class=20", "training.batch_size=16", "strategy=./mine.py:Leaves"]
    codes = []
    for tracker in (FAKE, FAKE, None):
        with pytest.raises(SystemExit) as left:
            cli.main([*run, "--json", "--checkpoint-seconds", "0", *(["--track", tracker] if tracker else ["--out", "untracked"])])
        codes.append(left.value.code or 0)
        said = capsys.readouterr()
    assert codes == [75, 0, 0], said.err
    (tracked_result,), (alone,) = results(tmp_path / "runs").values(), results(tmp_path / "untracked").values()
    assert {**json.loads(tracked_result), "resume": 0, "cost": 0} == {**json.loads(alone), "resume": 0, "cost": 0}
    assert len({c["run"] for c in told("start")}) == 1 and [c["status"] for c in told("finish")][-1] == "ok"
    for axis in ("training/step", "experience/index"):
        steps = [c["step"] for c in told("log") if c["step_name"] == axis]
        assert steps and steps == sorted(set(steps))
