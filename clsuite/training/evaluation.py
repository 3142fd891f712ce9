"""Measuring: all evaluation sets in one pass over their samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .metrics import BINS

if TYPE_CHECKING:
    from torch import Tensor

    from .run import Run

CHUNK = 1000
"""Samples of one forward pass: large enough for speed, small enough to stay in the cache of a core."""


class Measured(NamedTuple):
    """What a pass over evaluation sets gives.

    `accuracy` [sets]; `known_task` [sets], the same with a known task, or None; `bins` [3, 15], sums for calibration, or None;
    `predictions` [sets, classes], how often each class was the prediction.
    """

    accuracy: np.ndarray
    known_task: np.ndarray | None
    bins: np.ndarray | None
    predictions: np.ndarray


class Evaluator:
    """Evaluates a run's prediction on the stream's sets; forward passes made here are not counted as training cost."""

    def __init__(self, run: Run):
        self.run = run
        stream = run.stream
        self.sizes = np.array([len(e) for e in stream.evaluation_sets])
        self.learned_in = np.array([e.learned_in for e in stream.evaluation_sets])
        masks = torch.zeros(len(stream.evaluation_sets), stream.classes, dtype=torch.bool)
        for j, chosen in enumerate(stream.evaluation_sets):
            masks[j, list(chosen.classes)] = True
        self._masks = masks.to(run.device)

    def full_row(self, i: int) -> bool:
        """Whether all sets are measured after experience i, or only those just learned."""
        count, every = len(self.run.stream), self.run.training.evaluate_every
        period = math.ceil(count / 50) if every == "auto" else int(every)
        return i == count - 1 or (i + 1) % period == 0

    def sets_after(self, i: int) -> list[int]:
        """The sets to measure after experience i."""
        return [j for j in range(len(self.sizes)) if self.full_row(i) or self.learned_in[j] == i]

    @torch.inference_mode()
    def measure(self, sets: list[int], bins: bool = False) -> Measured:
        """Measure the given sets; `bins`: with the sums for calibration."""
        run, masked, classes = self.run, self.run.stream.task_masked, self.run.stream.classes
        predicted = torch.zeros(len(sets) * classes, dtype=torch.int64, device=run.device)
        hits = torch.zeros(2, len(sets), dtype=torch.float64, device=run.device)
        sums = torch.zeros(3, BINS, dtype=torch.float64, device=run.device) if bins else None
        seen = run.seen_classes() if run.evaluation_mask == "seen" else None
        modes = run.set_evaluation_mode()
        for ids, member in self._chunks(sets):
            pixels, targets = run.stream.gather(ids, "test")
            scores = run.base.predict(run.workload.inputs(pixels))
            answers, correct = self._answered(scores if seen is None else scores.masked_fill(~seen, -torch.inf), targets, sums)
            hits[0].index_add_(0, member, correct)
            predicted += torch.bincount(member * classes + answers, minlength=len(predicted))
            if masked:
                of_task = scores.masked_fill(~self._masks[torch.as_tensor(sets, device=run.device)[member]], -torch.inf)
                hits[1].index_add_(0, member, (of_task.argmax(1) == targets).double())
        run.restore_modes(modes)
        sizes = self.sizes[sets]
        counts = hits.cpu().numpy()
        known = counts[1] / sizes if masked else None
        return Measured(counts[0] / sizes, known, None if sums is None else sums.cpu().numpy(), predicted.reshape(len(sets), classes).cpu().numpy())

    @staticmethod
    def _answered(scores: Tensor, targets: Tensor, sums: Tensor | None) -> tuple[Tensor, Tensor]:
        """The classes predicted and where they are right; adds to the calibration sums."""
        answers = scores.argmax(1)
        correct = (answers == targets).double()
        if sums is not None:
            confidence = scores.double().softmax(1).amax(1)
            place = (confidence * BINS).ceil().long().clamp_(1, BINS) - 1
            for row, values in zip(sums, (torch.ones_like(correct), correct, confidence), strict=True):
                row.index_add_(0, place, values)
        return answers, correct

    def _chunks(self, sets: list[int]) -> list[tuple[Tensor, Tensor]]:
        """(ids, position of their set) in chunks; small sets share a chunk, and no chunk mixes transforms."""
        chunks: list[tuple[Tensor, Tensor]] = []
        stream, device = self.run.stream, self.run.device
        by_transform: dict[int, list[int]] = {}
        for position, j in enumerate(sets):
            by_transform.setdefault(stream.evaluation_sets[j].transform, []).append(position)
        for positions in by_transform.values():
            ids = torch.from_numpy(np.concatenate([stream.evaluation_ids(sets[p]) for p in positions]))
            member = torch.from_numpy(np.repeat(positions, [self.sizes[sets[p]] for p in positions])).to(device)
            chunks += list(zip(ids.split(CHUNK), member.split(CHUNK), strict=True))
        return chunks

    def probe(self, j: int, samples: int = 1000) -> float:
        """Accuracy on about `samples` evenly spaced samples of set j."""
        run = self.run
        modes = run.set_evaluation_mode()
        ids = torch.from_numpy(self.run.stream.evaluation_ids(j)[:: max(1, int(self.sizes[j]) // samples)].copy())
        with torch.inference_mode():
            pixels, targets = run.stream.gather(ids, "test")
            accuracy = (run.base.predict(run.workload.inputs(pixels)).argmax(1) == targets).double().mean()
        run.restore_modes(modes)
        return float(accuracy)
