"""Streams to Avalanche: its own code trains on what we export, and every field is the stream's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import clsuite
from clsuite.stream import EvaluationSet, Experience, Segment, Stream
from clsuite.transforms import Transforms

from .avalanche_streams import STREAMS, WITHOUT_TASKS, stream_of

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers", "ignore:stream generator")]


def evaluator(avalanche):
    return avalanche.plugins.EvaluationPlugin(avalanche.metrics.accuracy_metrics(experience=True, stream=True), strict_checks=True)


def trained(avalanche, kind, benchmark, hidden=64, model=None, epochs=2, **settings):
    """The accuracy on the whole test stream of one of Avalanche's strategies, after it trained on all experiences."""
    torch.manual_seed(0)
    model = model or avalanche.models.SimpleMLP(num_classes=10, input_size=64, hidden_size=hidden)
    strategy = getattr(avalanche.supervised, kind)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=256,
        evaluator=evaluator(avalanche),
        **settings,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return accuracy_of(strategy, benchmark)


def accuracy_of(strategy, benchmark):
    found = strategy.eval(benchmark.test_stream)
    experiences = [value for name, value in found.items() if name.startswith("Top1_Acc_Exp")]
    assert len(experiences) == len(benchmark.test_stream)
    return next(value for name, value in found.items() if name.startswith("Top1_Acc_Stream"))


def test_their_templates_learn_an_exported_power_law_stream(avalanche):
    stream = clsuite.stream("scenario=power_law", "scenario.experiences=3", "scenario.return_samples=300")
    benchmark = clsuite.to_avalanche(stream)
    assert sum(len(e.dataset) for e in benchmark.train_stream) == sum(len(e) for e in stream.experiences) > 3 * 1438
    naive, replay = (trained(avalanche, kind, benchmark, **settings) for kind, settings in (("Naive", {}), ("Replay", {"mem_size": 300})))
    assert naive > 0.5 and replay > 0.6  # of ten classes


METHODS = {
    "EWC": {"ewc_lambda": 1.0},
    "GEM": {"patterns_per_exp": 20, "memory_strength": 0.5},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "DER": {"mem_size": 60},
    "GDumb": {"mem_size": 60},
    "ER_ACE": {"mem_size": 60, "batch_size_mem": 16},
    "MIR": {"mem_size": 60, "subsample": 30},
}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("which", ["classes", "power law", "sparse"])
def test_any_of_their_methods_trains_on_any_stream(avalanche, kind, which):
    accuracy = trained(avalanche, kind, clsuite.to_avalanche(stream_of(which)), hidden=16, epochs=1, **METHODS[kind])
    assert 0.05 < accuracy <= 1


@pytest.mark.parametrize(("which", "samples", "least"), [("classes", 60, 0.3), ("power law", 12, 0.1)])
def test_icarl_finds_the_order_of_classes_on_the_benchmark(avalanche, which, samples, least):
    torch.manual_seed(0)
    stream = clsuite.stream(scenario={**STREAMS[which], "samples_per_class": samples})
    benchmark = clsuite.to_avalanche(stream)
    features, classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.ReLU()), torch.nn.Linear(48, 10)
    strategy = avalanche.supervised.ICaRL(
        feature_extractor=features,
        classifier=classifier,
        optimizer=torch.optim.SGD([*features.parameters(), *classifier.parameters()], lr=0.1),
        memory_size=200,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=16,
        train_epochs=3,
        eval_mb_size=256,
        evaluator=evaluator(avalanche),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    first = [c for e in stream.experiences for c in sorted(e.classes)]
    assert benchmark.classes_order == list(dict.fromkeys(first)) and sum(benchmark.n_classes_per_exp) == 10
    assert accuracy_of(strategy, benchmark) > least  # permuted images are no classes: there one in ten is much


def test_heads_by_task_follow_the_tasks_of_the_stream(avalanche):
    """With a head for each task, Avalanche's naive strategy does not forget class groups."""
    benchmark = clsuite.to_avalanche(clsuite.stream("scenario.experiences=5", "scenario.samples_per_class=60"))
    model = avalanche.models.MTSimpleMLP(input_size=64, hidden_size=64)
    assert trained(avalanche, "Naive", benchmark, model=model, epochs=4) > 0.8  # one head for all: the last classes alone, 0.2


@pytest.mark.parametrize("which", STREAMS)
def test_every_field_of_an_export_is_the_streams_own(which):
    stream = stream_of(which)
    benchmark = clsuite.to_avalanche(stream)
    stream.load("cpu")
    splits = {
        "train": [[(s.indices, s.transform, s.task) for s in e.segments] for e in stream.experiences],
        "test": [[(e.indices, e.transform, None)] for e in stream.evaluation_sets],
    }
    assert list(benchmark.streams) == ["train", "test"]
    for split, rows in splits.items():
        exported, size = benchmark.streams[split], stream.source.size(split)
        assert len(exported) == len(rows) and exported.name == split
        classes = [sorted(np.unique(np.concatenate([stream.outputs(split)[indices] for indices, _, _ in row])).tolist()) for row in rows]
        for i, row in enumerate(rows):
            experience, ids = exported[i], np.concatenate([transform * size + indices for indices, transform, _ in row])
            labels = stream.outputs(split)[ids % size].tolist()
            if split == "test":
                set_ = stream.evaluation_sets[i]
                new = [s.task for s in stream.experiences[set_.learned_in].segments if s.role == "new"]
                tasks = [0 if which in WITHOUT_TASKS else new[0]] * len(ids)
            else:
                tasks = [0 if which in WITHOUT_TASKS else task for indices, _, task in row for _ in indices]
            data = experience.dataset
            assert len(data) == len(ids)
            assert list(data.targets) == labels and list(data.targets_task_labels) == tasks
            assert experience.current_experience == i and experience.origin_stream is exported and experience.benchmark is benchmark
            assert experience.task_labels == sorted(set(tasks))
            assert experience.classes_in_this_experience == classes[i] == sorted(set(labels))
            assert experience.previous_classes == sorted({c for other in classes[:i] for c in other})
            assert experience.classes_seen_so_far == sorted({c for other in classes[: i + 1] for c in other})
            assert experience.future_classes == sorted({c for other in classes[i + 1 :] for c in other})
            for k in (0, len(ids) // 2, len(ids) - 1):
                image, label, task = data[k]
                own, output = stream.gather(torch.from_numpy(ids[k : k + 1]), split)
                assert image.dtype == torch.float32 and (label, task) == (int(output), tasks[k])
                assert torch.equal(image, own[0] / 255)
    assert benchmark.n_experiences == len(stream) and benchmark.n_classes == len({c for e in stream.experiences for c in e.classes})


def by_hand():
    """Two tasks of three classes, images of two pixels: sample k is (10 k, 10 k + 1), a test sample (100 + k, 0); task 1 exchanges the pixels."""
    x = np.array([[[10 * k, 10 * k + 1]] for k in range(6)], dtype=np.uint8)
    source = clsuite.images(x, np.array([0, 1, 2, 0, 1, 2]), np.array([[[100 + k, 0]] for k in range(3)], dtype=np.uint8), np.arange(3))
    experiences = [
        Experience(0, (Segment(0, np.array([3, 0])), Segment(0, np.array([1]))), (0, 1)),
        Experience(1, (Segment(1, np.array([5, 2]), transform=1), Segment(0, np.array([0]), role="rehearsed")), (2, 0)),
    ]
    sets = [EvaluationSet("a", np.array([0, 1]), 0, (0, 1)), EvaluationSet("b", np.array([2]), 1, (2,), transform=1)]
    maps = Transforms("permutation", np.array([[0, 1], [1, 0]]))
    return Stream("by hand", "evaluation", 0, source, experiences, sets, np.arange(3), maps, has_task_ids=False)


def test_a_small_export_is_what_it_is_by_hand():
    benchmark = clsuite.to_avalanche(by_hand(), transform=lambda image: (image * 255).round().int().flatten().tolist())
    first, second = benchmark.train_stream
    items = [list(first.dataset[k]) for k in range(len(first.dataset))]
    assert items == [[[30, 31], 0, 0], [[0, 1], 0, 0], [[10, 11], 1, 0]]
    assert [list(second.dataset[k]) for k in range(3)] == [[[51, 50], 2, 1], [[21, 20], 2, 1], [[0, 1], 0, 0]]
    assert (first.task_label, second.task_labels) == (0, [0, 1]) and not hasattr(second, "task_label")
    assert (first.previous_classes, first.future_classes, second.previous_classes, second.future_classes) == ([], [0, 2], [0, 1], [])
    assert benchmark.classes_order == [0, 1, 2] and benchmark.n_classes_per_exp == [2, 1] and benchmark.task_labels == [[0], [0, 1]]
    a, b = benchmark.test_stream
    assert [list(a.dataset[k]) for k in range(2)] == [[[100, 0], 0, 0], [[101, 0], 1, 0]] and list(b.dataset[0]) == [[0, 102], 2, 1]
    plain = clsuite.to_avalanche(by_hand(), task_labels=False)
    assert {t for e in (*plain.train_stream, *plain.test_stream) for t in e.dataset.targets_task_labels} == {0}


def test_an_export_copies_no_pixel_and_leaves_the_stream_as_it_was():
    stream = stream_of("power law")
    data = clsuite.to_avalanche(stream).train_stream[0].dataset._flat_data._datasets[0]
    resident = data.stream._arrays["train"].images
    assert resident.data_ptr() == stream.source.images("train").ctypes.data
    assert data.table.arrays[0] is stream.experiences[0].segments[0].indices
    assert not stream._arrays  # gathering works on the exported side alone
