"""What would be refused by every cell of a strategy, found before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from ..errors import UsageError
from .assembly import make_run
from .file import Experiment, PlannedCell
from .tuning import drawn, with_values


def check_strategies(experiment: Experiment, data_root: str | None, seeds: Iterable[int]) -> None:
    """Put the first cell of every strategy together, without training it; raises `UsageError` with file, line and strategy.

    Where settings are searched that is the first trial: no cell runs with the defaults of what is searched. Only what a user can
    mend is told here: an error of a plug-in's own costs its cells alone.
    """
    seed = next(iter(seeds))
    for label, raw in experiment.strategies.items():
        if experiment.protocol.tunes:
            raw = with_values(raw, drawn(experiment.tuning, experiment.spaces[label], [])[0].values)
        cell = experiment.resolved(PlannedCell(label, seed, {**raw, "seed": seed}), data_root)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the cell itself will say it
                run = make_run(cell, torch.device("cpu"))
                for part in run.parts:
                    part.setup()
        except UsageError as error:
            raise experiment.wrong(error, label) from error
        except Exception:
            continue
