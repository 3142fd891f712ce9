"""What the cells of an experiment show, in lines: choices, agreement of the phases, optimism, comparisons, verdicts, failures."""

from __future__ import annotations

import itertools
import math

from ..experiment.file import Experiment
from ..experiment.grid import Outcome
from ..experiment.scores import Chosen, by_seed, chosen
from ..experiment.statistics import RankAgreement, compare_all, interquartile_mean, kendall_tau, optimism, performance_profile, ranks
from ..experiment.verdicts import judge
from ..training.metrics import LOWER

COMPARISON = ("difference", "mean [95 % interval]", "Wilcoxon p (Holm)", "P(better)", "n")
OPTIMISM = ("strategy", "reported by conventional tuning", "frozen", "optimism", "= selection bias", "+ transfer regret", "n")
TARGET_SHARE = 0.95
"""Share of the best strategy's mean that counts as reached in a performance profile."""
RATIOS = (1.0, 2.0, 4.0, 8.0)


def chosen_lines(experiment: Experiment, tuned: dict[str, Chosen]) -> list[str]:
    """What was chosen for each strategy, and how far the two phases agree on their order."""
    lines = []
    for label, choice in tuned.items():
        values = ", ".join(f"{path}={value}" for path, value in choice.trial.values.items()) or "nothing to search"
        lines.append(f"chosen for {label}: trial {choice.trial.number} of {choice.trials}: {values}")
    evaluated = {label: c.evaluation for label, c in tuned.items() if c.evaluation is not None}
    if len(evaluated) > 1:
        agreement = kendall_tau({label: tuned[label].score for label in evaluated}, evaluated)
        metric = experiment.tuning.select_on
        moves = _moves(tuned, evaluated, metric not in LOWER)
        lines.append(f"order in tuning and in evaluation: {_tau(agreement)}, on {metric}; {moves}")
    return lines


def _moves(tuned: dict[str, Chosen], evaluated: dict[str, float], higher_is_better: bool) -> str:
    """Which strategies change their rank from the tuning to the evaluation phase."""
    before, after = (ranks(values, higher_is_better) for values in ({label: tuned[label].score for label in evaluated}, evaluated))
    moved = [f"{label} {before[label]:g} -> {after[label]:g}" for label in sorted(after, key=after.__getitem__) if before[label] != after[label]]
    return "ranks that change: " + ", ".join(moved) if moved else "no rank changes"


def _tau(agreement: RankAgreement) -> str:
    if agreement.tau is None:
        return f"Kendall tau is not defined over {agreement.n} strategies"
    p = "" if agreement.p is None else " (p < 0.001)" if agreement.p < 0.001 else f" (p = {agreement.p:.3f})"
    return f"Kendall tau {agreement.tau:.2f}{p} over {agreement.n} strategies"


def optimism_rows(experiment: Experiment, outcomes: list[Outcome]) -> list[list[str]]:
    """By strategy: what tuning on the evaluation stream itself would have reported, what frozen settings reach, and the parts of the difference."""
    metric, rows = experiment.tuning.select_on, []
    for label, choice in chosen(experiment, outcomes, "conventional tuning", "conventional").items():
        fresh, frozen = (by_seed(outcomes, label, metric, phase) for phase in ("conventional", "evaluation"))
        if fresh and frozen and math.isfinite(choice.score):
            found = optimism(choice.score, fresh, frozen)
            parts = [f"{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}]" for e in (found.selection_bias, found.transfer_regret)]
            mean = sum(frozen.values()) / len(frozen)
            rows.append([label, f"{choice.score:.4f}", f"{mean:.4f}", f"{found.total:+.4f}", *parts, str(found.transfer_regret.n)])
    return rows


def optimism_lines(experiment: Experiment, outcomes: list[Outcome]) -> list[str]:
    """How far the order that the conventional practice reports agrees with that of frozen settings."""
    metric = experiment.tuning.select_on
    reported = {label: c.score for label, c in chosen(experiment, outcomes, "conventional tuning", "conventional").items()}
    frozen = {label: sum(v.values()) / len(v) for label in reported if (v := by_seed(outcomes, label, metric))}
    if len(frozen) < 2:
        return []
    return [f"order as the conventional practice reports it and with frozen settings: {_tau(kendall_tau(reported, frozen))}, on {metric}"]


def comparison_rows(experiment: Experiment, outcomes: list[Outcome], metric: str) -> list[list[str]]:
    """A row for every pair of strategies: difference with interval, n, Wilcoxon p with Holm's correction, probability of improvement."""
    scores = {label: by_seed(outcomes, label, metric) for label in experiment.labels}
    rows = []
    for c in compare_all({label: values for label, values in scores.items() if values}):
        d = c.difference
        p = "-" if c.p is None else f"{c.p:.4f} ({c.p_holm:.4f})"
        rows.append([f"{c.a} - {c.b}", f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]", p, f"{c.probability:.2f}", str(d.n)])
    return rows


def middle_lines(experiment: Experiment, outcomes: list[Outcome], metric: str) -> list[str]:
    """Interquartile means, which one lucky or unlucky seed does not move; from four seeds on."""
    found = {label: interquartile_mean(list(by_seed(outcomes, label, metric).values())) for label in experiment.labels}
    shown = [f"{label} {e.mean:.4f} [{e.low:.4f}, {e.high:.4f}]" for label, e in found.items() if not math.isnan(e.low)]
    return [f"interquartile mean of {metric.replace('_', ' ')} (bootstrap intervals, too narrow at few seeds): {'; '.join(shown)}"] if shown else []


def profile_lines(experiment: Experiment, outcomes: list[Outcome], metric: str) -> list[str]:
    """How often each strategy reaches a share of the best mean at what multiple of the cheapest cost."""
    if metric in LOWER:
        return []
    scores = {label: found for label in experiment.labels if (found := by_seed(outcomes, label, metric))}
    done = [o for o in outcomes if o.phase == "evaluation" and o.ok and o.result is not None]
    costs = {label: {o.seed: float(passes(o)) for o in done if o.label == label} for label in scores}
    if not scores:
        return []
    target = TARGET_SHARE * max(sum(values.values()) / len(values) for values in scores.values())
    profile = performance_profile(scores, costs, target, RATIOS)
    ratios = ", ".join(f"{r:g}" for r in RATIOS)
    head = f"share of seeds with {target:.4f} ({TARGET_SHARE:.0%} of the best mean) at up to {ratios} times the fewest backward passes"
    reached = [f"{label} {', '.join(f'{s:.0%}' for s in shares)}" for label, shares in profile.items() if shares[-1] > 0]
    return [f"{head}: {'; '.join(reached) or 'none'}"]


def passes(outcome: Outcome) -> int:
    """Backward passes of a finished cell, those of deployment included."""
    assert outcome.result is not None
    cost = outcome.result["cost"]
    return int(cost["backward_passes"] + cost["deployment"]["backward_passes"])


def verdict_lines(experiment: Experiment, outcomes: list[Outcome]) -> list[str]:
    return [str(judge(e, experiment, outcomes)) for e in experiment.expectations]


def failure_lines(outcomes: list[Outcome], most: int = 20) -> list[str]:
    """Every cell without a good end; a long list is summed up by phase, strategy and status after the first few."""
    failed = [o for o in outcomes if not o.ok]
    lines = []
    for o in failed[:most]:
        trial = "" if o.trial is None else f", trial {o.trial}"
        reason = o.failure or (o.result["reason"] if o.result else "not finished")
        lines.append(f"{o.status if o.status != 'missing' else 'not finished'}: {o.label}{trial}, seed {o.seed} ({o.phase}): {reason}")
    rest = failed[most:]
    for key, members in itertools.groupby(sorted(rest, key=_kind), key=_kind):
        lines.append(f"and {len(list(members))} more cells: {', '.join(key)}")
    return lines


def _kind(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.phase, outcome.label, outcome.status
