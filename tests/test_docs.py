"""What the documents show works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import clsuite
from clsuite.experiment.file import read
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("document", ["README.md", "docs/add-a-strategy.md"])
def test_the_strategy_in_the_document_runs(document: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks(document, "python")[0])
    result = clsuite.run(f"strategy={tmp_path}/mine.py:HalfReplay", "strategy.weight=0.3", "scenario.experiences=2", "training.epochs=1")
    assert result["status"] == "ok"
    assert result["cost"]["buffer_bytes"] > 0


def module_of(source: str, path: Path) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_scenario_in_the_document_makes_its_stream(tmp_path: Path) -> None:
    source = "import numpy as np\n" + blocks("docs/add-a-scenario.md", "python")[0]
    stream = module_of(source, tmp_path / "documented_scenario.py").Alternating(rounds=3).stream("evaluation", 0)
    assert [e.classes for e in stream.experiences] == [(0, 2, 4, 6, 8), (1, 3, 5, 7, 9)] * 3
    seen = [i for e in stream.experiences for s in e.segments for i in s.indices.tolist()]
    assert sorted(seen) == list(range(stream.source.size("train")))  # every sample once


@pytest.mark.parametrize("document", ["README.md", "docs/add-a-strategy.md", "docs/data.md", "docs/coming-from-avalanche.md", "docs/coming-from-mammoth.md"])
def test_the_settings_in_the_documents_exist(document: str) -> None:
    """Every `clsuite run` line resolves (with digits in place of data that has to be there)."""
    for line in re.findall(r"^clsuite run (.*)$", (ROOT / document).read_text(), flags=re.M):
        items = [w for w in line.split("#")[0].split() if "=" in w and "mine.py" not in w and not w.startswith("strategy.weight")]
        resolve(parse_overrides([w for w in items if not w.startswith("scenario.dataset")], COMPONENTS))


def test_the_experiment_in_the_document_is_valid(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("README.md", "python")[0])
    (tmp_path / "experiment.yaml").write_text(blocks("README.md", "yaml")[0])
    experiment = read(tmp_path / "experiment.yaml")
    assert experiment.labels == ["naive", "HalfReplay", "derpp"] and experiment.protocol.name == "two-phase"
    assert [d.path for d in experiment.spaces["HalfReplay"].dimensions if d.path.endswith("weight")] == ["strategy.weight"]


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_experiment_file_states_a_claim_and_resolves(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    experiment = read(file)
    assert experiment.expectations, "an experiment says what it must show"
    assert file.read_text().startswith("# ")
    for cell in experiment.cells:
        if cell.seed == experiment.cells[0].seed and values["scenario"].get("dataset") == "digits":
            experiment.resolved(cell, None)
