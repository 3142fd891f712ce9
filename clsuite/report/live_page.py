"""A watched folder as a page: one document without anything from elsewhere.

The page is whole as it comes; where there is JavaScript, it asks `/state.json` every few seconds whether something has changed and then takes
the new content out of a new document, so that what is written here is the only place that turns a name into markup.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from html import escape
from typing import Any

from .live_words import at_work, better, bounds, clean, comparable, ending, heading, line, progress, statuses, value, who

EVERY_SECONDS = 3
WIDTH, HEIGHT, EDGE = 240, 48, 4

STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --dim: #5c5c5c; --back: #fff; --line: #d8d8d8; --curve: #0072b2; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --dim: #a9a9a9; --back: #161616; --line: #3a3a3a; --curve: #56b4e9; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--back); color: var(--text); font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.2rem; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
progress { width: 100%; height: 1.1rem; accent-color: var(--curve); }
.scroll { overflow-x: auto; } .dim { color: var(--dim); } .bad { color: var(--bad); }
table { border-collapse: collapse; } th, td { padding: .25rem .6rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: middle; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td, li, summary, p, pre { overflow-wrap: anywhere; } .label { min-width: 5rem; max-width: 20rem; }
ul { padding-left: 1.1rem; } pre { overflow-x: auto; font-size: .8rem; border-left: 3px solid var(--line); padding-left: .6rem; }
svg { display: block; width: 15rem; max-width: 40vw; height: 3rem; }
path { fill: none; stroke: var(--curve); stroke-width: 2; vector-effect: non-scaling-stroke; }
circle { fill: var(--curve); }
.frame { stroke: var(--line); stroke-width: 1; }
.ends { display: flex; justify-content: space-between; width: 15rem; max-width: 40vw; }
@media (max-width: 36rem) { svg, .ends { max-width: 30vw; } .curves .number { white-space: normal; min-width: 5rem; } }
"""

SCRIPT = """
(function () {
  var before = null;
  var said = document.getElementById("connection");
  function news(state) {
    var copy = Object.assign({}, state, {time: 0, remaining_seconds: 0, rate_per_minute: 0});
    return JSON.stringify(copy) + Math.floor(state.time / 10);
  }
  function open(root) {
    return Array.from(root.querySelectorAll("details[open]")).map(function (d) { return d.dataset.key; });
  }
  async function look() {
    try {
      var state = await (await fetch("/state.json", {cache: "no-store"})).json();
      if (news(state) !== before) {
        var text = await (await fetch("/", {cache: "no-store"})).text();
        var fresh = document.importNode(new DOMParser().parseFromString(text, "text/html").querySelector("main"), true);
        var kept = document.querySelector("main");
        var unfolded = open(kept);
        var focused = document.activeElement && document.activeElement.id;
        fresh.querySelectorAll("details").forEach(function (d) { d.open = unfolded.indexOf(d.dataset.key) >= 0; });
        kept.replaceWith(fresh);
        if (focused && document.getElementById(focused)) { document.getElementById(focused).focus(); }
        before = news(state);
      }
      said.textContent = "";
    } catch (error) {
      said.textContent = "The watcher does not answer: this is what it said last.";
    }
    setTimeout(look, EVERY);
  }
  setTimeout(look, EVERY);
})();
""".replace("EVERY", str(1000 * EVERY_SECONDS))


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser lets the page do: run its own script, use its own style, ask where it came from; no request to anywhere else."""


def document(state: dict[str, Any]) -> str:
    """The whole page of a state."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_text(progress(state))}: {_text(state['folder'])}</title>"
        f'<noscript><meta http-equiv="refresh" content="{EVERY_SECONDS + 2}"></noscript><style>{STYLE}</style></head>'
        f'<body><main>{_content(state)}</main><p id="connection" class="bad" role="status"></p><script>{SCRIPT}</script></body></html>\n'
    )


def _text(value: object) -> str:
    return escape(clean(value), quote=True)


def _content(state: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(state["time"]))
    parts = [f"<h1>{_text(state['folder'])}</h1>", f'<p class="dim">as of {at}</p>']
    if state["phases"]:
        done = state["expected"] - state["left"]
        parts.append(f'<progress max="{max(state["expected"], 1)}" value="{done}" aria-label="cells that have ended"></progress>')
    said = ending(state) if state["ended"] else [line(state)]
    parts += [f"<p>{_text(text)}</p>" for text in said[:3]]
    if state["phases"]:
        parts.append(_counts(state))
    if state["running"]:
        parts.append(f"<h2>Running: {len(state['running'])}</h2><ul>")
        parts += [f"<li>{_text(at_work(cell, state['time']))}</li>" for cell in state["running"]]
        parts.append("</ul>")
    parts += [_curves(group) for group in comparable(state)]
    if state["failures"]:
        parts.append(_failures(state))
    if state["report"]:
        parts.append(f"<h2>Report</h2><p>The static report lies at <code>{_text(state['report'])}</code>: open it from there.</p>")
    return "\n".join(parts)


def _counts(state: dict[str, Any]) -> str:
    used = statuses(state)
    head = "".join(f'<th class="number" scope="col">{_text(s)}</th>' for s in (*used, "planned"))
    rows = [
        f'<tr><th scope="row">{_text(phase)}</th>' + "".join(f'<td class="number">{n}</td>' for n in (*(c.get(s, 0) for s in used), sum(c.values()))) + "</tr>"
        for phase, c in state["phases"].items()
    ]
    return f'<div class="scroll"><table><tr><th scope="col">phase</th>{head}</tr>{"".join(rows)}</table></div>'


def _failures(state: dict[str, Any]) -> str:
    shown = state["failures"]
    more = f" (the latest {len(shown)}; clsuite status lists all)" if len(shown) < state["failed"] else ""
    parts = [f"<h2>Failed: {state['failed']}{more}</h2><ul>"]
    for k, cell in enumerate(shown):
        said = f'<span class="bad">{_text(cell["status"])}</span>: {_text(who(cell))}: {_text(cell["reason"])}'
        if cell["log"]:
            key = _text(f"{cell['cell']} {cell['ended']}")
            log = "\n".join(_text(text) for text in cell["log"])
            parts.append(f'<li><details data-key="{key}"><summary id="failure-{k}">{said}</summary><pre>{log}</pre></details></li>')
        else:
            parts.append(f"<li>{said}</li>")
    return "".join(parts) + "</ul>"


def _curves(curves: Sequence[dict[str, Any]]) -> str:
    low, high = bounds(curves)
    count = len(curves[0]["values"]) // curves[0]["per_experience"]
    ends = '<div class="ends dim"><span>1</span>' + (f"<span>{count}</span>" if count > 1 else "") + "</div>"
    rows = "".join(
        f'<tr><td class="label">{_text(curve["label"])}</td><td>{_drawn(curve, low, high)}</td><td class="number">{_text(value(curve))}</td></tr>'
        for curve in curves
    )
    return (
        f'<h2>{_text(heading(curves))}</h2><p class="dim">Vertical: {low:.3g} to {high:.3g}, the same in every row; {better(curves)}. Horizontal: experience. '
        "At the end: mean ± standard deviation over n cells.</p>"
        f'<div class="scroll"><table class="curves"><tr><th scope="col">strategy</th><th scope="col">by experience{ends}</th>'
        f'<th class="number" scope="col">at the end</th></tr>{rows}</table></div>'
    )


def _drawn(curve: dict[str, Any], low: float, high: float) -> str:
    """A curve as a line, broken where nothing was measured; a point where there is but one."""
    values, span = curve["values"], (high - low) or 1.0
    steps = max(len(values) - 1, 1)
    known = [(EDGE + (WIDTH - 2 * EDGE) * k / steps, EDGE + (HEIGHT - 2 * EDGE) * (high - v) / span, k) for k, v in enumerate(values) if v is not None]
    pen = "".join(f"{'L' if n and known[n - 1][2] == k - 1 else 'M'}{x:.1f} {y:.1f}" for n, (x, y, k) in enumerate(known))
    drawn = f'<circle cx="{known[0][0]:.1f}" cy="{known[0][1]:.1f}" r="3"/>' if len(known) == 1 else f'<path d="{pen}"/>'
    words = f"from {values[known[0][2]]:.3g} to {values[known[-1][2]]:.3g}" if known else "nothing measured yet"
    frame = f'<path class="frame" d="M0 0V{HEIGHT}H{WIDTH}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{words}">{frame}{drawn}</svg>'
