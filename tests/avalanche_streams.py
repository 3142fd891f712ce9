"""What tests of streams to Avalanche and back share: streams of every kind, what is in them, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import clsuite
from clsuite.errors import UsageError

FEW = {"dataset": "digits", "samples_per_class": 12}
STREAMS = {
    "classes": {"name": "class_incremental", "experiences": 5},
    "a larger first experience": {"name": "class_incremental", "experiences": 4, "first_classes": 4},
    "permutations": {"name": "domain_incremental", "experiences": 3},
    "rotations": {"name": "domain_incremental", "experiences": 3, "kind": "rotation", "identity_first": False},
    "blurry": {"name": "blurry", "experiences": 5, "share": 0.3},
    "gradual": {"name": "blurry", "experiences": 5, "gradual": True},
    "power law": {"name": "power_law", "experiences": 5, "return_samples": 30},
    "power law of rotations": {"name": "power_law", "experiences": 4, "return_samples": 30, "kind": "rotation"},
    "power law of classes": {"name": "power_law", "experiences": 8, "tasks": 4, "kind": "classes", "return_samples": 10},
    "more of the new task": {"name": "power_law", "experiences": 4, "control": "none_matched", "return_samples": 30},
    "uniform returns": {"name": "power_law", "experiences": 5, "control": "uniform", "return_samples": 30},
    "a budget of returns": {"name": "power_law", "experiences": 5, "reading": "budget", "return_samples": 30},
    "sparse": {"name": "scole", "experiences": 12},
}
WITHOUT_TASKS = {"gradual", "sparse"}


def stream_of(which):
    return clsuite.stream(scenario={**FEW, **STREAMS[which]})


def imported_stream(benchmark, **values):
    return clsuite.stream(scenario={"name": "avalanche", "benchmark": benchmark}, **values)


def refusal(make, *words):
    with pytest.raises(UsageError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 900
    assert all(word in message for word in words), message
    return message


def content_of(stream, split, labels_of=None):
    """By experience or set: pixels and labels of every sample, in order, and the task labels where there are segments."""
    labels_of = stream.class_labels if labels_of is None else np.array(labels_of)[stream.class_labels]
    stream.load("cpu")
    if split == "train":
        rows = [(stream.ids(e.segments), [s.task for s in e.segments for _ in range(len(s))]) for e in stream.experiences]
    else:
        rows = [(stream.evaluation_ids(j), []) for j in range(len(stream.evaluation_sets))]
    found = []
    for ids, tasks in rows:
        images, labels = stream.gather(torch.from_numpy(np.asarray(ids)), split)
        found.append((images.numpy(), labels_of[labels.numpy()].tolist(), tasks))
    return found


def halves_of_digits(count=160):
    """The first digits as Avalanche's users hold data: uint8 tensors with labels."""
    source = clsuite.stream("scenario.experiences=1").source
    return [torch.utils.data.TensorDataset(torch.tensor(source.images(s)[:count]), torch.tensor(source.labels(s)[:count])) for s in ("train", "test")]
