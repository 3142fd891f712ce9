"""The house as docs/architecture.md describes it: arrows run one way, the engine names nobody."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from clsuite import registry

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
ENGINE = sorted((ROOT / "clsuite").rglob("*.py"))
ROOMS = {"report": 4, "interop": 3, "experiment": 3, "prediction": 3, "training": 2}  # anything else is a contract module, data or models
READERS = ("avalanche_benchmarks", "avalanche_names", "avalanche_pixels", "avalanche_streams", "surroundings")
"""Of `interop` what turns other people's data into streams and back: a scenario may import it, and it may import the contract alone."""


def imported(file: Path) -> set[str]:
    """Absolute names of the modules a file imports, wherever in it (type-checking blocks left out)."""
    package = ".".join(file.relative_to(ROOT).with_suffix("").parts[:-1])
    tree = ast.parse(file.read_text())
    guarded = {id(node) for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test) for node in ast.walk(n)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found.add(name)
            found.update(f"{name}.{alias.name}" for alias in node.names)
    return found


def level(module: str) -> int:
    parts = module.split(".")
    if parts[:2] == ["clsuite", "interop"] and (len(parts) == 2 or parts[2] in READERS or not parts[2].startswith("avalanche_")):
        return 1
    return ROOMS.get(parts[1], 1) if len(parts) > 1 and parts[0] == "clsuite" else 0


@pytest.mark.parametrize("file", [f for f in ENGINE if f.parent != ROOT / "clsuite" or f.stem not in ("__init__", "__main__", "cli", "templates")], ids=str)
def test_imports_run_one_way(file: Path) -> None:
    own = level(".".join(file.relative_to(ROOT).with_suffix("").parts))
    above = {name for name in imported(file) if level(name) > own}
    assert not above, f"{file.name} imports from a room above its own"


@pytest.mark.parametrize("folder", ["strategies", "scenarios"])
def test_strategies_and_scenarios_import_only_the_contract(folder: str) -> None:
    for file in (ROOT / folder).glob("*.py"):
        assert not {n for n in imported(file) if level(n) > 1}, f"{file.name} reaches into the engine"


def test_the_engine_names_no_strategy_and_no_scenario() -> None:
    names = {*registry.catalogue("strategies"), *registry.aliases(), *registry.catalogue("scenarios")}
    defaults = {"naive", "class_incremental"}  # what `clsuite run` without a word means
    allowed = {("spec.py", name) for name in defaults}
    for file in ENGINE:
        if file.name == "templates.py":
            continue
        strings = {n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        for name in strings & (names - {"replay", "avalanche"}):  # also the name of the shared memory, and of a package
            assert (file.name, name) in allowed, f"{file.name} asks for '{name}' by name"


def test_rooms_stay_small() -> None:
    for file in [*ENGINE, *(ROOT / "strategies").glob("*.py"), *(ROOT / "scenarios").glob("*.py")]:
        assert len(file.read_text().splitlines()) <= 400, f"{file.name} has grown past 400 lines: divide it"


def test_every_strategy_says_its_source() -> None:
    for name, entry in registry.catalogue("strategies").items():
        assert entry.facts.get("source") and entry.facts.get("family"), name
        assert re.search(r"\w", registry.load("strategies", name).__doc__ or ""), name
