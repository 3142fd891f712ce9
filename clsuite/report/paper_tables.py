"""Tables for papers: the ranking and the verdicts as LaTeX (booktabs), Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..experiment.scores import by_seed
from ..experiment.statistics import Estimate, paired
from ..experiment.verdicts import judge
from ..training.metrics import LOWER
from .findings import passes
from .pages.overview import estimates, interval, words
from .pages.panels import is_reference, runs
from .study import Study

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
BEST, TIED = "best", "tied"


@dataclass(frozen=True)
class Ranking:
    """Means with intervals by strategy (best first) and metric. `marks`: `best`, or `tied` where the paired interval does not tell it from the best."""

    labels: list[str]
    metrics: list[str]
    found: dict[str, dict[str, Estimate]]
    """By metric and strategy."""
    marks: dict[str, dict[str, str]]
    references: list[str]
    """Strategies that bound what others can reach: they are neither best nor tied."""
    cost: dict[str, float]


def ranking(study: Study) -> Ranking | None:
    """What the page's ranking holds, and what is best; None without a finished cell."""
    found = {metric: estimates(study, metric) for metric in study.columns}
    metrics = [metric for metric in study.columns if found[metric]]
    if not metrics:
        return None
    first = metrics[0]
    labels = sorted(found[first], key=lambda label: found[first][label].mean * (1 if first in LOWER else -1))
    bounds = [label for label in labels if is_reference(list(runs(study, label).values()))]
    references = bounds if len(bounds) < len(labels) else []
    competing = [label for label in labels if label not in references]
    marks = {metric: _marks(study, metric, {label: found[metric][label] for label in competing if label in found[metric]}) for metric in metrics}
    own = {label: [passes(o) for o in study.done if o.label == label] for label in labels}
    return Ranking(labels, metrics, found, marks, references, {label: sum(v) / len(v) for label, v in own.items() if v})


def _marks(study: Study, metric: str, found: dict[str, Estimate]) -> dict[str, str]:
    """What is best, and what the 95 % interval of the differences, paired by seed, does not tell from it; no interval tells nothing apart."""
    if not found:
        return {}
    sign = 1 if metric in LOWER else -1
    best = min(found, key=lambda label: sign * found[label].mean)
    phase = "run" if study.experiment is None and any(o.phase == "run" for o in study.outcomes) else "evaluation"
    values = {label: by_seed(study.final, label, metric, phase) for label in found}
    marks = {best: BEST}
    for label in found:
        difference = paired(values[label], values[best])
        if label != best and (math.isnan(difference.low) or difference.low <= 0 <= difference.high):
            marks[label] = TIED
    return marks


def latex(text: str) -> str:
    """A text as LaTeX shows it letter by letter, on one line."""
    return "".join(ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def markdown(text: str) -> str:
    """A text in a cell of a Markdown table: what would end the cell or be taken for a tag or emphasis is escaped."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "|*_`[]" else letter for letter in text)


def _tabular(spec: str, heads: Sequence[str], rows: Sequence[Sequence[str]], comments: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Lines of a tabular; notes stand below it over its whole width."""
    lines = [*(f"% {' '.join(c.split())}" for c in comments), rf"\begin{{tabular}}{{{spec}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines.append(r"\bottomrule")
    lines += [rf"\multicolumn{{{len(heads)}}}{{l}}{{\footnotesize {note}}} \\" for note in notes]
    return "\n".join([*lines, r"\end{tabular}", ""])


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], words_: int = 1) -> str:
    """A table in Markdown whose first columns are words, the others numbers."""
    rule = ["---"] * words_ + ["---:"] * (len(heads) - words_)
    lines = ["| " + " | ".join(row) + " |" for row in [heads, rule, *rows]]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def _comma_separated(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if v is None or (isinstance(v, float) and math.isnan(v)) else repr(v) if isinstance(v, float) else v for v in row] for row in rows])
    return out.getvalue()


def ranking_files(study: Study) -> dict[str, str]:
    """`ranking.tex`, `ranking.md` and `ranking.csv` by name; empty without a finished cell."""
    table = ranking(study)
    if table is None:
        return {}
    said = "Mean ± half of the 95 % interval over n seeds; best mean in bold."
    tied = any(TIED in marks.values() for marks in table.marks.values())
    notes = ["not told from the best by the 95 % interval of the differences, paired by seed"] if tied else []
    bounds = f"Not ranked, since they bound what others can reach: {', '.join(table.references)}." if table.references else ""
    n = {label: table.found[table.metrics[0]][label].n for label in table.labels}
    made = {}
    arrows = [r"$\downarrow$" if m in LOWER else r"$\uparrow$" for m in table.metrics]
    rows = [[latex(label), *(_latex_cell(table, m, label) for m in table.metrics), str(n[label])] for label in table.labels]
    heads = ["Strategy", *(f"{latex(words(m).capitalize())} {arrow}" for m, arrow in zip(table.metrics, arrows, strict=True)), "$n$"]
    comments = [r"needs \usepackage{booktabs}", said, *([bounds] if bounds else [])]
    made["ranking.tex"] = _tabular("l" + "r" * (len(heads) - 1), heads, rows, comments, [rf"$^\dagger$ {note}." for note in notes])
    rows = [[markdown(label), *(_markdown_cell(table, m, label) for m in table.metrics), str(n[label])] for label in table.labels]
    heads = ["strategy", *(f"{words(m)} {'↓' if m in LOWER else '↑'}" for m in table.metrics), "n"]
    made["ranking.md"] = _grid(heads, rows, [said, *(f"† {note}." for note in notes), *([markdown(bounds)] if bounds else [])])
    parts = ("", "_low", "_high", "_spread", "_n", "_mark")
    rows_ = [[label, *(v for m in table.metrics for v in _values(table, m, label)), table.cost.get(label)] for label in table.labels]
    made["ranking.csv"] = _comma_separated(["strategy", *(f"{m}{part}" for m in table.metrics for part in parts), "backward_passes"], rows_)
    return made


def _latex_cell(table: Ranking, metric: str, label: str) -> str:
    value, mark = table.found[metric].get(label), table.marks[metric].get(label)
    if value is None:
        return "--"
    text = interval(value).replace("±", r"\pm") + (rf"\ (n = {value.n})" if _fewer(table, metric, label) else "")
    return rf"$\mathbf{{{text}}}$" if mark == BEST else rf"${text}^\dagger$" if mark == TIED else f"${text}$"


def _markdown_cell(table: Ranking, metric: str, label: str) -> str:
    value, mark = table.found[metric].get(label), table.marks[metric].get(label)
    if value is None:
        return "-"
    text = interval(value) + (f" (n = {value.n})" if _fewer(table, metric, label) else "")
    return f"**{text}**" if mark == BEST else text + ("†" if mark == TIED else "")


def _fewer(table: Ranking, metric: str, label: str) -> bool:
    """Whether a metric is defined on other seeds than the first column's, of which the table says the number."""
    return table.found[metric][label].n != table.found[table.metrics[0]][label].n


def _values(table: Ranking, metric: str, label: str) -> list[Any]:
    value = table.found[metric].get(label)
    return [None] * 6 if value is None else [value.mean, value.low, value.high, value.spread, value.n, table.marks[metric].get(label)]


def verdict_files(study: Study) -> dict[str, str]:
    """`verdicts.tex`, `verdicts.md` and `verdicts.csv` by name; empty where the experiment claims nothing."""
    if study.experiment is None or not study.experiment.expectations:
        return {}
    judged = [judge(e, study.experiment, study.outcomes) for e in study.experiment.expectations]
    said = "Differences with 95 % t-intervals: a claim holds beyond its margin, fails on its other side, else it is undecided; n counts seeds."
    texts = [[v.verdict, str(v.expectation), *_bounds(v.difference), str(v.difference.n)] for v in judged]
    heads = ["Verdict", "Claim", "Difference", "95 % interval", "n"]
    rows = [[latex(verdict), latex(claim), f"${mean}$", f"${ends}$", n] for verdict, claim, mean, ends, n in texts]
    made = {"verdicts.tex": _tabular("llrrr", [*map(latex, heads[:4]), "$n$"], rows, [r"needs \usepackage{booktabs}", said])}
    made["verdicts.md"] = _grid(heads, [[verdict, markdown(claim), mean, ends, n] for verdict, claim, mean, ends, n in texts], [said], 2)
    exact = [[v.verdict, str(v.expectation), v.difference.mean, v.difference.low, v.difference.high, v.difference.n, v.of] for v in judged]
    made["verdicts.csv"] = _comma_separated(["verdict", "claim", "difference", "low", "high", "n", "of"], exact)
    return made


def _bounds(difference: Estimate) -> tuple[str, str]:
    if not difference.n:
        return "-", "-"
    return f"{difference.mean:+.4f}", "-" if math.isnan(difference.low) else f"[{difference.low:+.4f}, {difference.high:+.4f}]"
