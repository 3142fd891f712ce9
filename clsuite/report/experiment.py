"""`clsuite grid`: run what is missing, then the table with intervals and the verdicts."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

from ..experiment.file import Experiment, read
from ..experiment.grid import Outcome, run_grid
from ..experiment.statistics import Estimate, by_label, estimate, judge
from .text import console, table

LOWER = ("forgetting", "calibration_error", "mean_steps_to_90")


def grid_command(
    file: Path, items: list[str], out: Path | None, data_root: str | None, workers: int | None, dry_run: bool, markdown: Path | None = None
) -> int:
    """Run an experiment; the exit code (1 when a cell failed)."""
    experiment = read(file, items)
    folder = out or Path("runs") / file.stem
    outcomes = run_grid(experiment, folder, data_root, workers, lambda line: print(line, file=sys.stderr, flush=True), dry_run)
    if dry_run:
        for outcome in outcomes:
            print(f"{'finished' if outcome.result else 'to run  '}  {outcome.label}, seed {outcome.seed}")
        return 0
    title, heads, rows, lines = summary(experiment, outcomes)
    shown = console()
    shown.print(table(title, heads, rows, right=range(1, len(heads))))
    for line in lines:
        shown.print(line, soft_wrap=True)
    shown.print(f"folder: {folder} (clsuite results {folder} shows every row)", soft_wrap=True)
    if markdown is not None:
        grid = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
        about = (file.read_text().splitlines() or [""])[0].removeprefix("# ")
        text = [f"# {file.stem}", "", about, "", f"`{_command(file, items)}`; {_made_with(outcomes)}", "", f"{title.partition(': ')[2].capitalize()}.", ""]
        text += [*("| " + " | ".join(row) + " |" for row in grid), "", *(f"- {line}" for line in lines), ""]
        markdown.write_text("\n".join(text))
    return 1 if any(o.result is None or o.result["status"] != "ok" for o in outcomes) else 0


def summary(experiment: Experiment, outcomes: list[Outcome]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """Title, heads and rows of an experiment's table, best first, and lines of verdicts and failures."""
    estimates = {metric: {label: estimate(list(values.values())) for label, values in by_label(outcomes, metric).items()} for metric in experiment.columns}
    shown = [metric for metric in experiment.columns if any(e.n for e in estimates[metric].values())]
    rows = []
    for label in sorted(experiment.labels, key=lambda name: -_sortable(estimates[experiment.columns[0]][name])):
        done = [o.result for o in outcomes if o.label == label and o.result is not None]
        passes = [r["cost"]["backward_passes"] + r["cost"]["deployment"]["backward_passes"] for r in done]
        cost = f"{sum(passes) / len(passes):,.0f}" if passes else "-"
        rows.append([label, *(_text(estimates[metric][label]) for metric in shown), cost, str(estimates[experiment.columns[0]][label].n)])
    heads = ["strategy", *(m.replace("_", " ") + (" (lower is better)" if m in LOWER else "") for m in shown), "backward passes", "n"]
    lines = []
    for claim in experiment.claims:
        verdict = judge(claim, outcomes)
        d = verdict.difference
        lines.append(f"{verdict.verdict}: {claim}: difference {d.mean:.4f} [{d.low:.4f}, {d.high:.4f}], n = {d.n} paired seeds")
    for o in outcomes:
        if o.result is None:
            lines.append(f"failed: {o.label}, seed {o.seed}: {o.failure or 'not finished'}")
        elif o.result["status"] != "ok":
            lines.append(f"{o.result['status']}: {o.label}, seed {o.seed}: {o.result['reason']}")
    return f"{experiment.path.stem}: mean ± half of the 95 % interval over n seeds", heads, rows, lines


def _command(file: Path, items: list[str]) -> str:
    return shlex.join(["clsuite", "grid", f"experiments/{file.name}", *items])


def _made_with(outcomes: list[Outcome]) -> str:
    """Versions and machines behind a table, and the time all its cells took together."""
    results = [o.result for o in outcomes if o.result is not None]
    made = sorted({"Python {python}, torch {torch}, {processor}, {threads} thread(s) a cell".format(**r["environment"]) for r in results})
    seconds = sum(r["cost"][k] for r in results for k in ("seconds", "deployment_seconds", "evaluation_seconds"))
    return "; ".join([*made, f"{seconds / 60:.0f} minutes of computing in all"])


def _sortable(value: Estimate) -> float:
    return -math.inf if math.isnan(value.mean) else value.mean


def _text(value: Estimate) -> str:
    if not value.n:
        return "-"
    digits = 4 if abs(value.mean) < 10 else 1
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(value.low) else f" ± {(value.high - value.low) / 2:.{digits}f}")
