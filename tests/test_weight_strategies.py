"""Half fine-tuning and dynamic EMA: what stays, what is averaged, in both worlds and beside other parts, by hand and bit for bit."""

from __future__ import annotations

import math

import pytest
import torch

from clsuite import registry
from clsuite.errors import Interrupted
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.spec import resolve
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .test_llm_pretraining import tiny

pytestmark = pytest.mark.unit

SHORT = {"corpora": ["synthetic:0", "synthetic:0:0.5"], "tokens": 1536, "context": 32, "validation_tokens": 320, "probe_tokens": 0}
DIGITS = [
    "scenario.dataset=digits",
    "scenario.experiences=2",
    "scenario.samples_per_class=20",
    "model.name=mlp",
    "training.batch_size=16",
    "device=cpu",
]


def text_cell(strategy, model="gpt_neox", **more):
    """Two experiences of 6 steps; two layers of width 16."""
    training = {"batch_size": 8, **more.pop("training", {})}
    return resolve(tiny(scenario=SHORT, model={"name": model, "layers": 2, "width": 16, "heads": 2}, training=training, strategy=strategy, **more))


def run_of(cell):
    return make_run(cell, torch.device("cpu"))


def executed(run, on_step=None):
    loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=on_step)
    loop.execute()
    return loop


def half(first="masked"):
    return {"name": "naive+half_fine_tuning", "half_fine_tuning": {"first": first}}


def ema(**settings):
    return {"name": "naive+dynamic_ema", "dynamic_ema": settings}


# -- half fine-tuning -------------------------------------------------------------------------------------------


def test_matrices_of_grouped_attention_are_frozen_whole():
    """Llama with fewer key than query heads: its matrices are of different sizes and are frozen whole."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from clsuite.models.language import LanguageNetwork

    config = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False
    )
    model = LlamaForCausalLM(config)
    run = run_of(text_cell(half(), "llama"))
    run.model = LanguageNetwork(model.model, model.lm_head, config)
    part = run.parts[1]
    part.setup()
    for _ in range(5):
        part.before_experience(run.stream.experiences[0])
        assert all(rows is None for _, rows in part.frozen)
        frozen = sum(run.model.get_parameter(name).numel() for name, _ in part.frozen)
        assert part.trained_shares[-1] == pytest.approx(1 - frozen / sum(p.numel() for p in run.model.parameters()))


def test_a_first_experience_that_is_left_alone_is_that_of_the_base():
    plain, masked = run_of(text_cell("naive")), run_of(text_cell(half("auto")))
    digests = [[], []]
    for run, seen in zip((plain, masked), digests, strict=True):
        executed(run, on_step=lambda r, seen=seen: seen.append(r.weights_digest()))
    assert digests[0][:6] == digests[1][:6] and not set(digests[0][6:]) & set(digests[1][6:])


# -- dynamic EMA ------------------------------------------------------------------------------------------------


class Rewrites(Modifier):
    """Makes all gradients 1/4: in place, or by new tensors."""

    claims = frozenset({"rewrites_gradients"})

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def on_gradients(self):
        for p in self.model.parameters():
            p.grad = p.grad.fill_(0.25) if self.in_place else torch.full_like(p, 0.25)


@pytest.mark.parametrize(("order", "in_place"), [("before", True), ("after", True), ("after", False)])
def test_gradients_are_those_the_optimizer_got(cell_of, order, in_place):
    average, base = registry.load("strategies", "dynamic_ema")(start="first_experience"), registry.load("strategies", "naive")()
    parts = (average, Rewrites(in_place)) if order == "before" else (Rewrites(in_place), average)
    executed(run_of(cell_of(*DIGITS, parts=[base, *parts])))
    assert average.previous and all(torch.equal(g, torch.full_like(g, 0.25)) for g in average.previous)


@pytest.mark.parametrize(("form", "value"), [("code", 0.99 * 1.0 + 0.01 * 3.0), ("paper", 0.99 * 1.0 + 0.01 * 3.0)])
@pytest.mark.parametrize("nothing", ["gradients are those before", "the average is the weights"])
def test_a_denominator_of_zero_takes_the_fallback(form, value, nothing):
    run = run_of(images(ema(form=form)))
    run.model = torch.nn.Module()
    run.model.head, run.model.block_of = torch.nn.Linear(2, 1, bias=False), lambda name: "all"
    part, weight = run.parts[1], run.model.head.weight
    part.setup()
    gradient = torch.tensor([[2.0, 1.0]])
    same = nothing == "gradients are those before"
    part.average, part.previous = [torch.full((1, 2), 1.0 if same else 3.0)], [gradient.clone() if same else -gradient]
    with torch.no_grad():
        weight.fill_(3.0)
    weight.grad = gradient
    part.on_gradients()
    part.after_step()
    assert part.average[0].tolist() == [[pytest.approx(value if same else 3.0)] * 2] and part.report() == {"coefficients_from_formula": 0.0}


@pytest.mark.parametrize("world", ["text", "images"])
def test_deploying_the_average_is_undone_to_the_bit(world):
    cell = text_cell(ema(start="first_experience")) if world == "text" else images(ema(start="first_experience"))
    run = run_of(cell)
    executed(run)
    part, trained = run.parts[1], run.weights_digest()
    average = [a.clone() for a in part.average]
    part.before_evaluation()
    assert all(torch.equal(p, a) for p, a in zip(run.model.parameters(), average, strict=True)) and run.weights_digest() != trained
    part.after_evaluation()
    assert run.weights_digest() == trained and all(torch.equal(a, b) for a, b in zip(part.average, average, strict=True))


def test_plain_training_before_the_second_experience_is_deployed_as_it_is():
    plain, averaged = executed(run_of(text_cell("naive"))), executed(run_of(text_cell(ema())))
    first, second = (loop.measurements.document()["matrix"] for loop in (plain, averaged))
    assert first[0] == second[0] and first[1] != second[1]


def images(strategy, **training):
    raw = {
        "scenario": {"dataset": "digits", "experiences": 2, "samples_per_class": 20},
        "model": {"name": "cnn"},
        "training": {"batch_size": 16, **training},
        "device": "cpu",
        "strategy": strategy,
    }
    return resolve(raw)


# -- gone on and shared -----------------------------------------------------------------------------------------


def test_the_average_after_a_stop_is_the_same_to_the_bit(tmp_path):
    """Convolutions in another memory format than the contiguous one a checkpoint keeps; the formula decides most coefficients."""
    found = []

    def make():
        return images(ema(form="paper", start="first_experience"), learning_rate=0.05, momentum=0.9, epochs=2)

    def look(run):
        if run.step == 20:
            found.append([a.clone() for a in run.parts[1].average])

    whole = run_cell(make(), Options(on_step=look))
    assert whole["reports"]["dynamic_ema"]["coefficients_from_formula"] > 0.5
    assert whole["cost"]["gradient_steps"] == 28
    for at in (7, 14, 17):  # in the first experience, at the border and behind it

        def stop(run, at=at):
            run.stop_requested = run.step == at

        with pytest.raises(Interrupted):
            run_cell(make(), Options(tmp_path / str(at), on_step=stop))
        again = run_cell(make(), Options(tmp_path / str(at), on_step=look))
        assert again["resume"] == "exact" and all(again[key] == whole[key] for key in ("weights_sha256", "matrix", "reports"))
    assert len(found) == 4 and any(not a.is_contiguous() for a in found[0])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("settings", [{"start": "first_border"}, {"form": "paper", "start": "first_border"}])
def test_a_part_that_says_it_leaves_experience_0_alone_is_absent_from_its_prefix(settings):
    from clsuite.experiment.prefix import shared

    cells = [text_cell(ema(**settings)), text_cell(half("free")), text_cell("naive")]
    assert {p.until for p in shared(cells).values()} == {1} and len({p.name for p in shared(cells).values()}) == 1
    auto = [text_cell(ema()), text_cell(half("auto"))]
    assert not shared(auto)
