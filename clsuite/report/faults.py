"""Errors nobody expected: whose they are, told so that the author of a plug-in can debug them."""

from __future__ import annotations

import sys
import traceback


def owner(error: BaseException) -> str | None:
    """`strategy 'x'`: the innermost component whose method the error passed through; None when there is none."""
    from ..scenario import Scenario
    from ..schedule import Schedule
    from ..strategy import Part

    kinds: list[tuple[type, str]] = [(Part, "strategy"), (Scenario, "scenario"), (Schedule, "schedule")]
    models = sys.modules.get("clsuite.models.base")
    if models is not None:
        kinds.append((models.Model, "model"))
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        who = frame.f_locals.get("self")
        for base, word in kinds:
            if isinstance(who, base):
                found = f"{word} '{getattr(who, 'name', '') or type(who).__name__}'"
    return found


def summary(error: BaseException) -> str:
    """`strategy 'x' raised TypeError: ...`, in one line."""
    text = " ".join(str(error).split())
    return f"{owner(error) or 'clsuite itself'} raised {type(error).__name__}" + (f": {text}" if text else "")


def report(error: Exception) -> tuple[str, int]:
    """The last line and the exit code; prints the traceback, unless the disk or a permission is at fault."""
    if isinstance(error, OSError) and owner(error) is None:
        where = f" '{error.filename}'" if error.filename else ""
        return f"cannot read or write{where}: {error.strerror or error}", 2
    traceback.print_exception(error, file=sys.stderr)
    return summary(error), 1
