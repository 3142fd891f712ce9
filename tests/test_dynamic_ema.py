"""Dynamic EMA: its updates by hand, the average of a whole run, and where it begins."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clsuite import registry

from .strategy_runs import execute
from .text_parts import refused, see_before, text_run

pytestmark = pytest.mark.unit


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
def test_the_average_over_a_run_is_that_of_the_formula_in_double_precision(form, monkeypatch):
    run = text_run(
        {"name": "naive+dynamic_ema", "dynamic_ema": {"form": form}}, optimizer="sgd", learning_rate=3.0, betas=[0.9, 0.999], weight_decay=0.0, clip_norm=None
    )
    steps, start = [], []
    names = [name for name, _ in run.model.named_parameters()]
    see_before(monkeypatch, run, "after_step", lambda r: steps.append([(p.detach().double().clone(), p.grad.double().clone()) for p in r.model.parameters()]))
    see_before(monkeypatch, run, "after_experience", lambda r: start.append([p.detach().double().clone() for p in r.model.parameters()]))
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
def test_averaging_begins_where_there_is_something_to_average(start, pretrained, first, checkpoints):
    model = {"name": "gpt_neox", "checkpoint": checkpoints["base"]} if pretrained else None
    run = text_run({"name": "naive+dynamic_ema", "dynamic_ema": {"start": start}}, model=model)
    part = run.parts[1]
    part.setup()
    part.before_experience(run.stream.experiences[0])
    assert bool(part.average) == first
    part.after_experience(run.stream.experiences[0])
    assert part.average and "needs 'incremental'" in refused("joint+dynamic_ema")
