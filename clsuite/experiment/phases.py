"""An experiment from its first trial to its last evaluation cell: tune, freeze, evaluate.

The tuning phase sees the tuning data alone, the evaluation phase runs what was chosen unchanged. Under `conventional` the trials
run on the evaluation stream itself, which is what most published tables do: theirs are leaky, and say so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..scenario import Phase, Scenario, Split
from ..stream import Stream
from ..training.metrics import DERIVED, derived
from . import selection
from .file import Experiment, PlannedCell, resolved
from .grid import Grid, Outcome
from .overlap import check_disjoint
from .samplers import trials as sampled
from .tuning import Trial, drawn, finalists, winner, with_values

CLASSES_TO_HALVE = 4
"""Classes an experience must have for the classes to be divided between the phases; with fewer the samples are."""


def run_grid(
    experiment: Experiment,
    out: Path,
    data_root: str | None = None,
    workers: int | None = None,
    notify: Callable[[str], None] | None = None,
    dry_run: bool = False,
    rerun_failed: bool = False,
) -> list[Outcome]:
    """Run what is missing and return the outcomes of all phases; raises `UsageError` before anything is written."""
    say = notify or (lambda line: None)
    if experiment.protocol == "two-phase":
        experiment = _with_split(experiment, data_root)
    with Grid(experiment, out, data_root, workers, say, dry_run) as grid:
        if experiment.protocol == "two-phase":
            _check_data(experiment, data_root)
        selection.read(out)
        if not dry_run:
            grid.begin()
        return _phases(experiment, grid, out, data_root, say, dry_run, rerun_failed)


def _phases(
    experiment: Experiment, grid: Grid, out: Path, data_root: str | None, say: Callable[[str], None], dry_run: bool, rerun_failed: bool
) -> list[Outcome]:
    again = grid.forgive if rerun_failed and not dry_run else (lambda cells: None)
    if experiment.protocol == "fixed":
        again(experiment.cells)
        return grid.run(experiment.cells, "evaluation")
    tuned = _Tuning(experiment, grid, again, "tuning", "evaluation" if experiment.leaky else "tuning")
    outcomes = tuned.run(dry_run)
    if tuned.finished and not dry_run:
        fingerprint = _fingerprint(experiment, data_root)
        entries = {label: selection.entry(experiment.tuning, experiment.spaces[label], fingerprint[label], trials) for label, trials in tuned.trials.items()}
        selection.check(out, entries)
        selection.write(out, {**selection.read(out), **entries})
        for label, entry in entries.items():
            if entry["status"] != "complete":
                say(f"warning: the selection of {label} is {entry['status']}: {'; '.join(entry['not_completed']) or 'every trial failed'}")
    outcomes += _evaluated(experiment, grid, again, tuned, "evaluation")
    if experiment.tuning.optimism and experiment.protocol == "two-phase":
        other = _Tuning(experiment, grid, again, "conventional tuning", "evaluation")
        outcomes += other.run(dry_run)
        outcomes += _evaluated(experiment, grid, again, other, "conventional")
    return outcomes


def _evaluated(experiment: Experiment, grid: Grid, again: Callable[[list[PlannedCell]], None], tuned: _Tuning, phase: str) -> list[Outcome]:
    """The chosen settings of every strategy, unchanged, on all evaluation seeds; what cannot be run is listed with its reason."""
    chosen = {label: winner(experiment.tuning, trials) for label, trials in tuned.trials.items()} if tuned.finished else {}
    planned = [
        PlannedCell(label, seed, {**with_values(experiment.strategies[label], trial.values), "seed": seed}, phase)
        for label, trial in chosen.items()
        if trial is not None
        for seed in experiment.seeds
    ]
    again(planned)
    outcomes = grid.run(planned, phase) if planned else []
    there = {o.label for o in outcomes}
    reason = "not tuned yet" if not chosen else "every trial failed"
    return outcomes + [Outcome(label, seed, None, reason, phase) for label in experiment.labels if label not in there for seed in experiment.seeds]


class _Tuning:
    """The trials of all strategies and their scores, drawn and run until there are no more."""

    def __init__(self, experiment: Experiment, grid: Grid, again: Callable[[list[PlannedCell]], None], name: str, stream: Phase) -> None:
        self._experiment, self._grid, self._again = experiment, grid, again
        self._name, self._stream = name, stream
        self._outcomes: dict[tuple[str, int | None, int], Outcome] = {}
        self.trials: dict[str, list[Trial]] = {label: [] for label in experiment.labels}
        self.finished = False

    def run(self, dry_run: bool) -> list[Outcome]:
        """All outcomes of the tuning phase; `finished` says whether a choice can be made."""
        tuning = self._experiment.tuning
        while True:
            drawn_now = {label: drawn(tuning, self._experiment.spaces[label], self.trials[label]) for label in self.trials}
            grown = any(len(found) > len(self.trials[label]) for label, found in drawn_now.items())
            if not grown:
                break
            self._wave({label: (found, tuning.first_seeds) for label, found in drawn_now.items()}, self._name)
            if dry_run and not self._complete(tuning.first_seeds):
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
            for trial in found:
                raw = {**with_values(self._experiment.strategies[label], trial.values), "phase": self._stream}
                planned += [PlannedCell(label, seed, {**raw, "seed": seed}, self._name, trial.number) for seed in seeds]
        self._again([p for p in planned if (p.label, p.trial, p.seed) not in self._outcomes])
        for outcome in self._grid.run(planned, name):
            self._outcomes[outcome.label, outcome.trial, outcome.seed] = outcome
            trial = next(t for t in self.trials[outcome.label] if t.number == outcome.trial)
            if outcome.status != "missing":
                trial.statuses[outcome.seed] = outcome.status
                trial.scores[outcome.seed] = score(outcome, self._experiment.tuning.select_on)


def score(outcome: Outcome, metric: str) -> float | None:
    """A metric of a finished cell; None when it failed or the metric is undefined there."""
    if not outcome.ok or outcome.result is None:
        return None
    value = derived(metric, outcome.result) if metric in DERIVED else outcome.result["metrics"].get(metric)
    return None if value is None else float(value)


@dataclass(frozen=True)
class Chosen:
    """The trial chosen for a strategy: its mean score in the tuning phase with its rank, and the mean of its evaluation."""

    trial: Trial
    trials: int
    score: float
    rank: int
    evaluation: float | None


def chosen(experiment: Experiment, outcomes: list[Outcome], searching: str = "tuning", evaluating: str = "evaluation") -> dict[str, Chosen]:
    """By strategy what the outcomes of a search choose, and how it does in the phase that evaluates it; strategies without any are left out."""
    tuning, metric = experiment.tuning, experiment.tuning.select_on
    found: dict[str, tuple[Trial, int, float]] = {}
    for label, space in experiment.spaces.items():
        trials: dict[int, Trial] = {}
        own = [o for o in outcomes if o.label == label and o.phase == searching and o.status != "missing"]
        for o in own:
            trial = trials.setdefault(o.trial or 0, Trial(o.trial or 0, {}))
            trial.statuses[o.seed], trial.scores[o.seed] = o.status, score(o, metric)
        done = [trials[k] for k in sorted(trials)]
        scores = [t.score(tuning.first_seeds) for t in done]
        best = winner(tuning, done)
        if best is not None:
            best.values = sampled(tuning.sampler, tuning.sampler_seed, space, tuning.trials, scores)[best.number]
            found[label] = best, len(done), best.score(sorted(best.statuses))
    order = sorted((s for _, _, s in found.values()), reverse=True)
    means = {label: [v for o in outcomes if o.label == label and o.phase == evaluating and (v := score(o, metric)) is not None] for label in found}
    return {
        label: Chosen(best, n, value, order.index(value) + 1, sum(means[label]) / len(means[label]) if means[label] else None)
        for label, (best, n, value) in found.items()
    }


def _with_split(experiment: Experiment, data_root: str | None) -> Experiment:
    """The experiment with the split its phases need: by classes where there are enough of them, else by samples."""
    if "split" in experiment.split:
        return experiment
    cells = [resolved(PlannedCell(label, 0, raw), experiment.path, data_root) for label, raw in _distinct(experiment).values()]
    split = {**experiment.split, "split": "classes" if all(_halves(cell.scenario) for cell in cells) else "samples"}
    return dataclasses.replace(experiment, split=split, strategies={label: {**raw, "protocol": split} for label, raw in experiment.strategies.items()})


def _halves(scenario: Scenario) -> bool:
    """Whether both phases can have half the classes: enough of them in each experience, and they divide evenly."""
    if min(len(e.classes) for e in scenario.stream("evaluation", 0).experiences) < CLASSES_TO_HALVE:
        return False
    halved = type(scenario)(split=Split(**{**scenario.split.settings(), "split": "classes"}), data_root=scenario.data_root, **scenario.settings())
    try:
        streams = [halved.stream("tuning", 0), halved.stream("evaluation", 0)]
    except UsageError:
        return False
    return all(len(e.classes) > 1 for stream in streams for e in stream.experiences)


def _streams(experiment: Experiment, raw: dict[str, Any], label: str, phase: Phase, seeds: list[int], data_root: str | None) -> list[Stream]:
    scenario = resolved(PlannedCell(label, 0, raw), experiment.path, data_root).scenario
    return [scenario.stream(phase, seed) for seed in seeds]


def _distinct(experiment: Experiment) -> dict[str, tuple[str, dict[str, Any]]]:
    """One strategy for each scenario that occurs."""
    return {json.dumps(raw.get("scenario"), sort_keys=True): (label, raw) for label, raw in experiment.strategies.items()}


def _check_data(experiment: Experiment, data_root: str | None) -> None:
    tuning, evaluation = [], []
    for label, raw in _distinct(experiment).values():
        try:
            tuning += _streams(experiment, raw, label, "tuning", experiment.tuning.first_seeds + experiment.tuning.further_seeds, data_root)
            evaluation += _streams(experiment, raw, label, "evaluation", experiment.seeds, data_root)
        except UsageError as error:
            raise UsageError(f"{experiment.path}: protocol.split = '{experiment.split['split']}': {error}") from error
    check_disjoint(tuning, evaluation)


def _fingerprint(experiment: Experiment, data_root: str | None) -> dict[str, str]:
    """By strategy: a hash over the tuning streams of all seeds."""
    phase: Phase = "evaluation" if experiment.leaky else "tuning"
    prints = {}
    for key, (label, raw) in _distinct(experiment).items():
        streams = _streams(experiment, raw, label, phase, experiment.tuning.first_seeds + experiment.tuning.further_seeds, data_root)
        prints[key] = hashlib.sha256("".join(s.fingerprint + s.source.identity for s in streams).encode()).hexdigest()
    return {label: prints[json.dumps(raw.get("scenario"), sort_keys=True)] for label, raw in experiment.strategies.items()}
