"""The store: nothing whole is lost, nothing is there twice, a claim saves work and never costs a result."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from clsuite.errors import ResultWarning, UsageError
from clsuite.experiment import claims
from clsuite.experiment.claims import claim
from clsuite.experiment.folder import publish
from clsuite.experiment.store import State, Store

unit, kill = pytest.mark.unit, pytest.mark.kill
PROCESSES = 8
NAME = "ab" + 62 * "0"
YEARS = 10 * 365 * 86400.0
ATTEMPT = {"status": "killed", "reason": "no memory läßt sich finden", "log": ["a line", "{}"], "host": "h", "pid": 7, "seconds": 1.5}
ROW = {"cell": NAME, "phase": "evaluation", "label": "replay", "seed": 3, "trial": None}


def together(program: str, *arguments: object) -> list[str]:
    """What each of eight processes printed that began the program at one moment; `me` is its number."""
    head = "import sys\nme = int(sys.argv[1])\nfrom pathlib import Path\nprint('ready', flush=True)\nsys.stdin.readline()\n"
    start = "import clsuite.experiment.claims, clsuite.experiment.store\n" + head
    processes = [
        subprocess.Popen([sys.executable, "-c", start + program, str(k), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for k in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES
    return printed


def held(folder, age: float = 0.0, **holder) -> None:
    """Put a claim there that was touched `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "claim"
    file.write_text(json.dumps({"host": socket.gethostname(), "pid": 1, "started": "then", "token": "theirs", **holder}))
    now = file.stat().st_mtime
    os.utime(file, (now - age, now - age))


def living() -> dict:
    """A holder that lives: this process, under a token of somebody else."""
    return {"pid": os.getpid(), "started": claims._started(os.getpid())}


def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def token(folder) -> str:
    return json.loads((folder / "claim").read_text())["token"]


# Claims


@unit
def test_a_claim_is_held_once_and_free_after_release(tmp_path):
    mine = claim(tmp_path / "cell")
    assert mine is not None and claim(tmp_path / "cell") is None
    assert json.loads(mine.path.read_text()) == {"host": socket.gethostname(), "token": mine.token, **living()}
    mine.release()
    assert list((tmp_path / "cell").iterdir()) == []
    assert claim(tmp_path / "cell") is not None


@unit
@pytest.mark.parametrize("age", [-YEARS, 0, YEARS])
def test_a_living_process_of_this_host_keeps_its_claim_whatever_its_age(tmp_path, age):
    held(tmp_path, age, **living())
    assert claim(tmp_path) is None and token(tmp_path) == "theirs"


@unit
@pytest.mark.parametrize("age", [-YEARS, 0, YEARS])
def test_the_claim_of_a_dead_process_is_taken_over_at_once(tmp_path, age):
    held(tmp_path, age, pid=dead())
    mine = claim(tmp_path)
    assert mine is not None and token(tmp_path) == mine.token
    assert [p.name for p in tmp_path.iterdir()] == ["claim"]


@unit
def test_a_process_not_yet_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held(tmp_path, pid=process.pid, started=claims._started(process.pid))
    assert claim(tmp_path) is None
    process.kill()
    for _ in range(1000):
        if mine := claim(tmp_path):
            break
        time.sleep(0.01)
    assert mine is not None and process.returncode is None
    process.communicate()


@unit
@pytest.mark.parametrize("part", [0, 1])
def test_a_number_used_again_by_another_process_is_taken_over(tmp_path, part):
    started = living()["started"].split()
    started[part] = "0"  # another boot, another time
    held(tmp_path, pid=os.getpid(), started=" ".join(started))
    assert claim(tmp_path) is not None


@unit
@pytest.mark.parametrize("jump", [-YEARS, 0.0, YEARS])
def test_another_host_keeps_its_claim_ten_minutes_whatever_this_clock_says(tmp_path, monkeypatch, jump):
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(jump * 1e9))
    held(tmp_path, 590, host="elsewhere", pid=dead())
    assert claim(tmp_path) is None
    held(tmp_path, 601, host="elsewhere", **living())
    assert claim(tmp_path) is not None


@unit
def test_a_claim_from_the_future_is_counted_from_now(tmp_path):
    held(tmp_path, -YEARS, host="elsewhere")
    assert claim(tmp_path) is None
    touched = (tmp_path / "claim").stat().st_mtime
    assert abs(touched - tmp_path.stat().st_mtime) < 60
    os.utime(tmp_path / "claim", (touched - 601, touched - 601))
    assert claim(tmp_path) is not None


@unit
@pytest.mark.parametrize("text", ["", '{"host": "x", "pi', "[1]", "null", '{"host": 3}', "\x00\x00"])
def test_a_torn_claim_is_held_until_it_is_old(tmp_path, text):
    file = tmp_path / "claim"
    file.write_text(text)
    assert claim(tmp_path) is None and file.read_text() == text
    old = file.stat().st_mtime - 601
    os.utime(file, (old, old))
    assert claim(tmp_path) is not None


@unit
def test_refreshing_keeps_a_claim_and_touches_only_our_own(tmp_path, monkeypatch):
    mine = claim(tmp_path)
    now = mine.path.stat().st_mtime
    os.utime(mine.path, (now - 601, now - 601))
    monkeypatch.setattr(claims, "REFRESH_SECONDS", 0.01)
    mine.keep()
    for _ in range(1000):
        if mine.path.stat().st_mtime > now - 60:
            break
        time.sleep(0.01)
    assert mine.path.stat().st_mtime > now - 60 and mine.refresh()
    held(tmp_path, 601, host="elsewhere")
    time.sleep(0.1)
    assert not mine.refresh() and mine.path.stat().st_mtime < now - 500
    mine.path.unlink()
    assert not mine.refresh()
    mine.release()


@unit
@pytest.mark.parametrize("text", ['{"token": "theirs"}', "", "torn"])
def test_release_never_removes_the_claim_of_somebody_else(tmp_path, text):
    mine = claim(tmp_path)
    mine.path.write_text(text)
    mine.release()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("claim", text)]
    mine.path.unlink()
    mine.release()
    assert list(tmp_path.iterdir()) == []


@unit
@pytest.mark.parametrize("locks", [True, False])
def test_a_claim_that_came_in_place_of_the_stale_one_is_put_back(tmp_path, monkeypatch, locks):
    """Another process took the stale claim over between our judgement and our removing it."""
    if not locks:
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError("no locks here")))
    held(tmp_path, pid=dead())
    judge = claims._stale

    def slow(path, found):
        verdict = judge(path, found)
        held(tmp_path, token="quicker", **living())
        return verdict

    monkeypatch.setattr(claims, "_stale", slow)
    assert claim(tmp_path) is None
    assert token(tmp_path) == "quicker" and [p.name for p in tmp_path.iterdir()] == ["claim"]


@unit
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not be written"):
        claim(tmp_path / "file" / "cell")
    with pytest.raises(UsageError, match="could not be written"):
        Store(tmp_path / "file").record(NAME, ATTEMPT)


HOLD = """
import json, os, time
from clsuite.experiment.claims import claim
folder, log, gone = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for k in range(12):
    while (mine := claim(folder)) is None:
        time.sleep(0.0005)
    os.write(handle, f"begin {mine.token}\\n".encode())
    time.sleep(0.002)
    os.write(handle, f"end {mine.token}\\n".encode())
    if k % 3:  # as if it had died: the claim stays behind
        other = folder / f".left-{me}"
        other.write_text(json.dumps({**json.loads(mine.path.read_text()), "pid": gone}))
        os.replace(other, mine.path)
    else:
        mine.release()
"""


@kill
def test_of_eight_processes_one_holds_the_claim_at_a_time(tmp_path):
    together(HOLD, tmp_path / "cell", tmp_path / "log", dead())
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    begins, ends = lines[::2], lines[1::2]
    assert len(begins) == 12 * PROCESSES and len({t for _, t in begins}) == 12 * PROCESSES
    assert begins == [["begin", t] for _, t in begins] and ends == [["end", t] for _, t in begins]
    assert {p.name for p in (tmp_path / "cell").iterdir()} <= {"claim"}


# Results


PUBLISH = """
import json
from clsuite.experiment.folder import publish
from clsuite.experiment.store import Store
store = Store(Path(sys.argv[2]))
seen = []
for k in range(100):
    name = f"{k:064x}"
    store.folder(name).mkdir(parents=True, exist_ok=True)
    publish(store.folder(name), {"cell": name, "status": "ok", "by": me, "data": [me] * 5000}, False)
    seen.append(store.result(name)["by"])
print(json.dumps(seen))
"""


@kill
def test_eight_processes_publishing_the_same_hundred_cells_leave_each_once_and_whole(tmp_path):
    seen = [json.loads(line) for line in together(PUBLISH, tmp_path)]
    store, names = Store(tmp_path), [f"{k:064x}" for k in range(100)]
    results = [store.result(name) for name in names]
    assert [r["cell"] for r in results] == names
    assert all(r["data"] == [r["by"]] * 5000 for r in results)
    assert all(s == [r["by"] for r in results] for s in seen), "a later result replaced an earlier one"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["result.json"] * 100


@unit
def test_a_second_result_is_dropped_and_a_replacement_is_not(tmp_path):
    publish(tmp_path, {"cell": NAME, "status": "ok", "by": 1}, False)
    publish(tmp_path, {"cell": NAME, "status": "ok", "by": 2}, False)
    assert json.loads((tmp_path / "result.json").read_text())["by"] == 1
    publish(tmp_path, {"cell": NAME, "status": "ok", "by": 3}, True)
    assert json.loads((tmp_path / "result.json").read_text())["by"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


# Attempts and states


def cut(status: str, n: int = 1) -> list[dict]:
    return [{"status": status, "reason": f"{status} {k}"} for k in range(n)]


@unit
@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], State("missing", None, False)),
        (cut("error"), State("error", "error 0", True)),
        (cut("usage"), State("error", "usage 0", True)),
        (cut("oom", 2), State("oom", "oom 1", False)),
        (cut("timeout", 3), State("timeout", "timeout 2", True)),
        (cut("oom") + cut("timeout") + cut("killed"), State("killed", "killed 0", True)),
        (cut("error") + cut("killed"), State("error", "error 0", True)),
        (cut("interrupted", 5), State("missing", None, False)),
        (cut("error") + cut("forgiven"), State("missing", None, False)),
        (cut("oom", 3) + cut("forgiven") + cut("oom"), State("oom", "oom 0", False)),
    ],
)
def test_the_state_of_a_cell_follows_from_its_attempts(tmp_path, attempts, expected):
    store = Store(tmp_path)
    for attempt in attempts:
        store.record(NAME, attempt)
    assert store.state(NAME) == expected


@unit
@pytest.mark.parametrize("status", ["ok", "diverged"])
def test_a_result_outweighs_every_attempt(tmp_path, status):
    store = Store(tmp_path)
    assert store.result(NAME) is None
    store.record(NAME, ATTEMPT | {"status": "error"})
    publish(store.folder(NAME), {"cell": NAME, "status": status, "reason": "why"}, False)
    assert store.state(NAME) == State(status, "why", True)


@unit
def test_forgiving_counts_from_anew_and_makes_no_folder(tmp_path):
    store = Store(tmp_path)
    store.forgive(NAME)
    assert list(tmp_path.iterdir()) == []
    store.record(NAME, ATTEMPT)
    store.forgive(NAME)
    store.forgive(NAME)
    assert store.attempts(NAME) == [] and len((store.folder(NAME) / "attempts.jsonl").read_text().splitlines()) == 2
    store.record(NAME, ATTEMPT)
    assert store.attempts(NAME) == [ATTEMPT]


@unit
def test_shared_cells_lie_below_their_own_folder(tmp_path):
    one, two = Store(tmp_path / "one", tmp_path / "shared"), Store(tmp_path / "two", tmp_path / "shared")
    one.record(NAME, ATTEMPT)
    one.add_plan([ROW])
    assert two.attempts(NAME) == [ATTEMPT] and two.plan() == []
    assert one.folder(NAME) == tmp_path / "shared" / "cells" / "ab" / NAME


# Torn lines


@unit
def test_an_attempt_torn_at_any_byte_costs_nothing_else(tmp_path):
    store = Store(tmp_path)
    file = store.folder(NAME) / "attempts.jsonl"
    store.record(NAME, ATTEMPT | {"pid": 1})
    first = len(file.read_bytes())
    store.record(NAME, ATTEMPT | {"pid": 2})
    whole = file.read_bytes()
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        expected = [pid for pid, end in ((1, first), (2, len(whole))) if length >= end - 1]
        assert [a["pid"] for a in store.attempts(NAME)] == expected
        store.record(NAME, ATTEMPT | {"pid": 3})
        assert [a["pid"] for a in store.attempts(NAME)] == [*expected, 3]


@unit
def test_a_plan_torn_at_any_byte_is_made_whole_by_the_next_driver(tmp_path):
    store = Store(tmp_path)
    file = tmp_path / "plan.jsonl"
    rows = [ROW | {"seed": k} for k in range(3)]
    store.add_plan(rows)
    whole = file.read_bytes()
    ends = [k for k, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        assert store.plan() == [row for row, end in zip(rows, ends, strict=True) if length >= end]
        store.add_plan(rows)
        assert store.plan() == rows


@unit
@pytest.mark.parametrize("line", [b"3", b"null", b'"text"', b"[{}]", b"\xff\xfe{", b""])
def test_a_line_that_is_no_object_is_skipped(tmp_path, line):
    store = Store(tmp_path)
    store.record(NAME, ATTEMPT)
    file = store.folder(NAME) / "attempts.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes() + line)
    store.record(NAME, ATTEMPT)
    assert store.attempts(NAME) == [ATTEMPT, ATTEMPT]


# The plan


@unit
def test_the_plan_takes_each_row_once_in_order(tmp_path):
    store, more = Store(tmp_path), [ROW, ROW | {"seed": 4}, ROW | {"label": "other"}]
    store.add_plan([ROW, ROW])
    before = (tmp_path / "plan.jsonl").read_bytes()
    assert before.count(b"\n") == 1
    store.add_plan([dict(reversed(ROW.items()))])
    assert (tmp_path / "plan.jsonl").read_bytes() == before
    store.add_plan(more)
    (tmp_path / "plan.jsonl").open("ab").write(before)  # a second driver wrote at the same moment
    assert store.plan() == more


APPEND = """
from clsuite.experiment.store import Store
store = Store(Path(sys.argv[2]))
for k in range(25):
    store.record("ab" + 62 * "0", {"status": "killed", "by": me, "k": k, "log": [str(me) * 20000]})
    store.add_plan([{"cell": str(k), "phase": "tuning", "label": "replay", "seed": s} for s in range(4)])
"""


@kill
def test_eight_processes_appending_lose_and_mix_nothing(tmp_path):
    together(APPEND, tmp_path)
    store = Store(tmp_path)
    attempts = store.attempts(NAME)
    assert sorted((a["by"], a["k"]) for a in attempts) == [(by, k) for by in range(PROCESSES) for k in range(25)]
    assert all(a["log"] == [str(a["by"]) * 20000] for a in attempts)
    assert sorted((int(r["cell"]), r["seed"]) for r in store.plan()) == [(k, s) for k in range(25) for s in range(4)]


# Identity


IDENTITY = {"scenario": {"name": "class_incremental", "experiences": 5}, "protocol": {"metric": "final_accuracy"}, "split": None}


def contents(folder) -> dict:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@unit
def test_an_experiment_goes_on_under_its_identity_and_takes_a_changed_text(tmp_path):
    store = Store(tmp_path / "new" / "out")
    store.open(IDENTITY, "seeds: 3\r\n# ü\n")
    assert (store.out / "experiment.yaml").read_bytes() == "seeds: 3\r\n# ü\n".encode()
    before = contents(store.out)
    store.open(dict(reversed(IDENTITY.items())), "seeds: 3\r\n# ü\n")
    assert contents(store.out) == before and set(before) == {"experiment.yaml", "identity.json"}
    store.open(IDENTITY, "seeds: 5\n")
    assert (store.out / "experiment.yaml").read_text() == "seeds: 5\n"
    (store.out / "experiment.yaml").unlink()  # killed between the two files
    store.open(IDENTITY, "seeds: 5\n")
    assert set(contents(store.out)) == set(before)


@unit
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": {"name": "class_incremental", "experiences": 10}, "split": 3}, "scenario.experiences is 5 there and 10 here"),
        ({"scenario": {"name": "class_incremental"}}, "scenario.experiences is 5 there and absent here"),
        ({"protocol": {"metric": "final_accuracy", "folds": [1]}}, r"protocol.folds is absent there and \[1\] here"),
        ({"split": False}, "split is null there and false here"),
        ({"protocol": "plain"}, 'protocol is {"metric": "final_accuracy"} there and "plain" here'),
    ],
)
def test_another_identity_is_refused_by_its_first_difference_and_nothing_is_written(tmp_path, change, said):
    store = Store(tmp_path)
    store.open(IDENTITY, "text")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=said) as error:
        store.open({**IDENTITY, **change}, "other text")
    assert "another --out is needed" in str(error.value) and "\n" not in str(error.value)
    assert contents(tmp_path) == before


@unit
def test_a_damaged_identity_is_refused(tmp_path):
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        Store(tmp_path).open(IDENTITY, "text")
    assert (tmp_path / "identity.json").read_text() == "{" and not (tmp_path / "experiment.yaml").exists()


@unit
@pytest.mark.parametrize("damaged", ["", '{"cell": "', "[]", "{}", "\x00\x00"])
def test_a_damaged_result_counts_as_missing_and_is_replaced_by_a_whole_one(damaged, tmp_path):
    store = Store(tmp_path)
    folder = store.folder(NAME)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(damaged)
    with pytest.warns(ResultWarning, match="damaged"):
        assert store.state(NAME) == State("missing")
    whole = {"cell": NAME, "status": "ok", "reason": None, "spec": {}, "metrics": {}, "cost": {}, "environment": {}}
    publish(folder, whole, replace=False)
    assert store.result(NAME) == whole
    publish(folder, {**whole, "reason": "later"}, replace=False)  # the first whole one stays
    assert store.result(NAME) == whole and len(list(folder.iterdir())) == 1


OPEN = """
from clsuite.errors import UsageError
from clsuite.experiment.store import Store
for k in range(20):
    try:
        Store(Path(sys.argv[2]) / str(k)).open({"scenario": {"seed": me}}, f"text {me}")
        print(k)
    except UsageError as error:
        assert "scenario.seed" in str(error), error
"""


@kill
def test_of_eight_drivers_with_eight_identities_one_begins(tmp_path):
    printed = [out.split() for out in together(OPEN, tmp_path)]
    assert sorted((line for lines in printed for line in lines), key=int) == [str(k) for k in range(20)]
    for me, won in enumerate(printed):
        for k in won:
            assert json.loads((tmp_path / k / "identity.json").read_text()) == {"scenario": {"seed": me}}
            assert (tmp_path / k / "experiment.yaml").read_text() == f"text {me}"
            assert len(list((tmp_path / k).iterdir())) == 2
