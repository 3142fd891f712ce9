"""What is given of a schedule beside a recipe or a default, and what is refused there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.assembly import make_run
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve

pytestmark = pytest.mark.unit


def schedule(*items: str) -> dict[str, Any]:
    return dict(resolve(parse_overrides(["scenario=llm_pretraining", *items], COMPONENTS)).spec["training"]["schedule"])


def test_a_setting_without_a_name_changes_the_schedule_of_the_recipe():
    found = schedule("training.border=wsd", "training.schedule.decay=0.4")
    assert (found["name"], found["decay"], found["warmup"]) == ("wsd", 0.4, 0.01)


def test_a_setting_without_a_name_changes_the_schedule_of_the_scenario():
    default = schedule()
    assert schedule("training.schedule.warmup=0.05") == {**default, "warmup": 0.05} and default["name"] == "cosine"


def test_a_name_is_a_whole_schedule():
    assert schedule("training.border=wsd", "training.schedule.name=wsd", "training.schedule.decay=0.4")["warmup"] == 0
    assert schedule("training.border=wsd", "training.schedule=linear")["name"] == "linear"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("training.boarder=wsd", "unknown setting 'training.boarder'; did you mean 'border'"),
        ("training.border=wsdd", "training.border: unknown recipe 'wsdd'; did you mean 'wsd'"),
        ("training.schedule.minimun=0.1", "did you mean 'minimum'"),
        ("training.border_rewarm=soon", "border_rewarm = 'soon' is not valid: expected a number or null"),
    ],
)
def test_a_slip_of_the_pen_is_named(item, words):
    with pytest.raises(UsageError) as refused:
        schedule(item)
    assert words in str(refused.value)


def test_a_transition_that_would_never_end_is_refused():
    items = [
        "scenario=llm_pretraining",
        "scenario.corpora=[synthetic:0,synthetic:0:0.5]",
        "scenario.context=32",
        "scenario.tokens=1280",
        "training.batch_size=8",
    ]
    cell = resolve(parse_overrides([*items, "training.border=two_stage"], COMPONENTS))
    with pytest.raises(UsageError, match=r"border_rewarm = 1000 is longer than the 5 steps of experience 1.*at most 5, or a share below 1"):
        make_run(cell, torch.device("cpu"))
