"""`clsuite grid`: run what is missing, then the table with intervals and the verdicts."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

from scipy import stats

from ..experiment.expectations import by_label, judge
from ..experiment.file import Experiment, read
from ..experiment.grid import Outcome
from ..experiment.phases import Chosen, chosen, run_grid, score
from ..experiment.statistics import Estimate, estimate, optimism
from .text import console, table

SECONDS = ("seconds", "deployment_seconds", "evaluation_seconds")
LOWER = ("forgetting", "calibration_error", "mean_steps_to_90")


def grid_command(
    file: Path,
    items: list[str],
    out: Path | None,
    data_root: str | None,
    workers: int | None,
    dry_run: bool,
    markdown: Path | None = None,
    rerun_failed: bool = False,
) -> int:
    """Run an experiment; the exit code (1 when a cell failed)."""
    experiment = read(file, items)
    folder = out or Path("runs") / file.stem
    outcomes = run_grid(experiment, folder, data_root, workers, _say, dry_run, rerun_failed)
    if dry_run:
        for line in _planned(experiment, outcomes):
            print(line)
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
    return 1 if any(not o.ok for o in outcomes if o.phase == "evaluation") else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _planned(experiment: Experiment, outcomes: list[Outcome]) -> list[str]:
    """What a dry run shows: every cell that is known, and what is left to be decided by the tuning."""
    lines = [f"protocol {experiment.protocol}"]
    for o in outcomes:
        trial = "" if o.trial is None else f", trial {o.trial}"
        known = experiment.protocol == "fixed" or "tuning" in o.phase or o.status != "missing"
        state = "finished" if o.ok else o.status if o.status != "missing" else "to run" if known else "to be tuned"
        lines.append(f"{state:12}{o.phase:20}{o.label}{trial}, seed {o.seed}")
    if experiment.protocol != "fixed":
        t = experiment.tuning
        trials, more = (f"up to {len(experiment.labels)} x {n}" for n in (t.trials, min(t.finalists, t.trials)))
        further = f"{more} finalists x {t.finalist_seeds} seeds"
        lines.append(f"tuning: {trials} trials x {t.tuning_seeds} seeds, {further}; evaluation: {len(experiment.labels)} x {len(experiment.seeds)} seeds")
    done = [sum(o.result["cost"][k] for k in SECONDS) for o in outcomes if o.result is not None]
    missing = sum(o.status == "missing" for o in outcomes)
    mean = sum(done) / len(done) if done else math.nan
    estimate_text = f"about {mean * missing / 60:.1f} minutes of one worker, at {mean:.1f} s a cell" if done else "no cell is finished yet to estimate from"
    return [*lines, f"{missing} cells to run: {estimate_text}"]


def summary(experiment: Experiment, outcomes: list[Outcome]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """Title, heads and rows of an experiment's table, best first, and lines of verdicts and failures."""
    final = [o for o in outcomes if o.phase == "evaluation"]
    estimates = {metric: {label: estimate(list(values.values())) for label, values in by_label(final, metric).items()} for metric in experiment.columns}
    shown = [metric for metric in experiment.columns if any(e.n for e in estimates[metric].values())]
    tuned = chosen(experiment, outcomes)
    rows = []
    for label in sorted(experiment.labels, key=lambda name: -_sortable(estimates[experiment.columns[0]][name])):
        done = [o.result for o in final if o.label == label and o.result is not None]
        passes = [r["cost"]["backward_passes"] + r["cost"]["deployment"]["backward_passes"] for r in done]
        cost = f"{sum(passes) / len(passes):,.0f}" if passes else "-"
        tuning = [f"{tuned[label].score:.4f} ({tuned[label].rank})" if label in tuned else "-"] if experiment.spaces else []
        rows.append([label, *(_text(estimates[metric][label]) for metric in shown), *tuning, cost, str(estimates[experiment.columns[0]][label].n)])
    heads = ["strategy", *(m.replace("_", " ") + (" (lower is better)" if m in LOWER else "") for m in shown)]
    heads += (["score in tuning (rank)"] if experiment.spaces else []) + ["backward passes", "n"]
    lines = _chosen_lines(experiment, tuned)
    lines += _optimism_lines(experiment, outcomes)
    for claim in experiment.claims:
        verdict = judge(claim, final)
        d = verdict.difference
        lines.append(f"{verdict.verdict}: {claim}: difference {d.mean:.4f} [{d.low:.4f}, {d.high:.4f}], n = {d.n} paired seeds")
    for o in outcomes:
        if not o.ok:
            trial = "" if o.trial is None else f", trial {o.trial}"
            reason = o.failure or (o.result["reason"] if o.result else "not finished")
            lines.append(f"{'failed' if o.result is None else o.status}: {o.label}{trial}, seed {o.seed}: {reason}")
    leaky = " - LEAKY: settings were chosen by the scores that are shown" if experiment.leaky else ""
    return f"{experiment.path.stem}: mean ± half of the 95 % interval over n seeds{leaky}", heads, rows, lines


def _chosen_lines(experiment: Experiment, tuned: dict[str, Chosen]) -> list[str]:
    """What was chosen for each strategy, and how far the two phases agree on their order."""
    lines = []
    for label, choice in tuned.items():
        values = ", ".join(f"{path}={value}" for path, value in choice.trial.values.items()) or "nothing to search"
        lines.append(f"chosen for {label}: trial {choice.trial.number} of {choice.trials}: {values}")
    ranked = {label: c for label, c in tuned.items() if c.evaluation is not None}
    if len(ranked) > 1:
        tau = stats.kendalltau([c.score for c in ranked.values()], [c.evaluation for c in ranked.values()]).statistic
        lines.append(f"order in tuning and in evaluation: Kendall tau {tau:.2f} over {len(ranked)} strategies, on {experiment.tuning.select_on}")
    return lines


def _optimism_lines(experiment: Experiment, outcomes: list[Outcome]) -> list[str]:
    """What tuning on the evaluation stream itself would have reported, against what frozen settings reach there."""
    metric = experiment.tuning.select_on
    conventional = chosen(experiment, outcomes, "conventional tuning", "conventional")
    lines = []
    for label, choice in conventional.items():
        fresh, frozen = (
            {o.seed: v for o in outcomes if o.label == label and o.phase == phase and (v := score(o, metric)) is not None}
            for phase in ("conventional", "evaluation")
        )
        if fresh and frozen:
            found = optimism(choice.score, fresh, frozen)
            bias, regret = (f"{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}]" for e in (found.selection_bias, found.transfer_regret))
            lines.append(
                f"optimism of {label}: {found.total:+.4f} = selection bias {bias} + transfer regret {regret}, n = {found.transfer_regret.n} "
                f"(tuned on the evaluation stream itself it would report {choice.score:.4f})"
            )
    ranked = [(c.score, e.mean) for label, c in conventional.items() if (e := estimate(list(by_label(outcomes, metric)[label].values()))).n]
    if len(ranked) > 1:
        tau = stats.kendalltau(*zip(*ranked, strict=True)).statistic
        lines.append(f"order when tuned on the evaluation stream and with frozen settings: Kendall tau {tau:.2f} over {len(ranked)} strategies, on {metric}")
    return lines


def _command(file: Path, items: list[str]) -> str:
    return shlex.join(["clsuite", "grid", f"experiments/{file.name}", *items])


def _made_with(outcomes: list[Outcome]) -> str:
    """Versions and machines behind a table, and the time all its cells took together."""
    results = [o.result for o in outcomes if o.result is not None]
    made = sorted({"Python {python}, torch {torch}, {processor}, {threads} thread(s) a cell".format(**r["environment"]) for r in results})
    seconds = sum(r["cost"][k] for r in results for k in SECONDS)
    return "; ".join([*made, f"{seconds / 60:.0f} minutes of computing in all"])


def _sortable(value: Estimate) -> float:
    return -math.inf if math.isnan(value.mean) else value.mean


def _text(value: Estimate) -> str:
    if not value.n:
        return "-"
    digits = 4 if abs(value.mean) < 10 else 1
    return f"{value.mean:.{digits}f}" + ("" if math.isnan(value.low) else f" ± {(value.high - value.low) / 2:.{digits}f}")
