"""Half fine-tuning and dynamic EMA: what stays, what is averaged, in both worlds and beside other parts, by hand and bit for bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import clsuite
from clsuite import registry
from clsuite.errors import Interrupted, UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.spec import resolve
from clsuite.strategy import Modifier
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .test_llm_pretraining import tiny
from .text_runs import gone_on

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


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def half(first="masked"):
    return {"name": "naive+half_fine_tuning", "half_fine_tuning": {"first": first}}


def ema(**settings):
    return {"name": "naive+dynamic_ema", "dynamic_ema": settings}


def moved(before, after):
    """By parameter, which entries are not bit for bit what they were."""
    return {name: before[name].view(torch.int32) != after[name].view(torch.int32) for name in before}


# -- half fine-tuning: what moved, looked at from outside -------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt_neox", "llama"])
def test_half_of_each_kind_of_matrix_moves_in_every_experience(model):
    """Without looking at the masks; weight decay on everything and moments kept over the border would move what is frozen."""
    run = run_of(text_cell(half(), model, training={"border_optimizer": "keep", "weight_decay": 0.1, "decayed": "all", "schedule": "constant"}))
    states = [weights(run)]
    executed(run, on_step=lambda r: states.append(weights(r)) if r.step == 6 else None)
    states.append(weights(run))
    patterns = []
    for before, after in itertools.pairwise(states):
        share = {name: float(m.float().mean()) for name, m in moved(before, after).items()}
        assert all(s == 1 for name, s in share.items() if "embed" in name or name.startswith("head"))
        for k in range(2):
            layer = {name.split(".", 3)[3]: s for name, s in share.items() if name.startswith(f"body.layers.{k}.")}
            if model == "gpt_neox":
                fused = moved(before, after)[f"body.layers.{k}.attention.query_key_value.weight"].view(2, 3, 8, 16)  # heads; query, key, value; rows
                by_part = fused.transpose(0, 1).flatten(1).float().mean(1).tolist()
                assert set(by_part) <= {0, 1} and sum(by_part) + layer["attention.dense.weight"] == 2
                assert layer["mlp.dense_h_to_4h.weight"] + layer["mlp.dense_4h_to_h.weight"] == 1
                for matrix in ("attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
                    assert (layer[f"{matrix}.bias"] > 0) == (layer[f"{matrix}.weight"] > 0)
            else:
                assert sum(s for name, s in layer.items() if "self_attn" in name) == 2
        if model == "llama":  # 2 of 3 in one of the two layers, 1 of 3 in the other
            assert sorted(sum(s for n, s in share.items() if f"layers.{k}.mlp" in n) for k in range(2)) == [1, 2]
        norms = [s > 0 for name, s in share.items() if "norm" in name and name.endswith("weight")]
        assert len(norms) == 5 and sum(norms) == 3
        patterns.append({name: m.any().item() for name, m in moved(before, after).items()})
    assert patterns[0] != patterns[1]


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


def test_frozen_entries_stay_when_a_batch_comes_in_parts():
    run = run_of(text_cell(half(), training={"accumulation": 3, "weight_decay": 0.1, "decayed": "all"}))
    states = {0: weights(run)}
    executed(run, on_step=lambda r: states.update({r.step: weights(r)}) if r.step == 6 else None)
    frozen = run.parts[1].frozen
    share = {name: float(m.float().mean()) for name, m in moved(states[6], weights(run)).items()}
    assert frozen and all(share[name] == 0 for name, rows in frozen if rows is None)


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


def test_alpha_of_one_tensor_by_hand(cell_of):
    """|g| = 3, |g - g'| = 8, |theta - theta*| = 4: alpha = 2 (1 + 3) / (4 x 8) = 1/4; paper: beta = (3 + 1) / (4 x 8) = 1/8."""
    expected = {"code": 0.75 * 1.0 + 0.25 * 3.0, "paper": 0.125 * 1.0 + 0.875 * 3.0}
    for form, value in expected.items():
        run = run_of(images(ema(form=form)))
        run.model = torch.nn.Module()
        run.model.head, run.model.block_of = torch.nn.Linear(2, 1, bias=False), lambda name: "all"
        part, weight = run.parts[1], run.model.head.weight
        part.setup()
        part.average, part.previous = [torch.tensor([[1.0, 1.0]])], [torch.tensor([[-2.0, 5.0]])]
        with torch.no_grad():
            weight.copy_(torch.tensor([[3.0, 3.0]]))
        weight.grad = torch.tensor([[2.0, 1.0]])
        part.on_gradients()
        part.after_step()
        assert part.average[0].tolist() == [[pytest.approx(value)] * 2]


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


# -- both -------------------------------------------------------------------------------------------------------

BOTH = {"name": "naive+half_fine_tuning+dynamic_ema", "half_fine_tuning": {"first": "masked"}, "dynamic_ema": {"start": "first_experience"}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: text_cell(BOTH, training={"border_optimizer": "keep"}),
        lambda: images(ema(form="paper", start="first_experience"), momentum=0.9),
    ],
    ids=["text", "images"],
)
@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, make, at):
    whole = run_cell(make())

    again = gone_on(make, tmp_path, at)
    assert again["resume"] == "exact"
    for key in ("weights_sha256", "matrix", "reports"):
        assert again[key] == whole[key]


def test_the_average_after_a_stop_is_the_same_to_the_bit(tmp_path):
    """Convolutions in another memory format than the contiguous one a checkpoint keeps; the formula decides most coefficients."""
    found = []

    def make():
        return images(ema(form="paper", start="first_experience"), learning_rate=0.3)

    def look(run):
        if run.step == 12:
            found.append([a.clone() for a in run.parts[1].average])

    def stop(run):
        run.stop_requested = run.step == 7

    assert run_cell(make(), Options(on_step=look))["reports"]["dynamic_ema"]["coefficients_from_formula"] > 0.5
    with pytest.raises(Interrupted):
        run_cell(make(), Options(tmp_path, on_step=stop))
    run_cell(make(), Options(tmp_path, on_step=look))
    assert any(not a.is_contiguous() for a in found[0]) and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("settings", [{"start": "first_border"}, {"form": "paper", "start": "first_border"}])
def test_a_part_that_says_it_leaves_experience_0_alone_is_absent_from_its_prefix(settings):
    from clsuite.experiment.prefix import shared

    cells = [text_cell(ema(**settings)), text_cell(half("free")), text_cell("naive")]
    assert {p.until for p in shared(cells).values()} == {1} and len({p.name for p in shared(cells).values()}) == 1
    auto = [text_cell(ema()), text_cell(half("auto"))]
    assert not shared(auto)


def test_what_cannot_be_is_one_line():
    for name in ("half_fine_tuning", "dynamic_ema"):
        with pytest.raises(UsageError, match="needs 'incremental'") as error:
            run_cell(text_cell(f"joint+{name}"))
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"half_fine_tuning.*valid models: gpt_neox, llama") as error:
        clsuite.run(scenario={"dataset": "digits"}, model="mlp", strategy="naive+half_fine_tuning", device="cpu")
    assert "\n" not in str(error.value)
