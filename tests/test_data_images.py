"""Images of one's own: folders by class, and arrays in memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clsuite.data.source import images, load_source
from clsuite.errors import UsageError

from .data_files import message, write_folder

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]

# -- folders of images ------------------------------------------------------------------------------------------


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


def test_images_of_two_sizes_are_refused_naming_the_odd_file(tmp_path):
    write_folder(tmp_path)
    odd = tmp_path / "test" / "cat" / "7.png"
    Image.new("RGB", (9, 9)).save(odd)
    with pytest.raises(UsageError) as error:
        load_source(f"folder:{tmp_path}")
    assert str(odd) in message(error) and "9x9" in message(error) and "5x4" in message(error)


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


# -- arrays in memory -------------------------------------------------------------------------------------------


def arrays(shape=(6, 1, 4, 4), classes=3):
    x = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(len(x)) % classes
    return x, y, x[:3], y[:3]


def test_arrays_in_memory_are_found_by_name():
    x, y, x_test, y_test = arrays()
    data = images(x, y, x_test, y_test, name="toy")
    assert data.name == f"memory:{data.identity[:12]}" and data.title == "toy"
    assert load_source(data.name) is data
    assert np.array_equal(data.images("train"), x) and np.array_equal(data.labels("test"), y_test)


def test_axes_types_and_torch_give_the_same_source():
    x, y, x_test, y_test = arrays((6, 3, 5, 4))
    name = images(x, y, x_test, y_test).name
    assert images(x.transpose(0, 2, 3, 1), y, x_test.transpose(0, 2, 3, 1), y_test).name == name
    assert images(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(x_test.copy()), y_test.tolist()).name == name
    assert images((x / 255).astype(np.float32), y.astype(np.uint8), x_test / 255, y_test).name == name
    grey = arrays((6, 1, 5, 4))
    assert images(*grey).name == images(grey[0][:, 0], grey[1], grey[2][:, 0], grey[3]).name


def test_the_same_arrays_have_the_same_name_in_another_process():
    code = (
        "import numpy as np; from clsuite.data.source import images; x = np.random.default_rng(3).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8);"
        "y = np.arange(6) % 3; print(images(x, y, x[:3], y[:3]).name)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == images(*arrays()).name


def test_a_later_change_of_the_callers_array_changes_nothing():
    x, y, x_test, y_test = arrays()
    data = images(x, y, x_test, y_test)
    first = x.copy()
    x[:] = 0
    assert np.array_equal(data.images("train"), first)


def test_unknown_memory_data_says_what_to_call():
    with pytest.raises(UsageError, match=r"clsuite\.images"):
        load_source("memory:0123456789ab")


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
