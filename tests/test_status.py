"""Where a grid stands, and its rows: what is in the folder, nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import clsuite
from clsuite.cli import main
from clsuite.errors import UsageError
from clsuite.experiment.claims import claim
from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.phases import run_grid
from clsuite.experiment.results import groups, rows
from clsuite.experiment.status import standing
from clsuite.experiment.store import Store

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

SOMETIMES = """\
from pathlib import Path

from clsuite.strategy import Strategy


class Sometimes(Strategy):
    def setup(self):
        if Path("{broken}").exists():
            raise ValueError("on purpose")
"""


def run(folder: Path, text: str = FILE, **options: Any) -> list[Outcome]:
    (folder / "mine.py").write_text(RAISES)
    (folder / "experiment.yaml").write_text(text.format(folder=folder))
    return run_grid(read(folder / "experiment.yaml"), folder / "out", workers=1, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> Path:
    folder = tmp_path_factory.mktemp("status")
    run(folder)
    return folder / "out"


def test_a_finished_grid_counts_every_cell_by_phase_and_status(done: Path) -> None:
    found = standing(done)
    # naive: 2 trials, one finalist on a further seed, 2 evaluation seeds; raises: 2 failed trials, nothing to evaluate
    assert found["phases"] == {"tuning": {"ok": 3, "error": 2}, "evaluation": {"ok": 2}}
    assert found["cells"] == {"planned": 7, "done": 7, "running": 0}
    assert [(f["label"], f["status"], f["reason"]) for f in found["failures"]] == [("raises", "error", "ValueError: on purpose")] * 2
    assert found["rate_per_minute"] is None and found["other_source"] == 0


def test_a_cell_somebody_is_at_is_running_and_gives_a_rate(done: Path) -> None:
    store = Store.of(done)
    results = [store.folder(row["cell"]) / "result.json" for row in store.plan() if store.result(row["cell"])]
    now = time.time()
    for k, path in enumerate(results):  # five results, the first two minutes ago
        os.utime(path, (now - 120 + 20 * k, now - 120 + 20 * k))
    gone = results[-1].read_bytes()
    results[-1].unlink()
    held = claim(results[-1].parent)
    try:
        found = standing(done)
    finally:
        assert held is not None
        held.release()
        results[-1].write_bytes(gone)
    assert found["cells"]["running"] == 1
    assert found["phases"]["evaluation"] == {"ok": 1, "running": 1}
    assert found["rate_per_minute"] == pytest.approx(2.0, rel=0.05)  # four results in two minutes
    assert found["remaining_seconds"] == pytest.approx(60 * found["left"] / found["rate_per_minute"])


def test_results_that_other_source_made_are_counted(done: Path) -> None:
    store = Store.of(done)
    path = next(store.folder(row["cell"]) / "result.json" for row in store.plan() if store.result(row["cell"]))
    before = path.read_text()
    result = json.loads(before)
    result["environment"]["source"]["clsuite"] = "0" * 64
    path.write_text(json.dumps(result))
    try:
        assert standing(done)["other_source"] == 1
    finally:
        path.write_text(before)


def test_rerun_changed_computes_again_what_other_source_made_and_nothing_else(tmp_path: Path) -> None:
    text = FILE.replace("[naive, {{name: '{folder}/mine.py:Raises', label: raises}}]", "[naive]")
    first = run(tmp_path, text)
    assert first[0].result
    name = first[0].result["cell"]
    path = tmp_path / "out" / "cells" / name[:2] / name / "result.json"
    changed = {**first[0].result, "environment": {**first[0].result["environment"], "source": {"clsuite": "0" * 64}}, "metrics": {}}
    path.write_text(json.dumps(changed))
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("cells/*/*/result.json") if p != path}
    said: list[str] = []
    run(tmp_path, text, say=said.append, rerun="changed")
    again = json.loads(path.read_text())
    assert again["metrics"] == first[0].result["metrics"]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert any("1 to run" in line for line in said)


def test_what_fails_when_it_is_computed_again_keeps_its_earlier_result(tmp_path: Path) -> None:
    (tmp_path / "sometimes.py").write_text(SOMETIMES.format(broken=tmp_path / "broken"))
    text = FILE.replace("[naive, {{name: '{folder}/mine.py:Raises', label: raises}}]", "[{{name: '{folder}/sometimes.py:Sometimes', label: sometimes}}]")
    first = run(tmp_path, text)
    assert first[0].result
    name = first[0].result["cell"]
    path = tmp_path / "out" / "cells" / name[:2] / name / "result.json"
    path.write_text(json.dumps({**first[0].result, "environment": {**first[0].result["environment"], "source": {"clsuite": "0" * 64}}}))
    before = path.read_text()
    (tmp_path / "broken").touch()
    said: list[str] = []
    again = run(tmp_path, text, say=said.append, rerun="changed")
    assert path.read_text() == before and again[0].result and again[0].result["metrics"] == first[0].result["metrics"]
    assert sum("ValueError: on purpose" in line for line in said) == 1  # tried once
    assert "1 cells could not be computed again: their earlier results stay" in said


def test_every_planned_cell_is_a_row_with_its_phase_status_settings_metrics_and_cost(done: Path) -> None:
    found = rows(done)
    assert sorted((r["phase"], r["strategy"], r["status"]) for r in found) == sorted(
        [("tuning", "naive", "ok")] * 3 + [("tuning", "raises", "error")] * 2 + [("evaluation", "naive", "ok")] * 2
    )
    good = next(r for r in found if r["phase"] == "evaluation")
    assert {"final_accuracy", "seconds", "backward_passes", "training.learning_rate", "scenario.experiences", "cell"} <= set(good)
    failed = next(r for r in found if r["status"] == "error")
    assert failed["reason"] == "ValueError: on purpose" and failed["training.learning_rate"] in (0.01, 0.1)
    frame = clsuite.results(done)
    assert len(frame) == 7 and frame[frame.status == "ok"].final_accuracy.notna().all()


def test_results_as_json_are_a_list_with_a_row_a_cell(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["results", str(done), "--json"])
    assert left.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list) and len(found) == 7
    with pytest.raises(SystemExit):
        main(["status", str(done), "--json"])
    assert json.loads(capsys.readouterr().out)["cells"]["done"] == 7


def test_a_strategy_tuned_anew_supersedes_its_old_cells_and_keeps_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    place = {"phase": "evaluation", "label": "naive", "seed": 0, "trial": None}
    old, new = {"cell": "a" * 24, **place}, {"cell": "b" * 24, **place}
    store.add_plan([old])
    store.add_plan([new])
    assert store.plan() == [old, new]
    assert len(store.superseded()) == 1 and "a" * 24 in next(iter(store.superseded()))
    store.add_plan([old])  # fewer trials are asked for again: the first choice counts once more
    assert "b" * 24 in next(iter(store.superseded()))
    (tmp_path / "identity.json").write_text("{}")
    assert standing(tmp_path)["superseded"] == 1
    found = rows(tmp_path)
    assert [r["superseded"] for r in found if r["cell"] == "b" * 24] == [True]
    assert sum(g["n"] + g["failed"] for g in groups(found, ["final_accuracy"])) == 1


def test_cells_may_lie_in_a_folder_that_experiments_share(tmp_path: Path) -> None:
    text = FILE.replace("[naive, {{name: '{folder}/mine.py:Raises', label: raises}}]", "[naive]")
    run(tmp_path, text, cells=tmp_path / "shared")
    said: list[str] = []
    (tmp_path / "experiment.yaml").write_text(text.format(folder=tmp_path))
    run_grid(read(tmp_path / "experiment.yaml"), tmp_path / "second", workers=1, cells=tmp_path / "shared", say=said.append)
    assert all("0 to run" in line for line in said)
    assert not list((tmp_path / "out").glob("cells/*")) and len(rows(tmp_path / "second")) == len(rows(tmp_path / "out")) == 5
    assert standing(tmp_path / "second")["cells"]["done"] == 5


def test_cells_of_a_strategy_that_was_taken_out_are_kept_and_not_counted(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, FILE.replace("[naive, {{name: '{folder}/mine.py:Raises', label: raises}}]", "[naive]"))
    found = standing(tmp_path / "out")
    assert (found["left_out"], found["left"], found["failures"]) == (2, 0, [])
    assert found["phases"] == {"tuning": {"ok": 3}, "evaluation": {"ok": 2}}


def test_a_folder_without_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no grid"):
        standing(tmp_path)
    with pytest.raises(UsageError, match="holds no cell"):
        rows(tmp_path)
