"""What happens to the learning rate, the optimizer and the line that goes on where one corpus ends and the next begins."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.prefix import shared
from clsuite.experiment.spec import resolve
from clsuite.schedule import Cosine, Schedule
from clsuite.schedules.infinite import InfiniteCosine
from clsuite.schedules.wsd import Wsd
from clsuite.training.borders import PRESETS, Timeline
from clsuite.training.settings import Training

from .test_llm_pretraining import tiny
from .text_runs import gone_on

pytestmark = pytest.mark.unit

PEAK = 3e-3


def timeline(schedule: Schedule, steps: list[int], fresh: bool = False, whole: bool = False, **training: Any) -> Timeline:
    values = Training.resolved(training, {"epochs": 1, "batch_size": 1, "learning_rate": 1.0})
    found = Timeline(schedule, Training(**values), steps, [fresh] * len(steps), whole)
    found.check()
    return found


def line(t: Timeline, branch: bool = False) -> list[list[float]]:
    starts = [end - steps for end, steps in zip(t.ends, t.steps, strict=True)]
    return [[t.factor(i, s, start + s, branch) for s in range(steps)] for i, (start, steps) in enumerate(zip(starts, t.steps, strict=True))]


def cosine(z: float, floor: float = 0.1) -> float:
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * z))


def test_restart_is_the_schedule_anew_with_the_horizon_of_the_experience():
    first, second = line(timeline(Cosine(minimum=0.1), [4, 8]))
    assert first == pytest.approx([cosine(n / 4) for n in range(4)])
    assert second == pytest.approx([cosine(n / 8) for n in range(8)])


def test_rewarming_takes_its_share_of_the_new_experience_and_scales_its_peak():
    t = timeline(Cosine(minimum=0.1), [4, 20], border_rewarm=0.11, border_peak_scale=0.5)
    second = line(t)[1]
    assert t.describe()[1]["rewarm_steps"] == 3  # ceil(0.11 * 20)
    assert second[:4] == pytest.approx([0.5 / 3, 1 / 3, 0.5, 0.5])
    assert second[-1] == pytest.approx(0.5 * cosine(16 / 17))


def test_hold_stays_at_the_rate_after_the_last_update():
    assert line(timeline(Cosine(minimum=0.1), [4, 3, 2], border_schedule="hold"))[1:] == [pytest.approx([0.1] * 3), pytest.approx([0.1] * 2)]


def test_lengthen_is_the_same_function_of_the_absolute_step_with_the_longer_horizon():
    first, second = line(timeline(Cosine(minimum=0.1), [4, 4], border_schedule="lengthen"))
    assert first == pytest.approx([cosine(n / 4) for n in range(4)])
    assert second == pytest.approx([cosine(n / 8) for n in range(4, 8)])


def test_the_line_before_the_decay_goes_on_over_borders_and_is_annealed_at_the_end_alone():
    t = timeline(Wsd(decay=0.5, warmup=2), [4, 6], border_schedule="lengthen", border_start_from="pre_decay")
    assert line(t) == [pytest.approx([0.5, 1, 1, 1]), pytest.approx([1, 1, 1, 1, 1, 0.5])]
    assert t.branch_from(0) == 2 and t.branch_from(1) is None
    assert line(t, branch=True)[0][2:] == pytest.approx([1, 0.5])


def test_an_infinite_schedule_stays_at_its_constant_over_borders():
    shape = InfiniteCosine(warmup=0, cooldown=0.5, constant=0.5, anneal=0.2, minimum=0.1)
    first, second, third = line(timeline(shape, [10, 10, 10], border_schedule="lengthen", border_start_from="pre_decay"))
    assert first[5:] + second + third[:9] == pytest.approx([0.5] * 24)
    assert third[9] == pytest.approx(0.5 * 0.2**0.5)


def test_two_stage_drops_in_a_straight_line_to_the_smaller_constant():
    t = timeline(Wsd(decay=2), [6, 6], border_schedule="lengthen", border_start_from="pre_decay", border_rewarm=2, border_peak_scale=0.5)
    assert line(t)[1] == pytest.approx([0.75, 0.5, 0.5, 0.5, 0.5, 0.25])


def test_a_model_that_starts_anew_is_annealed_over_its_own_steps_and_branches_nothing():
    recipe = {"border_schedule": "lengthen", "border_start_from": "pre_decay"}
    union = timeline(Wsd(decay=0.5), [4, 8], fresh=True, **recipe)
    assert line(union) == [pytest.approx([1, 1, 1, 0.5]), pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])]
    assert union.branch_from(0) is None
    values = Training.resolved(recipe, {"epochs": 1, "batch_size": 1, "learning_rate": 1.0})
    late = Timeline(Wsd(decay=0.5), Training(**values), [0, 4], [False, True], False)  # nothing is trained before the last experience
    late.check()
    assert line(late) == [[], pytest.approx([1, 1, 1, 0.5])] and late.branch_from(0) is None


def test_rates_do_not_jump_where_a_line_goes_on():
    for name in ("infinite", "wsd", "two_stage"):
        recipe = {k: v for k, v in PRESETS[name].items() if k != "schedule"}
        shape = InfiniteCosine(warmup=0.01) if name == "infinite" else Wsd(decay=0.2, warmup=0.01)
        first, second = line(timeline(shape, [2000, 2000], **recipe))
        assert abs(first[-1] - second[0]) < 1e-3


@pytest.mark.parametrize(
    ("schedule", "training", "words"),
    [
        (Cosine(), {"border_schedule": "hold"}, "rate 0"),
        (Cosine(), {"border_start_from": "pre_decay"}, "final decay"),
        (Wsd(decay=0.2), {"border_start_from": "pre_decay", "border_schedule": "extend"}, "pre_decay"),
        (Cosine(minimum=0.1), {"border_schedule": "hold", "border_rewarm": 3}, "border_rewarm = 3 does nothing"),
        (Cosine(), {"border_rewarm": 30}, "fewer than the 4 steps"),
        (Cosine(), {"border_rewarm": 2.5}, "whole number"),
        (Wsd(decay=3), {"border_start_from": "pre_decay", "border_schedule": "lengthen", "steps": [9, 2]}, "longer than its 2 steps"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(schedule, training, words):
    steps = training.pop("steps", [4, 4])
    with pytest.raises(UsageError, match=words) as error:
        timeline(schedule, steps, whole=training.get("border_schedule") == "extend", **training)
    assert "\n" not in str(error.value)


def recipe(name: str, **more: Any) -> dict[str, Any]:
    short = {"border_rewarm": 5} if name == "two_stage" else {}
    return tiny(training={"border": name, **short, **more})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_rate_in_the_optimizer_is_the_timeline_s_at_every_step_of_every_recipe(name):
    cell = resolve(recipe(name))
    seen = []
    run_cell(cell, Options(on_step=lambda r: seen.append((r.experience, r.on_branch, r.learning_rate))))
    t = make_run(resolve(recipe(name)), torch.device("cpu")).timeline
    main, branch = line(t), line(t, branch=True)
    for i in range(2):
        assert [rate for e, b, rate in seen if e == i and not b] == pytest.approx([PEAK * f for f in main[i]])
    branched = [rate for e, b, rate in seen if b]
    assert branched == pytest.approx([] if t.branch_from(0) is None else [PEAK * f for f in branch[0][t.branch_from(0) :]])


def test_a_recipe_is_its_settings_and_what_is_given_beside_it_counts_more():
    assert resolve(recipe("ibrahim2024")).spec == resolve(tiny(training=PRESETS["ibrahim2024"])).spec
    assert resolve(recipe("wsd", border_optimizer="reset")).training.border_optimizer == "reset"
    with pytest.raises(UsageError, match=r"training\.border: .*ibrahim2024"):
        resolve(recipe("ibrahim"))


def test_leaving_the_decay_out_is_one_schedule_over_the_stream_and_leaves_no_trace_of_the_branch():
    shape = {"schedule": {"name": "wsd", "decay": 10, "warmup": 4}, "border_optimizer": "keep"}
    ours = run_cell(resolve(tiny(training={**shape, "border_schedule": "lengthen", "border_start_from": "pre_decay"})))
    whole = run_cell(resolve(tiny(training={**shape, "border_schedule": "extend"})))
    assert ours["weights_sha256"] == whole["weights_sha256"]
    assert ours["matrix"][1] == whole["matrix"][1] and ours["matrix"][0] != whole["matrix"][0]
    assert ours["cost"]["gradient_steps"] == whole["cost"]["gradient_steps"] == 50
    assert ours["cost"]["deployment"]["gradient_steps"] == 10


def test_what_is_measured_at_a_border_is_the_model_that_was_annealed_there():
    shape = {"schedule": {"name": "wsd", "decay": 10, "warmup": 4}}
    ours = run_cell(resolve(tiny(training={**shape, "border_schedule": "lengthen", "border_start_from": "pre_decay"})))
    alone = run_cell(resolve(tiny(scenario={"corpora": ["synthetic:0"], "tokens": 6400}, training=shape)))
    assert ours["matrix"][0][0] == alone["matrix"][0][0]


@pytest.fixture(scope="module")
def whole():
    """The result of the recipe that branches."""
    return run_cell(resolve(recipe("wsd")))


def test_the_bump_of_a_line_is_counted_from_the_line_itself_not_from_its_branch(whole):
    curve = whole["loss_curve"]
    before = [p for p in curve if p["experience"] == 0][-1]["losses"][0]
    early = [p["losses"][0] for p in curve if p["experience"] == 1 and p["step"] <= 2]
    assert whole["metrics"]["bump"] == pytest.approx(max(early) - before)


@pytest.mark.parametrize("at", [10, 21, 27, 29, 32, 40])
def test_a_run_that_was_stopped_on_its_branch_or_after_it_ends_with_the_same_bits(tmp_path, whole, at):
    done = itertools.count(1)
    again = gone_on(lambda: resolve(recipe("wsd")), tmp_path, lambda run: next(done) == at)
    assert again["resume"] == "exact"
    for key in ("weights_sha256", "matrix", "loss_curve"):
        assert again[key] == whole[key]
    assert again["cost"]["gradient_steps"] == whole["cost"]["gradient_steps"]
    assert again["cost"]["deployment"] == whole["cost"]["deployment"]


def test_policies_over_the_same_upstream_train_it_once_and_end_with_the_same_bits(tmp_path):
    raws = [recipe(name) for name in ("gupta2023", "ibrahim2024", "hold", "extend")]
    raws += [recipe("gupta2023", border_peak_scale=0.5), recipe("gupta2023", border_rewarm=0)]
    cells = [resolve(raw) for raw in raws]
    found = shared(cells)
    assert len(found) == len(cells) and len({p.name for p in found.values()}) == 1
    prefix = found[0]
    run_cell(prefix.cell, Options(tmp_path))
    for cell, raw in zip(cells, raws, strict=True):
        alone = run_cell(resolve(raw))
        together = run_cell(cell, Options(tmp_path, start_from=(prefix.cell, prefix.kept)))
        assert together["start_from"]["cell"] == prefix.name
        assert together["weights_sha256"] == alone["weights_sha256"] and together["matrix"] == alone["matrix"]
        assert together["cost"]["gradient_steps"] == alone["cost"]["gradient_steps"]


def test_lines_that_branch_share_what_lies_before_the_border_too(tmp_path):
    cells = [resolve(recipe(name)) for name in ("wsd", "two_stage")]
    found = shared(cells)
    assert found[0].name == found[1].name
    run_cell(found[0].cell, Options(tmp_path))
    for cell, name in zip(cells, ("wsd", "two_stage"), strict=True):
        together = run_cell(cell, Options(tmp_path, start_from=(found[0].cell, found[0].kept)))
        assert together["matrix"] == run_cell(resolve(recipe(name)))["matrix"]


def test_cells_that_say_the_same_of_borders_share_nothing_for_it():
    assert shared([resolve(recipe("hold")), resolve({**recipe("hold"), "seed": 1})]) == {}


def test_images_have_borders_of_these_kinds_too():
    raw = {
        "scenario": {"name": "class_incremental", "dataset": "digits", "experiences": 2},
        "training": {"epochs": 2, "border": "wsd", "schedule": {"name": "wsd", "decay": 10}},
    }
    ours = run_cell(resolve(raw))
    whole = run_cell(resolve({**raw, "training": {**raw["training"], "border": None, "border_schedule": "extend", "border_optimizer": "keep"}}))
    assert ours["weights_sha256"] == whole["weights_sha256"]
    assert ours["matrix"][1] == whole["matrix"][1] and ours["matrix"][0] != whole["matrix"][0]
    assert ours["cost"]["deployment"]["gradient_steps"] == 10
