"""One thread, a cache folder of its own, no download; cells and data small enough for a test."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import clsuite
from clsuite import registry
from clsuite.data.text.tokenizer import load_tokenizer
from clsuite.experiment.cell import make_run
from clsuite.experiment.engines import local
from clsuite.experiment.engines.forkserver import ForkServer, ServerEnded
from clsuite.experiment.grid import WARM
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.memory import Memory
from clsuite.strategy import Modifier

torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay in one process, so that what they share is made once; those of killed runs share nothing, and fill what time is left."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "test_resume.py" in nodeid else super()._split_scope(nodeid)

    if config.option.markexpr == "kill":
        config.option.loadscopereorder = False  # by number of tests, the file that takes longest would come last
    return Files(config, log) if config.option.markexpr in ("unit", "kill") else None


@pytest.fixture(scope="session", autouse=True)
def quiet_surroundings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CLSUITE_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Digits, 200 training samples: experiences of 4, 3 and 3 classes with 10, 8 and 8 steps."""
    return [
        "scenario.dataset=digits",
        "scenario.experiences=3",
        "scenario.first_classes=4",
        "scenario.samples_per_class=20",
        "model.hidden=[20]",
        "training.epochs=2",
        "training.batch_size=16",
        "device=cpu",
    ]


@pytest.fixture(scope="session")
def tiny():
    """Colour images in memory, 8x8, six classes of 14 training and 6 test images."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 200, (6, 8, 8, 3))
    data = []
    for count in (14, 6):
        y = rng.permutation(np.repeat(np.arange(6), count))
        data += [(pattern[y] + rng.integers(0, 56, (len(y), 8, 8, 3))).astype(np.uint8), y]
    return clsuite.images(*data, name="tiny")


@pytest.fixture(scope="session")
def cell_of():
    """A cell from `key=value` texts, the last of a key counts; `parts` replaces its strategy by objects made in the test."""

    def make(*overrides, parts=None, **values):
        raw = parse_overrides({text.partition("=")[0]: text for text in overrides}.values(), COMPONENTS)
        for key, value in values.items():
            raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
        cell = resolve(raw)
        if parts is not None:
            for part in parts:
                part.name = part.name or type(part).__name__.lower()
            cell.parts = list(parts)
        return cell

    return make


@pytest.fixture(scope="session")
def run_of(cell_of):
    """A run that has not begun: stream, model and parts put together."""

    def make(*overrides, parts=None, **values):
        return make_run(cell_of(*overrides, parts=parts, **values), torch.device("cpu"))

    return make


@pytest.fixture
def register(monkeypatch):
    """Put a class into the catalogue of strategies for one test."""
    added = {}
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: added[name] if kind == "strategies" and name in added else real(kind, name))

    def add(name, part):
        part.name = name
        added[name] = part
        return part

    return add


@pytest.fixture
def spy(register):
    """A modifier of that name whose hooks are functions of the test."""
    return lambda name="spy", **hooks: register(name, type(name.title(), (Modifier,), hooks))


@pytest.fixture
def seen(spy):
    """Of every step the ids of its current samples; strategies take the modifier `spy` for it."""
    current = []
    spy(before_step=lambda self, batch: current.append(batch.ids.numpy()))
    return current


@pytest.fixture
def draws(monkeypatch):
    """Every batch that a memory gave, in order."""
    drawn, real = [], Memory.sample

    def sample(self, *arguments):
        drawn.append(real(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(Memory, "sample", sample)
    return drawn


@pytest.fixture
def colour(run_of, tiny):
    """A run of ResNet-20 on the `tiny` images: two experiences of three classes, three steps each."""
    training = ["training.batch_size=14", "training.epochs=1", "training.learning_rate=0.05"]
    return lambda *overrides: run_of("model=resnet20", "device=cpu", "scenario.experiences=2", *training, *overrides, scenario={"dataset": tiny.name})


@pytest.fixture
def weight_file(tmp_path, colour):
    """Pretrained weights of a ResNet-20: those of another seed."""
    path = tmp_path / "own.safetensors"
    save_file({name: t.contiguous() for name, t in colour("seed=99").model.state_dict().items()}, path)
    return f"model.weights={path}"


@pytest.fixture
def nothing_loaded(tmp_path, monkeypatch):
    """An empty cache folder, no download, and no data or text loaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CLSUITE_OFFLINE", "1")
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    for cache in ("data.source._LOADED", "data.source._MEMORY", "data.text.corpus._LOADED"):
        monkeypatch.setattr(f"clsuite.{cache}", {})


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    """A tokenizer with 400 ids, trained on prose."""
    from .text_files import prose, write

    folder = tmp_path_factory.mktemp("bpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return load_tokenizer("bpe", 400, trained_on=write(folder / "prose.txt", prose(60_000)))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Folders of small language models, by name."""
    from .text_parts import write_checkpoints

    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def avalanche():
    """The parts of Avalanche that are used in tests (the import takes some seconds)."""
    from .avalanche_runs import parts

    return parts()


class LastingServer(ForkServer):
    """A server that goes on when its engine leaves, unless a worker of it may still be there."""

    def __init__(self, surroundings):
        self.surroundings, self.alive, self._at_work = surroundings, True, 0
        raws = [{"scenario": {"dataset": "digits"}, "strategy": name} for name in ("naive", "replay")]
        super().__init__(local.PRELOAD, (WARM, {"raws": raws, "data_root": None}), ())
        assert not self.trouble

    def fork(self, number, theirs):
        self._at_work += 1
        super().fork(number, theirs)

    def messages(self):
        try:
            found = super().messages()
        except ServerEnded:
            self.alive = False
            raise
        self._at_work -= sum("code" in message for message in found)
        return found

    def end(self):
        if self.alive and self._at_work == 0:
            return 0
        self.alive = False
        return super().end()


@pytest.fixture(scope="session")
def lasting_servers():
    servers = []
    yield servers
    for server in servers:
        ForkServer.end(server)


@pytest.fixture(scope="module")
def one_server(lasting_servers):
    """Grids fork their workers from a server that is there already: to start one takes longer than a grid of small cells."""

    def started(preload, warm, path):
        kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        surroundings = (*path, *sys.path), os.getcwd(), kept
        if not (lasting_servers and lasting_servers[-1].alive and lasting_servers[-1].surroundings == surroundings):
            lasting_servers.append(LastingServer(surroundings))
        return lasting_servers[-1], preload, warm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "started", started)
        yield
