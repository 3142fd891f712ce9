"""`--weights`: what a run ends with, written so that others read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import clsuite
from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.identity import cell_hash
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.models.language import GPTNeoX
from clsuite.models.resnet import ResNet20

from .text_runs import gone_on, weights_digest

pytestmark = pytest.mark.unit

TEXT = [
    "scenario=llm_pretraining",
    "scenario.corpora=[synthetic:0,synthetic:0:0.5]",
    "scenario.context=32",
    "scenario.tokens=1280",
    "scenario.validation_tokens=320",
    "scenario.probe_tokens=0",
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
    "training.batch_size=8",
    "device=cpu",
]
VOCABULARY = 257
DIGITS = ["scenario=class_incremental", "scenario.dataset=digits", "training.epochs=1", "device=cpu"]


def cell(*items: str):
    return resolve(parse_overrides([*TEXT, *items], COMPONENTS))


def test_a_language_model_is_read_back_by_us_and_by_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    place = tmp_path / "made" / "weights"
    result = run_cell(cell("training.border=wsd"), Options(tmp_path / "out", weights=place))
    assert json.loads((place / "config.json").read_text())["model_type"] == "gpt_neox"
    network = GPTNeoX(checkpoint=str(place)).build((32,), VOCABULARY, None)
    assert weights_digest(network) == result["weights_sha256"]
    x = torch.arange(32)[None] % 64
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(place)(x).logits, network(x))


def test_keeping_weights_changes_nothing_of_the_result(tmp_path):
    plain = run_cell(cell("strategy=naive+dynamic_ema", "strategy.dynamic_ema.start=first_experience"))
    kept = run_cell(cell("strategy=naive+dynamic_ema", "strategy.dynamic_ema.start=first_experience"), Options(weights=tmp_path / "w"))
    for key in ("matrix", "loss_curve", "weights_sha256", "reports"):
        assert plain[key] == kept[key]
    assert plain["metrics"].keys() == kept["metrics"].keys()
    assert plain["cost"]["deployment"] == kept["cost"]["deployment"]


def test_what_is_deployed_is_kept(tmp_path):
    result = run_cell(cell("strategy=naive+dynamic_ema", "strategy.dynamic_ema.start=first_experience"), Options(weights=tmp_path / "average"))
    network = GPTNeoX(checkpoint=str(tmp_path / "average")).build((32,), VOCABULARY, None)
    assert weights_digest(network) != result["weights_sha256"]  # those are the weights that training ended with


def test_a_run_that_was_stopped_keeps_the_same_weights(tmp_path):
    run_cell(cell(), Options(tmp_path / "whole", weights=tmp_path / "a"))
    gone_on(cell, tmp_path / "cut", 3, weights=tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_an_image_model_is_read_back(tmp_path):
    place = tmp_path / "net.safetensors"
    result = clsuite.run(*DIGITS, "model=resnet20", "scenario.experiences=2", "scenario.samples_per_class=10", weights=place)
    network = ResNet20(weights=str(place)).build((1, 8, 8), 10, None)
    assert weights_digest(network) == result["weights_sha256"]


@pytest.mark.parametrize(
    ("items", "name", "words"),
    [
        (TEXT, "there", "exists already: expected a new folder that does not"),
        (DIGITS, "net.pt", "expected a file that ends in .safetensors"),
        (DIGITS, "there.safetensors", "exists already"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_written(tmp_path, items, name, words):
    (tmp_path / "there").mkdir()
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(UsageError, match=words):
        clsuite.run(*items, out=tmp_path / "out", weights=tmp_path / name)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 2


def test_a_finished_cell_has_none_to_give(tmp_path):
    run_cell(cell(), Options(tmp_path / "out"))
    with pytest.raises(UsageError, match="finished and kept no weights"):
        run_cell(cell(), Options(tmp_path / "out", weights=tmp_path / "w"))
    run_cell(cell(), Options(tmp_path / "out", rerun=True, weights=tmp_path / "w"))
    assert (Path(tmp_path) / "w" / "config.json").exists()


def test_the_content_of_an_instruct_model_is_part_of_the_cell(tmp_path):
    run_cell(cell(), Options(weights=tmp_path / "model"))
    given = ["strategy=naive+instruction_residual", f"strategy.instruction_residual.instruct={tmp_path / 'model'}"]
    before = cell_hash(cell(*given))
    assert cell_hash(cell(*given)) == before
    run_cell(cell("seed=1"), Options(weights=tmp_path / "other"))
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model" / "model.safetensors")
    assert cell_hash(cell(*given)) != before
    with pytest.raises(UsageError, match=r"strategy.instruction_residual.instruct = 'nowhere': no such folder"):
        cell_hash(cell(given[0], "strategy.instruction_residual.instruct=nowhere"))


@pytest.mark.parametrize("parts", ["naive+fpf+dynamic_ema", "naive+alignment+dynamic_ema"])
def test_an_average_does_not_undo_in_silence_what_another_part_deploys(parts):
    with pytest.raises(UsageError, match=r"name dynamic_ema before (fpf|alignment)"):
        clsuite.run(*DIGITS, f"strategy={parts}")
