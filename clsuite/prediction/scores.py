"""How well predicted losses agree with measured ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rates import Array


def scores(predicted: Array, measured: Array) -> dict[str, float]:
    """Errors are predicted - measured, in the unit of the loss; R2 is the share of the measured losses' variance that is predicted."""
    error = predicted - measured
    total = float(np.sum((measured - measured.mean()) ** 2))
    return {
        "mean_absolute_error": float(np.mean(np.abs(error))),
        "root_mean_squared_error": float(np.sqrt(np.mean(error**2))),
        "r2": 1 - float(np.sum(error**2)) / total if total > 0 else float("nan"),
        "worst_error": float(np.abs(error).max()),
        "final_loss_error": float(error[-1]),
    }


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, Any] | None:
    """Kendall's tau-b and Spearman's rho of two lists of losses; None below three. Undefined (all equal) is None."""
    from scipy.stats import kendalltau, spearmanr

    if len(predicted) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant list has no ranks: the value is None, which says so
        values = {"kendall": float(kendalltau(predicted, measured).statistic), "spearman": float(spearmanr(predicted, measured).statistic)}
    return {**{key: value if np.isfinite(value) else None for key, value in values.items()}, "n": len(predicted)}
