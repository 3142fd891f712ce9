"""Tables for a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table, box

from ..experiment.folder import plain

METRICS = {
    "final_loss": ("lower", "nats per token at the end, mean over corpora"),
    "final_bits_per_byte": ("lower", "the same in bits per byte of text, comparable across tokenizers"),
    "final_perplexity": ("lower", "exp of the final loss"),
    "loss_first_corpus": ("lower", "final loss on the corpus that was learned first"),
    "loss_last_corpus": ("lower", "final loss on the corpus that was learned last"),
    "downstream_area": ("lower", "mean loss on the last corpus while it is learned"),
    "bump": ("lower", "highest rise of the loss on earlier corpora right after the last border"),
    "bump_step": ("lower", "steps after the border at which it is highest"),
    "recovery_step": ("lower", "steps after which that loss is back at its value at the border"),
    "tokens_per_second": ("higher", "tokens trained on in a second"),
    "model_flop_utilisation": ("higher", "share of the device's peak that the model's own operations come to"),
    "final_accuracy": ("higher", "accuracy on everything learned, after the last experience"),
    "average_incremental_accuracy": ("higher", "mean over experiences of the accuracy on what was learned by then"),
    "final_task_mean_accuracy": ("higher", "mean over evaluation sets after the last experience"),
    "task_incremental_accuracy": ("higher", "the same when the task is known: outputs of other tasks are masked"),
    "plasticity": ("higher", "accuracy on a set right after it was learned"),
    "backward_transfer": ("higher", "change on earlier sets since they were learned"),
    "forgetting": ("lower", "what earlier tasks lost since they were learned: accuracy, or nats per token"),
    "forward_transfer": ("higher", "accuracy on a set just before it is learned, above that of the initial weights"),
    "calibration_error": ("lower", "gap between confidence and accuracy (15 bins)"),
}
COST = {
    "gradient_steps": "gradient steps",
    "forward_passes": "forward passes (samples)",
    "backward_passes": "backward passes (samples)",
    "feature_passes": "feature passes (samples)",
    "parameters": "parameters",
    "buffer_bytes": "memory (bytes)",
    "peak_memory_mb": "peak memory of the process (MB)",
    "peak_device_memory_mb": "peak device memory (MB)",
    "seconds": "training (s)",
    "deployment_seconds": "deployment (s)",
    "evaluation_seconds": "evaluation (s)",
}
SHOWN = 12
"""Rows and columns of a matrix that are shown."""


def console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False)


def emit(document: Any) -> None:
    """One JSON document on standard output; values JSON has no word for become null or text."""
    print(json.dumps(plain(document)), flush=True)


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> Table:
    """A table; `right` are the columns of numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for k, name in enumerate(columns):
        made.add_column(name, justify="right" if k in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*("" if v is None else str(v) for v in row))
    return made


def number(value: Any, digits: int = 4) -> str:
    """A number as people read it."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def some(count: int, most: int = SHOWN) -> list[int]:
    """At most `most` of 0..count-1, evenly spread, first and last among them."""
    return list(range(count)) if count <= most else sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def show_run(result: dict[str, Any], folder: Path, command: str, stored: bool) -> None:
    """A result for reading: metrics, matrix, cost, where it is, how to get it again."""
    out, spec = console(), result["spec"]
    data = spec["scenario"].get("dataset") or spec["scenario"].get("benchmark") or " -> ".join(e["name"] for e in result["evaluation_sets"])
    where = f"{spec['scenario']['name']} of {data}, {spec['model']['name']}"
    out.print(f"{result['strategy']} on {where}, seed {spec['seed']}", style="bold")
    reason = f" ({result['reason']})" if result["reason"] else ""
    out.print(f"status: {result['status']}{reason}" + ("; stored, --rerun computes it again" if stored else ""))
    metrics = result["metrics"]
    rows = [(name.replace("_", " "), _with_error(metrics, name), *METRICS[name]) for name in METRICS if metrics.get(name) is not None]
    out.print(table("Metrics of this one run", ("metric", "value", "better", "meaning"), rows, right=(1,)))
    sets = result["evaluation_sets"]
    measured = f"{sum(e['samples'] for e in sets):,} test {'windows of text' if _is_text(result) else 'samples'} in {len(sets)} evaluation sets"
    out.print(f"n = 1 seed, so no spread over seeds; measured on {measured}")
    _show_matrix(out, result)
    cost = result["cost"]
    out.print(table("Cost", ("what", "amount"), [(label, number(cost[key], 2)) for key, label in COST.items() if cost.get(key) is not None], right=(1,)))
    deployed = {k: v for k, v in cost.get("deployment", {}).items() if v}
    if deployed:
        out.print("of deployment alone: " + ", ".join(f"{COST.get(k, k)} {v:,}" for k, v in deployed.items()))
    for name, report in result["reports"].items():
        _show_report(out, name, report)
    out.print(f"folder:  {folder}", soft_wrap=True)
    out.print(f"again:   {command}", soft_wrap=True)


def _is_text(result: dict[str, Any]) -> bool:
    return "final_loss" in result["metrics"]


def _with_error(metrics: dict[str, Any], name: str) -> str:
    """A metric with its standard error over validation windows; a rise that does not stand above twice of it says so."""
    value, error = metrics[name], metrics.get(f"{name}_error")
    if error is None:
        return number(value)
    return f"{number(value)} ± {number(error)}" + (" (noise)" if abs(value) < 2 * error else "")


def _show_report(out: Console, name: str, report: dict[str, Any]) -> None:
    """What a part says of itself: plain values in a line, mappings as a table."""
    tables = {key: value for key, value in report.items() if isinstance(value, dict) and value}
    plain = ", ".join(f"{key} {value if not isinstance(value, float) else number(value)}" for key, value in report.items() if key not in tables)
    out.print(f"{name}: {plain}" if plain else f"{name}:", soft_wrap=True)
    keys = list(dict.fromkeys(k for values in tables.values() for k in values))
    if tables:
        rows = [(key, *(number(values.get(key)) for values in tables.values())) for key in keys]
        out.print(table(None, ("", *tables), rows, right=range(1, len(tables) + 1)))


def _show_matrix(out: Console, result: dict[str, Any]) -> None:
    matrix = result["matrix"]
    measured = [i for i, row in enumerate(matrix) if any(v is not None for v in row)]
    if not measured:
        return
    shown, columns = [measured[k] for k in some(len(measured))], some(len(matrix[0]))
    rows = [(f"after {i}", *(number(matrix[i][j], 3) for j in columns)) for i in shown]
    whole = len(shown) == len(measured) and len(columns) == len(matrix[0])
    left_out = "" if whole else f" ({len(shown)} of {len(measured)} rows, {len(columns)} of {len(matrix[0])} columns)"
    heads = [result["evaluation_sets"][j]["name"] for j in columns]
    what = "Loss (nats per token)" if _is_text(result) else "Accuracy"
    out.print(f"{what} on each evaluation set after each experience{left_out}", style="bold")
    out.print(table(None, ("", *heads), rows, right=range(1, len(heads) + 1)))


def results_command(folder: Path, form: str) -> None:
    """`clsuite results`: all rows as JSON or CSV, or groups with mean and spread."""
    from ..experiment.results import columns, groups, rows
    from ..experiment.store import SHARED_START

    found = rows(folder)
    if form == "json":
        return emit(found)
    if form == "csv":
        import csv

        writer = csv.DictWriter(sys.stdout, columns(found), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()} for row in found)
        return None
    out = console()
    final = [row for row in found if row["trial"] is None and row["phase"] != SHARED_START]
    images = ("final_accuracy", "average_incremental_accuracy", "backward_transfer")
    text = ("final_loss", "final_bits_per_byte", "bump")
    shown = (*(m for m in (*images, *text) if any(row.get(m) is not None for row in final)), "forgetting", "seconds")
    phases = len({row["phase"] for row in final}) > 1
    identity = ("scenario", "dataset", "model", "strategy", *(("phase",) if phases else ()), "differs")
    lines = [(*(g[k] for k in (*identity, *shown)), f"{g['n']}" + (f" (+{g['failed']} without a result)" if g["failed"] else "")) for g in groups(final, shown)]
    heads = (*identity[:-1], "settings that differ", *(m.replace("_", " ") for m in shown), "n")
    trials = len(found) - len(final)
    out.print(table(f"{len(final)} cells below {folder}", heads, lines, right=range(len(identity), len(heads))))
    out.print("mean ± standard deviation over n seeds; accuracies: higher is better; losses, bump, forgetting and seconds: lower")
    if trials:
        out.print(f"{trials} cells of the search and shared starts are not shown (--csv and --json have a row for each)")
    return None
