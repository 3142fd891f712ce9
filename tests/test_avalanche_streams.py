"""Streams to Avalanche and back: its own code trains on what we export, and what we import is what it holds."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clsuite
from clsuite import interop
from clsuite.errors import UsageError
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.overlap import check_disjoint
from clsuite.experiment.spec import resolve
from clsuite.interop.avalanche_pixels import NotPixels, pixels
from clsuite.interop.surroundings import patience, seeded
from clsuite.stream import EvaluationSet, Experience, Segment, Stream
from clsuite.transforms import Transforms

unit = pytest.mark.unit
needs_avalanche = pytest.mark.avalanche
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers", "ignore:stream generator")

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


# -- out ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    """Avalanche's own parts, as its users import them; nothing of them knows of us."""
    from avalanche import models
    from avalanche.benchmarks import nc_benchmark, ni_benchmark
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import supervised
    from avalanche.training.plugins import EvaluationPlugin

    return SimpleNamespace(
        supervised=supervised,
        models=models,
        nc_benchmark=nc_benchmark,
        ni_benchmark=ni_benchmark,
        evaluator=lambda: EvaluationPlugin(accuracy_metrics(experience=True, stream=True), strict_checks=True),
    )


def trained(theirs, kind, benchmark, hidden=64, model=None, epochs=2, **settings):
    """The accuracy on the whole test stream of one of Avalanche's strategies, after it trained on all experiences."""
    torch.manual_seed(0)
    model = model or theirs.models.SimpleMLP(num_classes=10, input_size=64, hidden_size=hidden)
    strategy = getattr(theirs.supervised, kind)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=256,
        evaluator=theirs.evaluator(),
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


@needs_avalanche
def test_their_templates_learn_an_exported_power_law_stream(theirs):
    stream = clsuite.stream("scenario=power_law", "scenario.experiences=3", "scenario.return_samples=300")
    benchmark = clsuite.to_avalanche(stream)
    assert sum(len(e.dataset) for e in benchmark.train_stream) == sum(len(e) for e in stream.experiences) > 3 * 1438
    naive, replay = (trained(theirs, kind, benchmark, **settings) for kind, settings in (("Naive", {}), ("Replay", {"mem_size": 300})))
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


@needs_avalanche
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("which", ["classes", "power law", "sparse"])
def test_any_of_their_methods_trains_on_any_stream(theirs, kind, which):
    accuracy = trained(theirs, kind, clsuite.to_avalanche(stream_of(which)), hidden=16, epochs=1, **METHODS[kind])
    assert 0.05 < accuracy <= 1


@needs_avalanche
@pytest.mark.parametrize(("which", "samples", "least"), [("classes", 60, 0.3), ("power law", 12, 0.1)])
def test_icarl_finds_the_order_of_classes_on_the_benchmark(theirs, which, samples, least):
    torch.manual_seed(0)
    stream = clsuite.stream(scenario={**STREAMS[which], "samples_per_class": samples})
    benchmark = clsuite.to_avalanche(stream)
    features, classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 48), torch.nn.ReLU()), torch.nn.Linear(48, 10)
    strategy = theirs.supervised.ICaRL(
        feature_extractor=features,
        classifier=classifier,
        optimizer=torch.optim.SGD([*features.parameters(), *classifier.parameters()], lr=0.1),
        memory_size=200,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=16,
        train_epochs=3,
        eval_mb_size=256,
        evaluator=theirs.evaluator(),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    first = [c for e in stream.experiences for c in sorted(e.classes)]
    assert benchmark.classes_order == list(dict.fromkeys(first)) and sum(benchmark.n_classes_per_exp) == 10
    assert accuracy_of(strategy, benchmark) > least  # permuted images are no classes: there one in ten is much


@needs_avalanche
def test_heads_by_task_follow_the_tasks_of_the_stream(theirs):
    """With a head for each task, Avalanche's naive strategy does not forget class groups."""
    benchmark = clsuite.to_avalanche(clsuite.stream("scenario.experiences=5", "scenario.samples_per_class=60"))
    model = theirs.models.MTSimpleMLP(input_size=64, hidden_size=64)
    assert trained(theirs, "Naive", benchmark, model=model, epochs=4) > 0.8  # one head for all: the last classes alone, 0.2


@needs_avalanche
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


@needs_avalanche
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


@needs_avalanche
def test_an_export_copies_no_pixel_and_leaves_the_stream_as_it_was():
    stream = stream_of("power law")
    data = clsuite.to_avalanche(stream).train_stream[0].dataset._flat_data._datasets[0]
    resident = data.stream._arrays["train"].images
    assert resident.data_ptr() == stream.source.images("train").ctypes.data
    assert data.table.arrays[0] is stream.experiences[0].segments[0].indices
    assert not stream._arrays  # gathering works on the exported side alone


# -- back --------------------------------------------------------------------------------------------------------


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


@needs_avalanche
@pytest.mark.parametrize("which", STREAMS)
def test_what_goes_out_comes_back_the_same(which):
    stream = stream_of(which)
    benchmark = clsuite.from_avalanche(clsuite.to_avalanche(stream))
    back = imported_stream(benchmark)
    for split in ("train", "test"):
        for (images, labels, tasks), (images_back, labels_back, tasks_back) in zip(
            content_of(stream, split), content_of(back, split, benchmark.labels), strict=True
        ):
            assert np.array_equal(images, images_back) and labels == labels_back
            assert tasks == tasks_back or which in WITHOUT_TASKS
    classes = np.array(benchmark.labels)
    assert [classes[list(e.classes)].tolist() for e in back.experiences] == [sorted(e.classes) for e in stream.experiences]
    assert [e.learned_in for e in back.evaluation_sets] == [e.learned_in for e in stream.evaluation_sets]
    assert back.has_task_ids == stream.has_task_ids and back.task_masked == stream.task_masked
    distinct = {(image.tobytes(), label) for images, labels, _ in content_of(stream, "train") for image, label in zip(images, labels, strict=True)}
    assert benchmark.source.size("train") == len(distinct)  # a sample that returns is held once


@needs_avalanche
def test_an_import_is_data_for_any_scenario_and_trains():
    benchmark = clsuite.from_avalanche(clsuite.to_avalanche(stream_of("classes")))
    result = clsuite.run(scenario={"name": "blurry", "dataset": benchmark.source, "experiences": 2}, training={"epochs": 1}, device="cpu")
    assert result["status"] == "ok"
    result = clsuite.run("training.epochs=3", strategy="replay", scenario={"name": "avalanche", "benchmark": benchmark}, device="cpu")
    assert result["status"] == "ok" and np.shape(result["matrix"]) == (5, 5)


# -- in ----------------------------------------------------------------------------------------------------------


def halves_of_digits(count=160):
    """The first digits as Avalanche's users hold data: uint8 tensors with labels."""
    source = clsuite.stream("scenario.experiences=1").source
    return [torch.utils.data.TensorDataset(torch.tensor(source.images(s)[:count]), torch.tensor(source.labels(s)[:count])) for s in ("train", "test")]


@needs_avalanche
def test_a_class_incremental_benchmark_gives_its_table(theirs):
    train, test = halves_of_digits()
    order = [7, 2, 0, 1, 9, 8, 3, 5, 4, 6]
    made = theirs.nc_benchmark(train, test, n_experiences=5, task_labels=False, fixed_class_order=order, train_transform=lambda x: x.float() * 0)
    stream = imported_stream(clsuite.from_avalanche(made))
    for split, data in (("train", train), ("test", test)):
        images, labels = (t.numpy() for t in data.tensors)
        for i, (own, found, _) in enumerate(content_of(stream, split)):
            pair = sorted(order[2 * i : 2 * i + 2])
            expected = [k for c in pair for k in np.flatnonzero(labels == c)]
            assert sorted(found) == sorted(labels[expected].tolist())
            assert sorted(i.tobytes() for i in own) == sorted(images[k].tobytes() for k in expected)  # before the transform that blackens
    assert [e.classes for e in stream.experiences] == [(2, 7), (0, 1), (8, 9), (3, 5), (4, 6)]
    assert not stream.has_task_ids and stream.task_masked and stream.has_borders
    with_tasks = theirs.nc_benchmark(train, test, n_experiences=5, task_labels=True, fixed_class_order=order)
    assert imported_stream(clsuite.from_avalanche(with_tasks)).has_task_ids


@needs_avalanche
def test_an_instance_incremental_benchmark_gives_its_table(theirs):
    train, test = halves_of_digits()
    assigned = [list(range(0, 100, 2)), list(range(1, 100, 2)), list(range(100, 160))]
    benchmark = clsuite.from_avalanche(theirs.ni_benchmark(train, test, n_experiences=3, fixed_exp_assignment=assigned))
    assert [row.indices.tolist() for row in benchmark.train] == [list(range(50)), list(range(50, 100)), list(range(100, 160))]
    images, labels = (t.numpy() for t in train.tensors)
    order = np.concatenate(assigned)
    assert np.array_equal(benchmark.source.images("train"), images[order]) and benchmark.source.labels("train").tolist() == labels[order].tolist()
    stream = imported_stream(benchmark)
    assert [(e.name, len(e), e.learned_in) for e in stream.evaluation_sets] == [("test", 160, 0)]
    assert not stream.task_masked


@needs_avalanche
def test_frozen_transforms_are_part_of_the_pixels(theirs):
    from avalanche.benchmarks.utils import DefaultTransformGroups, _make_taskaware_classification_dataset, make_avalanche_dataset

    train, test = halves_of_digits(40)
    rolled = [
        make_avalanche_dataset(_make_taskaware_classification_dataset(d), frozen_transform_groups=DefaultTransformGroups((lambda x: x.roll(1, -1), None)))
        for d in (train, test)
    ]
    benchmark = clsuite.from_avalanche(theirs.ni_benchmark(*rolled, n_experiences=1, fixed_exp_assignment=[list(range(40))], train_transform=lambda x: x + 1))
    assert np.array_equal(benchmark.source.images("train"), np.roll(train.tensors[0].numpy(), 1, -1))


@needs_avalanche
def test_images_of_many_sizes_are_taken_after_the_transforms_for_evaluation(theirs):
    rng = np.random.default_rng(0)

    class Pictures:
        targets = [0, 1, 0, 1]

        def __init__(self):
            self.pictures = [Image.fromarray(rng.integers(0, 255, (6 + k, 8), dtype=np.uint8)) for k in range(4)]

        def __len__(self):
            return 4

        def __getitem__(self, k):
            return self.pictures[k], self.targets[k]

    def resized(picture):
        return torch.from_numpy(np.asarray(picture.resize((5, 4)), dtype=np.float32) / 255)[None]

    train, test = Pictures(), Pictures()
    made = theirs.ni_benchmark(train, test, n_experiences=1, train_transform=lambda p: resized(p) * 0, eval_transform=resized, shuffle=False)
    benchmark = clsuite.from_avalanche(made)
    expected = np.stack([np.asarray(p.resize((5, 4)))[None] for p in train.pictures])
    assert benchmark.transformed and benchmark.source.shape == (1, 4, 5)
    assert sorted(i.tobytes() for i in benchmark.source.images("train")) == sorted(e.tobytes() for e in expected)
    refusal(lambda: clsuite.from_avalanche(theirs.ni_benchmark(train, test, n_experiences=1, shuffle=False)), "differ in shape", "[1, 6, 8]")


FILE = """
import torch
from avalanche.benchmarks import nc_benchmark
from clsuite.data.source import load_source

def make_benchmark(n_experiences=2, change=0, order=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)):
    print("making")
    source = load_source("digits")
    parts = []
    for split in ("train", "test"):
        images, labels = torch.tensor(source.images(split)), torch.tensor(source.labels(split))
        images[5, 0, 0, 0] += change
        parts.append(torch.utils.data.TensorDataset(images.float() / 255, labels))
    return nc_benchmark(*parts, n_experiences, task_labels=False, fixed_class_order=list(order))
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path}/mine.py:make_benchmark"


@needs_avalanche
def test_a_benchmark_in_a_file_runs_through_clsuite(mine, capsys):
    result = clsuite.run(
        f"scenario={{name: avalanche, benchmark: '{mine}', n_experiences: 5}}",
        "training={epochs: 6, batch_size: 16, learning_rate: 0.1}",
        "strategy={name: replay, buffer_size: 200}",
        "device=cpu",
    )
    assert result["status"] == "ok" and np.shape(result["matrix"]) == (5, 5) and result["metrics"]["final_accuracy"] > 0.5
    assert capsys.readouterr().out == ""  # what the file prints does not get into a document


@needs_avalanche
def test_a_cell_is_its_pixels_and_its_membership_whatever_it_is_called(mine, tmp_path):
    def hash_of(benchmark, **arguments):
        return cell_hash(resolve({"scenario": {"name": "avalanche", "benchmark": benchmark, "arguments": arguments or None}, "device": "cpu"}))

    (tmp_path / "other.py").write_text(FILE.replace("make_benchmark", "another"))
    first = hash_of(mine)
    assert first == hash_of(f"{tmp_path}/other.py:another") == hash_of(mine, n_experiences=2, change=0)
    changed = [{"change": 1}, {"n_experiences": 5}, {"order": [5, 0, 2, 3, 4, 1, 6, 7, 8, 9]}]  # a pixel, the experiences, who is in which
    assert len({first, *(hash_of(mine, **arguments) for arguments in changed)}) == 4
    (tmp_path / "mine.py").write_text(FILE.replace("+= change", "+= change + 1"))
    os.utime(tmp_path / "mine.py", ns=(1, 1))
    assert hash_of(mine) != first


@needs_avalanche
@pytest.mark.parametrize("made", ["classes", "instances"])
def test_phases_share_no_sample_and_keep_every_experience(theirs, made):
    train, test = halves_of_digits(300)
    kinds = {"classes": (theirs.nc_benchmark, {"task_labels": False}), "instances": (theirs.ni_benchmark, {"balance_experiences": True})}
    make, settings = kinds[made]
    benchmark = clsuite.from_avalanche(make(train, test, n_experiences=5, seed=1, **settings))
    whole = imported_stream(benchmark)

    def phases(split, **protocol):
        return [imported_stream(benchmark, protocol={"split": split, **protocol}, phase=phase) for phase in ("tuning", "evaluation")]

    tuning, evaluation = phases("samples")
    check_disjoint([tuning], [evaluation])
    assert len(tuning) == len(evaluation) == 5
    assert sum(map(len, tuning.experiences)) + sum(map(len, evaluation.experiences)) == sum(map(len, whole.experiences)) == 300
    tuning, evaluation = phases("experiences", first=2) if made == "classes" else phases("classes")
    check_disjoint([tuning], [evaluation])
    if made == "classes":
        assert (len(tuning), len(evaluation)) == (2, 3)
        refusal(lambda: phases("classes"), "protocol.split = 'classes' leaves", "valid: samples, experiences")
    else:
        assert [e.classes for e in evaluation.experiences] == [(0, 1, 2, 3, 4)] * 5
        assert not set(tuning.class_labels) & set(evaluation.class_labels)
    refusal(lambda: phases("datasets", tuning_dataset="digits"), "protocol.split = 'datasets' is not possible")
    held = imported_stream(benchmark, protocol={"held_out": 0.2})
    used = np.concatenate([held.ids(e.segments) for e in held.experiences])
    measured = np.concatenate([e.indices for e in held.evaluation_sets])
    assert held.source.size("test") == 300 and not set(used) & set(measured) and len(used) + len(measured) == 300


@needs_avalanche
def test_the_embedded_benchmark_is_the_default_and_the_run_seed_leaves_it_alone():
    first, second = (clsuite.stream(scenario="avalanche", seed=seed) for seed in (0, 1))
    assert len(first) == 5 and first.fingerprint == second.fingerprint
    other = clsuite.stream(scenario={"name": "avalanche", "benchmark_seed": 1})
    assert other.fingerprint != first.fingerprint and sorted(c for e in other.experiences for c in e.classes) == list(range(10))
    before = torch.random.get_rng_state()
    clsuite.stream(scenario={"name": "avalanche", "benchmark_seed": 5})
    assert torch.equal(before, torch.random.get_rng_state())


REAL = os.environ.get("CLSUITE_DATA", "")


@needs_avalanche
@pytest.mark.data
@pytest.mark.skipif(not os.path.isdir(os.path.join(REAL, "mnist")), reason="CLSUITE_DATA has no folder mnist")
def test_split_mnist_reads_the_suites_own_layout():
    stream = clsuite.stream(scenario={"name": "avalanche", "benchmark": "SplitMNIST", "n_experiences": 5, "arguments": {"fixed_class_order": list(range(10))}})
    ours = clsuite.stream(scenario={"dataset": "mnist", "experiences": 5, "class_order": list(range(10))})
    assert [len(e) for e in stream.experiences] == [len(e) for e in ours.experiences] and stream.classes == 10
    for found, own in zip(content_of(stream, "test"), content_of(ours, "test"), strict=True):
        assert sorted(i.tobytes() for i in found[0]) == sorted(i.tobytes() for i in own[0])


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def another_version(monkeypatch):
    """Avalanche as if this version were installed (None: as if there were none)."""

    def pretend(version):
        monkeypatch.setattr(interop, "installed", lambda: version)

    interop.avalanche.cache_clear()
    yield pretend
    interop.avalanche.cache_clear()


@unit
@pytest.mark.parametrize(
    ("version", "words"), [(None, "not installed"), ("0.4.1", "0.4.1 is too old"), ("0.8.0", "0.8.0 is too new"), ("1.0", "1.0 is too new")]
)
def test_an_avalanche_that_is_not_there_or_does_not_fit_is_one_line(another_version, version, words):
    another_version(version)
    stream = stream_of("classes")
    for make in (
        lambda: clsuite.to_avalanche(stream),
        lambda: clsuite.from_avalanche(object()),
        lambda: clsuite.stream(scenario={"name": "avalanche", "benchmark_seed": 99}),
    ):
        refusal(make, words, "0.6.0 is known to work", "pip install avalanche-lib==0.6.0")
    assert clsuite.run("scenario.experiences=2", "training.epochs=1", "device=cpu")["status"] == "ok"  # all else works


@unit
def test_an_avalanche_that_cannot_be_imported_is_one_line(another_version, monkeypatch):
    another_version("0.6.0")
    monkeypatch.setitem(sys.modules, "avalanche", None)
    refusal(interop.avalanche, "cannot be imported", "0.6.0 is known to work")


@needs_avalanche
def test_a_part_that_this_avalanche_lacks_is_named():
    refusal(lambda: interop.part("training.supervised", "GDump"), "no 'GDump' in avalanche.training.supervised", "did you mean 'GDumb'?")
    refusal(lambda: interop.part("training.unheard_of"), "avalanche.training.unheard_of cannot be imported")


@unit
def test_text_and_transforms_that_cannot_be_called_are_refused():
    refusal(lambda: clsuite.to_avalanche(SimpleNamespace(world="text", scenario="words")), "a stream of text cannot become an Avalanche benchmark")
    refusal(lambda: clsuite.to_avalanche(stream_of("classes"), transform=3), "transform = 3 is not valid")


@unit
def test_an_image_becomes_the_same_numbers_or_is_refused():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    colour = np.stack([grey, grey + 1, grey + 2], axis=-1)
    assert np.array_equal(pixels(grey, False), grey[None]) and np.array_equal(pixels(torch.from_numpy(grey), False), grey[None])
    assert np.array_equal(pixels(Image.fromarray(grey), False), grey[None])
    assert np.array_equal(pixels(Image.fromarray(colour), False), colour.transpose(2, 0, 1)) and np.array_equal(
        pixels(colour, False), colour.transpose(2, 0, 1)
    )
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert all(np.array_equal(pixels(levels.astype(kind) / kind(255), False), levels) for kind in (np.float32, np.float64))
    assert pixels(np.full((1, 2, 2), 0.5), True).tolist() == [[[128, 128], [128, 128]]]
    for image, words in (
        (np.full((1, 2, 2), 0.5), "0.5, no multiple of 1/255"),
        (np.full((1, 2, 2), -0.4), "values from -0.4 to -0.4, not in 0..1"),
        (np.full((2, 2), np.nan), "not in 0..1"),
        (np.zeros((2, 2), dtype=np.int64), "holds int64"),
        (np.zeros(7, dtype=np.uint8), "shape [7]"),
        (np.zeros((5, 5, 5), dtype=np.uint8), "shape [5, 5, 5]"),
        (Image.fromarray(np.zeros((2, 2), dtype=np.uint16)), "more than 8 bits"),
    ):
        with pytest.raises(NotPixels) as caught:
            pixels(image, False)
        assert words in str(caught.value)


@needs_avalanche
def test_what_cannot_be_imported_is_said_in_one_line(theirs):
    def made(change=lambda x: x, labels=lambda y: y, **settings):
        parts = [torch.utils.data.TensorDataset(change(d.tensors[0]), labels(d.tensors[1])) for d in halves_of_digits(40)]
        return theirs.ni_benchmark(*parts, n_experiences=2, seed=0, **settings)

    sixteenths = made(lambda x: (x.float() / 255 * 16).round() / 16)
    refusal(lambda: clsuite.from_avalanche(sixteenths), "no multiple of 1/255", "round_pixels = true")
    assert clsuite.from_avalanche(sixteenths, round_pixels=True).source.classes == 10
    refusal(lambda: clsuite.from_avalanche(made(lambda x: x.float() - 1)), "not in 0..1")
    refusal(lambda: clsuite.from_avalanche(made(lambda x: x.flatten(1))), "shape [64]")
    refusal(lambda: clsuite.from_avalanche(object()), "object has no train_stream")
    unlabelled = SimpleNamespace(train_stream=[SimpleNamespace(dataset=[1, 2])], test_stream=[])
    refusal(lambda: clsuite.from_avalanche(unlabelled), "train experience 0", "only classification")

    class Random(torch.utils.data.TensorDataset):
        def __getitem__(self, k):
            image, label = super().__getitem__(k)
            return torch.rand(image.shape).mul(255).round() / 255, label

    class Wrong(torch.utils.data.TensorDataset):
        @property
        def targets(self):
            return ((self.tensors[1] + 1) % 10).tolist()

        def __getitem__(self, k):
            return self.tensors[0][k], self.tensors[1][k]

    for kind, words in ((Random, "two readings of it differ"), (Wrong, "comes with label")):
        parts = [kind(*d.tensors) for d in halves_of_digits(40)]
        refusal(lambda parts=parts: clsuite.from_avalanche(theirs.ni_benchmark(*parts, n_experiences=2, seed=0)), words)


@needs_avalanche
def test_a_class_that_is_only_tested_is_kept(theirs):
    """As in the first experiences of a class-incremental benchmark, measured on all of its test stream."""
    train, test = halves_of_digits()
    made = theirs.nc_benchmark(train, test, n_experiences=5, task_labels=False, fixed_class_order=list(range(10)))
    stream = imported_stream(clsuite.from_avalanche(SimpleNamespace(train_stream=made.train_stream[:2], test_stream=made.test_stream)))
    assert stream.classes == 10 and [e.classes for e in stream.evaluation_sets] == [(2 * j, 2 * j + 1) for j in range(5)]
    assert [e.learned_in for e in stream.evaluation_sets] == [0, 1, 1, 1, 1]  # the last, where it was never learned


NAMES = {
    "a misspelled name": ({"benchmark": "SplitMNST"}, "unknown benchmark 'SplitMNST'; did you mean 'SplitMNIST'?"),
    "an argument that is needed": ({"benchmark": "SplitMNIST"}, "needs 'n_experiences': give scenario.n_experiences"),
    "an argument there is not": ({"arguments": {"retun_task_id": True}}, "takes no 'retun_task_id'; did you mean 'return_task_id'?"),
    "an argument given twice": ({"n_experiences": 5, "arguments": {"n_experiences": 5}}, "'n_experiences' is given twice"),
    "what Avalanche refuses": ({"n_experiences": 3}, "cannot be divided by n_experiences (3)"),
    "arguments that are no plain values": ({"arguments": {"shuffle": len}}, "expected plain values"),
    "keys that JSON does not keep": ({"arguments": {"fixed_class_order": {0: 1}}}, "text as keys"),
    "an import of another process": ({"benchmark": "imported:123456789abc"}, "call clsuite.from_avalanche(...)"),
    "a file that is not there": ({"benchmark": "./nowhere.py:make"}, "benchmark file './nowhere.py' does not exist"),
    "a benchmark of models": ({"benchmark": "ExMLMNIST"}, "unknown benchmark 'ExMLMNIST'"),
}


@needs_avalanche
@pytest.mark.parametrize("what", NAMES)
def test_a_benchmark_that_cannot_be_made_is_one_line(what):
    settings, words = NAMES[what]
    refusal(lambda: clsuite.stream(scenario={"name": "avalanche", **settings}), words)


@needs_avalanche
def test_a_file_whose_code_fails_is_one_line(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    refusal(lambda: imported_stream(f"{tmp_path}/broken.py:make"), "cannot be imported: ModuleNotFoundError")
    (tmp_path / "raises.py").write_text(textwrap.dedent("def make():\n    raise RuntimeError('two\\nlines')\n"))
    refusal(lambda: imported_stream(f"{tmp_path}/raises.py:make"), "cannot be made: RuntimeError: two lines")
    refusal(lambda: imported_stream(f"{tmp_path}/raises.py:mak"), "unknown function of raises.py 'mak'; did you mean 'make'?")


@needs_avalanche
def test_data_that_is_nowhere_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    scenario = {"name": "avalanche", "benchmark": "SplitCIFAR10", "n_experiences": 5}
    refusal(lambda: clsuite.stream(scenario=scenario, data_root=str(tmp_path)), "not there in a layout that Avalanche reads", str(tmp_path), "CLSUITE_OFFLINE")
    assert not list(tmp_path.iterdir())
    refusal(lambda: clsuite.stream(scenario={**scenario, "benchmark": "SplitFMNIST"}, data_root=str(tmp_path)), "fashion_mnist", "CLSUITE_OFFLINE")


@unit
def test_surroundings_are_as_they_were():
    resolve_, before = socket.getaddrinfo, (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    with patience(network=False), seeded(3), pytest.raises(OSError):
        np.random.random(), torch.rand(1)
        socket.create_connection(("localhost", 9))
    assert socket.getaddrinfo is resolve_ and socket.getdefaulttimeout() is None
    assert before == (np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
