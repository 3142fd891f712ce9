"""`docs/reproduced.md` is what the tables say, and its small rows come out again."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.experiment.verdicts import judge
from clsuite_strategies import ALIASES, CATALOGUE, FACTS

ROOT = Path(__file__).resolve().parent.parent
SMALL = "methods_digits"
NEAR = 0.03
"""How far means and ends of intervals may lie from the table's: other processors round otherwise, and runs drift apart."""


@pytest.fixture(scope="module")
def ledger() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ledger", ROOT / "docs" / "ledger.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.unit
def test_the_ledger_holds_every_verdict_of_the_results(ledger: ModuleType) -> None:
    page = (ROOT / "docs" / "reproduced.md").read_text()
    assert page == ledger.ledger(), "run `make ledger`"
    said = [line for f in (ROOT / "docs" / "results").glob("*.md") for line in f.read_text().splitlines() if re.match("- (holds|fails|undecided): ", line)]
    assert len(ledger.rows()) == len(said) > 20
    assert page.partition("## Experiments")[2].count("| [") == len(said)


@pytest.mark.unit
def test_every_method_has_a_row_and_the_catalogue_says_its_verdict(ledger: ModuleType) -> None:
    methods = {entry["method"]: entry["verdict"] for entry in ledger.methods()}
    assert len(methods) == len(ledger.methods())
    assert set(methods) == {*CATALOGUE, *ALIASES}
    assert {name: {**FACTS, **ALIASES}[name].get("reproduced") for name in methods} == methods


@pytest.mark.unit
@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["holds", "holds"], "reproduced"),
        (["holds", "fails"], "partly"),
        (["holds", "undecided"], "partly"),
        (["undecided", "fails"], "not"),
        ([], "too large"),
    ],
)
def test_a_method_is_as_good_as_its_rows(ledger: ModuleType, verdicts: list[str], said: str) -> None:
    assert ledger.verdict([ledger.Row("an experiment", "a - b > 0 (final_accuracy)", v, "") for v in verdicts]).startswith(said)


@pytest.mark.ledger
def test_the_small_rows_come_out_again(ledger: ModuleType, tmp_path: Path) -> None:
    experiment = read(ROOT / "experiments" / f"{SMALL}.yaml")
    outcomes = run_grid(experiment, tmp_path / "out", workers=2)
    assert {o.status for o in outcomes} == {"ok"}
    table = {row.claim: row for row in ledger.rows() if row.experiment == SMALL}
    assert len(table) == len(experiment.expectations) > 20
    for expectation in experiment.expectations:
        found, row = judge(expectation, experiment, outcomes), table[str(expectation)]
        then = [float(x) for x in re.findall(r"-?\d+\.\d+", row.numbers)]
        now = [found.difference.mean, found.difference.low, found.difference.high]
        assert now == pytest.approx(then, abs=NEAR), row
        undecidable = any(abs(end - expectation.margin) < NEAR for end in now[1:])
        assert found.verdict == row.verdict or undecidable, row
