"""What is found in an Avalanche, with a small package standing for it; the real one is looked through in test_avalanche_strategies."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

import clsuite
from clsuite import interop, registry
from clsuite.errors import UsageError
from clsuite.experiment.identity import cell_hash, differs_from_installed, source_digests
from clsuite.experiment.spec import resolve
from clsuite.interop import avalanche_catalogue
from clsuite.interop.avalanche_state import Lender, from_bytes, to_bytes
from clsuite.report.catalogue import list_command, show_command
from clsuite.settings import Span

pytestmark = pytest.mark.unit

FILES = {
    "__init__.py": "",
    "core.py": "class BasePlugin:\n    pass\n",
    "models/__init__.py": "",
    "training/__init__.py": "",
    "training/templates/__init__.py": "",
    "training/templates/base.py": "class BaseTemplate:\n    def __init__(self, *, model, device='cpu', plugins=None, **kwargs):\n        pass\n",
    "training/broken.py": "import not_there_at_all\n",
    "training/plugins.py": '''
from fake_avalanche.core import BasePlugin


class ShinyReplayPlugin(BasePlugin):
    def __init__(self, mem_size: int = 30, share=0.5):
        pass


class DriftWatch(BasePlugin):
    """Watches drift. It does more."""

    def __init__(self, every=4):
        pass


class Clock(BasePlugin):
    pass
''',
    "training/supervised.py": '''
import functools
from typing import Callable, List, Literal, Optional, Sequence, Union

from torch.nn import Module

from fake_avalanche.training.plugins import ShinyReplayPlugin
from fake_avalanche.training.templates.base import BaseTemplate


class ShinyReplay(BaseTemplate):
    """Replays what shines,
    and nothing else. Second sentence.
    """

    def __init__(self, *, model: Module, optimizer, mem_size: int, share: float = 0.9, weight: float = -1, weights: Union[float, Sequence[float]] = 2.0,
                 rule: Union[float, Callable[[int], float], List[float]] = 0.5, order: Literal["first", "last"] = "last", verbose: bool = True,
                 loader: Optional[Module] = None, again: bool = False, small: float = 1e-3, label: str = "x", train_mb_size: int = 1, **kwargs):
        """
        :param model: the model.
        :param mem_size: how many
            samples shine.
        :param small: a small number.
        """


class NeedsTeacher(BaseTemplate):
    def __init__(self, *, model: Module, teacher: Module, **kwargs):
        pass


class OpenRate(BaseTemplate):
    def __init__(self, *, model: Module, rate: float, **kwargs):
        pass


class EWC(BaseTemplate):
    def __init__(self, *, model, ewc_lambda: float, mode: str = "separate", decay_factor: Optional[float] = None):
        pass


class _Hidden(BaseTemplate):
    pass


class LateClass(BaseTemplate):
    """Is on its way out."""

    def __init__(self, *, model, train_passes: int = 1):
        pass


@functools.wraps(LateClass, updated=())
def _warned(*args, **kwargs):
    return _warned.__wrapped__(*args, **kwargs)


LateClass = _warned
''',
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The catalogue of the package that stands for Avalanche."""
    folder = tmp_path_factory.mktemp("fake")
    for name, text in FILES.items():
        file = folder / "fake_avalanche" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield avalanche_catalogue.survey("fake_avalanche")
    for name in [n for n in sys.modules if n.startswith("fake_avalanche")]:
        del sys.modules[name]


@pytest.fixture
def in_its_place(found, monkeypatch):
    """The registry finds the package that stands for Avalanche."""
    monkeypatch.setattr(avalanche_catalogue, "catalogue", lambda: found)
    monkeypatch.setattr(avalanche_catalogue, "known", lambda: found)
    registry.refresh()
    yield
    registry.refresh()


@pytest.mark.parametrize(
    "kind, name",
    [
        *(("EWC", "ewc"), ("LwF", "lwf"), ("GDumb", "gdumb"), ("ICaRL", "icarl"), ("BiCPlugin", "bic"), ("CoPE", "cope"), ("LaMAML", "lamaml")),
        *(("SynapticIntelligence", "synaptic_intelligence"), ("GSS_greedyPlugin", "gss_greedy"), ("ER_ACE", "er_ace"), ("PNNStrategy", "pnn")),
        *(("CWRStar", "cwr_star"), ("RWalkPlugin", "rwalk"), ("PackNet", "packnet"), ("StreamingLDA", "streaming_lda"), ("AR1", "ar1")),
        *(("CurrentDataFeCAMUpdate", "current_data_fecam_update"), ("NCMOracle", "ncm_oracle"), ("LearningToPrompt", "learning_to_prompt")),
    ],
)
def test_class_names_become_names_of_strategies(kind, name):
    assert avalanche_catalogue.name_of(kind) == name


def test_everything_public_is_a_row_or_has_a_reason(found):
    assert set(found.strategies) == {"shiny_replay", "open_rate", "ewc", "online_ewc", "late_class", "drift_watch"}
    assert set(found.unwrappable) == {"needs_teacher", "base_template", "clock"}
    assert found.unwrappable["needs_teacher"] == "needs 'teacher' (Module), which clsuite does not know how to make"
    assert found.strategies["shiny_replay"]["classes"] == [
        "fake_avalanche.training.supervised:ShinyReplay",
        "fake_avalanche.training.plugins:ShinyReplayPlugin",
    ]
    assert found.strategies["late_class"]["settings"] == []  # passes are epochs, and the class is found behind its deprecation
    assert [found.strategies[n]["kind"] for n in ("drift_watch", "ewc")] == ["plugin", "template"]


def test_a_module_that_cannot_be_imported_costs_itself_alone(found):
    assert len(found.missing) == 1
    assert found.missing[0].startswith("fake_avalanche.training.broken cannot be imported (ModuleNotFoundError: No module named 'not_there_at_all')")


def test_settings_are_what_the_constructor_takes_and_the_run_does_not_give(found):
    rows = {row["name"]: row for row in found.strategies["shiny_replay"]["settings"]}
    assert list(rows) == ["mem_size", "share", "weight", "weights", "rule", "order", "again", "small", "label"]
    assert (rows["mem_size"]["default"], rows["mem_size"]["types"], rows["mem_size"]["ge"]) == (30, ["int"], 1)  # the plugin's, where the class has none
    assert rows["mem_size"]["search"] == [200, 500, 1000] and rows["mem_size"]["help"] == "how many samples shine."
    assert (rows["weight"]["default"], rows["weight"]["types"], rows["weight"]["ge"], rows["weight"]["search"]) == (-1.0, ["float"], None, None)
    assert rows["weights"]["types"] == rows["rule"]["types"] == ["float", "float[]"]
    assert rows["share"]["search"] == {"low": 0.09, "high": 1.0} and rows["small"]["search"] == {"low": 0.0001, "high": 0.01}
    assert rows["order"]["choices"] == ["first", "last"] and rows["again"]["search"] is None
    watch = found.strategies["drift_watch"]["settings"][0]
    assert (watch["name"], watch["default"], watch["search"]) == ("every", 4, [2, 4, 8])
    online = {row["name"]: row["default"] for row in found.strategies["online_ewc"]["settings"]}
    assert (online["mode"], online["decay_factor"]) == ("online", 1.0)


def test_a_row_becomes_a_strategy_of_the_registry(found, in_its_place):
    made = registry.load("strategies", "avalanche/shiny_replay")
    assert made.name == "avalanche/shiny_replay" and made.__doc__.startswith("Replays what shines, and nothing else.\n")
    declared = made.declared()
    assert declared["small"].search == Span(0.0001, 0.01, log=True) and declared["small"].help == "a small number; search space: ours"
    assert made(weights=[1.0, 2.0], label_="y").settings()["weights"] == [1.0, 2.0]  # `label` is taken: every part has one
    with pytest.raises(UsageError, match=r"strategy.order = 'middle' is not valid: expected one of first, last"):
        made.validated({"order": "middle"}, "strategy")
    with pytest.raises(UsageError, match=r"strategy.mem_size = 0 is out of bounds"):
        made.validated({"mem_size": 0}, "strategy")
    assert registry.entry("strategies", "avalanche/shiny_replay").target == "fake_avalanche.training.supervised:ShinyReplay"
    assert "avalanche/shiny_replay" not in registry.catalogue("strategies")


def test_a_wrong_name_gets_the_nearest_one_and_a_known_one_its_reason(in_its_place):
    with pytest.raises(UsageError, match=r"unknown strategy 'avalanche/shiny_repla'; did you mean 'avalanche/shiny_replay'.*broken cannot be imported"):
        registry.load("strategies", "avalanche/shiny_repla")
    with pytest.raises(UsageError, match=r"strategy 'avalanche/needs_teacher' of Avalanche .* cannot be run: it needs 'teacher'"):
        registry.load("strategies", "avalanche/needs_teacher")
    with pytest.raises(UsageError, match="unknown strategy 'mammoth/ewc'"):
        registry.load("strategies", "mammoth/ewc")


def test_a_value_that_is_left_open_must_be_given(in_its_place):
    raw = {"scenario": {"dataset": "digits"}, "device": "cpu"}
    with pytest.raises(UsageError, match=r"strategy.rate must be given: Avalanche has no default for it"):
        clsuite.run("scenario.dataset=digits", "device=cpu", "strategy=avalanche/open_rate")
    assert resolve({**raw, "strategy": {"name": "avalanche/open_rate", "rate": 0.5}}).spec["strategy"]["rate"] == 0.5


def test_a_cell_is_its_name_and_settings_and_its_record_says_which_avalanche(found, in_its_place):
    def cell(**strategy):
        return resolve({"scenario": {"dataset": "digits"}, "device": "cpu", "strategy": {"name": "avalanche/shiny_replay", **strategy}})

    assert cell_hash(cell()) == cell_hash(cell(mem_size=30)) != cell_hash(cell(mem_size=31))
    assert cell_hash(cell()) != cell_hash(resolve({"scenario": {"dataset": "digits"}, "device": "cpu", "strategy": {"name": "avalanche/drift_watch"}}))
    digests = source_digests(cell())
    assert digests["avalanche-lib"] == found.version and {"clsuite", "clsuite.interop"} <= set(digests)
    if interop.installed() is not None:
        assert not differs_from_installed({"environment": {"source": digests}})
        assert differs_from_installed({"environment": {"source": {**digests, "avalanche-lib": "0.0.1"}}})


def test_list_and_show_know_them_without_the_package(found, in_its_place, capsys):
    list_command("strategies", as_json=True)
    assert '"avalanche/shiny_replay"' in capsys.readouterr().out
    list_command("strategies", as_json=False)
    assert "training.broken cannot be imported" in capsys.readouterr().out.replace("\n", " ")
    show_command("strategy", "avalanche/shiny_replay", as_json=False)
    out = capsys.readouterr().out
    assert "avalanche-lib" in out and "mem_size" in out


def test_what_was_found_is_looked_for_once_and_a_damaged_record_again(found, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(interop, "installed", lambda: "0.6.0")
    monkeypatch.setattr(interop, "part", lambda module: None)
    looks = []
    monkeypatch.setattr(avalanche_catalogue, "survey", lambda: looks.append(1) or found)
    assert avalanche_catalogue.known() is None
    assert "not looked through yet; clsuite show strategy avalanche/naive" in avalanche_catalogue.note()
    for _ in range(2):
        avalanche_catalogue._catalogue.cache_clear()  # as a new process
        assert avalanche_catalogue.catalogue().strategies == found.strategies
    assert avalanche_catalogue.known() == found and looks == [1]
    next((tmp_path / "clsuite" / "avalanche").glob("*.txt")).write_text("{")
    avalanche_catalogue._catalogue.cache_clear()
    assert avalanche_catalogue.catalogue() == found and looks == [1, 1]
    monkeypatch.setattr(interop, "installed", lambda: "0.7.0")
    assert avalanche_catalogue.known() is None  # another version is looked through anew
    avalanche_catalogue._catalogue.cache_clear()


@pytest.mark.parametrize(
    "version, expected", [(None, "Avalanche is not installed"), ("0.3.1", "Avalanche 0.3.1 is too old"), ("2.0", "Avalanche 2.0 is too new")]
)
def test_an_avalanche_that_is_absent_or_of_another_time_is_one_line(version, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(interop, "installed", lambda: version)
    interop.avalanche.cache_clear()
    avalanche_catalogue._catalogue.cache_clear()
    registry.refresh()
    with pytest.raises(UsageError, match=expected) as error:
        registry.load("strategies", "avalanche/ewc")
    assert "\n" not in str(error.value)
    assert registry.load("strategies", "replay").name == "replay"
    list_command("strategies", as_json=True)  # the rest is there
    assert expected in avalanche_catalogue.note() and "\n" not in avalanche_catalogue.note()
    interop.avalanche.cache_clear()
    registry.refresh()


# -- the form they are kept in ----------------------------------------------------------------------------------------


class Holder:
    """Stands for a strategy: what it refers to is the test's to say."""

    def __init__(self, **content):
        vars(self).update(content)

    def numbers(self, start):
        yield from range(start, start + 3)


def squares(upto):
    yield from (n * n for n in range(upto))


@pytest.fixture(scope="module")
def lender():
    return Lender(clsuite.stream("scenario=class_incremental", "scenario.dataset=digits"), {"meter": object()})


def test_the_streams_own_objects_are_borrowed_not_copied(lender):
    segment = lender.stream.experiences[1].segments[0].content
    written = to_bytes(Holder(stream=lender.stream, indices=[segment], labels=lender.stream.outputs("train"), meter=lender.objects["meter"]), lender)
    assert written.dtype == torch.uint8 and len(written) < 2000
    again = from_bytes(written, lender)
    assert again.stream is lender.stream and again.indices[0] is segment and again.meter is lender.objects["meter"]
    assert again.labels is lender.objects["outputs"]


def test_tensors_that_are_one_stay_one_and_functions_without_a_name_are_kept(lender):
    weight, factor = torch.nn.Parameter(torch.rand(3)), 3
    again = from_bytes(to_bytes(Holder(a=weight, b=[weight], f=lambda x: factor * x), lender), lender)
    assert again.a is again.b[0] and torch.equal(again.a, weight) and again.a.requires_grad
    assert again.f(2) == 6


def test_an_iterator_that_has_not_begun_begins_anew_and_another_has_ended(lender):
    holder = Holder(begun=squares(4), fresh=squares(4))
    holder.method = holder.numbers(5)
    next(holder.begun)
    loader = torch.utils.data.DataLoader([1, 2, 3])
    holder.loader, holder.passing = loader, iter(loader)
    again = from_bytes(to_bytes(holder, lender), lender)
    assert list(again.fresh) == [0, 1, 4, 9] and list(again.method) == [5, 6, 7] and list(again.begun) == list(again.passing) == []
    assert [int(x) for x in again.loader] == [1, 2, 3]


def test_nothing_here_imports_avalanche():
    """The engine lists, checks and hashes these strategies without it."""
    for name in ("catalogue", "signatures", "tables", "models", "meter", "state", "strategy", "recipes"):
        module = importlib.import_module(f"clsuite.interop.avalanche_{name}")
        assert not any(getattr(v, "__module__", "").startswith("avalanche.") for v in vars(module).values())
