"""Tuning, freezing and evaluating: what was chosen is what is evaluated, and nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clsuite.errors import UsageError
from clsuite.experiment import selection
from clsuite.experiment.file import read
from clsuite.experiment.grid import Outcome
from clsuite.experiment.overlap import check_disjoint
from clsuite.experiment.phases import run_grid
from clsuite.experiment.tuning import Trial, Tuning, finalists, incomplete, space_of, winner, with_values
from clsuite.scenario import Split
from clsuite_scenarios.class_incremental import ClassIncremental

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_server")]

FILE = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2, samples_per_class: 20}
model: {name: mlp, hidden: [8]}
training: {batch_size: 16}
strategies: [naive, {name: replay, buffer_size: 20, search: {replay_batch: [8, 16]}}]
search: {training: {epochs: [1, 2], batch_size: null, weight_decay: null}}
protocol: {name: two-phase, trials: 3, tuning_seeds: 2, finalists: 2, finalist_seeds: 1}
seeds: 2
"""
FIXED = "training: {batch_size: 16}"
NAIVE = FILE.replace("[naive, {name: replay, buffer_size: 20, search: {replay_batch: [8, 16]}}]", "[naive]")
REPLAY = FILE.replace("[naive, {", "[{").replace("trials: 3", "trials: 2")


def run(folder: Path, text: str = FILE, out: str = "out", **options: Any) -> list[Outcome]:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return run_grid(read(path), folder / out, workers=1, **options)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, one_server: None) -> tuple[Path, list[Outcome]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, run(folder)


def test_every_strategy_gets_the_same_trials_and_seeds_of_the_phases_differ(tuned: tuple[Path, list[Outcome]]) -> None:
    _, outcomes = tuned
    for label in ("naive", "replay"):
        trials = [o for o in outcomes if o.label == label and o.phase == "tuning"]
        assert sorted((o.trial, o.seed) for o in trials if o.seed < 1002) == [(t, s) for t in range(3) for s in (1000, 1001)]
        assert len([o for o in trials if o.seed == 1002]) == 2  # the finalists
        assert [o.seed for o in outcomes if o.label == label and o.phase == "evaluation"] == [0, 1]
    assert {o.result["spec"]["phase"] for o in outcomes if o.result and o.phase == "tuning"} == {"tuning"}


def test_the_evaluation_runs_exactly_what_the_best_finalist_ran(tuned: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = tuned
    entries = yaml.safe_load((folder / "out" / "selected.yaml").read_text())
    for label, entry in entries.items():
        scores: dict[int, list[float]] = {}
        for o in outcomes:
            if o.label == label and o.phase == "tuning" and o.result:
                scores.setdefault(o.trial or 0, []).append(o.result["metrics"]["average_incremental_accuracy"])
        means = {t: np.mean(v) for t, v in scores.items() if len(v) == 3}  # three seeds: a finalist
        assert means[entry["trial"]] == max(means.values())
        chosen = next(o.result for o in outcomes if o.label == label and o.trial == entry["trial"] and o.result)
        for o in outcomes:
            if o.label == label and o.phase == "evaluation":
                assert o.result and {k: o.result["spec"][k] for k in ("strategy", "training")} == {k: chosen["spec"][k] for k in ("strategy", "training")}


def test_the_same_command_again_runs_nothing(tuned: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = tuned
    before = {p: p.stat().st_mtime_ns for p in folder.glob("out/cells/*/*/result.json")}
    lines: list[str] = []
    again = run(folder, say=lines.append)
    assert all(", 0 to run" in line for line in lines) and len(lines) == 3
    assert [o.result for o in again] == [o.result for o in outcomes]
    assert {p: p.stat().st_mtime_ns for p in folder.glob("out/cells/*/*/result.json")} == before


def edited(change: Callable[[dict[str, Any]], None], reseal: bool = False) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        entries = yaml.safe_load(path.read_text())
        change(entries["replay"])
        if reseal:
            entries["replay"]["seal"] = selection.seal(entries["replay"])
        path.write_text(yaml.safe_dump(entries, sort_keys=False))

    return tamper


TAMPERINGS = {
    "a chosen value": (edited(lambda e: e["values"].update({"training.learning_rate": 0.3})), "'replay' was edited"),
    "a score in the trial table": (edited(lambda e: e["trials"][0]["scores"].update({"1000": 0.99})), "'replay' was edited"),
    "a chosen value, sealed again": (edited(lambda e: e["values"].update({"training.learning_rate": 0.3}), True), "not what the trials in this folder give"),
    "the hash of the space, sealed again": (edited(lambda e: e["space"].update({"hash": "0" * 24}), True), "another search space"),
    "the tuning data, sealed again": (edited(lambda e: e.update({"tuning_data": "0" * 64}), True), "other tuning data"),
    "no entries at all": (lambda path: path.write_text("- 1\n"), "is no selection"),
}


@pytest.mark.parametrize(("tamper", "said"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_a_selection_that_was_tampered_with_is_refused(tamper: Callable[[Path], None], said: str, tuned: tuple[Path, list[Outcome]]) -> None:
    folder, _ = tuned
    path = folder / "out" / "selected.yaml"
    before = path.read_text()
    try:
        tamper(path)
        with pytest.raises(UsageError, match=said):
            run(folder)
    finally:
        path.write_text(before)


def test_a_removed_selection_is_chosen_again_from_the_stored_trials(tuned: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = tuned
    path = folder / "out" / "selected.yaml"
    before = path.read_text()
    path.unlink()
    assert [o.result for o in run(folder)] == [o.result for o in outcomes]
    assert path.read_text() == before


def test_more_trials_and_seeds_extend_an_experiment(tmp_path: Path) -> None:
    first = run(tmp_path, NAIVE)
    text = NAIVE.replace("trials: 3", "trials: 4").replace("seeds: 2\n", "seeds: 3\n")
    longer = run(tmp_path, text)
    tuned_then = {(o.label, o.trial, o.seed): o.result for o in longer if o.phase == "tuning"}
    assert all(tuned_then.get((o.label, o.trial, o.seed), o.result) == o.result for o in first if o.phase == "tuning")
    assert {o.trial for o in longer if o.phase == "tuning"} == {0, 1, 2, 3}
    assert len(yaml.safe_load((tmp_path / "out" / "selected.yaml").read_text())["naive"]["trials"]) == 4


def test_another_scenario_in_the_same_folder_is_refused(tuned: tuple[Path, list[Outcome]]) -> None:
    folder, _ = tuned
    with pytest.raises(UsageError, match=r"scenario\.samples_per_class is 20 there and 21 here"):
        run(folder, FILE.replace("samples_per_class: 20", "samples_per_class: 21"))


def test_the_conventional_protocol_tunes_on_what_it_reports_and_says_so(tmp_path: Path) -> None:
    outcomes = run(tmp_path, REPLAY.replace("two-phase", "conventional"))
    tuning, evaluation = ([o.result for o in outcomes if o.phase == phase] for phase in ("tuning", "evaluation"))
    assert {r["spec"]["phase"] for r in tuning + evaluation if r} == {"evaluation"}
    assert read(tmp_path / "experiment.yaml").protocol.leaky


def test_a_validation_share_is_left_out_of_training_while_choosing_and_only_then(tmp_path: Path) -> None:
    outcomes = run(tmp_path, REPLAY.replace("two-phase", "conventional, validation: 0.25"))
    for o in outcomes:
        assert o.result
        tested = sum(s["samples"] for s in o.result["evaluation_sets"])
        # 20 samples a class: 5 are held out; the official test set of digits has 359
        assert (o.result["spec"]["protocol"]["held_out"], tested) == ((0.25, 50) if o.phase == "tuning" else (None, 359))


FIRST = FILE.replace("experiences: 2", "experiences: 5").replace("two-phase, trials: 3", "first-experiences, first: 2, trials: 3")


def test_the_first_experiences_are_tuned_on_and_the_others_evaluated_from_scratch(tmp_path: Path) -> None:
    outcomes = run(tmp_path, FIRST.replace("[naive, {", "[{").replace("trials: 3", "trials: 2"))
    assert {o.status for o in outcomes} == {"ok"}
    parts = {(o.phase, o.result["stream"]["part"], len(o.result["matrix"])) for o in outcomes if o.result}
    assert parts == {("tuning", "experiences 0 to 1 of 5", 2), ("evaluation", "experiences 2 to 4 of 5", 3)}
    experiment = read(tmp_path / "experiment.yaml")
    cell = experiment.resolved(experiment.cells[0], None)
    streams = [cell.scenario.stream(phase, seed) for phase, seed in (("tuning", 1000), ("tuning", 1001), ("evaluation", 0), ("evaluation", 1))]
    classes = [sorted(c for e in s.experiences for c in e.classes) for s in streams]
    assert classes[0] == classes[1] and classes[2] == classes[3]  # one stream, whatever the seed
    assert sorted(classes[0] + classes[2]) == list(range(10))
    check_disjoint(streams[:2], streams[2:])


def test_a_stream_whose_experiences_share_samples_cannot_be_cut(tmp_path: Path) -> None:
    text = FIRST.replace("class_incremental", "domain_incremental").replace("samples_per_class: 20", "kind: permutation")
    with pytest.raises(UsageError, match=r"share \d+ samples of digits"):
        run(tmp_path, text)
    assert not (tmp_path / "out").exists()


def test_optimism_is_measured_on_the_evaluation_stream_alone(tmp_path: Path) -> None:
    outcomes = run(tmp_path, REPLAY.replace("trials: 2", "trials: 2, optimism: true"))
    phases = {o.phase for o in outcomes}
    assert phases == {"tuning", "evaluation", "conventional tuning", "conventional"}
    for o in outcomes:
        assert o.result and o.result["spec"]["phase"] == ("tuning" if o.phase == "tuning" else "evaluation")
    trials = {(o.trial, o.seed): o for o in outcomes if o.phase == "conventional tuning"}
    for o in outcomes:  # the same trials of the same sampler, on the other stream
        if o.phase == "tuning" and (other := trials.get((o.trial, o.seed))):
            assert o.result and other.result and o.result["spec"]["training"] == other.result["spec"]["training"]


def test_tpe_gives_the_same_choice_after_an_interruption(tmp_path: Path) -> None:
    text = REPLAY.replace("trials: 2", "trials: 6, sampler: tpe")
    whole = run(tmp_path, text)
    entries = (tmp_path / "out" / "selected.yaml").read_text()
    for path in list((tmp_path / "out").glob("cells/*/*/result.json"))[::2]:  # half of the results are lost
        path.unlink()
    again = run(tmp_path, text)
    assert (tmp_path / "out" / "selected.yaml").read_text() == entries
    assert [o.result and o.result["metrics"] for o in again] == [o.result and o.result["metrics"] for o in whole]


def stream(phase: str, **split: Any) -> Any:
    return ClassIncremental(split=Split(**split), dataset="digits", experiences=1).stream(phase, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["classes", "samples"])
def test_the_phases_of_a_split_share_no_sample(split: str) -> None:
    check_disjoint([stream("tuning", split=split)], [stream("evaluation", split=split)])


def test_halves_in_order_are_the_first_and_the_last_labels_and_swap_exchanges_them() -> None:
    def labels(phase: str, **more: Any) -> list[int]:
        found: list[int] = stream(phase, split="classes", halves="in_order", **more).class_labels.tolist()
        return found

    assert labels("tuning") == labels("evaluation", swap=True) == [0, 1, 2, 3, 4]
    assert labels("evaluation") == labels("tuning", swap=True) == [5, 6, 7, 8, 9]


def test_phases_that_share_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="share 1797 samples of digits"):  # digits has 1,797 images
        check_disjoint([stream("evaluation")], [stream("evaluation")])
    with pytest.raises(UsageError, match="share"):
        check_disjoint([stream("tuning", split="samples")], [stream("evaluation", split="classes")])


def test_a_copy_under_another_name_is_found_by_its_pixels() -> None:
    import clsuite

    source = stream("evaluation").source
    x, y = np.asarray(source.images("train")), source.labels("train")
    copy = clsuite.images(x[:200], y[:200], np.asarray(source.images("test"))[:50] // 2 + 100, source.labels("test")[:50], name="a_copy")
    other = ClassIncremental(dataset=copy.name, experiences=2).stream("evaluation", 0)
    with pytest.raises(UsageError, match="share 200 samples"):
        check_disjoint([stream("evaluation")], [other])


def trial(number: int, *scores: float | str) -> Trial:
    seeds = range(1000, 1000 + len(scores))
    return Trial(
        number,
        {},
        {s: v if isinstance(v, float) else None for s, v in zip(seeds, scores, strict=True)},
        {s: "ok" if isinstance(v, float) else v for s, v in zip(seeds, scores, strict=True)},
    )


def test_finalists_and_winner_by_hand() -> None:
    tuning = Tuning(tuning_seeds=2, finalists=2, finalist_seeds=1)
    done = [trial(0, 0.5, 0.7), trial(1, 0.9, 0.5, 0.1), trial(2, 0.6, 0.7, 0.5), trial(3, 0.99, "diverged"), trial(4, "error", "error")]
    assert [t.number for t in finalists(tuning, done)] == [1, 2]  # means .7, .65 before .6; a diverged seed is worst
    assert winner(tuning, done).number == 2  # type: ignore[union-attr]  # .6 over three seeds against .5
    assert winner(tuning, [done[4]]) is None
    assert incomplete(done) == [] and incomplete([trial(7, 0.5, "timeout")]) == ["trial 7, seed 1001: timeout"]


def test_ties_go_to_the_earlier_trial() -> None:
    assert winner(Tuning(finalist_seeds=0), [trial(0, 0.5, 0.5), trial(1, 0.5, 0.5)]).number == 0  # type: ignore[union-attr]


def test_the_memory_is_a_budget_and_modifiers_are_searched_under_their_names() -> None:
    raw = {"strategy": {"name": "replay+fpf", "fpf": {"times": 3}}, "training": {"epochs": 1}}
    paths = [d.path for d in space_of(raw, {"fpf": {"steps_each": [1, 2]}}, {"learning_rate": [0.1, 0.2]}).dimensions]
    assert "strategy.buffer_size" not in paths and "strategy.fpf.times" not in paths and "training.epochs" not in paths
    assert {"strategy.fpf.steps_each", "strategy.replay_batch", "training.learning_rate"} <= set(paths)
    assert "strategy.buffer_size" in [d.path for d in space_of(raw, {"buffer_size": [10, 20]}, None).dimensions]
    values = with_values(raw, {"strategy.fpf.steps_each": 2, "training.learning_rate": 0.2})
    assert values == {"strategy": {"name": "replay+fpf", "fpf": {"times": 3, "steps_each": 2}}, "training": {"epochs": 1, "learning_rate": 0.2}}
    assert raw["strategy"] == {"name": "replay+fpf", "fpf": {"times": 3}}


def test_settings_of_a_plug_in_are_searched_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from clsuite.settings import setting\nfrom clsuite.strategy import Modifier\n\n\n"
        "class Mine(Modifier):\n    weight: float = setting(0.5, ge=0, search=[0.1, 0.5])\n"
    )
    text = NAIVE.replace("[naive]", "[{name: naive+Mine, search: {Mine: {weight: [0.2, 0.3]}}}]")
    outcomes = run(tmp_path, text + "plugins: [mine.py]\n")
    assert {o.status for o in outcomes} == {"ok"} and {o.label for o in outcomes} == {"naive+Mine"}
    weights = {o.result["spec"]["strategy"]["modifiers"][0]["weight"] for o in outcomes if o.result and o.phase == "tuning"}
    assert weights == {0.2, 0.3}


def test_what_with_gives_one_strategy_is_searched_for_the_others_alone(tmp_path: Path) -> None:
    outcomes = run(tmp_path, NAIVE.replace("[naive]", "[naive, {name: joint, with: {training: {epochs: 3}}}]"))
    epochs = {label: {o.result["spec"]["training"]["epochs"] for o in outcomes if o.result and o.label == label} for label in ("naive", "joint")}
    assert epochs == {"naive": {1, 2}, "joint": {3}}


def test_a_strategy_is_checked_with_a_trial_not_with_defaults_that_are_searched(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from clsuite.errors import UsageError\nfrom clsuite.strategy import Modifier\n\n\nclass Mine(Modifier):\n    def setup(self):\n"
        "        if self.run.training.epochs < 2:\n            raise UsageError('training.epochs = 1 is too few')\n"
    )
    text = NAIVE.replace("[naive]", "[naive+Mine]") + "plugins: [mine.py]\n"
    assert {o.status for o in run(tmp_path, text.replace("epochs: [1, 2]", "epochs: [2, 3]"))} == {"ok"}
    with pytest.raises(UsageError, match="too few"):
        run(tmp_path, text.replace("epochs: [1, 2]", "epochs: [1]"), out="other")


WRONG = {
    "a range outside bounds": (FILE.replace("epochs: [1, 2]", "epochs: [0, 2]"), "training.epochs = 0 is out of bounds"),
    "an unknown searched setting": (FILE.replace("replay_batch: [", "replay_bach: ["), "did you mean 'replay_batch'"),
    "a value and a range": (FILE.replace(FIXED, "training: {epochs: 1}"), "both a value and a search range"),
    "an unknown protocol setting": (FILE.replace("trials: 3", "trails: 3"), "did you mean 'trials'"),
    "no data to tune on": (FILE.replace("trials: 3", "split: none"), "protocol.split = 'none'"),
    "a metric that is none": (FILE.replace("trials: 3", "select_on: acuracy"), "unknown metric 'acuracy'"),
    "evaluation seeds among the tuning seeds": (FILE.replace("seeds: 2\n", "seeds: [0, 1000]\n"), "seeds = [1000]"),
    "too few classes": (FILE.replace("trials: 3", "split: classes, trials: 3").replace("experiences: 2", "experiences: 10"), "protocol.split = 'classes'"),
    "more first experiences than there are": (FIRST.replace("first: 2", "first: 5"), "protocol.first = 5 leaves nothing to evaluate"),
    "a split under first-experiences": (FIRST.replace("first: 2", "split: samples"), "unknown setting 'protocol.split'"),
    "optimism where all is leaky": (FILE.replace("two-phase", "conventional, optimism: true"), "unknown setting 'protocol.optimism'"),
    "a search under fixed": (FILE.replace("{name: two-phase, trials: 3, tuning_seeds: 2, finalists: 2, finalist_seeds: 1}", "fixed"), "searches nothing"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path, text)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_plan_names_every_cell_and_its_phase(tuned: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = tuned
    rows = [json.loads(line) for line in (folder / "out" / "plan.jsonl").read_text().splitlines()]
    assert {(r["phase"], r["label"], r["trial"], r["seed"]) for r in rows} == {(o.phase, o.label, o.trial, o.seed) for o in outcomes}
