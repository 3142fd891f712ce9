"""Instruction residuals: the instruct model to the bit on the unchanged base, what is deployed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clsuite
from clsuite import registry
from clsuite.errors import UsageError

from .strategy_runs import execute
from .text_parts import DIGITS, instructed, refused, text_run

pytestmark = pytest.mark.unit


def functions():
    import sys

    module = sys.modules[registry.load("strategies", "instruction_residual").__module__]
    return module.residual, module.with_residual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_residual_on_the_unchanged_base_is_the_instruct_model_bit_for_bit(dtype):
    residual, with_residual = functions()
    rng = np.random.default_rng(0)
    numbers = [torch.from_numpy(rng.standard_normal((400, 50)) * 10.0 ** rng.integers(-30, 30, (400, 50))).to(dtype) for _ in range(2)]
    for base, instruct in (numbers, (numbers[0], (numbers[0].double() * (1 + 1e-3 * numbers[1].sign())).to(dtype)), (numbers[0].T, numbers[1].T)):
        found = with_residual({"w": base}, residual({"w": instruct}, {"w": base}))["w"]
        assert found.dtype == dtype and torch.equal(found, instruct)
        if base is numbers[0] and instruct is numbers[1]:
            assert not torch.equal(base + (instruct - base), instruct)  # plain addition does not do it
    near = torch.from_numpy(rng.standard_normal(1000)).float()
    assert len(residual({"w": near + 0.1}, {"w": near})["w"].places) == 0


def test_the_residual_of_a_changed_base_is_added_to_it():
    residual, with_residual = functions()
    r = residual({"w": torch.tensor([1.5, 2.0])}, {"w": torch.tensor([1.0, 4.0])})
    assert with_residual({"w": torch.tensor([10.0, 20.0])}, r)["w"].tolist() == [10.5, 18.0]


def test_before_any_training_the_instruct_model_is_deployed(checkpoints):
    run = text_run(**instructed(checkpoints))
    other = text_run("naive", model={"name": "gpt_neox", "checkpoint": checkpoints["instruct"]})
    base, part = run.weights_digest(), run.parts[1]
    random_state = torch.get_rng_state()
    part.setup()
    assert torch.equal(random_state, torch.get_rng_state())
    part.before_evaluation()
    assert run.weights_digest() == other.weights_digest() != base
    part.after_evaluation()
    assert run.weights_digest() == base


def test_what_is_measured_is_the_trained_base_with_the_residual(checkpoints):
    plain = execute(text_run("naive", model={"name": "gpt_neox", "checkpoint": checkpoints["base"]})).run
    run = text_run(**instructed(checkpoints))
    loop = execute(run)
    assert run.weights_digest() == plain.weights_digest()
    ends = [text_run("naive", model={"name": "gpt_neox", "checkpoint": checkpoints[name]}).model for name in ("instruct", "base")]
    with torch.no_grad():
        for p, a, b in zip(run.model.parameters(), *(m.parameters() for m in ends), strict=True):
            p.copy_(p.double() + a.double() - b.double())
    run.model.eval()
    x, y = run.stream.gather(torch.from_numpy(run.stream.evaluation_ids(1)), "test")
    with torch.no_grad():
        expected = float(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten()))
    assert loop.measurements.document()["matrix"][1][1] == pytest.approx(expected, rel=1e-5)


def test_a_residual_is_of_two_models_of_one_kind(checkpoints, tmp_path):
    assert "give model.checkpoint" in refused(**instructed(checkpoints, base=None))
    assert "instruct is not set" in refused("naive+instruction_residual", model={"name": "gpt_neox", "checkpoint": checkpoints["base"]})
    assert "has the architecture 'llama', model.checkpoint 'gpt_neox'" in refused(**instructed(checkpoints, "llama"))
    assert "in one of the two models only" in refused(**instructed(checkpoints, "deeper"))
    assert "has the shape" in refused(**instructed(checkpoints, "wider"))
    assert "vocabulary" in refused(**instructed(checkpoints, "vocabulary"))
    for path in ("nowhere", str(tmp_path)):
        text = refused(**instructed(checkpoints, path))
        assert "strategy.instruction_residual.instruct" in text and "model.checkpoint" not in text
    with pytest.raises(UsageError, match="needs a language model with a checkpoint"):
        clsuite.run(*DIGITS, strategy="naive+instruction_residual")
