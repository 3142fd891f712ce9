"""What is measured of a run over images: the accuracy matrix and all that follows from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .evaluation import Evaluator
from .metrics import calibration_error, steps_to, summary

if TYPE_CHECKING:
    from .run import Run


class ImageMeasurements:
    """Accuracies [experiences, sets] so far, calibration sums and probes; state that a checkpoint keeps."""

    def __init__(self, run: Run):
        self.run = run
        self.evaluator = Evaluator(run)
        sets = len(run.stream.evaluation_sets)
        shape = (len(run.stream), sets)
        self.R, self.masked = np.full(shape, np.nan), np.full(shape, np.nan)
        self.initial, self.initial_masked = np.full(sets, np.nan), np.full(sets, np.nan)
        self.bins = np.zeros((3, 15))
        self.shares = np.full((len(run.stream), 2), np.nan)
        """Of the samples of all sets learned so far [experiences]: the share that is predicted to be of the experience's classes, and that is."""
        self.probes: dict[int, list[tuple[int, float]]] = {}

    def begin(self) -> None:
        """Measure the initial weights."""
        self.initial, self.initial_masked, _ = self._measure(list(range(len(self.run.stream.evaluation_sets))))

    def wanted(self, i: int) -> bool:
        """Whether anything is measured after experience i."""
        return bool(self.evaluator.sets_after(i))

    def row(self, i: int) -> dict[str, Any]:
        """Measure the model as deployed after experience i; the event to report."""
        sets = self.evaluator.sets_after(i)
        last = i == len(self.run.stream) - 1  # at the end every set has been learned: all enter the calibration
        self.R[i, sets], self.masked[i, sets], predictions = self._measure(sets, bins=last)
        self.shares[i] = self._shares(i, sets, predictions)
        return {"accuracy": [None if math.isnan(v) else v for v in self.R[i].tolist()]}

    def _measure(self, sets: list[int], bins: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self.evaluator.measure(sets, bins)
        self.bins = self.bins if found.bins is None else found.bins
        return found.accuracy, np.full(len(sets), np.nan) if found.known_task is None else found.known_task, found.predictions

    def _shares(self, i: int, sets: list[int], predictions: np.ndarray) -> tuple[float, float]:
        """Predicted and true share of the classes of experience i; undefined where not all sets so far were measured, or no class is old."""
        stream, new = self.run.stream, list(self.run.stream.experiences[i].classes)
        learned = np.flatnonzero(self.evaluator.learned_in <= i).tolist()
        old = {c for j in learned for c in stream.evaluation_sets[j].classes} - set(new)
        if not set(learned) <= set(sets) or not old:
            return math.nan, math.nan
        counts, outputs = predictions[[sets.index(j) for j in learned]].sum(0), stream.outputs("test")
        true = sum(int(np.isin(outputs[stream.evaluation_sets[j].indices], new).sum()) for j in learned)
        return float(counts[new].sum() / counts.sum()), true / int(self.evaluator.sizes[learned].sum())

    def probe(self, step: int, steps: int) -> dict[str, Any] | None:
        """Look at the sets of this experience after `step` of its `steps`, when that is wanted."""
        run = self.run
        every = run.training.probe_every
        if every is None or (step % every and step != steps):
            return None
        for j in np.flatnonzero(self.evaluator.learned_in == run.experience).tolist():
            self.probes.setdefault(j, []).append((step, self.evaluator.probe(j)))
        return None

    def state(self) -> dict[str, Any]:
        return {"rows": [self.R, self.masked, self.initial, self.initial_masked, self.bins, self.shares], "probes": self.probes}

    def restore(self, state: dict[str, Any]) -> None:
        self.R, self.masked, self.initial, self.initial_masked, self.bins, self.shares = state["rows"]
        self.probes = state["probes"]

    def metrics(self, seconds: float) -> dict[str, Any]:
        """All metrics, as far as the run went."""
        stream = self.run.stream
        sizes, learned = self.evaluator.sizes.astype(float), self.evaluator.learned_in
        masked = stream.task_masked
        disjoint_classes = masked and len({c for e in stream.evaluation_sets for c in e.classes}) > len(stream.evaluation_sets[0].classes)
        result = summary(
            self.R,
            sizes,
            learned,
            self.initial,
            self.masked if masked else None,
            self.initial_masked if masked else None,
            class_incremental=disjoint_classes,
        )
        result["calibration_error"] = calibration_error(*self.bins)
        if self.run.training.probe_every is not None:
            result["steps_to_90"] = [steps_to(0.9, self.probes.get(j, [])) for j in range(len(sizes))]
        return result

    def document(self) -> dict[str, Any]:
        """The matrices of a result."""
        masked = rows(self.masked) if self.run.stream.task_masked else None
        predicted, true = rows(self.shares.T)
        found = {"matrix": rows(self.R), "matrix_known_task": masked, "initial_accuracy": rows(self.initial[None])[0]}
        return {**found, "new_classes": {"predicted": predicted, "true": true}}


def rows(values: np.ndarray) -> list[list[float | None]]:
    """A matrix as plain values; None where nothing was measured."""
    return [[None if v != v else v for v in row] for row in values.tolist()]
