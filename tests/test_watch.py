"""What `clsuite watch` shows of a folder while it runs: counts, failures, running cells, curves, in the terminal and on its page."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clsuite.cli import main
from clsuite.errors import ResultWarning, UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.claims import Claim, claim
from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.experiment.results import rows
from clsuite.experiment.status import standing
from clsuite.experiment.store import Store
from clsuite.report import serve, watch, watched
from clsuite.report.live import Live
from clsuite.report.live_page import document
from clsuite.report.live_picture import picture
from clsuite.report.live_words import clean, line, sparkline
from clsuite.report.serve import Page
from clsuite.report.watched import measured

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]

FILE = """\
scenario: {{name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}}
model: {{name: mlp, hidden: [8]}}
training: {{batch_size: 16, epochs: 1}}
strategies: [naive, {{name: '{folder}/mine.py:Raises', label: raises}}]
search: {{training: {{learning_rate: [0.01, 0.1], weight_decay: null}}}}
protocol: {{name: two-phase, trials: 2, tuning_seeds: 1, finalists: 1, finalist_seeds: 1}}
seeds: 2
"""
RAISES = """\
from clsuite.strategy import Strategy


class Raises(Strategy):
    def training_step(self, batch):
        raise ValueError("on purpose")
"""
HOSTILE = "<script>alert('x')</script>\x1b[31m\x1b]0;title\x07 \u202eleft \"quoted\" & "
OLD = 1_700_000_000.0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    (folder / "mine.py").write_text(RAISES)
    (folder / "experiment.yaml").write_text(FILE.format(folder=folder))
    run_grid(read(folder / "experiment.yaml"), folder / "out", workers=1)
    return folder / "out"


def a_result(label: str, seed: int = 0, matrix: tuple[tuple[float, ...], ...] = ((0.9, 0.0), (0.5, 0.7)), **more: Any) -> dict[str, Any]:
    """A result of two evaluation sets of 10 and 30 samples, by hand."""
    R, n = np.array(matrix), np.array([10, 30])
    return {
        "status": "ok",
        "reason": None,
        "strategy": label,
        "metrics": {"final_accuracy": float((R[-1] * n).sum() / 40)},
        "matrix": R.tolist(),
        "evaluation_sets": [{"name": "first", "samples": 10, "learned_in": 0}, {"name": "second", "samples": 30, "learned_in": 1}],
        "environment": {"source": {}},
        "spec": {"strategy": {"name": label, "modifiers": []}, "phase": "evaluation", "seed": seed},
        **more,
    }


class Folder:
    """A grid made by hand of one phase: every label with every seed, nothing of it finished."""

    def __init__(self, out: Path, labels: list[str], seeds: int) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        listed = [{"name": "naive", "label": label} for label in labels]
        experiment = {"scenario": {"name": "class_incremental", "dataset": "digits"}, "strategies": listed, "protocol": "fixed", "seeds": seeds}
        (out / "experiment.yaml").write_text(json.dumps(experiment))
        self.rows = [
            {"cell": hashlib.sha256(f"{label} {seed}".encode()).hexdigest()[:24], "phase": "evaluation", "label": label, "seed": seed, "trial": None}
            for label in labels
            for seed in range(seeds)
        ]
        (out / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        (out / "identity.json").write_text("{}")
        self.claims: list[Claim] = []

    def place(self, k: int) -> Path:
        place = Store(self.out).folder(self.rows[k]["cell"])
        place.mkdir(parents=True, exist_ok=True)
        return place

    def end(self, k: int, at: float = OLD, **more: Any) -> None:
        place = self.place(k)
        (place / "result.json").write_text(json.dumps(a_result(self.rows[k]["label"], self.rows[k]["seed"], **more)))
        for path in (place / "result.json", place):
            os.utime(path, (at, at))

    def fail(self, k: int, reason: str = "ValueError: on purpose", log: tuple[str, ...] = (), at: float = OLD) -> None:
        place = self.place(k)
        with (place / "attempts.jsonl").open("a") as file:
            file.write(json.dumps({"status": "error", "reason": reason, "log": list(log)}) + "\n")
        for path in (place / "attempts.jsonl", place):
            os.utime(path, (at, at))

    def begin(self, k: int) -> Path:
        found = claim(self.place(k))
        assert found is not None
        self.claims.append(found)
        return self.place(k)

    def leave(self) -> None:
        for found in self.claims:
            found.release()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "out", ["alpha", "beta"], 3)


def shown(state: dict[str, Any], width: int = 100, height: int | None = None) -> str:
    """The state as a terminal without colours shows it."""
    out = Console(width=width, file=io.StringIO(), highlight=False, markup=False, color_system=None)
    with out.capture() as captured:
        out.print(picture(state, out, height))
    return captured.get()


@contextmanager
def opens() -> Iterator[list[str]]:
    """The files that are opened in the block."""
    found: list[str] = []
    _LISTENERS.append(found)
    try:
        yield found
    finally:
        _LISTENERS.remove(found)


_LISTENERS: list[list[str]] = []
sys.addaudithook(lambda event, arguments: [found.append(str(arguments[0])) for found in _LISTENERS] if event == "open" and _LISTENERS else None)


# -- the state --------------------------------------------------------------------------------------------------


def test_a_finished_grid_stands_as_status_says_and_has_ended(done: Path) -> None:
    found, known = Live(done).state(), standing(done)
    assert {key: found[key] for key in ("phases", "cells", "superseded", "left_out", "rate_per_minute")} == {
        key: known[key] for key in ("phases", "cells", "superseded", "left_out", "rate_per_minute")
    }
    assert found["phases"] == {"tuning": {"ok": 3, "error": 2}, "evaluation": {"ok": 2}}
    # naive: 2 trials, a finalist, 2 seeds; raises: 2 trials, both failed, so that neither its finalist nor its 2 seeds will ever come
    assert (found["expected"], found["left"], found["ended"], found["kind"]) == (7, 0, True, "grid")


def test_the_curve_of_a_strategy_is_the_mean_over_its_cells(done: Path) -> None:
    curves = {(c["phase"], c["label"]): c for c in Live(done).state()["curves"]}
    cells = [row for row in rows(done) if row["phase"] == "evaluation" and row["strategy"] == "naive"]
    results = [json.loads(Path(row["folder"], "result.json").read_text()) for row in cells]
    by_hand = []
    for i in range(2):  # samples that were classified correctly among those of the sets learned by then
        sizes = [np.array([s["samples"] for s in r["evaluation_sets"] if s["learned_in"] <= i]) for r in results]
        by_hand.append(np.mean([(np.array(r["matrix"][i][: len(n)]) * n).sum() / n.sum() for r, n in zip(results, sizes, strict=True)]))
    found = curves["evaluation", "naive"]
    assert found["values"] == pytest.approx(by_hand)
    final = [row["final_accuracy"] for row in cells]
    assert (found["n"], found["last"], found["spread"]) == (2, pytest.approx(np.mean(final)), pytest.approx(np.std(final, ddof=1)))
    assert curves["tuning", "naive"]["n"] == 3 and ("tuning", "raises") not in curves


def test_failures_come_with_reason_and_log_tail(done: Path) -> None:
    found = Live(done).state()
    assert found["failed"] == 2
    assert {(f["label"], f["phase"], f["status"], f["reason"]) for f in found["failures"]} == {("raises", "tuning", "error", "ValueError: on purpose")}
    assert all(f["log"][-1] == "ValueError: on purpose" and len(f["log"]) <= watched.LOG_LINES for f in found["failures"])
    text = shown(found)
    assert "Failed: 2" in text and "error: raises, trial 0, seed 1000 (tuning): ValueError: on purpose" in text and "| ValueError: on purpose" in text


def test_cells_that_failed_trials_rule_out_are_not_waited_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", ["alpha"], 4)
    experiment = json.loads((folder.out / "experiment.yaml").read_text())
    experiment["protocol"] = {"name": "two-phase", "trials": 3, "sampler": "grid", "tuning_seeds": 1, "finalists": 2, "finalist_seeds": 2}
    experiment["search"] = {"training": {"learning_rate": [0.1, 0.2, 0.3], "weight_decay": None}}
    (folder.out / "experiment.yaml").write_text(json.dumps(experiment))
    folder.rows = [{"cell": f"{k:024x}", "phase": "tuning", "label": "alpha", "seed": 1000, "trial": k} for k in range(3)]
    (folder.out / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in folder.rows))
    live = Live(folder.out)
    assert live.state()["expected"] == 11  # 3 trials, 2 finalists on 2 further seeds, 4 seeds
    folder.end(0)
    folder.fail(1)
    assert live.state()["expected"] == 11  # the third may still come out well
    folder.fail(2)
    found = live.state()
    assert (found["expected"], found["left"], found["ended"]) == (9, 6, False)  # one finalist alone
    folder.end(0, status="diverged")
    found = live.state()
    assert (found["expected"], found["left"], found["ended"]) == (3, 0, True)  # nothing to evaluate


def test_the_latest_failures_come_first(folder: Folder) -> None:
    folder.fail(0, "first", at=OLD)
    folder.fail(1, "third", at=OLD + 20)
    folder.fail(2, "second", at=OLD + 10)
    assert [f["reason"] for f in Live(folder.out).state()["failures"]] == ["third", "second", "first"]


def test_a_cell_somebody_is_at_says_where_it_is(folder: Folder) -> None:
    live = Live(folder.out)
    folder.end(0)
    now = time.time()
    for k in (1, 2):
        folder.end(k, at=now - 60 * k)
    place = folder.begin(3)
    (place / "spec.json").write_text(json.dumps({"scenario": {"experiences": 5}}))
    os.utime(place / "spec.json", (now - 30, now - 30))
    events = [
        {"event": "loss", "experience": 0, "step": 100, "loss": 0.75, "learning_rate": 0.1},
        {"event": "experience", "experience": 0, "step": 150, "accuracy": [0.5]},
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event": "los')
    try:
        found = live.state()
        assert found["running"] == [
            {
                **{"cell": folder.rows[3]["cell"], "phase": "evaluation", "label": "beta", "trial": None, "seed": 0},
                **{"experience": 1, "experiences": 5, "step": 150, "loss": 0.75, "since": pytest.approx(now - 30)},
            }
        ]
        assert found["phases"] == {"evaluation": {"ok": 3, "running": 1, "missing": 2}} and not found["ended"]
        assert found["rate_per_minute"] == pytest.approx(1.0, rel=0.05)  # two results in two minutes; one is too old to count
        assert found["remaining_seconds"] == pytest.approx(60 * 3 / found["rate_per_minute"])
        assert {key: standing(folder.out)[key] for key in ("phases", "cells", "expected", "left")} == {
            key: found[key] for key in ("phases", "cells", "expected", "left")
        }
        text = shown(found)
        assert "beta, seed 0 (evaluation): experience 2 of 5, step 150, loss 0.75; for 0:00:3" in text
        assert "3 of 6 cells have ended; 1.0 a minute, about 0:03:0" in text
    finally:
        folder.leave()
    assert live.state()["phases"] == {"evaluation": {"ok": 3, "missing": 3}}


def test_a_cell_that_is_computed_again_keeps_the_grid_from_having_ended(folder: Folder) -> None:
    for k in range(6):
        folder.end(k)
    folder.begin(0)
    try:
        found = Live(folder.out).state()
        assert (found["left"], found["ended"], [c["seed"] for c in found["running"]]) == (0, False, [0])
    finally:
        folder.leave()
    assert Live(folder.out).state()["ended"]


def test_a_claim_of_the_dead_is_no_running_cell(folder: Folder) -> None:
    (folder.place(0) / "claim").write_text(json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1, "started": "never", "token": "x"}))
    found = Live(folder.out).state()
    assert found["running"] == [] and found["message"] == "nobody is at work on the others now: the grid's command goes on with them"


def test_a_grid_can_be_watched_from_its_first_moment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is no folder"):
        Live(out)
    out.mkdir()
    live = Live(out)
    found = live.state()
    assert (found["kind"], found["ended"]) == ("nothing", False) and "holds no grid and no run yet" in found["message"]
    assert "waiting" in line(found) and "waiting" in shown(found)
    whole = Folder(tmp_path / "whole", ["alpha"], 1)
    for name in ("identity.json", "experiment.yaml"):
        (out / name).write_bytes((whole.out / name).read_bytes())
    found = live.state()
    assert (found["kind"], found["expected"], found["ended"]) == ("grid", 1, False) and "no cell is planned yet" in found["message"]
    (out / "plan.jsonl").write_bytes((whole.out / "plan.jsonl").read_bytes())
    assert live.state()["phases"] == {"evaluation": {"missing": 1}}


def test_what_cannot_be_read_counts_as_missing_as_in_status(folder: Folder) -> None:
    folder.end(0)
    (folder.place(1) / "result.json").write_text('{"torn')
    (folder.place(2) / "result.json").write_text('{"accuracy": 1}')  # of another schema
    with (folder.out / "plan.jsonl").open("a") as file:
        file.write('{"neither": "cell"}\n{"to')
    with pytest.warns(ResultWarning, match="damaged"):
        found = Live(folder.out).state()
        assert found["phases"] == standing(folder.out)["phases"] == {"evaluation": {"ok": 1, "missing": 5}}
    assert not found["failures"]


def test_a_grid_whose_file_cannot_be_read_is_not_over_before_it_is_quiet(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(6):
        folder.end(k)
    (folder.out / "experiment.yaml").write_text("strategies: [no_such_strategy]")
    live = Live(folder.out)
    assert (live.state()["left"], live.state()["ended"]) == (0, False)
    monkeypatch.setattr("clsuite.report.live.UNSURE_SECONDS", 0.0)
    assert live.state()["ended"]


def test_single_runs_are_told_apart_by_the_settings_in_which_they_differ(tmp_path: Path, small: list[str], cell_of: Any) -> None:
    for seed, rate in ((0, 0.1), (1, 0.1), (0, 0.01)):
        run_cell(cell_of(*small, "training.epochs=1", f"seed={seed}", f"training.learning_rate={rate}"), Options(tmp_path))
    found = Live(tmp_path).state()
    assert (found["kind"], found["phases"], found["ended"]) == ("runs", {"evaluation": {"ok": 3}}, True)
    assert {(c["label"], c["n"]) for c in found["curves"]} == {("naive (training.learning_rate=0.1)", 2), ("naive (training.learning_rate=0.01)", 1)}
    place = tmp_path / "cells" / "aa" / ("a" * 24)
    place.mkdir(parents=True)
    (place / "spec.json").write_text(json.dumps({"strategy": {"name": "x", "modifiers": [{"name": "y"}]}, "phase": "evaluation", "seed": 7}))
    assert [(c["label"], c["seed"]) for c in Live(tmp_path).state()["running"]] == [("x+y", 7)]  # it has just written
    for path in (place / "spec.json", place):
        os.utime(path, (OLD, OLD))
    found = Live(tmp_path).state()
    assert (found["running"], found["left"], found["ended"]) == ([], 1, False) and "the same clsuite run goes on" in found["message"]


def test_losses_of_text_are_means_over_the_corpora_learned_so_far() -> None:
    looks = [(0, 2, [4.0, 6.0]), (0, 8, [2.0, 6.0]), (1, 4, [3.0, 5.0]), (1, 8, [3.0, 1.0])]
    result = {
        "status": "ok",
        "metrics": {"final_loss": 2.25},
        "matrix": [[2.0, 6.0], [3.5, 1.0]],
        "evaluation_sets": [{"samples": 5, "learned_in": 0}, {"samples": 50, "learned_in": 1}],
        "loss_curve": [{"experience": i, "step": step, "losses": values} for i, step, values in looks],
    }
    found = measured(result)
    assert found is not None and (found.kind, found.last, found.experiences, found.per_experience) == ("loss", 2.25, 2, 16)
    # 16 points an experience of 8 steps: half a step each. First corpus: 4 until step 2, then straight down to 2 at step 8.
    assert found.values[:4] == (4.0, 4.0, 4.0, 4.0)
    assert found.values[9] == pytest.approx(3.0) and found.values[15] == 2.0  # step 5 is half of the way
    assert found.values[16] == 4.0 and found.values[27] == pytest.approx(3.0) and found.values[31] == 2.0
    assert measured({**result, "loss_curve": []}).values == (2.0, 2.25)  # type: ignore[union-attr]


# -- what it costs, and that it only reads ------------------------------------------------------------------------


def test_a_look_reads_only_what_has_changed(folder: Folder) -> None:
    for k in range(4):
        folder.end(k)
    folder.fail(4, log=("last line",))
    live = Live(folder.out)
    before = live.state()
    with opens() as found:
        assert {**live.state(), "time": 0} == {**before, "time": 0}
    assert [path for path in found if "cells/" in path or path.endswith(("plan.jsonl", "experiment.yaml"))] == []
    folder.end(5, at=OLD + 1)
    with opens() as found:
        assert live.state()["phases"] == {"evaluation": {"ok": 5, "error": 1}}
    assert {Path(path).parent for path in found if "cells/" in path} == {folder.place(5)}


def test_a_second_change_within_a_tick_of_the_clock_is_seen(folder: Folder) -> None:
    """A cell that changed just now is read again, though its times stay as they were."""
    now = time.time()
    folder.end(0, at=now)
    live = Live(folder.out)
    assert live.state()["curves"][0]["last"] == pytest.approx(0.65)
    path = folder.place(0) / "result.json"
    path.write_text(path.read_text().replace("0.65", "0.25"))
    for each in (path, folder.place(0)):
        os.utime(each, (now, now))
    assert live.state()["curves"][0]["last"] == 0.25


def test_attempts_that_are_forgiven_count_no_more(folder: Folder) -> None:
    folder.fail(0)
    live = Live(folder.out)
    assert live.state()["failed"] == 1
    Store(folder.out).forgive(folder.rows[0]["cell"])
    assert live.state()["failed"] == 0


def test_two_thousand_cells_are_looked_at_without_opening_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", [f"strategy {k}" for k in range(20)], 100)
    text = json.dumps(a_result("x"))
    for k in range(1000):
        place = folder.place(k)
        (place / "result.json").write_text(text)
        for path in (place / "result.json", place):
            os.utime(path, (OLD, OLD))
    live = Live(folder.out)
    found = live.state()
    assert (found["expected"], found["left"], found["phases"]) == (2000, 1000, {"evaluation": {"ok": 1000, "missing": 1000}})
    assert {c["n"] for c in found["curves"]} == {100} and len(found["curves"]) == 10
    with opens() as opened:
        live.state()
    assert len(opened) < 5
    folder.end(1000)
    with opens() as opened:
        assert live.state()["left"] == 999
    assert sum("cells/" in path for path in opened) == 1


def test_watching_writes_nothing(done: Path) -> None:
    def tree() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [done, *done.rglob("*")]}

    before = tree()
    assert watch.watch_command(done, once=True) == 0
    assert watch.watch_command(done) == 0
    with Page(Live(done)) as page:
        get(page, "/")
    assert tree() == before


# -- the terminal ---------------------------------------------------------------------------------------------------


def test_a_curve_is_a_bar_a_value() -> None:
    assert sparkline([0.0, 0.45, 1.0], 0.0, 1.0, 6) == "▁▁▄▄██"
    assert sparkline([0.0, None, 7.0], 0.0, 7.0, 3, "01234567") == "0 7"
    assert sparkline([1.0, 1.0], 1.0, 1.0, 2, "01234567") == "00"
    assert len(sparkline([float(k) for k in range(500)], 0.0, 499.0, 32)) == 32


def test_small_differences_do_not_fill_the_axis(folder: Folder) -> None:
    folder.end(0, matrix=((0.90, 0.0), (0.90, 0.88)))
    text = shown(Live(folder.out).state())
    assert "▁ 0.8 to █ 0.9" in text and re.search(r"alpha +█{16}▇{16} 0\.8850", text)  # 0.085 of 0.1: round(7 * 0.85) = 6 of 7


def test_curves_stand_with_axis_scale_and_spread(folder: Folder) -> None:
    folder.end(0, matrix=((0.9, 0.0), (0.5, 0.7)))
    folder.end(1, matrix=((0.7, 0.0), (0.1, 0.1)))
    text = shown(Live(folder.out).state())
    assert "Accuracy on what was learned so far, evaluation: ▁ 0.375 to █ 0.8" in text
    # after the second experience: (0.5 * 10 + 0.7 * 30) / 40 = 0.65 and 0.1
    assert re.search(r"alpha +█{16}▁{16} 0\.3750 ± 0\.3889 \(n = 2\)", text)
    assert re.search(r"experience 1 {30}2 mean ± s\.d\.; higher is better", text)


def test_a_small_terminal_is_never_overrun(folder: Folder) -> None:
    wide = Folder(folder.out.parent / "wide", [f"strategy {k} " + "x" * 300 for k in range(30)], 2)
    for k in range(40):
        wide.end(k)
    for k in range(40, 50):
        wide.fail(k, "y" * 300, ("z" * 300,) * 5)
    for k in range(50, 58):
        wide.begin(k)
    try:
        state = Live(wide.out).state()
        for height in (12, 20, 24, 40, 200):
            for width in (40, 80, 160):
                text = shown(state, width, height)
                assert len(text.splitlines()) <= height and max(map(len, text.splitlines())) <= width
        assert "and " in shown(state, 100, 40) and "more (--once shows all)" in shown(state, 100, 40)
        assert sum("█" in row or "▁" in row for row in shown(state, 100).splitlines()) > 20
    finally:
        wide.leave()


def test_hostile_names_and_logs_are_shown_as_text(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", [HOSTILE, "n" * 300], 2)
    folder.end(0)
    folder.fail(1, HOSTILE, (HOSTILE, "\x1b[2J\x1b[H gone"))
    folder.end(2)
    folder.begin(3)
    try:
        state = Live(folder.out).state()
    finally:
        folder.leave()
    text = shown(state) + line(state)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "<script>alert('x')</script>" in text
    page = Read(document(state))
    assert page.scripts == 1 and page.handlers == []
    assert page.text.count("<script>alert('x')</script>") >= 3 and "n" * 300 in page.text and 'left "quoted" &' in page.text
    assert clean("a\tb\r\n\x9b31mc") == "a    b 31mc"


def test_ctrl_c_leaves_a_clean_terminal_and_exit_code_0(folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clsuite.report.watch.time.sleep", interrupted)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(watch, "console", lambda: terminal)
    with pytest.raises(SystemExit) as left:
        main(["watch", str(folder.out)])
    assert left.value.code == 0 and capsys.readouterr().err == ""
    written = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "0 of 6 cells have ended" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_the_terminal_is_followed_until_all_cells_have_ended(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = iter(range(6))
    monkeypatch.setattr("clsuite.report.watch.time.sleep", lambda seconds: folder.end(next(waiting)))
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    monkeypatch.setattr(watch, "console", lambda: terminal)
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.0)
    assert watch.watch_command(folder.out) == 0
    written = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"{k} of 6 cells have ended" in written for k in range(7))
    assert written.rstrip().endswith("6 of 6 cells have ended, nothing is left")


def test_where_there_is_no_terminal_lines_come_and_it_ends_with_the_grid(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = iter([lambda: folder.end(0), lambda: folder.fail(1, "boom"), *(lambda k=k: folder.end(k) for k in range(2, 6))])
    monkeypatch.setattr("clsuite.report.watch.time.sleep", lambda seconds: next(steps)())
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(watch, "LINE_SECONDS", 0.0)
    with pytest.raises(SystemExit) as left:
        main(["watch", str(folder.out)])
    assert left.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("0 of 6 cells have ended") and said[1].startswith("1 of 6 cells have ended")
    assert said[2] == "error: alpha, seed 1 (evaluation): boom" and said[3].startswith("2 of 6 cells have ended, 1 failed (1 error)")
    assert said[-1] == "6 of 6 cells have ended, nothing is left; 1 failed (1 error)" and not any("\x1b" in text for text in said)


def test_lines_are_rare_where_nothing_changes(folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pauses = iter(range(20))

    def sleep(seconds: float) -> None:
        if next(pauses, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("clsuite.report.watch.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch.watch_command(folder.out)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_grid_that_nobody_goes_on_with_is_left_with_exit_code_1(folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watch, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr("clsuite.report.watch.time.sleep", lambda seconds: None)
    assert watch.watch_command(folder.out) == 1
    assert "not all cells have ended, and nobody was at work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}"], "is no folder"),
        (["{empty}", "--once"], "holds no grid and no run yet"),
        (["{grid}", "--once", "--serve"], "exclude each other"),
        (["{grid}", "8000"], "needs --serve"),
        (["{grid}", "--serve", "70000"], "expected 1 to 65535"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(folder: Folder, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.out.parent / "empty").mkdir()
    places = {"missing": folder.out / "no", "empty": folder.out.parent / "empty", "grid": folder.out}
    with pytest.raises(SystemExit) as left:
        main(["watch", *(text.format(**places) for text in arguments)])
    said = capsys.readouterr()
    assert left.value.code == 2 and message in said.err and len(said.err.splitlines()) == 1 and said.out == ""


def test_once_shows_one_state_and_ends(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["watch", str(done), "--once"])
    said = capsys.readouterr().out
    assert left.value.code == 0 and "7 of 7 cells have ended" in said and "Failed: 2" in said and re.search(r"naive +[▁▂▃▄▅▆▇█]+ ", said)


# -- the page -------------------------------------------------------------------------------------------------------


class Read(HTMLParser):
    """A page as a browser takes it: its text, its scripts, attributes that would run something, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.scripts, self.script, self.style = "", 0, "", ""
        self.handlers: list[str] = []
        self.fetched: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.script += data
        elif self.inside == "style":
            self.style += data
        else:
            self.text += data


def get(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    port = int(page.url.rsplit(":", 1)[1].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def page(done: Path) -> Iterator[Page]:
    with Page(Live(done)) as found:
        yield found


def test_the_page_says_what_live_says(done: Path, page: Page) -> None:
    status, headers, text = get(page, "/state.json")
    found = json.loads(text)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert {**found, "time": 0} == {**json.loads(json.dumps(Live(done).state())), "time": 0}
    status, _, text = get(page, "/")
    words = Read(text).text
    assert status == 200 and "7 of 7 cells have ended, nothing is left; 2 failed (2 error)" in words
    assert "error: raises, trial 1, seed 1000 (tuning): ValueError: on purpose" in words
    curve = next(c for c in found["curves"] if c["phase"] == "evaluation")
    assert f"{curve['last']:.4f} ± {curve['spread']:.4f} (n = 2)" in words


def test_the_page_asks_nothing_of_anywhere_and_runs_its_own_script_alone(page: Page) -> None:
    _, headers, text = get(page, "/")
    found = Read(text)
    assert found.fetched == ["data:,"] and "http" not in found.script + found.style and found.handlers == []
    policy = headers["Content-Security-Policy"]
    for kind, source in (("script-src", found.script), ("style-src", found.style)):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d"></noscript>', text)
    assert "prefers-color-scheme: dark" in found.style and 'name="viewport"' in text


def test_a_foreign_host_header_is_refused(page: Page) -> None:
    port = page.url.rsplit(":", 1)[1].strip("/")
    assert page.url.startswith("http://127.0.0.1:")
    for host in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", "127.0.0.1:1", f"0.0.0.0:{port}", ""):
        assert get(page, "/state.json", Host=host)[0] == 403, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert get(page, "/state.json", Host=host)[0] == 200, host


def test_the_page_is_bound_to_loopback(page: Page) -> None:
    assert page._server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
def test_nothing_but_get_is_answered(page: Page, method: str) -> None:
    status, headers, _ = get(page, "/", method)
    assert (status, headers["Allow"]) == (405, "GET")


def test_no_file_is_served_and_the_report_is_named_alone(done: Path, page: Page) -> None:
    report = done / "report" / "index.html"
    report.parent.mkdir()
    report.write_text("<p>the report</p>")
    try:
        with Page(Live(done)) as with_report:
            for path in ("/report/index.html", "/plan.jsonl", "/../plan.jsonl", "/%2e%2e/plan.jsonl", "//etc/passwd", f"{report}"):
                assert get(with_report, path)[0] == 404, path
            assert str(report) in Read(get(with_report, "/")[2]).text
    finally:
        report.unlink()
        report.parent.rmdir()
    assert "report" not in Read(get(page, "/")[2]).text.lower().replace(str(done).lower(), "")


def test_many_who_look_at_once_cost_one_look(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "FRESH_SECONDS", 600.0)
    live = Live(folder.out)
    folder.end(0)
    looks = []
    cells = live._cells.look
    live._cells.look = lambda *place: looks.append(place) or cells(*place)  # type: ignore[method-assign, func-returns-value]
    with Page(live) as page:
        threads = [threading.Thread(target=get, args=(page, "/state.json")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(looks) == 6  # one at each of the six cells


def test_a_port_that_is_taken_is_one_line(page: Page, done: Path) -> None:
    port = int(page.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(UsageError, match=f"PORT = {port} cannot be had"):
        Page(Live(done), port)


def test_served_it_stays_until_ctrl_c(done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def interrupted(page: Page) -> None:
        seen.append(get(page, "/state.json")[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(Page, "wait", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["watch", str(done), "--serve"])
    said = capsys.readouterr().out
    assert left.value.code == 0 and seen == [200]
    assert re.search(r"http://127\.0\.0\.1:\d+/ shows the same", said) and said.rstrip().endswith("the page stays until Ctrl-C")
