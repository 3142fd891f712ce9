"""Rows of a curve's file: CSV with a head, or one JSON object a line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, nearest

NAMES = {
    "step": ("step", "_step", "global_step"),
    "learning_rate": ("learning_rate", "lr"),
    "loss": ("loss",),
    "experience": ("experience",),
}
"""What the columns are called when nothing is said; `--columns` says otherwise."""
MEANINGS = {"lr": "learning_rate"}


@dataclass(frozen=True)
class Row:
    """One line of a file: `line` counts from 1; what the line does not say is None."""

    line: int
    step: int
    learning_rate: float | None
    loss: float | None
    experience: int | None


def parse_columns(text: str | None) -> dict[str, str]:
    """`step=_step,lr=lr,loss=train/loss` as a mapping from meaning to column."""
    found: dict[str, str] = {}
    for item in (text or "").split(","):
        if not item.strip():
            continue
        key, equals, column = item.strip().partition("=")
        meaning = MEANINGS.get(key, key)
        if not equals or not column or meaning not in NAMES:
            raise UsageError(
                f"--columns: '{item.strip()}' is not valid: expected step=, lr=, loss= or experience= and the name of a column{nearest(key, NAMES)}"
            )
        if meaning in found:
            raise UsageError(f"--columns: '{key}' is given twice")
        found[meaning] = column
    return found


def read_rows(path: Path, columns: Mapping[str, str]) -> list[Row]:
    """The rows that have a step and a rate or a loss, in the order of the file; raises `UsageError` in one line."""
    records, own = _records(path)
    if own and "loss" not in columns:  # our own log has other events too, each with numbers of its own
        records = [(line, record) for line, record in records if record.get("event") in (None, "loss")]
    elif own:  # what is deployed at a border is measured at a step that was looked at already, and may be a branch's
        records = [(line, record) for line, record in records if record.get("event") not in ("experience", "branch_loss")]
    there = list(dict.fromkeys(key for _, record in records for key in record))
    found = {meaning: _column(path, meaning, columns, there) for meaning in NAMES}
    rows = []
    for line, record in records:
        numbers = {meaning: None if column is None else _number(path, line, column, record.get(column)) for meaning, column in found.items()}
        step, rate, loss = numbers["step"], numbers["learning_rate"], numbers["loss"]
        if step is None or (rate is None and loss is None):
            continue
        if step != int(step) or step < 0:
            raise UsageError(f"{path} line {line}: {found['step']} = {step:g} is not valid: expected a whole number >= 0")
        experience = numbers["experience"]
        rows.append(Row(line, int(step), rate, loss, None if experience is None else int(experience)))
    return rows


def _records(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], bool]:
    """Records with their line, and whether they are events of our own log."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text (UTF-8)") from error
    if not text.lstrip().startswith("{"):
        reader = csv.DictReader(text.splitlines())
        return [(reader.line_num, {k: v for k, v in record.items() if k is not None}) for record in reader], False
    records = []
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip():
            try:
                record = json.loads(content)
            except ValueError as error:
                raise UsageError(f"{path} line {line} is not JSON: expected one object a line") from error
            if not isinstance(record, dict):
                raise UsageError(f"{path} line {line} is not a JSON object")
            records.append((line, _flat(record)))
    return records, any("event" in record for _, record in records)


def _flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as names joined by dots: {"loss": {"d0": 3}} is `loss.d0`."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        inner: Any = dict(enumerate(value)) if isinstance(value, list) else value
        found.update(_flat(inner, f"{before}{key}.") if isinstance(inner, Mapping) else {f"{before}{key}": value})
    return found


def _column(path: Path, meaning: str, columns: Mapping[str, str], there: list[str]) -> str | None:
    wanted = columns.get(meaning)
    if wanted is not None:
        if wanted not in there:
            raise UsageError(f"{path} has no column '{wanted}'{nearest(wanted, there)} (it has: {_listed(there)})")
        return wanted
    for name in NAMES[meaning]:
        if name in there:
            return name
    if meaning == "experience":
        return None
    short = "lr" if meaning == "learning_rate" else meaning
    raise UsageError(f"{path} has no column '{' or '.join(NAMES[meaning])}' (it has: {_listed(there)}); name it with --columns {short}=NAME")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def _number(path: Path, line: int, column: str, value: Any) -> float | None:
    """The number in a field; an empty one, null and NaN say nothing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} line {line}: {column} = {value!r} is not a number") from error
    if math.isinf(number):
        raise UsageError(f"{path} line {line}: {column} = {value!r} is not finite")
    return None if math.isnan(number) else number
