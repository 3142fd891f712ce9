"""What a row of the runs page opens: settings, curves, cost, versions, the reason of a failure, and the command that gives the cell again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..experiment.identity import differs_from_installed
from ..experiment.results import Row
from ..experiment.store import Store
from .colours import Look
from .page import plain
from .reproduction import command
from .study import LOG_LINES
from .text import COST, some
from .watched import measured

POINTS = 120
"""Of a curve."""
SETS = 24
"""Rows and columns of a matrix that are drawn."""
WHOLE = 1 << 18
"""Bytes of a log of metrics up to which it is read whole; of a longer one, lines at evenly spread places."""
LONGEST = 400
"""Characters of a value or a line of a log that are shown."""
LOSS = b'{"event": "loss"'


def details(store: Store, row: Row, names: Sequence[str], result: Mapping[str, Any] | None, look: Look, plugins: bool) -> dict[str, Any]:
    """Title and parts of a cell; `names` are the places it has in the plan, `result` is None where it has none. `plugins`: see `command`."""
    cell = str(row["cell"])
    folder = store.folder(cell)
    spec = result["spec"] if result is not None else _spec(folder)
    parts = [_again(spec, result, plugins), *_failure(store, folder, row), _identity(row, names, result)]
    if result is not None:
        parts += _measured(result)
    if spec is not None:
        parts.append({"heading": "Settings, with every default", "pairs": _pairs(spec)})
    if result is not None:
        parts.append({"heading": "Versions and machine", "pairs": _environment(result)})
    parts += [{"figure": figure} for figure in _figures(folder, result, look)]
    return {"title": names[0] if names else cell, "parts": parts}


def _spec(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "spec.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def _again(spec: Mapping[str, Any] | None, result: Mapping[str, Any] | None, plugins: bool) -> dict[str, Any]:
    heading = "The command that gives this cell again"
    if spec is None:
        return {"heading": heading, "lines": ["It has not begun, so its settings are not written down yet."]}
    try:
        found = command(spec, None if result is None else result["environment"].get("device"), plugins)
    except (KeyError, TypeError, AttributeError) as error:
        return {"heading": heading, "lines": [f"Its specification cannot be read: {type(error).__name__}: {error}"]}
    part = {"heading": heading, "command": found.text}
    return part if found.checked else {**part, "heading": f"{heading} (every setting; not checked: this specification cannot be read here)"}


def _failure(store: Store, folder: Path, row: Row) -> list[dict[str, Any]]:
    if row["status"] in ("ok", "missing"):
        return []
    attempts = store.attempts(folder.name)
    log = [str(line) for line in (attempts[-1].get("log") or [])] if attempts else []
    if not log:
        try:
            log = (folder / "log.txt").read_text(errors="replace").splitlines()
        except OSError:
            log = []
    pairs = [["status", row["status"]], ["reason", row["reason"]], *([["attempts", len(attempts)]] if attempts else [])]
    part: dict[str, Any] = {"heading": "Why it failed", "pairs": pairs}
    return [part, *([{"heading": "End of its log", "lines": [_cut(line) for line in log[-LOG_LINES:]]}] if log else [])]


def _identity(row: Row, names: Sequence[str], result: Mapping[str, Any] | None) -> dict[str, Any]:
    pairs: list[list[Any]] = [["status", row["status"]], ["cell", row["cell"]], ["folder", row["folder"]]]
    pairs += [["in the plan as", "; ".join(names)]] if len(names) > 1 else []
    if result is not None:
        start = result.get("start_from")
        pairs += [["stream", result.get("stream", {}).get("fingerprint")], ["resume", result["resume"]]]
        pairs += [["weights (SHA-256)", result["weights_sha256"]], *([["went on from", start["cell"]]] if start else [])]
    return {"heading": "Which cell", "pairs": pairs}


def _measured(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    metrics = [[name.replace("_", " "), _short(value)] for name, value in result["metrics"].items()]
    cost = [[COST.get(name, name.replace("_", " ")), value] for name, value in flat(result["cost"]).items()]
    reports = _pairs(result.get("reports") or {})
    parts = [{"heading": "Metrics", "pairs": metrics}, {"heading": "Cost", "pairs": cost}]
    return [*parts, *([{"heading": "What its parts say of themselves", "pairs": reports[:40]}] if reports else [])]


def _environment(result: Mapping[str, Any]) -> list[list[Any]]:
    environment = result["environment"]
    pairs = [[name, _short(value)] for name, value in environment.items() if name != "source"]
    pairs += [[f"source of {name}", str(digest)[:16]] for name, digest in environment.get("source", {}).items()]
    other = "other than is installed now" if differs_from_installed(dict(result)) else "as installed now"
    return [*pairs, ["source code", other]]


def _figures(folder: Path, result: Mapping[str, Any] | None, look: Look) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    losses = training_losses(folder / "metrics.jsonl")
    if losses:
        line: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines",
            "x": [s for s, _, _ in losses],
            "y": [v for _, _, v in losses],
            "line": {"color": look.colour},
        }
        borders = [a[0] for a, b in pairwise(losses) if b[1] != a[1]]
        shapes = [{"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": _BORDER} for x in borders[:60]]
        axes: dict[str, Any] = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "training loss"}}}
        title = _title("Training loss; dotted: an experience ends (lower is better)")
        figures.append({"traces": [line], "layout": {**axes, "shapes": shapes, "title": title}})
    found = None if result is None else measured(dict(result))
    if result is None or found is None:
        return figures
    kind, per = found.kind, found.per_experience
    points = [k for k in some(len(found.values), POINTS) if found.values[k] is not None]
    curve: dict[str, Any] = {"type": "scatter", "mode": "lines+markers", "line": {"color": look.colour}, "marker": {"size": 5}}
    curve |= {"x": [round((k + 1) / per, 3) for k in points], "y": [_rounded(found.values[k]) for k in points]}
    said = "Accuracy on what was learned so far (higher is better)" if kind == "accuracy" else "Mean loss on what was learned so far (lower is better)"
    axes = {"xaxis": {"title": {"text": "experiences learned"}}, "yaxis": {"title": {"text": "accuracy" if kind == "accuracy" else "nats per token"}}}
    figures.append({"traces": [curve], "layout": {**axes, "title": _title(said)}})
    matrix, sets = result["matrix"], result["evaluation_sets"]
    if len(matrix) > 1 and len(sets) > 1:
        down, across = some(len(matrix), SETS), some(len(sets), SETS)
        names = [plain(str(sets[j]["name"]))[:40] for j in across]
        z = [[_rounded(matrix[i][j]) for j in across] for i in down]
        limits = {"zmin": 0, "zmax": 1} if kind == "accuracy" else {}
        trace: dict[str, Any] = {
            "type": "heatmap",
            "x": names,
            "y": [f"after {i}" for i in down],
            "z": z,
            "colorscale": "Cividis",
            "hoverongaps": False,
            **limits,
        }
        part = "" if len(down) == len(matrix) and len(across) == len(sets) else f"; {len(down)} of {len(matrix)} rows, {len(across)} of {len(sets)} sets"
        axes = {"xaxis": {"type": "category"}, "yaxis": {"type": "category", "autorange": "reversed"}}
        figures.append({"traces": [trace], "layout": {**axes, "title": _title(f"{kind.capitalize()} on every evaluation set after every experience{part}")}})
    return figures


_BORDER = {"color": "#8a8f98", "width": 1, "dash": "dot"}


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 14}, "x": 0, "xanchor": "left"}


def training_losses(path: Path) -> list[tuple[int, int, float | None]]:
    """At most `POINTS` of the training losses in a log of metrics, evenly spread: step, experience, loss. Of a long log few lines are read."""
    try:
        size = os.stat(path).st_size
        with path.open("rb") as file:
            if size <= WHOLE:
                lines = [line for line in file.read().split(b"\n") if line.startswith(LOSS)]
            else:
                lines = []
                for k in range(POINTS):
                    file.seek(size * k // POINTS)
                    file.readline()  # the rest of a line
                    lines.append(next((line for _ in range(4) if (line := file.readline()).startswith(LOSS)), b""))
    except OSError:
        return []
    found = {}
    for k in some(len(lines), POINTS):
        try:
            event = json.loads(lines[k])
            found[int(event["step"])] = int(event["experience"]), _rounded(event["loss"])
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
    return [(step, *found[step]) for step in sorted(found)]


def _rounded(value: float | None) -> float | None:
    """Five digits: what a picture can show."""
    return None if value is None else float(f"{value:.5g}")


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by path; those of modifiers under their names, as on the command line (`strategy.fpf.steps`)."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "modifiers" and isinstance(value, list):
            for k, modifier in enumerate(value):
                name = str(modifier.get("name"))
                again = sum(m.get("name") == name for m in value[:k])
                own = {key: v for key, v in modifier.items() if key != "name"}
                found |= flat(own, f"{path}{name}{f' {again + 1}' if again else ''}.") if own else {f"{path}{name}": "as it is"}
        elif isinstance(value, Mapping) and value:
            found |= flat(value, f"{path}{key}.")
        else:
            found[path + str(key)] = value
    return found


def _pairs(values: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, _short(value)] for name, value in flat(values).items()]


def _short(value: Any) -> Any:
    """A value as it is; a long list or text cut."""
    if isinstance(value, str):
        return _cut(value)
    return _cut(json.dumps(value, ensure_ascii=False, default=str)) if isinstance(value, (list, dict)) else value


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"
