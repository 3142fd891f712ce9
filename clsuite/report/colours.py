"""One look for a strategy everywhere: colours that colour-blind people tell apart, dashes and markers where colours run out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5BB5", "#8C8C00")
"""After Okabe and Ito, without black and yellow, which vanish on a dark or a light page; two more that differ in brightness."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")


class Look(NamedTuple):
    """How a strategy is drawn: `colour` (`#rrggbb`), `dash` of its lines, `marker` of its points."""

    colour: str
    dash: str
    marker: str


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look a label: no two share colour, dash and marker before 280 labels."""
    return {label: Look(COLOURS[k % 8], DASHES[k // 8 % 5], MARKERS[k // 8 % 7]) for k, label in enumerate(labels)}


def faded(colour: str, opacity: float) -> str:
    """A colour for areas, as `rgba(...)`."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
