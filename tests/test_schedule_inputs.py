"""Learning-rate schedules: what is refused, tables from files, and the command that shows them."""

from __future__ import annotations

import json
import math

import pytest

from clsuite import registry
from clsuite.cli import main
from clsuite.errors import UsageError
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.spec import resolve
from clsuite.schedule import rates

from .schedule_cases import HORIZON, each, make

pytestmark = pytest.mark.unit


# -- refusals ---------------------------------------------------------------------------------------------------

REFUSED = {
    "warm-up as long as the run": ("cosine", {"warmup": 100}, ["warmup = 100", "100 steps"]),
    "warm-up longer than the run": ("constant", {"warmup": 200}, ["warmup = 200"]),
    "warm-up that is no step": ("cosine", {"warmup": 1.5}, ["warmup = 1.5", "whole number", "below 1"]),
    "decay that is no step": ("wsd", {"decay": 20.5}, ["decay = 20.5", "whole number"]),
    "phases of wsd": ("wsd", {"warmup": 30, "decay": 0.8}, ["decay = 0.8", "warmup 30 + decay 80 = 110", "100"]),
    "phases of infinite": ("infinite_cosine", {"warmup": 30}, ["cooldown = 0.6", "warmup 30 + cooldown 60 + anneal 15 = 105"]),
    "phases of infinite with hold": ("infinite_inverse_sqrt", {"hold": 0.3}, ["cooldown 60 + hold 30 + anneal 15 = 105"]),
    "phases of power": ("power", {"warmup": 0.95}, ["warmup = 0.95", "decay 10 = 105"]),
    "phases of two_stage": ("two_stage", {}, ["drop = 1000", "boundary 40 + drop 1000 + decay 20"]),
    "two_stage within warm-up": ("two_stage", {"boundary": 5, "drop": 5, "warmup": 10}, ["boundary = 5", "at least 10"]),
    "two_stage that rises": ("two_stage", {"drop": 5, "minimum": 0.6}, ["minimum = 0.6", "share = 0.525"]),
    "exponential to zero": ("wsd", {"shape": "exponential"}, ["minimum = 0.0", "> 0"]),
    "inverse linear to zero": ("wsd", {"shape": "inverse_linear"}, ["minimum = 0.0", "> 0"]),
    "periods with an exponential to zero": ("wsd_s", {"shape": "exponential"}, ["minimum = 0.0", "> 0"]),
    "power to zero": ("power", {"minimum": 0.0}, ["minimum = 0.0", "> 0"]),
    "power of less than a token": ("power", {"batch": 1e-6}, ["batch = 1e-06", "one token"]),
    "anneal to zero": ("infinite_cosine", {"minimum": 0.0}, ["minimum = 0.0", "> 0"]),
    "anneal that rises": ("infinite_inverse_sqrt", {"minimum": 0.7}, ["minimum = 0.7", "constant = 0.55"]),
    "phi of zero": ("uba", {"phi": 0.0}, ["phi = 0.0", "> 0"]),
    "milestones that descend": ("step", {"milestones": [0.7, 0.3]}, ["milestones", "ascend"]),
    "no periods": ("wsd_s", {"periods": []}, ["periods = []", "at least one"]),
    "shares that do not add up": ("wsd_s", {"periods": [0.5, 0.4]}, ["periods", "add up to 1", "0.9"]),
    "steps that do not add up": ("wsd_s", {"periods": [50, 40]}, ["periods", "90 steps", "100"]),
    "a period that is no step": ("wsd_s", {"periods": [50.5, 49.5]}, ["periods = 50.5", "whole number"]),
    "a period without a step": ("wsd_s", {"periods": [0.985, 0.001, 0.014]}, ["period 2 has no step"]),
    "a decay longer than a period": ("wsd_s", {"periods": [10, 90], "decay": 20}, ["decay = 20", "period 1"]),
    "warm-up longer than a period": ("wsd_s", {"periods": [10, 90], "decay": 0.5, "warmup": 6}, ["warmup 6 + decay 5 = 11", "period 1"]),
    "multipliers of other periods": ("wsd_s", {"multipliers": [1.0]}, ["multipliers = [1.0]", "2 periods"]),
    "a period longer than the run": ("cyclic", {"period": 101}, ["period = 101", "100"]),
    "triangles with a warm-up": ("cyclic", {"shape": "triangular", "warmup": 3}, ["warmup = 3", "expected 0"]),
    "no table": ("table", {}, ["factors = None", "file"]),
    "a short table": ("table", {"factors": [1.0] * 99}, ["factors", "99 entries", "100"]),
    "a table with a warm-up": ("table", {"factors": [1.0] * 100, "warmup": 3}, ["warmup = 3", "expected 0"]),
    "no norms": ("refined", {}, ["gradient_norms = None", "file"]),
    "too few norms": ("refined", {"gradient_norms": [1.0] * 99}, ["gradient_norms", "99 entries", "100"]),
    "too many norms": ("refined", {"gradient_norms": [1.0] * 101}, ["gradient_norms", "101 entries", "100"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    name, values, words = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        make(name, **values).check(100)
    message = str(caught.value)
    assert message.startswith("training.schedule.") and "\n" not in message
    assert all(word in message for word in words), message


def test_one_norm_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        make("refined", gradient_norms=[1.0]).check(1)


@pytest.mark.parametrize("values", [{"gradient_norms": [1.0, 0.0]}, {"gradient_norms": [1.0, math.inf]}, {"exponent": -3}, {"smoothing": 1.1}])
def test_norms_that_cannot_be_are_refused(values):
    with pytest.raises(UsageError):
        make("refined", **values)


# -- tables in files --------------------------------------------------------------------------------------------

FILES = {
    "list.json": ("[1, 0.5, 0.25]", {}),
    "object.json": ('{"rates": [1, 0.5, 0.25], "name": "x"}', {"column": "rates"}),
    "plain.csv": ("1\n0.5\n\n0.25\n", {}),
    "header.csv": ("factor\n1\n0.5\n0.25\n", {}),
    "columns.csv": ("step, factor\n0,1\n1,0.5\n2,0.25\n", {"column": "factor"}),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_stands_for_its_numbers(file, tmp_path):
    text, column = FILES[file]
    (tmp_path / file).write_text(text)
    path = str(tmp_path / file)
    found, plain = make("table", file=path, **column), make("table", factors=[1.0, 0.5, 0.25])
    assert found.settings() == plain.settings() and found.own_horizon == 3
    norms = make("refined", file=path, **column, smoothing=0.0)
    assert rates(norms, 3) == rates(make("refined", gradient_norms=[1.0, 0.5, 0.25], smoothing=0.0), 3)
    hashes = {cell_hash(resolve({"training": {"schedule": {"name": "table", **values}}})) for values in ({"file": path, **column}, {"factors": [1, 0.5, 0.25]})}
    assert len(hashes) == 1  # where the file lies is not part of what was trained


WRONG_FILES = {
    "missing": ("no.csv", None, {}, ["no.csv", "cannot be read"]),
    "other kind": ("a.txt", "1\n", {}, ["a.txt", ".csv or .json"]),
    "word": ("a.csv", "1\ntwo\n", {}, ["line 2", "'two'"]),
    "infinite": ("a.csv", "1\ninf\n", {}, ["line 2", "'inf'"]),
    "negative": ("a.csv", "1\n-1\n", {}, ["out of bounds", ">= 0"]),
    "empty": ("a.csv", "\n", {}, ["holds no numbers"]),
    "two columns": ("a.csv", "a,b\n1,2\n", {}, ["2 columns", "a, b"]),
    "no such column": ("a.csv", "factor,b\n1,2\n", {"column": "factr"}, ["'factr'", "did you mean 'factor'?"]),
    "no header": ("a.csv", "1,2\n", {"column": "b"}, ["no header"]),
    "short row": ("a.csv", "a,b\n1,2\n1\n", {"column": "b"}, ["line 3", "''"]),
    "not JSON": ("a.json", "[1,", {}, ["not valid JSON"]),
    "no list": ("a.json", '{"a": 1}', {}, ["list of numbers", "column"]),
    "no such key": ("a.json", '{"a": [1]}', {"column": "b"}, ["no key 'b'", "valid: a"]),
    "true": ("a.json", "[1, true]", {}, ["entry 1", "True"]),
    "both": ("a.json", "[1]", {"factors": [1.0]}, ["factors is given too"]),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_in_one_line(case, tmp_path):
    file, text, values, words = WRONG_FILES[case]
    if text is not None:
        (tmp_path / file).write_text(text)
    found = registry.load("schedules", "table")
    with pytest.raises(UsageError) as caught:
        found.validated({"file": str(tmp_path / file), **values}, "training.schedule")
    message = str(caught.value)
    assert message.startswith("training.schedule.file = ") and "\n" not in message
    assert all(word in message for word in words), message


def test_a_column_without_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match="column = 'a' is not valid"):
        make("table", factors=[1.0], column="a")


# -- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """`clsuite show schedule ...` in an empty folder: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as left:
            main(["show", "schedule", *argv])
        out, err = capsys.readouterr()
        return left.value.code, out, err.splitlines()

    return run


@each
def test_every_schedule_can_be_shown(call, name, values):
    items = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    code, out, err = call(name, *items, f"steps={HORIZON}", "learning_rate=2.0e-3", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, [])
    assert list(shown)[:5] == ["name", "settings", "horizon", "learning_rate", "rates"]
    schedule = make(name, **values)
    assert [*shown["rates"], shown["after"]] == pytest.approx([2e-3 * f for f in rates(schedule, HORIZON)], rel=1e-12)
    assert (shown["horizon"], shown["decay_start"]) == (HORIZON, schedule.decay_start(HORIZON))
    code, out, err = call(name, *items, f"steps={HORIZON}")
    lines = out.splitlines()
    assert (code, err) == (0, []) and name in lines[0] and f"{HORIZON} steps" in lines[0] and "*" in out
    assert len(lines[0]) < 400 and all(ord(c) < 128 for c in out)


def test_a_shown_schedule_can_be_read_as_a_table(call, tmp_path):
    out = call("wsd", "horizon=50", "warmup=4", "--json")[1]
    (tmp_path / "wsd.json").write_text(out)
    shown = json.loads(call("table", "file=wsd.json", "column=rates", "--json")[1])
    assert shown["rates"] == json.loads(out)["rates"] and shown["horizon"] == 50  # as long as its table


def test_the_power_law_is_shown_in_its_own_units(call):
    shown = json.loads(call("power", "batch=8", "tokens_per_step=100000", "decay=0", "steps=1001", "--json")[1])
    assert shown["learning_rate"] == 0.02
    assert [shown["rates"][k] for k in (100, 1000)] == pytest.approx([0.008613, 0.002662], abs=1e-6)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["wsd", "decay=0.9", "warmup=200"], ["training.schedule.decay = 0.9", "do not fit", "1000"]),
        (["wsd", "shape=sqare"], ["shape", "did you mean 'square'?"]),
        (["cosine", "warmup=-1"], ["warmup = -1", ">= 0"]),
        (["wsd", "steps=0"], ["steps = 0"]),
        (["wsd", "steps=10", "horizon=10"], ["steps = 10", "horizon = 10"]),
        (["uba", "phi=0"], ["phi = 0.0"]),
        (["table", "file=none.csv"], ["none.csv", "cannot be read"]),
    ],
)
def test_a_schedule_that_cannot_be_is_not_shown(call, tmp_path, argv, words):
    code, out, err = call(*argv)
    assert (code, out, len(err)) == (2, "", 1) and all(word in err[0] for word in words), err
    assert not list(tmp_path.iterdir())
