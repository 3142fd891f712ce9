"""The runs page and the comparison of folders: the numbers of the results, what a row opens, and commands that give the same cells."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.file import read
from clsuite.experiment.folder import cell_folder
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.phases import run_grid
from clsuite.experiment.results import rows as results
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.experiment.store import Store
from clsuite.report.page import Cell, Figure, Page, Table
from clsuite.report.pages import comparison, runs
from clsuite.report.reproduction import command
from clsuite.report.run_details import POINTS, WHOLE, flat, training_losses
from clsuite.report.site import build
from clsuite.report.study import Study, of_all

from .report_folders import TUNED, changed, made_up

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> Path:
    """A two-phase experiment that was run: 2 strategies, one with a modifier and settings of its own."""
    place = tmp_path_factory.mktemp("grid")
    (place / "tuned.yaml").write_text(TUNED)
    run_grid(read(place / "tuned.yaml"), place / "out", workers=1)
    return place / "out"


def table_of(made: Page | None, name: str = "runs") -> Table:
    assert made is not None
    return next(b for s in made.sections for b in s.blocks if isinstance(b, Table) and b.name == name)


def values_of(table: Table) -> list[dict[str, Any]]:
    return [{h: v.value if isinstance(v, Cell) else v for h, v in zip(table.heads, row, strict=True)} for row in table.rows]


def details_of(made: Page | None, cell: str) -> dict[str, Any]:
    assert made is not None
    found: dict[str, Any] = next(values[cell] for values in made.details.values() if cell in values)
    return found


def part(details: dict[str, Any], heading: str) -> Any:
    return next(p for p in details["parts"] if p.get("heading", "").startswith(heading))


def pairs(details: dict[str, Any], heading: str) -> dict[str, Any]:
    return dict(part(details, heading)["pairs"])


def again(text: str) -> Any:
    words = shlex.split(text)
    assert words[:2] == ["clsuite", "run"]
    return resolve(parse_overrides(words[2:], COMPONENTS))


def test_every_number_of_the_table_is_that_of_the_results(grid: Path) -> None:
    made = runs.page(Study.of(grid))
    found, true = values_of(table_of(made)), results(grid)
    assert len(found) == len(true) == 2 * (3 * 2 + 2 * 1 + 3)
    for shown, row in zip(found, true, strict=True):
        for head, name in (("seconds", "seconds"), ("backward passes", "backward_passes"), ("cell", "cell"), ("seed", "seed"), ("trial", "trial")):
            assert shown[head] == row[name]
        for head in ("final accuracy", "average incremental accuracy", "forgetting"):
            assert shown[head] == row[head.replace(" ", "_")] is not None
        assert (shown["strategy"], shown["phase"], shown["status"]) == (row["strategy"], row["phase"], "ok")


def test_every_row_opens_details_with_the_numbers_of_its_cell(grid: Path) -> None:
    made = runs.page(Study.of(grid))
    assert made is not None
    for row in table_of(made).rows:
        shown = dict(zip(table_of(made).heads, row, strict=True))
        file, _, cell = shown["strategy"].href.removeprefix("#details:").partition("/")
        details, result = made.details[file][cell], json.loads((cell_folder(grid, cell) / "result.json").read_text())
        assert cell == result["cell"] == shown["cell"].value
        assert pairs(details, "Metrics")["final accuracy"] == result["metrics"]["final_accuracy"]
        assert pairs(details, "Cost")["backward passes (samples)"] == result["cost"]["backward_passes"]
        assert pairs(details, "Settings")["training.learning_rate"] == result["spec"]["training"]["learning_rate"]
        assert pairs(details, "Versions")["torch"] == result["environment"]["torch"]
        assert pairs(details, "Versions")["source code"] == "as installed now"
        seen = next(p["figure"] for p in details["parts"] if "figure" in p and "learned so far" in p["figure"]["layout"]["title"]["text"])
        assert seen["traces"][0]["y"][-1] == pytest.approx(result["metrics"]["final_accuracy"], rel=1e-4)
        heat = details["parts"][-1]["figure"]["traces"][0]
        assert heat["z"][2][1] == pytest.approx(result["matrix"][2][1], rel=1e-4)


def test_the_command_of_every_cell_gives_the_same_cell(grid: Path) -> None:
    made = runs.page(Study.of(grid))
    seen = set()
    for row in values_of(table_of(made)):
        shown = part(details_of(made, row["cell"]), "The command")
        assert shown["heading"] == "The command that gives this cell again"
        assert cell_hash(again(shown["command"])) == row["cell"]
        seen.add((row["phase"], row["strategy"]))
    assert seen == {(phase, label) for phase in ("tuning", "evaluation") for label in ("naive", "replay + FPF")}


def test_the_command_says_what_differs_from_the_defaults_and_no_more(grid: Path) -> None:
    made = runs.page(Study.of(grid))
    tuned = next(r for r in values_of(table_of(made)) if (r["strategy"], r["phase"], r["trial"]) == ("replay + FPF", "tuning", 1))
    words = shlex.split(part(details_of(made, tuned["cell"]), "The command")["command"])[2:]
    given = dict(w.split("=", 1) for w in words)
    assert {"strategy": "replay+fpf", "strategy.buffer_size": "20", "strategy.fpf.steps_each": "2", "phase": "tuning", "device": "cpu"}.items() <= given.items()
    assert given["training.momentum"] == "0.5" and given["protocol.split"] == "samples" and given["seed"] == str(tuned["seed"])
    assert not {"training.optimizer", "training.betas", "training.schedule", "strategy.fpf.when", "evaluation.mask", "protocol.split_seed"} & given.keys()


DIGITS: dict[str, Any] = {"scenario": {"name": "class_incremental", "dataset": "digits"}}
SPECS: dict[str, dict[str, Any]] = {
    "plain": DIGITS,
    "tuning cell": {**DIGITS, "phase": "tuning", "seed": 1003, "protocol": {"split": "samples", "split_seed": 3, "swap": True}},
    "held out": {**DIGITS, "protocol": {"split": "none", "held_out": 0.25}},
    "first experiences": {**DIGITS, "phase": "tuning", "protocol": {"split": "experiences", "first": 2}},
    "alias": {**DIGITS, "strategy": {"name": "slca"}, "seed": 4},
    "modifiers": {**DIGITS, "strategy": {"name": "derpp+refresh", "buffer_size": 30, "refresh": {"steps": 2}}},
    "a modifier twice": {**DIGITS, "strategy": {"name": "naive", "modifiers": [{"name": "fpf", "times": 2}, {"name": "fpf", "steps_each": 3}]}},
    "a schedule": {**DIGITS, "training": {"schedule": {"name": "cosine", "minimum": 0.05, "warmup": 3}}},
    "lists, texts and small numbers": {
        **DIGITS,
        "model": {"name": "mlp", "hidden": [7, 5]},
        "training": {"optimizer": "adamw", "betas": [0.8, 0.99], "epsilon": 1e-12, "learning_rate": 1e-05, "clip_norm": 1.0, "logit_mask": "seen"},
        "evaluation": {"mask": "seen"},
    },
    "a beginning": {**DIGITS, "until": 1},
    "a recipe of borders": {**DIGITS, "training": {"border": "ibrahim2024"}},
}


@pytest.mark.parametrize("name", SPECS)
def test_the_command_of_a_specification_gives_the_same_hash(name: str) -> None:
    cell = resolve({"device": "cpu", **SPECS[name]})
    found = command(cell.spec)
    assert found.checked and cell_hash(again(found.text)) == cell_hash(cell)


def test_the_command_of_a_text_cell_means_the_same() -> None:
    given = {"scenario": {"name": "llm_pretraining", "shift": "weak", "tokens": 50_000}, "training": {"border": "wsd", "optimizer": "adamw", "momentum": 0.0}}
    cell = resolve({**given, "strategy": "naive+stream_replay", "device": "cpu"})
    found = command(cell.spec)
    assert found.checked and again(found.text).spec == cell.spec


def test_the_device_a_cell_ran_on_is_part_of_its_command() -> None:
    spec = resolve(DIGITS).spec
    assert spec["device"] == "auto"
    assert command(spec, "cpu").text.endswith("seed=0 device=cpu") and command(spec, "cuda").text.endswith("device=cuda")
    assert cell_hash(again(command(spec, "cpu").text)) == cell_hash(resolve({**DIGITS, "device": "cpu"}))


def test_texts_that_yaml_reads_otherwise_are_quoted() -> None:
    for value in ("yes", "1e-3", "null", "a: b", "[1]", " blank ", "", "#", "ä 'quoted' \"twice\"", "true"):
        spec = resolve(DIGITS).spec
        spec["scenario"]["dataset"] = value
        words = shlex.split(command(spec).text)[2:]
        assert parse_overrides(words, COMPONENTS)["scenario"]["dataset"] == value


def test_cells_of_before_a_setting_was_there_are_told_by_todays_defaults() -> None:
    cell = resolve({**DIGITS, "device": "cpu"})
    old = json.loads(json.dumps(cell.spec))
    for name in ("betas", "epsilon", "compile", "sharding"):
        del old["training"][name]
    found = command(old)
    assert found.checked and found.text == command(cell.spec).text and cell_hash(again(found.text)) == cell_hash(cell)


def test_a_specification_that_cannot_be_read_here_is_given_whole_and_unchecked() -> None:
    spec = resolve(DIGITS).spec
    spec["training"]["of_another_version"] = 3
    found = command(spec)
    assert not found.checked and "training.of_another_version=3" in found.text and "training.momentum=0.0" in found.text


def test_a_file_of_ones_own_is_not_run_to_describe_a_folder_of_runs(tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    (tmp_path / "mine.py").write_text(
        f"from pathlib import Path\n\nfrom clsuite.strategy import Modifier\n\nPath({str(mark)!r}).touch()\n\n\nclass Mine(Modifier):\n    pass\n"
    )
    spec = resolve(DIGITS).spec
    spec["strategy"]["modifiers"] = [{"name": f"{tmp_path}/mine.py:Mine"}]
    found = command(spec, plugins=False)
    assert not found.checked and "mine.py:Mine" in found.text and not mark.exists()
    known = command(spec)
    assert known.checked and mark.exists() and again(known.text).spec == spec


def test_a_failed_cell_shows_its_reason_and_the_end_of_its_log(grid: Path, tmp_path: Path) -> None:
    folder = _copy(grid, tmp_path)
    broken, cut, diverged = (row["cell"] for row in results(folder)[:3])
    (cell_folder(folder, broken) / "result.json").unlink()
    Store.of(folder).record(broken, {"status": "error", "reason": "strategy 'x' raised <ValueError>", "log": [f"line {k}" for k in range(50)]})
    (cell_folder(folder, cut) / "result.json").unlink()
    for _ in range(3):
        Store.of(folder).record(cut, {"status": "oom", "reason": "too much"})
    (cell_folder(folder, cut) / "log.txt").write_text("what it said\nat the end\n")
    changed(cell_folder(folder, diverged) / "result.json", status="diverged", reason="the loss became nan at step 3", metrics__final_accuracy=None)
    made = runs.page(Study.of(folder))
    rows = {row["cell"]: row for row in values_of(table_of(made))}
    assert [rows[c]["status"] for c in (broken, cut, diverged)] == ["error", "oom", "diverged"]
    assert rows[broken]["reason"] == "strategy 'x' raised <ValueError>" and rows[diverged]["final accuracy"] is None
    details = details_of(made, broken)
    assert pairs(details, "Why it failed") == {"status": "error", "reason": "strategy 'x' raised <ValueError>", "attempts": 1}
    assert part(details, "End of its log")["lines"] == [f"line {k}" for k in range(30, 50)]
    assert part(details, "The command")["heading"] == "The command that gives this cell again"  # from spec.json: it has no result
    assert part(details_of(made, cut), "End of its log")["lines"] == ["what it said", "at the end"]
    assert pairs(details_of(made, diverged), "Why it failed")["reason"] == "the loss became nan at step 3"


def test_a_cell_that_has_not_begun_has_a_row_and_says_so(grid: Path, tmp_path: Path) -> None:
    folder = _copy(grid, tmp_path)
    with (folder / "plan.jsonl").open("a") as file:
        file.write(json.dumps({"cell": "f" * 24, "phase": "evaluation", "label": "naive", "seed": 9, "trial": None}) + "\n")
    made = runs.page(Study.of(folder))
    row = next(r for r in values_of(table_of(made)) if r["cell"] == "f" * 24)
    assert row["status"] == "missing" and row["seconds"] is None
    assert "has not begun" in part(details_of(made, "f" * 24), "The command")["lines"][0]
    assert made is not None and "23 cells, 22 of them finished well" in made.explanation


def test_superseded_cells_and_those_of_strategies_that_are_gone_stay_in_the_table(grid: Path, tmp_path: Path) -> None:
    folder = _copy(grid, tmp_path)
    first = next(r for r in results(folder) if (r["strategy"], r["phase"], r["seed"]) == ("naive", "evaluation", 0))
    other = next(r for r in results(folder) if (r["strategy"], r["phase"], r["seed"]) == ("naive", "evaluation", 1))
    with (folder / "plan.jsonl").open("a") as file:
        file.write(json.dumps({"cell": other["cell"], "phase": "evaluation", "label": "naive", "seed": 0, "trial": None}) + "\n")
        file.write(json.dumps({"cell": other["cell"], "phase": "evaluation", "label": "gone", "seed": 0, "trial": None}) + "\n")
    made = runs.page(Study.of(folder))
    rows = values_of(table_of(made))
    assert len(rows) == len(results(folder)) == 24
    assert [r["status"] for r in rows if r["cell"] == first["cell"]] == ["ok (superseded)"]
    assert pairs(details_of(made, first["cell"]), "Metrics")["final accuracy"] == first["final_accuracy"]
    assert "gone: evaluation, seed 0" in pairs(details_of(made, other["cell"]), "Which cell")["in the plan as"]


def test_a_folder_of_single_runs_has_its_rows(tmp_path: Path, small: list[str]) -> None:
    result = run_cell(resolve(parse_overrides([*small, "seed=3"], COMPONENTS)), Options(tmp_path))
    made = runs.page(Study.of(tmp_path))
    (row,) = values_of(table_of(made))
    assert (row["cell"], row["seed"], row["final accuracy"]) == (result["cell"], 3, result["metrics"]["final_accuracy"])
    assert cell_hash(again(part(details_of(made, row["cell"]), "The command")["command"])) == result["cell"]


def test_a_grid_without_a_cell_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{}")
    (tmp_path / "experiment.yaml").write_text("scenario: {dataset: digits}\nstrategies: [naive]\n")
    assert runs.page(Study.of(tmp_path)) is None


def test_details_are_divided_so_that_opening_a_row_loads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = made_up(tmp_path / "grid", strategies=2, trial_count=9, seeds=3)
    study = Study.of(tmp_path / "grid")
    assert count == 2 * (9 * 2 + 3 * 2 + 3) and list(runs.page(study).details) == ["runs-0"]  # type: ignore[union-attr]
    monkeypatch.setattr(runs, "MOST_CELLS", 20)
    made = runs.page(study)
    assert made is not None and [len(v) for v in made.details.values()] == [20, 20, 14]
    monkeypatch.setattr(runs, "MOST_BYTES", 60_000)
    made = runs.page(study)
    assert made is not None and all(len(json.dumps(v)) < 2 * 60_000 for v in made.details.values()) and sum(map(len, made.details.values())) == count
    for row in table_of(made).rows:
        file, _, cell = row[0].href.removeprefix("#details:").partition("/")
        assert cell in made.details[file]
    first = build([study], tmp_path / "site")
    sizes = {p.name: p.stat().st_size for p in first.parent.rglob("*") if p.is_file()}
    assert sizes["runs.html"] / count < 10_000_000 / 2000 and sizes["runs-0.js"] < 2_000_000


def test_of_a_long_log_few_lines_are_read_and_all_of_them_are_true(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "loss", "experience": k // 5000, "step": k, "loss": 1 / (k + 1), "learning_rate": 0.1}) for k in range(20_000)]
    lines.insert(7_000, json.dumps({"event": "experience", "experience": 1, "step": 7_000, "accuracy": [0.1] * 500}))
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines) + '\n{"event": "loss", "torn')
    assert path.stat().st_size > 4 * WHOLE
    found = training_losses(path)
    assert POINTS * 0.9 < len(found) <= POINTS and [s for s, _, _ in found] == sorted(s for s, _, _ in found)
    assert all(e == s // 5000 and v == pytest.approx(1 / (s + 1), rel=1e-4) for s, e, v in found)
    assert found[-1][0] > 19_000 and found[0][0] < 1_000
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(lines[:300]))
    found = training_losses(short)
    assert len(found) == POINTS and (found[0][0], found[-1][0]) == (0, 299)
    assert training_losses(tmp_path / "none.jsonl") == []


def test_settings_of_modifiers_go_by_the_names_of_the_command_line() -> None:
    spec = resolve(SPECS["modifiers"]).spec
    assert flat(spec)["strategy.refresh.steps"] == 2 and flat(spec)["strategy.buffer_size"] == 30
    twice = flat(resolve(SPECS["a modifier twice"]).spec)
    assert (twice["strategy.fpf.times"], twice["strategy.fpf 2.steps_each"]) == (2, 3)


def _copy(grid: Path, place: Path) -> Path:
    """The folder with files of its own for what tests change."""
    import shutil

    return Path(shutil.copytree(grid, place / "copy"))


# -- two folders side by side


@pytest.fixture
def two(tmp_path: Path) -> list[Study]:
    """Folders of two strategies each, of which one is in both; scores are set by the tests."""
    for name in ("a", "b"):
        made_up(tmp_path / name / "grid", strategies=2, trial_count=2, seeds=3, best=1)
    second = tmp_path / "b" / "grid"
    text = (second / "experiment.yaml").read_text().replace("replay 1", "other").replace("hidden: [8]", "hidden: [9]")
    (second / "experiment.yaml").write_text(text)
    (second / "plan.jsonl").write_text((second / "plan.jsonl").read_text().replace("replay 1", "other"))
    return of_all([tmp_path / "a" / "grid", second])


def _set(study: Study, label: str, values: dict[int, float], streams: dict[int, str]) -> None:
    for o in study.final:
        if o.label == label and o.result is not None:
            o.result["metrics"]["final_accuracy"] = values[o.seed]
            o.result["stream"] = {"fingerprint": streams[o.seed]}


OURS, THEIRS, STREAMS = {0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.65, 2: 0.7}, {0: "x", 1: "y", 2: "z"}


def test_a_difference_is_of_pairs_where_streams_agree(two: list[Study]) -> None:
    _set(two[0], "replay 0", OURS, STREAMS)
    _set(two[1], "replay 0", THEIRS, STREAMS)
    made = comparison.page(two, {"1": two[0], "2": two[1]})
    row = values_of(table_of(made, "final_accuracy_2"))[0]
    differences = [0.1, 0.05, 0.2]
    mean = sum(differences) / 3
    half = stats.t.ppf(0.975, 2) * math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    assert row["difference"] == pytest.approx(mean) and row["95 % interval"] == pytest.approx(mean - half)
    assert next(c.text for c in table_of(made, "final_accuracy_2").rows[0] if isinstance(c, Cell) and "pairs" in c.text) == "3 pairs"


def test_a_difference_is_of_two_means_where_streams_differ(two: list[Study]) -> None:
    _set(two[0], "replay 0", OURS, STREAMS)
    _set(two[1], "replay 0", THEIRS, {**STREAMS, 2: "another"})
    found = comparison.difference(two[0], two[1], "replay 0", "final_accuracy")
    reference = stats.ttest_ind(list(OURS.values()), list(THEIRS.values()), equal_var=False).confidence_interval(0.95)
    assert found.of == "two means"
    assert (found.value.low, found.value.high) == pytest.approx((reference.low, reference.high))


def test_the_comparison_says_what_differs_and_who_is_alone(two: list[Study]) -> None:
    for o in two[1].final:
        assert o.result is not None
        o.result["spec"]["model"]["hidden"] = [9]
        o.result["spec"]["strategy"]["buffer_size"] = 77
    made = comparison.page(two, {"1": two[0], "2": two[1]})
    assert (made.name, made.title) == ("index", "Comparison")
    settings = {row["setting"]: row for row in values_of(table_of(made, "settings"))}
    assert (settings["model.hidden"]["grid"], settings["model.hidden"]["grid (2)"]) == ("[8]", "[9]") and "training.momentum" not in settings
    assert not [path for path in settings if path.startswith("strategy.")]
    changes = values_of(table_of(made, "changes"))
    assert [c for c in changes if c["setting"] == "strategy.buffer_size"] == [
        {"strategy": "replay 0", "setting": "strategy.buffer_size", "grid": "10", "grid (2)": "77"}
    ]
    assert [[r["strategy"], r["grid"], r["grid (2)"]] for r in values_of(table_of(made, "only"))] == [["replay 1", "yes", None], ["other", None, "yes"]]
    links = [row[0].href for row in table_of(made, "experiments").rows]
    assert links == ["1/index.html", "2/index.html"]


def test_the_comparison_draws_both_means_and_is_built_with_links_to_both(two: list[Study], tmp_path: Path) -> None:
    _set(two[0], "replay 0", OURS, STREAMS)
    _set(two[1], "replay 0", THEIRS, STREAMS)
    made = comparison.page(two, {"1": two[0], "2": two[1]})
    figure = next(b for s in made.sections for b in s.blocks if isinstance(b, Figure) and b.name == "final_accuracy_2_scatter")
    assert (figure.traces[1]["x"][0], figure.traces[1]["y"][0]) == pytest.approx((1.75 / 3, 2.1 / 3))
    assert figure.table[1][0][1] == pytest.approx(0.7)
    first = build(two, tmp_path / "site")
    text = first.read_text()
    assert first == tmp_path / "site" / "index.html" and 'href="1/index.html"' in text and 'href="2/index.html"' in text
    assert (tmp_path / "site" / "2" / "runs.html").exists() and (tmp_path / "site" / "1" / "data" / "runs-0.js").exists()


def test_folders_without_a_strategy_in_common_are_told_so(two: list[Study]) -> None:
    two[1].outcomes[:] = [o for o in two[1].outcomes if o.label == "other"]
    made = comparison.page(two, {"1": two[0], "2": two[1]})
    assert any("Nothing can be compared" in line for s in made.sections for b in s.blocks for line in getattr(b, "lines", []))
