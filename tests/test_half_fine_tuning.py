"""Half fine-tuning: which half is frozen, that it stays as it is bit for bit, and what is refused."""

from __future__ import annotations

import pytest
import torch

import clsuite
from clsuite.errors import UsageError

from .strategy_runs import execute, weights
from .text_parts import CONTEXT, DIGITS, HALF, SHAPE, refused, see_before, text_run

pytestmark = pytest.mark.unit

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
def test_exactly_the_frozen_entries_stay_as_they_are_bit_for_bit(model, optimizer, monkeypatch):
    run = text_run(HALF, count=3, model={"name": model, **SHAPE}, **{"weight_decay": 0.1, **optimizer})
    states, drawn = [], []
    see_before(monkeypatch, run, "before_experience", lambda r: states.append(weights(r)))
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
def test_the_first_experience_is_masked_where_there_is_something_to_keep(first, pretrained, masked, checkpoints):
    model = {"name": "gpt_neox", "checkpoint": checkpoints["base"]} if pretrained else None
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
