"""What a dry run shows: phases, trials, cells and what they will cost, as far as that is known before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..experiment.file import Experiment
from ..experiment.folder import seconds_of
from ..experiment.grid import Outcome
from ..experiment.status import expected_cells, tuned_trials
from .progress import clock
from .text import console, table


def show_plan(experiment: Experiment, outcomes: list[Outcome]) -> None:
    """Print the cells by phase and strategy, and an estimate of what is left to run."""
    out = console()
    rows = []
    for (phase, label), group in itertools.groupby(outcomes, key=lambda o: (o.phase, o.label)):
        cells = list(group)
        trials = {o.trial for o in cells} - {None}
        known = all(o.samples is not None for o in cells)
        missing = sum(o.status == "missing" for o in cells)
        seeds = _span(sorted({o.seed for o in cells}))
        samples = sum(o.samples or 0 for o in cells if o.status == "missing")
        rows.append([phase, label, len(trials) or "-", seeds, len(cells), missing, f"{samples:,}" if known else "as tuned"])
    heads = ("phase", "strategy", "trials", "seeds", "cells", "to run", "training samples")
    out.print(table(f"{experiment.path.stem}: protocol {experiment.protocol.name}", heads, rows, right=(2, 4, 5, 6)))
    if experiment.protocol.tunes:
        t, counts = experiment.tuning, [tuned_trials(experiment, label) for label in experiment.labels]
        more = sum(min(t.finalists, n) for n in counts if n > 1)
        ways = f"tuning by {t.sampler} (seed {t.sampler_seed}): {sum(counts)} trials x {t.tuning_seeds} seeds"
        again = "; the same again on the evaluation stream, to measure optimism" if t.optimism else ""
        out.print(f"{ways}, then {more} finalists x {t.finalist_seeds} more seeds{again}", soft_wrap=True)
    out.print(_estimate(experiment, outcomes), soft_wrap=True)


def _estimate(experiment: Experiment, outcomes: list[Outcome]) -> str:
    """Cells and training samples left, and the time they take by the finished ones, strategy by strategy."""
    done = [o for o in outcomes if o.result is not None]
    left = max(expected_cells(experiment), len(outcomes)) - sum(o.status != "missing" for o in outcomes)
    known = [o.samples for o in outcomes if o.samples is not None]
    samples = left * sum(known) / len(known) if known else 0
    text = f"{left:,} cells to run, about {samples:,.0f} training samples without what strategies replay"
    if not done:
        return f"{text}; no cell is finished yet to tell the time by"
    seconds = {label: [seconds_of(o.result) for o in done if o.result and o.label == label] for label in experiment.labels}
    means = [sum(v) / len(v) for v in seconds.values() if v]
    mean = sum(means) / len(means)
    return f"{text}; about {clock(left * mean)} of one worker, at {mean:.1f} s a cell ({len(done):,} finished)"


def _span(seeds: Sequence[int]) -> str:
    """`0-4`, or the seeds one by one."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
