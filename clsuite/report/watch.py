"""`clsuite watch`: the state of a grid or of single runs while they run, in the terminal or as plain lines. It only reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live as Screen
from rich.text import Text

from ..errors import UsageError
from .live import Live
from .live_picture import picture
from .live_words import clean, ending, failure, line
from .text import console

REFRESH_SECONDS = 1.0
SHARE = 4
"""A look that takes long is followed by a pause at least so many times as long: watching must not slow down what is watched."""
LINE_SECONDS = 30.0
"""Time between two plain lines, where something has changed."""
IDLE_SECONDS = 600.0
"""Where output is no terminal: how long nobody may be at work before it ends."""


def watch_command(folder: Path, once: bool = False, serve: bool = False, port: int | None = None) -> int:
    """Show how a folder stands until all its cells have ended; the exit code.

    0: they have ended (whatever became of them), or one state was asked for; 1: where output is no terminal, nobody was at work for ten
    minutes. Raises `UsageError` when there is no such folder, and with `once` when it holds nothing.
    """
    if once and serve:
        raise UsageError("--once and --serve exclude each other; give one")
    if port is not None and not serve:
        raise UsageError(f"PORT = {port} is that of a page; it needs --serve")
    live = Live(folder)
    if once:
        return _once(live)
    if not serve:
        return _watch(live)
    from .serve import Page

    with Page(live, port or 0) as page:
        print(f"{page.url} shows the same, on this machine alone; Ctrl-C ends it", flush=True)
        code = _watch(live, stays=True)
        page.wait()
    return code


def _once(live: Live) -> int:
    state = live.state()
    if state["kind"] == "nothing":
        raise UsageError(state["message"])
    console().print(picture(state, console(), None))
    return 0


def _watch(live: Live, stays: bool = False) -> int:
    out = console()
    code = _on_screen(live, out) if out.is_terminal and not out.is_dumb_terminal else _in_lines(live, stays)
    if code == 0:
        for text in ending(live.state(REFRESH_SECONDS)):
            out.print(text, soft_wrap=True)
        if stays:
            out.print("the page stays until Ctrl-C")
    return code


def _on_screen(live: Live, out: Console) -> int:
    with Screen(Text(f"reading {clean(live.folder)}"), console=out, auto_refresh=False, vertical_overflow="crop") as screen:
        screen.refresh()
        while True:
            began = time.monotonic()
            state = live.state()
            screen.update(picture(state, out, out.size.height - 1), refresh=True)
            if state["ended"]:
                return 0
            time.sleep(max(REFRESH_SECONDS, SHARE * (time.monotonic() - began)))


def _in_lines(live: Live, stays: bool) -> int:
    """A line when something has changed, at most every half minute, and one for each failure; 1 when nobody has been at work for long."""
    said, said_at, told = "", 0.0, set[tuple[Any, ...]]()
    active, before = time.monotonic(), None
    while True:
        began = time.monotonic()
        state = live.state()
        if state["running"] or state["phases"] != before:
            active, before = began, state["phases"]
        for one in reversed(state["failures"]):
            if said and (one["cell"], one["ended"]) not in told:  # those from before are counted in the first line
                print(failure(one), flush=True)
            told.add((one["cell"], one["ended"]))
        if state["ended"]:
            return 0
        if not stays and began - active >= IDLE_SECONDS:
            print(f"{line(state)}; not all cells have ended, and nobody was at work for {IDLE_SECONDS / 60:.0f} minutes", flush=True)
            return 1
        if (text := line(state)) != said and (not said or began - said_at >= LINE_SECONDS):
            print(text, flush=True)
            said, said_at = text, began
        time.sleep(max(REFRESH_SECONDS, SHARE * (time.monotonic() - began)))
