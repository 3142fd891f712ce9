"""Folders of experiments for tests of the report: a tiny one that is run, and one of any size whose cells are made up from one real result."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.file import read
from clsuite.experiment.folder import cell_folder
from clsuite.experiment.samplers import trials
from clsuite.experiment.spec import resolve
from clsuite.experiment.tuning import Trial, finalists, winner, with_values

TUNED = """\
# What a tuned experiment looks like
scenario: {name: class_incremental, dataset: digits, experiences: 5, samples_per_class: 20}
model: {name: mlp, hidden: [8]}
training: {batch_size: 16}
device: cpu
strategies:
  - naive
  - {name: replay+fpf, label: replay + FPF, buffer_size: 20, fpf: {steps_each: 2, distillation: 0.0}, with: {training: {momentum: 0.5}}}
search: {training: {learning_rate: {low: 0.01, high: 0.3, log: true}, epochs: [1, 2], batch_size: null, weight_decay: null}}
protocol: {name: two-phase, trials: 3, tuning_seeds: 2, finalists: 2, finalist_seeds: 1}
seeds: 3
"""


def made_up(folder: Path, strategies: int = 25, trial_count: int = 20, seeds: int = 34, best: int = 3, experiences: int = 5) -> int:
    """Write the folder of a finished two-phase grid of `strategies` whose scores follow from settings and seed; the number of its cells.

    A strategy has `trial_count` trials on two seeds, its finalists on two more, and `seeds` evaluation cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"  - {{name: replay, label: replay {k}, buffer_size: {10 + k}}}\n" for k in range(strategies))
    scenario = f"scenario: {{name: class_incremental, dataset: digits, experiences: {experiences}, samples_per_class: 20}}\n"
    text = scenario + "model: {name: mlp, hidden: [8]}\ndevice: cpu\nstrategies:\n" + listed
    text += f"protocol: {{name: two-phase, split: samples, trials: {trial_count}, tuning_seeds: 2, finalists: {best}, finalist_seeds: 2}}\nseeds: {seeds}\n"
    (folder / "experiment.yaml").write_text(text)
    (folder / "identity.json").write_text("{}")
    experiment = read(folder / "experiment.yaml")
    tuning = experiment.tuning
    real = run_cell(resolve({**experiment.strategies["replay 0"], "seed": 0}), Options(folder.parent / "real"))
    logged = (cell_folder(folder.parent / "real", real["cell"]) / "metrics.jsonl").read_text()
    plan: list[dict[str, Any]] = []
    for label, raw in experiment.strategies.items():
        values = trials("sobol", 0, experiment.spaces[label], trial_count)
        done = [Trial(k, v) for k, v in enumerate(values)]

        def cell(phase: str, seed: int, trial: Trial, number: int | None, label: str = label, raw: dict[str, Any] = raw) -> None:
            spec = resolve({**with_values(raw, trial.values), "seed": seed, "phase": phase}).spec
            name = hashlib.sha256(f"{label} {phase} {number} {seed}".encode()).hexdigest()[:24]
            result = copy.deepcopy(real) | {"cell": name, "spec": spec}
            noise = np.random.default_rng(int(name[:8], 16)).normal(0, 0.01)
            rate = trial.values["training.learning_rate"]
            for metric in ("final_accuracy", "average_incremental_accuracy"):
                result["metrics"][metric] = float(0.8 - 0.1 * abs(np.log10(rate) + 1) + noise)
            place = cell_folder(folder, name)
            place.mkdir(parents=True)
            (place / "result.json").write_text(json.dumps(result))
            (place / "metrics.jsonl").write_text(logged)
            plan.append({"cell": name, "phase": phase, "label": label, "seed": seed, "trial": number})
            if number is not None:
                trial.scores[seed], trial.statuses[seed] = result["metrics"][tuning.select_on], "ok"

        for trial in done:
            for seed in tuning.first_seeds:
                cell("tuning", seed, trial, trial.number)
        for trial in finalists(tuning, done):
            for seed in tuning.further_seeds:
                cell("tuning", seed, trial, trial.number)
        chosen = winner(tuning, done)
        assert chosen is not None
        for seed in experiment.seeds:
            cell("evaluation", seed, chosen, None)
    (folder / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plan))
    return len(plan)


def changed(path: Path, **values: Any) -> None:
    """Replace values of a JSON file by their dotted paths (`__` for a dot)."""
    found = json.loads(path.read_text())
    for key, value in values.items():
        *groups, name = key.split("__")
        here = found
        for group in groups:
            here = here[group]
        here[name] = value
    path.write_text(json.dumps(found))


__all__ = ["TUNED", "changed", "made_up"]


if __name__ == "__main__":
    import sys

    print(made_up(Path(sys.argv[1])), "cells")
