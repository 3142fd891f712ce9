"""What a page of the report is made of: sections of figures, tables and notes, as plain data. Nothing here is HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def plain(text: str) -> str:
    """A text as plotly shows it letter by letter: in its labels a few tags would count."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Table:
    """Rows for reading. A cell is a text or a number; a `Cell` shows a text and sorts by, and exports, a value.

    `name`: unique on its page, names the exported file. `explanation`: one line on what the columns mean. `links`: by row number
    the address a row leads to. `search`: whether a field narrows the rows down.
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    explanation: str = ""
    search: bool = False
    notes: dict[int, str] = field(default_factory=dict)
    """What a column means, by its number: shown when one points at its head."""


@dataclass(frozen=True)
class Cell:
    """A text with the exact value behind it (`value`), by which the column is sorted and which is exported; `look` gives it its strategy's colour."""

    text: str
    value: Any = None
    colour: str | None = None
    href: str | None = None


@dataclass(frozen=True)
class Figure:
    """A plotly figure: `traces` and `layout` as plotly has them, without colours of text, grid and paper, which follow the page.

    `explanation`: what is drawn, with units and the direction of better, in a sentence. `table`: its numbers (heads and rows), which
    are exported as CSV and read by those who cannot see the figure. `height` in pixels. `small`: stands beside others.
    """

    name: str
    title: str
    explanation: str
    traces: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    table: tuple[Sequence[str], Sequence[Sequence[Any]]]
    height: int = 420
    small: bool = False


@dataclass(frozen=True)
class Note:
    """Paragraphs. `kind`: `plain`, `warning` (what a reader must not miss) or `log` (lines as they stand)."""

    lines: Sequence[str]
    kind: str = "plain"
    title: str = ""


@dataclass(frozen=True)
class Steps:
    """Boxes with arrows between them: how the numbers came about. Each is a head and a line."""

    boxes: Sequence[tuple[str, str]]
    caption: str


Block = Table | Figure | Note | Steps


@dataclass(frozen=True)
class Section:
    """A heading, a line on what it shows, and its blocks."""

    title: str
    explanation: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page: `name` is its file, `title` stands in the navigation; `details`: files of data that are loaded on demand, by name."""

    name: str
    title: str
    explanation: str
    sections: Sequence[Section]
    details: dict[str, Any] = field(default_factory=dict)
