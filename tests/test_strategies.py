"""The catalogue of strategies: every name, every combination of two, what stands for what, and the analysis of sensitivity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clsuite import registry
from clsuite.experiment.cell import run_cell
from clsuite.experiment.spec import resolve

from .strategy_runs import execute, refused, same, weights

pytestmark = pytest.mark.unit

# -- sensitivity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["naive", "derpp"])
def test_sensitivity_changes_no_number(base, cell_of, small):
    assert same(run_cell(cell_of(*small, f"strategy={base}")), run_cell(cell_of(*small, f"strategy={base}+sensitivity")))


def test_the_sensitivity_ratio_by_hand(run_of, small):
    run = run_of(*small, "model.hidden=[20,12]", "strategy=naive+sensitivity", "strategy.sensitivity.snapshots=4")
    trail = [weights(run)]
    execute(run, on_step=lambda r: trail.append(weights(r)))
    # experiences of 10, 8 and 8 steps; quarters of 10 are rounded to even: 2, 5, 8, 10
    borders, at = {10, 18}, [0, 2, 5, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26]
    kinds = {"head": ["head.weight", "head.bias"], "first_layer": ["hidden.0.weight", "hidden.0.bias"], "block:hidden.1": ["hidden.1.weight", "hidden.1.bias"]}
    found = run.parts[1].report()
    assert found["ratio"].keys() == kinds.keys()
    for kind, names in kinds.items():
        change = {a: np.concatenate([(trail[b][n] - trail[a][n]).abs().flatten() for n in names]).mean() for a, b in itertools.pairwise(at)}
        across, within = ([d for a, d in change.items() if (a in borders) == wanted] for wanted in (True, False))
        assert found["ratio"][kind] == pytest.approx(np.mean(across) / np.mean(within), rel=1e-4)
        assert found["parameters"][kind] == sum(trail[0][n].numel() for n in names)
    assert list(found["ratio"].values()) == sorted(found["ratio"].values(), reverse=True)


# -- combinations -----------------------------------------------------------------------------------------------


def test_kfpf_is_plain_training_with_nine_fine_tunings():
    alias, long = resolve({"strategy": "kfpf"}), resolve({"strategy": {"name": "naive+fpf", "fpf": {"times": 9}}})
    assert alias.spec == long.spec and alias.spec["strategy"]["modifiers"][0]["times"] == 9


def test_slca_is_a_slow_learner_with_alignment_under_the_mask_of_its_experience():
    alias = resolve({"strategy": "slca"})
    long = resolve({"strategy": {"name": "naive+slow_learner+alignment", "slow_learner": {"keep_old_heads": True}}, "training": {"logit_mask": "experience"}})
    assert alias.spec == long.spec and alias.spec["training"]["logit_mask"] == "experience"
    assert resolve({"strategy": "slca", "training": {"logit_mask": "none"}}).spec["training"]["logit_mask"] == "none"


@pytest.mark.parametrize("name", ["kfpf", "slca"])
def test_a_combination_can_only_stand_first(name):
    assert "can only stand first" in refused(lambda: resolve({"strategy": f"replay+{name}"}))


def test_parts_with_a_memory_share_one_and_refuse_two_sizes(run_of, small):
    run = run_of(*small, "strategy=replay+fpf", "strategy.fpf.buffer_size=31")
    assert list(run.memories) == ["replay"] and run.memories["replay"].capacity == 31
    text = refused(lambda: run_of(*small, "strategy=replay+fpf", "strategy.buffer_size=30", "strategy.fpf.buffer_size=31"))
    assert "30" in text and "31" in text


@pytest.mark.parametrize("modifier", ["refresh", "sensitivity"])
@pytest.mark.parametrize("base", ["ncm", "gdumb", "joint"])
def test_what_acts_on_single_steps_is_refused_around_a_base_that_does_not_take_them(base, modifier, run_of, small):
    text = refused(lambda: run_of(*small, f"strategy={base}+{modifier}"))
    assert base in text and modifier in text


NATIVE = {name: entry for name, entry in registry.catalogue("strategies").items() if entry.origin == "native"}
BASES = [name for name, entry in NATIVE.items() if entry.facts["kind"] == "strategy"]
MODIFIERS = [name for name, entry in NATIVE.items() if entry.facts["kind"] == "modifier"]
TEXT_ONLY = [name for name in MODIFIERS if NATIVE[name].facts.get("world") == "text"]

QUICK = [
    "scenario.dataset=digits",
    "scenario.experiences=2",
    "scenario.samples_per_class=6",
    "model.hidden=[8]",
    "training.epochs=2",
    "training.batch_size=10",
    "device=cpu",
]
QUICKER = {
    "fpf": {"steps_each": 2},
    "refresh": {"fisher_samples": 5},
    "alignment": {"epochs": 1, "samples_per_class": 5},
    "gdumb": {"memory_epochs": 2},
    "bic": {"bias_epochs": 2},
    "autolrs": {"candidates": 2, "least_trial": 3},
    "ewc": {"fisher_samples": 5},
    "mas": {"importance_samples": 5},
}


STEPWISE = ("refresh", "sensitivity", "slow_learner", "stream_replay", "dynamic_ema", "ewc", "si", "mas", "lwf", "agem")
REFUSED = {(base, modifier) for base in ("ncm", "slda", "gdumb", "joint", "downstream_only") for modifier in STEPWISE}
"""Pairs that cannot work: single steps of a base that takes none on the current experience; samples chosen where there is no choice."""
REFUSED |= {(base, modifier) for base in ("ncm", "slda", "bic", "gdumb", "downstream_only") for modifier in ("temperature_sampling", "skill_it")}
REFUSED |= {("gdumb", "autolrs"), *((base, modifier) for base in BASES for modifier in TEXT_ONLY)}
REFUSED |= {("cumulative", "stream_replay"), ("joint", "temperature_sampling"), ("cumulative", "temperature_sampling")}
REFUSED |= {("bic", "stream_replay"), ("bic", "dynamic_ema")}  # it holds samples out; it deploys a corrected head


def check_matrix(result):
    matrix = np.array(result["matrix"], dtype=float)
    assert result["status"] == "ok" and matrix.shape == (2, 2)
    if result["strategy"].startswith("downstream_only"):
        assert np.isnan(matrix[0]).all()
        matrix = matrix[1:]
    assert np.isfinite(matrix).all() and (matrix >= 0).all() and (matrix <= 1).all()


@pytest.mark.parametrize("name", [*BASES, *(f"naive+{name}" for name in MODIFIERS if name not in TEXT_ONLY), *registry.aliases()])
def test_every_name_of_the_catalogue_gives_a_whole_matrix(name, cell_of):
    check_matrix(run_cell(cell_of(*QUICK, strategy={"name": name})))


@pytest.mark.parametrize("modifier", MODIFIERS)
@pytest.mark.parametrize("base", BASES)
def test_every_pair_runs_or_is_refused_in_one_line(base, modifier, cell_of):
    cell = cell_of(*QUICK, strategy={"name": f"{base}+{modifier}", modifier: QUICKER.get(modifier, {}), **(QUICKER.get(base, {}))})
    if (base, modifier) in REFUSED:
        refused(lambda: run_cell(cell))
    else:
        check_matrix(run_cell(cell))
