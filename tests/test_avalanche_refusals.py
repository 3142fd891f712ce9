"""Streams to Avalanche and back: what does not fit is refused in one line, with Avalanche or without."""

from __future__ import annotations

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
from clsuite.interop.avalanche_pixels import NotPixels, pixels
from clsuite.interop.surroundings import patience, seeded

from .avalanche_streams import halves_of_digits, imported_stream, refusal, stream_of

unit = pytest.mark.unit
needs_avalanche = pytest.mark.avalanche
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated", "ignore:No loggers", "ignore:stream generator")


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
def test_what_cannot_be_imported_is_said_in_one_line(avalanche):
    def made(change=lambda x: x, labels=lambda y: y, **settings):
        parts = [torch.utils.data.TensorDataset(change(d.tensors[0]), labels(d.tensors[1])) for d in halves_of_digits(40)]
        return avalanche.ni_benchmark(*parts, n_experiences=2, seed=0, **settings)

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
        refusal(lambda parts=parts: clsuite.from_avalanche(avalanche.ni_benchmark(*parts, n_experiences=2, seed=0)), words)


@needs_avalanche
def test_a_class_that_is_only_tested_is_kept(avalanche):
    """As in the first experiences of a class-incremental benchmark, measured on all of its test stream."""
    train, test = halves_of_digits()
    made = avalanche.nc_benchmark(train, test, n_experiences=5, task_labels=False, fixed_class_order=list(range(10)))
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
