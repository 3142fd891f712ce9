"""The engine that runs a process a task: how a task ends is always known, and costs it alone."""

from __future__ import annotations

import functools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clsuite.experiment.engines.local import LocalEngine, Task

from .engine_runs import ending, made, with_tasks

pytestmark = [pytest.mark.unit, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")]


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


@pytest.mark.parametrize(("name", "payload", "status", "reason"), WAYS.values(), ids=WAYS.keys())
def test_every_way_to_end_has_its_status_and_reason(engine, task, name, payload, status, reason):
    found = ending(engine, task(name, **payload))
    assert (found.status, found.reason) == (status, reason)
    assert found.value == (payload if status == "ok" else None)
    assert 0 < found.seconds < 60


def test_a_bad_task_costs_itself_alone(engine, task):
    bad = [task(name, key=f"bad {k}", **payload) for k, (name, payload, status, _) in enumerate(WAYS.values()) if status != "ok"]
    good = [task("echo", key=f"good {k}", k=k) for k in range(len(bad))]
    found = {e.task.key: e for e in engine.run(t for pair in zip(bad, good, strict=True) for t in pair)}
    assert len(found) == 2 * len(bad)
    assert [found[t.key].value for t in good] == [t.payload for t in good]


def test_a_child_that_a_task_lets_come_back_answers_nothing(engine, task):
    found = ending(engine, task("lets_a_child_come_back"))
    assert found.status == "ok" and isinstance(found.value, int)


def test_large_tasks_and_answers_arrive_whole(engine, task):
    found = ending(engine, task("echo", text="ä" * 5_000_000))
    assert found.value == {"text": "ä" * 5_000_000}


# Output


def test_what_a_task_prints_goes_to_its_log_and_nowhere_else(engine, task, capfd):
    found = ending(engine, task("prints"))
    assert sorted(found.log) == ["from a child", "printed", "to stderr", "written"]
    assert found.task.log.read_text().splitlines() == found.log
    assert capfd.readouterr() == ("", "")


def test_what_was_printed_before_a_sudden_end_is_in_the_log(folder, task, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with LocalEngine(1, ["tasks"], path=[str(folder)]) as engine:
        assert ending(engine, task("prints_and_exits")).log == ["last words"]


def test_the_log_of_an_attempt_begins_where_the_one_before_ended(engine, task):
    first, second = ending(engine, task("prints_and_exits", key="a")), ending(engine, task("exits", key="a", code=9))
    assert (first.log, second.log) == (["last words"], [])
    assert first.task.log.read_text() == "last words\n"


def test_of_a_large_log_with_binary_garbage_the_last_lines_are_given(engine, task):
    found = ending(engine, task("prints_much"))
    assert found.status == "ok"
    assert found.log[-1] == "end" and len(found.log) == 20 and len("".join(found.log)) <= 16_384
    assert found.task.log.stat().st_size > 4_000_000
    assert json.loads(json.dumps(found.log)) == found.log


@pytest.mark.parametrize("how", ["closed", "none", "closed below"])
def test_a_task_that_closes_its_output_still_answers(engine, task, how):
    found = ending(engine, task("spoils_stdout", how=how))
    assert (found.status, found.value, found.log) == ("ok", "still here", ["before"])


# Order


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


def test_an_ending_is_given_when_it_is_there_and_the_worker_gets_the_next_task_before(engine, task):
    began = time.monotonic()
    names, given = [], []
    for found in engine.run([task("sleeps", key="slow", seconds=2.0), *(task("sleeps", key=f"quick {k}", seconds=0.0) for k in range(3))]):
        names.append(found.task.key)
        given.append(time.monotonic() - began)
    assert names == ["quick 0", "quick 1", "quick 2", "slow"]
    assert given[0] < 1.5 < given[3]


def test_nothing_to_do_is_done_at_once(engine):
    assert list(engine.run([])) == []


# GPU slots


def test_a_gpu_task_has_a_slot_of_its_own_and_waits_for_one(folder, task, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with LocalEngine(4, ["tasks"], gpus=["4", "7"], path=[str(folder)]) as engine:
        found = list(engine.run(task("holds_its_slot", gpu=True, key=str(k), folder=str(tmp_path)) for k in range(12)))
        assert [e.reason for e in found] == [None] * 12
        assert {e.value for e in found} == {"4", "7"}
        assert ending(engine, task("holds_its_slot", folder=str(tmp_path))).value == "4,7"  # a task without need is left alone


def test_a_slot_of_a_task_that_failed_is_free_again(folder, task, tmp_path):
    with LocalEngine(2, ["tasks"], gpus=["0"], path=[str(folder)]) as engine:
        names = ["dies", "raises", "holds_its_slot", "exits", "holds_its_slot"]
        payload = {"signal": 9, "kind": "value", "text": "", "code": 1, "folder": str(tmp_path)}
        found = list(engine.run(task(name, gpu=True, key=str(k), **payload) for k, name in enumerate(names)))
    assert [e.status for e in found] == ["killed", "error", "ok", "error", "ok"]


def test_a_gpu_task_runs_where_no_slots_were_given(engine, task, tmp_path):
    assert ending(engine, task("holds_its_slot", gpu=True, folder=str(tmp_path))).status == "ok"
