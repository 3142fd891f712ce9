"""`clsuite run`: resolve, run with progress, show."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import Interrupted, UsageError
from ..experiment.cell import Cell, Options, cell_hash, run_cell
from ..experiment.folder import cell_folder
from ..experiment.overrides import parse_overrides
from ..experiment.spec import COMPONENTS, resolve
from ..interop.trackers import Wanted
from ..interop.trackers.beside import Beside, tracked
from ..training.processes import joined
from ..training.run import Run
from .faults import summary
from .progress import Progress
from .text import emit, show_run


def run_command(items: list[str], as_json: bool, data_root: str | None, options: Options, tracker: Wanted | None = None) -> int:
    """Run a cell, a mirror to `tracker` beside it, and print it; the exit code.

    Of several processes that train it together (torchrun) the first one alone speaks.
    """
    with joined() as processes, contextlib.ExitStack() as stack:
        options.processes = processes
        wanted = tracker if processes.leads else None

        def beside(cell: Cell) -> Beside:
            only = [] if wanted is None else [cell_hash(cell)]
            return stack.enter_context(tracked(wanted, options.out or Path("runs"), lambda line: print(f"clsuite: {line}", file=sys.stderr), only))

        return _run(items, as_json, data_root, options, beside)


def _run(items: list[str], as_json: bool, data_root: str | None, options: Options, beside: Callable[[Cell], Beside]) -> int:
    progress, processes, out = Progress(), options.processes, options.out or Path("runs")
    if processes.leads:
        options.on_step = progress.on_step
    try:
        with contextlib.redirect_stdout(sys.stderr):  # whatever a plug-in prints: standard output carries the result alone
            cell = resolve(parse_overrides(items, COMPONENTS), data_root)
            mirror = beside(cell)

            def begun(run: Run) -> None:
                progress.on_start(run)
                mirror.start()

            if processes.leads:
                options.on_start = begun
            result = run_cell(cell, options)
            mirror.start()  # a stored result may not be told yet
    except (UsageError, Interrupted) as error:
        if not processes.leads:
            return 75 if isinstance(error, Interrupted) else 2
        raise
    except Exception as error:
        if as_json and not isinstance(error, OSError):
            emit({"status": "error", "reason": summary(error)})
        raise
    finally:
        progress.close()
    if not processes.leads:
        return 0 if result["status"] == "ok" else 1
    if as_json:
        emit(result)
    else:
        name = result["cell"]
        show_run(result, cell_folder(out, name), command(items, out, data_root), stored=not progress.started)
    if result["status"] != "ok":
        print(f"clsuite: the cell ended with status '{result['status']}': {result['reason']}", file=sys.stderr)
        return 1
    return 0


def command(items: list[str], out: Path, data_root: str | None) -> str:
    """What to type to get the same cell again."""
    words = ["clsuite", "run", *items, *([] if out == Path("runs") else ["--out", str(out)]), *([] if data_root is None else ["--data-root", data_root])]
    from_environment = os.environ.get("CLSUITE_DATA") if data_root is None else None
    return (f"CLSUITE_DATA={shlex.quote(from_environment)} " if from_environment else "") + shlex.join(words)
