"""Extensions from outside: files, installed packages, and folders whose names are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CLSUITE_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
FAST = ("scenario.experiences=2", "training.epochs=1", "model.hidden=[10]")


def python(folder: Path, *words: str, interpreter: str | Path = sys.executable) -> subprocess.CompletedProcess:
    return subprocess.run([str(interpreter), *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)


def clsuite(folder: Path, *words: str, interpreter: str | Path = sys.executable) -> subprocess.CompletedProcess:
    return python(folder, "-m", "clsuite", *words, interpreter=interpreter)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return folder


THEIR_TEST = """
import sys
import clsuite
import scenarios
import strategies
from strategies import own

def test_both_worlds():
    assert (strategies.VALUE, own.VALUE, scenarios.VALUE) == (1, 2, 3)
    result = clsuite.run("scenario.experiences=2", "training.epochs=1", "strategy=replay")
    assert result["status"] == "ok" and len(result["matrix"]) == 2
    assert [name for name in sys.modules if name.startswith(("strategies.", "scenarios."))] == ["strategies.own"]
"""
NO_OURS = """
import sys
import clsuite
clsuite.run("scenario.experiences=2", "training.epochs=1", "strategy=replay")
print([name for name in sys.modules if name.partition(".")[0] in ("strategies", "scenarios", "experiments")])
"""


def test_folders_with_our_names_shadow_nothing(tmp_path):
    write(tmp_path, test_theirs=THEIR_TEST, strategies__own="VALUE = 2", other="")
    for name, value in (("strategies", 1), ("scenarios", 3)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text(f"VALUE = {value}\n")
    listed = clsuite(tmp_path, "list", "strategies", "--json")
    assert listed.returncode == 0 and not listed.stderr, listed.stderr
    assert {"naive", "replay"} <= {row["name"] for row in json.loads(listed.stdout)}
    assert python(tmp_path, "-c", NO_OURS).stdout.strip() == "[]"
    tested = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_new_strategy_runs_and_passes_its_test(tmp_path):
    assert clsuite(tmp_path, "new", "strategy", "mine").returncode == 0
    assert clsuite(tmp_path, "new", "strategy", "shared", "--package").returncode == 0
    ran = clsuite(tmp_path, "run", *FAST, "strategy=./mine.py:Mine", "--json")
    result = json.loads(ran.stdout)
    assert ran.returncode == 0 and result["strategy"] == "./mine.py:Mine"
    assert "mine.py:Mine" in result["environment"]["source"]  # editing the file makes it another cell
    tested = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py", "shared")
    assert tested.returncode == 0 and "4 passed" in tested.stdout, tested.stdout + tested.stderr


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
[tool.setuptools]
py-modules = ["{module}"]
"""
THEIRS = '''
import torch
from clsuite.models.base import Model, Network
from clsuite.scenario import ImageScenario
from clsuite.settings import setting
from clsuite.strategy import Strategy
from clsuite.stream import EvaluationSet, Experience, Segment

class Theirs(Strategy):
    """Their method."""
    rate: float = setting(0.5, ge=0, search=[0.1, 0.5])

class Halves(ImageScenario):
    """Two experiences: the lower half of the classes, then the upper half."""
    def stream(self, phase, seed):
        pool = self.pool(phase)
        half = pool.classes // 2
        groups = [tuple(range(half)), tuple(range(half, pool.classes))]
        train, test = pool.by_class("train"), pool.by_class("test")
        experiences = [Experience(i, tuple(Segment(i, train[c]) for c in g), g) for i, g in enumerate(groups)]
        sets = [EvaluationSet(f"half {i}", __import__("numpy").concatenate([test[c] for c in g]), i, g) for i, g in enumerate(groups)]
        return self.make(pool, phase, seed, experiences, sets)

class Flat(Network):
    def __init__(self, inputs, classes):
        super().__init__()
        self.head = torch.nn.Linear(inputs, classes)
    def features(self, x):
        return x.flatten(1)

class LinearModel(Model):
    """A linear classifier."""
    def build(self, shape, classes, data_root):
        return Flat(shape[0] * shape[1] * shape[2], classes)
'''
POINTS = {
    "theirs": {"strategies": ("theirs", "their_module:Theirs"), "scenarios": ("halves", "their_module:Halves"), "models": ("flat", "their_module:LinearModel")},
    "broken": {"strategies": ("broken_provider", "broken_module"), "scenarios": ("broken_class", "broken_module:Thing")},
    "rival": {"strategies": ("theirs", "rival_module:Rival")},
}
MODULES = {"theirs": ("their_module", THEIRS), "broken": ("broken_module", "import a_module_nobody_has\n"), "rival": ("rival_module", "class Rival: ...\n")}


def package(folder: Path, name: str) -> Path:
    module, text = MODULES[name]
    points = "".join(f'[project.entry-points."clsuite.{group}"]\n{key} = "{value}"\n' for group, (key, value) in POINTS[name].items())
    folder = write(folder / name, **{module: text})
    (folder / "pyproject.toml").write_text(PROJECT.format(name=f"{name}-package", module=module) + points)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment that sees the packages of this one, and has packages of other people installed."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*names: str) -> Path:
        if names not in made:
            folder = tmp_path_factory.mktemp("-".join(names))
            assert python(folder, "-m", "venv", "--without-pip", "venv").returncode == 0
            interpreter = folder / "venv" / "bin" / "python"
            site = python(folder, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", interpreter=interpreter).stdout.strip()
            paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
            Path(site, "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in paths))
            options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--target", site]
            installed = python(folder, "-m", "pip", "install", *options, *(str(package(folder, name)) for name in names))
            assert installed.returncode == 0, installed.stderr
            made[names] = interpreter
        return made[names]

    return make


def test_an_installed_package_adds_a_strategy_a_scenario_and_a_model(tmp_path, environment):
    interpreter = environment("theirs")
    ran = clsuite(
        tmp_path, "run", "strategy=theirs", "scenario=halves", "model=flat", "strategy.rate=0.1", "training.epochs=1", "--json", interpreter=interpreter
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert (result["strategy"], len(result["matrix"]), result["cost"]["parameters"]) == ("theirs", 2, 650)
    assert result["spec"]["strategy"]["rate"] == 0.1
    rows = {row["name"]: row for row in json.loads(clsuite(tmp_path, "list", "strategies", "--json", interpreter=interpreter).stdout)}
    assert rows["theirs"]["origin"] == "theirs-package" and rows["theirs"]["description"] == "Their method."
    assert rows["replay"]["origin"] == "native"


def test_a_package_that_cannot_be_imported_is_named_and_stops_nothing(tmp_path, environment):
    interpreter = environment("theirs", "broken")
    ran = clsuite(tmp_path, "run", "strategy=theirs", *FAST, "--json", interpreter=interpreter)
    assert ran.returncode == 0 and json.loads(ran.stdout)["status"] == "ok"
    warned = [line for line in ran.stderr.splitlines() if line.startswith("clsuite: warning: ")]
    assert len(warned) == 1 and "broken-package" in warned[0] and "a_module_nobody_has" in warned[0]
    listed = clsuite(tmp_path, "list", "scenarios", "--json", interpreter=interpreter)
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert listed.returncode == 0 and "a_module_nobody_has" in rows["broken_class"]["broken"] and rows["class_incremental"]["broken"] is None
    assert "broken-package" in listed.stderr and len(listed.stderr.splitlines()) == 1


def test_two_packages_with_one_name_are_both_named(tmp_path, environment):
    interpreter = environment("theirs", "rival")
    ran = clsuite(tmp_path, "run", "strategy=theirs", *FAST, interpreter=interpreter)
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1), ran.stderr
    assert "theirs-package" in ran.stderr and "rival-package" in ran.stderr
    assert clsuite(tmp_path, "run", *FAST, "--json", interpreter=interpreter).returncode == 0
