"""What cells have in common up to a point: a prefix, which is a cell of its own that is run once and gone on from.

`until: k` in a specification means: everything up to and including the training steps of experience k - 1, not what follows them
(border hooks, evaluation). Parts say from which experience on they act (`Part.acts_from`), and what `training` says of borders acts
from the first border on; a prefix is a cell without what does not act yet, so its numbers, and those of every cell that goes on from
it, are what they would have been.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UsageError
from ..training.borders import shared_before
from .assembly import memory_settings
from .folder import seconds_of
from .identity import cell_hash
from .spec import DEFAULT_NAMES, Cell, resolve


@dataclass(frozen=True)
class Prefix:
    """A cell up to experience `until`: its hash, the places of its parts among those of the cell it begins, and what it starts from itself."""

    cell: Cell
    name: str
    until: int
    kept: tuple[int, ...]
    start: Prefix | None = None

    @property
    def depth(self) -> int:
        """How many prefixes must be there before it."""
        return 0 if self.start is None else 1 + self.start.depth

    @property
    def task(self) -> dict[str, Any]:
        """What a worker needs to go on from it."""
        return {"raw": self.cell.spec, "kept": list(self.kept)}


def shared(cells: Iterable[Cell]) -> dict[int, Prefix]:
    """By place in `cells`, the longest prefix that a cell has in common with another; cells without one are left out."""
    cells = list(cells)
    borders = _borders(cells)
    if len(cells) < 2 or not (borders or any(part.defines("acts_from") for cell in cells for part in cell.parts)):
        return {}
    lengths, keep = _streams(cells)
    ends: dict[str, set[int]] = defaultdict(set)
    for cell, length in zip(cells, lengths, strict=True):
        ends[cell.stream_key] |= {k for part in cell.parts if 0 < (k := part.acts_from(length)) <= length}
        ends[cell.stream_key] |= {1} if cell.stream_key in borders and length > 1 else set()
    found: dict[int, list[Prefix]] = {}
    users: dict[str, int] = defaultdict(int)
    for place, (cell, length) in enumerate(zip(cells, lengths, strict=True)):
        candidates = [p for k in sorted(ends[cell.stream_key]) if (p := prefix_of(cell, k, length, keep[place])) is not None]
        found[place] = candidates
        for p in candidates:
            users[p.name] += 1
    longest = {place: good[-1] for place, candidates in found.items() if (good := [p for p in candidates if users[p.name] > 1])}
    used = {p.name for p in longest.values()}
    return {place: _chained(p, [q for q in found[place] if q.name in used]) for place, p in longest.items()}


def _chained(prefix: Prefix, shorter: list[Prefix]) -> Prefix:
    """The prefix with the chain of shorter ones of the same cell that others use too."""
    before = [p for p in shorter if p.until < prefix.until]
    if not before:
        return prefix
    kept = tuple(prefix.kept.index(k) for k in before[-1].kept)
    return replace(prefix, start=replace(_chained(before[-1], before), kept=kept))


def prefix_of(cell: Cell, until: int, experiences: int, keep_schedule: bool = False) -> Prefix | None:
    """The cell up to experience `until`, without the parts that act later; None when a part that acts later has a say before.

    That is so when it makes the plan and may change how many steps there are (they count for schedules), or when it alone brings
    the memory or decides its size. `keep_schedule` is the stream's.
    """
    late = [part.acts_from(experiences) >= until for part in cell.parts]
    if any(part.defines("plan") and not part.keeps_steps for part, is_late in zip(cell.parts, late, strict=True) if is_late):
        return None
    kept = tuple(k for k, is_late in enumerate(late) if k == 0 or not is_late)
    strategy = dict(cell.spec["strategy"]) if not late[0] else {"name": DEFAULT_NAMES["strategy"]}
    strategy["modifiers"] = [cell.spec["strategy"]["modifiers"][k - 1] for k in kept if k > 0]
    try:
        training = shared_before(cell.spec["training"], keep_schedule) if until == 1 else cell.spec["training"]
        shorter = resolve({**cell.spec, "strategy": strategy, "training": training, "until": until}, cell.data_root)
    except UsageError:  # what is left does not stand by itself
        return None
    if memory_settings(shorter) != memory_settings(cell):
        return None
    return Prefix(shorter, cell_hash(shorter), until, kept)


def computed_seconds(results: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Seconds that were computed for results, with what they share counted once, and the seconds saved by sharing."""
    results = list(results)
    total = sum(map(seconds_of, results))
    once: dict[str, float] = {}
    charged = 0.0
    for result in results:
        start = result.get("start_from")
        charged += start["seconds"] if start else 0.0
        while start:
            before = start["start_from"]["seconds"] if start.get("start_from") else 0.0
            once[start["cell"]] = start["seconds"] - before
            start = start.get("start_from")
    saved = charged - sum(once.values())
    return total - saved, saved


def _streams(cells: list[Cell]) -> tuple[list[int], list[bool]]:
    """Experiences of each cell's stream, and whether schedules go on over its borders; the same for every seed."""
    known: dict[str, tuple[int, bool]] = {}
    for cell in cells:
        if cell.stream_key not in known:
            stream = cell.scenario.stream(cell.spec["phase"], cell.seed)
            known[cell.stream_key] = len(stream), stream.keep_schedule
    return [known[cell.stream_key][0] for cell in cells], [known[cell.stream_key][1] for cell in cells]


def _borders(cells: list[Cell]) -> set[str]:
    """The streams (by key) on which cells differ in what the training says of borders."""
    ways: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        training = cell.spec["training"]
        ways[cell.stream_key].add(json.dumps([training[name] for name in sorted(training) if name.startswith("border_")]))
    return {stream for stream, found in ways.items() if len(found) > 1}
