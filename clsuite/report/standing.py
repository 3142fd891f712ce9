"""`clsuite status`: where a grid stands, for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..experiment.status import standing
from .progress import clock
from .text import console, emit, table

STATUSES = ("ok", "running", "missing", "diverged", "error", "oom", "timeout", "killed")
SHOWN = 20


def status_command(folder: Path, as_json: bool) -> None:
    """Print where a grid stands."""
    found = standing(folder)
    if as_json:
        return emit(found)
    out = console()
    counts = found["phases"]
    used = [s for s in STATUSES if any(s in c for c in counts.values())]
    rows = [(phase, *(str(c.get(s, 0)) for s in used), str(sum(c.values()))) for phase, c in counts.items()]
    out.print(table(f"{folder}", ("phase", *used, "planned"), rows, right=range(1, len(used) + 2)))
    out.print(_progress(found), soft_wrap=True)
    for failure in found["failures"][:SHOWN]:
        trial = "" if failure["trial"] is None else f", trial {failure['trial']}"
        out.print(f"{failure['status']}: {failure['label']}{trial}, seed {failure['seed']} ({failure['phase']}): {failure['reason']}", soft_wrap=True)
    if len(found["failures"]) > SHOWN:
        out.print(f"and {len(found['failures']) - SHOWN} more failures (--json lists all)")
    if found["superseded"]:
        out.print(f"{found['superseded']} cells are superseded: their strategies were tuned anew since")
    if found["left_out"]:
        out.print(f"{found['left_out']} cells of strategies that the file no longer has are kept and not counted")
    if found["other_source"]:
        out.print(
            f"{found['other_source']} finished cells were computed by other source code than is installed now (clsuite grid ... --rerun changed)",
            soft_wrap=True,
        )
    return None


def _progress(found: dict[str, Any]) -> str:
    done = found["expected"] - found["left"]
    text = f"{done} of {found['expected']} cells have ended"
    if found["rate_per_minute"]:
        return f"{text}; {found['rate_per_minute']:.1f} a minute, about {clock(found['remaining_seconds'])} left"
    return text + ("" if not found["left"] else "; nobody is at work on the others: the grid's command goes on with them")
