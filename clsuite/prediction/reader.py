"""From a file or a cell's folder to a curve: what the file says, and in words what had to be assumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .curve import FEWEST, Curve, block_means
from .rates import Array, Rates, forward_area
from .tables import Row, read_rows


def read_curve(path: Path, columns: Mapping[str, str] | None = None, warmup: int | None = None, boundary: int | None = None) -> Curve:
    """The curve in a CSV or JSONL file, or in the folder of a finished cell.

    A row says the rate of update `step` and the loss after it; steps ascend, and either may be missing in a row. In our
    own log `step` counts the updates that are done, so update step - 1 is meant. Rates between rows lie on a straight
    line, but for a lone change between stretches of one rate, which is a jump at the later row, and a change at the
    boundary without a warm-up after it, which is a jump there. `warmup` is the number of
    updates of linear warm-up; None: a rise at the beginning, or all updates before the first row if there are many.
    `boundary` is the first update on other data; None: where `experience` changes.

    Raises `UsageError` in one line for what cannot be read, fewer than 20 losses after warm-up, steps that do not ascend,
    and rates or losses that are not positive.
    """
    file, name = _place(path)
    rows = read_rows(file, columns or {})
    _check(file, rows)
    done = 1 if file.name == "metrics.jsonl" else 0
    rated = [row for row in rows if row.learning_rate is not None and row.step >= done]
    measured = [row for row in rows if row.loss is not None and row.step >= done]
    if not measured or not rated:
        raise UsageError(f"{file} has no {'loss' if not measured else 'learning rate'} in any row")
    at = np.array([row.step - done for row in rated], dtype=np.int64)
    values = np.array([row.learning_rate for row in rated], dtype=float)
    steps = np.array([row.step - done for row in measured], dtype=np.int64)
    losses = np.array([row.loss for row in measured], dtype=float)
    length = int(max(at[-1], steps[-1])) + 1
    edge = boundary if boundary is not None else _boundary(file, rows, done)
    if edge is not None and not 0 < edge < length:
        raise UsageError(f"{file}: the data cannot change at step {edge}: expected a step from 1 to {length - 1}")
    rates, first, assumed = _rates(at, values, length, warmup, edge)
    later = (steps >= first) & (forward_area(rates)[steps] > 0)
    if later.sum() < FEWEST:
        raise UsageError(f"{file} has {int(later.sum())} losses after {first} steps of warm-up; a fit needs at least {FEWEST}")
    steps, losses, count = steps[later], losses[later], int(later.sum())
    steps, losses = block_means(steps, losses)
    if len(steps) < count:
        assumed.append(f"{count} losses taken as {len(steps)} means of neighbours")
    return Curve(name, Rates(rates, first, edge), steps, losses, tuple(assumed), at)


def _place(path: Path) -> tuple[Path, str]:
    """The file to read, and what the curve is called."""
    folder = path if path.is_dir() else path.parent if path.name in ("metrics.jsonl", "result.json") else None
    if folder is None:
        return path, path.stem
    if not (folder / "metrics.jsonl").is_file():
        raise UsageError(f"{folder} holds no curve: expected a CSV or JSONL file, or the folder of a cell with metrics.jsonl")
    name = folder.resolve().name[:8]
    try:
        schedule = json.loads((folder / "result.json").read_bytes())["spec"]["training"]["schedule"]["name"]
        name = f"{schedule}-{name}"
    except (OSError, ValueError, LookupError, TypeError):
        pass  # a cell that is not finished, or whose record says nothing of a schedule: its hash is its name
    return folder / "metrics.jsonl", name


def _check(file: Path, rows: Sequence[Row]) -> None:
    for kind in ("learning_rate", "loss"):
        before = None
        given = [row for row in rows if getattr(row, kind) is not None]
        for row in given:
            if before is not None and row.step <= before:
                raise UsageError(f"{file} line {row.line}: step {row.step} follows step {before}: steps must ascend")
            before = row.step
            value = getattr(row, kind)
            # a warm-up may begin at zero, and a decay may end there
            if value < 0 or (value == 0 and not (kind == "learning_rate" and row in (given[0], given[-1]))):
                raise UsageError(f"{file} line {row.line}: {kind} = {value:g} at step {row.step} is not valid: expected a number > 0")


def _boundary(file: Path, rows: Sequence[Row], done: int) -> int | None:
    labelled = [row for row in rows if row.experience is not None]
    changes = [(a, b) for a, b in itertools.pairwise(labelled) if a.experience != b.experience]
    if len(changes) > 1:
        raise UsageError(f"{file}: the data change {len(changes)} times; the laws hold for one data set, or for one change")
    if not changes:
        return None
    before, after = changes[0]
    # our own log has a row at the end of every experience; of another file the first row of the second is known
    return before.step if done else after.step


def _rates(at: NDArray[np.int64], values: Array, length: int, warmup: int | None, edge: int | None) -> tuple[Array, int, list[str]]:
    """Rates of all updates, the number of updates of warm-up, and what was assumed."""
    assumed = []
    steps = np.arange(length)
    rates = np.interp(steps, at, values)
    spacing = np.diff(at)
    jumps = _jumps(values)
    for k in jumps:
        rates[at[k] + 1 : at[k + 1]] = values[k]
    if (spacing > 1).any() and np.ptp(values) > 0:
        assumed.append("rates between rows on straight lines" + (", lone changes as jumps at the later row" if jumps else ""))
    after = len(at) if edge is None else int(np.searchsorted(at, edge))
    # a rate that does not go on rising after the boundary was not warmed up there: it jumped with the data
    if edge is not None and 0 < after < len(at) and at[after] > at[after - 1] + 1 and not (values[after : after + 2][-1] > values[after]):
        rates[at[after - 1] : edge], rates[edge : at[after]] = values[after - 1], values[after]
        assumed.append(f"a jump of the rate at the boundary, step {edge}")
    if length > at[-1] + 1:
        assumed.append(f"the last rate held from step {at[-1]} on")
    rise = int(np.argmax(np.diff(values, append=-np.inf) <= 0)) if len(values) > 1 else 0
    usual = int(np.median(spacing)) if len(spacing) else 1
    if warmup is not None:
        first, why = warmup, ""
    elif rise >= 2 or (rise == 1 and values[0] < 0.5 * values[1]):
        first, why = int(at[rise]), " (the rise at the beginning)"
    elif at[0] > 2 * usual:
        first, why = int(at[0]), " (the steps before the first row)"
    else:
        first, why = 0, ""
    if first >= length:
        raise UsageError(f"--warmup = {first} is not valid: the curve has {length} steps")
    begin = int(at[0])
    rates[:begin] = values[0]
    span = first if first <= begin else begin + 1
    rates[: min(span, begin)] *= (np.arange(min(span, begin)) + 1) / max(span, 1)
    if first:
        assumed.append(f"{first} steps of linear warm-up{why}")
    elif begin > 0:
        assumed.append(f"the first rate from step 0 to {begin}")
    return rates, first, assumed


def _jumps(values: Array) -> list[int]:
    """Rows after which the rate changes, where the two rows before and the two after have one rate each."""
    change = np.abs(np.diff(values)) > 1e-9 * values.max()
    return [k for k in np.flatnonzero(change).tolist() if 0 < k < len(change) - 1 and not change[k - 1] and not change[k + 1]]
