"""An experiment from its first trial to its last evaluation cell: tune, freeze, evaluate.

The tuning phase sees the tuning data alone, the evaluation phase runs what was chosen unchanged. Under `conventional` the trials
run on the evaluation stream itself, which is what most published tables do: theirs are leaky, and say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..scenario import Phase
from . import selection
from .check import check_strategies
from .file import Experiment, PlannedCell
from .grid import Grid, GridOptions, Outcome
from .partition import check_data, fingerprints, with_split
from .references import refer
from .scores import score
from .tuning import Trial, drawn, finalists, winner, with_values


def run_grid(experiment: Experiment, out: Path, **options: Any) -> list[Outcome]:
    """Run what is missing and return the outcomes of all phases; `options` are those of `GridOptions`.

    Raises `UsageError` before anything is written.
    """
    way = GridOptions(**options)
    if experiment.protocol.separate:
        experiment = with_split(experiment, way.data_root)
    with Grid(experiment, out, way) as grid:
        if experiment.protocol.separate:
            check_data(experiment, way.data_root)
        check_strategies(experiment, way.data_root, experiment.seeds)
        selection.read(out)
        if not way.dry_run:
            grid.begin()
        outcomes = _phases(grid)
    refer(outcomes, experiment.references)
    return outcomes


def _phases(grid: Grid) -> list[Outcome]:
    experiment, dry_run = grid.experiment, grid.options.dry_run
    if not experiment.protocol.tunes:
        return grid.run(experiment.cells, "evaluation")
    tuned = _Tuning(grid, "tuning", "evaluation" if experiment.protocol.leaky else "tuning")
    outcomes = tuned.run()
    if tuned.finished and not dry_run:
        _freeze(grid, tuned.trials)
    outcomes += _evaluated(grid, tuned, "evaluation")
    if experiment.tuning.optimism:
        other = _Tuning(grid, "conventional tuning", "evaluation")
        outcomes += other.run()
        outcomes += _evaluated(grid, other, "conventional")
    return outcomes


def _freeze(grid: Grid, trials: dict[str, list[Trial]]) -> None:
    """Seal what the trials give; refused when the folder holds another choice."""
    experiment, out = grid.experiment, grid.store.out
    fingerprint = fingerprints(experiment, grid.options.data_root)
    entries = {label: selection.entry(experiment.tuning, experiment.spaces[label], fingerprint[label], done) for label, done in trials.items()}
    selection.check(out, entries)
    selection.write(out, {**selection.read(out), **entries})
    for label, entry in entries.items():
        if entry["status"] != "complete":
            grid.options.say(f"warning: the selection of {label} is {entry['status']}: {'; '.join(entry['not_completed']) or 'every trial failed'}")


def _evaluated(grid: Grid, tuned: _Tuning, phase: str) -> list[Outcome]:
    experiment = grid.experiment
    chosen = {label: winner(experiment.tuning, trials) for label, trials in tuned.trials.items()} if tuned.finished else {}
    planned = [
        PlannedCell(label, seed, {**with_values(experiment.strategies[label], trial.values), "seed": seed}, phase)
        for label, trial in chosen.items()
        if trial is not None
        for seed in experiment.seeds
    ]
    outcomes = grid.run(planned, phase) if planned else []
    there = {o.label for o in outcomes}
    reason = "not tuned yet" if not chosen else "every trial failed"
    return outcomes + [Outcome(label, seed, None, reason, phase) for label in experiment.labels if label not in there for seed in experiment.seeds]


class _Tuning:
    """The trials of all strategies and their scores, drawn and run until there are no more."""

    def __init__(self, grid: Grid, name: str, stream: Phase) -> None:
        self._experiment, self._grid = grid.experiment, grid
        self._name, self._stream = name, stream
        self._outcomes: dict[tuple[str, int | None, int], Outcome] = {}
        self.trials: dict[str, list[Trial]] = {label: [] for label in grid.experiment.labels}
        self.finished = False

    def run(self) -> list[Outcome]:
        """All outcomes of the tuning phase; `finished` says whether a choice can be made."""
        tuning = self._experiment.tuning
        while True:
            drawn_now = {label: drawn(tuning, self._experiment.spaces[label], self.trials[label]) for label in self.trials}
            grown = any(len(found) > len(self.trials[label]) for label, found in drawn_now.items())
            if not grown:
                break
            self._wave({label: (found, tuning.first_seeds) for label, found in drawn_now.items()}, self._name)
            if self._grid.options.dry_run and not self._complete(tuning.first_seeds):
                return list(self._outcomes.values())
        best = {label: finalists(tuning, found) for label, found in self.trials.items() if len(found) > 1}
        if any(best.values()) and tuning.further_seeds:
            self._wave({label: (found, tuning.further_seeds) for label, found in best.items()}, f"{self._name}, the finalists on further seeds")
        self.finished = all(t.complete(tuning.further_seeds) for found in best.values() for t in found)
        return list(self._outcomes.values())

    def _complete(self, seeds: list[int]) -> bool:
        return all(t.complete(seeds) for found in self.trials.values() for t in found)

    def _wave(self, wanted: dict[str, tuple[list[Trial], list[int]]], name: str) -> None:
        planned = []
        for label, (found, seeds) in wanted.items():
            known = {t.number: t for t in self.trials[label]}
            self.trials[label] = [known.get(t.number, t) for t in found] if len(found) >= len(known) else self.trials[label]
            held_out = self._experiment.tuning.validation
            for trial in found:
                raw = {**with_values(self._experiment.strategies[label], trial.values), "phase": self._stream}
                if held_out is not None:
                    raw["protocol"] = {**raw.get("protocol", {}), "held_out": held_out}
                planned += [PlannedCell(label, seed, {**raw, "seed": seed}, self._name, trial.number) for seed in seeds]
        for outcome in self._grid.run(planned, name):
            self._outcomes[outcome.label, outcome.trial, outcome.seed] = outcome
            trial = next(t for t in self.trials[outcome.label] if t.number == outcome.trial)
            if outcome.status != "missing":
                trial.statuses[outcome.seed] = outcome.status
                trial.scores[outcome.seed] = score(outcome, self._experiment.tuning.select_on)
