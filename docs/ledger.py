"""Writes `docs/reproduced.md`: for every method its claim and what became of it here, then every verdict of every experiment.

Verdicts and numbers come from the tables in `docs/results`; `docs/methods.yaml` says which of them stand for a method's claim.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from clsuite_strategies import ALIASES, CATALOGUE, FACTS

DOCS = Path(__file__).resolve().parent
VERDICT = re.compile(r"^- (holds|fails|undecided): (.*)$")
COMMAND = re.compile(r"^`(clsuite grid [^`]*)`")
TOO_LARGE = "too large for our machines"
HEAD = """\
# What was reproduced

Made by `make ledger` from the tables in [results](results/), each of which names the command that makes it again, and from
[methods.yaml](methods.yaml), which says what stands for the claim of a method. A verdict on a row rests on the 95 % interval of
differences paired by seed: `holds`, `fails`, or `undecided`. A method is **reproduced** where all its rows hold, **partly** where some do, **not**
where none does, and **too large for our machines** where its claim needs more than two cores give. `make ledger-test` runs the small rows
(`methods_digits`) again and compares.

"""


class Row(NamedTuple):
    """A verdict of an experiment: its table, the claim as the experiment file has it, the verdict, the numbers."""

    experiment: str
    claim: str
    verdict: str
    numbers: str


def rows(results: Path = DOCS / "results") -> list[Row]:
    """Every verdict in the tables, in the order of the files."""
    found = []
    for file in sorted(results.glob("*.md")):
        for line in file.read_text().splitlines():
            if match := VERDICT.match(line):
                claim, _, numbers = match[2].rpartition(": ")
                claim, numbers = (claim, numbers) if claim.endswith(")") else match[2].split(": ", 1)
                found.append(Row(file.stem, claim, match[1], numbers.removeprefix("difference ")))
    return found


def methods() -> list[dict[str, Any]]:
    """`methods.yaml` with what follows from the tables: `shown` (rows) and `verdict`; raises `KeyError` for a row that is in no table."""
    tables = {(row.experiment, row.claim): row for row in rows()}
    found = []
    for entry in yaml.safe_load((DOCS / "methods.yaml").read_text()):
        shown = [tables[experiment, claim] for experiment, claims in entry.get("rows", {}).items() for claim in claims]
        found.append({**entry, "shown": shown, "verdict": verdict(shown)})
    return found


def verdict(shown: list[Row]) -> str:
    """What the rows of a method amount to."""
    good = sum(row.verdict == "holds" for row in shown)
    return TOO_LARGE if not shown else "reproduced" if good == len(shown) else "partly" if good else "not"


def source(method: str) -> str:
    """Where a method comes from, as `clsuite list strategies` has it."""
    return {**FACTS, **ALIASES}[method]["source"] if method in {*CATALOGUE, *ALIASES} else ""


def command(experiment: str) -> str:
    """The command a table was made by."""
    lines = (DOCS / "results" / f"{experiment}.md").read_text().splitlines()
    return next(match[1] for line in lines if (match := COMMAND.match(line)))


def ledger() -> str:
    """The page."""
    lines = [HEAD + "## Methods", "", "| method | claim | source | our command | our number | verdict |", "|---|---|---|---|---|---|"]
    for entry in methods():
        claim = f"{entry['claim']} ({entry['read']})"
        first = [entry["method"], claim, entry.get("source") or source(entry["method"])]
        if not entry["shown"]:
            lines.append(_line([*first, "", entry["too_large"], f"**{entry['verdict']}**"]))
        for k, row in enumerate(entry["shown"]):
            link = f"[`{command(row.experiment)}`](results/{row.experiment}.md)"
            number = f"{row.claim}: {row.numbers}" + (f" ({row.verdict})" if row.verdict != "holds" else "")
            lines.append(_line([*first, link, number, f"**{entry['verdict']}**"] if k == 0 else ["", "", "", link, number, ""]))
    lines += ["", "## Experiments", "", "| experiment | claim | verdict | numbers |", "|---|---|---|---|"]
    lines += [_line([f"[{row.experiment}](results/{row.experiment}.md)", row.claim, row.verdict, row.numbers]) for row in rows()]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    (DOCS / "reproduced.md").write_text(ledger())
