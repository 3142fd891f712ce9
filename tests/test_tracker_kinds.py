"""Asking for a tracker, and what W&B, TensorBoard and trackio have of a cell afterwards, by their own readers."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from clsuite.errors import UsageError
from clsuite.interop.trackers import Wanted, created, wanted
from clsuite.interop.trackers import wandb as wandb_tracker
from clsuite.interop.trackers.cells import Cells
from clsuite.interop.trackers.mirror import Mirror
from clsuite.interop.trackers.record import Record

from .tracked_folders import FILE, Clock, begun, call, copy_of, finished_grid, loss, own_environment, result_of

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


# -- asking for one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wandbb",), "unknown tracker 'wandbb'; did you mean 'wandb'? (valid: tensorboard, trackio, wandb)"),
        (("wandb", "of-line"), "--track-mode = 'of-line' is not valid: expected online, offline, disabled"),
        (("tensorboard", "offline"), "--track-mode = 'offline' is for wandb; tensorboard has no modes"),
        ((None, "offline"), "--track-mode needs --track (valid: wandb, tensorboard, trackio)"),
        (("trackio",), "--track = 'trackio' needs the package trackio, which is not installed (pip install trackio)"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trackio").mkdir()  # a mere folder is no package
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.delitem(sys.modules, "trackio")
    with pytest.raises(UsageError) as raised:
        wanted(*arguments)
    assert str(raised.value) == words


def test_a_bad_tracker_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(FILE)
    code, _, err = call(capsys, "grid", "tiny.yaml", "--out", "out", "--track", "nobody")
    assert code == 2 and err.startswith("clsuite: unknown tracker 'nobody'") and not (tmp_path / "out").exists()
    code, _, err = call(capsys, "sync", "out", "--to", "wandb")
    assert code == 2 and "'out' holds no finished cell" in err and not (tmp_path / "out").exists()


def test_modes_come_from_the_command_line_then_the_environment_then_the_key(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_tracker.mode_of(None, "https://api.wandb.ai") == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password abc\n")
    (tmp_path / "netrc").chmod(0o600)
    assert wandb_tracker.mode_of(None, "https://api.wandb.ai") == "online" and wandb_tracker.mode_of(None, "https://other.host") == "offline"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_tracker.mode_of(None, "https://api.wandb.ai") == "offline" and wandb_tracker.mode_of("online", "https://api.wandb.ai") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wanted("wandb") is None and wanted("wandb", "offline").mode == "offline" and wanted("wandb", "disabled") is None
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert wanted("wandb", "offline").project == "mine" and wanted("wandb", "offline", "theirs").project == "theirs"


def test_a_disabled_sync_sends_nothing(copied, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    code, out, err = call(capsys, "sync", str(copied), "--to", "wandb")
    assert (code, out) == (0, "") and "disabled" in err and not (copied / "tracked").exists()


def test_no_mirror_imports_torch(tmp_path):
    program = [
        "import sys",
        "from pathlib import Path",
        "from clsuite.interop.trackers import Wanted, created, mirror",
        f"for name in ('wandb', 'tensorboard'):\n    created(Wanted(name, 'offline'), Path({str(tmp_path)!r}))",
        "print('torch' in sys.modules, 'wandb' in sys.modules)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


# -- the trackers themselves ----------------------------------------------------------------------------------------


def inspected(place: Path, *more: str) -> list[dict]:
    """Records of an offline run, by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *more, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=place)
    return [json.loads(line) for line in done.stdout.splitlines()] if not more else [json.loads(done.stdout)]


def test_an_offline_folder_of_wandb_says_what_the_store_says(copied, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "a-run-of-somebody-else")
    code, out, err = call(capsys, "sync", str(copied), "--to", "wandb", "--track-mode", "offline", "--track-project", "p")
    assert code == 0, err
    assert out == f"8 sent, 0 there already, 0 left: wandb (offline; upload with: wandb sync {copied}/wandb/offline-run-*)\n"
    assert {path.name.rpartition("-")[2] for path in copied.glob("wandb/offline-run-*")} == set(Cells(copied).names())
    cell = next(cell for cell in Cells(copied).names() if Cells(copied).run(cell).config["trial"] == 1)
    (place,) = copied.glob(f"wandb/offline-run-*-{cell}")
    result, run, records = result_of(copied, cell), Cells(copied).run(cell), inspected(place)
    about = [r["run"] for r in records if r["type"] == "run"]
    assert (about[0]["run_id"], about[0]["display_name"], about[0]["run_group"], about[0]["job_type"]) == (cell, run.name, "tiny", "tuning")
    assert about[0]["project"] == "p" and set(about[-1]["tags"]) == {*run.tags, "ok"} and not about[0].get("host")
    config = {k: v for k, v in about[0]["config"]["update"].items() if k != "_wandb"}
    assert config == wandb_tracker.nested(run.config) and config["training"]["learning_rate"] == result["spec"]["training"]["learning_rate"]
    axes = {r["metric"]["glob_name"]: r["metric"]["step_metric"] for r in records if r["type"] == "metric" and r["metric"].get("glob_name")}
    assert axes["training/*"] == "training/step" and axes["experience/*"] == "experience/index"
    history = [r["history"]["item"] for r in records if r["type"] == "history"]
    log = [json.loads(line) for line in (Cells(copied).place(cell) / "metrics.jsonl").read_text().splitlines()]
    losses = [(e["step"], e["loss"], e["learning_rate"]) for e in log if e["event"] == "loss"]
    assert losses and [(h["training/step"], h["training/loss"], h["training/learning_rate"]) for h in history if "training/loss" in h] == losses
    means = [(e["experience"], sum(e["accuracy"]) / len(e["accuracy"])) for e in log if e["event"] == "experience"]
    assert [(h["experience/index"], h["experience/mean_accuracy"]) for h in history if "experience/index" in h] == means
    names = {key.partition(".")[0] for h in history for key in h if not key.startswith("_")}
    assert {name for name in names if "/" not in name} == {"matrix", "matrix_picture"}
    table = json.loads((place / "files" / next(h["matrix.path"] for h in history if "matrix.path" in h)).read_text())
    assert [row[1:] for row in table["data"]] == result["matrix"] and table["columns"][1:] == [e["name"] for e in result["evaluation_sets"]]
    assert (place / "files" / next(h["matrix_picture.path"] for h in history if "matrix_picture.path" in h)).read_bytes().startswith(b"\x89PNG")
    (end,) = inspected(place, "--summary")
    assert (end["state"], end["exit_code"]) == ("finished", 0)
    numbers = {**{k: v for k, v in result["metrics"].items() if isinstance(v, (int, float))}, "cost/seconds": result["cost"]["seconds"]}
    assert {k: end["summary"][k] for k in numbers} == numbers
    assert not list(place.glob("files/*requirements*")) and not list(place.glob("files/*metadata*"))


def test_another_result_takes_the_place_of_its_offline_folder(copied, capsys):
    sync = ("sync", str(copied), "--to", "wandb", "--track-mode", "offline")
    cells = Cells(copied).names()
    for cell in cells[1:]:
        (Cells(copied).place(cell) / "result.json").unlink()
    torn = copied / "wandb" / f"offline-run-20200101_000000-{cells[0]}"  # of a mirror that was killed
    torn.mkdir(parents=True)
    assert call(capsys, *sync)[0] == 0
    (first,) = copied.glob(f"wandb/offline-run-*-{cells[0]}")
    assert first != torn
    place = Cells(copied).place(cells[0]) / "result.json"
    place.write_text(place.read_text() + " ")
    (first / "mark").touch()
    assert call(capsys, *sync)[1].startswith("1 sent, 0 there already, 0 left")
    (second,) = copied.glob(f"wandb/offline-run-*-{cells[0]}")
    assert not (second / "mark").exists()


def test_tensorboard_reads_what_was_sent(copied, capsys, growing, folder):
    cell, place, result = growing
    tracker = created(Wanted("tensorboard"), copied)
    log = (Cells(folder).place(cell) / "metrics.jsonl").read_text()
    for whole in (False, True):  # two mirrors after another: one run in two files
        m = Mirror(Cells(copied, [cell]), tracker, Record(copied, "tensorboard", tracker.destination), lambda line: None, Clock())
        m._since = 0.0
        (place / "metrics.jsonl").write_text(log if whole else log.splitlines()[0] + "\n")
        m.look()
    (place / "result.json").write_bytes(result)
    m.drain("x")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list((copied / "tensorboard" / cell).iterdir())) == 2
    read = EventAccumulator(str(copied / "tensorboard" / cell), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    read.Reload()
    losses = [(e["step"], e["loss"]) for e in map(json.loads, log.splitlines()) if e["event"] == "loss"]
    assert [(s.step, pytest.approx(s.value)) for s in read.Scalars("training/loss")] == losses
    assert [s.step for s in read.Scalars("experience/mean_accuracy")] == [0, 1]
    assert read.Scalars("summary/final_accuracy")[0].value == pytest.approx(json.loads(result)["metrics"]["final_accuracy"])
    assert read.Images("matrix_picture")[0].encoded_image_string.startswith(b"\x89PNG")
    settings = read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    run = Cells(copied).run(cell)
    assert all(f"| {path} | " in settings for path in run.config) and f"| training.learning_rate | {run.config['training.learning_rate']} |" in settings


def test_trackio_is_spoken_to_as_its_interface_wants(copied, monkeypatch, growing):
    """With a stand-in for the package, which is not installed here: `init` gives a run with `log` and `finish`."""
    said, (cell, place, result) = [], growing

    class Run:
        def __init__(self, name):
            self.name = name

        def log(self, metrics, step=None):
            said.append(("log", self.name, metrics, step))

        def finish(self):
            said.append(("finish", self.name))

    def init(project, name=None, group=None, config=None, resume="never"):
        said.append(("init", project, name, group, config, resume))
        return Run(name)

    package = types.SimpleNamespace(init=init, Table=lambda dataframe: ("table", dataframe.values.tolist()), Image=lambda image: ("image", image.size))
    monkeypatch.setitem(sys.modules, "trackio", package)
    (place / "result.json").write_bytes(result)
    (place / "metrics.jsonl").write_text(loss(10) + loss(20))
    tracker = created(Wanted("trackio", project="p"), copied)
    for _ in range(2):
        m = Mirror(Cells(copied, [cell]), tracker, Record(copied, "trackio", tracker.destination), lambda line: None, Clock())
        m.drain("x")
        (place / "result.json").write_bytes(result + b" ")
    begun = [s for s in said if s[0] == "init"]
    assert [s[1] for s in begun] == ["p", "p"] and all(cell[:12] in s[2] and s[3] == "tiny" and s[5] == "allow" for s in begun)
    assert begun[0][2] != begun[1][2] and not [k for k in begun[0][4] if k.startswith("_")]  # names that begin so are trackio's own
    logs = [s for s in said if s[0] == "log" and s[1] == begun[0][2]]
    assert [(s[2]["training/loss"], s[3]) for s in logs if "training/loss" in s[2]] == [(1.0, 10), (1.0, 20)]
    final = json.loads(result)
    assert next(s[2]["summary/final_accuracy"] for s in logs if "summary/final_accuracy" in s[2]) == final["metrics"]["final_accuracy"]
    assert [row[1:] for row in next(s[2]["matrix"][1] for s in logs if "matrix" in s[2])] == final["matrix"]
    assert [s[1] for s in said if s[0] == "finish"] == [s[2] for s in begun]
