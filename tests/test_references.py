"""Metrics that compare a cell with another one of the same seed."""

from __future__ import annotations

from typing import Any

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.expectations import expectation
from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.references import refer, references
from clsuite.experiment.scores import by_seed

pytestmark = pytest.mark.unit


def outcome(label: str, curve: dict[int, list[float]], final: float, seed: int = 0) -> Outcome:
    points = [{"experience": 1, "step": s, "losses": losses} for s, losses in curve.items()]
    result: dict[str, Any] = {
        "matrix": [[2.0, 3.0], [2.0, 2.0]],
        "loss_curve": [{"experience": 0, "step": 1, "losses": [9.0, 9.0]}, *points],
        "evaluation_sets": [{"learned_in": 0}, {"learned_in": 1}],
        "rates": [{"steps": 100}, {"steps": 100}],
        "metrics": {"final_loss": final},
    }
    return Outcome(label, seed, result, None, status="ok")


def test_the_bump_is_the_largest_excess_over_the_held_rate_in_the_first_tenth():
    hold = outcome("hold", {1: [2.0, 3.0], 8: [2.0, 2.9], 50: [2.0, 2.8], 60: [2, 2.8], 70: [2, 2.8]}, 2.4)
    rewarm = outcome("rewarm", {1: [2.1, 3.3], 8: [2.4, 3.0], 50: [1.9, 2.6], 60: [1.9, 2.6], 70: [2.0, 2.6], 80: [9.0, 9.0]}, 2.3)
    refer([hold, rewarm], {"hold": "hold"})
    assert rewarm.referred["bump_over_hold"] == pytest.approx(0.4)
    assert rewarm.referred["bump_over_hold_downstream"] == pytest.approx(0.3)
    assert rewarm.referred["recovery_over_hold"] == 50
    assert hold.referred["bump_over_hold"] is None
    assert by_seed([hold, rewarm], "rewarm", "bump_over_hold") == {0: pytest.approx(0.4)}


def test_only_cells_of_the_same_seed_are_compared():
    hold, rewarm = outcome("hold", {1: [2.0, 3.0]}, 2.4, seed=1), outcome("rewarm", {1: [2.1, 3.3]}, 2.3)
    refer([hold, rewarm], {"hold": "hold"})
    assert rewarm.referred["bump_over_hold"] is None


def test_a_model_that_starts_anew_has_no_bump():
    hold, union = outcome("hold", {1: [2.0, 3.0]}, 2.4), outcome("union", {1: [5.5, 5.5]}, 2.1)
    assert union.result is not None
    union.result["rates"][1]["anew"] = True
    refer([hold, union], {"hold": "hold", "union": "union"})
    assert union.referred["bump_over_hold"] is union.referred["bump_over_hold_downstream"] is None


@pytest.mark.parametrize(("union", "closed"), [(2.0, 0.75), (2.39, None)])
def test_the_share_of_the_gap_that_is_closed_and_none_where_there_is_no_gap(union, closed):
    cells = [outcome("without", {}, 2.4), outcome("replay", {}, 2.1), outcome("union", {}, union)]
    refer(cells, {"without_replay": "without", "union": "union"})
    assert cells[1].referred["gap_closed"] == (None if closed is None else pytest.approx(closed))


@pytest.mark.parametrize(("given", "words"), [({"held": "a"}, "unknown role 'held'"), ({"hold": "b"}, "no strategy"), (["a"], "expected {hold")])
def test_roles_and_labels_are_checked(given, words):
    with pytest.raises(UsageError, match=words):
        references(given, ["a"])


def test_text_has_columns_a_selection_and_expectations_of_its_own(tmp_path):
    file = tmp_path / "text.yaml"
    file.write_text(
        "scenario: llm_pretraining\nstrategies: [naive]\nprotocol: {trials: 2}\nexpect: ['naive < 9.0']\nsearch: {training: {learning_rate: [1e-3, 1e-2]}}\n"
    )
    experiment = read(file)
    assert experiment.columns[0] == experiment.tuning.select_on == experiment.expectations[0].metric == "final_loss"
    assert expectation("a > 1", ["a"], ("evaluation",)).metric == "final_accuracy"
