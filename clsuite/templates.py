"""What `clsuite new strategy` writes."""

from __future__ import annotations

import keyword
import shutil
import sys
from pathlib import Path

from .errors import UsageError

STRATEGY = '''"""NAME: say in one line what it does."""

from __future__ import annotations

from clsuite.batch import Batch
from clsuite.settings import setting
from clsuite.strategy import Strategy
from torch import Tensor


class CLASS(Strategy):
    """Weighted replay: the loss on remembered samples counts `weight` times. Source: (your paper, equation)."""

    needs = frozenset({"memory"})

    weight: float = setting(1.0, ge=0, search=[0.5, 1.0, 2.0], help="how much the loss on remembered samples counts")

    def training_step(self, batch: Batch) -> Tensor:
        loss = self.loss(batch)
        if self.memory:
            loss = loss + self.weight * self.loss(self.memory.sample(len(batch)))
        self.update(loss)
        return loss
'''

TEST = '''"""NAME learns, and the same seed gives the same numbers."""

from pathlib import Path

import clsuite

FILE = Path(__file__).with_name("NAME.py")


def result(seed: int = 0) -> dict:
    return clsuite.run("scenario.experiences=2", "training.epochs=1", f"strategy={FILE}:CLASS", seed=seed)


def test_it_runs_through_two_experiences():
    matrix = result()["matrix"]
    assert [len(row) for row in matrix] == [2, 2]
    assert all(0 <= accuracy <= 1 for row in matrix for accuracy in row)


def test_the_same_seed_gives_the_same_numbers():
    first, second = result(), result()
    assert first["matrix"] == second["matrix"]
    assert first["weights_sha256"] == second["weights_sha256"]
    assert result(seed=1)["weights_sha256"] != first["weights_sha256"]
'''

PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "NAME"
version = "0.1.0"
description = "A strategy for clsuite"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["clsuite"]

[project.entry-points."clsuite.strategies"]
NAME = "NAME:CLASS"

[tool.setuptools]
py-modules = ["NAME"]
"""

README = """# NAME

A strategy for clsuite.

    pip install -e .
    clsuite run strategy=NAME scenario.dataset=digits
    clsuite show strategy NAME
    pytest
"""


def class_name(name: str) -> str:
    """`my_method` gives `MyMethod`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or name


def write_strategy(name: str, folder: Path, package: bool) -> str:
    """Write the files below `folder`; what to type next. Raises `UsageError` rather than overwrite anything."""
    if not name.isidentifier() or keyword.iskeyword(name) or not class_name(name).isidentifier():
        raise UsageError(f"'{name}' is no Python name (valid: letters, digits and _, such as my_method)")
    if name in sys.stdlib_module_names or name in ("clsuite", "numpy", "torch"):
        raise UsageError(f"'{name}' is the name of a module that {name}.py would hide; take another")
    target = folder / name if package else folder
    texts = {f"{name}.py": STRATEGY, f"test_{name}.py": TEST}
    if package:
        texts |= {"pyproject.toml": PYPROJECT, "README.md": README}
    for existing in [target] if package else [target / file for file in texts]:
        if existing.exists():
            raise UsageError(f"'{existing}' exists already and is not overwritten")
    cls = class_name(name)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (target / file).write_text(text.replace("CLASS", cls).replace("NAME", name))
    except OSError as error:
        if package:
            shutil.rmtree(target, ignore_errors=True)
        raise UsageError(f"'{target}' cannot be written: {error.strerror or error}") from error
    wrote = "wrote " + ", ".join(str(target / file) for file in texts)
    if package:
        steps = [f"pip install -e {target}", f"pytest {target}", f"clsuite run strategy={name} scenario.dataset=digits"]
    else:
        steps = [f"pytest test_{name}.py", f"clsuite show strategy ./{name}.py:{cls}", f"clsuite run strategy=./{name}.py:{cls} scenario.dataset=digits"]
    return "\n".join([wrote, "next:", *(f"  {step}" for step in steps)])
