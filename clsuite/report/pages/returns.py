"""When tasks come back: how often by the time since they were last performed, with the fitted exponent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..curves import lag_bins
from ..page import Figure, Section, Table
from ..study import Study
from .panels import LEGEND, short

if TYPE_CHECKING:
    from .scenario import Variant

GREY = "#808080"
FITS = 10
"""Fitted lines of one stream that are drawn, one a seed."""


def section(study: Study, variants: list[Variant]) -> Section | None:
    """Gaps and fits of the streams that are reported; None where no task returns."""
    found = [(v, facts) for v in variants if (facts := _facts(v))]
    if not found:
        return None
    figure = _gaps(study, found)
    said = "A past task is at risk of a return in every later experience; the lag counts experiences since it was last performed (or first learned)."
    return Section("What comes back", said, [*([figure] if figure else []), _fits(study, found)])


def _facts(variant: Variant) -> dict[int, dict[str, Any]]:
    """What the streams of the cells say of their recurrence, by seed."""
    found: dict[int, dict[str, Any]] = {}
    for o in variant.outcomes:
        facts = None if o.result is None else o.result["stream"].get("recurrence")
        if isinstance(facts, dict) and facts:
            found.setdefault(o.seed, facts)
    return dict(sorted(found.items()))


def _pooled(facts: dict[int, dict[str, Any]]) -> list[tuple[int, int, int, int]]:
    """Bins of lags (first, last, at risk, returned) over all seeds."""
    by_lag: dict[int, list[int]] = {}
    for own in facts.values():
        for lag, risk, returned in own.get("at_risk") or []:
            total = by_lag.setdefault(lag, [lag, 0, 0])
            total[1] += risk
            total[2] += returned
    return lag_bins([by_lag[lag] for lag in sorted(by_lag)])


def _gaps(study: Study, found: list[tuple[Variant, dict[int, dict[str, Any]]]]) -> Figure | None:
    traces: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for variant, facts in found:
        look, bins = study.looks[variant.labels[0]], [b for b in _pooled(facts) if b[2]]
        name = short(", ".join(variant.labels), 40)
        x = [math.sqrt(low * high) for low, high, _, _ in bins]
        shares = [returned / risk for _, _, risk, returned in bins]
        hover = [
            f"lag {low} to {high}: {returned:,} of {risk:,} returned ({share:.4f})" for (low, high, risk, returned), share in zip(bins, shares, strict=True)
        ]
        mark = {"color": look.colour, "symbol": look.marker, "size": 9}
        shown = {"mode": "markers", "name": f"{name}, n = {len(facts)} seeds", "legendgroup": name, "hovertext": hover, "hoverinfo": "text"}
        traces.append({"type": "scatter", "x": x, "y": [s or None for s in shares], "marker": mark, **shown})
        traces += [
            _fitted(own, bins, look.colour, name) for own in list(facts.values())[:FITS] if bins and own.get("scale") and own.get("exponent") is not None
        ]
        if len(found) == 1 and (asked := _asked(variant, facts, bins)):
            traces.append(asked)
        rows += [[", ".join(variant.labels), *b, share] for b, share in zip(bins, shares, strict=True)]
    if not rows:
        return None
    layout = {
        "xaxis": {"type": "log", "title": {"text": "lag (experiences, log scale)"}, **_marks(0, 4)},
        "yaxis": {"type": "log", "title": {"text": "share that returns (log scale)"}, **_marks(-5, 0)},
        "legend": LEGEND,
    }
    text = (
        "A mark: of the past tasks whose last visit lies so far back, the share that returned, over all seeds in bins of lags (1, 2, 3-4, 5-8, ...). "
        "Thin lines: the law fitted to each seed. A power law is a straight line, its exponent the steepness."
    )
    heads = ["strategies", "first lag", "last lag", "at risk", "returned", "share"]
    return Figure("return_gaps", "How long tasks rest before they return", text, traces, layout, (heads, rows), height=440)


def _marks(first: int, last: int) -> dict[str, list[Any]]:
    """Ticks at 1, 2 and 5 of every decade."""
    values = [float(f"{digit}e{decade}") for decade in range(first, last + 1) for digit in (1, 2, 5)]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _fitted(facts: dict[str, Any], bins: list[tuple[int, int, int, int]], colour: str, group: str) -> dict[str, Any]:
    law = _law(facts["scale"], facts["exponent"], bins)
    return {**law, "line": {"color": colour, "width": 1}, "opacity": 0.5, "showlegend": False, "legendgroup": group, "hoverinfo": "skip"}


def _law(scale: float, exponent: float, bins: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    first, last = bins[0][0], bins[-1][1]
    x = [first * (last / first) ** (k / 40) for k in range(41)]
    return {"type": "scatter", "mode": "lines", "x": x, "y": [min(1.0, scale * lag**-exponent) for lag in x]}


def _asked(variant: Variant, facts: dict[int, dict[str, Any]], bins: list[tuple[int, int, int, int]]) -> dict[str, Any] | None:
    """The law that the settings ask for, where every task returns by itself; a control, which has a name of its own, follows another."""
    settings, own = variant.wanted["scenario"], next(iter(facts.values()))
    if not bins or own.get("reading") != "independent" or own.get("control") != settings.get("name") or "scale" not in settings:
        return None
    law = _law(settings["scale"], settings["exponent"], bins)
    return {**law, "line": {"color": GREY, "width": 2, "dash": "dot"}, "name": "asked for", "hoverinfo": "skip"}


def _fits(study: Study, found: list[tuple[Variant, dict[int, dict[str, Any]]]]) -> Table:
    rows = []
    for variant, facts in found:
        asked = variant.wanted["scenario"].get("exponent")
        for seed, own in facts.items():
            values = [own.get(name) for name in ("exponent", "error", "scale", "mean_lag", "rehearsed_samples", "forced")]
            rows.append([", ".join(variant.labels), seed, own.get("control"), asked, *values])
    heads = [
        "strategies",
        "seed",
        "kind",
        "exponent asked",
        "exponent fitted",
        "standard error",
        "scale",
        "mean lag (experiences)",
        "returned samples",
        "forced",
    ]
    said = (
        "By maximum likelihood; a dash: this stream does not tell one (nothing returns, or at one lag alone). Forced: experiences that would have been empty."
    )
    return Table("recurrence", "Fitted recurrence", heads, rows, said, search=len(rows) > 20)
