"""The command line. Only the standard library and typer are imported here, so that `clsuite --help` is instant.

Exit codes: 0 all well, 1 a cell failed, 2 bad usage or settings (one line, nothing written), 75 interrupted, resumable.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from . import __version__
from .errors import Interrupted, UsageError, unknown

SHOWN = ("strategy", "scenario", "model", "schedule", "stream")

Items = Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="settings, such as strategy=replay scenario.dataset=mnist seed=3")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="one JSON document on standard output, and nothing else")]
Track = Annotated[Optional[str], typer.Option("--track", metavar="wandb|tensorboard|trackio", help="show it there too, from a process of its own")]  # noqa: UP045
TrackMode = Annotated[Optional[str], typer.Option("--track-mode", metavar="online|offline|disabled", help="of wandb (default: WANDB_MODE, or by key)")]  # noqa: UP045
TrackProject = Annotated[Optional[str], typer.Option("--track-project", metavar="NAME", help="where in it (default: WANDB_PROJECT, or clsuite)")]  # noqa: UP045
DataRoot = Annotated[Optional[str], typer.Option("--data-root", metavar="DIR", help="where data sets lie; beats CLSUITE_DATA")]  # noqa: UP045

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual-learning experiments whose tables can be trusted.",
)
new = typer.Typer(rich_markup_mode=None, help="Write a working plug-in to start from.")
app.add_typer(new, name="new")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clsuite {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and exit")] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    items: Items = None,
    as_json: Json = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="where the cell gets its folder")] = Path("runs"),
    data_root: DataRoot = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="compute a finished cell again")] = False,
    checkpoint_seconds: Annotated[float, typer.Option("--checkpoint-seconds", min=0, help="time between checkpoints")] = 30.0,
    weights: Annotated[Optional[Path], typer.Option("--weights", metavar="PATH", help="also write the weights it ends with, as deployed")] = None,  # noqa: UP045
    track: Track = None,
    track_mode: TrackMode = None,
    track_project: TrackProject = None,
) -> int:
    """Run one cell: a scenario, a model, a strategy and a seed. The same command again goes on or shows the result."""
    _leave_on_sigterm()
    from .interop.trackers import wanted

    tracker = wanted(track, track_mode, track_project)
    from .experiment.cell import Options
    from .report.running import run_command

    return run_command(items or [], as_json, data_root, Options(out, checkpoint_seconds, rerun, weights), tracker)


@app.command()
def grid(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="an experiment file, or the name of an installed one (clsuite list experiments)")],
    items: Items = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="the experiment's folder (default runs/<file stem>)")] = None,  # noqa: UP045
    data_root: DataRoot = None,
    workers: Annotated[Optional[int], typer.Option("--workers", min=1, help="cells at once (default: as many as the cores carry)")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would run; write nothing")] = False,
    rerun: Annotated[Optional[str], typer.Option("--rerun", metavar="failed|changed", help="again: what failed, or what other source code computed")] = None,  # noqa: UP045
    cells: Annotated[Optional[Path], typer.Option("--cells", metavar="DIR", help="a folder of cells that several experiments share")] = None,  # noqa: UP045
    oversubscribe: Annotated[bool, typer.Option("--oversubscribe", help="allow more workers than the cores carry")] = False,
    table: Annotated[Optional[Path], typer.Option("--table", metavar="FILE", help="also write the table as Markdown")] = None,  # noqa: UP045
    track: Track = None,
    track_mode: TrackMode = None,
    track_project: TrackProject = None,
) -> int:
    """Run the cells of an experiment file that are not finished, and show what it shows."""

    def leave(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    if rerun not in (None, "failed", "changed"):
        raise UsageError(f"--rerun = '{rerun}' is not valid: expected failed or changed")
    from .interop.trackers import wanted

    tracker = wanted(track, track_mode, track_project)
    from .report.experiment import grid_command

    return grid_command(
        file,
        items or [],
        out,
        table,
        tracker=tracker,
        data_root=data_root,
        workers=workers,
        dry_run=dry_run,
        rerun=rerun,
        cells=cells,
        oversubscribe=oversubscribe,
    )


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a grid")],
    as_json: Json = False,
) -> None:
    """Show where a grid stands: counts, rate, remaining time, failures."""
    from .report.standing import status_command

    status_command(folder, as_json)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a grid, or the --out folder of runs")],
    port: Annotated[Optional[int], typer.Argument(metavar="PORT", help="with --serve: where the page is (default: a free port)")] = None,  # noqa: UP045
    serve: Annotated[bool, typer.Option("--serve", help="also show it as a page on this machine: --serve [PORT]")] = False,
    once: Annotated[bool, typer.Option("--once", help="show one state and end")] = False,
) -> int:
    """Show a grid while it runs: progress, remaining time, failures, running cells, curves. Ends with it, or with Ctrl-C."""

    def leave(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        from .report.watch import watch_command

        return watch_command(folder, once, serve, port)
    except KeyboardInterrupt:
        return 0


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a grid, or the --out folder of runs")],
    to: Annotated[str, typer.Option("--to", metavar="wandb|tensorboard|trackio", help="the tracker")],
    track_mode: TrackMode = None,
    track_project: TrackProject = None,
) -> int:
    """Send the finished cells of a folder to a tracker, each once; what was sent is remembered in DIR/tracked."""
    from .interop.trackers.sync import sync_command

    return sync_command(folder, to, track_mode, track_project)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="scenarios, strategies, models, schedules, experiments or data")],
    as_json: Json = False,
) -> None:
    """List what there is, from this package and from every other one installed."""
    from .report.catalogue import list_command

    list_command(kind, as_json)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(SHOWN))],
    items: Annotated[Optional[list[str]], typer.Argument(metavar="NAME | [KEY=VALUE]...")] = None,  # noqa: UP045
    as_json: Json = False,
    data_root: DataRoot = None,
) -> None:
    """Show a component's settings (show strategy NAME), a schedule's curve or a stream's table."""
    if kind not in SHOWN:
        raise unknown("kind", kind, SHOWN)
    given = items or []
    if kind == "stream":
        from .report.curves import stream_command

        return stream_command(given, as_json, data_root)
    if not given or "=" in given[0]:
        raise UsageError(f"clsuite show {kind} needs a name (clsuite list {'strategies' if kind == 'strategy' else kind + 's'} shows them)")
    name, *rest = given
    if kind == "schedule":
        from .report.curves import schedule_command

        return schedule_command(name, rest, as_json)
    if rest:
        raise UsageError(f"clsuite show {kind} takes one name, but '{rest[0]}' follows '{name}'")
    from .report.catalogue import show_command

    return show_command(kind, name, as_json)


@app.command()
def predict(
    curves: Annotated[list[Path], typer.Argument(metavar="CURVE...", help="finished curves to fit: CSV, JSONL, or the folder of a cell")],
    law: Annotated[str, typer.Option("--law", metavar="annealing|multi_power|continual", help="the loss law")] = "annealing",
    momentum: Annotated[str, typer.Option("--lambda", metavar="NUMBER|fit", help="momentum of annealing; fit: chosen on the fitting curves")] = "0.999",
    held_out: Annotated[Optional[list[Path]], typer.Option("--held-out", metavar="CURVE", help="a curve to predict and compare (may be repeated)")] = None,  # noqa: UP045
    schedule: Annotated[Optional[list[str]], typer.Option("--schedule", metavar="'NAME KEY=VALUE...'", help="a candidate to rank (may be repeated)")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option("--steps", help="steps of the candidates (default: as the longest fitting curve)")] = None,  # noqa: UP045
    peak: Annotated[Optional[float], typer.Option("--peak", metavar="RATE", help="peak rate of the candidates (default: that of the curves)")] = None,  # noqa: UP045
    rank: Annotated[bool, typer.Option("--rank", help="also rank the curves by final loss, with rank correlations")] = False,
    columns: Annotated[Optional[str], typer.Option("--columns", metavar="step=NAME,lr=NAME,loss=NAME", help="what the columns are called")] = None,  # noqa: UP045
    warmup: Annotated[Optional[int], typer.Option("--warmup", min=0, help="steps of linear warm-up (default: found in the curves)")] = None,  # noqa: UP045
    boundary: Annotated[Optional[int], typer.Option("--boundary", min=1, metavar="STEP", help="first step on other data (--law continual)")] = None,  # noqa: UP045
    rates: Annotated[Optional[list[str]], typer.Option("--rates", metavar="CURVE='SCHEDULE'", help="rates of a curve between its rows")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option("--out", metavar="FILE", help="also draw, as .svg, .html or .png")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Fit a loss law with learning-rate annealing to finished curves; predict other curves and rank schedules."""
    from .report.prediction import predict_command

    predict_command(
        curves,
        law=law,
        momentum=momentum,
        held_out=held_out or [],
        schedules=schedule or [],
        steps=steps,
        peak=peak,
        rank=rank,
        columns=columns,
        warmup=warmup,
        boundary=boundary,
        rates=rates or [],
        out=out,
        as_json=as_json,
    )


@new.command("strategy")
def new_strategy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a Python name, such as my_method")],
    package: Annotated[bool, typer.Option("--package", help="a folder that can be installed")] = False,
) -> None:
    """Write a strategy of about 20 lines and its test."""
    from .templates import write_strategy

    typer.echo(write_strategy(name, Path(), package))


@app.command()
def results(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the --out folder of runs")],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="one row a cell")] = False,
) -> None:
    """Show the cells of a folder: mean and spread over seeds, or every row."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; give one")
    from .report.text import results_command

    results_command(folder, "json" if as_json else "csv" if as_csv else "text")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="the folder of a grid or of runs; several are compared")],
    out: Annotated[Optional[Path], typer.Option("--out", "-o", metavar="DIR", help="where the pages go (default: DIR/report)")] = None,  # noqa: UP045
    figures: Annotated[Optional[str], typer.Option("--figures", metavar="pdf|svg|png", help="also figures and tables for papers")] = None,  # noqa: UP045
) -> None:
    """Draw the pages of a folder: tables, curves, matrices, tuning, cost. They open from disk, without a network."""
    from .report.site import report_command

    report_command(folders, out, figures)


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script: run a command, turn errors into one line and an exit code."""
    sys.exit(_code(sys.argv[1:] if argv is None else argv))


def _code(argv: list[str]) -> int:
    shown, warnings.showwarning = warnings.showwarning, _one_line_warning(warnings.showwarning)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        code = app(args=argv, prog_name="clsuite", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UsageError as error:
        return _say(str(error), 2)
    except Interrupted:
        return _say("interrupted; a checkpoint stands: run the same command to go on", 75)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own usage errors, whatever typer's version calls them
            return _say(error.format_message().rstrip("."), 2)
        from .report.faults import report

        message, code = report(error)
        return _say(message, code)
    finally:
        warnings.showwarning = shown
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _say(message: str, code: int) -> int:
    print("clsuite: " + " ".join(message.split()), file=sys.stderr)
    return code


def _one_line_warning(other: Any) -> Any:
    """Warnings of this package in one line, all others as they were."""

    def show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if category.__module__.partition(".")[0] == "clsuite":
            _say(f"warning: {message}", 0)
        else:
            other(message, category, filename, lineno, file, line)

    return show_warning


def _leave_on_sigterm() -> None:
    """SIGTERM before and after the run itself (imports take seconds) leaves with 75 too."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(_say("interrupted: run the same command to go on", 75))

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)
