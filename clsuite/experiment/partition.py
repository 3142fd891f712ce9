"""The data of the two phases of an experiment: how they are divided, and that they share nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from ..errors import UsageError
from ..scenario import Phase, Scenario, Split
from ..stream import Stream
from .file import Experiment, PlannedCell
from .overlap import check_disjoint

CLASSES_TO_HALVE = 4
"""Classes an experience must have for the classes to be divided between the phases; with fewer the samples are."""


def with_split(experiment: Experiment, data_root: str | None) -> Experiment:
    """The experiment with the split its phases need: by classes where there are enough of them, else by samples."""
    if "split" in experiment.protocol.split:
        return experiment
    cells = [experiment.resolved(PlannedCell(label, 0, raw), data_root) for label, raw in _distinct(experiment).values()]
    split = {**experiment.protocol.split, "split": "classes" if all(_halves(cell.scenario) for cell in cells) else "samples"}
    strategies = {label: {**raw, "protocol": split} for label, raw in experiment.strategies.items()}
    return dataclasses.replace(experiment, protocol=dataclasses.replace(experiment.protocol, split=split), strategies=strategies)


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
    scenario = experiment.resolved(PlannedCell(label, 0, raw), data_root).scenario
    return [scenario.stream(phase, seed) for seed in seeds]


def _distinct(experiment: Experiment) -> dict[str, tuple[str, dict[str, Any]]]:
    """One strategy for each scenario that occurs."""
    return {json.dumps(raw.get("scenario"), sort_keys=True): (label, raw) for label, raw in experiment.strategies.items()}


def check_data(experiment: Experiment, data_root: str | None) -> None:
    """Refuse phases that share a sample, over all seeds of both; raises `UsageError`."""
    tuning, evaluation = [], []
    for label, raw in _distinct(experiment).values():
        try:
            tuning += _streams(experiment, raw, label, "tuning", experiment.tuning.first_seeds + experiment.tuning.further_seeds, data_root)
            evaluation += _streams(experiment, raw, label, "evaluation", experiment.seeds, data_root)
        except UsageError as error:
            raise experiment.wrong(UsageError(f"protocol.split = '{experiment.protocol.split['split']}': {error}")) from error
    try:
        check_disjoint(tuning, evaluation)
    except UsageError as error:
        raise experiment.wrong(error) from error


def fingerprints(experiment: Experiment, data_root: str | None) -> dict[str, str]:
    """By strategy: a hash over the tuning streams of all seeds."""
    phase: Phase = "evaluation" if experiment.protocol.leaky else "tuning"
    prints = {}
    for key, (label, raw) in _distinct(experiment).items():
        streams = _streams(experiment, raw, label, phase, experiment.tuning.first_seeds + experiment.tuning.further_seeds, data_root)
        prints[key] = hashlib.sha256("".join(s.fingerprint + s.source.identity for s in streams).encode()).hexdigest()
    return {label: prints[json.dumps(raw.get("scenario"), sort_keys=True)] for label, raw in experiment.strategies.items()}
