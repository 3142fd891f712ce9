"""What cells share is computed once, and changes no number of any of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.phases import run_grid
from clsuite.experiment.prefix import computed_seconds, shared
from clsuite.experiment.spec import resolve

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]

PLUGIN = '''\
import torch

from clsuite.settings import setting
from clsuite.strategy import Modifier, Strategy


class Anchor(Modifier):
    """Keeps the weights near those after the last experience: nothing happens before the first border."""

    weight: float = setting(0.1, ge=0)

    def acts_from(self, experiences):
        return 1

    def setup(self):
        self.anchor = []

    def penalty(self):
        if not self.anchor:
            return None
        return self.weight * sum(((p - a) ** 2).sum() for p, a in zip(self.model.parameters(), self.anchor))

    def after_experience(self, experience):
        self.anchor = [p.detach().clone() for p in self.model.parameters()]


class Frozen(Strategy):
    """Fine-tunes on the first experience and learns nothing afterwards."""

    def acts_from(self, experiences):
        return 1

    def training_step(self, batch):
        loss = self.loss(batch)
        if self.run.experience == 0:
            self.update(loss)
        else:
            self.run._pending_backward = 0
            self.run.workload.begin_step()
        return loss
'''
FILE = """\
scenario: {{name: class_incremental, dataset: digits, experiences: 3, first_classes: 4, samples_per_class: 20}}
model: {{name: mlp, hidden: [16]}}
training: {{epochs: 2, batch_size: 16, schedule: {{name: cosine}}}}
strategies:
  - {{name: replay, buffer_size: 30}}
  - {{name: replay+fpf, label: last layer, buffer_size: 30, fpf: {{steps_each: 20}}}}
  - {{name: replay+fpf, label: all, buffer_size: 30, fpf: {{steps_each: 20, modules: all}}}}
  - {{name: replay+fpf, label: every evaluation, buffer_size: 30, fpf: {{steps_each: 20, when: evaluation}}}}
  - {{name: replay+fpf, label: other memory, buffer_size: 20, fpf: {{steps_each: 20}}}}
  - {{name: replay+fpf, label: three times, buffer_size: 30, fpf: {{steps_each: 20, times: 3}}}}
  - {{name: naive+fpf, label: own memory, fpf: {{buffer_size: 30, steps_each: 20}}}}
  - naive
  - {{name: 'naive+{plugin}:Anchor', label: anchor}}
  - {{name: 'naive+{plugin}:Anchor', label: weak anchor, '{plugin}:Anchor': {{weight: 0.01}}}}
  - {{name: '{plugin}:Frozen', label: frozen}}
protocol: fixed
seeds: 1
"""


def without_time(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    kept = {k: v for k, v in result.items() if k not in ("start_from", "environment")}
    return {**kept, "cost": {k: v for k, v in result["cost"].items() if not k.endswith("seconds") and k != "peak_memory_mb"}}


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> tuple[Path, list[Outcome], list[Outcome]]:
    folder = tmp_path_factory.mktemp("prefix")
    (folder / "mine.py").write_text(PLUGIN)
    path = folder / "experiment.yaml"
    path.write_text(FILE.format(plugin=f"{folder}/mine.py"))
    experiment = read(path)
    return folder, run_grid(experiment, folder / "shared", workers=1), run_grid(experiment, folder / "alone", workers=1, share=False)


def test_every_number_is_what_it_is_without_sharing(grids: tuple[Path, list[Outcome], list[Outcome]]) -> None:
    _, together, alone = grids
    assert [o.status for o in together] == ["ok"] * 11
    for a, b in zip(together, alone, strict=True):
        assert without_time(a.result) == without_time(b.result), a.label


def test_cells_go_on_from_the_longest_prefix_they_share(grids: tuple[Path, list[Outcome], list[Outcome]]) -> None:
    _, together, alone = grids
    starts = {o.label: o.result.get("start_from") for o in together if o.result}
    until = {label: start and start["until"] for label, start in starts.items()}
    # `every evaluation` acts on what is measured after experience 0; the kept memory, triggers and columns tell the others apart
    assert until == {
        "replay": 3,
        "last layer": 3,
        "all": 3,
        "every evaluation": 1,
        "other memory": None,
        "three times": None,
        "own memory": None,
        "naive": 1,
        "anchor": 1,
        "weak anchor": 1,
        "frozen": 1,
    }
    assert starts["replay"]["cell"] == starts["all"]["cell"]
    assert starts["naive"]["cell"] == starts["anchor"]["cell"] == starts["frozen"]["cell"]
    assert starts["all"]["start_from"]["cell"] == starts["every evaluation"]["cell"]  # the long prefix went on from the short one
    assert not any(o.result and "start_from" in o.result for o in alone)


def test_the_shared_starts_are_cells_of_the_plan_and_charged_once(grids: tuple[Path, list[Outcome], list[Outcome]]) -> None:
    folder, together, _ = grids
    rows = [json.loads(line) for line in (folder / "shared" / "plan.jsonl").read_text().splitlines()]
    assert sum(row["phase"] == "shared start" for row in rows) == 3  # replay to 3 and to 1, naive to 1
    assert len({row["cell"] for row in rows}) == 11 + 3
    logs = [(folder / "shared" / "cells" / o.result["cell"][:2] / o.result["cell"] / "metrics.jsonl") for o in together if o.result and o.label == "all"]
    events = [json.loads(line)["event"] for line in logs[0].read_text().splitlines()]
    assert events.count("experience") == 3 and "resumed" in events  # the log is whole: it begins with that of the prefix


def test_the_same_command_again_runs_nothing(grids: tuple[Path, list[Outcome], list[Outcome]]) -> None:
    folder, together, _ = grids
    said: list[str] = []
    again = run_grid(read(folder / "experiment.yaml"), folder / "shared", workers=1, say=said.append)
    assert said == ["evaluation: 11 cells, 11 finished, 0 to run with 1 worker(s)"]
    assert [o.result for o in again] == [o.result for o in together]


def test_a_prefix_whose_checkpoint_is_gone_costs_time_and_no_number(grids: tuple[Path, list[Outcome], list[Outcome]], tmp_path: Path) -> None:
    folder, _, alone = grids
    left_out = ("all", "other memory", "three times", "own memory", "weak anchor", "frozen")
    text = (folder / "experiment.yaml").read_text().splitlines()
    (tmp_path / "few.yaml").write_text("\n".join(line for line in text if not any(f"label: {label}" in line for label in left_out)))
    experiment = read(tmp_path / "few.yaml")
    first = run_grid(experiment, tmp_path, workers=1)
    assert sum(bool(o.result and "start_from" in o.result) for o in first) == 5
    for checkpoints in tmp_path.glob("cells/*/*/checkpoints/*"):
        (checkpoints / "tensors.safetensors").write_bytes(b"damaged")
    for o in first:
        assert o.result
        (tmp_path / "cells" / o.result["cell"][:2] / o.result["cell"] / "result.json").unlink()
    again = run_grid(experiment, tmp_path, workers=1)
    numbers = {o.label: without_time(o.result) for o in alone if o.label in experiment.labels}
    assert {o.label: without_time(o.result) for o in again} == numbers


def test_time_is_counted_once_by_hand() -> None:
    def result(seconds: float, start: dict[str, Any] | None) -> dict[str, Any]:
        return {"cost": {"seconds": seconds, "deployment_seconds": 0.0, "evaluation_seconds": 0.0}, **({"start_from": start} if start else {})}

    short = {"cell": "a", "seconds": 10.0, "start_from": None}
    long = {"cell": "b", "seconds": 25.0, "start_from": short}
    # 10 to a, 15 more to b; two cells go on from b by 1 and 2, one from a by 30, one begins by itself
    total, saved = computed_seconds([result(26.0, long), result(27.0, long), result(40.0, short), result(5.0, None)])
    assert total == pytest.approx(10 + 15 + 1 + 2 + 30 + 5)
    assert saved == pytest.approx(26 + 27 + 40 + 5 - 63)


def test_nothing_is_shared_between_cells_that_differ_in_what_acts_before() -> None:
    def cells(*strategies: dict[str, Any], **training: Any) -> list[Any]:
        return [resolve({"strategy": s, "training": {"epochs": 1, **t}}) for s, t in zip(strategies, [{}, training], strict=True)]

    fpf = {"name": "replay+fpf", "buffer_size": 30}
    assert len(shared(cells({"name": "replay", "buffer_size": 30}, fpf))) == 2
    assert shared(cells({"name": "replay", "buffer_size": 30}, fpf, learning_rate=0.3)) == {}
    assert shared(cells({"name": "replay", "buffer_size": 31}, fpf)) == {}
    assert shared(cells({"name": "replay", "buffer_size": 30}, {**fpf, "fpf": {"distillation": 0.5}})) == {}  # it stores logits from the start
    assert shared(cells({"name": "replay", "buffer_size": 30}, {"name": "replay+refresh", "buffer_size": 30})) == {}
