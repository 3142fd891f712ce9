"""What strategies trained on: tokens by experience, what was replayed of them, and what was spent beside the line that goes on."""

from __future__ import annotations

from typing import Any

from ..losses import Losses, Result, steps_of
from ..page import Cell, Figure, Section, Table
from .lines import GREY, look_of
from .panels import short

STACKED = 6
"""Experiences up to which each has a part of its own in a bar."""
SHADES = ("#31446B", "#666970", "#958F78", "#CBBA69", "#4B5C8A", "#B0A574")
"""Of experiences, first to last: in between the ends of Cividis, which vanish on a dark or a light page."""

HEADS = (
    "strategy",
    "tokens trained on",
    "steps by experience",
    "tokens of the line",
    "replayed share",
    "replayed tokens by corpus",
    "drawn tokens by corpus",
    "tokens beside the line",
    "tokens per second",
)


def parts(result: Result) -> dict[str, Any]:
    """Samples a run trained on: `current` and `replayed` by experience, `drawn` by corpus where sampling says so, `beside` the line, `total`.

    What a part of the run reports (`trained` and `replayed` samples) is exact. Else steps divide what was passed backwards among experiences;
    passes beyond all steps' batches are those of searches and branches, which train beside the line that goes on.
    """
    count, steps = len(result["matrix"]), steps_of(result)
    total = int(result["cost"]["backward_passes"] + result["cost"]["deployment"]["backward_passes"])
    reports = [r for r in result["reports"].values() if isinstance(r, dict)]
    told = next((r for r in reports if len(r.get("trained") or ()) == len(r.get("replayed") or ()) == count), None)
    drawn = next((r["sampled"] for r in reports if isinstance(r.get("sampled"), list) and len(r["sampled"]) == count), None)
    if told is not None:
        current, replayed = [float(v) for v in told["trained"]], [float(v) for v in told["replayed"]]
    else:
        batches = [float(s * result["spec"]["training"]["batch_size"]) for s in steps]
        line = min(sum(batches), float(result["cost"]["backward_passes"]))
        current, replayed = [b * line / sum(batches) if sum(batches) else 0.0 for b in batches], [0.0] * count
    beside = max(0.0, total - sum(current) - sum(replayed))
    return {"current": current, "replayed": replayed, "drawn": drawn, "beside": beside, "total": total, "told": told is not None}


def section(losses: Losses) -> Section | None:
    """A table and bars of the tokens that strategies trained on."""
    context = {int(r["spec"]["scenario"]["context"]) for r in losses.results()}
    if len(context) != 1:
        return None  # windows of different lengths cannot be counted together
    size = context.pop()
    found = {label: _mean([parts(r) for r in own.values()]) for label, own in losses.cells.items()}
    rows = [_row(losses, label, found[label], size) for label in found]
    said = (
        "Tokens are windows passed backwards times their length, mean over seeds. The replayed share is of all tokens of the line after the first experience. "
        "Beside the line: branches that are annealed to be measured, searches of a rate, and deployment."
    )
    told = [k for k in range(len(HEADS)) if k < 3 or any(row[k] is not None and row[k].value for row in rows)]
    table = Table("tokens", "Tokens and replay", [HEADS[k] for k in told], [[row[k] for k in told] for row in rows], said)
    alike = len({(tuple(f["current"]), tuple(f["replayed"]), f["beside"]) for f in found.values()}) == 1
    return Section("Tokens and replay", "What was trained on, whatever machine it ran on.", [*([] if alike else [_bars(losses, found, size)]), table])


def _mean(all_: list[dict[str, Any]]) -> dict[str, Any]:
    n = len(all_)
    lists = {key: [sum(p[key][i] for p in all_) / n for i in range(len(all_[0][key]))] for key in ("current", "replayed")}
    drawn = None if any(p["drawn"] is None for p in all_) else [sum(p["drawn"][i] for p in all_) / n for i in range(len(all_[0]["drawn"]))]
    return {**lists, "drawn": drawn, **{key: sum(p[key] for p in all_) / n for key in ("beside", "total")}, "told": all(p["told"] for p in all_)}


def _row(losses: Losses, label: str, found: dict[str, Any], size: int) -> list[Any]:
    line, again = sum(found["current"]) + sum(found["replayed"]), sum(found["replayed"])
    later = line - found["current"][0]
    share = again / later if found["told"] and later else None  # where nothing reports it, what is current may hold earlier text too
    one = next(iter(losses.cells[label].values()))
    speeds = [r["metrics"]["tokens_per_second"] for r in losses.cells[label].values() if r["metrics"].get("tokens_per_second")]
    speed = sum(speeds) / len(speeds) if speeds else None
    return [
        Cell(label, label, look_of(losses, label).colour),
        _count(found["total"] * size),
        Cell(_list(steps_of(one)), sum(steps_of(one))),
        _count(line * size),
        None if share is None else Cell(f"{share:.2%}", share),
        Cell(_list(found["replayed"], size), again * size) if again else None,
        None if found["drawn"] is None else Cell(_list(found["drawn"], size), sum(found["drawn"]) * size),
        _count(found["beside"] * size),
        None if speed is None else Cell(f"{speed:,.0f}", speed),
    ]


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", value)


def _list(numbers: list[Any], size: int = 1, most: int = 6) -> str:
    shown = " + ".join(f"{v * size:,.0f}" for v in numbers[:most])
    return shown + (f" + ... ({len(numbers)})" if len(numbers) > most else "")


def _bars(losses: Losses, found: dict[str, dict[str, Any]], size: int) -> Figure:
    labels = list(found)[::-1]
    count = losses.experiences
    each = range(count) if count <= STACKED else ()
    names = [losses.corpora[losses.learned.index(i)] if i in losses.learned else f"experience {i}" for i in range(count)]
    kinds: list[tuple[str, str, str, list[float]]] = []
    if each:
        kinds += [(f"in experience {i} ({short(names[i], 24)})", SHADES[i % len(SHADES)], "", [found[n]["current"][i] for n in labels]) for i in each]
        kinds += [(f"replayed of {short(names[i], 24)}", SHADES[i % len(SHADES)], "/", [found[n]["replayed"][i] for n in labels]) for i in each]
    else:
        kinds += [
            ("current corpus", SHADES[0], "", [sum(found[n]["current"]) for n in labels]),
            ("replayed", SHADES[0], "/", [sum(found[n]["replayed"]) for n in labels]),
        ]
    kinds.append(("beside the line", GREY, ".", [found[n]["beside"] for n in labels]))
    traces = []
    for name, colour, shape, values in kinds:
        if not any(values):
            continue
        pattern = {"shape": shape, "fillmode": "replace", "fgcolor": colour, "size": 6} if shape else {}
        style = {"color": colour, "line": {"color": colour, "width": 1}, **({"pattern": pattern} if pattern else {})}
        bar = {"type": "bar", "orientation": "h", "y": list(range(len(labels))), "x": [round(v * size) for v in values], "name": name, "marker": style}
        traces.append({**bar, "hovertemplate": "%{x:,} tokens"})
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "tokens trained on"}},
        "yaxis": {
            "tickvals": list(range(len(labels))),
            "ticktext": [short(label, 24) for label in labels],
            "zeroline": False,
            "range": [-0.6, len(labels) - 0.4],
        },
        "margin": {"l": 10, "r": 15, "t": 10, "b": 45},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "bargap": 0.35,
    }
    rows = [[n, i, found[n]["current"][i] * size, found[n]["replayed"][i] * size] for n in found for i in range(count)]
    rows += [[n, "beside the line", found[n]["beside"] * size, 0] for n in found]
    text = (
        "Tokens that every strategy trained on, by the experience it trained on them in (filled), or whose they were when it replayed them later (hatched). "
        "Where nothing reports replay, steps divide the tokens among experiences."
    )
    heads = ["strategy", "experience", "current_tokens", "replayed_tokens_of_it"]
    return Figure("tokens_trained", "Tokens trained on", text, traces, layout, (heads, rows), 150 + 30 * len(labels))
