"""Experiment files, the grid that runs them, and the verdicts."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.engines import forkserver, local
from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.experiment.statistics import estimate, optimism
from clsuite.training.metrics import derived

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]

SMALL = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2}
model: {name: mlp, hidden: [8]}
training: {epochs: 1}
protocol: fixed
strategies: [naive, {name: replay, buffer_size: 20}]
seeds: 2
expect:
  - replay - naive > 0.0
"""

BAD = """\
import os

from clsuite.strategy import Strategy


class Raises(Strategy):
    def training_step(self, batch):
        print("noise")
        raise ValueError("on purpose")


class Dies(Strategy):
    def training_step(self, batch):
        os._exit(9)
"""

WRONG = {
    "unknown key": ("scenarios: {}\n" + SMALL, "line 1: unknown key 'scenarios'; did you mean 'scenario'"),
    "duplicate key": (SMALL + "seeds: 3\n", "line 9: key 'seeds' is given twice"),
    "alias": (SMALL.replace("{epochs: 1}", "&a {epochs: 1}") + "evaluation: *a\n", "line 9: aliases"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 2: aliases"),
    "deep nesting": (SMALL + "columns: " + "[" * 5000, "nested too deeply"),
    "tag that runs code": (SMALL + "device: !!python/object/apply:os.getcwd []\n", "line 9: could not determine a constructor"),
    "broken YAML": (SMALL.replace("[naive,", "[[naive,"), "line 6: "),
    "empty list": (SMALL.replace("[naive, {name: replay, buffer_size: 20}]", "[]"), "strategies is empty"),
    "same label twice": (SMALL.replace("[naive,", "[naive, naive,"), "line 5: strategies: 'naive' occurs twice"),
    "unknown strategy": (
        SMALL.replace("[naive,", "[niave,").replace("- naive >", "- niave >"),
        "line 5: niave: unknown strategy 'niave'; did you mean 'naive'",
    ),
    "name with dots": (
        SMALL.replace("[naive,", "[../../etc/passwd,").replace("- naive >", "- ../../etc/passwd >"),
        "line 5: ../../etc/passwd: unknown strategy",
    ),
    "name of 300 characters": (SMALL.replace("naive", "x" * 300), f"unknown strategy '{'x' * 77}...'"),
    "misspelt setting": (SMALL.replace("buffer_size", "bufer_size"), "line 5: replay: unknown setting 'strategy.bufer_size'; did you mean 'buffer_size'"),
    "wrong type": (SMALL.replace("epochs: 1", "epochs: many"), "line 3: naive: training.epochs = 'many' is not valid"),
    "value out of bounds": (SMALL.replace("epochs: 1", "epochs: 0"), "line 3: naive: training.epochs = 0 is out of bounds"),
    "group without settings": (SMALL.replace("training: {epochs: 1}", "training: 3"), "line 3: training = 3 is not valid"),
    "stream that cannot be made": (SMALL.replace("experiences: 2", "experiences: 3"), "line 1: naive: scenario.experiences = 3 does not divide 10 classes"),
    "parts that exclude each other": (
        SMALL.replace("[naive, {name: replay,", "[naive, {name: replay+fpf, label: replay, fpf: {times: 2, period: 3},"),
        "line 5: replay: strategy.fpf.times and strategy.fpf.period cannot both be given",
    ),
    "claim about nobody": (SMALL.replace("replay - naive >", "replay - joint >"), "expect: unknown strategy 'joint'"),
    "claim in no form": (SMALL.replace("replay - naive > 0.0", "replay beats naive"), "line 8: expect: 'replay beats naive' is not of the form"),
    "claim on no metric": (
        SMALL.replace("- replay - naive > 0.0", "- {compare: replay - naive > 0.0, metric: acuracy}"),
        "line 8: expect: unknown metric 'acuracy'; did you mean 'final_accuracy'",
    ),
    "column that is none": (SMALL + "columns: [final_acuracy]\n", "line 9: columns: unknown metric 'final_acuracy'; did you mean 'final_accuracy'"),
    "seeds given twice": (SMALL.replace("seeds: 2", "seeds: [1, 1]"), "line 6: seeds = [1, 1] is not valid"),
    "another protocol": (SMALL.replace("fixed", "two-fase"), "line 4: protocol = 'two-fase' is not valid: expected one of"),
    "plug-in that is not there": (SMALL + "plugins: [mine.py]\n", "line 9: plugins: file 'mine.py' does not exist"),
    "limit that is none": (SMALL + "limits: {time: 3}\n", "line 9: unknown setting 'limits.time'; did you mean 'timeout'"),
    "limit out of bounds": (SMALL + "limits: {timeout: 0}\n", "line 9: limits.timeout = 0"),
    "a list instead of a mapping": ("- naive\n", "expected a mapping"),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_in_one_line_before_anything_is_written(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_grid(read(written(tmp_path, text)), tmp_path / "out", workers=1)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'experiment.yaml'}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_overrides_reach_every_cell_and_with_only_its_own(tmp_path: Path) -> None:
    text = SMALL.replace("[naive,", "[naive, {name: naive, label: long, with: {training: {epochs: 5}}},")
    experiment = read(written(tmp_path, text), ["training.batch_size=7", "seeds=[4]"])
    training = {c.label: c.raw["training"] for c in experiment.cells}
    assert training == {"naive": {"epochs": 1, "batch_size": 7}, "long": {"epochs": 5, "batch_size": 7}, "replay": {"epochs": 1, "batch_size": 7}}
    assert [c.seed for c in experiment.cells] == [4, 4, 4]


def test_strategies_of_a_file_beside_the_experiment_go_by_their_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "started", forkserver.started)  # a server of its own, which has read the file too
    (tmp_path / "bad.py").write_text(BAD + "\n\nclass Good(Strategy):\n    pass\n")
    experiment = read(
        written(tmp_path, SMALL.replace("[naive,", "[naive, Good, {name: Good+fpf, label: tuned, fpf: {buffer_size: 20}},") + "plugins: [bad.py]\n")
    )
    outcomes = {o.label: o for o in run_grid(experiment, tmp_path / "out", workers=1)}
    good, naive = outcomes["Good"].result, outcomes["naive"].result
    assert good and naive and good["weights_sha256"] == naive["weights_sha256"]  # a strategy without a rule of its own fine-tunes
    assert outcomes["tuned"].ok


def test_a_mistake_on_the_command_line_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"experiment.yaml: 'training.epochs=0': naive: training.epochs = 0 is out of bounds"):
        run_grid(read(written(tmp_path, SMALL), ["training.epochs=0"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_and_its_settings_may_be_given_apart(tmp_path: Path) -> None:
    experiment = read(written(tmp_path, SMALL.replace("model: {name: mlp, hidden: [8]}", "model: mlp")), ["model.hidden=[4]"])
    assert experiment.cells[0].raw["model"] == {"name": "mlp", "hidden": [4]}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    outcomes = run_grid(read(written(tmp_path, SMALL)), tmp_path / "out", dry_run=True)
    assert [o.result for o in outcomes] == [None] * 4
    assert not (tmp_path / "out").exists()


def test_a_grid_runs_only_what_is_missing_and_a_bad_cell_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    bad = f"[{{name: '{tmp_path}/bad.py:Raises', label: raises}}, {{name: '{tmp_path}/bad.py:Dies', label: dies}}, naive, "
    experiment = read(written(tmp_path, SMALL.replace("[naive, ", bad).replace("seeds: 2", "seeds: 1")))
    first = {o.label: o for o in run_grid(experiment, tmp_path / "out", workers=1)}
    assert first["naive"].result and first["replay"].result
    assert first["raises"].failure == "ValueError: on purpose"
    assert first["dies"].failure == "exited with code 9 without a result"
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("cells/*/*/result.json")}
    assert len(stamps) == 2
    lines: list[str] = []
    run_grid(experiment, tmp_path / "out", workers=1, say=lines.append)
    assert lines[0].startswith("evaluation: 4 cells, 2 finished, 2 failed before (--rerun failed tries them again), 0 to run")
    run_grid(experiment, tmp_path / "out", workers=1, say=lines.append, rerun="failed")
    assert lines[1].startswith("evaluation: 4 cells, 2 finished, 2 to run")
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_results_do_not_depend_on_the_number_of_workers_or_what_a_worker_did_before(tmp_path: Path) -> None:
    experiment = read(written(tmp_path, SMALL))
    one, two = (run_grid(experiment, tmp_path / f"out{k}", workers=k) for k in (1, 2 if (os.cpu_count() or 1) > 1 else 1))
    for a, b in zip(one, two, strict=True):
        assert a.result and b.result
        assert (a.result["metrics"], a.result["matrix"], a.result["weights_sha256"]) == (b.result["metrics"], b.result["matrix"], b.result["weights_sha256"])


def test_an_interval_is_students() -> None:
    e = estimate([0.1, 0.2, 0.3])  # mean 0.2, sd 0.1, t(0.975, 2) = 4.302653
    assert (e.mean, e.spread, e.n) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    assert e.high - e.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert math.isnan(estimate([0.5]).low)


def test_derived_numbers_by_hand() -> None:
    result = {"matrix": [[0.9, None], [0.7, 0.8], [0.5, 0.6]], "metrics": {"steps_to_90": [40, None, 20]}}
    assert derived("first_task_retention", result) == pytest.approx(0.6)
    assert derived("mean_steps_to_90", result) == 30
    assert derived("tasks_at_90", result) == pytest.approx(2 / 3)
    assert derived("mean_steps_to_90", {"matrix": [], "metrics": {}}) is None


def test_optimism_by_hand() -> None:
    # reported .80; its settings on fresh seeds .70 .74 .72 (mean .72), the frozen ones .70 .70 .70
    found = optimism(0.80, {0: 0.70, 1: 0.74, 2: 0.72, 9: 0.1}, {0: 0.70, 1: 0.70, 2: 0.70})  # seed 9 has no partner
    assert found.selection_bias.mean == pytest.approx(0.08)
    assert found.transfer_regret.mean == pytest.approx(0.02)
    assert found.total == pytest.approx(0.10)
    assert found.transfer_regret.n == 3
    # differences 0, .04, .02: sd .02, half width 4.302653 * .02 / sqrt 3
    assert found.transfer_regret.high - 0.02 == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
