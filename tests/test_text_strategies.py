"""Methods that act on weights, gradients and rates of language models: rules and numbers by hand, exact resuming, and what is refused."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clsuite
from clsuite import registry
from clsuite.errors import Interrupted, UsageError
from clsuite.experiment.cell import Options, make_run, run_cell
from clsuite.experiment.spec import resolve
from clsuite.models.language import GPTNeoX, Llama
from clsuite.models.language_checkpoint import save_checkpoint
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

pytestmark = pytest.mark.unit

CORPORA = [f"synthetic:0#{k}/3" for k in range(3)]
SHAPE = {"layers": 3, "width": 16, "heads": 2}
CONTEXT = 16
DIGITS = ["scenario.dataset=digits", "scenario.experiences=2", "scenario.samples_per_class=20", "model.hidden=[8]", "training.batch_size=16", "device=cpu"]


def cell(strategy, count=2, tokens=1280, model=None, **training):
    """Experiences of 10 steps of 8 windows."""
    return resolve(
        {
            "scenario": {
                "name": "llm_pretraining",
                "corpora": CORPORA[:count],
                "tokens": tokens,
                "context": CONTEXT,
                "validation_tokens": 320,
                "probe_tokens": 0,
            },
            "model": model or {"name": "gpt_neox", **SHAPE},
            "training": {"batch_size": 8, "schedule": "constant", **training},
            "device": "cpu",
            "strategy": strategy,
        }
    )


def text_run(strategy, **more):
    return make_run(cell(strategy, **more), torch.device("cpu"))


def execute(run, on_step=None):
    loop = Loop(run, Checkpoints(None, "", {}, math.inf), on_step=on_step)
    loop.execute()
    return loop


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def refused(strategy, **more):
    with pytest.raises(UsageError) as error:
        run_cell(cell(strategy, **more))
    assert "\n" not in str(error.value)
    return str(error.value)


def check_resume(tmp_path, make, at):
    """Stopped at updates `at` (of any optimizer), the run ends as the one that was not."""
    whole = run_cell(make())
    for stop_at in at:
        steps = itertools.count(1)

        def stop(run, steps=steps, stop_at=stop_at):
            run.stop_requested = next(steps) == stop_at

        with pytest.raises(Interrupted):
            run_cell(make(), Options(tmp_path / str(stop_at), on_step=stop))
        again = run_cell(make(), Options(tmp_path / str(stop_at)))
        assert again["resume"] == "exact"
        for key in ("weights_sha256", "matrix", "loss_curve", "reports"):
            assert again[key] == whole[key], key
        for key in ("gradient_steps", "forward_passes", "backward_passes"):
            assert again["cost"][key] == whole["cost"][key]
    return whole


@pytest.fixture
def spy(monkeypatch):
    """Call `see(run)` before a hook of the part in second place."""

    def add(run, hook, see):
        real = getattr(run.parts[1], hook)

        def called(*arguments):
            see(run)
            real(*arguments)

        if hook in run._hooks:
            run._hooks[hook] = [called if h == real else h for h in run._hooks[hook]]
        else:
            monkeypatch.setattr(type(run.parts[1]), hook, lambda self, *arguments: called(*arguments))

    return add


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints: a base, its instruct form (with zeros of both signs), and models that do not go with it. Bytes have 256 tokens and an end of document."""
    root, tokens = tmp_path_factory.mktemp("checkpoints"), text_run("naive").classes
    made = {}
    for k, (name, kind, changes) in enumerate(
        [("base", GPTNeoX, {}), ("instruct", GPTNeoX, {}), ("llama", Llama, {}), ("deeper", GPTNeoX, {"layers": 4}), ("wider", GPTNeoX, {"width": 32})]
    ):
        torch.manual_seed(k)
        network = kind(**{**SHAPE, **changes}).build((CONTEXT,), tokens, None)
        if name == "instruct":
            with torch.no_grad():
                network.head.weight[:2] = torch.tensor([[-0.0], [0.0]])
        made[name] = str(save_checkpoint(network, root / name))
    torch.manual_seed(9)
    made["vocabulary"] = str(save_checkpoint(GPTNeoX(**SHAPE).build((CONTEXT,), tokens + 5, None), root / "vocabulary"))
    return made


# -- half fine-tuning -------------------------------------------------------------------------------------------

HALF = {"name": "naive+half_fine_tuning", "half_fine_tuning": {"first": "masked"}}
ROWS = {  # of a fused tensor of two heads of width 8: query, key, value of head 0, then of head 1
    0: [*range(0, 8), *range(24, 32)],
    1: [*range(8, 16), *range(32, 40)],
    2: [*range(16, 24), *range(40, 48)],
}


def masks(run, frozen):
    """By parameter, which entries are frozen: from the names alone."""
    found = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in run.model.named_parameters()}
    for name, part in frozen:
        found[name][slice(None) if part is None else ROWS[part]] = True
    return found


@pytest.mark.parametrize("model", ["gpt_neox", "llama"])
def test_masks_freeze_half_of_each_kind_of_matrix(model):
    run = text_run(HALF, model={"name": model, **SHAPE})
    part = run.parts[1]
    part.setup()
    attention = {"gpt_neox": "attention.", "llama": "self_attn."}[model]
    drawn, learned = set(), set()
    for _ in range(20):
        frozen = part.draw()
        assert len(set(frozen)) == len(frozen)
        matrices = [(n, p) for n, p in frozen if n.endswith("weight") and "norm" not in n]
        for k in range(3):
            layer = [(n, p) for n, p in matrices if n.startswith(f"body.layers.{k}.")]
            assert sum(attention in n for n, _ in layer) == 2
        feed_forward = [sum("mlp" in n for n, _ in matrices if n.startswith(f"body.layers.{k}.")) for k in range(3)]
        assert sorted(feed_forward) == {"gpt_neox": [1, 1, 1], "llama": [1, 2, 2]}[model]  # of three layers one learns 2 of 3
        assert sum("norm" in n for n, _ in frozen) == {"gpt_neox": 2, "llama": 1}[model] * 3  # of seven norms; with and without a bias
        assert not any("embed" in n or n.startswith("head") for n, _ in frozen)
        if model == "gpt_neox":  # a bias goes with its matrix
            assert {(n.replace(".weight", ".bias"), p) for n, p in frozen if n.endswith("weight")} == {(n, p) for n, p in frozen if n.endswith("bias")}
        drawn |= set(frozen)
        learned.add(tuple(frozen))
    inside = {n for n, _ in run.model.named_parameters() if "layers" in n or "final_layer_norm" in n or n == "body.norm.weight"}
    assert {n for n, _ in drawn} == inside and len(learned) == 20


def test_rows_of_a_fused_tensor_are_the_query_key_and_value_of_every_head():
    run = text_run(HALF)
    part = run.parts[1]
    assert {k: part.rows(k).tolist() for k in range(3)} == ROWS
    attention, seen = run.model.body.layers[1].attention, []
    attention.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0].detach()))
    x = torch.arange(CONTEXT)[None]
    for k, constant in ((0, False), (1, False), (2, True)):  # without values, nothing of the words is left
        saved = run.snapshot()
        with torch.no_grad():
            attention.dense.bias.fill_(0.5)
            attention.query_key_value.weight[part.rows(k)] = 0
            attention.query_key_value.bias[part.rows(k)] = 0
        run.model(x)
        assert torch.equal(seen[-1], torch.full_like(seen[-1], 0.5)) == constant
        run.restore_snapshot(saved)


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("gpt_neox", {"border_optimizer": "keep", "decayed": "all"}),
        ("gpt_neox", {"accumulation": 3, "decayed": "all"}),
        ("gpt_neox", {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.3}),
        ("llama", {"border_optimizer": "keep", "decayed": "all"}),
    ],
)
def test_exactly_the_frozen_entries_stay_as_they_are_bit_for_bit(model, optimizer, spy):
    run = text_run(HALF, count=3, model={"name": model, **SHAPE}, **{"weight_decay": 0.1, **optimizer})
    states, drawn = [], []
    spy(run, "before_experience", lambda r: states.append(weights(r)))
    execute(run, on_step=lambda r: drawn.append(list(r.parts[1].frozen)))
    states.append(weights(run))
    assert all(drawn[10 * i] == frozen for i in range(3) for frozen in drawn[10 * i : 10 * i + 10])
    for i in range(3):
        still = free = 0
        for name, frozen in masks(run, drawn[10 * i]).items():
            same = states[i][name] == states[i + 1][name]
            assert same[frozen].all(), name
            assert frozen.all() or not same[~frozen].all(), name
            still, free = still + int(same[~frozen].sum()), free + int((~frozen).sum())
        assert still < 0.01 * free
    assert drawn[0] != drawn[10] != drawn[20] != drawn[0]


def test_no_optimizer_state_is_made_for_what_is_frozen_whole():
    run = text_run(HALF, count=1)
    execute(run)
    whole = {name for name, part in run.parts[1].frozen if part is None}
    assert whole and whole == {name for name, p in run.model.named_parameters() if p not in run.optimizer.state}


@pytest.mark.parametrize(("first", "pretrained", "masked"), [("auto", False, False), ("auto", True, True), ("free", True, False), ("masked", False, True)])
def test_the_first_experience_is_masked_where_there_is_something_to_keep(first, pretrained, masked, folders):
    model = {"name": "gpt_neox", "checkpoint": folders["base"]} if pretrained else None
    run = text_run({"name": "naive+half_fine_tuning", "half_fine_tuning": {"first": first}}, model=model)
    part = run.parts[1]
    part.setup()
    part.before_experience(run.stream.experiences[0])
    assert bool(part.frozen) == masked and (part.trained_shares[0] < 1) == masked
    part.before_experience(run.stream.experiences[1])
    assert part.frozen and part.label() == f"half_fine_tuning (from {'first_experience' if masked else 'first_border'})"


def test_another_part_sees_frozen_rows_as_they_are_whatever_the_order(monkeypatch):
    run = text_run(
        {"name": "naive+dynamic_ema+half_fine_tuning", "half_fine_tuning": {"first": "masked"}, "dynamic_ema": {"start": "first_experience"}}, count=1
    )
    kind, seen = type(run.parts[1]), []
    real = kind.coefficient

    def coefficient(self, layer, values, gradients):
        seen.append(([v.clone() for v in values], [g.clone() for g in gradients]))
        return real(self, layer, values, gradients)

    monkeypatch.setattr(kind, "coefficient", coefficient)
    before = weights(run)
    execute(run)
    assert len(seen) == 10 * len(before)
    for values, gradients in seen:
        for (name, frozen), value, gradient in zip(masks(run, run.parts[2].frozen).items(), values, gradients, strict=True):
            assert torch.equal(value[frozen], before[name][frozen]) and not gradient[frozen].any()


def test_half_fine_tuning_refuses_what_cannot_be():
    assert "both claim 'moves_weights'" in refused("naive+refresh+half_fine_tuning")
    assert "needs 'incremental'" in refused("joint+half_fine_tuning")
    with pytest.raises(UsageError, match=r"half_fine_tuning.*valid models: gpt_neox, llama") as error:
        clsuite.run(*DIGITS, strategy="naive+half_fine_tuning")
    assert "\n" not in str(error.value)


# -- dynamic EMA ------------------------------------------------------------------------------------------------


class Two(torch.nn.Module):
    """Two parameters of one layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.tensor([3.0, -1.0])), torch.nn.Parameter(torch.tensor([0.5]))

    def block_of(self, name):
        return "layer"


@pytest.mark.parametrize(
    ("form", "first", "second"),
    [
        # a: 2 (1 + 3) / (4 x 7) = 2/7; b: 2 (1 + 1) / (0.5 x 0.5) = 16, so 0.01
        ("code", [1 + 2 * 2 / 7, 1 - 2 * 2 / 7], [0.01 * 0.5]),
        # both: (4 + 1) / (4.5 x 7.5) = 4/27 of the old average
        ("paper", [1 * 4 / 27 + 3 * 23 / 27, 1 * 4 / 27 - 1 * 23 / 27], [0.5 * 23 / 27]),
    ],
)
def test_one_update_of_the_average_by_hand(form, first, second):
    part = registry.load("strategies", "dynamic_ema")(form=form)
    model = Two()
    part.run = SimpleNamespace(model=model, parts=[part], device=torch.device("cpu"))
    part.setup()
    part.begin()
    part.average = [torch.tensor([1.0, 1.0]), torch.tensor([0.0])]
    part.previous = [torch.tensor([-1.0, 3.0]), torch.tensor([0.5])]
    model.a.grad, model.b.grad = torch.tensor([2.0, -1.0]), torch.tensor([1.0])
    part.on_gradients()
    part.after_step()
    torch.testing.assert_close(part.average, [torch.tensor(first), torch.tensor(second)])
    assert [g.tolist() for g in part.previous] == [[2, -1], [1]] and part.report() == {"coefficients_from_formula": {"code": 0.5, "paper": 1.0}[form]}


def test_without_a_gradient_before_or_a_coefficient_in_bounds_the_fallback_counts():
    part = registry.load("strategies", "dynamic_ema")()
    model = Two()
    part.run = SimpleNamespace(model=model, parts=[part], device=torch.device("cpu"))
    part.setup()
    part.begin()
    model.a.data += 1
    model.a.grad = torch.ones(2)  # b has none: it counts as zero
    part.on_gradients()
    part.after_step()
    torch.testing.assert_close(part.average, [torch.tensor([3.01, -0.99]), torch.tensor([0.5])])
    model.a.grad = torch.ones(2)
    part.on_gradients()
    part.after_step()  # no change of the gradient: 2 x 3 / 0
    torch.testing.assert_close(part.average[0], torch.tensor([3.01, -0.99]) + 0.01 * 0.99)


EMA = {"name": "naive+dynamic_ema"}


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_average_over_a_run_is_that_of_the_formula_in_double_precision(form, spy):
    run = text_run(
        {"name": "naive+dynamic_ema", "dynamic_ema": {"form": form}}, optimizer="sgd", learning_rate=3.0, betas=[0.9, 0.999], weight_decay=0.0, clip_norm=None
    )
    steps, start = [], []
    names = [name for name, _ in run.model.named_parameters()]
    spy(run, "after_step", lambda r: steps.append([(p.detach().double().clone(), p.grad.double().clone()) for p in r.model.parameters()]))
    spy(run, "after_experience", lambda r: start.append([p.detach().double().clone() for p in r.model.parameters()]))
    execute(run)
    layers = {name: name.split(".")[2] if "layers" in name else name.split(".")[1 if name.startswith("body") else 0] for name in names}
    groups = (
        [[k] for k in range(len(names))]
        if form == "code"
        else [[k for k, n in enumerate(names) if layers[n] == layer] for layer in dict.fromkeys(layers.values())]
    )
    average, used = start[0], 0
    for t in range(10, 20):
        for group in groups:
            if t == 10:
                value = math.nan
            else:
                g = sum(steps[t][k][1].abs().sum() for k in group)
                change = sum((steps[t][k][1] - steps[t - 1][k][1]).abs().sum() for k in group)
                away = sum((steps[t][k][0] - average[k]).abs().sum() for k in group)
                value = float((2 if form == "code" else 1) * (1 + g) / (away * change))
            inside = 0 < value < 1
            used += inside
            new = (value if inside else 0.01) if form == "code" else 1 - (value if inside else 0.99)
            for k in group:
                average[k] = (1 - new) * average[k] + new * steps[t][k][0]
    assert 5 < used < 9 * len(groups)  # the formula decides some of it, the fallback the rest
    for found, expected in zip(run.parts[1].average, average, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_the_average_is_deployed_and_training_is_what_it_was():
    plain = execute(text_run("naive")).run
    run = text_run(EMA)
    loop = execute(run)
    assert run.weights_digest() == plain.weights_digest()
    with torch.no_grad():
        for p, value in zip(run.model.parameters(), run.parts[1].average, strict=True):
            p.copy_(value)
    run.model.eval()
    x, y = run.stream.gather(torch.from_numpy(run.stream.evaluation_ids(0)), "test")
    with torch.no_grad():
        expected = float(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten()))
    assert loop.measurements.document()["matrix"][1][0] == pytest.approx(expected, rel=1e-5) and run.weights_digest() != plain.weights_digest()


@pytest.mark.parametrize(
    ("start", "pretrained", "first"), [("auto", False, False), ("auto", True, True), ("first_border", True, False), ("first_experience", False, True)]
)
def test_averaging_begins_where_there_is_something_to_average(start, pretrained, first, folders):
    model = {"name": "gpt_neox", "checkpoint": folders["base"]} if pretrained else None
    run = text_run({"name": "naive+dynamic_ema", "dynamic_ema": {"start": start}}, model=model)
    part = run.parts[1]
    part.setup()
    part.before_experience(run.stream.experiences[0])
    assert bool(part.average) == first
    part.after_experience(run.stream.experiences[0])
    assert part.average and "needs 'incremental'" in refused("joint+dynamic_ema")


# -- instruction residuals --------------------------------------------------------------------------------------


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


def instructed(folders, instruct="instruct", base="base", **more):
    model = {"name": "gpt_neox", "checkpoint": folders[base]} if base else None
    return {"strategy": {"name": "naive+instruction_residual", "instruction_residual": {"instruct": folders.get(instruct, instruct)}}, "model": model, **more}


def test_before_any_training_the_instruct_model_is_deployed(folders):
    run = text_run(**instructed(folders))
    other = text_run("naive", model={"name": "gpt_neox", "checkpoint": folders["instruct"]})
    base, part = run.weights_digest(), run.parts[1]
    random_state = torch.get_rng_state()
    part.setup()
    assert torch.equal(random_state, torch.get_rng_state())
    part.before_evaluation()
    assert run.weights_digest() == other.weights_digest() != base
    part.after_evaluation()
    assert run.weights_digest() == base


def test_what_is_measured_is_the_trained_base_with_the_residual(folders):
    plain = execute(text_run("naive", model={"name": "gpt_neox", "checkpoint": folders["base"]})).run
    run = text_run(**instructed(folders))
    loop = execute(run)
    assert run.weights_digest() == plain.weights_digest()
    ends = [text_run("naive", model={"name": "gpt_neox", "checkpoint": folders[name]}).model for name in ("instruct", "base")]
    with torch.no_grad():
        for p, a, b in zip(run.model.parameters(), *(m.parameters() for m in ends), strict=True):
            p.copy_(p.double() + a.double() - b.double())
    run.model.eval()
    x, y = run.stream.gather(torch.from_numpy(run.stream.evaluation_ids(1)), "test")
    with torch.no_grad():
        expected = float(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten()))
    assert loop.measurements.document()["matrix"][1][1] == pytest.approx(expected, rel=1e-5)


def test_a_residual_is_of_two_models_of_one_kind(folders, tmp_path):
    assert "give model.checkpoint" in refused(**instructed(folders, base=None))
    assert "instruct is not set" in refused("naive+instruction_residual", model={"name": "gpt_neox", "checkpoint": folders["base"]})
    assert "has the architecture 'llama', model.checkpoint 'gpt_neox'" in refused(**instructed(folders, "llama"))
    assert "in one of the two models only" in refused(**instructed(folders, "deeper"))
    assert "has the shape" in refused(**instructed(folders, "wider"))
    assert "vocabulary" in refused(**instructed(folders, "vocabulary"))
    for path in ("nowhere", str(tmp_path)):
        text = refused(**instructed(folders, path))
        assert "strategy.instruction_residual.instruct" in text and "model.checkpoint" not in text
    with pytest.raises(UsageError, match="needs a language model with a checkpoint"):
        clsuite.run(*DIGITS, strategy="naive+instruction_residual")


# -- AutoLRS ----------------------------------------------------------------------------------------------------

AUTO = {"name": "naive+autolrs", "autolrs": {"candidates": 3, "least_trial": 3, "first_stage": 4}}


def autolrs():
    import sys

    return sys.modules[registry.load("strategies", "autolrs").__module__]


@pytest.mark.parametrize(
    ("a", "b", "c", "steps", "at"), [(2.0, 0.05, 1.0, 40, 400), (3.0, 0.01, 0.5, 100, 1000), (1.0, 0.06, 3.0, 10, 100), (-1.0, 0.1, 4.0, 30, 300)]
)
def test_the_forecast_of_an_exponential_curve_is_its_value(a, b, c, steps, at):
    losses = a * np.exp(-b * np.arange(steps)) + c
    assert autolrs().forecast(losses, at) == pytest.approx(a * math.exp(-b * at) + c, abs=0.03)


def test_the_forecast_forgets_outliers_and_is_never_below_zero():
    losses = 2 * np.exp(-0.05 * np.arange(80)) + 1 + 0.01 * np.random.default_rng(0).standard_normal(80)
    spoiled = losses.copy()
    spoiled[10] += 5.0  # one of the 40 in the first half: 3 %
    module = autolrs()
    assert np.flatnonzero(np.isnan(module.smoothed(spoiled))).tolist() == [10]
    assert module.forecast(spoiled, 800) == pytest.approx(module.forecast(losses, 800), abs=0.1)
    assert module.forecast(np.linspace(1, 0.1, 20), 200) == pytest.approx(0, abs=0.01)
    # a straight line: the slowest curve that counts falls by 1 / (1 - exp(-1/2)) = 2.54 times what it fell by in the trial
    assert module.forecast(np.linspace(3, 2, 20), 200) == pytest.approx(3 - 2.54, abs=0.2)


def test_bayesian_optimisation_finds_the_best_rate_of_a_bowl(run_of):
    run = run_of(*DIGITS, strategy={"name": "naive+autolrs", "autolrs": {"low": 1e-3, "high": 0.1}})
    part = run.parts[1]
    part.setup()
    rates, values = [], []
    for _ in range(10):
        rates.append(part.propose(rates, values))
        values.append(1 + math.log(rates[-1] / 0.02) ** 2)
    assert 0.017 < rates[int(np.argmin(values))] < 0.0235 and len(set(rates)) == 10 and all(1e-3 <= r <= 0.1 for r in rates)


DROPPING = {"name": "gpt_neox", **SHAPE, "dropout": 0.1}
MOMENTUM = ["training.momentum=0.9", "training.epochs=2", "training.border_optimizer=keep", *DIGITS]


@pytest.mark.parametrize("world", ["images", "text"])
def test_a_search_leaves_no_trace_but_its_rate_and_its_cost(world, run_of):
    """The run after the search is, bit for bit, the plain run at the rate that was found."""
    strategy = {"name": "naive+autolrs", "autolrs": {"candidates": 3, "least_trial": 4}}
    run = run_of(*MOMENTUM, strategy=strategy) if world == "images" else text_run(strategy, model=DROPPING)
    found, expected = [], []
    execute(run, on_step=lambda r: found.append(r.weights_digest()))
    stages, peak, steps = run.parts[1].stages, float(run.training.learning_rate), run.plan_of(0).steps
    assert [s["length"] for s in stages] == [steps, run.plan_of(1).steps]
    rate = peak * (stages[0]["chosen"] / peak)  # as the optimizer has it
    other = run_of(*MOMENTUM, f"training.learning_rate={rate!r}") if world == "images" else text_run("naive", model=DROPPING, learning_rate=rate)
    execute(other, on_step=lambda r: expected.append(r.weights_digest()))
    assert found[:steps] == expected[:steps]
    cost, plain = run.costs["training"], other.costs["training"]
    assert cost.gradient_steps == plain.gradient_steps + 2 * 3 * 4
    assert cost.forward_passes - plain.forward_passes == cost.backward_passes - plain.backward_passes == 2 * 3 * 4 * run.batch_size


def test_stages_double_and_every_step_takes_the_rate_of_its_stage():
    run = text_run(
        {"name": "naive+autolrs", "autolrs": {"candidates": 2, "least_trial": 3, "first_stage": 2, "longest_stage": 4}},
        schedule={"name": "constant", "warmup": 3},
    )
    rates = []
    execute(run, on_step=lambda r: rates.append(r.learning_rate))
    stages = run.parts[1].stages
    # ten steps: two of warm-up below the peak, then 2, 4 and the 2 that are left; so again after the border
    assert [(s["experience"], s["step"], s["length"]) for s in stages] == [(0, 2, 2), (0, 4, 4), (0, 8, 2), (1, 12, 2), (1, 14, 4), (1, 18, 2)]
    for i in (0, 1):
        assert rates[10 * i : 10 * i + 2] == pytest.approx([1e-3, 2e-3])
    for s in stages:
        assert rates[s["step"] : s["step"] + s["length"]] == pytest.approx([s["chosen"]] * s["length"])
        assert s["chosen"] == min(zip(s["forecasts"], s["rates"], strict=True))[1] and all(3e-4 <= r <= 3e-2 for r in s["rates"])


def test_a_rate_that_diverges_is_never_chosen_and_ends_nothing(run_of):
    run = run_of(*DIGITS, "training.epochs=2", strategy={"name": "naive+autolrs", "autolrs": {"candidates": 4, "low": 1e-2, "high": 1e30}})
    with np.errstate(all="ignore"):
        execute(run)
    found = run.parts[1].stages
    assert any(f is None for s in found for f in s["forecasts"])
    assert all(s["forecasts"][s["rates"].index(s["chosen"])] is not None for s in found if any(f is not None for f in s["forecasts"]))


def test_a_search_that_is_asked_to_leave_begins_again_with_the_same_numbers(tmp_path, monkeypatch):
    def searching():
        return cell(AUTO, model=DROPPING, schedule={"name": "constant", "warmup": 3})

    whole = run_cell(searching())
    kind = registry.load("strategies", "autolrs")
    real, tries = kind._try, itertools.count(1)

    def leave(self, ids, rate):
        self.run.stop_requested = next(tries) == 30  # in the second search of three trials of three steps, or later
        return real(self, ids, rate)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_try", leave)
        with pytest.raises(Interrupted):
            run_cell(searching(), Options(tmp_path, 0.0))
    again = run_cell(searching(), Options(tmp_path))
    assert again["weights_sha256"] == whole["weights_sha256"] and again["reports"] == whole["reports"] and again["resume"] == "exact"
    assert again["cost"]["gradient_steps"] == whole["cost"]["gradient_steps"]


def test_two_that_decide_the_rate_are_refused(run_of):
    assert "schedule = 'cosine' and strategy 'autolrs' both decide" in refused("naive+autolrs", schedule="cosine")
    assert "border_peak_scale = 0.5" in refused("naive+autolrs", border_peak_scale=0.5)
    assert "both claim 'sets_rates'" in refused("naive+autolrs+autolrs")
    assert "low = 0.5 must be below strategy.autolrs.high = 0.03" in refused({"name": "naive+autolrs", "autolrs": {"low": 0.5}})
    assert "accumulation = 2" in refused("naive+autolrs", accumulation=2)
    with pytest.raises(UsageError, match="does not learn from the batches that come by"):
        execute(run_of(*DIGITS, strategy="gdumb+autolrs"))


# -- all of them ------------------------------------------------------------------------------------------------


BOTH = {"name": "naive+half_fine_tuning+dynamic_ema", "half_fine_tuning": {"first": "masked"}, "dynamic_ema": {"start": "first_experience"}}
STOPPED = {
    "both": (BOTH, {"border_optimizer": "keep"}),
    "from the border": ({"name": "naive+half_fine_tuning+dynamic_ema", "dynamic_ema": {"form": "paper"}}, {}),
    "search": (AUTO, {"border_optimizer": "keep", "model": DROPPING, "schedule": {"name": "constant", "warmup": 3}}),
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, case):
    strategy, more = STOPPED[case]
    check_resume(tmp_path, lambda: cell(strategy, **more), (2, 10, 13))


def test_a_residual_run_that_was_stopped_ends_with_the_same_bits(tmp_path, folders):
    found = check_resume(tmp_path, lambda: cell(**instructed(folders)), (4, 15))
    assert len(found["reports"]["instruction_residual"]["instruct_sha256"]) == 64


def test_a_batch_in_parts_is_unlearned_as_a_whole():
    refresh = {"name": "naive+refresh", "refresh": {"unlearn_step": 1e-2, "noise": 0.0, "fisher_samples": 2}}
    states = []
    for accumulation in (1, 3):
        run = text_run(refresh, accumulation=accumulation)
        part = run.parts[1]
        part.setup()
        part.unlearn(run.samples(run.stream.experiences[0].segments[0].indices[:8]))
        states.append(weights(run))
    for name, value in states[0].items():
        if not name.endswith("query_key_value.bias"):  # the gradient of a key's bias is rounding error
            torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
