"""The engine's limits on time and memory, and that whatever is killed, asked to leave or interrupted leaves no process behind."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.engines import local
from clsuite.experiment.engines.local import LocalEngine, Task

from .engine_runs import all_gone, children, ending, lives, made, server_of, wait_for, with_tasks

pytestmark = [pytest.mark.kill, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the modules are that tasks and preloads come from."""
    return with_tasks(tmp_path_factory.mktemp("modules"))


@pytest.fixture(scope="module")
def engine(folder):
    """Two workers that have imported the tasks."""
    with LocalEngine(2, ["tasks"], path=[str(folder)]) as engine:
        yield engine


@pytest.fixture
def task(tmp_path) -> Callable[..., Task]:
    return functools.partial(made, tmp_path)


# Limits


@pytest.mark.parametrize(
    ("name", "status"), [("sleeps", "timeout"), ("ignores_sigterm", "timeout"), ("leaves_when_asked", "timeout"), ("fails_when_asked", "timeout")]
)
def test_a_task_that_takes_too_long_is_ended_whatever_it_does_about_it(engine, task, tmp_path, name, status):
    found = ending(engine, task(name, timeout=1.0, seconds=60, file=str(tmp_path / "there")))
    assert (found.status, found.reason) == (status, "not finished after 1 s")
    assert 1.0 <= found.seconds < 10


def test_a_result_that_comes_in_the_time_to_leave_counts(engine, task):
    found = ending(engine, task("finishes_when_asked", timeout=1.0))
    assert (found.status, found.value) == ("ok", "finished")


@pytest.mark.parametrize(("name", "payload"), [("fills", {}), ("fills_in_a_child", {"thread": False}), ("fills_in_a_child", {"thread": True})])
def test_a_task_that_takes_too_much_memory_is_ended_its_children_counted(engine, task, name, payload):
    found = ending(engine, task(name, timeout=60, memory_mb=100, **payload))
    assert found.status == "oom"
    words = found.reason.split()
    assert (words[0], words[2:]) == ("used", ["MB,", "more", "than", "the", "100", "MB", "it", "may"]) and 100 < int(words[1]) < 260
    assert found.seconds < 20


def test_memory_that_is_shared_with_the_server_or_only_mapped_does_not_count(folder, task, monkeypatch):
    monkeypatch.setenv("BALLAST", "200 MB")
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        found = ending(engine, task("maps_much_and_reads_what_is_shared", memory_mb=100))
    assert (found.status, found.value) == ("ok", 200_000_000)


# What is left behind


@pytest.mark.parametrize(("then", "status"), [("return", "ok"), ("raise", "error"), ("die", "killed")])
def test_what_a_task_left_running_ends_with_it(engine, task, then, status):
    found = ending(engine, task("leaves_a_process_behind", then=then))
    assert found.status == status
    pid = {"ok": found.value, "error": (found.reason or "").rpartition(" ")[2], "killed": found.log[0] if found.log else ""}[status]
    assert all_gone([int(pid)])


def test_a_stopped_engine_asks_its_tasks_to_leave_then_kills_them(folder, task, tmp_path):
    engine = LocalEngine(3, ["tasks"], path=[str(folder)])
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    names = ["leaves_when_asked", "ignores_sigterm", "starts_a_process_and_waits"]

    def tasks():
        yield from (task(name, file=str(file)) for name, file in zip(names, files, strict=True))
        raise KeyboardInterrupt

    engine._workers = 4
    with pytest.raises(KeyboardInterrupt):
        list(engine.run(tasks()))
    assert wait_for(lambda: all(file.exists() for file in files))
    began = time.monotonic()
    found = {e.task.key: e for e in engine.stop(grace=1.5)}
    assert time.monotonic() - began >= 1.5
    assert {name: (e.status, e.reason) for name, e in found.items()} == dict.fromkeys(names, ("interrupted", "asked to leave"))
    assert found["leaves_when_asked"].seconds < found["ignores_sigterm"].seconds
    assert all_gone([*map(int, files[2].read_text().split()), server_of(engine)], 5)
    assert engine.stop() == []


DRIVER = """
import sys
from pathlib import Path
from clsuite.experiment.engines.local import LocalEngine, Task
folder, out = sys.argv[1:]
tasks = [Task(k, "tasks:starts_a_process_and_waits", {"file": f"{out}/{k}"}, Path(out, k + ".log")) for k in "ab"]
with LocalEngine(2, ["tasks"], path=[folder]) as engine:
    Path(out, "server").write_text(str(engine._server._process.pid))
    list(engine.run(tasks))
"""


@pytest.mark.parametrize("server_too", [False, True])
def test_a_killed_driver_leaves_no_process(folder, tmp_path, server_too):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(tmp_path)], env=environment)
    assert wait_for(lambda: all((tmp_path / k).exists() for k in "ab"), 120)
    server = int((tmp_path / "server").read_text())
    workers, started = zip(*(map(int, (tmp_path / k).read_text().split()) for k in "ab"), strict=True)
    try:
        assert all(map(lives, [*workers, *started, server]))
        if server_too:
            os.kill(driver.pid, signal.SIGSTOP)  # it does nothing more
            os.kill(server, signal.SIGKILL)
        driver.kill()
        driver.wait()
        assert all_gone([*workers, server], 5)
        assert server_too or all_gone(started, 5)  # where all that could have ended them is gone, they stay
    finally:
        for pid in filter(lives, started):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_server_costs_the_tasks_at_work_and_the_engine_goes_on(folder, task, tmp_path):
    with LocalEngine(2, ["tasks"], path=[str(folder)]) as engine:
        server = server_of(engine)
        files = [tmp_path / "a", tmp_path / "b"]
        tasks = [task("starts_a_process_and_waits", key=f.name, file=str(f)) for f in files] + [task("echo", key=k, k=k) for k in "cd"]

        def given():
            for number, one in enumerate(tasks):
                yield one
                if number == 1:
                    assert wait_for(lambda: all(f.exists() for f in files))
                    os.kill(server, signal.SIGKILL)

        engine._workers = 3  # so that the third is asked for while two are at work
        found = {e.task.key: e for e in engine.run(given())}
        assert server_of(engine) != server
    assert [found[k].status for k in "ab"] == ["killed", "killed"]
    assert found["a"].reason == "ended with the process that workers are forked from, which was killed by SIGKILL"
    assert found["d"].value == {"k": "d"}
    assert all_gone([int(pid) for f in files for pid in f.read_text().split()], 5)


def test_a_task_that_kills_the_server_costs_itself_as_long_as_others_end(folder, task):
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        found = list(engine.run(task(("kills_its_server", "echo")[k % 2], key=str(k)) for k in range(10)))
    assert [e.status for e in found] == ["killed", "ok"] * 5


def test_a_server_that_dies_again_and_again_is_an_error_in_one_line(folder, task):
    found = []
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine, pytest.raises(UsageError) as caught:
        for one in engine.run(task("kills_its_server", key=str(k)) for k in range(10)):
            found.append(one.status)
    assert found == ["killed"] * 3
    assert "\n" not in str(caught.value) and "3 times" in str(caught.value) and "--workers = 1" in str(caught.value)
    assert server_of(engine) not in children()


def test_a_worker_whose_server_died_before_it_could_tie_itself_to_it_leaves():
    program = "import os\nfrom clsuite.experiment.engines.server import _die_with\n_die_with({})\nprint('goes on')"
    gone, there = (
        subprocess.run([sys.executable, "-c", program.format(parent)], capture_output=True, text=True, timeout=60) for parent in ("1", "os.getppid()")
    )
    assert (gone.returncode, gone.stdout, there.returncode, there.stdout) == (1, "", 0, "goes on\n")


def test_an_interrupt_at_any_point_followed_by_stop_leaves_no_process(folder, task, tmp_path):
    """The interrupt breaks in at the k-th line of the engine's own code, for k all over a run."""
    files = [local.__file__, local.__file__.replace("local.py", "forkserver.py")]
    mark = f"interrupted{uuid.uuid4().hex}"

    def interrupted(k: int) -> bool:
        """Run until the k-th line; whether it was reached."""
        passed = 0

        def trace(frame, event, argument):
            nonlocal passed
            if frame.f_code.co_filename not in files:
                return None
            passed += event == "line"
            if passed == k:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        engine = None
        try:
            sys.settrace(trace)
            engine = LocalEngine(2, (), path=[str(folder), f"/{mark}"])
            given = [task("exits", key=str(n), code=n) for n in range(2)] + [task("ignores_sigterm", timeout=1.0, file=str(tmp_path / "f"))]
            for _ in engine.run(given):
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
            if engine is not None:
                engine.stop(grace=0.2)
        return False

    def processes() -> list[int]:
        return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in content(p)]  # the server and all its forks

    points = [*range(1, 60), *range(60, 300, 9)]  # every line of the start
    reached = 0
    for k in points:
        reached += interrupted(k)
        assert wait_for(lambda: not processes(), 30), f"a process is left after an interrupt at line {k}"
    assert reached > 70


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
