"""Our modifiers inside Avalanche's loops: the same batches and the same seed give the weights that our own loop gives.

Our engine is the reference here, and Avalanche's strategies run in their own loops with its recorded batches in place of their loaders.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import clsuite
from clsuite import templates
from clsuite.errors import UsageError
from clsuite.experiment.cell import make_run
from clsuite.experiment.file import read
from clsuite.experiment.spec import resolve
from clsuite.interop.avalanche_plugin_run import TheirWorkload
from clsuite.interop.avalanche_plugin_samples import SeenStream, fetch
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .avalanche_samples import Samples

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]

EXPERIENCES, EPOCHS, BATCH = 5, 1, 16


class Classifier(nn.Module):
    """A network of somebody else's: batch normalisation, and a head under a name of its own."""

    def __init__(self, inputs=64, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.scores = nn.Linear(24, classes)

    def forward(self, x):
        return self.scores(self.body(x))


@pytest.fixture(scope="module")
def avalanche():
    """The parts of Avalanche that are used here (the import takes some seconds)."""
    from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
    from avalanche.benchmarks.utils import as_taskaware_classification_dataset
    from avalanche.models import IncrementalClassifier, MTSimpleMLP, SimpleMLP
    from avalanche.training import plugins, supervised

    return SimpleNamespace(
        from_datasets=benchmark_from_datasets,
        nc_benchmark=nc_benchmark,
        classification=as_taskaware_classification_dataset,
        plugins=plugins,
        supervised=supervised,
        SimpleMLP=SimpleMLP,
        MultiTask=MTSimpleMLP,
        Incremental=IncrementalClassifier,
    )


def begin(strategy, **training):
    """A run of ours in float64; Avalanche keeps momentum at a border, and fills its memory when an experience ends."""
    raw = {
        "scenario": {"name": "class_incremental", "dataset": "digits", "experiences": EXPERIENCES},
        "model": {"name": "mlp", "hidden": [20]},
        "strategy": strategy,
        "training": {"border_optimizer": "keep", "precision": "float64", "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05, **training},
        "device": "cpu",
        "seed": 3,
    }
    run = make_run(resolve(raw), torch.device("cpu"))
    run.insert = "experience_end"
    return run, Loop(run, Checkpoints(None, "", {}))


def weights(model):
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def ours(strategy, **training):
    """A whole run of ours: its batches by experience, the weights after every step, and as deployed after every experience."""
    run, loop = begin(strategy, **training)
    seen = SimpleNamespace(run=run, batches={}, steps=[], deployed=[], memories=[], start=copy.deepcopy(run.model))
    loss, train_on, row = run.loss, loop._train_on, loop.measurements.row
    state = {"record": False}

    def recorded(batch):
        if state["record"]:
            seen.batches.setdefault(run.experience, []).append([batch.x.clone(), batch.y.clone(), torch.zeros(len(batch), dtype=torch.int64)])
        state["record"] = False
        return loss(batch)

    def step(batch, first_epoch):
        state["record"] = True  # the first loss of a step is that of its batch
        train_on(batch, first_epoch)
        seen.steps.append(weights(run.model))

    def deployed(i):
        seen.deployed.append(weights(run.model))
        seen.memories.append(run.memories["replay"].ids.copy() if run.memories else None)
        return row(i)

    run.loss, loop._train_on, loop.measurements.row = recorded, step, deployed
    loop.execute()
    seen.end = weights(run.model)
    return seen


def benchmark_of(avalanche, run):
    """The same stream, its samples in the same order."""
    stream = run.stream

    def samples(split, ids):
        pixels, targets = stream.gather(torch.from_numpy(ids), split)
        return avalanche.classification(Samples(run.workload.inputs(pixels), targets))

    return avalanche.from_datasets(
        train=[samples("train", stream.ids(e.segments)) for e in stream.experiences],
        test=[samples("test", stream.evaluation_ids(j)) for j in range(len(stream.evaluation_sets))],
    )


def made(avalanche, kind, model, plugins, momentum=0.0, learning_rate=0.05, batch=BATCH, **more):
    """An Avalanche strategy with the settings of `begin`."""
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=EPOCHS,
        eval_mb_size=500,
        plugins=plugins,
        evaluator=None,
        **more,
    )


def theirs(avalanche, seen, plugin, momentum=0.0, memory=None, whole_stream=False):
    """The plugin in Avalanche's `Naive` on the batches of our run; what `ours` gives."""
    found = SimpleNamespace(steps=[], deployed=[])

    class Fed(avalanche.supervised.Naive):
        def _before_training_exp(self, **settings):
            super()._before_training_exp(**settings)
            self.dataloader = seen.batches[self.experience.current_experience]

        def _after_update(self, **settings):
            super()._after_update(**settings)
            found.steps.append(weights(self.model))

        def _before_eval(self, **settings):
            super()._before_eval(**settings)
            found.deployed.append(weights(self.model))

    model = copy.deepcopy(seen.start)
    strategy = found.strategy = made(avalanche, Fed, model, [plugin], momentum)
    if memory is not None:
        strategy.storage_policy = memory
    stream = benchmark_of(avalanche, seen.run)
    for experience in [stream.train_stream] if whole_stream else stream.train_stream:
        strategy.train(experience)
        if memory is not None:
            memory.border()
        strategy.eval(stream.test_stream)
    found.end = weights(model)
    return found


def apart(a, b):
    assert len(a) == len(b)
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def close(a, b):
    """Equal, numbers up to rounding, however nested."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(close(a[k], b[k]) for k in a)
    return a == pytest.approx(b)


RULES = {
    "slow": ("slow_learner", {"backbone_rate": 0.002}),
    "momentum": ("slow_learner", {"backbone_rate": 0.002}),
    "heads": ("slow_learner", {"keep_old_heads": True}),
    "refresh": ("refresh", {"unlearn_step": 0.01, "steps": 2, "fisher_samples": 30}),
    "fpf_end": ("fpf", {"buffer_size": 30, "steps_each": 20}),
    "fpf_evaluation": ("fpf", {"buffer_size": 30, "steps_each": 20, "when": "evaluation", "distillation": 0.3, "buffer": "class_balanced"}),
    "kfpf": ("fpf", {"buffer_size": 30, "steps_each": 10, "times": 7, "modules": "random"}),
    "sensitivity": ("sensitivity", {}),
    "ema": ("dynamic_ema", {}),
    "ewc": ("ewc", {"strength": 0.5}),
    "si": ("si", {}),
    "mas": ("mas", {"strength": 0.1}),
    "lwf": ("lwf", {}),
    "agem": ("agem", {"buffer_size": 30}),
    "slca": ("slca", {"slow_learner": {"backbone_rate": 0.002}, "alignment": {"epochs": 2, "samples_per_class": 32}}),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_plugin_gives_the_weights_of_our_own_loop(avalanche, rule):
    momentum = 0.9 if rule == "momentum" else 0.0
    name, settings = RULES[rule]
    seen = ours({"name": name, **settings} if rule == "slca" else {"name": f"naive+{name}", name: settings}, momentum=momentum)
    plugin = clsuite.avalanche_plugin(name, seed=3, **settings)
    found = theirs(avalanche, seen, plugin, momentum)
    assert len(seen.steps) >= 90 and len(seen.deployed) == EXPERIENCES
    assert apart(seen.steps, found.steps) < 1e-10
    assert apart(seen.deployed, found.deployed) < 1e-10
    assert apart([seen.end], [found.end]) < 1e-10
    reports = plugin.report()
    assert all(close(reports.get(part.name, {}), part.report()) for part in seen.run.parts[1:])
    # the strategy's own steps are not charged, those of the part are
    assert reports["cost"]["gradient_steps"] == seen.run.costs["training"].gradient_steps - len(seen.steps)
    assert reports["cost"]["deployment"] == seen.run.cost_report()["deployment"]
    plain = theirs(avalanche, seen, SimpleNamespace(), momentum)
    differs = apart(seen.steps, plain.steps), apart(seen.deployed, plain.deployed)
    assert max(differs) > 1e-4 or rule == "sensitivity"  # the rule does something, so equality says something


def test_fine_tuning_draws_from_the_memory_the_strategy_has(avalanche):
    settings = {"steps_each": 15, "times": 6}
    seen = ours({"name": "replay+fpf", "buffer_size": 40, "buffer": "experience_balanced", "insert": "experience_end", "fpf": settings})
    stream = seen.run.stream
    data = functools.reduce(lambda a, b: a.concat(b), [e.dataset for e in benchmark_of(avalanche, seen.run).train_stream])
    place = {i: k for k, i in enumerate(np.concatenate([stream.ids(e.segments) for e in stream.experiences]).tolist())}

    class Theirs:
        """A storage policy that holds, after every experience, what our memory held."""

        max_size, buffer, done = 40, data.subset([]), 0

        def border(self):
            self.buffer = data.subset([place[i] for i in seen.memories[self.done].tolist()])
            self.done += 1

    found = theirs(avalanche, seen, clsuite.avalanche_plugin("fpf", seed=3, **settings), memory=Theirs())
    assert apart(seen.steps, found.steps) < 1e-10 and len(seen.steps) >= 90
    assert apart(seen.deployed, found.deployed) < 1e-10


def test_training_on_the_whole_stream_in_one_call_is_the_same(avalanche):
    seen = ours({"name": "naive+fpf", "fpf": {"buffer_size": 30, "steps_each": 20}})
    found = theirs(avalanche, seen, clsuite.avalanche_plugin("fpf", seed=3, buffer_size=30, steps_each=20), whole_stream=True)
    assert apart([seen.end], [found.end]) < 1e-10


# -- in scripts as they are ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(avalanche):
    """Digits in five experiences, float32, as Avalanche's split benchmarks are made."""
    run, _ = begin("naive", precision="float32")
    stream = run.stream

    def samples(split, ids):
        pixels, targets = stream.gather(torch.from_numpy(ids), split)
        return Samples(run.workload.inputs(pixels), targets)

    return avalanche.nc_benchmark(
        samples("train", np.concatenate([stream.ids(e.segments) for e in stream.experiences])),
        samples("test", np.concatenate([stream.evaluation_ids(j) for j in range(len(stream.evaluation_sets))])),
        n_experiences=EXPERIENCES,
        task_labels=False,
        seed=0,
    )


def trained(avalanche, stream, plugin, kind="Replay", model=None, experiences=None, **more):
    torch.manual_seed(0)
    model = model or Classifier()
    if kind == "Replay":
        more.setdefault("mem_size", 50)
    more.setdefault("batch", 30)
    strategy = made(avalanche, getattr(avalanche.supervised, kind), model, [plugin], **more)
    for experience in list(stream.train_stream)[:experiences]:
        strategy.train(experience)
    return strategy


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
    assert torch.equal(weights(trained(avalanche, digits, looking).model), weights(plain.model))
    assert set(looking.report()["sensitivity"]["ratio"]) == {"first_layer", "norm", "head"}


def test_evaluating_twice_deploys_the_same_model_and_leaves_training_alone(avalanche, digits):
    plugin = clsuite.avalanche_plugin("slow_learner+alignment", slow_learner={"backbone_rate": 0.01}, alignment={"epochs": 1})
    strategy = trained(avalanche, digits, plugin, "Naive", experiences=2)
    before, random_state, seen = weights(strategy.model), torch.get_rng_state(), []
    for _ in range(2):
        plugin.before_eval(strategy)
        seen.append(weights(strategy.model))
        plugin.after_eval(strategy)
        assert torch.equal(weights(strategy.model), before)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_evaluations_in_the_middle_of_an_experience_see_the_model_as_it_is(avalanche, digits):
    seen = []

    class Looks:
        def before_eval(self, strategy, **_):
            seen.append(weights(strategy.model))

        def after_training_epoch(self, strategy, **_):
            seen.append("epoch")
            seen.append(weights(strategy.model))

    strategy = made(
        avalanche,
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
    assert torch.equal(trained_2, looked_2) and torch.equal(trained_2, weights(strategy.model))
    assert strategy.plugins[0].report()["fpf"]["fine_tunings"] == len(final) == 0
    strategy.eval(digits.test_stream)
    assert strategy.plugins[0].report()["fpf"]["fine_tunings"] == 1 and not torch.equal(seen[-1], trained_2)


def test_the_end_comes_before_the_evaluation_that_closes_the_last_experience(avalanche, digits):
    plugin = clsuite.avalanche_plugin("fpf", steps_each=5, experiences=2)
    seen = []

    class Looks:
        def before_eval(self, strategy, **_):
            seen.append(plugin.report()["fpf"]["fine_tunings"] if plugin.run else None)

    strategy = made(avalanche, avalanche.supervised.Replay, Classifier(), [plugin, Looks()], batch=30, mem_size=50, eval_every=0)
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
    before = weights(second.model)
    torch.manual_seed(1)
    first.train(digits.train_stream[2])
    assert torch.equal(weights(second.model), before)
    torch.manual_seed(1)
    second.train(digits.train_stream[2])
    assert torch.equal(weights(first.model), weights(second.model))
    assert second.plugins[0].report() == first.plugins[0].report() and first.plugins[0].report()["fpf"]["fine_tunings"] >= 2


@pytest.mark.parametrize("kind, plugin", [("Replay", {"name": "fpf", "times": 5, "steps_each": 3}), ("Naive", {"name": "refresh", "fisher_samples": 10})])
@pytest.mark.filterwarnings("error::clsuite.errors.ResultWarning")
def test_our_recurrence_streams_train_with_our_plugins(avalanche, kind, plugin):
    from clsuite.interop.avalanche_streams import to_avalanche

    stream = clsuite.stream("scenario=power_law", "scenario.dataset=digits", "scenario.experiences=4", "scenario.return_samples=40")
    benchmark = to_avalanche(stream)
    assert any(len(e.tasks) > 1 for e in stream.experiences)  # tasks come back within an experience
    made = clsuite.avalanche_plugin(**plugin)
    strategy = trained(avalanche, benchmark, made, kind, model=avalanche.SimpleMLP(input_size=64, hidden_size=20, drop_rate=0.0))
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
    growing = nn.Sequential(nn.Flatten(), avalanche.Incremental(64, initial_out_features=2))
    return {
        "no head": (fpf(), {"model": Cosine()}, "Cosine has no torch.nn.Linear"),
        "wrong head": (fpf(), {"model": TwoLinear()}, r"head = 'unrelated' gives \[1, 3\], but the model gives \[1, 10\]"),
        "unknown head": (fpf(head="score"), {}, r"unknown linear layer of Classifier: head = 'score'; did you mean 'scores'\?"),
        "heads": (fpf(), {"model": avalanche.MultiTask(64)}, "MTSimpleMLP has a head for every task"),
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
    strategy = made(avalanche, avalanche.supervised.Naive, Classifier(), [plugin, clsuite.avalanche_plugin("alignment")])
    with pytest.raises(UsageError, match=r"join them, avalanche_plugin\('slow_learner\+alignment', ...\)"):
        strategy.train(digits.train_stream[0])


# -- what docs/coming-from-avalanche.md shows ------------------------------------------------------------------------

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "coming-from-avalanche.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT, flags=re.S | re.M)


def executed(block):
    names = {}
    exec(compile(block, "docs/coming-from-avalanche.md", "exec"), names)
    return names


def test_the_line_in_the_document_trains(avalanche, digits):
    model = Classifier()
    strategy = executed(BLOCKS[0])["make"](model, torch.optim.SGD(model.parameters(), lr=0.05), nn.CrossEntropyLoss())
    for experience in list(digits.train_stream)[:2]:
        strategy.train(experience)
    assert strategy.plugins[0].run.memories["replay"].capacity == 500


def test_the_plugins_in_the_document_exist():
    executed("import clsuite\n" + BLOCKS[1])
    named = DOCUMENT.split("has room in an Avalanche strategy a plugin: ")[1].split("; several joined")[0]
    assert {clsuite.avalanche_plugin(name).parts[0].name for name in re.findall(r"`(\w+)`", named)} >= {
        "fpf",
        "refresh",
        "slow_learner",
        "alignment",
        "sensitivity",
    }


def test_the_stream_in_the_document_is_a_benchmark(avalanche):
    names = executed(BLOCKS[2])
    assert [len(e.dataset) for e in names["benchmark"].train_stream] == [len(e) for e in names["stream"].experiences]
    plain = clsuite.to_avalanche(names["stream"], task_labels=False)
    assert {tuple(e.task_labels) for e in plain.train_stream} == {(0,)}


def test_the_script_in_the_document_imports_what_there_is_and_its_file_is_an_experiment(avalanche, tmp_path):
    script = BLOCKS[3]
    executed(script[: script.index("for learning_rate")])
    compile(script, "script", "exec")
    (tmp_path / "split_mnist.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, flags=re.S | re.M)[0])
    experiment = read(tmp_path / "split_mnist.yaml")
    assert [d.path for d in experiment.spaces["replay"].dimensions] == ["training.learning_rate"] and len(experiment.seeds) == 3


def test_the_same_method_in_both_learns(avalanche, digits):
    theirs_ = executed(BLOCKS[4])["WeightedReplay"](mem_size=50, weight=2.0)
    plain, weighted = (trained(avalanche, digits, p, "Naive", experiences=3) for p in (SimpleNamespace(), theirs_))
    first = digits.test_stream[0]
    assert not torch.equal(weights(plain.model), weights(weighted.model)) and len(theirs_.memory.buffer) == 50
    assert accuracy(weighted.model, first) > accuracy(plain.model, first)  # the first experience is remembered better
    template = templates.STRATEGY.replace("CLASS", "WeightedReplay").replace("NAME", "weighted_replay")
    assert BLOCKS[5].strip() in template


@torch.inference_mode()
def accuracy(model, experience):
    model.eval()
    x, y = fetch(experience.dataset.eval(), range(len(experience.dataset)), torch.device("cpu"))
    return (model(x).argmax(1) == y).double().mean().item()
