"""The errors a user can cause, and the ways a run can end early.

Every message is one line that names the setting, the value and what would be valid.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad settings, unreadable data or an impossible pairing: exit code 2, nothing written."""


class ResultWarning(UserWarning):
    """A stored result that was made by other source code, that cannot be read, and the like."""


class MissingData(UsageError):
    """A data set that is in none of the places it was looked for."""


class RunEnded(Exception):
    """A run that ended early for a reason of its own; `status` goes into its result."""

    status = "error"


class Diverged(RunEnded):
    """The loss became non-finite, or stayed above ten times its first value for 100 steps."""

    status = "diverged"


class Interrupted(Exception):
    """Asked to leave (SIGTERM): a checkpoint stands, the same command goes on. Exit code 75."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a valid name is close, else an empty string."""
    close = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(what: str, name: object, valid: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list of valid names."""
    names = sorted(str(v) for v in valid)
    shown = str(name) if len(str(name)) <= 80 else str(name)[:77] + "..."
    return UsageError(f"unknown {what} '{shown}'{nearest(shown, names)} (valid: {', '.join(names) or 'none'})")
