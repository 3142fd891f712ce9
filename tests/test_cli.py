"""The command line: what it prints, what it refuses, and that it leaves nothing behind when it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import clsuite
from clsuite import registry
from clsuite.cli import main
from clsuite.report.curves import lag_bins, plot
from clsuite.report.progress import Progress
from clsuite.report.text import some

pytestmark = pytest.mark.unit

FAST = ("scenario.experiences=2", "training.epochs=1", "model.hidden=[10]")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as left:
            main(list(argv))
        out, err = capsys.readouterr()
        return left.value.code, out, err.splitlines()

    return run


def test_help_is_light():
    code = "import sys\nfrom clsuite.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded.isdisjoint({"torch", "numpy", "pandas", "pydantic", "rich", "scipy", "yaml", "timm", "wandb", "avalanche", "clsuite_strategies"})
    assert {name for name in done.stderr.split() if name.startswith("clsuite")} == {"clsuite", "clsuite.cli", "clsuite.errors"}


def test_version(call):
    assert call("--version") == (0, f"clsuite {clsuite.__version__}\n", [])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["scenario=class_incrementl"], ["class_incrementl", "did you mean 'class_incremental'?"]),
        (["strategy=replya"], ["replya", "did you mean 'replay'?"]),
        (["model=mpl"], ["mpl", "did you mean 'mlp'?"]),
        (["training.epoch=1"], ["training.epoch", "did you mean 'epochs'?"]),
        (["strategy=replay", "strategy.bufer_size=3"], ["strategy.bufer_size", "did you mean 'buffer_size'?"]),
        (["trainig.epochs=1"], ["trainig", "did you mean 'training'?"]),
        (["training.epochs=two"], ["training.epochs", "'two'", "whole number"]),
        (["training.epochs='1'"], ["training.epochs", "'1'", "whole number"]),
        (["seed=-1"], ["seed", "-1", ">= 0"]),
        (["strategy=replay", "strategy.buffer_size=0"], ["strategy.buffer_size", "0", ">= 1"]),
        (["strategy"], ["'strategy' is not key=value"]),
        (["seed=1", "seed=2"], ["'seed' is given twice"]),
        (["strategy=naive", "strategy.name=replay"], ["'strategy.name' is given twice"]),
        (["training..epochs=1"], ["empty part"]),
        (["strategy=naive+"], ["naive+", "joined by '+'"]),
        (["strategy=naive+refresh+derpp"], ["'derpp' is a base strategy and can only stand first"]),
        (["model.hidden=${x}"], ["interpolation"]),
        (["training={a: *b}"], ["aliases"]),
        (["scenario.dataset=mnst"], ["mnst", "did you mean 'mnist'?"]),
        (["scenario.dataset=mnist"], ["mnist", "not found", "--data-root"]),
        (["--data-root", "nowhere"], ["--data-root", "nowhere", "not a folder"]),
        (["scenario.experiences=3"], ["scenario.experiences", "3", "valid: 1, 2, 5, 10"]),
        (["strategy=./none.py:Mine"], ["./none.py", "does not exist"]),
        (["phase=tuning"], ["no tuning phase"]),
        (["--nope"], ["--nope"]),
        (["--checkpoint-seconds", "-1"], ["--checkpoint-seconds"]),
    ],
)
def test_a_wrong_run_is_refused_in_one_line_and_leaves_nothing(call, tmp_path, monkeypatch, items, words):
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    code, out, err = call("run", *items)
    assert (code, out, len(err)) == (2, "", 1), err
    assert err[0].startswith("clsuite: ") and all(word in err[0] for word in words), err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["list", "strategy"], ["'strategy'", "did you mean 'strategies'?"]),
        (["show", "stratgy", "replay"], ["'stratgy'", "did you mean 'strategy'?"]),
        (["show", "strategy"], ["needs a name"]),
        (["show", "strategy", "replay", "x=1"], ["takes one name"]),
        (["show", "schedule", "cosin"], ["did you mean 'cosine'?"]),
        (["show", "schedule", "cosine", "minimun=1.0"], ["did you mean 'minimum'?"]),
        (["show", "schedule", "cosine", "horizon=0"], ["horizon", "0"]),
        (["show", "stream", "scenario=blury"], ["did you mean 'blurry'?"]),
        (["results", "nowhere"], ["holds no cell"]),
        (["status", "nowhere"], ["holds no grid"]),
        (["grid", "quickstrt"], ["unknown experiment 'quickstrt'", "did you mean 'quickstart'?"]),
        (["grid", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["grid", "quickstart", "--rerun", "all"], ["--rerun = 'all'", "failed or changed"]),
        (["grid", "quickstart", "--workers", "99"], ["--workers = 99", "--oversubscribe"]),
        (["new", "strategy", "my-method"], ["'my-method' is no Python name"]),
        (["new", "strategy", "class"], ["'class' is no Python name"]),
        (["new", "strategy", "random"], ["would hide"]),
        (["ruun"], ["ruun"]),
    ],
)
def test_other_commands_refuse_in_one_line(call, tmp_path, argv, words):
    code, out, err = call(*argv)
    assert (code, out, len(err)) == (2, "", 1), err
    assert all(word in err[0] for word in words), err
    assert not list(tmp_path.iterdir())


def test_json_is_one_document_and_the_second_time_the_stored_one(call, tmp_path):
    code, out, _ = call("run", *FAST, "strategy=replay", "--json")
    first = json.loads(out)
    assert code == 0 and first["status"] == "ok" and len(first["matrix"]) == 2
    stored = tmp_path / "runs" / "cells" / first["cell"][:2] / first["cell"] / "result.json"
    assert json.loads(stored.read_text()) == first
    assert json.loads(call("run", *FAST, "strategy=replay", "--json")[1]) == first
    again = json.loads(call("run", *FAST, "strategy=replay", "--json", "--rerun")[1])
    assert again["weights_sha256"] == first["weights_sha256"] and again["cost"]["seconds"] != first["cost"]["seconds"]


def test_a_run_for_reading(call):
    code, out, _ = call("run", *FAST, "strategy=replay", "--out", "here", "--data-root", ".")
    assert code == 0
    for text in ("final accuracy", "higher", "lower", "after 1", "gradient steps", "here/cells/", "n = 1 seed"):
        assert text in out
    assert f"clsuite run {FAST[0]} {FAST[1]} 'model.hidden=[10]' strategy=replay --out here --data-root ." in out
    assert "stored" in call("run", *FAST, "strategy=replay", "--out", "here", "--data-root", ".")[1]


def test_a_diverged_cell_exits_with_1(call):
    code, out, err = call("run", *FAST, "training.learning_rate=1.0e+30", "--json")
    assert code == 1 and json.loads(out)["status"] == "diverged"
    assert "diverged" in err[-1]


PLUGIN = """
from clsuite.strategy import Strategy
class Loud(Strategy):
    def training_step(self, batch):
        print("a word")
        return super().training_step(batch)
class Faulty(Strategy):
    def training_step(self, batch):
        return len(3)
class Unkept(Strategy):
    def training_step(self, batch):
        self.thing = object()
        return super().training_step(batch)
"""


def test_a_faulty_plug_in_is_named_with_its_traceback(call, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    code, out, err = call("run", *FAST, "strategy=./mine.py:Faulty", "--json")
    assert code == 1
    assert err[-1] == "clsuite: strategy './mine.py:Faulty' raised TypeError: object of type 'int' has no len()"
    assert any("mine.py" in line and "line 9" in line for line in err)
    assert json.loads(out) == {"status": "error", "reason": err[-1].removeprefix("clsuite: ")}


def test_a_plug_in_that_prints_does_not_spoil_json(call, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    code, out, err = call("run", *FAST, "strategy=./mine.py:Loud", "--json")
    assert code == 0 and json.loads(out)["status"] == "ok"
    assert "a word" in err


def test_state_that_cannot_be_kept_is_refused_and_leaves_nothing(call, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    code, out, err = call("run", *FAST, "strategy=./mine.py:Unkept", "--out", "a/b")
    assert (code, out) == (2, "") and "attribute 'thing'" in err[-1]
    assert all("experience 1 of" in line for line in err[:-1])  # progress, on a slow machine
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["mine.py"]


@pytest.mark.parametrize("kind", ["scenarios", "strategies", "schedules", "experiments", "data"])
def test_list_shows_what_there_is(call, kind):
    code, out, err = call("list", kind, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err) == (0, [])
    if kind != "experiments":
        assert set(rows) == set(registry.catalogue(kind)) | set(registry.aliases(kind) if kind == "strategies" else ())
        assert all(row["origin"] == "native" and row["broken"] is None and row["description"] for row in rows.values())
    if kind == "strategies":
        assert rows["replay"]["family"] == "replay" and "1902.10486" in rows["replay"]["source"] and rows["slca"]["stands_for"].startswith("naive+")
    assert call("list", kind)[0] == 0


@pytest.mark.filterwarnings("default")
def test_a_broken_component_is_a_warning_and_a_row(call, monkeypatch):
    entries = {"good": registry.Entry("good", "clsuite.schedule:Cosine", "native"), "bad": registry.Entry("bad", "no_such_module:Thing", "their-package")}
    monkeypatch.setattr(registry, "_contents", lambda kind: (entries, {}, {}))
    registry.load.cache_clear()
    code, out, err = call("list", "schedules", "--json")
    registry.load.cache_clear()
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["good"]["broken"] is None and "no_such_module" in rows["bad"]["broken"]
    assert len(err) == 1 and err[0].startswith("clsuite: warning: ") and "their-package" in err[0]


def test_show_strategy(call):
    shown = json.loads(call("show", "strategy", "replay", "--json")[1])
    size = next(s for s in shown["settings"] if s["name"] == "buffer_size")
    assert size == {**size, "type": "a whole number or null", "default": None, "bounds": ">= 1", "search": [200, 500, 1000]}
    assert shown["needs"] == ["memory"] and "1902.10486" in shown["source"]
    text = call("show", "strategy", "replay")[1]
    assert "buffer_size" in text and "200, 500, 1000" in text and "needs: memory" in text
    assert json.loads(call("show", "strategy", "slca", "--json")[1])["parts"][0]["name"] == "naive"
    assert json.loads(call("show", "model", "mlp", "--json")[1])["settings"][0]["name"] == "hidden"
    assert call("show", "scenario", "power_law")[0] == 0


def test_show_schedule_follows_the_formula(call):
    shown = json.loads(call("show", "schedule", "linear", "horizon=10", "learning_rate=2.0", "warmup=2", "--json")[1])
    assert shown["rates"] == pytest.approx([1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])
    lines = call("show", "schedule", "cosine")[1].splitlines()
    assert "cosine" in lines[0] and all(ord(c) < 128 for line in lines[1:17] for c in line)


def test_show_stream(call):
    items = ("scenario=power_law", "scenario.dataset=digits", "scenario.experiences=60", "scenario.return_samples=10", "seed=3")
    shown = json.loads(call("show", "stream", *items, "--json")[1])
    assert shown == json.loads(json.dumps(clsuite.stream(*items).describe()))
    assert shown["experiences"] == 60 and len(shown["fingerprint"]) == 64
    text = call("show", "stream", *items)[1]
    assert shown["fingerprint"] in text and f"{shown['recurrence']['exponent']:.4f} ± {shown['recurrence']['error']:.4f}" in text
    tuning = json.loads(call("show", "stream", "phase=tuning", "protocol.split=classes", "scenario.experiences=1", "--json")[1])
    assert (tuning["phase"], tuning["classes"]) == ("tuning", 5)


def test_importing_the_module_leaves_the_function():
    from clsuite.stream import Stream

    assert isinstance(clsuite.stream("scenario.dataset=digits"), Stream)


def test_lags_are_binned_by_powers_of_two():
    assert lag_bins([[1, 10, 5], [2, 8, 2], [3, 6, 1], [4, 4, 1], [5, 2, 0]]) == [(1, 1, 10, 5), (2, 2, 8, 2), (3, 4, 10, 2), (5, 5, 2, 0)]


def test_a_curve_and_a_selection_keep_both_ends():
    assert some(5) == [0, 1, 2, 3, 4]
    assert len(some(400)) == 12 and some(400)[0] == 0 and some(400)[-1] == 399
    rows = plot([0.0, 1.0], height=3).splitlines()
    assert rows[0].endswith("|*") or rows[0].endswith("| *")
    assert rows[2].split("|", 1)[1][0] == "*"


@pytest.mark.filterwarnings("default")
def test_results_group_seeds(call, tmp_path):
    for seed in (0, 1):
        clsuite.run(*FAST, out=tmp_path / "runs", seed=seed)
    other = clsuite.run(*FAST, "strategy=replay", out=tmp_path / "runs")
    frame = clsuite.results(tmp_path / "runs")
    assert list(frame["strategy"]) == ["naive", "naive", "replay"] and list(frame["seed"]) == [0, 1, 0]
    assert frame["final_accuracy"][2] == other["metrics"]["final_accuracy"] and frame["training.epochs"][0] == 1
    assert len(json.loads(call("results", "runs", "--json")[1])) == 3
    head, *rows = call("results", "runs", "--csv")[1].splitlines()
    assert head.startswith("cell,status") and len(rows) == 3
    mean, spread = frame["final_accuracy"][:2].mean(), frame["final_accuracy"][:2].std()
    assert f"{mean:.4f} ± {spread:.4f}" in call("results", "runs")[1]
    damaged = next((tmp_path / "runs").glob("cells/*/*/result.json"))
    damaged.write_text("{")
    code, out, err = call("results", "runs", "--json")
    assert code == 0 and len(json.loads(out)) == 2 and len(err) == 1 and err[0].startswith("clsuite: warning: ")


def test_new_refuses_to_overwrite(call, tmp_path):
    assert call("new", "strategy", "my_method")[0] == 0
    (tmp_path / "my_method.py").write_text("mine")
    code, _, err = call("new", "strategy", "my_method")
    assert code == 2 and len(err) == 1 and "my_method.py" in err[0]
    assert (tmp_path / "my_method.py").read_text() == "mine"
    assert call("new", "strategy", "other", "--package")[0] == 0
    assert call("new", "strategy", "other", "--package")[0] == 2
    assert len((tmp_path / "other" / "other.py").read_text().splitlines()) <= 25


def test_progress_counts_on_from_a_resumed_run():
    run = SimpleNamespace(total_steps=100, stream=range(4), experience=2, plan_of=lambda i: SimpleNamespace(steps=25))
    run.progress = SimpleNamespace(position=SimpleNamespace(experience=2, step=11))
    progress = Progress(every=60)
    assert not progress.started
    progress.on_start(run)
    for _ in range(10):
        progress.on_step(run)
    progress._started = time.monotonic() - 5
    assert progress.remaining == pytest.approx(5 * 30 / 10, rel=0.05)  # 60 batches before, 10 now, 30 to go
    assert progress.line().startswith("experience 3 of 4, batch 70 of 100 (70 %), about 0:00:15")
    progress.close()
