"""A schedule written out, as a list or in a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..errors import UsageError, nearest
from ..schedule import Schedule, refused
from ..settings import setting


class Listed(Schedule):
    """Base of schedules made from a list of numbers that is given as it is or in a file.

    A file is read once and its numbers take its place, so that a specification holds what was trained with, wherever the file lay.
    """

    numbers: ClassVar[str]
    """The setting that holds the list."""

    file: str | None = setting(None, help="a .csv or .json file with the numbers, looked for where the command runs")
    column: str | None = setting(None, help="which column of a .csv file, or which key of a .json file")

    @classmethod
    def validated(cls, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        result = super().validated(values, where)
        file, column, name = result["file"], result["column"], cls.numbers
        path = f"{where}." if where else ""
        if file is None:
            if column is not None:
                raise UsageError(f"{path}column = {column!r} is not valid: there is no {path}file it could be of")
            return result
        if result[name] is not None:
            raise UsageError(f"{path}file = {file!r} is not valid: {path}{name} is given too; give one of them")
        found = read_numbers(file, column, f"{path}file = {file!r}")
        if not cls.declared()[name].admits(found):
            raise UsageError(f"{path}file = {file!r} holds a number that is out of bounds: expected finite values {cls.declared()[name].bounds()}")
        return {**result, name: found, "file": None, "column": None}

    def listed(self) -> list[float]:
        """The numbers; raises `UsageError` when there are none."""
        found: list[float] | None = getattr(self, self.numbers)
        if not found:
            raise refused(self.numbers, found, "expected a list of numbers, or a file that holds them")
        return found

    @property
    def own_horizon(self) -> int | None:
        found: list[float] | None = getattr(self, self.numbers)
        return len(found) if found else None

    def check(self, horizon: int) -> None:
        self.listed()
        super().check(horizon)
        if self.warmup:
            raise refused("warmup", self.warmup, f"{self.numbers} say the rate of every update, the first ones too: expected 0")


class Table(Listed):
    """Any list of factors: update n uses the n-th, as a share of the peak.

    At least as many factors as updates; one more is the value after the last update, else that is the last factor.
    `clsuite show schedule NAME --json` writes a file that can be read here with `column: rates`, when its learning rate is 1.
    """

    numbers = "factors"
    factors: list[float] | None = setting(None, ge=0, help="shares of the peak, one an update")

    def factor(self, step: int, horizon: int) -> float:
        found = self.listed()
        return found[min(step, horizon, len(found) - 1)]

    def check(self, horizon: int) -> None:
        super().check(horizon)
        if len(self.listed()) < horizon:
            raise UsageError(f"training.schedule.factors has {len(self.listed())} entries: expected at least the {horizon} steps of the horizon")


def read_numbers(file: str, column: str | None, what: str) -> list[float]:
    """The numbers of a .csv file (a header is optional) or a .json file (a list, or lists by key); raises `UsageError` naming `what`."""
    path = Path(file)
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{what} is not valid: expected a file that ends in .csv or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{what} cannot be read (looked in {Path.cwd()}): {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{what} is not text in UTF-8") from error
    cells = _from_csv(text, column, what) if path.suffix == ".csv" else _from_json(text, column, what)
    found = []
    for place, cell in cells:
        number = _number(cell)
        if number is None:
            raise UsageError(f"{what}, {place}: {cell!r} is not a finite number")
        found.append(number)
    if not found:
        raise UsageError(f"{what} holds no numbers")
    return found


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _from_csv(text: str, column: str | None, what: str) -> list[tuple[str, Any]]:
    try:
        rows = [(f"line {line}", row) for line, row in enumerate(csv.reader(text.splitlines()), 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"{what} is not valid CSV: {error}") from error
    names = [cell.strip() for cell in rows[0][1]] if rows else []
    header = any(_number(name) is None for name in names)
    if column is not None and not (header and column in names):
        valid = ", ".join(names) if header else "the file has no header"
        raise UsageError(f"{what} has no column '{column}'{nearest(column, names) if header else ''} (valid: {valid})")
    if column is None and len(names) > 1:
        raise UsageError(f"{what} has {len(names)} columns: name one of them as column" + (f" (valid: {', '.join(names)})" if header else ""))
    index = 0 if column is None else names.index(column)
    return [(place, row[index].strip() if index < len(row) else "") for place, row in rows[int(header) :]]


def _from_json(text: str, column: str | None, what: str) -> list[tuple[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not valid JSON: {str(error).splitlines()[0]}") from error
    if column is not None:
        keys = list(found) if isinstance(found, dict) else []
        if column not in keys:
            raise UsageError(f"{what} has no key '{column}'{nearest(column, keys)} (valid: {', '.join(keys) or 'none, it is no object'})")
        found = found[column]
    if not isinstance(found, list):
        raise UsageError(f"{what} is not valid: expected a list of numbers" + ("" if column else ", or column to name the key that holds one"))
    return [(f"entry {k}", value) for k, value in enumerate(found)]
