"""Benchmarks from Avalanche: what we import is what they hold, and it runs as a scenario."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

import clsuite
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.overlap import check_disjoint
from clsuite.experiment.spec import resolve

from .avalanche_streams import STREAMS, WITHOUT_TASKS, content_of, halves_of_digits, imported_stream, refusal, stream_of

pytestmark = [pytest.mark.avalanche, pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers", "ignore:stream generator")]


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


def test_an_import_is_data_for_any_scenario_and_trains():
    benchmark = clsuite.from_avalanche(clsuite.to_avalanche(stream_of("classes")))
    result = clsuite.run(scenario={"name": "blurry", "dataset": benchmark.source, "experiences": 2}, training={"epochs": 1}, device="cpu")
    assert result["status"] == "ok"
    result = clsuite.run("training.epochs=3", strategy="replay", scenario={"name": "avalanche", "benchmark": benchmark}, device="cpu")
    assert result["status"] == "ok" and np.shape(result["matrix"]) == (5, 5)


def test_a_class_incremental_benchmark_gives_its_table(avalanche):
    train, test = halves_of_digits()
    order = [7, 2, 0, 1, 9, 8, 3, 5, 4, 6]
    made = avalanche.nc_benchmark(train, test, n_experiences=5, task_labels=False, fixed_class_order=order, train_transform=lambda x: x.float() * 0)
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
    with_tasks = avalanche.nc_benchmark(train, test, n_experiences=5, task_labels=True, fixed_class_order=order)
    assert imported_stream(clsuite.from_avalanche(with_tasks)).has_task_ids


def test_an_instance_incremental_benchmark_gives_its_table(avalanche):
    train, test = halves_of_digits()
    assigned = [list(range(0, 100, 2)), list(range(1, 100, 2)), list(range(100, 160))]
    benchmark = clsuite.from_avalanche(avalanche.ni_benchmark(train, test, n_experiences=3, fixed_exp_assignment=assigned))
    assert [row.indices.tolist() for row in benchmark.train] == [list(range(50)), list(range(50, 100)), list(range(100, 160))]
    images, labels = (t.numpy() for t in train.tensors)
    order = np.concatenate(assigned)
    assert np.array_equal(benchmark.source.images("train"), images[order]) and benchmark.source.labels("train").tolist() == labels[order].tolist()
    stream = imported_stream(benchmark)
    assert [(e.name, len(e), e.learned_in) for e in stream.evaluation_sets] == [("test", 160, 0)]
    assert not stream.task_masked


def test_frozen_transforms_are_part_of_the_pixels(avalanche):
    from avalanche.benchmarks.utils import DefaultTransformGroups, _make_taskaware_classification_dataset, make_avalanche_dataset

    train, test = halves_of_digits(40)
    rolled = [
        make_avalanche_dataset(_make_taskaware_classification_dataset(d), frozen_transform_groups=DefaultTransformGroups((lambda x: x.roll(1, -1), None)))
        for d in (train, test)
    ]
    benchmark = clsuite.from_avalanche(
        avalanche.ni_benchmark(*rolled, n_experiences=1, fixed_exp_assignment=[list(range(40))], train_transform=lambda x: x + 1)
    )
    assert np.array_equal(benchmark.source.images("train"), np.roll(train.tensors[0].numpy(), 1, -1))


def test_images_of_many_sizes_are_taken_after_the_transforms_for_evaluation(avalanche):
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
    made = avalanche.ni_benchmark(train, test, n_experiences=1, train_transform=lambda p: resized(p) * 0, eval_transform=resized, shuffle=False)
    benchmark = clsuite.from_avalanche(made)
    expected = np.stack([np.asarray(p.resize((5, 4)))[None] for p in train.pictures])
    assert benchmark.transformed and benchmark.source.shape == (1, 4, 5)
    assert sorted(i.tobytes() for i in benchmark.source.images("train")) == sorted(e.tobytes() for e in expected)
    refusal(lambda: clsuite.from_avalanche(avalanche.ni_benchmark(train, test, n_experiences=1, shuffle=False)), "differ in shape", "[1, 6, 8]")


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


def test_a_benchmark_in_a_file_runs_through_clsuite(mine, capsys):
    result = clsuite.run(
        f"scenario={{name: avalanche, benchmark: '{mine}', n_experiences: 5}}",
        "training={epochs: 6, batch_size: 16, learning_rate: 0.1}",
        "strategy={name: replay, buffer_size: 200}",
        "device=cpu",
    )
    assert result["status"] == "ok" and np.shape(result["matrix"]) == (5, 5) and result["metrics"]["final_accuracy"] > 0.5
    assert capsys.readouterr().out == ""  # what the file prints does not get into a document


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


@pytest.mark.parametrize("made", ["classes", "instances"])
def test_phases_share_no_sample_and_keep_every_experience(avalanche, made):
    train, test = halves_of_digits(300)
    kinds = {"classes": (avalanche.nc_benchmark, {"task_labels": False}), "instances": (avalanche.ni_benchmark, {"balance_experiences": True})}
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


def test_the_embedded_benchmark_is_the_default_and_the_run_seed_leaves_it_alone():
    first, second = (clsuite.stream(scenario="avalanche", seed=seed) for seed in (0, 1))
    assert len(first) == 5 and first.fingerprint == second.fingerprint
    other = clsuite.stream(scenario={"name": "avalanche", "benchmark_seed": 1})
    assert other.fingerprint != first.fingerprint and sorted(c for e in other.experiences for c in e.classes) == list(range(10))
    before = torch.random.get_rng_state()
    clsuite.stream(scenario={"name": "avalanche", "benchmark_seed": 5})
    assert torch.equal(before, torch.random.get_rng_state())


REAL = os.environ.get("CLSUITE_DATA", "")


@pytest.mark.data
@pytest.mark.skipif(not os.path.isdir(os.path.join(REAL, "mnist")), reason="CLSUITE_DATA has no folder mnist")
def test_split_mnist_reads_the_suites_own_layout():
    stream = clsuite.stream(scenario={"name": "avalanche", "benchmark": "SplitMNIST", "n_experiences": 5, "arguments": {"fixed_class_order": list(range(10))}})
    ours = clsuite.stream(scenario={"dataset": "mnist", "experiences": 5, "class_order": list(range(10))})
    assert [len(e) for e in stream.experiences] == [len(e) for e in ours.experiences] and stream.classes == 10
    for found, own in zip(content_of(stream, "test"), content_of(ours, "test"), strict=True):
        assert sorted(i.tobytes() for i in found[0]) == sorted(i.tobytes() for i in own[0])
