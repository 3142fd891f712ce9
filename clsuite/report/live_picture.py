"""A watched folder drawn for a terminal, as much of it as there are lines."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .live_words import BLOCKS, PLAIN_BLOCKS, bounds, clean, comparable, failure, heading, place, progress, since, sparkline, statuses, value, who
from .text import table

BAR, SPARK, LABEL = 40, 32, 36
LOG_LINES = 3
MOST_RUNNING, MOST_FAILURES = 8, 3
STYLES = {"ok": "green", "running": "cyan", "missing": "dim"}


def picture(state: dict[str, Any], out: Console, height: int | None) -> Group:
    """The state as at most `height` lines (None: as many as it takes)."""
    parts: list[RenderableType] = [_line(f"{clean(state['folder'])}", "bold")]
    used = statuses(state)
    if state["phases"]:
        rows = [(clean(phase), *(c.get(s, 0) for s in used), sum(c.values())) for phase, c in state["phases"].items()]
        parts += [table(None, ("phase", *used, "planned"), rows, right=range(1, len(used) + 2)), _bar(state)]
    if state["message"]:
        waiting = ": waiting (Ctrl-C ends)" if state["kind"] == "nothing" else ""
        parts.append(_line(clean(state["message"]) + waiting, "yellow"))
    room = None if height is None else height - sum(_height(part, out) for part in parts)
    drawn = [lambda room: _running(state, room), lambda room: _failures(state, room)]
    drawn += [lambda room, group=group: _curves(group, out, room) for group in comparable(state)]
    for draw in drawn:
        block = draw(room)
        if room is not None and len(block) > room:
            continue
        parts += block
        room = None if room is None else room - len(block)
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _height(part: RenderableType, out: Console) -> int:
    return len(out.render_lines(part, pad=False))


def _bar(state: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 1))
    done = state["expected"] - state["left"]
    grid.add_row(ProgressBar(max(state["expected"], 1), done, width=BAR), _line(progress(state)))
    return grid


def _running(state: dict[str, Any], room: int | None) -> list[RenderableType]:
    """The cells somebody is at; a third of the room at most."""
    cells = state["running"]
    if not cells:
        return []
    most = len(cells) if room is None else max(1, min(MOST_RUNNING, room // 3 - 2))
    lines = [_line(""), _line(f"Running: {len(cells)}" + (f" (the first {most})" if len(cells) > most else ""), "bold")]
    return [*lines, *(_line(f"  {who(cell)}: {place(cell)}; for {since(cell, state['time']) or '-'}") for cell in cells[:most])]


def _failures(state: dict[str, Any], room: int | None) -> list[RenderableType]:
    """The latest failures with the last lines of their logs; half of the room at most."""
    found = state["failures"] if room is None else state["failures"][:MOST_FAILURES]
    if not found:
        return []
    lines: list[RenderableType] = []
    shown = 0
    for cell in found:
        logs = [text for text in cell["log"] if text.strip()][-LOG_LINES:]
        left = len(logs) + 1 if room is None else max(room // 2, 3) - 2 - len(lines)
        if left < 1:
            break
        kept = logs[len(logs) - min(len(logs), left - 1) :]
        lines += [_line(f"  {failure(cell)}", "red"), *(_line(f"    | {clean(text)}", "dim") for text in kept)]
        shown += 1
    more = "" if shown == state["failed"] else f" (the latest {shown}; clsuite status lists all)"
    return [_line(""), _line(f"Failed: {state['failed']}{more}", "bold"), *lines]


def _curves(found: list[dict[str, Any]], out: Console, room: int | None) -> list[RenderableType]:
    """A row a strategy: its curve, and the value at the end."""
    most = len(found) if room is None else room - 3
    if most < 1:
        return []
    low, high = bounds(found)
    blocks = BLOCKS if out.encoding.startswith("utf") else PLAIN_BLOCKS
    shown = found if len(found) <= most else found[: most - 1]
    wide = min(LABEL, max(10, *(len(clean(curve["label"])) for curve in found)))
    lines: list[RenderableType] = [_line(""), _line(f"{heading(found)}: {blocks[0]} {low:.3g} to {blocks[-1]} {high:.3g}", "bold")]
    for curve in shown:
        label = Text(clean(curve["label"]))
        label.truncate(wide, overflow="ellipsis", pad=True)
        row = Text("  ", no_wrap=True, overflow="ellipsis")
        lines.append(row + label + Text(" ") + Text(sparkline(curve["values"], low, high, SPARK, blocks).ljust(SPARK), "cyan") + Text(f" {value(curve)}"))
    last = str(len(found[0]["values"]) // found[0]["per_experience"])
    axis = len(sparkline(found[0]["values"], low, high, SPARK)) - 1
    ends = f"1{last if last != '1' else '':>{axis}}"
    lines.append(_line(f"  {'experience':<{wide}} {ends:<{SPARK}} mean ± standard deviation at the end", "dim"))
    if len(shown) < len(found):
        lines.append(_line(f"  and {len(found) - len(shown)} more (--once shows all)", "dim"))
    return lines
