"""What tests against Avalanche share: runs of ours, the same streams as its benchmarks, and its strategies on batches that ours recorded."""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace

import numpy as np
import torch

from clsuite.experiment.cell import make_run
from clsuite.experiment.spec import resolve
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop


def parts() -> SimpleNamespace:
    """The parts of Avalanche that are used in tests."""
    from avalanche import models
    from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark, ni_benchmark, utils
    from avalanche.evaluation import metrics
    from avalanche.training import losses, plugins, storage_policy, supervised
    from avalanche.training.plugins import bic, mir

    return SimpleNamespace(
        benchmark_from_datasets=benchmark_from_datasets,
        nc_benchmark=nc_benchmark,
        ni_benchmark=ni_benchmark,
        utils=utils,
        models=models,
        metrics=metrics,
        losses=losses,
        policies=storage_policy,
        plugins=plugins,
        supervised=supervised,
        bic=bic,
        mir=mir,
    )


# -- ours -------------------------------------------------------------------------------------------------------


def begin(scenario, strategy, seed=0, hidden=None, **training):
    """A run of ours that has not begun, and its loop; as Avalanche 0.6 it keeps momentum at a border."""
    raw = {
        "scenario": scenario,
        "strategy": strategy,
        "training": {"border_optimizer": "keep", **training},
        "device": "cpu",
        "seed": seed,
    }
    if hidden is not None:
        raw["model"] = {"name": "mlp", "hidden": [hidden]}
    run = make_run(resolve(raw, os.environ.get("CLSUITE_DATA")), torch.device("cpu"))
    return run, Loop(run, Checkpoints(None, "", {}))


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def as_batch(batch):
    """Inputs, targets and task labels, as Avalanche's loaders give them."""
    return [batch.x.clone(), batch.y.clone(), torch.zeros(len(batch), dtype=torch.int64)]


def largest_difference(a, b):
    assert len(a) == len(b)
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


# -- the same streams -------------------------------------------------------------------------------------------


class Samples(torch.utils.data.TensorDataset):
    """Tensors as a data set with the `targets` that Avalanche divides by."""

    @property
    def targets(self):
        return self.tensors[1].tolist()


def samples_of(run, ids, split="train"):
    pixels, targets = run.stream.gather(torch.from_numpy(ids), split)
    return Samples(run.workload.inputs(pixels), targets)


def training_ids(run):
    return np.concatenate([run.stream.ids(e.segments) for e in run.stream.experiences])


def split_benchmark(avalanche, run, ids=None, **settings):
    """The stream as Avalanche's split benchmarks are made, its training samples in the order of `ids`: no task labels, the order of classes that of the run."""
    stream = run.stream
    test = np.concatenate([stream.evaluation_ids(j) for j in range(len(stream.evaluation_sets))])
    if "seed" not in settings:
        settings["fixed_class_order"] = [c for e in stream.experiences for c in e.classes]
    tables = samples_of(run, training_ids(run) if ids is None else ids), samples_of(run, test, "test")
    return avalanche.nc_benchmark(*tables, n_experiences=len(stream), task_labels=False, **settings)


def same_benchmark(avalanche, run):
    """The stream experience by experience, its samples in the same order, without task labels."""
    stream = run.stream

    def dataset(samples):
        return avalanche.utils._make_taskaware_classification_dataset(samples, task_labels=0)

    return avalanche.benchmark_from_datasets(
        train=[dataset(samples_of(run, stream.ids(e.segments))) for e in stream.experiences],
        test=[dataset(samples_of(run, stream.evaluation_ids(j), "test")) for j in range(len(stream.evaluation_sets))],
    )


# -- Avalanche's strategies -------------------------------------------------------------------------------------


def settings_of(run, epochs=None):
    """Avalanche's settings for a run of ours, its initial weights included; `epochs` is 1 where what the strategy is fed holds all of them."""
    training, model = run.training, copy.deepcopy(run.model)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=training.learning_rate, momentum=training.momentum),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": training.batch_size,
        "train_epochs": epochs or training.epochs,
        "eval_mb_size": 1000,
        "evaluator": None,
    }


def fed(kind, batches, seen, look=weights, prepare=lambda strategy: None):
    """Avalanche's strategy on given batches, by experience, in place of its own; `seen` gets what `look(model)` gives after every step.

    `prepare(strategy)` is called at the beginning of every experience.
    """

    class Fed(kind):
        def _before_training_exp(self, **settings):
            super()._before_training_exp(**settings)
            self.dataloader = batches[self.experience.current_experience]
            prepare(self)

        def _after_update(self, **settings):
            super()._after_update(**settings)
            seen.append(look(self.model))

    return Fed
