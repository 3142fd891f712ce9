"""The engine that runs a process a task: how a task ends is always known, costs it alone, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.engines import local
from clsuite.experiment.engines.local import Ending, LocalEngine, Task
from clsuite.experiment.results import ResultWarning

unit, kill = pytest.mark.unit, pytest.mark.kill
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")

TASKS = """\
import ctypes
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

from clsuite.errors import Interrupted, UsageError

ballast = bytearray(200_000_000) if os.environ.get("BALLAST") else b""


def echo(p):
    return p


def raises(p):
    raise {"value": ValueError, "usage": UsageError, "memory": MemoryError, "torch": RuntimeError, "left": Interrupted}[p["kind"]](p["text"])


def leaves(p):
    sys.exit(p["code"])


def exits(p):
    os._exit(p["code"])


def dies(p):
    os.kill(os.getpid(), p["signal"])
    time.sleep(60)


def returns_what_is_not_plain(p):
    return object()


def lets_a_child_come_back(p):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


def sleeps(p):
    time.sleep(p["seconds"])
    return p["seconds"]


def prints(p):
    print("printed")
    print("to stderr", file=sys.stderr)
    os.write(1, b"written\\n")
    subprocess.run(["echo", "from a child"])


def prints_and_exits(p):
    print("last words")
    os._exit(9)


def prints_much(p):
    for number in range(200_000):
        print("line", number, "\\udcff and läßt")
    os.write(1, bytes(range(256)) * 40 + b"\\n" * 3 + b"end")


def spoils_stdout(p):
    print("before")
    if p["how"] == "closed":
        sys.stdout.close()
    elif p["how"] == "none":
        sys.stdout = sys.stderr = None
    else:
        os.close(1)
        os.close(2)
    return "still here"


def appends(p):
    with open(p["file"], "a") as file:
        file.write(p["line"] + "\\n")


def holds_its_slot(p):
    slot = os.environ.get("CUDA_VISIBLE_DEVICES")
    with open(f"{p['folder']}/slot-{slot}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when another task is on it
        time.sleep(0.05)
    return slot


def counts_its_files(p):
    return len(os.listdir("/proc/self/fd"))


def ignores_sigterm(p):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(p["file"], "w").close()
    time.sleep(60)


def leaves_when_asked(p):
    def leave(*_):
        raise Interrupted

    signal.signal(signal.SIGTERM, leave)
    open(p["file"], "w").close()
    time.sleep(60)


def fails_when_asked(p):
    def fail(*_):
        raise ValueError("disturbed")

    signal.signal(signal.SIGTERM, fail)
    time.sleep(60)


def finishes_when_asked(p):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    while not asked:
        time.sleep(0.01)
    return "finished"


def fills(p):
    mine = bytearray(200_000_000)
    time.sleep(p.get("seconds", 60))
    return len(mine)


def fills_in_a_child(p):
    def start():
        subprocess.run([sys.executable, "-c", "x = bytearray(200_000_000); import time; time.sleep(60)"])

    if p["thread"]:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()


def maps_much_and_reads_what_is_shared(p):
    space = mmap.mmap(-1, 8_000_000_000)
    time.sleep(1.5)
    return len(ballast) + sum(ballast[::4096]) + space[0]


def leaves_a_process_behind(p):
    child = subprocess.Popen(["sleep", "1000"])
    if p["then"] == "raise":
        raise ValueError(child.pid)
    if p["then"] == "die":
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return child.pid


def starts_a_process_and_waits(p):
    child = subprocess.Popen(["sleep", "1000"])
    with open(p["file"] + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(p["file"] + ".new", p["file"])
    time.sleep(60)


def kills_its_server(p):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def multiplies_on_two_threads(p):
    import torch

    torch.set_num_threads(2)
    a = torch.ones(512, 512)
    return [int((a @ a)[0, 0]), len(os.listdir("/proc/self/task"))]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the modules are that tasks and preloads come from."""
    path = tmp_path_factory.mktemp("modules")
    (path / "tasks.py").write_text(TASKS)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    """Two workers that have imported the tasks."""
    with LocalEngine(2, ["tasks"], path=[str(folder)]) as engine:
        yield engine


@pytest.fixture
def task(tmp_path) -> Callable[..., Task]:
    def make(name: str, timeout: float | None = None, memory_mb: float | None = None, gpu: bool = False, key: str = "", **payload) -> Task:
        return Task(key or name, f"tasks:{name}", payload, tmp_path / f"{key or name}.log", timeout, memory_mb, gpu)

    return make


def ending(engine: LocalEngine, task: Task) -> Ending:
    (found,) = engine.run([task])
    return found


def server_of(engine: LocalEngine) -> int:
    return engine._server._process.pid


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def all_gone(pids: Iterable[int], seconds: float = 10) -> bool:
    pids = list(pids)
    return wait_for(lambda: not any(map(lives, pids)), seconds)


def children() -> set[int]:
    """Processes of this one, dead ones that nobody has waited for included."""
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


# How a task ends

WAYS = {
    "a value": ("echo", {"a": [1, "ä", None, 0.5]}, "ok", None),
    "an exception": ("raises", {"kind": "value", "text": "on purpose\nin two lines"}, "error", "ValueError: on purpose"),
    "wrong settings": ("raises", {"kind": "usage", "text": "lr = -1 is not valid"}, "usage", "lr = -1 is not valid"),
    "no memory": ("raises", {"kind": "memory", "text": "no room"}, "oom", "MemoryError: no room"),
    "no memory, as torch says it": (
        "raises",
        {"kind": "torch", "text": "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes"},
        "oom",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 1 bytes",
    ),
    "an exit code": ("leaves", {"code": 3}, "error", "exited with code 3 without a result"),
    "exit code 0": ("leaves", {"code": 0}, "error", "exited with code 0 without a result"),
    "an exit without code": ("leaves", {"code": None}, "error", "exited with code 0 without a result"),
    "an exit with words": ("leaves", {"code": "words"}, "error", "exited with code 1 without a result"),
    "an exit past every handler": ("exits", {"code": 9}, "error", "exited with code 9 without a result"),
    "SIGKILL": ("dies", {"signal": signal.SIGKILL}, "killed", "killed by SIGKILL"),
    "SIGSEGV": ("dies", {"signal": signal.SIGSEGV}, "killed", "killed by SIGSEGV"),
    "SIGTERM": ("dies", {"signal": signal.SIGTERM}, "killed", "killed by SIGTERM"),
    "SIGINT": ("dies", {"signal": signal.SIGINT}, "killed", "ended by SIGINT from elsewhere"),
    "a signal without a name": ("dies", {"signal": 40}, "killed", "killed by signal 40"),
    "it was asked to leave, though not by us": ("raises", {"kind": "left", "text": ""}, "killed", "ended by SIGTERM from elsewhere"),
    "a value that is not plain": ("returns_what_is_not_plain", {}, "error", "TypeError: Object of type object is not JSON serializable"),
    "no such function": ("nowhere", {}, "error", "AttributeError: module 'tasks' has no attribute 'nowhere'"),
}


@unit
@pytest.mark.parametrize(("name", "payload", "status", "reason"), WAYS.values(), ids=WAYS.keys())
def test_every_way_to_end_has_its_status_and_reason(engine, task, name, payload, status, reason):
    found = ending(engine, task(name, **payload))
    assert (found.status, found.reason) == (status, reason)
    assert found.value == (payload if status == "ok" else None)
    assert 0 < found.seconds < 60


@unit
def test_a_bad_task_costs_itself_alone(engine, task):
    bad = [task(name, key=f"bad {k}", **payload) for k, (name, payload, status, _) in enumerate(WAYS.values()) if status != "ok"]
    good = [task("echo", key=f"good {k}", k=k) for k in range(len(bad))]
    found = {e.task.key: e for e in engine.run(t for pair in zip(bad, good, strict=True) for t in pair)}
    assert len(found) == 2 * len(bad)
    assert [found[t.key].value for t in good] == [t.payload for t in good]


@unit
def test_a_child_that_a_task_lets_come_back_answers_nothing(engine, task):
    found = ending(engine, task("lets_a_child_come_back"))
    assert found.status == "ok" and isinstance(found.value, int)


@unit
def test_large_tasks_and_answers_arrive_whole(engine, task):
    found = ending(engine, task("echo", text="ä" * 5_000_000))
    assert found.value == {"text": "ä" * 5_000_000}


# Output


@unit
def test_what_a_task_prints_goes_to_its_log_and_nowhere_else(engine, task, capfd):
    found = ending(engine, task("prints"))
    assert sorted(found.log) == ["from a child", "printed", "to stderr", "written"]
    assert found.task.log.read_text().splitlines() == found.log
    assert capfd.readouterr() == ("", "")


@unit
def test_what_was_printed_before_a_sudden_end_is_in_the_log(folder, task, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        assert ending(engine, task("prints_and_exits")).log == ["last words"]


@unit
def test_the_log_of_an_attempt_begins_where_the_one_before_ended(engine, task):
    first, second = ending(engine, task("prints_and_exits", key="a")), ending(engine, task("exits", key="a", code=9))
    assert (first.log, second.log) == (["last words"], [])
    assert first.task.log.read_text() == "last words\n"


@unit
def test_of_a_large_log_with_binary_garbage_the_last_lines_are_given(engine, task):
    found = ending(engine, task("prints_much"))
    assert found.status == "ok"
    assert found.log[-1] == "end" and len(found.log) == 20 and len("".join(found.log)) <= 16_384
    assert found.task.log.stat().st_size > 4_000_000
    assert json.loads(json.dumps(found.log)) == found.log


@unit
@pytest.mark.parametrize("how", ["closed", "none", "closed below"])
def test_a_task_that_closes_its_output_still_answers(engine, task, how):
    found = ending(engine, task("spoils_stdout", how=how))
    assert (found.status, found.value, found.log) == ("ok", "still here", ["before"])


# Order


@unit
def test_tasks_are_taken_in_order_and_only_when_a_worker_is_free(engine, task):
    taken, at_work = [], []

    def tasks():
        for k in range(12):
            taken.append(k)
            at_work.append(len(engine._running))
            yield task("sleeps", key=str(k), seconds=0.02 * (k % 3))

    run = engine.run(tasks())
    assert taken == []
    done = [next(run).task.key]
    assert len(taken) < 6
    done += [found.task.key for found in run]
    assert taken == list(range(12)) and at_work[0] == 0 and set(at_work) <= {0, 1}
    assert sorted(done, key=int) == [str(k) for k in range(12)]


@unit
def test_an_ending_is_given_when_it_is_there_and_the_worker_gets_the_next_task_before(engine, task):
    began = time.monotonic()
    names, given = [], []
    for found in engine.run([task("sleeps", key="slow", seconds=2.0), *(task("sleeps", key=f"quick {k}", seconds=0.0) for k in range(3))]):
        names.append(found.task.key)
        given.append(time.monotonic() - began)
    assert names == ["quick 0", "quick 1", "quick 2", "slow"]
    assert given[0] < 1.5 < given[3]


@unit
def test_nothing_to_do_is_done_at_once(engine):
    assert list(engine.run([])) == []


# GPU slots


@unit
def test_a_gpu_task_has_a_slot_of_its_own_and_waits_for_one(folder, task, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with LocalEngine(4, ["tasks"], gpus=["4", "7"], path=[str(folder)]) as engine:
        found = list(engine.run(task("holds_its_slot", gpu=True, key=str(k), folder=str(tmp_path)) for k in range(12)))
        assert [e.reason for e in found] == [None] * 12
        assert {e.value for e in found} == {"4", "7"}
        assert ending(engine, task("holds_its_slot", folder=str(tmp_path))).value == "4,7"  # a task without need is left alone


@unit
def test_a_slot_of_a_task_that_failed_is_free_again(folder, task, tmp_path):
    with LocalEngine(2, ["tasks"], gpus=["0"], path=[str(folder)]) as engine:
        names = ["dies", "raises", "holds_its_slot", "exits", "holds_its_slot"]
        payload = {"signal": 9, "kind": "value", "text": "", "code": 1, "folder": str(tmp_path)}
        found = list(engine.run(task(name, gpu=True, key=str(k), **payload) for k, name in enumerate(names)))
    assert [e.status for e in found] == ["killed", "error", "ok", "error", "ok"]


@unit
def test_a_gpu_task_runs_where_no_slots_were_given(engine, task, tmp_path):
    assert ending(engine, task("holds_its_slot", gpu=True, folder=str(tmp_path))).status == "ok"


# The server


@unit
@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import nowhere_to_be_found", "fails: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(3)", "fails: SystemExit: 3"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "2 threads after the imports"),
        ("import os; os._exit(3)", "it ended over the imports"),
    ],
    ids=["it raises", "it leaves", "a thread stays", "the process ends"],
)
def test_a_preload_that_fails_is_one_warning_and_workers_import_for_themselves(folder, task, module, why):
    (folder / "fails.py").write_text(module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = LocalEngine(1, ["json", "fails"], path=[str(folder)])
    with engine:
        assert [str(w.message).partition(" (")[2] for w in caught if w.category is ResultWarning] == [f"{why})"]
        assert [e.value for e in engine.run([task("echo", key=k, k=k) for k in "ab"])] == [{"k": "a"}, {"k": "b"}]


@unit
def test_workers_share_what_the_server_has_warmed_up(folder, task):
    (folder / "cache.py").write_text("found = {}\ndef fill(p):\n    found.update(p)\ndef show(p):\n    return found\n")
    with LocalEngine(1, [], path=[str(folder)], warm=("cache:fill", {"a": "ä" * 500_000})) as engine:
        assert ending(engine, Task("a", "cache:show", {}, folder / "log")).value == {"a": "ä" * 500_000}


@unit
def test_a_server_that_could_not_warm_up_or_uses_a_gpu_is_one_warning(tmp_path, folder, task):
    (tmp_path / "torch.py").write_text("class cuda:\n    is_initialized = staticmethod(lambda: True)\n")  # stands in for one that has been used
    for preload, warm, why in (
        ([], ("tasks:raises", {"kind": "usage", "text": "no data"}), "tasks:raises: UsageError: no data"),
        (["torch"], None, "the imports have begun to use a GPU"),
    ):
        with pytest.warns(ResultWarning) as caught:
            engine = LocalEngine(1, preload, path=[str(tmp_path), str(folder)], warm=warm)
        with engine:
            assert [str(w.message).partition(" (")[2] for w in caught] == [f"{why})"]
            assert ending(engine, task("echo", a=1)).value == {"a": 1}


@unit
def test_where_no_server_can_be_started_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with warnings.catch_warnings(), pytest.raises(UsageError) as caught:
        warnings.simplefilter("ignore")
        LocalEngine(1, ["tasks"], path=[str(folder)])
    assert "/bin/false" in str(caught.value) and "\n" not in str(caught.value)


@unit
def test_a_preload_may_start_processes_and_print(folder, task, capfd):
    (folder / "noisy.py").write_text("import subprocess\nprint('noise', end='')\nsubprocess.Popen(['true'])\n")
    with LocalEngine(1, ["noisy", "tasks"], path=[str(folder)]) as engine:
        found = [ending(engine, task("prints_and_exits", key=str(k))) for k in range(3)]
    assert [e.log for e in found] == [["last words"]] * 3
    assert capfd.readouterr().out == ""


@unit
def test_a_file_in_the_current_folder_stands_in_for_no_module(tmp_path, folder):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('the wrong json')")
    (tmp_path / "driver.py").write_text(
        f"""
from pathlib import Path
from clsuite.experiment.engines.local import LocalEngine, Task
with LocalEngine(1, ["tasks"], path=[{str(folder)!r}]) as engine:
    print([e.value for e in engine.run([Task("a", "tasks:echo", {{"a": 1}}, Path("log"))])])
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, str(tmp_path / "driver.py")], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[{'a': 1}]\n", "")


@unit
def test_the_server_of_cells_holds_no_thread_and_its_workers_may_have_several(folder, task):
    with LocalEngine(1, path=[str(folder)]) as engine:  # a warning would be an error here
        assert len(list(Path(f"/proc/{server_of(engine)}/task").iterdir())) == 1
        found = ending(engine, task("multiplies_on_two_threads", timeout=120))
        assert found.value[0] == 512 and found.value[1] > 1  # after a product on two threads in the server this would hang
        found = ending(engine, task("echo", key="b"))
        assert found.seconds < 1.0  # it did not import torch


@unit
def test_files_do_not_pile_up_over_two_hundred_tasks(folder, task):
    with LocalEngine(2, ["tasks"], path=[str(folder)]) as engine:
        places = [Path(f"/proc/{pid}/fd") for pid in ("self", server_of(engine))]
        before = [len(list(place.iterdir())) for place in places]
        own = [found.value for found in engine.run(task("counts_its_files") for _ in range(200))]
        assert [len(list(place.iterdir())) for place in places] == before
    assert len(own) == 200 and max(own) <= 6  # three standard ones, its socket, the folder it looks into; the next task's may be in the making


@unit
def test_where_there_is_no_proc_and_no_prctl_tasks_run_all_the_same(folder, task, monkeypatch):
    (folder / "elsewhere.py").write_text(
        textwrap.dedent("""\
        import ctypes, os
        listdir = os.listdir
        def without_proc(path="."):
            if str(path).startswith("/proc"):
                raise FileNotFoundError(path)
            return listdir(path)
        os.listdir = without_proc
        ctypes.CDLL = lambda name: object()
        """)
    )
    read, iterate = Path.read_text, Path.iterdir

    def without_proc(real):
        def call(path, *arguments, **options):
            if str(path).startswith("/proc"):
                raise FileNotFoundError(path)
            return real(path, *arguments, **options)

        return call

    monkeypatch.setattr(Path, "read_text", without_proc(read))
    monkeypatch.setattr(Path, "iterdir", without_proc(iterate))
    with LocalEngine(1, ["elsewhere", "tasks"], path=[str(folder)]) as engine:
        found = [ending(engine, task(name, key=name, memory_mb=1, seconds=0.7, signal=9)) for name in ("fills", "dies")]
    assert [(e.status, e.reason) for e in found] == [("ok", None), ("killed", "killed by SIGKILL")]


# Limits


@kill
@pytest.mark.parametrize(
    ("name", "status"), [("sleeps", "timeout"), ("ignores_sigterm", "timeout"), ("leaves_when_asked", "timeout"), ("fails_when_asked", "timeout")]
)
def test_a_task_that_takes_too_long_is_ended_whatever_it_does_about_it(engine, task, tmp_path, name, status):
    found = ending(engine, task(name, timeout=1.0, seconds=60, file=str(tmp_path / "there")))
    assert (found.status, found.reason) == (status, "not finished after 1 s")
    assert 1.0 <= found.seconds < 10


@kill
def test_a_result_that_comes_in_the_time_to_leave_counts(engine, task):
    found = ending(engine, task("finishes_when_asked", timeout=1.0))
    assert (found.status, found.value) == ("ok", "finished")


@kill
@pytest.mark.parametrize(("name", "payload"), [("fills", {}), ("fills_in_a_child", {"thread": False}), ("fills_in_a_child", {"thread": True})])
def test_a_task_that_takes_too_much_memory_is_ended_its_children_counted(engine, task, name, payload):
    found = ending(engine, task(name, timeout=60, memory_mb=100, **payload))
    assert found.status == "oom"
    words = found.reason.split()
    assert (words[0], words[2:]) == ("used", ["MB,", "more", "than", "the", "100", "MB", "it", "may"]) and 100 < int(words[1]) < 260
    assert found.seconds < 20


@kill
def test_memory_that_is_shared_with_the_server_or_only_mapped_does_not_count(folder, task, monkeypatch):
    monkeypatch.setenv("BALLAST", "200 MB")
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        found = ending(engine, task("maps_much_and_reads_what_is_shared", memory_mb=100))
    assert (found.status, found.value) == ("ok", 200_000_000)


# What is left behind


@kill
@pytest.mark.parametrize(("then", "status"), [("return", "ok"), ("raise", "error"), ("die", "killed")])
def test_what_a_task_left_running_ends_with_it(engine, task, then, status):
    found = ending(engine, task("leaves_a_process_behind", then=then))
    assert found.status == status
    pid = {"ok": found.value, "error": (found.reason or "").rpartition(" ")[2], "killed": found.log[0] if found.log else ""}[status]
    assert all_gone([int(pid)])


@kill
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


@kill
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


@kill
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


@kill
def test_a_task_that_kills_the_server_costs_itself_as_long_as_others_end(folder, task):
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        found = list(engine.run(task(("kills_its_server", "echo")[k % 2], key=str(k)) for k in range(10)))
    assert [e.status for e in found] == ["killed", "ok"] * 5


@kill
def test_a_server_that_dies_again_and_again_is_an_error_in_one_line(folder, task):
    found = []
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine, pytest.raises(UsageError) as caught:
        for one in engine.run(task("kills_its_server", key=str(k)) for k in range(10)):
            found.append(one.status)
    assert found == ["killed"] * 3
    assert "\n" not in str(caught.value) and "3 times" in str(caught.value) and "--workers = 1" in str(caught.value)
    assert server_of(engine) not in children()


@kill
def test_a_worker_whose_server_died_before_it_could_tie_itself_to_it_leaves():
    program = "import os\nfrom clsuite.experiment.engines.server import _die_with\n_die_with({})\nprint('goes on')"
    gone, there = (
        subprocess.run([sys.executable, "-c", program.format(parent)], capture_output=True, text=True, timeout=60) for parent in ("1", "os.getppid()")
    )
    assert (gone.returncode, gone.stdout, there.returncode, there.stdout) == (1, "", 0, "goes on\n")


@kill
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
