"""The page on which the stream is drawn: what it shows is the stream itself, and where the data is not, what the results hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clsuite
from clsuite.data.source import load_source
from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.report import stream_tables
from clsuite.report.page import Figure, Note, Page, Table
from clsuite.report.pages import scenario
from clsuite.report.pages.scenario import page
from clsuite.report.stream_tables import made, table, tables
from clsuite.report.study import Study

pytestmark = pytest.mark.unit

DIGITS = {"name": "class_incremental", "dataset": "digits", "experiences": 5}
HOSTILE = "<script>alert(1)</script> <b>& %{x} " + "x" * 300


def wanted(settings: dict[str, Any] = DIGITS, protocol: dict[str, Any] | None = None, phase: str = "evaluation", seed: int = 0) -> dict[str, Any]:
    return {"scenario": settings, "protocol": protocol or {}, "phase": phase, "seed": seed}


def cell(label: str, stream: dict[str, Any], sets: list[dict[str, Any]], phase: str = "evaluation", **facts: Any) -> Outcome:
    """A finished cell that was trained on a stream with these facts."""
    result = {"spec": {**stream, "strategy": {"name": "naive", "modifiers": []}}, "metrics": {}, "matrix": [[0.5] * len(sets)], "evaluation_sets": sets}
    return Outcome(label, stream["seed"], {**result, "stream": facts}, None, phase, 0 if phase == "tuning" else None, "ok")


def study(*outcomes: Outcome) -> Study:
    return Study(Path("folder"), "a study", None, list(outcomes))


def blocks(found: Page | None) -> dict[str, Any]:
    assert found is not None
    named = [block for section in found.sections for block in section.blocks if isinstance(block, (Figure, Table))]
    assert len({b.name for b in named}) == len(named), "names are unique on a page"
    return {b.name: b for b in named}


def notes(found: Page | None) -> str:
    assert found is not None
    return "\n".join(line for s in found.sections for b in s.blocks if isinstance(b, Note) for line in b.lines)


def sets_of(stream: Any) -> list[dict[str, Any]]:
    return [{"name": s.name, "samples": len(s), "learned_in": s.learned_in} for s in stream.evaluation_sets]


@pytest.fixture(scope="module")
def digits() -> Any:
    return clsuite.stream("scenario.dataset=digits", "scenario.experiences=5")


def test_the_table_counts_what_each_experience_holds_of_each_class(digits: Any) -> None:
    found = table(made(wanted()))
    assert found["fingerprint"] == digits.fingerprint and found["total"] == len(load_source("digits").labels("train"))
    labels = load_source("digits").labels("train")
    for row, experience in zip(found["samples"], digits.experiences, strict=True):
        by_name = {name: n for name, n in zip(found["groups"], row, strict=True) if n}
        ids = np.concatenate([s.indices for s in experience.segments])
        names, counts = np.unique(labels[ids], return_counts=True)
        assert by_name == {str(name): int(n) for name, n in zip(names, counts, strict=True)}
    assert found["groups"][:2] == [str(c) for c in sorted(digits.experiences[0].classes)], "in the order in which they come"
    assert found["new"] == [len(e) for e in digits.experiences] and not any(found["returning"])
    assert found["sets"][0]["classes_of"] == 2 and {s["learned_in"] for s in found["sets"]} == set(range(5))


def test_the_table_tells_returning_tasks_from_new_ones() -> None:
    settings = {"name": "power_law", "dataset": "digits", "kind": "rotation", "experiences": 12, "return_samples": 50}
    found = table(made(wanted(settings)))
    told = clsuite.stream(*(f"scenario.{key}={value}" if key != "name" else f"scenario={value}" for key, value in settings.items())).describe()
    assert found["returning"] == told["rehearsed_per_experience"] and sum(found["returning"]) > 0
    assert [a + b for a, b in zip(found["new"], found["returning"], strict=True)] == told["samples_per_experience"]
    for i, task, samples, back in found["tasks"]:
        assert (task < i and samples == 50) if back else (task == i and samples == found["new"][i])


def test_a_stream_of_text_is_told_in_tokens_of_corpora(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name} sentence number {k} about nothing." * 20 for k in range(60)))
    corpora = [f"file:{tmp_path}/{name}.txt" for name in "ab"]
    found = table(made(wanted({"name": "llm_pretraining", "corpora": corpora, "context": 16, "tokens": [800, 1600]})))
    assert (found["world"], found["unit"], found["groups"]) == ("text", 16, corpora)
    assert found["samples"] == [[50, 0], [0, 100]] and found["total"] * found["unit"] == 2400


def test_long_streams_are_thinned_out_and_say_how_many_experiences_there_are() -> None:
    found = table(made(wanted({"name": "scole", "dataset": "digits", "experiences": 1000})))
    assert found["of"] == 1000 and len(found["experiences"]) == stream_tables.EXPERIENCES == len(found["samples"])
    assert found["experiences"][0] == 0 and found["experiences"][-1] == 999
    assert found["new"] == [sum(row) for row in found["samples"]]
    permuted = table(made(wanted({"name": "domain_incremental", "dataset": "digits", "experiences": 500})))
    assert len(json.dumps(permuted)) < 300_000 and permuted["sets"][3]["classes_of"] == 10


def test_tables_are_made_elsewhere_without_a_network_and_one_that_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLSUITE_OFFLINE")
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path))
    absent, wrong, good = tables([wanted({**DIGITS, "dataset": "mnist"}), wanted({**DIGITS, "experiences": 7}), wanted()], seconds=60)
    assert "not found" in absent["missing"] and "downloads are off" in absent["missing"]
    assert "scenario.experiences = 7 does not divide 10 classes" in wrong["missing"]
    assert good == table(made(wanted()))


def test_a_stream_that_takes_too_long_is_left_out() -> None:
    assert tables([wanted(), wanted()], seconds=0.01) == [{"missing": "it took longer than 0.01 s to work out"}] * 2


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are made in this process."""

    def direct(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [table(made(w)) for w in asked]

    monkeypatch.setattr(scenario, "tables", direct)


def test_the_page_draws_the_stream_of_the_first_seed(here: None, digits: Any) -> None:
    cells = [cell("a", wanted(seed=s), sets_of(digits), fingerprint=digits.fingerprint if s == 0 else "other") for s in (0, 1)]
    found = page(study(*cells))
    figure, samples = blocks(found)["classes_when"], blocks(found)["samples_per_experience"]
    told = digits.describe()
    heads, rows = figure.table
    for i, row in enumerate(rows):
        assert row[0] == i and sum(row[1:]) == told["samples_per_experience"][i]
        assert {head for head, n in zip(heads[1:], row[1:], strict=True) if n} == {str(c) for c in told["classes_per_experience"][i]}
        assert [z[i] for z in figure.traces[0]["z"]] == [n or None for n in row[1:]], "empty where there is none"
    assert samples.traces[0]["y"] == told["samples_per_experience"] == [r[1] for r in samples.table[1]]
    assert "Drawn is the stream of seed 0; of seeds 0, 1 each has its own." in notes(found)
    assert "tasks_when" not in blocks(found), "classes that come once say it all"


def test_evaluation_sets_are_those_of_the_result(here: None, digits: Any) -> None:
    found = blocks(page(study(cell("a", wanted(), sets_of(digits), fingerprint=digits.fingerprint))))["sets"]
    assert [row[:3] for row in found.rows] == [[s["name"], s["samples"], s["learned_in"]] for s in sets_of(digits)]
    assert [row[3].split(", ") for row in found.rows] == [[str(c) for c in s.classes] for s in digits.evaluation_sets]


def test_where_the_data_is_not_here_the_page_says_so_and_shows_what_results_hold(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    monkeypatch.setattr(scenario, "tables", lambda asked: [{"missing": "data set 'mnist' not found"} for _ in asked])
    found = page(study(cell("a", wanted(), sets_of(digits), fingerprint="of then")))
    assert set(blocks(found)) == {"sets"} and len(blocks(found)["sets"].rows) == 5
    assert "not drawn, only what the results hold: data set 'mnist' not found" in notes(found) and "1 experiences, 5 evaluation sets" in notes(found)


def test_a_stream_that_is_no_longer_the_one_that_was_trained_on_is_not_drawn(here: None, digits: Any) -> None:
    found = page(study(cell("a", wanted(), sets_of(digits), fingerprint="of another day")))
    assert set(blocks(found)) == {"sets"} and "fingerprints differ" in notes(found)


def test_both_streams_of_two_phases_stand_beside_one_another(here: None) -> None:
    halves = {"split": "samples", "split_seed": 0}
    final, tuned = wanted(protocol=halves), wanted(protocol=halves, phase="tuning", seed=1000)
    cells = [cell("a", w, sets_of(s), w["phase"], fingerprint=s.fingerprint) for w in (tuned, final) for s in [made(w)]]
    found = page(study(*cells))
    drawn = blocks(found)
    assert [n for n in drawn if n.startswith("classes_when")] == ["classes_when", "classes_when_tuning"]
    assert drawn["classes_when"].small and drawn["classes_when_tuning"].small and "samples_per_experience_tuning" not in drawn
    total = {name: sum(sum(row[1:]) for row in drawn[name].table[1]) for name in ("classes_when", "classes_when_tuning")}
    assert sum(total.values()) == len(load_source("digits").labels("train"))
    assert "protocol.split = samples" in notes(found)


def test_streams_that_differ_between_strategies_are_drawn_apart_and_shared_sets_listed_once(here: None) -> None:
    settings = {"name": "power_law", "dataset": "digits", "experiences": 6, "return_samples": 20}
    other = {**settings, "control": "uniform"}
    cells = [
        cell(label, wanted(s), sets_of(m), fingerprint=m.fingerprint, **m.facts) for label, s in (("a", settings), ("b", other)) for m in [made(wanted(s))]
    ]
    found = page(study(*cells))
    assert found is not None and [s.title for s in found.sections] == ["The stream of a", "The stream of b", "Evaluation sets", "What comes back"]
    assert {"tasks_when", "tasks_when_1", "return_gaps", "recurrence"} <= set(blocks(found))


def test_recurrence_is_pooled_over_seeds_and_every_fit_is_that_of_the_result(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    monkeypatch.setattr(scenario, "tables", lambda asked: [{"missing": "not here"} for _ in asked])
    settings = {"name": "some_law", "scale": 0.5, "exponent": 1.0}
    facts = {"reading": "independent", "control": "some_law", "scale": 0.4, "error": 0.1, "mean_lag": 2.5, "rehearsed_samples": 70, "forced": 0}
    first = {**facts, "exponent": 1.25, "at_risk": [[1, 10, 5], [2, 8, 2], [3, 6, 1], [4, 4, 0]]}
    second = {**facts, "exponent": None, "scale": None, "at_risk": [[1, 10, 4], [3, 2, 0]]}
    cells = [cell("a", wanted(settings, seed=s), sets_of(digits), recurrence=f) for s, f in enumerate((first, second))]
    found = blocks(page(study(*cells)))
    assert found["return_gaps"].table[1] == [["a", 1, 1, 20, 9, 0.45], ["a", 2, 2, 8, 2, 0.25], ["a", 3, 4, 12, 1, 1 / 12]]
    marks, fitted, asked = found["return_gaps"].traces
    assert marks["y"] == [0.45, 0.25, 1 / 12] and (fitted["x"][0], fitted["y"][0]) == (1.0, 0.4)
    assert fitted["y"][-1] == pytest.approx(0.4 * 4**-1.25) and asked["y"][-1] == pytest.approx(0.5 / 4)
    assert [row[3:6] for row in found["recurrence"].rows] == [[1.0, 1.25, 0.1], [1.0, None, 0.1]]


def test_names_of_classes_are_shown_letter_by_letter(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    def renamed(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = table(made(asked[0]))
        return [{**found, "groups": [HOSTILE, *found["groups"][1:]]}]

    monkeypatch.setattr(scenario, "tables", renamed)
    figure = blocks(page(study(cell(HOSTILE, wanted(), sets_of(digits), fingerprint=digits.fingerprint))))["classes_when"]
    assert not any("<" in text for text in figure.layout["yaxis"]["ticktext"]) and figure.table[0][1] == HOSTILE
    assert len(figure.layout["yaxis"]["ticktext"][0]) < 60


def test_an_experiment_without_a_finished_cell_shows_the_stream_its_file_asks_for(here: None, tmp_path: Path) -> None:
    text = "scenario: {name: class_incremental, dataset: digits, experiences: 2}\nstrategies: [naive, joint]\nseeds: [3, 4]\n"
    (tmp_path / "experiment.yaml").write_text(text)
    empty = Study(tmp_path, "empty", read(tmp_path / "experiment.yaml"), [Outcome("naive", 3, None, None, "evaluation")])
    found = page(empty)
    assert [len(r) for r in blocks(found)["classes_when"].table[1]] == [11, 11] and "Drawn is the stream of seed 3." in notes(found)


def test_a_folder_whose_cells_say_nothing_of_a_stream_has_no_such_page() -> None:
    assert page(study(Outcome("a", 0, None, None, "evaluation"))) is None
