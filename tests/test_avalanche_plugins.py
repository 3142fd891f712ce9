"""Our modifiers inside Avalanche's loops: the same batches and the same seed give the weights that our own loop gives.

Our engine is the reference here, and Avalanche's strategies run in their own loops with its recorded batches in place of their loaders.
"""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pytest

import clsuite

from .avalanche_plugin_runs import EXPERIENCES, digits_run, every_number, made
from .avalanche_runs import as_batch, fed, largest_difference, same_benchmark

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


def ours(strategy, **training):
    """A whole run of ours: its batches by experience, the weights after every step, and as deployed after every experience."""
    run, loop = digits_run(strategy, **training)
    seen = SimpleNamespace(run=run, batches={}, steps=[], deployed=[], memories=[], start=copy.deepcopy(run.model))
    loss, train_on, row = run.loss, loop._train_on, loop.measurements.row
    state = {"record": False}

    def recorded(batch):
        if state["record"]:
            seen.batches.setdefault(run.experience, []).append(as_batch(batch))
        state["record"] = False
        return loss(batch)

    def step(batch, first_epoch):
        state["record"] = True  # the first loss of a step is that of its batch
        train_on(batch, first_epoch)
        seen.steps.append(every_number(run.model))

    def deployed(i):
        seen.deployed.append(every_number(run.model))
        seen.memories.append(run.memories["replay"].ids.copy() if run.memories else None)
        return row(i)

    run.loss, loop._train_on, loop.measurements.row = recorded, step, deployed
    loop.execute()
    seen.end = every_number(run.model)
    return seen


def theirs(avalanche, seen, plugin, momentum=0.0, memory=None, whole_stream=False):
    """The plugin in Avalanche's `Naive` on the batches of our run; what `ours` gives."""
    found = SimpleNamespace(steps=[], deployed=[])

    class Fed(fed(avalanche.supervised.Naive, seen.batches, found.steps, look=every_number)):
        def _before_eval(self, **settings):
            super()._before_eval(**settings)
            found.deployed.append(every_number(self.model))

    model = copy.deepcopy(seen.start)
    strategy = found.strategy = made(Fed, model, [plugin], momentum)
    if memory is not None:
        strategy.storage_policy = memory
    stream = same_benchmark(avalanche, seen.run)
    for experience in [stream.train_stream] if whole_stream else stream.train_stream:
        strategy.train(experience)
        if memory is not None:
            memory.border()
        strategy.eval(stream.test_stream)
    found.end = every_number(model)
    return found


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
    assert largest_difference(seen.steps, found.steps) < 1e-10
    assert largest_difference(seen.deployed, found.deployed) < 1e-10
    assert largest_difference([seen.end], [found.end]) < 1e-10
    reports = plugin.report()
    assert all(close(reports.get(part.name, {}), part.report()) for part in seen.run.parts[1:])
    # the strategy's own steps are not charged, those of the part are
    assert reports["cost"]["gradient_steps"] == seen.run.costs["training"].gradient_steps - len(seen.steps)
    assert reports["cost"]["deployment"] == seen.run.cost_report()["deployment"]
    plain = theirs(avalanche, seen, SimpleNamespace(), momentum)
    differs = largest_difference(seen.steps, plain.steps), largest_difference(seen.deployed, plain.deployed)
    assert max(differs) > 1e-4 or rule == "sensitivity"  # the rule does something, so equality says something


def test_fine_tuning_draws_from_the_memory_the_strategy_has(avalanche):
    settings = {"steps_each": 15, "times": 6}
    seen = ours({"name": "replay+fpf", "buffer_size": 40, "buffer": "experience_balanced", "insert": "experience_end", "fpf": settings})
    stream = seen.run.stream
    data = functools.reduce(lambda a, b: a.concat(b), [e.dataset for e in same_benchmark(avalanche, seen.run).train_stream])
    place = {i: k for k, i in enumerate(np.concatenate([stream.ids(e.segments) for e in stream.experiences]).tolist())}

    class Theirs:
        """A storage policy that holds, after every experience, what our memory held."""

        max_size, buffer, done = 40, data.subset([]), 0

        def border(self):
            self.buffer = data.subset([place[i] for i in seen.memories[self.done].tolist()])
            self.done += 1

    found = theirs(avalanche, seen, clsuite.avalanche_plugin("fpf", seed=3, **settings), memory=Theirs())
    assert largest_difference(seen.steps, found.steps) < 1e-10 and len(seen.steps) >= 90
    assert largest_difference(seen.deployed, found.deployed) < 1e-10


def test_training_on_the_whole_stream_in_one_call_is_the_same(avalanche):
    seen = ours({"name": "naive+fpf", "fpf": {"buffer_size": 30, "steps_each": 20}})
    found = theirs(avalanche, seen, clsuite.avalanche_plugin("fpf", seed=3, buffer_size=30, steps_each=20), whole_stream=True)
    assert largest_difference([seen.end], [found.end]) < 1e-10
