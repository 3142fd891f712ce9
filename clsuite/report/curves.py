"""`clsuite show schedule` and `clsuite show stream`."""

from __future__ import annotations

import math
from typing import Any

from .. import registry
from ..errors import UsageError
from ..experiment.overrides import parse_overrides
from ..schedule import rates as factors
from .text import console, emit, number, some, table

WIDTH, HEIGHT = 72, 14


def schedule_command(name: str, items: list[str], as_json: bool) -> None:
    """Print the curve of a schedule; `horizon` (or `steps`) and `learning_rate` are not settings of it."""
    values = parse_overrides(items, ())
    if "horizon" in values and "steps" in values:
        raise UsageError(f"steps = {values['steps']!r} and horizon = {values['horizon']!r} are the same thing; give one")
    key = "steps" if "steps" in values else "horizon"
    given, peak = values.pop(key, None), values.pop("learning_rate", None)
    found = registry.load("schedules", name)
    schedule = found(**found.validated(values, f"schedule {name}"))
    peak = (schedule.own_peak or 1.0) if peak is None else peak
    if not isinstance(peak, (int, float)) or isinstance(peak, bool) or not math.isfinite(peak) or peak <= 0:
        raise UsageError(f"learning_rate = {peak!r} is not valid: expected a number > 0")
    horizon = (schedule.own_horizon or 1000) if given is None else given
    if not isinstance(horizon, int) or isinstance(horizon, bool) or not 1 <= horizon <= 10_000_000:
        raise UsageError(f"{key} = {horizon!r} is not valid: expected a whole number from 1 to 10000000")
    schedule.check(horizon)
    *rates, after = [peak * factor for factor in factors(schedule, horizon)]
    start = schedule.decay_start(horizon)
    if as_json:
        document = {"name": name, "settings": schedule.settings(), "horizon": horizon, "learning_rate": peak, "rates": rates}
        return emit({**document, "after": after, "decay_start": start})
    out = console()
    settings = ", ".join(f"{k}={_short(v)}" for k, v in schedule.settings().items())
    out.print(f"{name} ({settings or 'no settings'}), peak {peak:g}, {horizon} steps", style="bold")
    out.print(plot(rates), soft_wrap=True)
    out.print(f"first {rates[0]:.4g}, highest {max(rates):.4g}, last {rates[-1]:.4g}, after it {after:.4g}, mean {sum(rates) / len(rates):.4g}")
    if start is not None:
        out.print(f"final decay from step {start}")
    return None


def _short(value: Any) -> str:
    """A setting on one line, however long a list it is."""
    return f"[{', '.join(f'{v:.4g}' for v in value[:3])}, ... {len(value)} numbers]" if isinstance(value, list) and len(value) > 8 else str(value)


def plot(values: list[float], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A curve in plain characters: the horizontal axis is the step, the vertical starts at 0."""
    top = max(max(values), 1e-300)
    columns = [values[k] for k in some(len(values), width)]
    grid = [[" "] * len(columns) for _ in range(height)]
    before = None
    for x, value in enumerate(columns):
        y = round((height - 1) * min(max(value / top, 0.0), 1.0))
        for filled in range(min(y, y if before is None else before), max(y, y if before is None else before) + 1):
            grid[height - 1 - filled][x] = "|"
        grid[height - 1 - y][x] = "*"
        before = y
    labels = {0: f"{top:.3g}", height // 2: f"{top * (height - 1 - height // 2) / (height - 1):.3g}", height - 1: "0"}
    lines = [f"{labels.get(k, ''):>9} |{''.join(row).rstrip()}" for k, row in enumerate(grid)]
    last = str(len(values) - 1)
    return "\n".join([*lines, f"{'':>9} +{'-' * len(columns)}", f"{'step':>9}  0{last:>{max(len(columns) - 1, len(last) + 1)}}"])


def stream_command(items: list[str], as_json: bool, data_root: str | None) -> None:
    """Print what a stream shows when; no image is decoded."""
    import clsuite

    found = clsuite.stream(*items, data_root=data_root).describe()
    if as_json:
        return emit(found)
    out = console()
    out.print(f"{found['scenario']} of {found['dataset']}, {found['phase']} phase, seed {found['seed']}", style="bold")
    counts = found["samples_per_experience"]
    spread = f"{min(counts):,} to {max(counts):,} an experience"
    out.print(f"experiences {found['experiences']}, classes {found['classes']}, samples {found['samples']:,} ({spread})")
    out.print(f"task borders {_yes(found['borders'])}, task ids {_yes(found['task_ids'])}, evaluation sets {len(found['evaluation_sets'])}")
    out.print(f"fingerprint {found['fingerprint']}", soft_wrap=True)
    shown = some(len(counts))
    last = "tokens" if "tokens_per_experience" in found else "classes"
    in_each = [f"{n:,}" for n in found["tokens_per_experience"]] if last == "tokens" else list(map(_few, found["classes_per_experience"]))
    rows = [(i, f"{counts[i]:,}", f"{found['rehearsed_per_experience'][i]:,}", in_each[i]) for i in shown]
    title = "Experiences" + ("" if len(shown) == len(counts) else f" ({len(shown)} of {len(counts)})")
    out.print(table(title, ("experience", "samples", "of these returning", last), rows, right=(0, 1, 2)))
    sets = [found["evaluation_sets"][j] for j in some(len(found["evaluation_sets"]))]
    title = "Evaluation sets" + ("" if len(sets) == len(found["evaluation_sets"]) else f" ({len(sets)} of {len(found['evaluation_sets'])})")
    out.print(table(title, ("name", "samples", "learned in"), [(s["name"], f"{s['samples']:,}", s["learned_in"]) for s in sets], right=(1, 2)))
    if "recurrence" in found:
        _show_recurrence(out, found["recurrence"])
    return None


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _few(values: list[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 12 else f"{len(values)} classes, {values[0]} to {values[-1]}"


def lag_bins(at_risk: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Rows (first lag, last lag, at risk, returned) over lags 1, 2, 3-4, 5-8, 9-16, ..."""
    bins: dict[int, list[list[int]]] = {}
    for row in at_risk:
        bins.setdefault(math.ceil(math.log2(row[0])) if row[0] > 0 else 0, []).append(row)
    return [(min(r[0] for r in rows), max(r[0] for r in rows), sum(r[1] for r in rows), sum(r[2] for r in rows)) for _, rows in sorted(bins.items())]


def _show_recurrence(out: Any, facts: dict[str, Any]) -> None:
    rows = []
    for low, high, risk, returned in lag_bins(facts.get("at_risk") or []):
        share = returned / risk if risk else 0.0
        error = math.sqrt(share * (1 - share) / risk) if risk else 0.0
        rows.append((f"{low}" if low == high else f"{low} to {high}", f"{risk:,}", f"{returned:,}", f"{share:.4f} ± {error:.4f}"))
    if rows:
        out.print(table("Past tasks that return", ("lag (experiences)", "at risk n", "returned", "share returned ± s.e."), rows, right=(1, 2, 3)))
    if facts.get("exponent") is not None:
        out.print(f"fitted exponent {facts['exponent']:.4f} ± {number(facts.get('error'))} (standard error), scale {number(facts.get('scale'))}")
    elif "exponent" in facts:
        out.print("exponent: not identified by this stream")
    plain = {k: v for k, v in facts.items() if k not in ("at_risk", "exponent", "error", "scale") and isinstance(v, (str, int, float)) and v is not None}
    out.print(", ".join(f"{k} {number(v)}" for k, v in plain.items()), soft_wrap=True)
