"""Writes `docs/reproduced.md` from the tables in `docs/results`: every claim, its command, its verdict with the numbers."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
VERDICT = re.compile(r"^- (holds|fails|undecided): (.*)$")
HEAD = """\
# What was reproduced

Made by `make ledger` from the tables in [results](results/), each of which names the command that makes it again. A verdict rests on the
95 % interval of differences paired by seed: `holds`, `fails`, or `undecided`.

| experiment | claim | verdict | numbers |
|---|---|---|---|
"""


def ledger() -> str:
    """The page."""
    rows = []
    for file in sorted((DOCS / "results").glob("*.md")):
        for line in file.read_text().splitlines():
            if found := VERDICT.match(line):
                claim, _, numbers = found[2].rpartition(": ")
                claim, numbers = (claim, numbers) if claim.endswith(")") else found[2].split(": ", 1)
                rows.append(f"| [{file.stem}](results/{file.name}) | {claim} | {found[1]} | {numbers.removeprefix('difference ')} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (DOCS / "reproduced.md").write_text(ledger())
