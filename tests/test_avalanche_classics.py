"""ER-ACE, MIR, iCaRL, BiC and SLDA against Avalanche's: the same batches give the same weights.

Avalanche's strategies run with their own losses, virtual steps, exemplars, means and corrections, on the samples that ours drew. It has no WA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clsuite.memory import Memory

from .avalanche_classics import Features, begun, mend, shuffled_benchmark
from .avalanche_runs import as_batch, fed, largest_difference, samples_of, settings_of, weights

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


class Double:
    """torch, where what is called float has 64 bits."""

    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def double(avalanche, monkeypatch):
    """What Avalanche makes without a type, or as `torch.float`, is float64."""
    monkeypatch.setattr(avalanche.losses, "torch", Double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def mended(avalanche, monkeypatch):
    mend(avalanche, monkeypatch)


@dataclass
class Step:
    """What a step of ours was made of: its experience, its current samples, and every draw from the memory."""

    experience: int
    current: tuple
    draws: list = field(default_factory=list)


def executed(run, loop, monkeypatch):
    """Run to the end; its steps, and its weights before and after each."""
    steps, ours = [], [weights(run.model)]
    step, at = type(run.base).training_step, Memory.at

    def training_step(self, batch):
        steps.append(Step(run.experience, tuple(as_batch(batch))))
        return step(self, batch)

    def drawn(self, *arguments):
        batch = at(self, *arguments)
        steps[-1].draws.append(tuple(as_batch(batch)))
        return batch

    monkeypatch.setattr(type(run.base), "training_step", training_step)
    monkeypatch.setattr(Memory, "at", drawn)
    loop._on_step = lambda run: ours.append(weights(run.model))
    loop.execute()
    return steps, ours


def joined(step):
    return [torch.cat(parts) for parts in zip(step.current, *step.draws, strict=True)]


def by_experience(steps, batch=lambda step: list(step.current)):
    return {i: [batch(s) for s in steps if s.experience == i] for i in {s.experience for s in steps}}


def compare(ours, theirs, tolerance=1e-10):
    assert len(ours) == len(theirs) >= 51
    assert min((a - b).abs().max() for a, b in pairwise(ours)) > 1e-7  # every step moved
    assert largest_difference(ours, theirs) < tolerance


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_er_ace_makes_the_same_weights(avalanche, momentum, monkeypatch):
    run, loop = begun({"name": "er_ace", "buffer_size": 40, "combine": "mean", "start": "second_experience"}, momentum=momentum)
    settings, theirs = settings_of(run, epochs=1), [weights(run.model)]
    steps, ours = executed(run, loop, monkeypatch)
    assert {len(s.draws) for s in steps if s.experience == 0} == {0} and {len(s.draws) for s in steps if s.experience == 1} == {1}

    def replay(strategy):
        if strategy.experience.current_experience > 0:
            strategy.replay_loader = iter([s.draws[0] for s in steps if s.draws])

    strategy = fed(avalanche.supervised.ER_ACE, by_experience(steps), theirs, prepare=replay)(**settings)
    for experience in shuffled_benchmark(avalanche, run).train_stream:
        strategy.train(experience)
    compare(ours, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_mir_chooses_the_same_samples_and_makes_the_same_weights(avalanche, momentum, monkeypatch):
    run, loop = begun({"name": "mir", "buffer_size": 100, "replay_batch": 12, "scored_per_replayed": 4}, momentum=momentum)
    settings, theirs = settings_of(run, epochs=1), [weights(run.model)]
    steps, ours = executed(run, loop, monkeypatch)
    assert {tuple(len(x) for x, *_ in s.draws) for s in steps if s.experience == 1 and s.draws} == {(48, 12)}  # candidates, then those chosen

    class Plugin(avalanche.mir.MIRPlugin):
        """Their plugin on our candidates."""

        def before_training_exp(self, strategy, **settings):
            self.replay_loader = iter([s.draws[0] for s in steps if s.draws]) if strategy.experience.current_experience > 0 else None

    strategy = fed(avalanche.supervised.Naive, by_experience(steps), theirs)(plugins=[Plugin(12, 100, 48)], **settings)
    for experience in shuffled_benchmark(avalanche, run).train_stream:
        strategy.train(experience)
    compare(ours, theirs)


def test_icarl_makes_the_same_weights_exemplars_and_predictions(avalanche, double, monkeypatch):
    run, loop = begun({"name": "icarl", "buffer_size": 60, "loss_form": "code", "mirrored_means": True}, learning_rate=1.0)
    settings, theirs = settings_of(run, epochs=1), [weights(run.model)]
    network = settings.pop("model")
    del settings["criterion"]
    stream, kept = run.stream, []
    x = run.workload.inputs(stream.gather(torch.from_numpy(stream.evaluation_ids(0)), "test")[0])
    loop._report = lambda record: record["event"] == "experience" and kept.append((exemplars(run), run.base.predict(x).detach()))
    steps, ours = executed(run, loop, monkeypatch)

    kind = fed(avalanche.supervised.ICaRL, by_experience(steps, joined), theirs)
    strategy = kind(feature_extractor=Features(network), classifier=network.head, memory_size=60, buffer_transform=None, fixed_memory=True, **settings)
    plugin = strategy.plugins[0]
    for i, experience in enumerate(shuffled_benchmark(avalanche, run).train_stream):
        strategy.train(experience)
        mine, scores = kept[i]
        chosen = {
            y[0]: torch.stack([row for _, row in sorted(zip(order.tolist(), x, strict=True), key=lambda pair: pair[0])])
            for x, y, order in zip(plugin.x_memory, plugin.y_memory, plugin.order, strict=True)
        }
        assert mine.keys() == chosen.keys()
        for c, pixels in mine.items():
            assert torch.equal(pixels, chosen[c].flatten(1)), c
        strategy.model.eval()
        known = sorted(mine)
        with torch.no_grad():
            torch.testing.assert_close(scores[:, known], strategy.model(x)[:, known], rtol=0, atol=1e-9)
    compare(ours, theirs)


def exemplars(run):
    """Inputs of exemplars by class, in the order in which they were chosen."""
    memory = run.memories["replay"]
    found = {}
    for c in np.unique(memory.labels).tolist():
        slots = np.flatnonzero(memory.labels == c)
        slots = slots[np.argsort(-memory.priority[slots])]
        found[c] = run.workload.inputs(run.stream.gather(torch.from_numpy(memory.ids[slots]))[0]).flatten(1)
    return found


def test_bic_makes_the_same_weights_and_the_same_two_parameters(avalanche, double, mended, monkeypatch):
    # 30 samples held out at most, one batch of the second stage: theirs comes in an order of its own
    bic = {"name": "bic", "buffer_size": 60, "validation": 0.5, "bias_decays": [0.25, 0.5, 0.75], "replay_batch": 20}
    run, loop = begun(bic, experiences=5, batch_size=32, epochs=2, learning_rate=0.1)
    settings, theirs, held = settings_of(run, epochs=1), [weights(run.model)], []
    loop._report = lambda record: record["event"] == "experience" and held.append(dict(run.base.held))
    steps, ours = executed(run, loop, monkeypatch)

    class Plugin(avalanche.bic.BiCPlugin):
        """Their plugin on our samples held out."""

        def before_train_dataset_adaptation(self, strategy, **settings):
            i = strategy.clock.train_exp_counter
            self.class_to_tasks |= dict.fromkeys(run.stream.experiences[i].classes, i)
            self.val_buffer = {
                c: SimpleNamespace(buffer=avalanche.utils.as_taskaware_classification_dataset(samples_of(run, ids))) for c, ids in held[i].items()
            }

    plugin = Plugin(mem_size=60, stage_2_epochs=200)
    strategy = fed(avalanche.supervised.Naive, by_experience(steps, joined), theirs)(plugins=[plugin], **settings)
    pairs = []
    for experience in shuffled_benchmark(avalanche, run).train_stream:
        strategy.train(experience)
        if plugin.bias_layer is not None:
            pairs.append((plugin.bias_layer.alpha.item(), plugin.bias_layer.beta.item()))
    compare(ours, theirs)
    assert len(pairs) == 4 and max(abs(alpha - 1) for alpha, _ in pairs) > 0.1
    np.testing.assert_allclose(run.base.pairs, pairs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("encoder", ["first_experience", "random"])
def test_slda_has_the_same_means_covariance_and_predictions(avalanche, double, encoder, monkeypatch):
    run, loop = begun({"name": "slda", "encoder": encoder, "covariance": "streaming"}, experiences=5, epochs=5)
    loop.execute()
    stream, tables = run.stream, {}
    for e in run.stream.experiences:
        ids = torch.from_numpy(stream.ids(e.segments))
        pixels, y = stream.gather(ids)
        tables[e.index] = [[run.workload.inputs(pixels), y, torch.zeros_like(y)]]
    kind = fed(avalanche.supervised.StreamingLDA, tables, [])
    strategy = kind(slda_model=Features(run.model), criterion=torch.nn.CrossEntropyLoss(), input_size=20, num_classes=10, evaluator=None)
    for experience in shuffled_benchmark(avalanche, run).train_stream:
        strategy.train(experience)
    assert strategy.num_updates == run.base.scattered == stream.source.size("train")
    torch.testing.assert_close(run.base.means, strategy.muK, rtol=0, atol=1e-11)
    torch.testing.assert_close(run.base.scatter / run.base.scattered, strategy.Sigma, rtol=0, atol=1e-11)
    x = run.workload.inputs(stream.gather(torch.arange(stream.source.size("test")), "test")[0])
    with torch.no_grad():
        theirs = strategy.predict(run.model.features(x))
        torch.testing.assert_close(run.base.predict(x), theirs, rtol=1e-8, atol=1e-8)
    assert len(theirs.argmax(1).unique()) == 10


def test_their_bic_distils_over_the_samples_of_the_batch(avalanche):
    """Which makes weights depend on what else is in a batch; the other tests of BiC put it right."""
    new, old = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    theirs = avalanche.bic.BiCPlugin().cross_entropy(new, old)
    log, over_batch, over_classes = (new / 2).log_softmax(1), (old / 2).softmax(0), (old / 2).softmax(1)
    torch.testing.assert_close(theirs, -(over_batch * log).sum(1).mean())
    assert abs(theirs + (over_classes * log).sum(1).mean()) > 0.1
