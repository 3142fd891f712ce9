"""Data: named sets, layouts, folders, arrays in memory, the cache, and gathering on a device."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clsuite.data import CATALOGUE, cache, source
from clsuite.data.resident import Resident
from clsuite.data.source import images, load_source
from clsuite.errors import MissingData, UsageError
from clsuite.stream import Transforms

REAL = os.environ.get("CLSUITE_DATA", "")
needs_data = pytest.mark.skipif(not os.path.isdir(REAL), reason="CLSUITE_DATA is unset or not a folder")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, no download, nothing loaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CLSUITE_OFFLINE", "1")
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    monkeypatch.setattr(source, "_LOADED", {})
    monkeypatch.setattr(source, "_MEMORY", {})


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def small_mnist(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8)[::-1].copy(),
    }


def write_mnist(folder: Path, packed: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    for name, array in small_mnist().items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return small_mnist()


def write_subset(root: Path) -> np.ndarray:
    """cifar10-subset with one sheet a split; returns the train images [100, 32, 32, 3]."""
    import zipfile

    folder = root / "cifar10-subset"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    sheet = np.zeros((320, 320, 3), np.uint8)
    for k in range(100):
        row, column = divmod(k, 10)
        sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = pixels[k]
    for file in ("train4000.webp.zip", "test2000.webp.zip"):
        Image.fromarray(sheet).save(folder / "000.webp", lossless=True, exact=True)
        with zipfile.ZipFile(folder / file, "w") as z:
            z.write(folder / "000.webp", "000.webp")
    labels = np.arange(100, dtype=np.uint8) % 10
    np.savez(folder / "labels.npz", train=labels, test=labels)
    return pixels


def write_folder(root: Path, size: tuple[int, int] = (5, 4), colour: bool = True) -> dict[str, np.ndarray]:
    """Two classes of PNGs, width x height = size; returns pixels by 'split/class/file'."""
    rng, pixels = np.random.default_rng(2), {}
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "ant"):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                array = rng.integers(0, 256, (size[1], size[0], 3) if colour else (size[1], size[0]), dtype=np.uint8)
                Image.fromarray(array).save(root / split / name / f"{k}.png")
                pixels[f"{split}/{name}/{k}"] = array
    return pixels


def message(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# named sets and layouts


@pytest.mark.unit
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


@pytest.mark.unit
def test_digits_statistics_are_those_of_the_training_pixels():
    digits = load_source("digits")
    pixels = digits.images("train") / 255
    assert digits.mean == pytest.approx([pixels.mean()], abs=1e-5)
    assert digits.std == pytest.approx([pixels.std()], abs=1e-5)


@pytest.mark.unit
def test_training_defaults_of_digits():
    assert load_source("digits").defaults == {"epochs": 10, "batch_size": 16, "learning_rate": 0.1, "buffer_size": 50}


@pytest.mark.unit
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_every_layout(tmp_path, folder, packed):
    arrays = write_mnist(tmp_path / folder, packed)
    mnist = load_source("mnist", str(tmp_path))
    assert np.array_equal(mnist.images("train")[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(mnist.labels("test"), arrays["t10k-labels-idx1-ubyte"])
    assert mnist.labels("test").dtype == np.int64 and mnist.shape == (1, 28, 28) and mnist.grey


@pytest.mark.unit
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


@pytest.mark.unit
def test_identity_is_not_computed_again_in_another_process(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist", True)
    first = load_source("mnist", str(tmp_path)).identity
    monkeypatch.setattr(source, "_LOADED", {})
    monkeypatch.setattr(source.ImageSource, "_identity", lambda self: pytest.fail("computed again"))
    assert load_source("mnist", str(tmp_path)).identity == first


@pytest.mark.unit
def test_labels_shape_and_size_decode_no_image(tmp_path):
    write_mnist(tmp_path / "mnist", True)
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"not an image file")
    mnist = load_source("mnist", str(tmp_path))
    assert (mnist.size("train"), mnist.labels("train")[3], mnist.shape, mnist.classes) == (20, 3, (1, 28, 28), 10)
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz"):
        mnist.images("train")


@pytest.mark.unit
@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:5], lambda b: b""])
def test_a_damaged_idx_file_is_named_in_one_line(tmp_path, damage):
    write_mnist(tmp_path / "mnist", False)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError) as error:
        load_source("mnist", str(tmp_path)).images("train")
    assert str(file) in message(error)


@pytest.mark.unit
def test_a_truncated_gzip_file_is_named_in_one_line(tmp_path):
    write_mnist(tmp_path / "mnist", True)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError) as error:
        load_source("mnist", str(tmp_path)).images("train")
    assert str(file) in message(error)


@pytest.mark.unit
def test_picture_sheets_give_the_tiles_in_row_major_order(tmp_path):
    pixels = write_subset(tmp_path)
    subset = load_source("cifar10_subset", str(tmp_path))
    assert np.array_equal(subset.images("train").transpose(0, 2, 3, 1), pixels)
    assert subset.images("train").flags.c_contiguous and isinstance(subset.images("train"), np.memmap)


@pytest.mark.unit
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


@pytest.mark.unit
def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    pixels = write_subset(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    subset = load_source("cifar10_subset", str(tmp_path))
    assert np.array_equal(subset.images("train").transpose(0, 2, 3, 1), pixels) and len(subset.identity) == 64


@pytest.mark.unit
def test_a_changed_file_is_not_answered_from_the_cache(tmp_path, monkeypatch):
    write_subset(tmp_path / "a")
    before = load_source("cifar10_subset", str(tmp_path / "a")).images("train")[0].copy()
    pack = tmp_path / "a" / "cifar10-subset" / "train4000.webp.zip"
    os.utime(pack, ns=(1, 1))
    monkeypatch.setattr(source, "_LOADED", {})
    assert np.array_equal(load_source("cifar10_subset", str(tmp_path / "a")).images("train")[0], before)
    assert len(list((cache.cache_root() / "arrays").glob("cifar10_subset-train-*.npy"))) == 2


@pytest.mark.unit
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


# where data is looked for


@pytest.mark.unit
def test_data_root_comes_before_the_environment(tmp_path, monkeypatch):
    for k in ("a", "b"):
        write_mnist(tmp_path / k / "mnist", True)
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "b"))
    assert load_source("mnist", str(tmp_path / "a")).files[0].is_relative_to(tmp_path / "a")
    assert load_source("mnist").files[0].is_relative_to(tmp_path / "b")


@pytest.mark.unit
def test_missing_data_says_every_place_and_what_to_do_in_one_line(tmp_path, monkeypatch):
    for k in ("a", "b"):
        (tmp_path / k).mkdir()
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "b"))
    with pytest.raises(MissingData) as error:
        load_source("mnist", str(tmp_path / "a"))
    for part in ("mnist", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "cache" / "clsuite" / "data"), "--data-root", "CLSUITE_DATA", "network"):
        assert part in message(error)


@pytest.mark.unit
def test_cifar10_is_never_silently_the_subset(tmp_path):
    write_subset(tmp_path)
    with pytest.raises(MissingData, match="only its subset is there"):
        load_source("cifar10", str(tmp_path))


@pytest.mark.unit
def test_a_root_that_is_not_a_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="data_root"):
        load_source("mnist", str(tmp_path / "nowhere"))
    monkeypatch.setenv("CLSUITE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="CLSUITE_DATA"):
        load_source("mnist")


@pytest.mark.unit
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


@pytest.mark.unit
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


@pytest.mark.unit
def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'cifar10'") as error:
        load_source("cifar_10")
    assert all(name in message(error) for name in CATALOGUE)


@pytest.mark.unit
def test_a_source_is_loaded_once_per_process():
    assert load_source("digits") is load_source("digits")


# other packages


@pytest.mark.unit
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


# folders of images


@pytest.mark.unit
@pytest.mark.parametrize("colour", [True, False])
def test_a_folder_of_images_by_class(tmp_path, colour):
    pixels = write_folder(tmp_path, colour=colour)
    data = load_source(f"folder:{tmp_path}")
    assert (data.shape, data.class_names, data.grey) == ((3 if colour else 1, 4, 5), ["ant", "cat"], not colour)
    assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1]
    expected = pixels["test/cat/1"].reshape(4, 5, -1).transpose(2, 0, 1)
    assert np.array_equal(data.images("test")[3], expected)
    every = np.stack([v for k, v in pixels.items() if k.startswith("train")]).reshape(6 * 20, -1) / 255
    assert data.mean == pytest.approx(every.mean(0)) and data.std == pytest.approx(every.std(0))
    assert data.defaults == {"epochs": 1, "batch_size": 64, "learning_rate": 0.05, "buffer_size": 200}


@pytest.mark.unit
def test_images_of_two_sizes_are_refused_naming_the_odd_file(tmp_path):
    write_folder(tmp_path)
    odd = tmp_path / "test" / "cat" / "7.png"
    Image.new("RGB", (9, 9)).save(odd)
    with pytest.raises(UsageError) as error:
        load_source(f"folder:{tmp_path}")
    assert str(odd) in message(error) and "9x9" in message(error) and "5x4" in message(error)


@pytest.mark.unit
def test_folder_mistakes_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="train"):
        load_source(f"folder:{tmp_path}")
    write_folder(tmp_path)
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(UsageError, match="dog"):
        load_source(f"folder:{tmp_path}")
    (tmp_path / "test" / "dog").rmdir()
    broken = tmp_path / "train" / "ant" / "1.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(UsageError) as error:
        load_source(f"folder:{tmp_path}")
    assert str(broken) in message(error)


# arrays in memory


def arrays(shape=(6, 1, 4, 4), classes=3):
    x = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(len(x)) % classes
    return x, y, x[:3], y[:3]


@pytest.mark.unit
def test_arrays_in_memory_are_found_by_name():
    x, y, x_test, y_test = arrays()
    data = images(x, y, x_test, y_test, name="toy")
    assert data.name == f"memory:{data.identity[:12]}" and data.title == "toy"
    assert load_source(data.name) is data
    assert np.array_equal(data.images("train"), x) and np.array_equal(data.labels("test"), y_test)


@pytest.mark.unit
def test_axes_types_and_torch_give_the_same_source():
    x, y, x_test, y_test = arrays((6, 3, 5, 4))
    name = images(x, y, x_test, y_test).name
    assert images(x.transpose(0, 2, 3, 1), y, x_test.transpose(0, 2, 3, 1), y_test).name == name
    assert images(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(x_test.copy()), y_test.tolist()).name == name
    assert images((x / 255).astype(np.float32), y.astype(np.uint8), x_test / 255, y_test).name == name
    grey = arrays((6, 1, 5, 4))
    assert images(*grey).name == images(grey[0][:, 0], grey[1], grey[2][:, 0], grey[3]).name


@pytest.mark.unit
def test_the_same_arrays_have_the_same_name_in_another_process():
    code = (
        "import numpy as np; from clsuite.data.source import images; x = np.random.default_rng(3).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8);"
        "y = np.arange(6) % 3; print(images(x, y, x[:3], y[:3]).name)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == images(*arrays()).name


@pytest.mark.unit
def test_a_later_change_of_the_callers_array_changes_nothing():
    x, y, x_test, y_test = arrays()
    data = images(x, y, x_test, y_test)
    first = x.copy()
    x[:] = 0
    assert np.array_equal(data.images("train"), first)


@pytest.mark.unit
def test_unknown_memory_data_says_what_to_call():
    with pytest.raises(UsageError, match=r"clsuite\.images"):
        load_source("memory:0123456789ab")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y, a, b: (x.astype(np.float32), y, a, b), "0..1"),
        (lambda x, y, a, b: (x.astype(np.int64), y, a, b), "int64"),
        (lambda x, y, a, b: (np.full((6, 4, 4), np.nan), y, a, b), "0..1"),
        (lambda x, y, a, b: (x[0, 0], y, a, b), "shape"),
        (lambda x, y, a, b: (np.zeros((6, 1, 4, 3), np.uint8), y, a, b), "channels"),
        (lambda x, y, a, b: (np.zeros((6, 4, 4, 4), np.uint8), y, a, b), "channels"),
        (lambda x, y, a, b: (x, y[:-1], a, b), "one label"),
        (lambda x, y, a, b: (x, y * 1.0, a, b), "integer"),
        (lambda x, y, a, b: (x, y - 1, a, b), "-1"),
        (lambda x, y, a, b: (x, y * 2, a, b), "0..2"),
        (lambda x, y, a, b: (x, y, a, b + 1), "y_test"),
        (lambda x, y, a, b: (x, y, a[:, :, :2], b), "x_test"),
    ],
)
def test_unfit_arrays_are_refused_in_one_line(change, words):
    with pytest.raises(UsageError) as error:
        images(*change(*arrays()))
    assert words in message(error)


# gathering


def sample(shape=(30, 1, 6, 6), seed=4):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.unit
def test_identity_gathers_the_samples_in_order_from_read_only_memory(recwarn):
    x, y = sample(), np.arange(30)
    x.flags.writeable = False
    ids = torch.tensor([3, 29, 3, 0])
    pixels, outputs = Resident(x, y, Transforms(), "cpu").gather(ids)
    assert np.array_equal(pixels.numpy(), x[[3, 29, 3, 0]]) and outputs.tolist() == [3, 29, 3, 0]
    assert pixels.dtype == torch.uint8 and outputs.dtype == torch.int64 and not recwarn.list


@pytest.mark.unit
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 600])
@pytest.mark.parametrize("shared", [True, False])
def test_permutation_takes_each_pixel_from_where_the_table_says(channels, count, shared):
    x = sample((30, channels, 4, 6))
    transforms = Transforms.permutations(5, 24, ("test",))
    rng = np.random.default_rng(5)
    index, k = rng.integers(0, 30, count), np.full(count, 2) if shared else rng.integers(0, 5, count)
    pixels, outputs = Resident(x, np.arange(30), transforms, "cpu").gather(torch.from_numpy(k * 30 + index))
    for b in range(count):
        for c in range(channels):
            assert np.array_equal(pixels[b, c].numpy().reshape(-1), x[index[b], c].reshape(-1)[transforms.table[k[b]]])
    assert np.array_equal(outputs.numpy(), index)


@pytest.mark.unit
@pytest.mark.parametrize("shape", [(30, 1, 6, 6), (30, 3, 5, 5), (30, 1, 28, 28)])
def test_rotation_by_quarter_turns_equals_rot90(shape):
    x = sample(shape)
    ids = torch.arange(30)
    resident = Resident(x, np.arange(30), Transforms.rotations([0, 90, 180, 270, -90, 360]), "cpu")
    for k, turns in enumerate([0, 1, 2, 3, 3, 0]):
        assert np.array_equal(resident.gather(ids + 30 * k)[0].numpy(), np.rot90(x, turns, axes=(2, 3)))


@pytest.mark.unit
def test_rotation_turns_a_wide_image_without_stretching_it():
    x = np.zeros((1, 1, 5, 11), np.uint8)
    x[0, 0, 2, 7] = 200  # two pixels right of the centre
    pixels = Resident(x, np.zeros(1, np.int64), Transforms.rotations([90]), "cpu").gather(torch.tensor([0]))[0][0, 0].numpy()
    assert pixels[0, 5] == 200 and pixels.sum() == 200  # two pixels above it


@pytest.mark.unit
def test_rotation_interpolates_bilinearly_with_zeros_outside():
    x = sample((1, 1, 9, 9))
    pixels = Resident(x, np.zeros(1, np.int64), Transforms.rotations([30]), "cpu").gather(torch.tensor([0]))[0][0, 0].numpy()
    padded = np.pad(x[0, 0].astype(float), 9)
    for row in range(9):
        for column in range(9):
            right, up = column - 4, 4 - row
            a = np.deg2rad(30)
            from_right, from_up = right * np.cos(a) + up * np.sin(a), -right * np.sin(a) + up * np.cos(a)
            r, c = 4 - from_up + 9, 4 + from_right + 9
            r0, c0 = int(np.floor(r)), int(np.floor(c))
            dr, dc = r - r0, c - c0
            near = padded[r0 : r0 + 2, c0 : c0 + 2]
            value = near[0, 0] * (1 - dr) * (1 - dc) + near[0, 1] * (1 - dr) * dc + near[1, 0] * dr * (1 - dc) + near[1, 1] * dr * dc
            assert abs(pixels[row, column] - value) <= 0.51


@pytest.mark.unit
@pytest.mark.parametrize("transforms", [Transforms.rotations([0, 13, 40.5, 200]), Transforms.permutations(4, 784, ("test",))])
def test_pixels_do_not_depend_on_the_batch_a_sample_comes_in(transforms):
    resident = Resident(sample((40, 1, 28, 28)), np.arange(40), transforms, "cpu")
    ids = torch.arange(160)
    together = resident.gather(ids[torch.randperm(160, generator=torch.Generator().manual_seed(0)).argsort()])[0]
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0)).argsort()
    for k in range(4):
        alike = resident.gather(ids[40 * k : 40 * k + 40])[0]
        for position, identifier in enumerate(order.tolist()):
            if identifier // 40 == k:
                assert torch.equal(together[position], alike[identifier % 40])
                assert torch.equal(together[position], resident.gather(ids[identifier : identifier + 1])[0][0])


@pytest.mark.unit
def test_ids_outside_the_table_are_refused():
    resident = Resident(sample(), np.arange(30), Transforms.rotations([0, 10]), "cpu")
    with pytest.raises(IndexError):
        resident.gather(torch.tensor([60]))
    with pytest.raises(UsageError, match="permutation"):
        Resident(sample(), np.arange(30), Transforms.permutations(2, 35, ("test",)), "cpu")


@pytest.mark.unit
def test_an_empty_batch_is_empty():
    pixels, outputs = Resident(sample(), np.arange(30), Transforms.rotations([0, 10]), "cpu").gather(torch.zeros(0, dtype=torch.int64))
    assert pixels.shape == (0, 1, 6, 6) and outputs.shape == (0,)


# the real data


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
SUBSET_TRAIN = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]
SUBSET_TEST = [196, 199, 195, 199, 199, 188, 216, 194, 211, 203]


@needs_data
@pytest.mark.data
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


@needs_data
@pytest.mark.data
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


@needs_data
@pytest.mark.data
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


@needs_data
@pytest.mark.data
def test_class_names_are_those_stored_with_the_data():
    with np.load(Path(REAL) / "cifar100" / "labels.npz", allow_pickle=False) as stored:
        assert load_source("cifar100", REAL).class_names == stored["fine_names"].tolist()
    with np.load(Path(REAL) / "cifar10-subset" / "labels.npz", allow_pickle=False) as stored:
        assert load_source("cifar10_subset", REAL).class_names == stored["names"].tolist()
