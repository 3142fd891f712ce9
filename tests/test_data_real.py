"""The real data sets are the published ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from clsuite.data.source import load_source

REAL = os.environ.get("CLSUITE_DATA", "")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not os.path.isdir(REAL), reason="CLSUITE_DATA is unset or not a folder"),
    pytest.mark.usefixtures("nothing_loaded"),
]

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
SUBSET_TRAIN = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]
SUBSET_TEST = [196, 199, 195, 199, 199, 188, 216, 194, 211, 203]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist", MNIST_TRAIN, MNIST_TEST),
        ("fashion_mnist", [6000] * 10, [1000] * 10),
        ("cifar100", [500] * 100, [100] * 100),
        ("cifar10_subset", SUBSET_TRAIN, SUBSET_TEST),
    ],
)
def test_label_histograms_are_the_published_ones(name, train, test):
    data = load_source(name, REAL)
    assert np.bincount(data.labels("train")).tolist() == train and np.bincount(data.labels("test")).tolist() == test


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", [0.13066], [0.30811]),
        ("fashion_mnist", [0.28604], [0.35302]),
        ("cifar100", [0.50708, 0.48655, 0.44092], [0.26733, 0.25644, 0.27615]),
    ],
)
def test_pixel_statistics_are_the_published_ones(name, mean, std):
    data = load_source(name, REAL)
    pixels = data.images("train")
    assert data.mean == pytest.approx(mean, abs=1e-5) and data.std == pytest.approx(std, abs=1e-5)
    for c in range(len(mean)):
        channel = pixels[:, c].astype(np.float32) / 255
        assert channel.mean(dtype=np.float64) == pytest.approx(mean[c], abs=1e-5)
        assert channel.std(dtype=np.float64) == pytest.approx(std[c], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "split", "digest"),
    [
        ("cifar100", "train", "4e457917601a66aed021f5fa37957b56c6319557c0a8ed5484de3c390af45430"),
        ("cifar100", "test", "4cb8e5d9309da489bf6b19cc10cd96c3ae6f8daf225380b605aaee4c0d6aee19"),
        ("cifar10_subset", "train", "bac45b45504ed1289a3f437be4bfbefece248abbc094a428a0b4dfab00e776ae"),
        ("cifar10_subset", "test", "241bc1ae3dc233052c2b64f9d76e8c4c6bf99e17b91a30a4d7fe9130ada48514"),
    ],
)
def test_decoded_bytes_have_the_recorded_checksum(name, split, digest):
    pixels = load_source(name, REAL).images(split)
    assert hashlib.sha256(pixels.transpose(0, 2, 3, 1).tobytes()).hexdigest() == digest


def test_class_names_are_those_stored_with_the_data():
    with np.load(Path(REAL) / "cifar100" / "labels.npz", allow_pickle=False) as stored:
        assert load_source("cifar100", REAL).class_names == stored["fine_names"].tolist()
    with np.load(Path(REAL) / "cifar10-subset" / "labels.npz", allow_pickle=False) as stored:
        assert load_source("cifar10_subset", REAL).class_names == stored["names"].tolist()
