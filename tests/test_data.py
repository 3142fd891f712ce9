"""Named data sets: their layouts, their identity, the cache, where they are looked for, and those of other packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest

from clsuite.data import CATALOGUE, cache, source
from clsuite.data.source import load_source
from clsuite.errors import MissingData, UsageError

from .data_files import message, small_mnist, write_mnist, write_subset

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]

# -- named sets and layouts -------------------------------------------------------------------------------------


def test_digits_are_1797_images_split_80_20_within_each_class():
    from sklearn.datasets import load_digits

    digits, published = load_source("digits"), load_digits()
    counts = np.bincount(published.target)
    assert np.bincount(digits.labels("train")).tolist() == [round(0.8 * n) for n in counts]
    assert digits.size("train") + digits.size("test") == 1797
    rows = np.concatenate([digits.images(s).reshape(-1, 64) for s in ("train", "test")])
    labels = np.concatenate([digits.labels(s) for s in ("train", "test")])
    expected = np.column_stack([np.round(published.data * 255 / 16), published.target])
    found = np.column_stack([rows, labels])
    assert np.array_equal(np.sort(found.view(), axis=0), np.sort(expected, axis=0))
    assert {tuple(r) for r in found} == {tuple(r) for r in expected}


def test_digits_statistics_are_those_of_the_training_pixels():
    digits = load_source("digits")
    pixels = digits.images("train") / 255
    assert digits.mean == pytest.approx([pixels.mean()], abs=1e-5)
    assert digits.std == pytest.approx([pixels.std()], abs=1e-5)


def test_training_defaults_of_digits():
    assert load_source("digits").defaults == {"epochs": 10, "batch_size": 16, "learning_rate": 0.1, "buffer_size": 50}


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_every_layout(tmp_path, folder, packed):
    arrays = write_mnist(tmp_path / folder, packed)
    mnist = load_source("mnist", str(tmp_path))
    assert np.array_equal(mnist.images("train")[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(mnist.labels("test"), arrays["t10k-labels-idx1-ubyte"])
    assert mnist.labels("test").dtype == np.int64 and mnist.shape == (1, 28, 28) and mnist.grey


def test_identity_agrees_between_layouts_and_changes_with_one_pixel(tmp_path):
    for k, (folder, packed) in enumerate([("mnist", True), ("MNIST/raw", False), ("mnist", False)]):
        write_mnist(tmp_path / str(k) / folder, packed)
    changed = tmp_path / "2" / "mnist" / "t10k-images-idx3-ubyte"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(bytes(content))
    first, second, third = (load_source("mnist", str(tmp_path / str(k))).identity for k in range(3))
    assert first == second != third
    h = hashlib.sha256()
    for images_, labels in zip(list(small_mnist().values())[::2], list(small_mnist().values())[1::2], strict=True):
        h.update(str([len(images_), 1, 28, 28]).encode() + images_.tobytes() + labels.astype("<i8").tobytes())
    assert first == h.hexdigest()


def test_identity_is_not_computed_again_in_another_process(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist", True)
    first = load_source("mnist", str(tmp_path)).identity
    monkeypatch.setattr(source, "_LOADED", {})
    monkeypatch.setattr(source.ImageSource, "_identity", lambda self: pytest.fail("computed again"))
    assert load_source("mnist", str(tmp_path)).identity == first


def test_labels_shape_and_size_decode_no_image(tmp_path):
    write_mnist(tmp_path / "mnist", True)
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"not an image file")
    mnist = load_source("mnist", str(tmp_path))
    assert (mnist.size("train"), mnist.labels("train")[3], mnist.shape, mnist.classes) == (20, 3, (1, 28, 28), 10)
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz"):
        mnist.images("train")


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:5], lambda b: b""])
def test_a_damaged_idx_file_is_named_in_one_line(tmp_path, damage):
    write_mnist(tmp_path / "mnist", False)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError) as error:
        load_source("mnist", str(tmp_path)).images("train")
    assert str(file) in message(error)


def test_a_truncated_gzip_file_is_named_in_one_line(tmp_path):
    write_mnist(tmp_path / "mnist", True)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError) as error:
        load_source("mnist", str(tmp_path)).images("train")
    assert str(file) in message(error)


def test_picture_sheets_give_the_tiles_in_row_major_order(tmp_path):
    pixels = write_subset(tmp_path)
    subset = load_source("cifar10_subset", str(tmp_path))
    assert np.array_equal(subset.images("train").transpose(0, 2, 3, 1), pixels)
    assert subset.images("train").flags.c_contiguous and isinstance(subset.images("train"), np.memmap)


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b"", lambda b: b[:5000] + bytes([b[5000] ^ 255]) + b[5001:], lambda b: b"PK\3\4" + b[4:]])
def test_a_damaged_cache_is_decoded_again(tmp_path, monkeypatch, damage):
    pixels = write_subset(tmp_path)
    load_source("cifar10_subset", str(tmp_path)).images("train")
    (file,) = (cache.cache_root() / "arrays").glob("cifar10_subset-train-*.npy")
    copy = damage(file.read_bytes())
    file.unlink()
    file.write_bytes(copy)
    monkeypatch.setattr(source, "_LOADED", {})
    assert np.array_equal(load_source("cifar10_subset", str(tmp_path)).images("train").transpose(0, 2, 3, 1), pixels)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    pixels = write_subset(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    subset = load_source("cifar10_subset", str(tmp_path))
    assert np.array_equal(subset.images("train").transpose(0, 2, 3, 1), pixels) and len(subset.identity) == 64


def test_a_changed_file_is_not_answered_from_the_cache(tmp_path, monkeypatch):
    write_subset(tmp_path / "a")
    before = load_source("cifar10_subset", str(tmp_path / "a")).images("train")[0].copy()
    pack = tmp_path / "a" / "cifar10-subset" / "train4000.webp.zip"
    os.utime(pack, ns=(1, 1))
    monkeypatch.setattr(source, "_LOADED", {})
    assert np.array_equal(load_source("cifar10_subset", str(tmp_path / "a")).images("train")[0], before)
    assert len(list((cache.cache_root() / "arrays").glob("cifar10_subset-train-*.npy"))) == 2


def test_cifar_pickles_that_are_not_the_published_files_are_never_unpickled(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "trapped", "x"))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UsageError) as error:
        load_source("cifar10", str(tmp_path)).labels("train")
    assert str(folder) in message(error)
    assert not (tmp_path / "trapped").exists()


# -- where data is looked for -----------------------------------------------------------------------------------


def test_data_root_comes_before_the_environment(tmp_path, monkeypatch):
    for k in ("a", "b"):
        write_mnist(tmp_path / k / "mnist", True)
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "b"))
    assert load_source("mnist", str(tmp_path / "a")).files[0].is_relative_to(tmp_path / "a")
    assert load_source("mnist").files[0].is_relative_to(tmp_path / "b")


def test_missing_data_says_every_place_and_what_to_do_in_one_line(tmp_path, monkeypatch):
    for k in ("a", "b"):
        (tmp_path / k).mkdir()
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "b"))
    with pytest.raises(MissingData) as error:
        load_source("mnist", str(tmp_path / "a"))
    for part in ("mnist", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "cache" / "clsuite" / "data"), "--data-root", "CLSUITE_DATA", "network"):
        assert part in message(error)


def test_cifar10_is_never_silently_the_subset(tmp_path):
    write_subset(tmp_path)
    with pytest.raises(MissingData, match="only its subset is there"):
        load_source("cifar10", str(tmp_path))


def test_a_root_that_is_not_a_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="data_root"):
        load_source("mnist", str(tmp_path / "nowhere"))
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="CLSUITE_DATA"):
        load_source("mnist")


def test_a_download_lands_in_the_data_root_and_prints_no_progress(tmp_path, monkeypatch, capsys):
    import torchvision.datasets

    def fake(root, download):
        assert download
        print("100%|#####")
        write_mnist(Path(root) / "MNIST" / "raw", True)

    monkeypatch.setenv("CLSUITE_OFFLINE", "0")
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    (tmp_path / "root").mkdir()
    assert load_source("mnist", str(tmp_path / "root")).size("train") == 20
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["MNIST"]
    assert capsys.readouterr().out == ""


def test_a_failed_download_is_missing_data(tmp_path, monkeypatch):
    import torchvision.datasets

    def fake(root, download):
        (Path(root) / "half").write_text("x")
        raise RuntimeError("no\nroute")

    monkeypatch.setenv("CLSUITE_OFFLINE", "0")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fake)
    with pytest.raises(MissingData, match="no route") as error:
        load_source("fashion_mnist")
    message(error)
    assert list((tmp_path / "cache" / "clsuite" / "data").iterdir()) == []


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'cifar10'") as error:
        load_source("cifar_10")
    assert all(name in message(error) for name in CATALOGUE)


def test_a_source_is_loaded_once_per_process():
    assert load_source("digits") is load_source("digits")


# -- other packages ---------------------------------------------------------------------------------------------


def test_other_packages_add_data_and_a_broken_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "shapes_package.py").write_text(
        "import numpy as np\nfrom clsuite.data.source import ImageSource, Part\n"
        "def shapes(roots):\n"
        "    part = Part(lambda: np.arange(4), lambda: np.zeros((4, 1, 2, 2), np.uint8))\n"
        "    return ImageSource('shapes', (1, 2, 2), list('abcd'), part, part)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    group = [
        importlib.metadata.EntryPoint(name, value, "clsuite.data")
        for name, value in [("broken", "absent_package:x"), ("shapes", "shapes_package:shapes"), ("builtin", "clsuite.data")]
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: group)
    assert load_source("shapes").size("test") == 4
    with pytest.warns(UserWarning, match="absent_package"), pytest.raises(UsageError):
        load_source("broken")
