"""What tests of the engine share: tasks that end in every way, and looks at processes through /proc."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from clsuite.experiment.engines.local import Ending, LocalEngine, Task


def with_tasks(folder: Path) -> Path:
    """Put the module `tasks` into a folder."""
    shutil.copy(Path(__file__).with_name("engine_tasks.py"), folder / "tasks.py")
    return folder


def made(logs: Path, name: str, timeout: float | None = None, memory_mb: float | None = None, gpu: bool = False, key: str = "", **payload) -> Task:
    """A task that calls `tasks.name`."""
    return Task(key or name, f"tasks:{name}", payload, logs / f"{key or name}.log", timeout, memory_mb, gpu)


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
