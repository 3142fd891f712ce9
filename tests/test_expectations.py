"""What an experiment states that it must show: how it is written, and when it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.expectations import Expectation, Term, expectation
from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.verdicts import judge

pytestmark = pytest.mark.unit

LABELS = ["naive", "replay", "replay + FPF", "a - b"]
PHASES = ("tuning", "evaluation", "conventional")
FILE = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2}
strategies: [naive, {name: replay, buffer_size: 20}]
protocol: %s
"""


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("replay - naive > 0.1", Expectation(Term("replay"), Term("naive"), 0.1)),
        ("replay + FPF - replay > -1e-2", Expectation(Term("replay + FPF"), Term("replay"), -0.01)),
        ("a - b - naive > 0", Expectation(Term("a - b"), Term("naive"), 0.0)),
        ("naive - a - b < .5", Expectation(Term("naive"), Term("a - b"), 0.5, below=True)),
        ("replay > 0.7", Expectation(Term("replay"), None, 0.7)),
        ({"compare": "naive - replay > 0.2", "metric": "forgetting"}, Expectation(Term("naive"), Term("replay"), 0.2, "forgetting")),
        ("replay@conventional - replay > 0", Expectation(Term("replay", "conventional"), Term("replay"), 0.0)),
        ({"trend": "replay - naive > 0"}, Expectation(Term("replay"), Term("naive"), 0.0, trend=True)),
        (
            {"compare": "replay - 0.806 > -0.02", "source": "a paper, Table 1"},
            Expectation(Term("replay"), Term("0.806", value=0.806), -0.02, source="a paper, Table 1"),
        ),
    ],
)
def test_what_people_write_is_understood(given: Any, parsed: Expectation) -> None:
    assert expectation(given, LABELS, PHASES) == parsed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("replay - niave > 0.1", "unknown strategy 'niave'; did you mean 'naive'?"),
        ("replay@tunning - naive > 0", "unknown phase 'tunning'; did you mean 'tuning'?"),
        ({"compare": "replay - naive > 0", "metric": "acuracy"}, "unknown metric 'acuracy'"),
        ("replay beats naive", "is not of the form 'A - B > margin'"),
        ("replay - naive > much", "is not of the form"),
        ("replay - 0.8 > 0", "names no source"),
        ({"compare": "0.9 - 0.8 > 0", "source": "x"}, "compares no strategy"),
        ({"compare": "replay > 0", "trend": "replay > 0"}, "give one of 'compare'"),
        ({"trend": "replay > 0", "metric": "forgetting"}, "'trend' (without)"),
        ({"compares": "replay > 0"}, "is not valid"),
        (7, "is not valid"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(given: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        expectation(given, LABELS, PHASES)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_phase_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"there is no phase 'conventional' here \(valid with this protocol: tuning, evaluation\)"):
        expectation("replay@conventional - replay > 0", LABELS, ("tuning", "evaluation"))


@pytest.fixture
def experiment(tmp_path: Path):
    def make(*entries: str, protocol: str = "fixed"):
        path = tmp_path / "experiment.yaml"
        path.write_text(FILE % protocol + "expect:\n" + "".join(f"  - {e}\n" for e in entries))
        return read(path)

    return make


def outcome(label: str, seed: int, value: float | None, curve: list[float] | None = None, **where: Any) -> Outcome:
    if value is None:
        return Outcome(label, seed, None, "killed", status="killed", **where)
    matrix = [[v] for v in curve or [value]]
    result = {"status": "ok", "metrics": {"final_accuracy": value, "average_incremental_accuracy": value}, "matrix": matrix}
    return Outcome(label, seed, {**result, "evaluation_sets": [{"samples": 10, "learned_in": 0}]}, status="ok", **where)


def both(replay: list[float | None], naive: list[float | None]) -> list[Outcome]:
    return [outcome("replay", s, v) for s, v in enumerate(replay)] + [outcome("naive", s, v) for s, v in enumerate(naive)]


@pytest.mark.parametrize(
    ("replay", "naive", "statement", "verdict"),
    [
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], "replay - naive > 0.3", "holds"),
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], "replay - naive > 0.5", "fails"),
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], "replay - naive < 0.5", "holds"),
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.52], "replay - naive < 0.3", "fails"),
        ([0.9, 0.6, 0.5], [0.5, 0.51, 0.52], "replay - naive > 0.1", "undecided"),
        ([0.9, 0.91], [0.5, 0.51], "replay - naive > 0.1", "undecided"),  # two pairs are too few, whatever they say
        ([0.9, 0.91, None], [0.5, 0.51, 0.52], "replay - naive > 0.1", "undecided"),  # a failed cell takes its pair away
        # seeds differ by 0.3, the difference within a seed is 0.1 throughout: unpaired intervals would overlap
        ([0.3, 0.6, 0.9], [0.2, 0.5, 0.8], "replay - naive > 0.05", "holds"),
        ([0.9, 0.91, 0.92], [0.5], "replay > 0.85", "holds"),
        ([0.9, 0.91, 0.92], [0.5], "replay > 0.95", "fails"),
        # mean .91, sd .01, half width 4.302653 * .01 / sqrt 3 = .0248: the interval ends at .8852
        ([0.9, 0.91, 0.92], [0.5], "replay > 0.886", "undecided"),
        ([0.9, 0.91, 0.92], [0.5], "{compare: replay - 0.8 > 0.08, source: by hand}", "holds"),
        ([0.9, 0.91, 0.92], [0.5], "{compare: 0.8 - replay > -0.05, source: by hand}", "fails"),
    ],
)
def test_a_verdict_follows_from_the_interval_of_the_differences(replay, naive, statement, verdict, experiment) -> None:
    made = experiment(statement)
    assert judge(made.expectations[0], made, both(replay, naive)).verdict == verdict


def test_a_trend_is_judged_by_the_slopes_of_the_curves(experiment) -> None:
    falling = [outcome("naive", s, 0.5, [0.9 - s / 100, 0.7, 0.5 + s / 100]) for s in range(3)]  # slopes -.2, -.19, -.18
    level = [outcome("replay", s, 0.8, [0.8, 0.9, 0.8]) for s in range(3)]  # slope 0
    made = experiment("{trend: naive < -0.1}", "{trend: replay - naive > 0.15}", "{trend: replay > 0.01}")
    verdicts = [judge(e, made, falling + level) for e in made.expectations]
    assert [v.verdict for v in verdicts] == ["holds", "holds", "fails"]
    assert verdicts[0].difference.mean == pytest.approx(-0.19)
    assert verdicts[1].of == "pairs" and verdicts[1].difference.mean == pytest.approx(0.19)


def test_phases_are_compared_by_pairs_only_where_they_share_seeds(experiment) -> None:
    made = experiment(
        "naive@conventional - naive > 0.05", "naive@tuning - naive > 0.05", protocol="{name: two-phase, trials: 2, optimism: true, finalist_seeds: 0}"
    )
    cells = [outcome("naive", s, v) for s, v in enumerate([0.3, 0.6, 0.9])]
    cells += [outcome("naive", s, v, phase="conventional") for s, v in enumerate([0.4, 0.7, 1.0])]
    cells += [outcome("naive", 1000 + s, v, phase="tuning", trial=t) for t, values in enumerate([[0.4, 0.7], [0.1, 0.1]]) for s, v in enumerate(values)]
    pairs, means = (judge(e, made, cells) for e in made.expectations)
    assert (pairs.verdict, pairs.of, pairs.difference.n) == ("holds", "pairs", 3)
    assert (means.verdict, means.of) == ("undecided", "two means")
    assert means.difference.mean == pytest.approx(0.55 - 0.6)  # the winner's seeds alone, not those of trial 1


def test_a_verdict_says_its_numbers(experiment) -> None:
    made = experiment("{compare: replay - 0.8 > 0.08, source: by hand}")
    text = str(judge(made.expectations[0], made, both([0.9, 0.91, 0.92], [0.5])))
    assert text == "holds: replay - 0.8 > 0.08 (final_accuracy; by hand): 0.1100 [0.0852, 0.1348], n = 3 seeds"
