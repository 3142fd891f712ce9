"""The process that workers of the engine are forked from: what it shares, what it must not do, and where there is none."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.engines.local import LocalEngine, Task
from clsuite.experiment.results import ResultWarning

from .engine_runs import ending, made, server_of, with_tasks

pytestmark = [pytest.mark.unit, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the modules are that tasks and preloads come from."""
    return with_tasks(tmp_path_factory.mktemp("modules"))


@pytest.fixture
def task(tmp_path) -> Callable[..., Task]:
    return functools.partial(made, tmp_path)


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


def test_workers_share_what_the_server_has_warmed_up(folder, task):
    (folder / "cache.py").write_text("found = {}\ndef fill(p):\n    found.update(p)\ndef show(p):\n    return found\n")
    with LocalEngine(1, [], path=[str(folder)], warm=("cache:fill", {"a": "ä" * 500_000})) as engine:
        assert ending(engine, Task("a", "cache:show", {}, folder / "log")).value == {"a": "ä" * 500_000}


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


def test_where_no_server_can_be_started_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with warnings.catch_warnings(), pytest.raises(UsageError) as caught:
        warnings.simplefilter("ignore")
        LocalEngine(1, ["tasks"], path=[str(folder)])
    assert "/bin/false" in str(caught.value) and "\n" not in str(caught.value)


def test_a_preload_may_start_processes_and_print(folder, task, capfd):
    (folder / "noisy.py").write_text("import subprocess\nprint('noise', end='')\nsubprocess.Popen(['true'])\n")
    with LocalEngine(1, ["noisy", "tasks"], path=[str(folder)]) as engine:
        found = [ending(engine, task("prints_and_exits", key=str(k))) for k in range(3)]
    assert [e.log for e in found] == [["last words"]] * 3
    assert capfd.readouterr().out == ""


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


def test_the_server_of_cells_holds_no_thread_and_its_workers_may_have_several(folder, task):
    with LocalEngine(1, path=[str(folder)]) as engine:  # a warning would be an error here
        assert len(list(Path(f"/proc/{server_of(engine)}/task").iterdir())) == 1
        found = ending(engine, task("multiplies_on_two_threads", timeout=120))
        assert found.value[0] == 512 and found.value[1] > 1  # after a product on two threads in the server this would hang
        found = ending(engine, task("echo", key="b"))
        assert found.seconds < 1.0  # it did not import torch


def test_files_do_not_pile_up_over_two_hundred_tasks(folder, task):
    with LocalEngine(2, ["tasks"], path=[str(folder)]) as engine:
        places = [Path(f"/proc/{pid}/fd") for pid in ("self", server_of(engine))]
        before = [len(list(place.iterdir())) for place in places]
        own = [found.value for found in engine.run(task("counts_its_files") for _ in range(200))]
        assert [len(list(place.iterdir())) for place in places] == before
    assert len(own) == 200 and max(own) <= 6  # three standard ones, its socket, the folder it looks into; the next task's may be in the making


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
