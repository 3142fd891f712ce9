"""The loop: when it stops, what it measures, which rate a step has, in what order parts are asked, and what is counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.strategy import Modifier, Strategy
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop
from clsuite.training.losses import Losses

pytestmark = pytest.mark.unit


# -- divergence -------------------------------------------------------------------------------------------------


class Scripted(Strategy):
    """Reports the losses of a script and learns nothing."""

    script = staticmethod(lambda n: 1.0)

    def setup(self):
        self.n = 0

    def training_step(self, batch):
        self.n += 1
        return torch.tensor(self.script(self.n))


def scripted(cell_of, small, script):
    part = Scripted()
    part.script = script
    Scripted.transient = frozenset({"script"})
    steps = []
    result = run_cell(cell_of(*small, "training.epochs=60", parts=[part]), Options(on_step=lambda run: steps.append(1)))
    return result, len(steps)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 37, 100, 101, 250])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_named_by_its_step(cell_of, small, value, at):
    result, steps = scripted(cell_of, small, lambda n: value if n == at else 1.0)
    assert result["status"] == "diverged" and result["reason"] == f"the loss became {value} at step {at}"
    assert at - 1 <= steps < at + 99  # the step at which it ends is not reported as done
    assert result["metrics"]["final_accuracy"] is None


def test_ten_times_the_first_loss_for_a_hundred_steps_ends_the_run(cell_of, small):
    result, steps = scripted(cell_of, small, lambda n: 2.0 if n < 31 else 20.5)
    assert result["status"] == "diverged" and "at step 130" in result["reason"]
    assert 129 <= steps < 229


@pytest.mark.parametrize(
    "script", [lambda n: 2.0 if n < 31 or n == 130 else 20.5 if n < 200 else 1.0, lambda n: 20.0 if n > 1 else 2.0], ids=["99 steps", "just ten times"]
)
def test_less_than_that_does_not(cell_of, small, script):
    assert scripted(cell_of, small, script)[0]["status"] == "ok"


def test_a_first_loss_of_zero_is_no_scale(cell_of, small):
    """A mask that leaves a single class makes the loss exactly zero until a second class comes."""
    assert scripted(cell_of, small, lambda n: 0.0 if n < 31 else 1.0)[0]["status"] == "ok"
    raw = ["scenario.experiences=10", "scenario.first_classes=null", "training.logit_mask=batch", "training.epochs=20", "strategy=replay"]
    assert run_cell(cell_of(*small, *raw))["status"] == "ok"


def test_a_rate_that_is_far_too_high_is_told_as_diverged_and_stored(cell_of, small, tmp_path):
    raw = [*small, "training.learning_rate=1e20", "training.epochs=60"]
    steps = []
    result = run_cell(cell_of(*raw), Options(tmp_path, on_step=lambda run: steps.append(1)))
    assert result["status"] == "diverged" and len(steps) == 99
    assert run_cell(cell_of(*raw), Options(tmp_path))["status"] == "diverged"


def test_losses_are_averaged_by_interval():
    losses = Losses(100)
    for value in (1.0, 2.0, 6.0):
        losses.add(torch.tensor(value))
    assert losses.close() == pytest.approx(3) and losses.close() is None


# -- what is measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experiences", "every"), [(200, "auto"), (60, "auto"), (10, 4), (5, 1)])
def test_full_rows_come_as_often_as_said_and_the_set_just_learned_always(cell_of, tiny, experiences, every):
    raw = ["scenario=domain_incremental", f"scenario.experiences={experiences}", "scenario.samples_per_class=1", "model.hidden=[4]", "device=cpu"]
    result = run_cell(cell_of(*raw, f"training.evaluate_every={every}", scenario={"dataset": tiny.name}))
    R = np.array(result["matrix"], dtype=float)  # null becomes NaN
    period = math.ceil(experiences / 50) if every == "auto" else every
    full = [i for i in range(experiences) if (i + 1) % period == 0 or i == experiences - 1]
    assert len(full) <= 50 or every != "auto"
    for i in range(experiences):
        measured = np.flatnonzero(~np.isnan(R[i])).tolist()
        assert measured == (list(range(experiences)) if i in full else [i])
    assert result["metrics"]["rows_measured"] == len({0, *full})  # after experience 0, its own set is all that was learned
    if period == 1:
        assert result["metrics"]["average_incremental_accuracy"] == pytest.approx(np.mean([R[i, : i + 1].mean() for i in range(experiences)]))


def test_the_matrix_counts_right_answers_of_the_deployed_model(cell_of, small):
    class Shifts(Modifier):
        """Deploys a model that always answers class 3; training never sees it."""

        def before_evaluation(self):
            self.saved = self.run.snapshot()
            with torch.no_grad():
                self.model.head.weight.zero_()
                self.model.head.bias.copy_(torch.arange(10) == 3)

        def after_evaluation(self):
            self.run.restore_snapshot(self.saved)

    cell = cell_of(*small, parts=[cell_of(*small).parts[0], Shifts()])
    result = run_cell(cell)
    plain = run_cell(cell_of(*small))
    assert result["weights_sha256"] == plain["weights_sha256"]
    stream = cell.scenario.stream("evaluation", 0)
    labels = stream.outputs("test")
    expected = [float((labels[e.indices] == 3).mean()) for e in stream.evaluation_sets]
    assert sum(e > 0 for e in expected) == 1
    np.testing.assert_allclose(np.array(result["matrix"], float), [expected] * 3)
    single = [float(3 in e.classes) * (labels[e.indices] == 3).mean() for e in stream.evaluation_sets]
    for row in result["matrix_known_task"]:  # with the task known, a set without class 3 is answered by its first class
        for j, (value, e) in enumerate(zip(row, stream.evaluation_sets, strict=True)):
            assert value == pytest.approx(single[j] if 3 in e.classes else (labels[e.indices] == min(e.classes)).mean())


# -- schedules and optimizers -----------------------------------------------------------------------------------


class Watch(Modifier):
    """Notes the learning rate of every step, and the optimizer's state at every border."""

    def setup(self):
        self.rates, self.borders, self.after = [], [], []

    def before_experience(self, experience):
        weight = self.model.head.weight
        self.borders.append({k: v.clone() for k, v in self.run.optimizer.state.get(weight, {}).items()})

    def after_step(self):
        self.rates.append(self.run.optimizer.param_groups[0]["lr"])
        self.after.append({k: v.clone() for k, v in self.run.optimizer.state.get(self.model.head.weight, {}).items()})


STEPS = [10, 8, 8]
FACTORS = {
    "constant": lambda n, horizon: 1.0,
    "cosine": lambda n, horizon: 0.5 * (1 + math.cos(math.pi * n / horizon)),
    "linear": lambda n, horizon: 1 - n / horizon,
    "step": lambda n, horizon: 0.1 ** ((n >= horizon / 2) + (n >= 0.75 * horizon)),
}


def watched(cell_of, small, *raw):
    watch = Watch()
    run_cell(cell_of(*small, *raw, parts=[cell_of(*small).parts[0], watch]))
    return watch


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("border", ["restart", "extend", "auto"])
def test_every_step_has_the_rate_its_schedule_says(cell_of, small, name, border):
    rates = watched(cell_of, small, f"training.schedule.name={name}", f"training.border_schedule={border}", "training.learning_rate=0.2").rates
    if border == "extend":
        expected = [FACTORS[name](n, sum(STEPS)) for n in range(sum(STEPS))]
    else:
        expected = [FACTORS[name](n, steps) for steps in STEPS for n in range(steps)]
    assert rates == pytest.approx([0.2 * f for f in expected])


def test_warm_up_rises_to_the_peak(cell_of, small):
    rates = watched(cell_of, small, "training.schedule={name: cosine, warmup: 4, minimum: 0.5}", "training.learning_rate=1.0").rates
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:10] == pytest.approx([0.5 + 0.25 * (1 + math.cos(math.pi * n / 6)) for n in range(6)])
    assert rates[10:14] == pytest.approx(rates[:4])


def test_recurring_streams_keep_optimizer_and_schedule_by_default(cell_of, tiny):
    watch = Watch()
    raw = ["scenario=scole", "scenario.experiences=4", "model.hidden=[4]", "training.batch_size=14", "training.momentum=0.9", "training.schedule.name=linear"]
    cell = cell_of(*raw, "training.learning_rate=0.1", "device=cpu", scenario={"dataset": tiny.name})
    cell.parts.append(watch)
    watch.name = "watch"
    run_cell(cell)
    assert watch.rates == pytest.approx([0.1 * (1 - n / len(watch.rates)) for n in range(len(watch.rates))])
    assert all(watch.borders[1:])


@pytest.mark.parametrize(
    ("optimizer", "key"), [(["training.momentum=0.9"], "momentum_buffer"), (["training.optimizer=adam", "training.learning_rate=0.01"], "exp_avg")]
)
def test_the_optimizer_is_kept_or_reset_at_borders(cell_of, small, optimizer, key):
    kept = watched(cell_of, small, *optimizer, "training.border_optimizer=keep")
    assert kept.borders[0] == {}
    for border, last in ((kept.borders[1], kept.after[9]), (kept.borders[2], kept.after[17])):
        assert torch.equal(border[key], last[key]) and last[key].abs().sum() > 0
    for choice in ("reset", "auto"):
        assert watched(cell_of, small, *optimizer, f"training.border_optimizer={choice}").borders == [{}, {}, {}]


# -- updates and hooks ------------------------------------------------------------------------------------------


class Note(Modifier):
    """Writes down who is asked what."""

    order = []

    def __init__(self, name, value=0.0):
        super().__init__()
        self.name, self.value = name, value

    def _note(self, hook):
        Note.order.append((hook, self.name))

    def batch(self, batch):
        self._note("batch")
        return batch

    def before_step(self, batch):
        self._note("before_step")

    def penalty(self):
        self._note("penalty")
        return None if self.value == 0 else self.value * self.model.head.bias.sum()

    def on_gradients(self):
        self._note("on_gradients")
        self.norm = float(torch.sqrt(sum(p.grad.square().sum() for p in self.model.parameters())))

    def after_step(self):
        self._note("after_step")
        self.step_after = self.run.step


def begun(run_of, small, parts, *raw):
    run = run_of(*small, *raw, parts=[Strategy(), *parts])
    run.begin_optimizer()
    ids = torch.from_numpy(run.stream.ids(run.stream.experiences[0].segments)[::7].copy())
    return run, run.current_batch(ids, 0, None)


def test_hooks_are_called_in_list_order(cell_of, small):
    Note.order = []
    run_cell(cell_of(*small, parts=[Strategy(), Note("a"), Note("b")]))
    step = [(hook, name) for hook in ("batch", "before_step", "penalty", "on_gradients", "after_step") for name in "ab"]
    assert Note.order == step * sum(STEPS)


def test_penalties_are_added_to_the_loss(run_of, small):
    run, batch = begun(run_of, small, [Note("a", 0.5), Note("b"), Note("c", 2.0)])
    plain = torch.autograd.grad(run.loss(batch), list(run.model.parameters()))
    weights = [p.detach().clone() for p in run.model.parameters()]
    run.update(run.loss(batch))
    for (name, p), before, g in zip(run.model.named_parameters(), weights, plain, strict=True):
        expected = before - 0.1 * (g + (2.5 if name == "head.bias" else 0.0))
        torch.testing.assert_close(p.detach(), expected)


def test_gradients_are_seen_before_they_are_clipped(run_of, small):
    note = Note("a", 100.0)
    run, batch = begun(run_of, small, [note], "training.clip_norm=0.25", "training.learning_rate=1.0")
    before = torch.cat([p.detach().flatten().clone() for p in run.model.parameters()])
    run.update(run.loss(batch))
    assert note.norm > 100
    moved = torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before
    assert float(moved.norm()) == pytest.approx(0.25, rel=1e-4)


def test_a_hook_on_gradients_decides_what_is_stepped(run_of, small):
    class Zeroes(Modifier):
        def on_gradients(self):
            for p in self.model.hidden.parameters():
                p.grad = None

    run, batch = begun(run_of, small, [Zeroes()])
    before = run.snapshot()
    run.update(run.loss(batch))
    changed = {name for name, t in run.snapshot().items() if not torch.equal(t, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_after_step_sees_the_step_counted(run_of, small):
    note = Note("a")
    run, batch = begun(run_of, small, [note])
    run.update(run.loss(batch))
    assert note.step_after == 1 == run.step == run.progress.experience_step


def test_an_update_with_an_optimizer_of_one_s_own_is_bare(run_of, small):
    Note.order = []
    run, batch = begun(run_of, small, [Note("a", 5.0)], "training.clip_norm=1e-9", "training.schedule.name=linear")
    mine = torch.optim.SGD(run.model.parameters(), lr=0.5)
    gradients = torch.autograd.grad(run.loss(batch), list(run.model.parameters()))
    before = [p.detach().clone() for p in run.model.parameters()]
    run.update(run.loss(batch), mine)
    for p, b, g in zip(run.model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), b - 0.5 * g)
    assert Note.order == [] and run.step == 0 and run.cost.gradient_steps == 1 and mine.param_groups[0]["lr"] == 0.5


def test_batch_plan_and_parameter_groups_are_piped_from_part_to_part(run_of, small):
    from clsuite.strategy import ParameterGroup

    class Halves(Modifier):
        def batch(self, batch):
            return self.run.current_batch(batch.ids[: len(batch) // 2], 0, None)

        def plan(self, plan):
            return plan.replace(epochs=2 * plan.epochs + 1)

        def parameter_groups(self, groups):
            return [ParameterGroup(f"{g.name}/2", g.parameters, g.learning_rate / 2) for g in groups]

    run, batch = begun(run_of, small, [Halves(), Halves()])
    assert run.plan_of(0).epochs == 2 * (2 * 2 + 1) + 1
    assert [(g["name"], g["lr"]) for g in run.optimizer.param_groups] == [("all/2/2", pytest.approx(0.025))]
    for change in run._hooks["batch"]:
        batch = change(batch)
    assert len(batch) == 12 // 4


# -- cost -------------------------------------------------------------------------------------------------------


def cost_of(cell_of, small, *raw):
    return run_cell(cell_of(*small, *raw))["cost"]


def test_passes_are_counted_per_sample_and_evaluation_is_not(cell_of, small):
    naive = cost_of(cell_of, small)
    samples = 2 * (80 + 60 + 60)
    assert (naive["gradient_steps"], naive["forward_passes"], naive["backward_passes"]) == (sum(STEPS), samples, samples)
    assert cost_of(cell_of, small, "training.evaluate_every=1", "training.probe_every=1")["forward_passes"] == samples


def test_replayed_samples_are_counted(cell_of, small):
    cost = cost_of(cell_of, small, "strategy=replay", "strategy.replay_batch=4", "strategy.buffer_size=100")
    passes = 400 + 4 * (sum(STEPS) - 1)  # the first step has nothing to replay
    assert (cost["forward_passes"], cost["backward_passes"], cost["gradient_steps"]) == (passes, passes, sum(STEPS))


def test_gradients_have_no_side_effect_but_their_cost(run_of, tiny):
    run = run_of("model=resnet20", "scenario.experiences=3", "device=cpu", scenario={"dataset": tiny.name}, parts=[Strategy()])
    run.begin_optimizer()
    run.model.train()
    batch = run.current_batch(torch.arange(12), 0, None)
    run.update(run.loss(batch))
    before, kept = run.snapshot(), [p.grad.clone() for p in run.model.parameters()]
    said, cost, rng = batch.logits, (run.cost.forward_passes, run.cost.backward_passes), torch.get_rng_state()
    found = run.gradients(batch)
    assert all(torch.equal(t, before[name]) for name, t in run.snapshot().items())  # running statistics too
    assert all(torch.equal(p.grad, g) for p, g in zip(run.model.parameters(), kept, strict=True))
    assert batch.logits is said and torch.equal(torch.get_rng_state(), rng) and run.step == 1
    assert (run.cost.forward_passes, run.cost.backward_passes) == (cost[0] + 12, cost[1] + 12)
    # and they are the gradients of the loss in train mode
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(run.model(batch.x), batch.y), list(run.model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    run.restore_snapshot(before)
    run.update(run.loss(batch))
    assert run.cost.backward_passes == cost[1] + 24  # what `gradients` went through is not counted again


# -- what cannot be put together --------------------------------------------------------------------------------


class ClaimsGradients(Modifier):
    claims = frozenset({"rewrites_gradients"})


class AlsoClaimsGradients(Modifier):
    claims = frozenset({"rewrites_gradients"})


def needing(*needs):
    return type("Needy", (Modifier,), {"needs": frozenset(needs)})()


SINGLE = ["scenario.experiences=1", "scenario.first_classes=null"]
PAIRINGS = {
    "doubled claims": ([], lambda: [Strategy(), ClaimsGradients(), AlsoClaimsGradients()], "both claim 'rewrites_gradients'"),
    "task ids": (["scenario=blurry"], lambda: [Strategy(), needing("task_ids")], "needs 'task_ids', but scenario 'blurry' has no task ids"),
    "several tasks": (SINGLE, lambda: [Strategy(), needing("several_tasks")], "has a single experience"),
    "pretrained": ([], lambda: [Strategy(), needing("pretrained")], "model 'mlp' has no pretrained weights"),
    "base that does not step": ([], lambda: [type("Base", (Strategy,), {"offers": frozenset()})(), needing("incremental")], "does not train step by step"),
    "something nobody offers": ([], lambda: [Strategy(), needing("luck")], "does not offer 'luck'"),
}


@pytest.mark.parametrize("what", PAIRINGS)
def test_parts_that_do_not_fit_are_refused_in_one_line_before_training(what, cell_of, small, tmp_path):
    raw, parts, message = PAIRINGS[what]
    raw = raw if raw and raw[0] == "scenario=blurry" else [*small, *raw]
    with pytest.raises(UsageError) as caught:
        run_cell(cell_of(*raw, parts=parts()), Options(tmp_path / "out"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_same_parts_are_accepted_where_their_needs_are_met(cell_of, small):
    parts = [Strategy(), needing("borders", "task_ids", "classifier", "several_tasks", "incremental", "memory"), ClaimsGradients()]
    assert make_run(cell_of(*small, parts=parts), torch.device("cpu")).parts == parts


def test_a_model_that_starts_afresh_has_a_whole_schedule_of_its_own() -> None:
    """Joint training is the upper reference: with one schedule over the stream its last model would learn in the tail only."""
    extended = ["strategy=joint", "scenario.experiences=2", "training.border_schedule=extend", "training.epochs=2", "training.schedule={name: linear}"]
    rates: list[float] = []

    def note(run: Any) -> None:
        if run.experience == 1:
            rates.append(run.optimizer.param_groups[0]["lr"])

    run_cell(resolve(parse_overrides(extended, COMPONENTS)), Options(on_step=note))
    steps = len(rates)
    assert rates == pytest.approx([0.1 * (1 - k / steps) for k in range(steps)])


def test_a_loop_of_a_parts_own_that_diverges_is_no_sound_result(tmp_path: Any) -> None:
    overrides = ["strategy=gdumb", "strategy.memory_rate=1e30", "strategy.memory_epochs=2", "scenario.experiences=2"]
    result = run_cell(resolve(parse_overrides(overrides, COMPONENTS)), Options(tmp_path))
    assert result["status"] == "diverged"
    text = next(tmp_path.glob("cells/*/*/result.json")).read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_joint_training_of_a_long_stream_measures_only_the_model_it_trained() -> None:
    overrides = ["strategy=joint", "scenario=domain_incremental", "scenario.experiences=51", "scenario.samples_per_class=5", "training.epochs=1"]
    result = run_cell(resolve(parse_overrides(overrides, COMPONENTS)))
    assert all(value is None for row in result["matrix"][:-1] for value in row)
    assert all(value is not None for value in result["matrix"][-1])
    assert result["metrics"]["rows_measured"] == 1


def test_the_memory_is_offered_every_sample_once_whatever_is_trained_on() -> None:
    """Joint and cumulative training see old samples again in every experience; a uniform memory must not."""
    run = make_run(resolve(parse_overrides(["strategy=cumulative+fpf", "strategy.fpf.buffer_size=200", "training.epochs=1"], COMPONENTS)), torch.device("cpu"))
    Loop(run, Checkpoints(None, "", {})).execute()
    memory = run.memories["replay"]
    assert len(set(memory.ids.tolist())) == len(memory) == 200
    assert memory.offered == run.stream.source.size("train")


def test_peak_memory_is_the_cells_own() -> None:
    cell = ["scenario.experiences=2", "training.epochs=1"]
    first = run_cell(resolve(parse_overrides(cell, COMPONENTS)))["cost"]["peak_memory_mb"]
    ballast = np.ones(60_000_000)  # 480 MB that another cell of this process might have used
    del ballast
    assert run_cell(resolve(parse_overrides(cell, COMPONENTS)))["cost"]["peak_memory_mb"] < first + 200


@pytest.mark.parametrize("setting", ["training.logit_mask=experience", "strategy.buffer=experience_balanced"])
def test_hidden_borders_are_not_used(setting: str) -> None:
    raw = parse_overrides(["scenario=blurry", "scenario.gradual=true", "strategy=replay", setting], COMPONENTS)
    with pytest.raises(UsageError, match="needs task borders"):
        run_cell(resolve(raw))
    run = make_run(resolve(parse_overrides(["scenario=blurry", "scenario.gradual=true"], COMPONENTS)), torch.device("cpu"))
    assert run.keeps("optimizer") and run.keeps("schedule")
