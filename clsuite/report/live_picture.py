"""A watched folder drawn for a terminal, as much of it as there are lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .live_words import BLOCKS, PLAIN_BLOCKS, at_work, better, bounds, clean, comparable, failure, heading, line, progress, sparkline, statuses, value

BAR, LEAST_BAR, LABEL = 40, 8, 36
SPARK, SMALL_SPARK, SMALL = 32, 16, 75
"""Characters of a curve, and of one in a terminal that is narrower than `SMALL`."""
LOG_LINES = 3
MOST_RUNNING, MOST_FAILURES = 8, 3


def picture(state: dict[str, Any], out: Console, height: int | None) -> Group:
    """The state as at most `height` lines (None: as many as it takes)."""
    parts: list[RenderableType] = [_line(f"{clean(state['folder'])}", "bold")]
    used = statuses(state)
    if state["phases"]:
        rows = [(clean(phase), *(c.get(s, 0) for s in used), sum(c.values())) for phase, c in state["phases"].items()]
        parts += [_counts(("phase", *map(clean, used), "planned"), rows), _bar(state, out.width)]
    if state["message"]:
        parts.append(Text(clean(state["message"]) if state["phases"] else line(state), "yellow"))
    room = None if height is None else height - sum(_height(part, out) for part in parts)
    drawn: list[Callable[[int | None], list[RenderableType]]] = [partial(_running, state), partial(_failures, state)]
    drawn += [partial(_curves, group, out) for group in comparable(state)]
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


def _counts(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for k, head in enumerate(heads):
        made.add_column(head, justify="right" if k else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        made.add_row(*map(str, row))
    return made


def _bar(state: dict[str, Any], width: int) -> Table:
    """How far it is, as a bar where there is room beside the words."""
    grid, words = Table.grid(padding=(0, 1)), progress(state)
    room = min(BAR, width - len(words) - 1)
    bar = ProgressBar(max(state["expected"], 1), state["expected"] - state["left"], width=room)
    grid.add_row(*([bar] if room >= LEAST_BAR else []), _line(words))
    return grid


def _running(state: dict[str, Any], room: int | None) -> list[RenderableType]:
    """The cells somebody is at; a third of the room at most."""
    cells = state["running"]
    if not cells:
        return []
    most = len(cells) if room is None else max(1, min(MOST_RUNNING, room // 3 - 2))
    lines = [_line(""), _line(f"Running: {len(cells)}" + (f" (the first {most})" if len(cells) > most else ""), "bold")]
    return [*lines, *(_line(f"  {at_work(cell, state['time'])}") for cell in cells[:most])]


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
    if most < min(len(found), 2):  # one, and how many more there are
        return []
    low, high = bounds(found)
    spark = SPARK if out.width >= SMALL else SMALL_SPARK
    blocks = BLOCKS if out.encoding.startswith("utf") else PLAIN_BLOCKS
    shown = found if len(found) <= most else found[: most - 1]
    wide = min(LABEL, max(10, *(cell_len(clean(curve["label"])) for curve in found)))
    lines: list[RenderableType] = [_line(""), _line(f"{heading(found)}: {blocks[0]} {low:.3g} to {blocks[-1]} {high:.3g}", "bold")]
    for curve in shown:
        label = Text(clean(curve["label"]))
        label.truncate(wide, overflow="ellipsis", pad=True)
        row = Text("  ", no_wrap=True, overflow="ellipsis")
        lines.append(row + label + Text(" ") + Text(sparkline(curve["values"], low, high, spark, blocks).ljust(spark), "cyan") + Text(f" {value(curve)}"))
    last = str(len(found[0]["values"]) // found[0]["per_experience"])
    axis = len(sparkline(found[0]["values"], low, high, spark)) - 1
    ends = f"1{last if last != '1' else '':>{axis}}"
    lines.append(_line(f"  {'experience':<{wide}} {ends:<{spark}} mean ± s.d.; {better(found)}", "dim"))
    if len(shown) < len(found):
        lines.append(_line(f"  and {len(found) - len(shown)} more (--once shows all)", "dim"))
    return lines
