"""Reading finished cells back: `DIR/cells/*/*/result.json` as flat rows, and groups of rows that differ in the seed alone."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UsageError

Row = dict[str, Any]


class ResultWarning(UserWarning):
    """A stored result that was made by other source code, that cannot be read, and the like."""


def rows(folder: str | Path) -> list[Row]:
    """One flat row a finished cell below `folder`, ordered by scenario, data, model, strategy and seed.

    Identity first (`cell, status, scenario, dataset, model, strategy, phase, seed`), then metrics and cost by their
    names, then every setting by its path (`training.epochs`). Raises `UsageError` when there is no finished cell.
    """
    folder = Path(folder)
    found = []
    for path in folder.glob("cells/*/*/result.json"):
        try:
            found.append(_row(json.loads(path.read_text()), path.parent))
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"result '{path}' is left out: {type(error).__name__}: {error}", ResultWarning, stacklevel=2)
    if not found:
        raise UsageError(f"'{folder}' holds no finished cell (looked for {folder}/cells/*/*/result.json)")
    return sorted(found, key=lambda r: (*(str(r[k]) for k in ("scenario", "dataset", "model", "strategy", "phase")), r["seed"], r["cell"]))


def _row(result: dict[str, Any], folder: Path) -> Row:
    spec = result["spec"]
    identity = {
        "cell": result["cell"],
        "status": result["status"],
        "reason": result["reason"],
        "scenario": spec["scenario"]["name"],
        "dataset": spec["scenario"]["dataset"],
        "model": spec["model"]["name"],
        "strategy": result["strategy"],
        "phase": spec["phase"],
        "seed": spec["seed"],
    }
    settings = {k: v for k, v in _flat(spec).items() if k not in ("phase", "seed")}
    return {**identity, **result["metrics"], **_flat(result["cost"]), **settings, "folder": str(folder)}


def _flat(values: dict[str, Any], path: str = "") -> Row:
    flat: Row = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{path}{key}."))
        elif key == "modifiers":
            for k, modifier in enumerate(value):
                flat.update(_flat(modifier, f"{path}modifiers.{k}."))
        else:
            flat[path + key] = value
    return flat


def columns(found: Iterable[Row]) -> list[str]:
    """All column names, in order of appearance."""
    return list(dict.fromkeys(name for row in found for name in row))


def groups(found: list[Row], metrics: Iterable[str]) -> list[Row]:
    """Rows that share everything but the seed, as one row with `mean ± standard deviation` texts and `n`.

    `differs` names the settings in which the groups differ. Failed cells are counted (`failed`), not averaged.
    """
    by_key: dict[str, list[Row]] = {}
    for row in found:
        by_key.setdefault(json.dumps([row["phase"], row["strategy"], _settings(row)], sort_keys=True), []).append(row)
    firsts = [members[0] for members in by_key.values()]
    names = [n for n in columns(map(_settings, firsts)) if not n.endswith(".name") and n != "scenario.dataset"]
    varying = [n for n in [*names, "phase"] if len({json.dumps(r.get(n)) for r in firsts if n in r}) > 1]
    result = []
    for members in by_key.values():
        first, good = members[0], [m for m in members if m["status"] == "ok"]
        differs = ", ".join(f"{n}={json.dumps(first[n]).strip(chr(34))}" for n in varying if n in first)
        texts = {m: _spread([r[m] for r in good if r.get(m) is not None]) for m in metrics}
        identity = {k: first[k] for k in ("scenario", "dataset", "model", "strategy")}
        result.append({**identity, "differs": differs, **texts, "n": len(good), "failed": len(members) - len(good)})
    return result


def _settings(row: Row) -> Row:
    return {k: v for k, v in row.items() if k.partition(".")[0] in ("scenario", "model", "strategy", "training", "evaluation", "protocol") and "." in k}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f"± {statistics.stdev(values):.4f}" if len(values) > 1 else "(n = 1)"
    return f"{statistics.fmean(values):.4f} {spread}"
