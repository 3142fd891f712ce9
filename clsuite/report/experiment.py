"""`clsuite grid`: run what is missing, then the table with intervals and the verdicts."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

from ..errors import unknown
from ..experiment.file import Experiment, read
from ..experiment.grid import Outcome
from ..experiment.phases import run_grid
from ..experiment.prefix import computed_seconds
from ..experiment.scores import by_seed, chosen
from ..experiment.statistics import Estimate, estimate, ranks
from ..interop.trackers import Wanted
from ..interop.trackers.beside import tracked
from ..training.metrics import LOWER
from .catalogue import experiments
from .findings import (
    COMPARISON,
    OPTIMISM,
    chosen_lines,
    comparison_rows,
    failure_lines,
    middle_lines,
    optimism_lines,
    optimism_rows,
    passes,
    profile_lines,
    verdict_lines,
)
from .plan import show_plan
from .text import console, table


def grid_command(file: Path, items: list[str], out: Path | None, markdown: Path | None = None, *, tracker: Wanted | None = None, **options: Any) -> int:
    """Run an experiment, a mirror to `tracker` beside it; the exit code (1 when a cell failed). `options` are those of `GridOptions`."""
    file = located(file)
    experiment = read(file, items)
    folder = out or Path("runs") / file.stem
    with tracked(None if options.get("dry_run") else tracker, folder, _say) as mirror:
        outcomes = run_grid(experiment, folder, say=mirror.say, **options)
        if options.get("dry_run"):
            show_plan(experiment, outcomes)
            return 0
        _show(experiment, outcomes, folder)
    if markdown is not None:
        markdown.write_text(_markdown(experiment, outcomes, _command(file, items)))
    return 1 if any(not o.ok for o in outcomes if o.phase == "evaluation") else 0


def _show(experiment: Experiment, outcomes: list[Outcome], folder: Path) -> None:
    title, heads, rows, lines = summary(experiment, outcomes)
    shown = console()
    shown.print(table(title, heads, rows, right=range(1, len(heads))))
    if bias := optimism_rows(experiment, outcomes):
        shown.print(table(f"Optimism in {_words(experiment.tuning.select_on)} on the evaluation stream", OPTIMISM, bias, right=range(1, len(OPTIMISM))))
    for line in lines:
        shown.print(line, soft_wrap=True)
    shown.print(f"folder: {folder} (clsuite results {folder} shows every row)", soft_wrap=True)


def located(file: Path) -> Path:
    """The file, or the one of that name that is installed; raises `UsageError`."""
    if file.exists() or file.suffix or len(file.parts) > 1:
        return file
    installed = {row["name"]: Path(row["path"]) for row in experiments()}
    if str(file) not in installed:
        raise unknown("experiment", file, installed)
    return installed[str(file)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def summary(experiment: Experiment, outcomes: list[Outcome]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """Title, heads and rows of an experiment's table, best first, and the lines below it."""
    final = [o for o in outcomes if o.phase == "evaluation"]
    estimates = {m: {label: estimate(list(by_seed(final, label, m).values())) for label in experiment.labels} for m in experiment.columns}
    shown = [metric for metric in experiment.columns if any(e.n for e in estimates[metric].values())]
    tuned = chosen(experiment, outcomes)
    after = ranks({label: c.evaluation for label, c in tuned.items() if c.evaluation is not None}, experiment.tuning.select_on not in LOWER)
    first = experiment.columns[0]
    rows = []
    for label in sorted(experiment.labels, key=lambda name: _sortable(estimates[first][name], first)):
        done = [o for o in final if o.label == label and o.result is not None]
        cost = f"{sum(map(passes, done)) / len(done):,.0f}" if done else "-"
        tuning = [f"{tuned[label].score:.4f}", f"{tuned[label].rank} / {after.get(label, math.nan):g}"] if label in tuned else ["-", "-"]
        rows.append([label, *(_text(estimates[m][label]) for m in shown), *(tuning if experiment.spaces else []), cost, str(estimates[first][label].n)])
    heads = ["strategy", *(_words(m) + (" (lower is better)" if m in LOWER else "") for m in shown)]
    heads += (["score in tuning", "rank tuning / evaluation"] if experiment.spaces else []) + ["backward passes", "n"]
    lines = [*chosen_lines(experiment, tuned), *optimism_lines(experiment, outcomes), *profile_lines(experiment, final, first)]
    lines += [*verdict_lines(experiment, outcomes), *failure_lines(outcomes)]
    parts = {str(o.result["stream"]["part"]) for o in final if o.result is not None and o.result["stream"].get("part")}
    shorter = f", over {' and '.join(sorted(parts))} only (the stream is shorter)" if parts else ""
    leaky = " - LEAKY: settings were chosen by the scores that are shown" if experiment.protocol.leaky else ""
    return f"{experiment.path.stem}: mean ± half of the 95 % interval over n seeds{shorter}{leaky}", heads, rows, lines


def _markdown(experiment: Experiment, outcomes: list[Outcome], command: str) -> str:
    """The table, every comparison and every line, with what made them."""
    title, heads, rows, lines = summary(experiment, outcomes)
    about = next((line.lstrip("# ") for line in experiment.path.read_text().splitlines() if line.startswith("#")), "")
    text = [f"# {experiment.path.stem}", "", about, "", f"`{command}`; {_made_with(outcomes)}", "", f"{title.partition(': ')[2].capitalize()}.", ""]
    text += [*_grid(heads, rows), "", *(f"- {line}" for line in lines), ""]
    if bias := optimism_rows(experiment, outcomes):
        text += [f"Optimism in {_words(experiment.tuning.select_on)} on the evaluation stream.", "", *_grid(list(OPTIMISM), bias), ""]
    metric = experiment.columns[0]
    if pairs := comparison_rows(experiment, outcomes, metric):
        text += [f"Differences in {_words(metric)}, paired by seed.", "", *_grid(list(COMPARISON), pairs), ""]
        text += [*(f"- {line}" for line in middle_lines(experiment, outcomes, metric)), ""]
    return "\n".join(text).rstrip("\n") + "\n"


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _grid(heads: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]]


def _command(file: Path, items: list[str]) -> str:
    return shlex.join(["clsuite", "grid", f"experiments/{file.name}", *items])


def _made_with(outcomes: list[Outcome]) -> str:
    """Versions and machines behind a table, and the time all its cells took together."""
    results = [o.result for o in outcomes if o.result is not None]
    made = sorted({"Python {python}, torch {torch}, {processor}, {threads} thread(s) a cell".format(**r["environment"]) for r in results})
    seconds, saved = computed_seconds(results)
    sharing = f" ({saved / 60:.0f} more without what cells shared)" if saved >= 30 else ""
    return "; ".join([*made, f"{seconds / 60:.0f} minutes of computing in all{sharing}"])


def _sortable(value: Estimate, metric: str) -> float:
    return math.inf if math.isnan(value.mean) else value.mean if metric in LOWER else -value.mean


def _text(value: Estimate) -> str:
    if not value.n:
        return "-"
    digits = 4 if abs(value.mean) < 10 else 1
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(value.low) else f" ± {(value.high - value.low) / 2:.{digits}f}")
