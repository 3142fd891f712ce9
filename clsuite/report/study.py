"""What a folder holds, read once: an experiment with its cells, or single runs; the report is drawn from this alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..experiment import results
from ..experiment.file import Experiment, read
from ..experiment.grid import Outcome
from ..experiment.references import refer
from ..experiment.store import SHARED_START, Store, row_key
from .colours import Look, looks

SCHEMA = 1
"""Of the results this report reads."""
LOG_LINES = 20


@dataclass
class Study:
    """A folder, read. `outcomes`: the planned cells that count, in the order of the plan, failed and missing ones among them; of single runs
    the finished ones, each in phase `run` under its strategy's name. `experiment` is None where there is no file or it cannot be read here;
    `problems` says in lines what is missing or was left out."""

    folder: Path
    name: str
    experiment: Experiment | None
    outcomes: list[Outcome]
    cells: dict[int, str] = field(default_factory=dict)
    """The cell of every outcome, by its place in `outcomes`."""
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Study:
        """Read a folder; raises `UsageError` where there is neither a grid nor a finished run."""
        if not folder.is_dir():
            raise UsageError(f"'{folder}' is no folder (expected one that clsuite grid or clsuite run wrote)")
        name = folder.resolve().name
        if not (folder / "identity.json").exists():
            return cls._of_runs(folder, name)
        problems: list[str] = []
        try:
            experiment = read(folder / "experiment.yaml")
        except UsageError as error:
            experiment = None
            problems.append(f"the experiment's file cannot be read here, so intervals, verdicts and the choice of settings are not shown: {error}")
        store = Store.of(folder)
        old = store.superseded()
        plan = [row for row in store.plan() if row["phase"] != SHARED_START and row_key(row) not in old]
        if experiment is not None:
            gone = sorted({row["label"] for row in plan} - set(experiment.labels))
            plan = [row for row in plan if row["label"] in experiment.labels]
            if gone:
                problems.append(f"strategies the file no longer has are left out: {', '.join(gone)}")
        study = cls(folder, name, experiment, [], problems=problems)
        for row in plan:
            study._add(store, row)
        if not study.outcomes:
            problems.append("no cell is planned yet: the grid was begun and has not come to its first one")
        refer(study.outcomes, experiment.references if experiment is not None else {})
        return study._checked()

    @classmethod
    def _of_runs(cls, folder: Path, name: str) -> Study:
        paths = sorted(folder.glob("cells/*/*/result.json"))
        if not paths:
            raise UsageError(f"'{folder}' holds nothing to report (looked for {folder}/identity.json of a grid and {folder}/cells/*/*/result.json of runs)")
        study, store = cls(folder, name, None, [], problems=["a folder of single runs: what was asked of them together is not known"]), Store.of(folder)
        for path in paths:
            study._add(store, {"cell": path.parent.name, "label": None, "seed": None, "phase": "run", "trial": None})
        return study._checked()

    def _add(self, store: Store, row: dict[str, Any]) -> None:
        cell = row["cell"]
        try:
            state, result = store.state(cell), store.result(cell)
            if result is not None and result["schema"] > SCHEMA:
                raise ValueError(f"made by a newer version (schema {result['schema']}, this one reads {SCHEMA})")
            if result is not None:
                result["metrics"], result["cost"]["deployment"], result["spec"]["strategy"], result["matrix"], result["evaluation_sets"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            self.problems.append(f"cell {cell} is left out: {type(error).__name__}: {error}")
            return
        label = row["label"] if row["label"] is not None else result["strategy"] if result is not None else cell
        seed = row["seed"] if row["seed"] is not None else result["spec"]["seed"] if result is not None else 0
        self.cells[len(self.outcomes)] = cell
        self.outcomes.append(Outcome(label, seed, result, state.reason, row["phase"], row["trial"], state.status))

    def _checked(self) -> Study:
        missing = sum(o.status == "missing" for o in self.outcomes)
        if missing:
            self.problems.append(f"half finished: {missing} of {len(self.outcomes)} planned cells have no result yet")
        return self

    @property
    def labels(self) -> list[str]:
        """The strategies, in the order of the file."""
        return self.experiment.labels if self.experiment is not None else list(dict.fromkeys(o.label for o in self.outcomes))

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Colour, dash and marker of every strategy, the same on every page."""
        return looks(self.labels)

    @cached_property
    def final(self) -> list[Outcome]:
        """What is reported: the evaluation phase, or the single runs."""
        return [o for o in self.outcomes if o.phase in ("evaluation", "run")]

    @property
    def done(self) -> list[Outcome]:
        """Finished good cells of what is reported."""
        return [o for o in self.final if o.ok and o.result is not None]

    @property
    def is_text(self) -> bool:
        """Whether the cells measure losses of language models rather than accuracies."""
        return any("final_loss" in o.result["metrics"] for o in self.outcomes if o.result is not None)

    @property
    def columns(self) -> list[str]:
        """Metrics of the table, the first one being what strategies are ranked by."""
        if self.experiment is not None:
            return self.experiment.columns
        wanted = ("final_accuracy", "average_incremental_accuracy", "forgetting", "final_loss", "final_bits_per_byte")
        return [m for m in wanted if any(o.result is not None and o.result["metrics"].get(m) is not None for o in self.outcomes)]

    @property
    def about(self) -> str:
        """What was asked, by the first comment of the file."""
        text = "" if self.experiment is None else self.experiment.text
        return next((line.lstrip("# ") for line in text.splitlines() if line.startswith("#")), "")

    @cached_property
    def rows(self) -> list[results.Row]:
        """The rows of `clsuite results`."""
        return results.rows(self.folder)

    def folder_of(self, cell: str) -> Path:
        """The folder of a cell."""
        return Store.of(self.folder).folder(cell)

    def log(self, cell: str) -> list[str]:
        """The last lines of a cell's log."""
        try:
            return (self.folder_of(cell) / "log.txt").read_text(errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            return []


def of_all(folders: Sequence[Path]) -> list[Study]:
    """The studies of several folders; names that occur twice are told apart by a number."""
    studies = [Study.of(folder) for folder in folders]
    seen: dict[str, int] = {}
    for study in studies:
        seen[study.name] = seen.get(study.name, 0) + 1
        if seen[study.name] > 1:
            study.name = f"{study.name} ({seen[study.name]})"
    return studies
