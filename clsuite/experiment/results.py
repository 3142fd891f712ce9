"""Reading cells back: flat rows, one a cell of the plan or of the folder, and groups of rows that differ in the seed alone."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ResultWarning, UsageError
from .store import Store, row_key

Row = dict[str, Any]


def rows(folder: str | Path) -> list[Row]:
    """One flat row a cell of `folder`, ordered by scenario, data, model, strategy, phase, trial and seed.

    Identity first (`cell, status, reason, scenario, dataset, model, strategy, phase, trial, seed`), then metrics and cost by their
    names, then every setting by its path (`training.epochs`). A grid has a row for each planned cell, finished or not (`superseded`:
    the strategy was tuned anew since); a folder of single runs one for each finished cell. Raises `UsageError` when there is none.
    """
    folder = Path(folder)
    found = _planned(folder) if (folder / "plan.jsonl").exists() else _finished(folder)
    if not found:
        raise UsageError(f"'{folder}' holds no cell (looked for {folder}/plan.jsonl and {folder}/cells/*/*/result.json)")
    return sorted(found, key=lambda r: (*(str(r[k]) for k in ("scenario", "dataset", "model", "strategy", "phase")), r["trial"] or 0, r["seed"], r["cell"]))


def _planned(folder: Path) -> list[Row]:
    store = Store.of(folder)
    old = store.superseded()
    found = []
    for planned in store.plan():
        place = store.folder(planned["cell"])
        state = store.state(planned["cell"])
        result = _read(place / "result.json")
        spec = result["spec"] if result else _read(place / "spec.json") or {}
        labels = {"strategy": planned["label"], "phase": planned["phase"], "trial": planned["trial"], "seed": planned["seed"]}
        row = _identity(planned["cell"], state.status, state.reason, spec) | labels | {"superseded": row_key(planned) in old}
        found.append(_complete(row, result, spec, place))
    return found


def _finished(folder: Path) -> list[Row]:
    found = []
    for path in folder.glob("cells/*/*/result.json"):
        result = _read(path)
        if result is not None:
            row = _identity(result["cell"], result["status"], result["reason"], result["spec"])
            found.append(_complete(row | {"strategy": result["strategy"], "trial": None}, result, result["spec"], path.parent))
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if path.name == "result.json":
            found["cell"], found["spec"]["scenario"]["name"], found["metrics"], found["cost"], found["status"], found["reason"], found["strategy"]
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"'{path}' is left out: {type(error).__name__}: {error}", ResultWarning, stacklevel=2)
        return None


def _identity(cell: str, status: str, reason: str | None, spec: dict[str, Any]) -> Row:
    scenario, model = spec.get("scenario", {}), spec.get("model", {})
    names = {
        "scenario": scenario.get("name"),
        "dataset": scenario.get("dataset") or scenario.get("benchmark") or " -> ".join(scenario.get("corpora") or []) or scenario.get("shift"),
        "model": model.get("name"),
        "strategy": None,
    }
    return {"cell": cell, "status": status, "reason": reason, **names, "phase": spec.get("phase"), "trial": None, "seed": spec.get("seed")}


def _complete(row: Row, result: dict[str, Any] | None, spec: dict[str, Any], folder: Path) -> Row:
    settings = {k: v for k, v in _flat(spec).items() if k not in ("phase", "seed")}
    measured = {} if result is None else {**result["metrics"], **_flat(result["cost"])}
    return {**row, **measured, **settings, "folder": str(folder)}


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

    `differs` names the settings in which the groups differ. Cells without a good result are counted (`failed`), not averaged;
    superseded ones are left out.
    """
    by_key: dict[str, list[Row]] = {}
    for row in found:
        if row.get("superseded"):
            continue
        by_key.setdefault(json.dumps([row["phase"], row["strategy"], _settings(row)], sort_keys=True), []).append(row)
    firsts = [members[0] for members in by_key.values()]
    names = [n for n in columns(map(_settings, firsts)) if not n.endswith(".name") and n != "scenario.dataset"]
    varying = [n for n in [*names, "phase"] if len({json.dumps(r.get(n)) for r in firsts if n in r}) > 1]
    result = []
    for members in by_key.values():
        first, good = members[0], [m for m in members if m["status"] == "ok"]
        differs = ", ".join(f"{n}={json.dumps(first[n]).strip(chr(34))}" for n in varying if n in first)
        texts = {m: _spread([r[m] for r in good if r.get(m) is not None]) for m in metrics}
        identity = {k: first[k] for k in ("scenario", "dataset", "model", "strategy", "phase")}
        result.append({**identity, "differs": differs, **texts, "n": len(good), "failed": len(members) - len(good)})
    return result


def _settings(row: Row) -> Row:
    return {k: v for k, v in row.items() if k.partition(".")[0] in ("scenario", "model", "strategy", "training", "evaluation", "protocol") and "." in k}


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f"± {statistics.stdev(values):.4f}" if len(values) > 1 else "(n = 1)"
    return f"{statistics.fmean(values):.4f} {spread}"
