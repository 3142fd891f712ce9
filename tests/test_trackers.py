"""What trackers are told: what the store says, each cell once, steps that only grow, nothing secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.results import rows
from clsuite.interop.trackers.cells import Cells
from clsuite.interop.trackers.log import BURST, LogReader, Pace, point
from clsuite.interop.trackers.outcome import matrix, picture, seen_accuracy
from clsuite.interop.trackers.record import Record
from clsuite.interop.trackers.redact import HIDDEN, clean

from .fake_trackers import CALLS, Fake, Forgetful, calls
from .tracked_folders import Clock, begun, call, copy_of, finished_grid, loss, mirror, own_environment, result_of

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def copied(folder, tmp_path):
    return copy_of(folder, tmp_path)


@pytest.fixture
def growing(copied):
    return begun(copied)


@pytest.fixture(autouse=True)
def surroundings():
    with own_environment():
        yield


@pytest.fixture
def told(tmp_path):
    """The calls so far, of one method or all."""
    return lambda method=None: [c for c in calls(tmp_path / CALLS) if method in (None, c["method"])]


# -- what a run is told as ------------------------------------------------------------------------------------------


def test_settings_are_those_of_the_results_table_at_the_same_paths(folder):
    found, identity = rows(folder), ("cell", "status", "reason", "scenario", "dataset", "model", "strategy", "phase", "trial", "seed", "superseded", "folder")
    for row in found:
        run, result = Cells(folder).run(row["cell"]), result_of(folder, row["cell"])
        measured = {*result["metrics"], *result["cost"], *(f"deployment.{k}" for k in result["cost"]["deployment"])}
        expected = {k: v for k, v in row.items() if k not in identity and k not in measured}
        own = {k: run.config[k] for k in ("cell", "label", "phase", "trial", "seed", "experiment")}
        assert {k: v for k, v in run.config.items() if k not in own} == expected
        assert own == {**{k: row[k] for k in ("cell", "phase", "trial", "seed")}, "label": row["strategy"], "experiment": "tiny"}


def test_names_groups_and_tags_say_what_a_cell_is(folder):
    runs = [Cells(folder).run(cell) for cell in Cells(folder).names()]
    assert len(runs) == 8 and {run.group for run in runs} == {"tiny"} and all(run.id == run.config["cell"] for run in runs)
    trial = next(run for run in runs if run.config["trial"] == 1 and run.config["label"] == "replay")
    assert trial.name == f"replay, trial 1, seed {trial.config['seed']}" and trial.job_type == "tuning"
    assert set(trial.tags) == {"class_incremental", "digits", "replay", "two-phase", "trial 1"}
    final = next(run for run in runs if run.job_type == "evaluation" and run.config["label"] == "naive")
    assert final.name == "naive, seed 0" and "trial 1" not in final.tags


def test_trials_are_told_with_the_searched_setting_at_its_path(folder):
    runs = [Cells(folder).run(cell) for cell in Cells(folder).names()]
    tried = {
        label: {run.config["training.learning_rate"] for run in runs if run.job_type == "tuning" and run.config["label"] == label}
        for label in ("naive", "replay")
    }
    assert all(len(values) == 2 and all(0.01 <= value <= 0.1 for value in values) for values in tried.values())


def test_long_and_hostile_labels_are_shortened_and_kept_as_text(folder, copied):
    cell, label = Cells(copied).names()[0], "<script>" + "x" * 300
    (copied / "plan.jsonl").write_text(json.dumps({"cell": cell, "phase": "evaluation", "label": label, "seed": 0, "trial": None}) + "\n")
    run = Cells(copied).run(cell)
    assert run.name.startswith("<script>x") and len(run.name) <= 120 and all(len(tag) <= 64 for tag in run.tags)


def test_a_cell_in_whose_place_another_stands_is_tagged_superseded(copied):
    first, second = Cells(copied).names()[:2]
    row = {"phase": "evaluation", "label": "naive", "seed": 0, "trial": None}
    (copied / "plan.jsonl").write_text("".join(json.dumps({"cell": cell, **row}) + "\n" for cell in (first, second)))
    assert ["superseded" in Cells(copied).run(cell).tags for cell in (first, second)] == [True, False]


def test_shared_starts_are_no_runs(copied):
    cell = Cells(copied).names()[0]
    (copied / "plan.jsonl").write_text(json.dumps({"cell": cell, "phase": "shared start", "label": "naive", "seed": 0, "trial": None}) + "\n")
    assert Cells(copied).names() == []


# -- secrets --------------------------------------------------------------------------------------------------------


def test_nothing_secret_goes_out(copied, monkeypatch, told):
    monkeypatch.setenv("SOME_API_KEY", "value-of-a-secret-variable")
    cell = Cells(copied).names()[0]
    place = Cells(copied).place(cell) / "result.json"
    result = json.loads(place.read_text())
    result["spec"]["strategy"] |= {
        "api_key": "plain-text-key-1",
        "server": {"password": "plain-text-password", "login": {"auth_token": "plain-text-token", "host": "h"}},
        "store": "https://user:plain-text-credentials@example.org/x?token=plain-text-query&size=3",
        "note": "with value-of-a-secret-variable inside",
        "hub": "hf_abcdefghijklmnopqrstuvwxyz",
        "files": [str(Path.home() / "data" / "x.bin")],
        "tokens": 7,
        "pad_token": "<pad>",
    }
    result["reason"] = f"cannot read {Path.home()}/secret place with value-of-a-secret-variable"
    place.write_text(json.dumps(result))
    mirror(copied).drain("x")
    said = (copied.parent / CALLS).read_text()
    for leak in ("plain-text", "value-of-a-secret-variable", "hf_abc", f'"{Path.home()}/', f" {Path.home()}/", "api_key", "password", "auth_token"):
        assert leak not in said, leak
    config = next(c for c in told("start") if c["run"] == cell)["config"]
    assert config["strategy.store"] == f"https://example.org/x?token={HIDDEN}&size=3" and config["strategy.files"] == ["~/data/x.bin"]
    assert (config["strategy.tokens"], config["strategy.pad_token"], config["strategy.server.login.host"]) == (7, "<pad>", "h")


@pytest.mark.parametrize("name", ["training.tokens", "tokenizer", "max_tokens", "pad_token", "key_size", "author", "passes", "keep_classes"])
def test_settings_that_only_sound_like_secrets_stay(name):
    assert clean({name: "value"}) == {name: "value"}


# -- the log --------------------------------------------------------------------------------------------------------


def test_a_log_that_was_cut_is_read_from_its_first_line_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    reader = LogReader(file)
    assert reader.new() == []
    file.write_text(loss(10) + loss(20) + loss(30)[:9])
    assert [e["step"] for e in reader.new()] == [10, 20]
    file.write_text(loss(10) + loss(20) + loss(30) + "torn{\n")
    assert [e["step"] for e in reader.new()] == [30] and reader.new() == []
    file.write_text(loss(10) + json.dumps({"event": "resumed", "step": 10, "line": 1}) + "\n" + loss(20) + loss(30) + loss(40))
    assert [e["step"] for e in reader.new() if e["event"] == "loss"] == [10, 20, 30, 40]


def test_values_of_events_lie_on_their_axes():
    assert point(json.loads(loss(7, 0.5))).values == {"training/loss": 0.5, "training/learning_rate": 0.1, "training/experience": 0}
    row = point({"event": "experience", "experience": 2, "step": 9, "accuracy": [0.25, None, 0.75]})
    assert (row.axis, row.step, row.values) == ("experience", 2, {"experience/mean_accuracy": 0.5})
    text = point({"event": "losses", "experience": 0, "step": 4, "losses": [2.0, 4.0]})
    assert text.values == {"training/held_out_loss": 3.0, "training/held_out_loss_0": 2.0, "training/held_out_loss_1": 4.0}
    branch = point({"event": "branch_loss", "experience": 0, "step": 4, "loss": 2.0, "learning_rate": 0.0})
    assert branch.axis == "branch" and "branch/loss" in branch.values
    assert point({"event": "resumed", "experience": 0, "step": 4, "line": 2}) is None and point({"event": "loss"}) is None


def test_bursts_are_thinned_to_a_budget_then_to_one_a_second_and_keep_their_last():
    clock = Clock()
    pace = Pace(clock)
    assert pace.choose(3, last=False) == [0, 1, 2]
    kept = pace.choose(10_000, last=False)
    assert len(kept) == BURST - 3 and kept[-1] == 9_999 and kept == sorted(set(kept))
    assert pace.choose(50, last=False) == [] and pace.choose(50, last=True) == [49]
    for _ in range(5):
        clock.now += 1
        assert pace.choose(50, last=False) == [49]


def test_a_long_log_costs_a_tracker_no_more_than_its_budget(copied, told):
    cell = Cells(copied).names()[0]
    (Cells(copied).place(cell) / "metrics.jsonl").write_text("".join(loss(step) for step in range(1, 20_001)))
    mirror(copied, only=[cell]).drain("x")
    steps = [c["step"] for c in told("log") if c["step_name"] == "training/step"]
    assert len(steps) == BURST and steps[-1] == 20_000 and steps == sorted(steps)


# -- one run while it is killed and goes on -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Fake, Forgetful])
def test_a_run_that_is_killed_and_goes_on_is_one_run_whose_steps_never_go_back(copied, growing, told, kind):
    cell, place, result = growing
    first = mirror(copied, kind, only=[cell])
    first._since = 0.0
    for cut in ([10, 20], [10, 20, 30]):
        (place / "metrics.jsonl").write_text("".join(map(loss, cut)))
        first.look()
    resumed = json.dumps({"event": "resumed", "experience": 0, "step": 10, "line": 1}) + "\n"
    (place / "metrics.jsonl").write_text(loss(10) + resumed + loss(20) + loss(30) + loss(40))  # cut back while the mirror looks on
    first.look()
    assert [c["step"] for c in told("log")] == [10, 20, 30, 40] and not told("finish")
    count = len(told())
    second = mirror(copied, kind, only=[cell])  # the first mirror was killed with its grid
    second._since = 0.0
    (place / "metrics.jsonl").write_text(loss(10) + resumed + resumed + "".join(map(loss, (20, 30, 40, 50))))
    second.look()
    (place / "result.json").write_bytes(result)
    second.look()
    after = told()[count:]
    steps = [c["step"] for c in after if c["method"] == "log" and c["step_name"] == "training/step"]
    assert steps == ([50] if kind is Fake else [10, 20, 30, 40, 50])  # who cannot go on is told all of it, in place of the first
    assert {c["run"] for c in told() if c["run"]} == {cell} and [c["resume"] for c in told("start")] == [False, kind is Fake]
    assert [c["status"] for c in told("finish")] == ["ok"]


def test_a_failed_attempt_closes_the_run_and_the_next_goes_on_with_it(copied, growing, told):
    cell, place, result = growing
    m = mirror(copied, only=[cell])
    m._since = 0.0
    (place / "metrics.jsonl").write_text(loss(10))
    m.look()
    (place / "attempts.jsonl").write_text(json.dumps({"status": "killed", "reason": "signal 9", "log": ""}) + "\n")
    os.utime(place / "attempts.jsonl", (2e9, 2e9))
    m.look()
    m.look()
    assert [c["status"] for c in told("finish")] == ["killed"] and told("summary")[-1]["values"] == {"status": "killed", "reason": "signal 9"}
    (place / "metrics.jsonl").write_text(loss(10) + loss(20))
    os.utime(place / "metrics.jsonl", (2e9 + 10, 2e9 + 10))
    m.look()
    (place / "result.json").write_bytes(result)
    m.drain("x")
    assert [c["status"] for c in told("finish")] == ["killed", "ok"] and [c["resume"] for c in told("start")] == [False, True]
    assert [c["step"] for c in told("log") if c["step_name"] == "training/step"] == [10, 20]


def test_sixteen_runs_can_be_open_at_once(copied, growing, told):
    _, place, _ = growing
    spec = (place / "spec.json").read_bytes()
    names = [f"{k:02x}{'a' * 22}" for k in range(16)]
    for name in names:
        there = Cells(copied).place(name)
        there.mkdir(parents=True)
        (there / "spec.json").write_bytes(spec)
        (there / "metrics.jsonl").write_text(loss(10))
    m = mirror(copied, only=names)
    m._since = 0.0
    m.look()
    for name in names:
        (Cells(copied).place(name) / "metrics.jsonl").write_text(loss(10) + loss(20))
    m.look()
    m.drain("interrupted")
    for name in names:
        assert [c["step"] for c in told("log") if c["run"] == name] == [10, 20]
    assert len(told("start")) == 16 and [c["status"] for c in told("finish")] == ["interrupted"] * 16


# -- the whole of a result ------------------------------------------------------------------------------------------


def test_summary_matrix_and_curves_are_the_numbers_of_the_result(folder, copied, told):
    mirror(copied).drain("x")
    for cell in Cells(folder).names():
        result = result_of(folder, cell)
        own = {c["method"]: c for c in told() if c["run"] == cell}
        values = own["summary"]["values"]
        assert {k: values[k] for k, v in result["metrics"].items() if v is not None} == {k: v for k, v in result["metrics"].items() if v is not None}
        assert (
            values["cost/seconds"] == result["cost"]["seconds"] and values["cost/deployment/forward_passes"] == result["cost"]["deployment"]["forward_passes"]
        )
        assert values["weights_sha256"] == result["weights_sha256"] and values["status"] == "ok"
        assert own["table"]["heads"] == ["after experience", *(e["name"] for e in result["evaluation_sets"])]
        assert [row[1:] for row in own["table"]["rows"]] == result["matrix"] and own["figure"]["begins"] == "89504e47"
        seen = [c["values"]["seen/accuracy"] for c in told("log") if c["run"] == cell and c["step_name"] == "seen/index"]
        assert seen[-1] == pytest.approx(result["metrics"]["final_accuracy"]) and sum(seen) / 2 == pytest.approx(
            result["metrics"]["average_incremental_accuracy"]
        )


def test_one_table_and_one_figure_whatever_the_size_of_the_matrix():
    sets = [{"name": "set", "samples": 2, "learned_in": j} for j in range(40)]
    result = {"matrix": [[0.5 if j <= i else None for j in range(40)] for i in range(40)], "evaluation_sets": sets}
    heads, found = matrix(result)
    assert len(heads) == 41 == len(set(heads)) and found[3] == [3, *result["matrix"][3]]
    assert picture(result, "a $name with half a formula").startswith(b"\x89PNG")
    assert seen_accuracy(result) == [(i, 0.5) for i in range(40)]
    text = {**result, "initial_loss": [1.0] * 40}
    assert seen_accuracy(text) == [] and picture(text, "losses").startswith(b"\x89PNG") and matrix({"matrix": []}) is None


# -- once each ------------------------------------------------------------------------------------------------------


def test_sync_sends_each_finished_cell_once_and_a_changed_one_again(copied, capsys, told):
    sync = ("sync", str(copied), "--to", "fake_trackers:Fake")
    code, out, _ = call(capsys, *sync)
    assert code == 0 and out == "8 sent, 0 there already, 0 left: fake\n"
    assert sorted(c["run"] for c in told("start")) == sorted(Cells(copied).names())
    assert call(capsys, *sync)[1] == "0 sent, 8 there already, 0 left: fake\n" and len(told("start")) == 8
    cell = Cells(copied).names()[2]
    place = Cells(copied).place(cell) / "result.json"
    place.write_text(place.read_text().replace('"status": "ok"', '"status":  "ok"'))  # computed again, say
    assert call(capsys, *sync)[1] == "1 sent, 7 there already, 0 left: fake\n"
    again = told("start")[8:]
    assert [(c["run"], c["resume"], c["again"]) for c in again] == [(cell, False, 1)] and len([c for c in told("log") if c["run"] == cell]) % 2 == 0


def test_a_sync_that_is_killed_goes_on_where_it_was(copied, monkeypatch, told):
    command = [sys.executable, "-c", "from clsuite.cli import main; main()", "sync", str(copied), "--to", "fake_trackers:Fake"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    third = Cells(copied).names()[2]
    program = (
        "import fake_trackers, os, signal\n"
        "real = fake_trackers.FakeRun.summary\n"
        f"def summary(self, values):\n    if self.run == {third!r}:\n        os.kill(os.getpid(), signal.SIGKILL)\n    real(self, values)\n"
        "fake_trackers.FakeRun.summary = summary\n"
    )
    killed = subprocess.run([*command[:2], program + command[2], *command[3:]], env=environment, capture_output=True, text=True)
    assert killed.returncode == -9 and len(told("finish")) == 2
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "6 sent, 2 there already, 0 left: fake\n", done.stderr
    assert sorted(c["run"] for c in told("finish")) == sorted(Cells(copied).names())
    assert [c["run"] for c in told("start") if c["resume"]] == [third]
    logged = [(c["run"], c["step_name"], c["step"]) for c in told("log")]
    assert len(logged) == len(set(logged))


def test_what_went_elsewhere_is_sent_again(copied):
    for destination in ("fake", "other"):
        record = Record(copied, "fake", destination)
        assert record.finished("cell") == []
        record.begin("cell", {})
        record.finish("cell", "digest")
    assert Record(copied, "fake", "fake").finished("cell") == ["digest"]


def test_a_record_with_a_torn_line_is_read_and_gone_on_with(tmp_path):
    record = Record(tmp_path, "fake", "fake")
    record.begin("a", {"loss": 3})
    record.finish("a", "one")
    with (tmp_path / "tracked" / "fake.jsonl").open("a") as file:
        file.write('{"cell": "b", "did": "fin')
    record.begin("c", {"loss": 5})
    fresh = Record(tmp_path, "fake", "fake")
    assert fresh.finished("a") == ["one"] and fresh.partial("a") is None and fresh.partial("c") == {"loss": 5} and fresh.finished("b") == []
    (tmp_path / "tracked" / "fake" / "c").write_text('{"marks"')
    assert fresh.partial("c") is None  # nobody knows how far it came: it is told anew


def test_single_runs_are_synced_too(tmp_path, capsys, told, cell_of, small):
    result = run_cell(cell_of(*small, "strategy=replay"), Options(tmp_path / "runs"))
    assert call(capsys, "sync", str(tmp_path / "runs"), "--to", "fake_trackers:Fake")[1] == "1 sent, 0 there already, 0 left: fake\n"
    start = told("start")[0]
    assert (start["run"], start["name"], start["group"], start["job_type"]) == (result["cell"], "replay, seed 0", "runs", "evaluation")


def test_a_cell_that_fails_costs_itself_alone(copied, told, monkeypatch):
    bad, said = Cells(copied).names()[1], []
    m = mirror(copied, warn=said.append)
    real = m._tracker.start
    monkeypatch.setattr(m._tracker, "start", lambda run: real(run) if run.id != bad else 1 / 0)
    m.drain("x")
    assert said == ["ZeroDivisionError: division by zero"] and m.pending() == [bad] and len(told("finish")) == 7
