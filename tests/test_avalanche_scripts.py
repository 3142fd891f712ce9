"""Our modifiers as plugins in Avalanche's scripts as they are: what they draw from, deploy and leave alone, and what is refused."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import clsuite
from clsuite.errors import UsageError
from clsuite.interop.avalanche_plugin_run import TheirWorkload
from clsuite.interop.avalanche_plugin_samples import SeenStream

from .avalanche_plugin_runs import Classifier, every_number, made, split_digits, trained
from .avalanche_runs import Samples

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


@pytest.fixture(scope="module")
def digits(avalanche):
    return split_digits(avalanche)


def test_it_fine_tunes_after_replay_has_stored_the_last_experience_and_changes_the_chosen_modules_alone(avalanche, digits):
    plugin = clsuite.avalanche_plugin("fpf", steps_each=25)
    before = trained(avalanche, digits, SimpleNamespace()).model.state_dict()
    strategy = trained(avalanche, digits, plugin)
    memory = plugin.run.memories["replay"]
    assert len(memory) == 50 and {int(y) for y in memory.buffer.targets} == set(range(10))
    changed = {name for name, t in strategy.model.state_dict().items() if not torch.equal(t, before[name])}
    running = {"body.2.running_mean", "body.2.running_var", "body.2.num_batches_tracked"}
    assert changed == {"body.2.weight", "body.2.bias", "scores.weight", "scores.bias"} | running  # norms, the head, and statistics that follow
    report = plugin.report()
    assert report["fpf"]["fine_tunings"] == 1 and report["cost"]["gradient_steps"] == 25


def test_a_part_that_only_looks_changes_no_number_of_the_script(avalanche, digits):
    plain = trained(avalanche, digits, SimpleNamespace())
    looking = clsuite.avalanche_plugin("sensitivity")
    assert torch.equal(every_number(trained(avalanche, digits, looking).model), every_number(plain.model))
    assert set(looking.report()["sensitivity"]["ratio"]) == {"first_layer", "norm", "head"}


def test_evaluating_twice_deploys_the_same_model_and_leaves_training_alone(avalanche, digits):
    plugin = clsuite.avalanche_plugin("slow_learner+alignment", slow_learner={"backbone_rate": 0.01}, alignment={"epochs": 1})
    strategy = trained(avalanche, digits, plugin, "Naive", experiences=2)
    before, random_state, seen = every_number(strategy.model), torch.get_rng_state(), []
    for _ in range(2):
        plugin.before_eval(strategy)
        seen.append(every_number(strategy.model))
        plugin.after_eval(strategy)
        assert torch.equal(every_number(strategy.model), before)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_evaluations_in_the_middle_of_an_experience_see_the_model_as_it_is(avalanche, digits):
    seen = []

    class Looks:
        def before_eval(self, strategy, **_):
            seen.append(every_number(strategy.model))

        def after_training_epoch(self, strategy, **_):
            seen.append("epoch")
            seen.append(every_number(strategy.model))

    strategy = made(
        avalanche.supervised.Naive,
        Classifier(),
        [clsuite.avalanche_plugin("fpf", when="evaluation", steps_each=5, buffer_size=30), Looks()],
        batch=30,
        eval_every=1,  # after every epoch and at the end of the experience
    )
    strategy.train_epochs = 2
    strategy.train(digits.train_stream[0], eval_streams=[digits.test_stream[0]])
    initial, first, trained_1, looked_1, second, trained_2, looked_2, *final = seen
    assert (first, second) == ("epoch", "epoch") and torch.equal(trained_1, looked_1) and not torch.equal(initial, trained_1)
    assert torch.equal(trained_2, looked_2) and torch.equal(trained_2, every_number(strategy.model))
    assert strategy.plugins[0].report()["fpf"]["fine_tunings"] == len(final) == 0
    strategy.eval(digits.test_stream)
    assert strategy.plugins[0].report()["fpf"]["fine_tunings"] == 1 and not torch.equal(seen[-1], trained_2)


def test_the_end_comes_before_the_evaluation_that_closes_the_last_experience(avalanche, digits):
    plugin = clsuite.avalanche_plugin("fpf", steps_each=5, experiences=2)
    seen = []

    class Looks:
        def before_eval(self, strategy, **_):
            seen.append(plugin.report()["fpf"]["fine_tunings"] if plugin.run else None)

    strategy = made(avalanche.supervised.Replay, Classifier(), [plugin, Looks()], batch=30, mem_size=50, eval_every=0)
    for experience in list(digits.train_stream)[:2]:
        strategy.train(experience, eval_streams=[digits.test_stream[0]])
    assert seen == [None, 0, 0, 1]  # before and after each
    assert len(plugin.run.memories["replay"]) == 50


def test_a_scheduler_moves_the_slow_rate_too_and_never_sees_other_groups(avalanche, digits):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = []
    step = optimizer.step

    def recorded(*arguments, **settings):
        rates.append([(g["lr"], len(g["params"])) for g in optimizer.param_groups])
        return step(*arguments, **settings)

    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step = recorded
    schedule = avalanche.plugins.LRSchedulerPlugin(scheduler, reset_lr=True, reset_scheduler=False)
    strategy = avalanche.supervised.Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=200,
        train_epochs=2,
        plugins=[clsuite.avalanche_plugin("slow_learner", backbone_rate=0.02), schedule],
        evaluator=None,
    )
    for experience in list(digits.train_stream)[:2]:
        strategy.train(experience)
        assert [len(g["params"]) for g in optimizer.param_groups] == [6]
    per_epoch = len(rates) // 4
    assert rates[0] == [(0.1, 6)] and rates[per_epoch] == [(0.05, 6)]  # experience 0 at the full rate
    assert rates[2 * per_epoch] == [(0.02, 4), (0.1, 2)] and rates[3 * per_epoch] == [(0.01, 4), (0.05, 2)]


def test_refresh_unlearns_the_current_samples_of_a_batch_of_replay(avalanche, digits):
    sizes = []
    plugin = clsuite.avalanche_plugin("refresh", fisher_samples=20)
    unlearn = type(plugin.parts[0]).unlearn

    class Counting(type(plugin.parts[0])):
        def unlearn(self, batch):
            sizes.append((len(batch), sorted(set(batch.y.tolist()))))
            return unlearn(self, batch)

    plugin.parts[0].__class__ = Counting
    trained(avalanche, digits, plugin, experiences=2)
    first, second = (set(e.classes_in_this_experience) for e in list(digits.train_stream)[:2])
    n = [len(e.dataset) for e in list(digits.train_stream)[:2]]
    expected = [min(30, count - k) for count in n for k in range(0, count, 30)]
    assert [size for size, _ in sizes] == expected
    assert all(set(classes) <= first for _, classes in sizes[: -(-n[0] // 30)])
    assert all(set(classes) <= second for _, classes in sizes[-(-n[0] // 30) :])  # nothing of the memory


def test_a_copy_of_the_strategy_goes_on_by_itself(avalanche, digits):
    first = trained(avalanche, digits, clsuite.avalanche_plugin("fpf", times=4, steps_each=5, buffer_size=30), "Naive", experiences=2)
    second = copy.deepcopy(first)
    before = every_number(second.model)
    torch.manual_seed(1)
    first.train(digits.train_stream[2])
    assert torch.equal(every_number(second.model), before)
    torch.manual_seed(1)
    second.train(digits.train_stream[2])
    assert torch.equal(every_number(first.model), every_number(second.model))
    assert second.plugins[0].report() == first.plugins[0].report() and first.plugins[0].report()["fpf"]["fine_tunings"] >= 2


@pytest.mark.parametrize("kind, plugin", [("Replay", {"name": "fpf", "times": 5, "steps_each": 3}), ("Naive", {"name": "refresh", "fisher_samples": 10})])
@pytest.mark.filterwarnings("error::clsuite.errors.ResultWarning")
def test_our_recurrence_streams_train_with_our_plugins(avalanche, kind, plugin):
    from clsuite.interop.avalanche_streams import to_avalanche

    stream = clsuite.stream("scenario=power_law", "scenario.dataset=digits", "scenario.experiences=4", "scenario.return_samples=40")
    benchmark = to_avalanche(stream)
    assert any(len(e.tasks) > 1 for e in stream.experiences)  # tasks come back within an experience
    made = clsuite.avalanche_plugin(**plugin)
    strategy = trained(avalanche, benchmark, made, kind, model=avalanche.models.SimpleMLP(input_size=64, hidden_size=20, drop_rate=0.0))
    assert [e.classes for e in made.run.stream.experiences] and len(made.run.stream) == len(stream)
    assert made.run.step == sum(made.run.plan_of(i).steps for i in range(len(stream)))
    if kind == "Replay":
        assert made.run.total_steps == made.run.step and made.report()["fpf"]["fine_tunings"] == 4  # the first falls into experience 0, whose memory is empty
    assert strategy.eval(benchmark.test_stream) is not None


@pytest.mark.parametrize(
    "mask, expected",
    [
        ("none", ["0123", "0123", "0123"]),
        ("batch", ["013", "013", "013"]),
        ("seen", ["012", "012", "0123"]),  # a target is never masked
        ("experience", ["01", "12", "013"]),  # 1 came last with 2; 3 has not come, and counts as of the first
    ],
)
def test_masks_look_at_the_classes_of_the_last_experience_with_a_label(mask, expected):
    stream = SeenStream(4, torch.device("cpu"), True, None)
    for labels in ([0, 1], [1, 2]):
        stream.begin(Samples(torch.zeros(2, 1), torch.tensor(labels)))
    masked = TheirWorkload(stream, nn.CrossEntropyLoss(), mask).masked(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert ["".join(map(str, row.isfinite().nonzero().flatten().tolist())) for row in masked] == expected


def test_samples_are_fetched_again_by_their_numbers(avalanche, digits):
    stream = SeenStream(10, torch.device("cpu"), True, None)
    sizes = [len(stream.begin(e.dataset)) for e in digits.train_stream]
    ids = np.array([sum(sizes[:3]) + 7, 0, sizes[0] - 1, sizes[0], sum(sizes) - 1])  # out of order, at the edges
    x, y = stream.gather(torch.from_numpy(ids))
    places = [(3, 7), (0, 0), (0, sizes[0] - 1), (1, 0), (4, sizes[4] - 1)]
    expected = [digits.train_stream[e].dataset[i] for e, i in places]
    assert torch.equal(x, torch.stack([sample[0] for sample in expected])) and y.tolist() == [sample[1] for sample in expected]
    assert stream.labels_of(ids).tolist() == y.tolist()
    with pytest.raises(UsageError, match="which samples a mini-batch of an Avalanche loader holds is not known"):
        stream.labels_of(np.array([-1]))


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("fpf", {"steps_eac": 3}, r"unknown setting 'steps_eac'; did you mean 'steps_each'\?"),
        ("fpf", {"steps_each": 0}, "steps_each = 0 is out of bounds: expected a finite value >= 1"),
        ("fpff", {}, r"unknown strategy 'fpff'; did you mean 'fpf'\?"),
        ("derpp", {}, r"'derpp' is a base strategy, and the base is the Avalanche strategy \(valid: .*fpf.*refresh.*\)"),
        ("naive", {}, "'naive' is a base strategy"),
        ("autolrs", {}, "'autolrs' sets the rate of every update, which no plugin"),
        ("half_fine_tuning", {}, "acts on language models only"),
        ("slca", {"backbone_rate": 0.1}, "has several parts: give settings by part"),
        ("slca", {"alignment": {"epoch": 1}}, r"unknown setting 'alignment.epoch'; did you mean 'epochs'\?"),
        ("fpf", {"logit_mask": "tasks"}, "logit_mask = 'tasks' is not valid: expected one of none, batch, experience, seen"),
        ("fpf", {"total_steps": 0}, "total_steps = 0 is not valid"),
    ],
)
def test_settings_are_refused_in_one_line_before_anything_runs(name, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        clsuite.avalanche_plugin(name, **settings)
    assert "\n" not in str(caught.value)


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64))

    def forward(self, x):
        return nn.functional.normalize(x.flatten(1)) @ nn.functional.normalize(self.weight).T


class TwoLinear(Classifier):
    """The last linear layer is no classifier."""

    def __init__(self):
        super().__init__()
        self.unrelated = nn.Linear(24, 3)

    def forward(self, x):
        hidden = self.body(x)
        return self.scores(hidden) + self.unrelated(hidden).sum(1, keepdim=True)


def refusals(avalanche):
    fpf = functools.partial(clsuite.avalanche_plugin, "fpf", steps_each=2)
    growing = nn.Sequential(nn.Flatten(), avalanche.models.IncrementalClassifier(64, initial_out_features=2))
    return {
        "no head": (fpf(), {"model": Cosine()}, "Cosine has no torch.nn.Linear"),
        "wrong head": (fpf(), {"model": TwoLinear()}, r"head = 'unrelated' gives \[1, 3\], but the model gives \[1, 10\]"),
        "unknown head": (fpf(head="score"), {}, r"unknown linear layer of Classifier: head = 'score'; did you mean 'scores'\?"),
        "heads": (fpf(), {"model": avalanche.models.MTSimpleMLP(64)}, "MTSimpleMLP has a head for every task"),
        "growing": (fpf(), {"model": growing}, "Sequential grew: give it all its outputs at the start"),
        "no memory": (fpf(), {"kind": "Naive"}, "strategy 'fpf' needs a memory, and Naive has none: give buffer_size="),
        "two memories": (fpf(buffer="reservoir"), {}, "Replay has one already"),
        "logits": (fpf(distillation=0.5), {}, "memory keeps no 'logits'"),
        "not incremental": (clsuite.avalanche_plugin("refresh"), {"kind": "Cumulative"}, "it needs 'incremental', but Cumulative does not train step by step"),
        "joint": (fpf(), {"kind": "JointTraining"}, "JointTraining trains once"),
    }


@pytest.mark.parametrize(
    "case", ["no head", "wrong head", "unknown head", "heads", "growing", "no memory", "two memories", "logits", "not incremental", "joint"]
)
def test_what_cannot_be_is_refused_in_one_line(avalanche, digits, case):
    plugin, where, message = refusals(avalanche)[case]
    with pytest.raises(UsageError, match=message) as caught:
        trained(avalanche, digits, plugin, **where)
    assert "\n" not in str(caught.value)


def test_two_plugins_are_one_with_a_plus(avalanche, digits):
    plugin = clsuite.avalanche_plugin("slow_learner")
    strategy = made(avalanche.supervised.Naive, Classifier(), [plugin, clsuite.avalanche_plugin("alignment")])
    with pytest.raises(UsageError, match=r"join them, avalanche_plugin\('slow_learner\+alignment', ...\)"):
        strategy.train(digits.train_stream[0])
