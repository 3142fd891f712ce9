"""The tuning page: what was searched and chosen, how sure the choice is, and what a reader is warned of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from clsuite.experiment.file import Experiment, read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.samplers import trials as sampled
from clsuite.experiment.scores import chosen
from clsuite.experiment.space import Dimension
from clsuite.report.importance import importances
from clsuite.report.page import Figure, Page, Section, Table
from clsuite.report.pages.tuning import page
from clsuite.report.search_figures import MOST, finalists, parallel, progress, shown, slices
from clsuite.report.searches import end_of, searches
from clsuite.report.study import Study
from clsuite.settings import Span, setting

pytestmark = pytest.mark.unit

FILE = """\
# Two strategies with two and three searched settings
scenario: {{name: class_incremental, dataset: digits}}
strategies: [naive, {{name: der, label: <b>der</b>, buffer_size: 50, search: {{replay_batch: null}}}}]
search: {{training: {{learning_rate: {{low: 0.001, high: 0.1, log: true}}, epochs: [1, 2, 5], batch_size: null, weight_decay: null}}}}
protocol: {{name: {name}, {split}trials: {trials}, tuning_seeds: 2, finalists: 2, finalist_seeds: 1, select_on: {metric}{more}}}
seeds: 2
"""


def experiment_of(tmp_path: Path, trials: int = 4, metric: str = "final_accuracy", name: str = "two-phase", more: str = "") -> Experiment:
    path = tmp_path / "asked.yaml"
    path.write_text(FILE.format(trials=trials, metric=metric, name=name, split="split: samples, " if name == "two-phase" else "", more=more))
    return read(path)


def outcome(label: str, trial: int, seed: int, value: float | None, metric: str = "final_accuracy", status: str = "ok", phase: str = "tuning") -> Outcome:
    result = None if value is None else {"metrics": {metric: value}}
    return Outcome(label, seed, result, None if status == "ok" else "a reason", phase, trial, status)


SCORES = {0: (0.5, 0.7), 1: (0.8, 0.6), 2: (0.9, 0.7), 3: (0.1, 0.2)}
FURTHER = {1: 0.95, 2: 0.6}
"""Trial 2 leads on the first seeds (0.8 to 0.7), trial 1 over all three (0.7833 to 0.7333)."""


def outcomes_of(label: str, metric: str = "final_accuracy", phase: str = "tuning") -> list[Outcome]:
    first = [outcome(label, k, 1000 + s, v, metric, phase=phase) for k, pair in SCORES.items() for s, v in enumerate(pair)]
    return first + [outcome(label, k, 1002, v, metric, phase=phase) for k, v in FURTHER.items()]


def study_of(experiment: Experiment, outcomes: list[Outcome], folder: Path) -> Study:
    return Study(folder, "study", experiment, outcomes)


def blocks(made: Page | None, kind: type) -> dict[str, Any]:
    assert made is not None
    return {b.name: b for section in made.sections for b in section.blocks if isinstance(b, kind)}


def texts(section: Section) -> str:
    return "\n".join(line for b in section.blocks for line in getattr(b, "lines", []))


def test_the_chosen_trial_and_its_values_are_those_of_the_suite(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    outcomes = outcomes_of("naive") + outcomes_of("<b>der</b>")
    found, said = searches(experiment, outcomes), chosen(experiment, outcomes)
    for label, search in found.items():
        assert search.chosen is not None and search.settled
        assert (search.chosen.number, search.chosen.values) == (said[label].trial.number, said[label].trial.values)
        assert search.chosen.number == 1
        drawn = sampled("sobol", 0, experiment.spaces[label], 4)
        assert [t.values for t in search.trials] == drawn


def test_the_lead_over_the_second_is_paired_over_their_seeds(tmp_path: Path) -> None:
    search = searches(experiment_of(tmp_path), outcomes_of("naive"))["naive"]
    assert search.second is not None and search.second.number == 2
    differences = [0.8 - 0.9, 0.6 - 0.7, 0.95 - 0.6]  # by hand: trial 1 less trial 2 on seeds 1000, 1001, 1002
    mean = sum(differences) / 3
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    half = stats.t.ppf(0.975, 2) * spread / math.sqrt(3)
    assert search.ahead is not None and search.ahead.n == 3 and search.wins == 1
    assert (search.ahead.mean, search.ahead.low, search.ahead.high) == pytest.approx((mean, mean - half, mean + half))


def test_a_lead_is_positive_also_where_less_is_better(tmp_path: Path) -> None:
    search = searches(
        experiment_of(tmp_path, metric="forgetting"),
        [*outcomes_of("naive", "forgetting"), outcome("naive", 0, 1002, 0.5, "forgetting"), outcome("naive", 3, 1002, 0.1, "forgetting")],
    )["naive"]
    assert search.chosen is not None and search.second is not None and (search.chosen.number, search.second.number) == (3, 0)
    assert search.ahead is not None and search.ahead.mean == pytest.approx((0.4 + 0.5 + 0.4) / 3) and search.wins == 3


@pytest.mark.parametrize(
    ("range_", "value", "bounds", "end"),
    [
        ((1, 2, 5), 5, {}, "upper"),
        ((1, 2, 5), 1, {}, "lower"),
        ((1, 2, 5), 2, {}, None),
        ((1, 2, 5), 1, {"ge": 1}, None),  # nothing below 1 would be valid
        ((5, 1, 2), 1, {}, "lower"),  # whatever the order of the list
        ((32, 64), 64, {}, None),  # of two each one is an end
        (("a", "b", "c"), "a", {}, None),
        ((False, True, False), True, {}, None),
        (Span(0.001, 0.1, log=True), 0.00120, {}, "lower"),  # log10(1.2) / 2 = 0.040
        (Span(0.001, 0.1, log=True), 0.00130, {}, None),  # 0.057
        (Span(0.001, 0.1, log=True), 0.085, {}, "upper"),  # 0.965
        (Span(0.0, 1.0), 0.96, {}, "upper"),
        (Span(0.0, 1.0), 0.96, {"le": 1.0}, None),
        (Span(0.0, 1.0), 0.04, {"le": 1.0}, "lower"),
    ],
)
def test_a_value_at_an_end_is_told_where_the_range_could_go_on(range_: Any, value: Any, bounds: dict[str, float], end: str | None) -> None:
    assert end_of(Dimension("training.x", range_), value, setting(0, **bounds)) == end
    if not bounds:
        assert end_of(Dimension("training.x", range_), value, None) == end


def test_only_the_first_and_the_last_of_whole_numbers_are_ends() -> None:
    dimension = Dimension("strategy.steps", Span(1, 100), whole=True)
    assert [end_of(dimension, v, None) for v in (1, 2, 99, 100)] == ["lower", None, None, "upper"]


def test_ranges_of_settings_with_bounds_are_looked_up_where_they_are_declared(tmp_path: Path) -> None:
    search = searches(experiment_of(tmp_path), outcomes_of("<b>der</b>"))["<b>der</b>"]
    assert set(search.settings) == {"training.epochs", "training.learning_rate", "strategy.alpha"} == {d.path for d in search.space.dimensions}
    assert search.settings["training.epochs"].ge == 1


def _search_with(tmp_path: Path, score: Any, count: int) -> Any:
    experiment = experiment_of(tmp_path, trials=count)
    values = sampled("sobol", 0, experiment.spaces["naive"], count)
    outcomes = [outcome("naive", k, seed, score(v)) for k, v in enumerate(values) for seed in (1000, 1001, 1002)]
    return searches(experiment, outcomes)["naive"]


def test_importance_goes_to_the_setting_that_decides_the_score(tmp_path: Path) -> None:
    rate = _search_with(tmp_path, lambda v: math.log10(v["training.learning_rate"]), 32)
    epochs = _search_with(tmp_path, lambda v: float(v["training.epochs"]), 32)
    for search, path in ((rate, "training.learning_rate"), (epochs, "training.epochs")):
        shares = importances(search)
        assert next(iter(shares)) == path and shares[path] > 0.9 and sum(shares.values()) == pytest.approx(1)
        assert importances(search) == shares


def test_importance_is_not_made_of_too_few_trials_or_of_equal_scores(tmp_path: Path) -> None:
    assert importances(_search_with(tmp_path, lambda v: v["training.learning_rate"], 7)) == {}
    assert importances(_search_with(tmp_path, lambda v: v["training.learning_rate"], 8))
    assert importances(_search_with(tmp_path, lambda v: 0.5, 16)) == {}


def test_lines_of_trials_lie_at_their_values(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    search = searches(experiment, outcomes_of("naive"))["naive"]
    study = study_of(experiment, [], tmp_path)
    figure = parallel(
        search,
        study.looks["naive"],
        "s2",
    )
    line = next(t for t in figure.traces if t["name"] == "chosen: trial 1")
    values = search.trials[1].values
    assert [d.path for d in search.space.dimensions] == ["training.epochs", "training.learning_rate"]
    share = {1: 1 / 6, 2: 1 / 2, 5: 5 / 6}[values["training.epochs"]]
    assert line["y"][0] == pytest.approx(share, abs=0.07)  # a little beside it, so that lines can be told apart
    assert line["y"][1] == pytest.approx(math.log10(values["training.learning_rate"] / 0.001) / 2, abs=1e-3)
    assert line["y"][2] == pytest.approx((0.7 - 0.15) / (0.8 - 0.15), abs=1e-3)  # of the means over the first seeds: 0.6, 0.7, 0.8, 0.15
    shown_values = {note["text"] for note in figure.layout["annotations"]}
    assert {"1", "2", "5", "0.001", "0.01", "0.1", "0.1500", "0.8000"} <= shown_values
    heads, rows = figure.table
    row = dict(zip(heads, rows[1], strict=True))
    assert row["training.learning_rate"] == values["training.learning_rate"] and row["seed 1002"] == 0.95
    assert row["mean final_accuracy over seeds 1000, 1001"] == (0.8 + 0.6) / 2


def test_the_best_trial_stands_at_the_top_also_where_less_is_better(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, metric="forgetting")
    search = searches(experiment, [o for o in outcomes_of("naive", "forgetting") if o.seed != 1002])["naive"]
    figure = parallel(search, study_of(experiment, [], tmp_path).looks["naive"], "s2")
    ends = {note["text"]: note["y"] for note in figure.layout["annotations"] if note["x"] == 2}
    assert ends == {"0.8000": 0.0, "0.1500": 1.0}
    heights = {t["hovertext"][2]: t["y"][2] for t in figure.traces}
    assert heights["trial 3: 0.1500"] == 1.0 and heights["trial 2: 0.8000"] == 0.0


def test_slices_show_scores_at_the_true_values_on_the_scale_that_was_searched(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    search = searches(experiment, outcomes_of("naive"))["naive"]
    figure = slices(search, study_of(experiment, [], tmp_path).looks["naive"], "s2")
    assert figure.layout["xaxis2"]["type"] == "log"
    rate = next(t for t in figure.traces if t["name"] == "chosen" and t["xaxis"] == "x2")
    assert (rate["x"], rate["y"]) == ([search.trials[1].values["training.learning_rate"]], [(0.8 + 0.6) / 2])
    assert figure.layout["xaxis"]["ticktext"] == ["1", "2", "5"]


def test_the_best_so_far_never_falls_and_ends_at_the_best(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    figure = progress(searches(experiment, outcomes_of("naive"))["naive"], study_of(experiment, [], tmp_path).looks["naive"], "s2")
    assert [row[2] for row in figure.table[1]] == pytest.approx([0.6, 0.7, 0.8, 0.8])


def test_finalists_are_shown_on_every_seed_they_ran_on(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    figure = finalists(searches(experiment, outcomes_of("naive"))["naive"], study_of(experiment, [], tmp_path).looks["naive"], "s2")
    assert [row[0] for row in figure.table[1]] == [1, 2]
    assert figure.table[1][0][1] is True and figure.table[1][0][6:] == [0.8, 0.6, 0.95]


def test_failed_trials_are_marked_and_never_chosen(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    outcomes = [o for o in outcomes_of("naive") if (o.trial, o.seed) != (2, 1001) and o.seed != 1002]
    outcomes += [outcome("naive", 2, 1001, None, status="diverged"), outcome("naive", 1, 1002, 0.9), outcome("naive", 0, 1002, 0.5)]
    search = searches(experiment, outcomes)["naive"]
    assert search.chosen is not None and search.chosen.number == 1 and [t.number for t in search.failed] == [2]
    look = study_of(experiment, [], tmp_path).looks["naive"]
    bad = next(t for t in parallel(search, look, "s2").traces if t["name"] == "without a score")
    assert bad["line"]["dash"] == "dot" and bad["y"][2] == 0.0
    marks = next(t for t in slices(search, look, "s2").traces if t["name"] == "without a score")
    assert marks["y"][0] < min(search.of(t) or 1.0 for t in search.done)
    made = page(study_of(experiment, outcomes, tmp_path))
    assert made is not None and "Without a score: trial 2 (diverged)" in texts(made.sections[1])
    assert dict(zip(blocks(made, Table)["sure"].heads, blocks(made, Table)["sure"].rows[0], strict=True))["without a score"] == 1


def test_what_the_machine_broke_is_told_as_such(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    outcomes = [o for o in outcomes_of("naive") if (o.trial, o.seed) != (3, 1001)] + [outcome("naive", 3, 1001, None, status="oom")]
    made = page(study_of(experiment, outcomes, tmp_path))
    assert made is not None and "trial 3, seed 1001: oom (the machine's doing" in texts(made.sections[0])


@pytest.mark.parametrize(("left_out", "said"), [((3, 1001), "3 of 4 trials are finished"), ((1, 1002), "its finalists are still to run on further seeds")])
def test_nothing_is_called_chosen_before_the_search_has_ended(tmp_path: Path, left_out: tuple[int, int], said: str) -> None:
    experiment = experiment_of(tmp_path)
    outcomes = [o for o in outcomes_of("naive") if (o.trial, o.seed) != left_out]
    search = searches(experiment, outcomes)["naive"]
    assert search.chosen is None and search.edges == {} and search.ahead is None
    made = page(study_of(experiment, outcomes, tmp_path))
    assert made is not None and f"naive: {said}" in texts(made.sections[0]) and "<b>der</b>: not begun" in texts(made.sections[0])
    assert f"Nothing is chosen yet: {said}" in texts(made.sections[1])


def test_a_search_asked_for_fewer_trials_since_counts_these_alone(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, trials=2)
    outcomes = [*outcomes_of("naive"), outcome("naive", 0, 1002, 0.7)]
    search = searches(experiment, outcomes)["naive"]
    assert [t.number for t in search.trials] == [0, 1] and search.chosen is not None and search.chosen.number == 1


def test_of_many_trials_the_best_and_some_of_the_others_are_drawn(tmp_path: Path) -> None:
    search = _search_with(tmp_path, lambda v: v["training.learning_rate"], 2 * MOST)
    drawn = shown(search)
    best = sorted(search.trials, key=lambda t: -t.values["training.learning_rate"])[: MOST // 2]
    assert len(drawn) == MOST and {t.number for t in best} <= {t.number for t in drawn}
    assert [t.number for t in drawn] == sorted(t.number for t in drawn)


def test_the_page_says_how_sure_every_choice_is_and_leads_to_its_trials(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    made = page(study_of(experiment, outcomes_of("naive") + outcomes_of("<b>der</b>"), tmp_path))
    assert made is not None and [s.title for s in made.sections[1:]] == ["naive", "<b>der</b>"]
    table = blocks(made, Table)["sure"]
    row = dict(zip(table.heads, table.rows[1], strict=True))
    assert row["strategy"].href == "#s3" and row["told apart"] == "no" and row["better on seeds"].text == "1 of 3"
    assert row["ahead of the second by"].value == pytest.approx(0.05)
    said = texts(made.sections[1])
    assert "ahead of trial 2 by +0.0500 in final accuracy over 3 shared seeds, better on 1 of them" in said and "holds 0" in said
    values = blocks(made, Table)["chosen"]
    assert (
        dict(zip(values.heads, values.rows[0], strict=True))["learning rate"].value
        == searches(experiment, outcomes_of("naive"))["naive"].trials[1].values["training.learning_rate"]
    )


def test_labels_are_shown_letter_by_letter_in_figures(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    made = page(study_of(experiment, outcomes_of("<b>der</b>"), tmp_path))
    figure = blocks(made, Figure)["trials"]
    assert figure.layout["yaxis"]["ticktext"] == ["&lt;b&gt;der&lt;/b&gt;"]
    assert all("&lt;b&gt;" in text and "<b>" not in text for t in figure.traces for text in t["hovertext"])
    assert figure.table[1][0][0] == "<b>der</b>"


def test_every_figure_has_a_name_of_its_own_an_explanation_and_its_numbers(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    made = page(study_of(experiment, outcomes_of("naive") + outcomes_of("<b>der</b>"), tmp_path))
    assert made is not None
    figures = [b for s in made.sections for b in s.blocks if isinstance(b, Figure)]
    assert len(figures) == 1 + 2 * 4 and len({f.name for f in figures}) == len(figures)
    for figure in figures:
        assert figure.explanation.endswith(".") and figure.table[1] and all(len(row) == len(figure.table[0]) for row in figure.table[1])


def test_tuning_on_the_reported_stream_stands_beside_the_other(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, more=", optimism: true")
    outcomes = outcomes_of("naive") + outcomes_of("naive", phase="conventional tuning")
    table = blocks(page(study_of(experiment, outcomes, tmp_path)), Table)["conventional"]
    row = dict(zip(table.heads, table.rows[0], strict=True))
    assert row["same as on tuning data"] == "yes" and row["trial"] == 1
    assert row["final accuracy as that practice reports it (higher is better)"].value == pytest.approx((0.8 + 0.6 + 0.95) / 3)


def test_a_leaky_protocol_says_so_on_the_page(tmp_path: Path) -> None:
    made = page(study_of(experiment_of(tmp_path, name="conventional"), outcomes_of("naive"), tmp_path))
    assert made is not None and "the very stream that is reported" in made.explanation


def test_there_is_no_page_where_nothing_is_tuned_or_nothing_has_begun(tmp_path: Path) -> None:
    path = tmp_path / "fixed.yaml"
    path.write_text("scenario: {dataset: digits}\nstrategies: [naive]\n")
    assert page(study_of(read(path), [], tmp_path)) is None
    assert page(study_of(experiment_of(tmp_path), [], tmp_path)) is None
    assert page(Study(tmp_path, "runs", None, [])) is None


def test_an_edited_selection_is_told_and_an_untouched_one_is(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    study = study_of(experiment, outcomes_of("naive"), tmp_path)
    from clsuite.experiment import selection

    entry = selection.entry(experiment.tuning, experiment.spaces["naive"], "print", searches(experiment, study.outcomes)["naive"].trials)
    selection.write(tmp_path, {"naive": entry})
    made = page(study)
    assert made is not None and "The choice of 1 strategies is sealed" in texts(made.sections[0])
    (tmp_path / selection.FILE).write_text((tmp_path / selection.FILE).read_text().replace("trial: 1\n", "trial: 2\n", 1))
    made = page(study)
    assert made is not None and "cannot be trusted" in texts(made.sections[0]) and "edited after it was sealed" in texts(made.sections[0])


def test_what_a_strategy_adds_to_the_page_keeps_25_of_them_below_ten_megabytes(tmp_path: Path) -> None:
    search = _search_with(tmp_path, lambda v: v["training.learning_rate"], 64)
    look = study_of(experiment_of(tmp_path), [], tmp_path).looks["naive"]
    figures = [draw(search, look, "s2") for draw in (parallel, slices, progress, finalists)]
    assert len(json.dumps([[f.traces, f.layout, f.table] for f in figures])) < 10_000_000 / 25 / 2
