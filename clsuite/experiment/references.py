"""Metrics of text that compare a cell with another of the same seed: `references` in an experiment names the strategies they refer to.

    references: {hold: hold at the minimum, union: union, without_replay: no replay}

`bump_over_hold` and `bump_over_hold_downstream`: the largest excess over `hold`, at equal steps and windows, within the first tenth of the
last experience, on what was learned before and on what is learned there; `recovery_over_hold`: the first probe from which the excess on what
was learned before stays at or below 0 three times. `gap_closed`: (L0 - L) / (L0 - L_union) of the final losses, L0 that of `without_replay`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError, nearest
from ..training.text_metrics import REFERRED, highest

if TYPE_CHECKING:
    from .grid import Outcome

ROLES = ("hold", "union", "without_replay")
LEAST_GAP = 0.02
"""Nats below which a share of the gap means nothing."""


def references(given: Any, labels: Sequence[str]) -> dict[str, str]:
    """Parse `references:`; raises `UsageError` for a role or a strategy there is none of."""
    if not isinstance(given, dict):
        raise UsageError(f"references = {given!r} is not valid: expected {{hold: strategy, union: strategy, without_replay: strategy}}")
    for role, label in given.items():
        if role not in ROLES:
            raise UsageError(f"references: unknown role '{role}'{nearest(str(role), ROLES)} (valid: {', '.join(ROLES)})")
        if label not in labels:
            raise UsageError(f"references.{role} = {label!r} is no strategy of this experiment{nearest(str(label), labels)} (valid: {', '.join(labels)})")
    return dict(given)


def refer(outcomes: Sequence[Outcome], roles: Mapping[str, str]) -> None:
    """Give every finished cell the metrics that refer to others of its phase, trial and seed."""
    known = {(o.phase, o.trial, o.seed, o.label): o.result for o in outcomes if o.ok and o.result is not None}
    for outcome in outcomes:
        if not outcome.ok or outcome.result is None:
            continue
        others = {role: known.get((outcome.phase, outcome.trial, outcome.seed, label)) for role, label in roles.items()}
        outcome.referred = {**dict.fromkeys(REFERRED), **_bumps(outcome.result, others.get("hold"))}
        outcome.referred["gap_closed"] = _gap_closed(outcome.result, others.get("without_replay"), others.get("union"))


def _bumps(result: Mapping[str, Any], hold: Mapping[str, Any] | None) -> dict[str, float | None]:
    if hold is None or hold is result or "loss_curve" not in result:
        return {}
    last = len(result["matrix"]) - 1
    if any(r["rates"][last].get("anew") for r in (result, hold)):
        return {}  # a model that starts anew knows nothing at its border: its first losses are no cost of going on
    ours, theirs = (_curve(r, last) for r in (result, hold))
    steps = sorted(set(ours) & set(theirs))
    learned = np.array([e["learned_in"] for e in result["evaluation_sets"]])
    excess = {s: ours[s] - theirs[s] for s in steps}
    before, there = ([(s, float(e[where].mean())) for s, e in excess.items()] for where in (learned < last, learned == last))
    length = result["rates"][last]["steps"]
    found, downstream = highest(before, length) if last else None, highest(there, length)
    if found is None or downstream is None:
        return {}
    return {"bump_over_hold": found[0], "bump_over_hold_downstream": downstream[0], "recovery_over_hold": found[2]}


def _curve(result: Mapping[str, Any], experience: int) -> dict[int, np.ndarray]:
    return {p["step"]: np.array(p["losses"]) for p in result["loss_curve"] if p["experience"] == experience}


def _gap_closed(result: Mapping[str, Any], without: Mapping[str, Any] | None, union: Mapping[str, Any] | None) -> float | None:
    if without is None or union is None or "final_loss" not in result["metrics"]:
        return None
    ours, worst, best = (r["metrics"]["final_loss"] for r in (result, without, union))
    return None if None in (ours, worst, best) or worst - best < LEAST_GAP else (worst - ours) / (worst - best)
