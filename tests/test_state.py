"""Exact state: what a part keeps comes back as it was, and what cannot be kept is refused at the first step."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints, CheckpointWarning
from clsuite.training.state import Decoder, Encoder

pytestmark = pytest.mark.unit


@pytest.fixture
def run(run_of, small):
    return run_of(*small)


def round_trip(value, run, into=None):
    """Encoded, written as JSON, read again."""
    encoder = Encoder(run.model)
    tree = json.loads(json.dumps(encoder.encode(value, "value")))
    return Decoder({k: t.clone() for k, t in encoder.tensors.items()}, run).decode(tree, into)


PLAIN = {
    "none": None,
    "bool": True,
    "int": -(2**70),
    "float": 0.1 + 0.2,
    "str": "a/b \u00e9",
    "list": [1, [2.5, None]],
    "tuple": (1, (2, "x"), []),
    "dict with keys of several types": {1: "a", "1": "b", (1, 2): "c", None: "d", 2.5: "e", False: "f"},
    "set": {3, 1, 2},
    "frozenset": frozenset({"a", "b"}),
    "deque": deque([1, (2, 3)], maxlen=4),
    "infinities": [math.inf, -math.inf],
    "negative zero": [-0.0],
    "empty": [{}, set(), (), deque(), []],
    "key that looks like a tag": {"tuple": [1], "tensor": "tensor 0"},
    "array scalar": np.float32(0.1),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_values_come_back_with_their_types(kind, run):
    back = round_trip(PLAIN[kind], run)
    assert back == PLAIN[kind] and type(back) is type(PLAIN[kind]) and repr(back) == repr(PLAIN[kind])


def test_a_deque_keeps_its_length_and_nan_stays_nan(run):
    assert round_trip(deque([1], maxlen=4), run).maxlen == 4
    assert math.isnan(round_trip({"x": (math.nan,)}, run)["x"][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_keep_their_bits(dtype, run):
    value = (torch.rand(3, 4) * 3).to(dtype)
    back = round_trip(value, run)
    assert back.dtype == dtype and torch.equal(back, value) and not back.requires_grad


def test_tensors_without_contiguous_memory_and_without_elements(run):
    for value in (torch.rand(4, 6)[:, ::2].t(), torch.zeros(0, 3), torch.tensor(3.5)):
        assert torch.equal(round_trip(value, run), value)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3)[:, ::-1], np.zeros(0), np.array(True), np.array([1.5, np.nan]), np.arange(3, dtype=np.uint8)])
def test_arrays_keep_their_type_and_values(array, run):
    back = round_trip(array, run)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    back[...] = 1  # writable


def test_shared_tensors_stay_shared(run):
    shared = torch.rand(3)
    back = round_trip({"a": shared, "b": [shared, torch.rand(3)]}, run)
    assert back["a"] is back["b"][0] and back["a"] is not back["b"][1]


def test_parameters_of_the_model_stay_the_model_s(run):
    parameter = run.model.head.weight
    assert round_trip([parameter], run)[0] is parameter


def test_a_leaf_that_needs_gradients_still_does_and_a_graph_is_refused(run):
    leaf = torch.rand(3, requires_grad=True)
    assert round_trip(leaf, run).requires_grad
    with pytest.raises(UsageError, match=r"^value\['x'\] is a tensor with its graph"):
        round_trip({"x": leaf * 2}, run)


def test_tensors_are_copied_into_what_setup_made(run):
    made = torch.zeros(3)
    value = torch.rand(3)
    assert round_trip({"a": value}, run, {"a": made})["a"] is made and torch.equal(made, value)


@pytest.mark.parametrize("make", [lambda: np.random.default_rng(3), lambda: np.random.Generator(np.random.MT19937(3))], ids=["PCG64", "MT19937"])
def test_numpy_generators_continue_identically(make, run):
    rng = make()
    rng.random(5), rng.integers(0, 9, 3, dtype=np.uint8)
    for into in (None, make()):
        copy = round_trip(rng, run, into)
        state = rng.bit_generator.state
        expected = rng.random(4).tolist(), rng.integers(0, 9, 3, dtype=np.uint8).tolist(), rng.standard_normal(3).tolist()
        assert (copy.random(4).tolist(), copy.integers(0, 9, 3, dtype=np.uint8).tolist(), copy.standard_normal(3).tolist()) == expected
        rng.bit_generator.state = state


def test_torch_and_python_generators_continue_identically(run):
    g, p = torch.Generator().manual_seed(4), random.Random(5)
    torch.rand(7, generator=g), p.gauss(0, 1)
    g2, p2 = round_trip([g, p], run)
    assert torch.equal(torch.randn(5, generator=g), torch.randn(5, generator=g2))
    assert [p.gauss(0, 1) for _ in range(3)] == [p2.gauss(0, 1) for _ in range(3)]


def test_experiences_come_back_as_the_stream_s(run):
    assert round_trip({"at": run.stream.experiences[2]}, run)["at"] is run.stream.experiences[2]


def test_a_module_keeps_weights_buffers_frozen_parameters_and_modes_of_its_parts(run):
    def make():
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)))

    module = make()
    module[:2](torch.rand(4, 2, 3, 3))
    module[0].weight.requires_grad_(False)
    module[1].eval()
    back = round_trip(module, run, make())
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), back.state_dict().values(), strict=True))
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]
    assert [m.training for m in back.modules()] == [m.training for m in module.modules()]


def test_a_copy_of_the_model_made_after_setup_comes_back(run):
    teacher = run.copy_model().requires_grad_(False).eval()
    with torch.no_grad():
        teacher.head.weight.add_(1)
    back = round_trip(teacher, run)
    assert back is not run.model and torch.equal(back.head.weight, teacher.head.weight) and not torch.equal(back.head.weight, run.model.head.weight)
    assert not any(m.training for m in back.modules()) and not any(p.requires_grad for p in back.parameters())
    with pytest.raises(UsageError, match="not shaped like the model: make it in setup"):
        round_trip(nn.Linear(2, 2), run)


def test_channels_last_parameters_and_momentum_keep_their_strides(run_of, tiny):
    run = run_of("model=cnn", "device=cpu", "scenario.experiences=3", scenario={"dataset": tiny.name})
    weight = run.model.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    values, stride = weight.detach().clone(), weight.stride()
    back = round_trip(run.model, run, run.copy_model())
    assert back.conv2.weight.stride() == stride and torch.equal(back.conv2.weight, values)

    def optimizer():
        return torch.optim.SGD(run.model.parameters(), lr=0.1, momentum=0.9)

    first = optimizer()
    run.model(torch.rand(2, 3, 8, 8)).sum().backward()
    first.step()
    second = round_trip(first, run, optimizer())
    old, new = first.state[weight]["momentum_buffer"], second.state[weight]["momentum_buffer"]
    assert torch.equal(old, new) and old.stride() == new.stride() == stride


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_an_optimizer_goes_on_bit_for_bit(kind):
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    }
    torch.manual_seed(0)
    x = torch.rand(8, 5)

    class FakeRun:
        device, parameter_ids = "cpu", frozenset()

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    a = nn.Linear(5, 3)
    first = kinds[kind](a.parameters())
    train(a, first, 3)
    b = nn.Linear(5, 3)
    b.load_state_dict(a.state_dict())
    run = FakeRun()
    run.model = b
    second = round_trip(first, run, kinds[kind](b.parameters()))
    train(a, first, 3)
    train(b, second, 3)
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_an_optimizer_or_memory_without_a_place_is_refused_in_one_line(run_of, small):
    run = run_of(*small, "strategy=replay")
    for value, what in ((torch.optim.SGD(run.model.parameters(), lr=0.1), "optimizer"), (run.memories["replay"], "memory")):
        with pytest.raises(UsageError, match=f"{what} made after `setup` cannot be restored"):
            round_trip(value, run)


# -- parts ------------------------------------------------------------------------------------------------------


class Custom:
    pass


class Keeps(Modifier):
    """Sets an attribute at the first step."""

    def __init__(self, value):
        super().__init__()
        self._make = lambda: value

    transient = frozenset({"_make"})

    def after_step(self):
        self.odd = self._make()


@pytest.mark.parametrize("kind", ["lambda", "open file", "object", "nested"])
def test_what_cannot_be_kept_fails_at_the_first_step_naming_part_and_attribute(kind, cell_of, small, tmp_path):
    with (tmp_path / "x").open("w") as file:
        value = {"lambda": lambda: 0, "open file": file, "object": Custom(), "nested": {"a": [1, Custom()]}}[kind]
        cell = cell_of(*small, parts=[cell_of(*small).parts[0], Keeps(value)])
        steps = []
        with pytest.raises(UsageError) as caught:
            run_cell(cell, Options(on_step=lambda run: steps.append(run.step)))
    where = "strategy part 'keeps': attribute 'odd'" + ("['a'][1]" if kind == "nested" else "")
    assert str(caught.value).startswith(f"{where} is a ") and "\n" not in str(caught.value)
    assert steps == []


def test_names_in_transient_are_not_kept(cell_of, small):
    class Careful(Keeps):
        transient = frozenset({"_make", "odd"})

    assert run_cell(cell_of(*small, parts=[cell_of(*small).parts[0], Careful(Custom())]))["status"] == "ok"


# -- checkpoints ------------------------------------------------------------------------------------------------

HERE = {"machine": "x", "threads": 1}


def checkpoints(folder, identity="a", platform=HERE):
    return Checkpoints(folder, identity, platform, 0)


def fill(folder, count, identity="a"):
    made = checkpoints(folder, identity)
    for k in range(count):
        made.save({"k": k}, {"t": torch.full((3,), float(k))})


def test_the_newest_checkpoint_comes_back_and_two_are_kept(tmp_path):
    fill(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 2
    state, tensors, exact = checkpoints(tmp_path).load()
    assert state == {"k": 4} and tensors["t"].tolist() == [4, 4, 4] and exact


@pytest.mark.parametrize("damage", ["cut", "flipped", "tensors missing", "manifest missing", "manifest empty", "state missing"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(tmp_path, damage):
    fill(tmp_path, 3)
    newest = max(tmp_path.iterdir(), key=lambda p: p.name)
    tensors = newest / "tensors.safetensors"
    content = tensors.read_bytes()
    if damage == "cut":
        tensors.write_bytes(content[:-3])
    elif damage == "flipped":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "manifest empty":
        (newest / "manifest.json").write_text("")
    else:
        (newest / {"tensors missing": "tensors.safetensors", "manifest missing": "manifest.json", "state missing": "state.json"}[damage]).unlink()
    with pytest.warns(CheckpointWarning, match="damaged"):
        state, *_ = checkpoints(tmp_path).load()
    assert state == {"k": 1}


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert checkpoints(tmp_path / "absent").load() is None
    fill(tmp_path, 2)
    for path in tmp_path.iterdir():
        (path / "state.json").write_text("{}")
    with pytest.warns(CheckpointWarning):
        assert checkpoints(tmp_path).load() is None


def test_a_write_that_fails_leaves_nothing_and_the_old_checkpoint_stands(tmp_path, monkeypatch):
    fill(tmp_path, 1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clsuite.training.checkpoint._write", full)
        with pytest.raises((OSError, UsageError), match="No space left"):
            checkpoints(tmp_path).save({"k": 9}, {"t": torch.zeros(3)})
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints(tmp_path).load()[0] == {"k": 0}


def test_an_unfinished_folder_is_not_a_checkpoint(tmp_path):
    fill(tmp_path, 1)
    whole = next(tmp_path.iterdir())
    shutil.copytree(whole, tmp_path / f".{whole.name[:-1]}9.tmp")
    assert checkpoints(tmp_path).load()[0] == {"k": 0}


def test_a_checkpoint_of_other_source_code_is_left_aside_with_a_warning(tmp_path):
    fill(tmp_path, 1, "a")
    with pytest.warns(CheckpointWarning, match="other source code"):
        assert checkpoints(tmp_path, "b").load() is None
    fill(tmp_path, 1, "b")
    with pytest.warns(CheckpointWarning, match="other source code"):
        assert checkpoints(tmp_path, "a").load()[0] == {"k": 0}  # the older one is its own


def test_a_checkpoint_of_another_platform_is_not_exact(tmp_path):
    fill(tmp_path, 1)
    assert checkpoints(tmp_path, platform={**HERE, "threads": 2}).load()[2] is False


def test_two_attempts_do_not_mix_their_checkpoints(tmp_path):
    one, two = checkpoints(tmp_path), checkpoints(tmp_path)
    one.save({"k": "one"}, {})
    two.save({"k": "two"}, {})
    one.save({"k": "one again"}, {})
    assert checkpoints(tmp_path).load()[0] == {"k": "one again"}


def test_without_a_folder_nothing_is_written():
    made = checkpoints(None)
    made.save({}, {})
    assert not made.due() and made.load() is None
