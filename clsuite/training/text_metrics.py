"""Every number a result over text holds, as pure functions of the losses.

Losses are in nats per token and lower is better. `windows[i, j]` holds the mean loss of every validation window of corpus j after
experience i (-1: the initial weights); f[j] is the experience in which corpus j is learned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TEXT_NAMES = (
    "final_loss",
    "final_perplexity",
    "final_bits_per_byte",
    "loss_first_corpus",
    "loss_last_corpus",
    "forgetting",
    "forgetting_error",
    "bump",
    "bump_error",
    "bump_step",
    "recovery_step",
    "downstream_area",
    "tokens_per_second",
    "model_flop_utilisation",
)
"""Metrics every result over text has (null where a stream does not define one)."""
REFERRED = ("bump_over_hold", "bump_over_hold_downstream", "recovery_over_hold", "gap_closed")
"""Metrics of a grid that compare a cell with another one (`experiment.references`)."""
HIGHER = ("gap_closed", "tokens_per_second", "model_flop_utilisation")

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second of a whole device, from memory: the SXM forms of H100 and H200, every form of A100."""
_OTHER_FORMS = re.compile(r"\bMIG\b|\b(?:H100|H200)\b.*\b(?:PCIe|NVL)\b", re.IGNORECASE)
"""Devices that share a name with one of `PEAKS` but not its peak."""

Probe = tuple[int, int, list[float], list[float], list[float]]
"""Experience, step in it, losses by corpus, those of the same windows at the border before, and the standard error of the change."""


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error (NaN for a single value)."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def forgetting(windows: Mapping[tuple[int, int], np.ndarray], f: np.ndarray, last: int) -> tuple[float | None, float | None]:
    """Mean over corpora learned before the last experience of final loss minus the loss after they were learned, and its standard error.

    Paired by window. Both losses are those of the model as deployed, so after annealing where a policy anneals.
    """
    drops = [mean_and_error(windows[last, j] - windows[int(f[j]), j]) for j in range(len(f)) if f[j] < last and {(last, j), (int(f[j]), j)} <= set(windows)]
    if not drops:
        return None, None
    return sum(m for m, _ in drops) / len(drops), math.sqrt(sum(e * e for _, e in drops)) / len(drops)


def highest(rises: Sequence[tuple[int, float]], steps: int, share: float = 0.1) -> tuple[float, int, int | None] | None:
    """The largest rise within the first `share` of `steps`, its step, and the first step from which rises stay at or below 0 three times.

    `rises` ascend by step. None where none was looked at so early.
    """
    early = [r for r in rises if r[0] <= max(1, share * steps)]
    if not early:
        return None
    step, height = max(early, key=lambda r: r[1])
    after = [r for r in rises if r[0] >= step]
    recovered = next((s for k, (s, _) in enumerate(after) if len(after) >= k + 3 and all(rise <= 0 for _, rise in after[k : k + 3])), None)
    return height, step, recovered


def bump(probes: Sequence[Probe], f: np.ndarray, steps: Sequence[int], share: float = 0.1) -> dict[str, float | int | None]:
    """How far the loss on what was learned before rises right after the last border, against the loss at the border.

    The largest mean rise over earlier corpora within the first `share` of the last experience, with its standard error paired by
    window; the step it is reached at; `recovery_step`: the first probe from which the rise stays at or below 0 three times.
    """
    last = len(steps) - 1
    own = [p for p in probes if p[0] == last and last > 0 and not any(map(math.isnan, p[3]))]
    earlier = [j for j in range(len(f)) if f[j] < last]
    empty = {"bump": None, "bump_error": None, "bump_step": None, "recovery_step": None}
    if not own or not earlier:
        return dict(empty)
    rises = [(step, sum(values[j] - starts[j] for j in earlier) / len(earlier)) for _, step, values, starts, _ in own]
    found = highest(rises, steps[last], share)
    if found is None:
        return dict(empty)
    height, step, recovered = found
    errors = next(errors for _, at, _, _, errors in own if at == step)
    error = math.sqrt(sum(errors[j] ** 2 for j in earlier)) / len(earlier)
    return {"bump": height, "bump_error": None if math.isnan(error) else error, "bump_step": step, "recovery_step": recovered}


def downstream_area(probes: Sequence[Probe], f: np.ndarray, steps: Sequence[int]) -> float | None:
    """Mean over the steps of the last experience of the loss on the corpora learned there (trapezoids between probes)."""
    last = len(steps) - 1
    own = [j for j in range(len(f)) if f[j] == last]
    curve = [(step, sum(values[j] for j in own) / len(own)) for i, step, values, _, _ in probes if i == last and own]
    if len(curve) < 2:
        return None
    x, y = np.array(curve).T
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def peak_of(device: str) -> float | None:
    """Dense bfloat16 operations a second of a device, by the name its driver gives; None where that is unknown, as for every CPU."""
    found = None if _OTHER_FORMS.search(device) else re.search(rf"\b(?:{'|'.join(PEAKS)})\b", device)
    return PEAKS[found[0]] if found else None


def model_flop_utilisation(flops_per_token: float, tokens_per_second: float | None, device: str) -> float | None:
    """Share of a device's bfloat16 peak that training used, whatever the precision it ran in: operations the model needs, a second, over the peak."""
    peak = peak_of(device)
    return None if peak is None or tokens_per_second is None else flops_per_token * tokens_per_second / peak


def summary(
    windows: Mapping[tuple[int, int], np.ndarray], probes: Sequence[Probe], f: np.ndarray, experiences: int, bits_per_byte: np.ndarray, steps: Sequence[int]
) -> dict[str, Any]:
    """All metrics of one run; `bits_per_byte` [corpora] turns nats per token into bits per byte."""
    last = experiences - 1
    final = [float(windows[last, j].mean()) for j in range(len(f)) if (last, j) in windows]
    whole = len(final) == len(f)
    lost, error = forgetting(windows, f, last)
    return {
        "final_loss": sum(final) / len(final) if whole else None,
        "final_perplexity": math.exp(sum(final) / len(final)) if whole else None,
        "final_bits_per_byte": float((np.array(final) * bits_per_byte).mean()) if whole else None,
        "loss_first_corpus": final[0] if whole else None,
        "loss_last_corpus": final[-1] if whole else None,
        "forgetting": lost,
        "forgetting_error": error,
        **bump(probes, f, steps),
        "downstream_area": downstream_area(probes, f, steps),
    }
