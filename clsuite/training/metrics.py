"""Every number a result holds, as pure functions of the accuracy matrix.

R[i, j] is the accuracy on evaluation set j after experience i (NaN where it was not measured), n[j] the samples of set
j, f[j] the experience in which set j was first learned, b[j] the accuracy of this seed's initial weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .text_metrics import HIGHER, REFERRED, TEXT_NAMES

BINS = 15
IMAGE_NAMES = (
    "final_accuracy",
    "average_incremental_accuracy",
    "final_task_mean_accuracy",
    "task_incremental_accuracy",
    "backward_transfer",
    "forward_transfer",
    "forgetting",
    "plasticity",
    "calibration_error",
)
"""Metrics every result over images has (null where a stream does not define one)."""
NAMES = (*IMAGE_NAMES, *(name for name in TEXT_NAMES if name not in IMAGE_NAMES))
LOWER = ("forgetting", "calibration_error", "mean_steps_to_90", *(name for name in (*TEXT_NAMES, *REFERRED) if name not in HIGHER))
"""Metrics of which less is better."""
DERIVED = ("first_task_retention", "mean_steps_to_90", "tasks_at_90")
"""Numbers that follow from a result's matrix and probes; see `derived`."""
KNOWN = (*NAMES, *DERIVED, *REFERRED)
"""Metrics that columns, expectations and selections may name."""


def _mean(values: Any) -> float | None:
    """The mean of what was measured; None when nothing was."""
    found = [float(v) for v in np.ravel(np.asarray(values, dtype=float)) if not math.isnan(v)]
    return sum(found) / len(found) if found else None


def seen_accuracy(R: np.ndarray, n: np.ndarray, f: np.ndarray, i: int) -> float:
    """seen_i: accuracy over the union of all sets learned by experience i; NaN when one of them was not measured."""
    learned = f <= i
    if not learned.any() or np.isnan(R[i, learned]).any():
        return math.nan
    return float((n[learned] * R[i, learned]).sum() / n[learned].sum())


def final_accuracy(R: np.ndarray, n: np.ndarray, f: np.ndarray) -> float | None:
    """seen_{T-1}."""
    return _mean([seen_accuracy(R, n, f, len(R) - 1)])


def average_incremental_accuracy(R: np.ndarray, n: np.ndarray, f: np.ndarray) -> float | None:
    """Mean over i of seen_i, over the rows that were measured."""
    return _mean([seen_accuracy(R, n, f, i) for i in range(len(R))])


def plasticity(R: np.ndarray, f: np.ndarray) -> float | None:
    """mean_j R[f(j), j]."""
    return _mean([R[f[j], j] for j in range(R.shape[1])])


def backward_transfer(R: np.ndarray, f: np.ndarray) -> float | None:
    """Mean over j with f(j) < T-1 of R[T-1, j] - R[f(j), j]."""
    last = len(R) - 1
    return _mean([R[last, j] - R[f[j], j] for j in range(R.shape[1]) if f[j] < last])


def forgetting(R: np.ndarray, f: np.ndarray) -> float | None:
    """Mean over j with f(j) < T-1 of max_{f(j) <= i < T-1} R[i, j] - R[T-1, j]."""
    last = len(R) - 1
    drops = []
    for j in range(R.shape[1]):
        before = R[f[j] : last, j]
        if f[j] < last and not np.isnan(before).all():
            drops.append(np.nanmax(before) - R[last, j])
    return _mean(drops)


def forward_transfer(R: np.ndarray, b: np.ndarray, f: np.ndarray) -> float | None:
    """Mean over sets first learned after experience 0 of R[f(j)-1, j] - b_j."""
    return _mean([R[f[j] - 1, j] - b[j] for j in range(R.shape[1]) if f[j] >= 1])


def intransigence(R: np.ndarray, R_joint: np.ndarray, f: np.ndarray) -> float | None:
    """mean_j (R_joint[f(j), j] - R[f(j), j]), for runs of the same seed."""
    return _mean([R_joint[f[j], j] - R[f[j], j] for j in range(R.shape[1])])


def task_incremental_accuracy(R_masked: np.ndarray) -> float | None:
    """Unweighted mean of the last row when outputs outside each set's classes are at minus infinity."""
    return _mean(R_masked[-1])


def calibration_error(counts: np.ndarray, correct: np.ndarray, confidence: np.ndarray) -> float | None:
    """Expected calibration error from sums over 15 equal-width bins of the largest softmax, each [15]."""
    total = counts.sum()
    return float(np.abs(correct - confidence).sum() / total) if total else None


def seen_curve(result: dict[str, Any]) -> list[float | None]:
    """seen_i of a finished result, by experience; None where it was not measured."""
    R = np.array([[math.nan if v is None else v for v in row] for row in result["matrix"]], dtype=float)
    sets = result["evaluation_sets"]
    n, f = np.array([s["samples"] for s in sets], dtype=float), np.array([s["learned_in"] for s in sets])
    return [None if math.isnan(value := seen_accuracy(R, n, f, i)) else value for i in range(len(R))]


def derived(name: str, result: dict[str, Any]) -> float | None:
    """A number that follows from a finished result.

    `first_task_retention`: mean accuracy on the first set over all later measurements. `mean_steps_to_90`: mean over the tasks that
    reached 90 % of the probed steps they needed; `tasks_at_90`: the share of tasks that did.
    """
    if name == "first_task_retention":
        return _mean([math.nan if row[0] is None else row[0] for row in result["matrix"][1:]])
    steps = result["metrics"].get("steps_to_90")
    if steps is None:
        return None
    reached = [s for s in steps if s is not None]
    return _mean(reached) if name == "mean_steps_to_90" else len(reached) / len(steps)


def steps_to(threshold: float, probes: list[tuple[int, float]]) -> int | None:
    """The first probed number of steps at which the accuracy reached the threshold."""
    return next((step for step, accuracy in probes if accuracy >= threshold), None)


def summary(
    R: np.ndarray,
    n: np.ndarray,
    f: np.ndarray,
    b: np.ndarray,
    R_masked: np.ndarray | None = None,
    b_masked: np.ndarray | None = None,
    class_incremental: bool = False,
) -> dict[str, Any]:
    """All metrics of one matrix; a class-incremental stream takes its forward transfer from the task-masked matrix."""
    if not class_incremental:
        forward = forward_transfer(R, b, f)
    else:
        forward = forward_transfer(R_masked, b_masked, f) if R_masked is not None and b_masked is not None else None
    return {
        "final_accuracy": final_accuracy(R, n, f),
        "average_incremental_accuracy": average_incremental_accuracy(R, n, f),
        "final_task_mean_accuracy": _mean(R[-1]) if len(R) and not np.isnan(R[-1]).all() else None,
        "task_incremental_accuracy": task_incremental_accuracy(R_masked) if R_masked is not None else None,
        "backward_transfer": backward_transfer(R, f),
        "forward_transfer": forward,
        "forgetting": forgetting(R, f),
        "plasticity": plasticity(R, f),
        "rows_measured": sum(not math.isnan(seen_accuracy(R, n, f, i)) for i in range(len(R))),
    }
