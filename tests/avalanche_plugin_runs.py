"""What tests of our plugins in Avalanche share: a network of somebody else's, digits as a benchmark, and strategies that train with a plugin."""

from __future__ import annotations

import torch
from torch import nn

from .avalanche_runs import begin, split_benchmark

EXPERIENCES, EPOCHS, BATCH = 5, 1, 16


class Classifier(nn.Module):
    """A network of somebody else's: batch normalisation, and a head under a name of its own."""

    def __init__(self, inputs=64, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.scores = nn.Linear(24, classes)

    def forward(self, x):
        return self.scores(self.body(x))


def digits_run(strategy, **training):
    """A run of ours over digits, in float64, that fills its memory when an experience ends, as Avalanche does; and its loop."""
    scenario = {"name": "class_incremental", "dataset": "digits", "experiences": EXPERIENCES}
    settings = {"precision": "float64", "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05, **training}
    run, loop = begin(scenario, strategy, seed=3, hidden=20, **settings)
    run.insert = "experience_end"
    return run, loop


def every_number(model):
    """Weights, and running statistics."""
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def made(kind, model, plugins, momentum=0.0, learning_rate=0.05, batch=BATCH, **more):
    """An Avalanche strategy with the settings of `digits_run`."""
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


def split_digits(avalanche):
    """Digits in five experiences, float32, as Avalanche's split benchmarks are made."""
    return split_benchmark(avalanche, digits_run("naive", precision="float32")[0], seed=0)


def trained(avalanche, stream, plugin, kind="Replay", model=None, experiences=None, **more):
    """One of Avalanche's strategies with a plugin, after it trained on a stream, or on its first experiences."""
    torch.manual_seed(0)
    model = model or Classifier()
    if kind == "Replay":
        more.setdefault("mem_size", 50)
    more.setdefault("batch", 30)
    strategy = made(getattr(avalanche.supervised, kind), model, [plugin], **more)
    for experience in list(stream.train_stream)[:experiences]:
        strategy.train(experience)
    return strategy
