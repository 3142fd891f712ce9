"""Gathering samples on a device: in order, permuted and rotated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clsuite.data.resident import Resident
from clsuite.errors import UsageError
from clsuite.stream import Transforms

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_loaded")]


def sample(shape=(30, 1, 6, 6), seed=4):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_identity_gathers_the_samples_in_order_from_read_only_memory(recwarn):
    x, y = sample(), np.arange(30)
    x.flags.writeable = False
    ids = torch.tensor([3, 29, 3, 0])
    pixels, outputs = Resident(x, y, Transforms(), "cpu").gather(ids)
    assert np.array_equal(pixels.numpy(), x[[3, 29, 3, 0]]) and outputs.tolist() == [3, 29, 3, 0]
    assert pixels.dtype == torch.uint8 and outputs.dtype == torch.int64 and not recwarn.list


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


@pytest.mark.parametrize("shape", [(30, 1, 6, 6), (30, 3, 5, 5), (30, 1, 28, 28)])
def test_rotation_by_quarter_turns_equals_rot90(shape):
    x = sample(shape)
    ids = torch.arange(30)
    resident = Resident(x, np.arange(30), Transforms.rotations([0, 90, 180, 270, -90, 360]), "cpu")
    for k, turns in enumerate([0, 1, 2, 3, 3, 0]):
        assert np.array_equal(resident.gather(ids + 30 * k)[0].numpy(), np.rot90(x, turns, axes=(2, 3)))


def test_rotation_turns_a_wide_image_without_stretching_it():
    x = np.zeros((1, 1, 5, 11), np.uint8)
    x[0, 0, 2, 7] = 200  # two pixels right of the centre
    pixels = Resident(x, np.zeros(1, np.int64), Transforms.rotations([90]), "cpu").gather(torch.tensor([0]))[0][0, 0].numpy()
    assert pixels[0, 5] == 200 and pixels.sum() == 200  # two pixels above it


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


def test_ids_outside_the_table_are_refused():
    resident = Resident(sample(), np.arange(30), Transforms.rotations([0, 10]), "cpu")
    with pytest.raises(IndexError):
        resident.gather(torch.tensor([60]))
    with pytest.raises(UsageError, match="permutation"):
        Resident(sample(), np.arange(30), Transforms.permutations(2, 35, ("test",)), "cpu")


def test_an_empty_batch_is_empty():
    pixels, outputs = Resident(sample(), np.arange(30), Transforms.rotations([0, 10]), "cpu").gather(torch.zeros(0, dtype=torch.int64))
    assert pixels.shape == (0, 1, 6, 6) and outputs.shape == (0,)
