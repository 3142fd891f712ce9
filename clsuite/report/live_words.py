"""A watched folder in words: what the terminal, the plain lines and the page all say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .progress import clock
from .text import number, some

STATUSES = ("ok", "running", "missing", "diverged", "error", "oom", "timeout", "killed")
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
LEAST_SPAN = 0.1
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


def clean(text: object) -> str:
    """Text on one line without what would command a terminal or turn the direction of writing."""
    found = _ESCAPES.sub("", str(text)).replace("\t", "    ").replace("\n", " ")
    return "".join(c for c in found if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))


def statuses(state: dict[str, Any]) -> list[str]:
    """The statuses that occur, in the order of `STATUSES`."""
    there = {status for counts in state["phases"].values() for status in counts}
    return [*(s for s in STATUSES if s in there), *sorted(there - set(STATUSES))]


def progress(state: dict[str, Any]) -> str:
    """How many have ended, the rate, and the time left."""
    text = f"{state['expected'] - state['left']} of {state['expected']} cells have ended"
    if state["rate_per_minute"]:
        text += f"; {state['rate_per_minute']:.1f} a minute, about {clock(state['remaining_seconds'])} left"
    return text


def line(state: dict[str, Any]) -> str:
    """Where it stands, in one line."""
    if state["kind"] == "nothing" or not state["phases"]:
        return f"waiting: {clean(state['message'])}"
    parts = [progress(state)]
    if state["running"]:
        parts.append(f"{len(state['running'])} running")
    if state["failed"]:
        parts.append(f"{state['failed']} failed ({_by_kind(state)})")
    return ", ".join(parts) + (f"; {clean(state['message'])}" if state["message"] else "")


def ending(state: dict[str, Any]) -> list[str]:
    """The last lines, once all cells have ended."""
    found = [f"{progress(state)}, nothing is left" + (f"; {state['failed']} failed ({_by_kind(state)})" if state["failed"] else "")]
    if state["superseded"]:
        found.append(f"{state['superseded']} cells are superseded: their strategies were tuned anew since")
    if state["left_out"]:
        found.append(f"{state['left_out']} cells of strategies that the file no longer has are kept and not counted")
    if state["report"]:
        found.append(f"report: {clean(state['report'])}")
    return found


def _by_kind(state: dict[str, Any]) -> str:
    counts = {s: sum(found.get(s, 0) for found in state["phases"].values()) for s in statuses(state) if s not in ("ok", "running", "missing")}
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def who(cell: dict[str, Any]) -> str:
    """A cell by strategy, trial and seed, with its phase."""
    trial = "" if cell["trial"] is None else f", trial {cell['trial']}"
    return f"{clean(cell['label'])}{trial}, seed {clean(cell['seed'])} ({clean(cell['phase'])})"


def failure(cell: dict[str, Any]) -> str:
    """A failed cell and why it failed."""
    return f"{clean(cell['status'])}: {who(cell)}: {clean(cell['reason'])}"


def place(cell: dict[str, Any]) -> str:
    """Where a running cell is: experience (counted from 1), step, last loss."""
    if cell["experience"] is None:
        return "no line in its log yet"
    of = "" if cell["experiences"] is None else f" of {cell['experiences']}"
    loss = "" if cell.get("loss") is None else f", loss {cell['loss']:.4g}"
    step = f", step {cell['step']:,}" if cell["step"] else ""
    return f"experience {cell['experience'] + 1}{of}{step}{loss}"


def at_work(cell: dict[str, Any], now: float) -> str:
    """A running cell: which, where it is, and for how long."""
    began = "just begun" if cell["since"] is None else f"for {clock(max(now - cell['since'], 0.0))}"
    return f"{who(cell)}: {place(cell)}; {began}"


def comparable(state: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The curves that are shown, in groups that share an axis: those of the evaluation once it has any, else of the latest phase."""
    phases = [curve["phase"] for curve in state["curves"]]
    shown = "evaluation" if "evaluation" in phases else phases[-1] if phases else None
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for curve in state["curves"]:
        if curve["phase"] == shown:
            groups.setdefault((curve["kind"], len(curve["values"])), []).append(curve)
    return list(groups.values())


def heading(curves: Sequence[dict[str, Any]]) -> str:
    """What the curves of a phase show."""
    what = "Loss on what was learned so far (nats per token)" if curves[0]["kind"] == "loss" else "Accuracy on what was learned so far"
    return f"{what}, {clean(curves[0]['phase'])}" + (", over trials with different settings" if "tuning" in curves[0]["phase"] else "")


def better(curves: Sequence[dict[str, Any]]) -> str:
    """Which direction of the curves is better."""
    return "lower is better" if curves[0]["kind"] == "loss" else "higher is better"


def value(curve: dict[str, Any]) -> str:
    """The value at the end with its spread over cells."""
    spread = f" ± {curve['spread']:.4f}" if curve["spread"] is not None else ""
    return f"{number(curve['last'])}{spread} (n = {curve['n']})"


def bounds(curves: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Least and greatest value of curves that share an axis, drawn apart so far that a small difference does not look like a large one."""
    found = [v for curve in curves for v in curve["values"] if v is not None]
    if not found:
        return 0.0, 1.0
    return min(min(found), max(max(found) - LEAST_SPAN, 0.0)), max(found)


def sparkline(values: Sequence[float | None], low: float, high: float, width: int, blocks: str = BLOCKS) -> str:
    """A curve as a bar a value, all of a width; nothing where it was not measured."""
    shown = [values[k] for k in some(len(values), width)]
    each = max(1, width // max(len(shown), 1))
    top, span = len(blocks) - 1, (high - low) or 1.0
    return "".join((" " if v is None else blocks[min(top, max(0, round(top * (v - low) / span)))]) * each for v in shown)
