"""ER-ACE, MIR, iCaRL, BiC and SLDA against Avalanche's: the same streams give the same accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from .avalanche_classics import Features, begun, mend, shuffled_benchmark
from .avalanche_runs import settings_of

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers")]


@pytest.fixture
def mended(avalanche, monkeypatch):
    mend(avalanche, monkeypatch)


STREAM = {"experiences": 5, "hidden": 50, "precision": "float32"}
METHODS = {
    "er_ace": (
        {"name": "er_ace", "buffer_size": 480, "buffer": "class_balanced", "combine": "mean", "start": "second_experience"},
        {"batch_size": 144, "epochs": 60, "learning_rate": 0.05},
    ),
    "mir": (
        {"name": "mir", "buffer_size": 288, "buffer": "class_balanced", "insert": "experience_end", "scored_per_replayed": 3},
        {"batch_size": 96, "epochs": 40, "learning_rate": 0.05},
    ),
    "icarl": ({"name": "icarl", "buffer_size": 300, "loss_form": "code", "mirrored_means": True}, {"batch_size": 48, "epochs": 10, "learning_rate": 1.0}),
    "bic": (
        {
            "name": "bic",
            "buffer_size": 160,
            "validation": 0.4,
            "exemplars": "random",
            "replay_batch": 96,
            "bias_decays": [0.25, 0.5, 0.75],
            "bias_epochs": 60,
        },
        {"batch_size": 96, "epochs": 40, "learning_rate": 0.2},
    ),
    "slda": ({"name": "slda", "encoder": "random", "covariance": "streaming"}, {"batch_size": 48}),
}
"""Ours with Avalanche's choices; rates, epochs and sizes such that two runs of ours that differ in batch order and draws alone differ by less than
half a point (standard deviation). Memories hold a whole number of draws: where a pass over its memory ends, Avalanche replays a short batch."""


def theirs_of(avalanche, run, *plugins):
    """Avalanche's own strategy with this run's settings and initial weights, and what it predicts with."""
    settings, name, supervised = settings_of(run), run.base.name, avalanche.supervised
    model = settings["model"]
    size, batch = METHODS[name][0].get("buffer_size"), run.training.batch_size
    if name == "er_ace":
        return supervised.ER_ACE(mem_size=size, batch_size_mem=batch, **settings), model
    if name == "mir":
        return supervised.Naive(plugins=list(plugins), **settings), model
    if name == "icarl":
        del settings["model"], settings["criterion"]
        strategy = supervised.ICaRL(
            feature_extractor=Features(model), classifier=model.head, memory_size=size, buffer_transform=None, fixed_memory=True, **settings
        )
        return strategy, strategy.model
    if name == "bic":
        exemplars = size - run.base.room  # theirs are beside the samples held out
        policy = avalanche.policies.ClassBalancedBuffer(exemplars)
        plugin = avalanche.bic.BiCPlugin(exemplars, storage_policy=policy, val_percentage=run.base.room / exemplars, stage_2_epochs=60)
        return supervised.Naive(plugins=[plugin], **settings), lambda x: plugin.bias_forward(model(x))
    strategy = supervised.StreamingLDA(
        slda_model=Features(model), criterion=torch.nn.CrossEntropyLoss(), input_size=50, num_classes=10, train_mb_size=batch, evaluator=None
    )
    return strategy, lambda x: strategy.predict(model.features(x))


def fill_at_the_beginning(loop):
    """The memory is offered the samples of an experience before it is trained on, as Avalanche's ER-ACE has it.

    Ours fills it as samples come by, which alone made its final accuracy 0.2 to 1.0 points worse in three settings of this kind (12 seeds each).
    """
    run, begin_experience = loop.run, loop._begin
    run.insert = "never"

    def begun():
        begin_experience()
        loop._fill_memories_from(run.plan_of(run.experience))

    loop._begin = begun


@pytest.mark.parametrize("name", METHODS)
def test_accuracy_over_the_stream_agrees_within_one_point(avalanche, mended, name):
    """Average incremental accuracy: the mean, over experiences, of the accuracy on all test samples of classes seen."""

    class AllOfThePast(avalanche.mir.MIRPlugin):
        """Their MIR with candidates of every class of earlier experiences."""

        def before_training_exp(self, strategy, **settings):
            buffer = self.storage_policy.buffer
            loader = torch.utils.data.DataLoader(buffer, batch_size=self.subsample, shuffle=True) if len(buffer) else None
            self.replay_loader = loader and avalanche.mir.cycle(loader)

    differences = []
    for seed in range(5):
        run, loop = begun(METHODS[name][0], seed=seed, **STREAM, **METHODS[name][1])
        strategy, predict = theirs_of(avalanche, run, AllOfThePast(96, 288, 288))
        if name == "er_ace":
            fill_at_the_beginning(loop)
        loop.execute()
        torch.manual_seed(seed)  # Avalanche shuffles and fills its memories from the global generator
        benchmark, theirs = shuffled_benchmark(avalanche, run), []
        for i, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            theirs.append(accuracy(strategy, predict, benchmark, sorted({c for e in run.stream.experiences[: i + 1] for c in e.classes}), i))
        ours = loop.measurements.metrics(1.0)["average_incremental_accuracy"]
        assert min(ours, np.mean(theirs)) > 0.8  # the last experience alone would give 0.46
        differences.append(ours - np.mean(theirs))
    mean, half = np.mean(differences), stats.t.ppf(0.95, 4) * stats.sem(differences)
    assert mean - half > -0.01 and mean + half < 0.01, f"90 % interval {mean - half:+.4f} .. {mean + half:+.4f} of {np.round(differences, 4)}"


@torch.no_grad()
def accuracy(strategy, predict, benchmark, classes, last):
    """Over all test samples up to experience `last`, among the classes seen (the nearest mean of a class never seen is the origin)."""
    strategy.model.eval()
    data = [next(iter(torch.utils.data.DataLoader(e.dataset.eval(), batch_size=1000))) for e in benchmark.test_stream[: last + 1]]
    x, y = torch.cat([x for x, *_ in data]), torch.cat([y for _, y, *_ in data])
    found = torch.tensor(classes)[predict(x)[:, classes].argmax(1)]
    strategy.model.train()
    return (found == y).double().mean().item()


def test_their_mir_does_not_replay_the_experience_before(avalanche):
    """It leaves out the classes of the last batch at a border, where they are new: the last but one experience is forgotten at the end."""
    settings, training = METHODS["mir"]
    run, loop = begun(settings, **STREAM, **{**training, "epochs": 20})
    strategy, predict = theirs_of(avalanche, run, avalanche.mir.MIRPlugin(96, 288, 288))
    benchmark = shuffled_benchmark(avalanche, run)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    loop.execute()
    forgotten = benchmark.test_stream[3].dataset.eval()
    x, y, _ = next(iter(torch.utils.data.DataLoader(forgotten, batch_size=1000)))
    with torch.no_grad():
        assert (predict(x).argmax(1) == y).double().mean() < 0.3 < 0.6 < loop.measurements.R[4, 3]
