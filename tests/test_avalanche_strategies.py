"""Avalanche's strategies inside clsuite: all of them train, predict as Avalanche does, cost what they cost, and go on where they were stopped."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import math
import pkgutil

import numpy as np
import pytest
import torch

import clsuite
from clsuite.errors import Interrupted, UsageError
from clsuite.experiment.file import read
from clsuite.experiment.phases import run_grid
from clsuite.interop import avalanche_catalogue
from clsuite.interop.avalanche_meter import Meter
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

pytestmark = pytest.mark.avalanche

TINY = {
    "scenario.dataset": "digits",
    "scenario.experiences": "2",
    "scenario.samples_per_class": "6",
    "model.hidden": "[12]",
    "training.epochs": "1",
    "training.batch_size": "8",
    "training.learning_rate": "0.05",
    "device": "cpu",
}
NEEDED = {
    "bic": {"strategy.stage_2_epochs": "3"},
    "er_aml": {"training.batch_size": "6"},
    "gem": {"strategy.patterns_per_exp": "20"},
    "gss_greedy": {"scenario.samples_per_class": "10", "strategy.mem_size": "45"},
    "packnet": {"training.epochs": "2"},
    "rwalk": {"strategy.delta_t": "2"},
}
"""What a tiny run must give beside: as many samples as a method compares, pruning before training ends, and what would take long."""

METHODS = (
    *("ewc", "online_ewc", "synaptic_intelligence", "mas", "lwf", "lfl", "rwalk", "gem", "agem", "gss_greedy", "gdumb", "cope", "icarl", "bic", "der"),
    *("er_ace", "er_aml", "mir", "scr", "streaming_lda", "lamaml_v2", "packnet", "pnn", "cwr_star", "cumulative", "joint_training"),
    *("current_data_fecam_update", "memory_fecam_update", "current_data_ncm_update", "memory_ncm_update"),
)
"""What must be there; IL2M is not in Avalanche 0.6 (it only has the metric of that paper), and LaMAML is in the version that needs no further package."""


@pytest.fixture(scope="module", autouse=True)
def one_look(tmp_path_factory):
    """Avalanche is imported and looked through once."""
    avalanche_catalogue.catalogue()


def settings(name, **more):
    return [f"{key}={value}" for key, value in {**TINY, **NEEDED.get(name, {}), **more}.items()] + [f"strategy=avalanche/{name}"]


def execute(run, folder=None):
    loop = Loop(run, Checkpoints(folder, "", {}, seconds=0.0))
    loop.execute()
    return loop


# -- all of them ------------------------------------------------------------------------------------------------------


def test_every_wrapped_strategy_trains_two_experiences_and_gives_a_matrix():
    names, failed = sorted(avalanche_catalogue.strategies()), {}
    for name in names:
        try:
            result = clsuite.run(*settings(name))
            matrix = [row for row in result["matrix"] if row != [None, None]]
            assert result["status"] == "ok", result["reason"]
            assert len(matrix) == (1 if name == "joint_training" else 2)
            assert all(len(row) == 2 and all(math.isfinite(v) and 0 <= v <= 1 for v in row) for row in matrix), matrix
            assert result["resume"] == "experience_borders"
            assert result["cost"]["forward_passes"] >= 60
            assert (result["cost"]["gradient_steps"] == 0) == (name == "streaming_lda")
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    assert not failed
    assert len(names) >= 40


def test_every_public_strategy_and_plugin_is_wrapped_or_has_a_reason():
    from avalanche.core import BasePlugin
    from avalanche.training.templates.base import BaseTemplate

    package = importlib.import_module("avalanche.training")
    found = set()
    for info in pkgutil.walk_packages(package.__path__, "avalanche.training."):
        for value in vars(importlib.import_module(info.name)).values():
            kind = inspect.unwrap(value) if callable(value) else value
            if isinstance(kind, type) and issubclass(kind, (BaseTemplate, BasePlugin)) and kind.__module__.startswith("avalanche.training"):
                found.add(kind)
    public = {kind for kind in found if not kind.__name__.startswith("_")}
    wrapped = {path for row in avalanche_catalogue.strategies().values() for path in row["classes"]}
    reasons = avalanche_catalogue.unwrappable()
    assert len(public) > 60
    for kind in public:
        named = {avalanche_catalogue.name_of(kind.__name__), kind.__module__.rpartition(".")[2]}
        assert f"{kind.__module__}:{kind.__qualname__}" in wrapped or named & set(reasons), kind
    assert all(len(reason) > 10 for reason in reasons.values())
    assert not set(METHODS) - set(avalanche_catalogue.strategies())


# -- predictions ------------------------------------------------------------------------------------------------------


def accuracies(run, known_task):
    """What Avalanche's own evaluation says of each test experience."""
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training.plugins import EvaluationPlugin

    part = run.base
    list(part._experiences(1))  # makes the benchmark, if the run did not
    strategy, evaluator = part._strategy(for_training=True), EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    strategy.plugins[strategy.plugins.index(strategy.evaluator)] = evaluator
    strategy.evaluator = evaluator
    for test in part._kept["benchmark"].test_stream:
        strategy.eval(test)
    label = (lambda j: j) if known_task else (lambda j: 0)
    return [evaluator.get_last_metrics()[f"Top1_Acc_Exp/eval_phase/test_stream/Task{label(j):03d}/Exp{j:03d}"] for j in range(2)]


@pytest.mark.parametrize(
    "name", ["naive", "bic", "cope", "icarl", "scr", "streaming_lda", "current_data_ncm_update", "memory_fecam_update", "feature_replay", "pnn"]
)
@pytest.mark.filterwarnings("ignore")
def test_predictions_are_those_of_avalanches_own_evaluation(name, run_of):
    more = {} if name == "cope" else {"training.epochs": "5"}
    run = run_of(*settings(name, **{"scenario.samples_per_class": "20", "training.learning_rate": "0.1", **more}))
    loop = execute(run)
    ours = loop.measurements.masked[-1] if name == "pnn" else loop.measurements.R[-1]
    assert ours == pytest.approx(accuracies(run, name == "pnn"), abs=1e-9)
    assert ours.max() > 0.3 or name == "cope"


def test_a_class_is_scored_as_its_task_scores_it(run_of):
    run = run_of(*settings("packnet"))
    execute(run)
    strategy = run.base._strategy()
    x = torch.rand(5, 1, 8, 8)
    scores = run.base.predict(x)
    for e in run.stream.experiences:
        alone = strategy.model(x, torch.full((5,), e.index))
        assert torch.equal(scores[:, list(e.classes)], alone[:, list(e.classes)])
    first, second = (strategy.model(x, torch.full((5,), i)) for i in (0, 1))
    assert (first - second).abs().max() > 1e-4  # the tasks' subnetworks differ


# -- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stop(monkeypatch):
    """Ask a run to leave at its n-th forward pass in the second experience."""
    passed = Meter.passed

    def at(run, n):
        passes = itertools.count(1)

        @functools.wraps(passed)  # checkpoints find hooks by their names
        def counted(meter, module, inputs, output):
            if meter.run is run and meter._thread is not None and run.experience == 1:
                run.stop_requested = run.stop_requested or next(passes) == n
            passed(meter, module, inputs, output)

        monkeypatch.setattr(Meter, "passed", counted)

    return at


@pytest.mark.parametrize("name", ["agem", "er_aml", "generative_replay", "icarl", "mir", "packnet", "pnn", "replay", "rar", "rwalk", "joint_training"])
def test_a_run_stopped_within_an_experience_gives_the_numbers_of_one_that_was_not(name, run_of, stop, tmp_path):
    whole = run_of(*settings(name))
    numbers = execute(whole)
    forward = whole.costs["training"].forward_passes

    stopped = run_of(*settings(name))
    stop(stopped, 2)
    with pytest.raises(Interrupted):
        execute(stopped, tmp_path)
    assert stopped.experience == 1 and 0 < stopped.costs["training"].forward_passes < forward  # in the midst of the second experience

    again = run_of(*settings(name))
    loop = execute(again, tmp_path)
    assert loop.exact and again.base.trained == 2
    assert np.array_equal(loop.measurements.R, numbers.measurements.R, equal_nan=True)
    assert again.weights_digest() == whole.weights_digest()
    assert again.costs == whole.costs
    assert again.base.report() == whole.base.report() and again.base.memory_bytes() == whole.base.memory_bytes()
    x = torch.rand(20, 1, 8, 8)
    assert torch.equal(again.base.predict(x), whole.base.predict(x))


def test_a_finished_run_reads_the_last_border_only(run_of, tmp_path):
    run = run_of(*settings("replay"))
    Loop(run, Checkpoints(tmp_path, "", {}, seconds=0.0)).execute()
    again = run_of(*settings("replay"))
    Loop(again, Checkpoints(tmp_path, "", {}, seconds=0.0)).execute()
    assert again.costs == run.costs
    x = torch.rand(20, 1, 8, 8)
    assert torch.equal(again.base.predict(x), run.base.predict(x))


# -- what is counted, what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, forward, backward, steps, remembered",
    [
        ("naive", 60, 60, 8, 0),
        ("ewc", 120, 120, 8, 0),  # once more over every experience for its importances
        ("lwf", 90, 60, 8, 0),  # the teacher, in the second experience
        ("cumulative", 90, 90, 12, 60 * 8),  # 30, then 60 samples
        ("streaming_lda", 60, 0, 0, 0),
        ("gem", 60 + 4 * 20, 60 + 4 * 20, 8, 40 * 64 * 4),  # in each step of the second experience all 20 of its memory, which are kept as pixels
    ],
)
def test_costs_by_hand(name, forward, backward, steps, remembered):
    cost = clsuite.run(*settings(name))["cost"]
    assert [cost[k] for k in ("forward_passes", "backward_passes", "gradient_steps", "buffer_bytes")] == [forward, backward, steps, remembered]


def test_momentum_is_dropped_at_a_border_unless_it_is_kept():
    rate = {"training.momentum": "0.9", "training.epochs": "3"}
    reset, kept = (clsuite.run(*settings("naive", **rate, **{"training.border_optimizer": way})) for way in ("reset", "keep"))
    assert reset["weights_sha256"] == clsuite.run(*settings("naive", **rate))["weights_sha256"] != kept["weights_sha256"]


def test_augmentation_acts_in_training_alone(run_of):
    run = run_of(*settings("naive", **{"training.augmentation": "[crop, flip]", "training.crop_padding": "2", "training.normalise": "dataset"}))
    run.base.setup()
    experience = next(run.base._experiences(0))
    plain = [experience.dataset.eval()[k][0] for k in range(10)]
    ids = torch.from_numpy(run.stream.ids(run.stream.experiences[0].segments)[:10])
    assert torch.equal(torch.stack(plain), run.workload.inputs(run.stream.gather(ids)[0]))
    drawn = [experience.dataset.train()[k][0] for k in range(10)]
    assert sum(not torch.equal(a, b) for a, b in zip(plain, drawn, strict=True)) >= 8


@pytest.mark.parametrize(
    "name, more, expected",
    [
        ("ewc", {"training.schedule": "cosine"}, "training.schedule = 'cosine' cannot act in Avalanche's loop"),
        ("ewc", {"training.logit_mask": "seen"}, "training.logit_mask = 'seen' cannot act"),
        ("ewc", {"training.clip_norm": "1.0"}, "training.clip_norm = 1.0 cannot act"),
        ("ewc", {"strategy.mode": "online"}, "needs strategy.decay_factor"),
        ("ewc", {"strategy.mode": "both"}, "expected one of separate, online"),
        ("icarl", {"scenario.name": "domain_incremental"}, "needs new classes in every experience"),
        ("pnn", {"scenario.name": "domain_incremental"}, "needs new classes in every experience"),
        ("packnet", {"training.epochs": "1"}, "strategy.post_prune_epochs = 1 must be less than training.epochs = 1"),
        (
            "packnet",
            {"model.name": "resnet20", "model.hidden": None},
            "cannot be built here: ValueError: The PackNet implementation does not",
        ),
        ("er_aml", {"training.batch_size": "16"}, "is more than the 6 samples of a class"),
        ("gss_greedy", {"strategy.mem_size": "30"}, "is too few"),
        ("rwalk", {"strategy.delta_t": "100"}, "strategy.delta_t = 100 is more than the 4 steps"),
    ],
)
def test_what_cannot_act_is_refused_in_one_line(name, more, expected):
    given = {key: value for key, value in {**TINY, **NEEDED.get(name, {}), **more}.items() if value is not None}
    if "scenario.name" in more:
        del given["scenario.samples_per_class"]
    with pytest.raises(UsageError, match=expected) as error:
        clsuite.run(*(f"{key}={value}" for key, value in given.items()), f"strategy=avalanche/{name}")
    assert "\n" not in str(error.value)


def test_no_modifier_acts_in_avalanches_loop():
    with pytest.raises(UsageError, match="trains by Avalanche's own loop: 'fpf' cannot act in it"):
        clsuite.run(*settings("naive")[:-1], "strategy=avalanche/naive+fpf")


# -- the grid ---------------------------------------------------------------------------------------------------------

GRID = """\
scenario: {name: class_incremental, dataset: digits, experiences: 2}
model: {name: mlp, hidden: [12]}
training: {epochs: 1}
protocol: {name: two-phase, trials: 2, tuning_seeds: 1, split: samples}
strategies: [naive, avalanche/replay]
seeds: 2
"""


def test_a_grid_tunes_and_evaluates_them_beside_our_own(tmp_path):
    file = tmp_path / "both.yaml"
    file.write_text(GRID)
    outcomes = run_grid(read(file), tmp_path / "out", workers=1)
    assert all(o.result is not None and o.result["status"] == "ok" for o in outcomes), [o.failure for o in outcomes]
    theirs = [o for o in outcomes if o.label == "avalanche/replay"]
    assert {o.phase for o in theirs} == {"tuning", "evaluation"}
    assert len({o.result["spec"]["strategy"]["mem_size"] for o in theirs if o.phase == "evaluation"}) == 1
    assert all(o.result["environment"]["source"]["avalanche-lib"] == avalanche_catalogue.catalogue().version for o in theirs)
    assert run_grid(read(file), tmp_path / "out", workers=1)[0].result == outcomes[0].result  # from the store
