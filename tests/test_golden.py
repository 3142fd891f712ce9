"""The hash of a cell stays what it is: a result on disk is found again by every later version.

A change of this file makes every stored result of such a cell unreachable. A new setting is declared with `since=2` instead, and enters the
hash only when it is used; numbers that change are said by a component's `revision`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from clsuite.experiment.identity import cell_hash
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden_hashes.json"
SCENARIOS = (
    "scenario=class_incremental scenario.experiences=5",
    "scenario=domain_incremental scenario.kind=rotation scenario.experiences=3",
    "scenario=blurry scenario.experiences=5 scenario.share=0.3",
    "scenario=power_law scenario.experiences=6 scenario.return_samples=50",
    "scenario=scole scenario.experiences=8",
)
STRATEGIES = (
    "strategy=naive",
    "strategy=replay strategy.buffer_size=50",
    "strategy=derpp+refresh strategy.alpha=0.3",
    "strategy=replay+fpf strategy.fpf.times=2",
    "strategy=joint",
)
TRAININGS = ("training.epochs=2 model=mlp", "model=cnn training.learning_rate=0.02 training.schedule=cosine seed=3")


def cells() -> dict[str, str]:
    """Fifty cells by their overrides, with their hashes now."""
    texts = [" ".join(parts) for parts in itertools.product(SCENARIOS, STRATEGIES, TRAININGS)]
    return {text: cell_hash(resolve(parse_overrides([*text.split(), "device=cpu"], COMPONENTS))) for text in texts}


def test_fifty_hashes_are_those_of_the_golden_file() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 50 and len(set(golden.values())) == 50
    assert cells() == golden


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(cells(), indent=1) + "\n")
