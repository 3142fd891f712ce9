"""A-GEM: projections by hand, where references come from, and what they cost."""

from __future__ import annotations

import pytest
import torch

from clsuite.strategy import Modifier

from .regularised_runs import (
    GRADUAL,
    around,
)
from .strategy_runs import execute

pytestmark = pytest.mark.unit


@pytest.fixture
def projected(register, run_of, small):
    """Gradients [weights] before and after each projection, the reference gradient, and where its samples came from."""

    def run(*overrides, strategy, scenario=None):
        found, kept = [], [text for text in small if scenario is None or not text.startswith("scenario.")]
        more = {} if scenario is None else {"scenario": scenario}

        class Before(Modifier):
            def on_gradients(self):
                found.append({"before": torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])})

        class After(Modifier):
            def on_gradients(self):
                found[-1]["after"] = torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])

        register("look", Before)
        register("look_again", After)
        made = run_of(*kept, *overrides, strategy=strategy, **more)
        gradients = made.gradients

        def watched(batch):
            reference = gradients(batch)
            found[-1].update(reference=torch.cat([g.flatten() for g in reference]), origin=set(batch.experience.tolist()), size=len(batch))
            found[-1]["step"] = made.experience
            return reference

        made.gradients = watched
        execute(made)
        return made, found

    return run


ROTATED = {"name": "domain_incremental", "dataset": "digits", "kind": "rotation", "degrees": 30.0, "experiences": 3, "samples_per_class": 20}
AGEM = {"name": "naive+look+agem+look_again", "agem": {"buffer_size": 30, "reference_batch": 12}}


def test_what_would_raise_the_loss_on_the_memory_is_taken_out_and_nothing_else(projected):
    """Under small rotations some steps would raise the loss on what came before, and some would not."""
    run, found = projected("training.precision=float64", strategy=AGEM, scenario=ROTATED)
    assert ["reference" in step for step in found] == [False] * 26 + [True] * 52
    raised = 0
    for step in found[26:]:
        g, r, after = step["before"], step["reference"], step["after"]
        dot = float(g @ r)
        if dot < 0:
            raised += 1
            torch.testing.assert_close(after, g - dot / float(r @ r) * r, rtol=1e-9, atol=1e-14)
            assert abs(float(after @ r)) < 1e-9 * float(g.norm() * r.norm())
        else:
            assert torch.equal(after, g)
        assert step["size"] == 12
    assert 5 < raised < 47
    assert run.parts[2].report() == {"projections": raised}


@pytest.mark.parametrize("insert", ["first_epoch", "always", "experience_end"])
def test_the_reference_is_of_earlier_experiences_however_the_memory_is_filled(projected, insert):
    _, found = projected(strategy={**AGEM, "agem": {**AGEM["agem"], "insert": insert}})
    assert [step["origin"] for step in found[10:18]] == [{0}] * 8
    assert all(step["origin"] <= {0, 1} for step in found[18:])


def test_without_borders_the_reference_is_of_all_the_memory(projected):
    _, found = projected(strategy=AGEM, scenario={**GRADUAL, "samples_per_class": 20})
    assert "reference" not in found[0] and all("reference" in step for step in found[1:])


def test_the_base_draws_what_it_would_have_drawn(run_of, small):
    drawn = {}
    for name in ("replay", "replay+agem"):
        run = run_of(*small, strategy={"name": name, "buffer_size": 20})
        sample, ids = run.memories["replay"].sample, drawn.setdefault(name, [])

        def noted(*arguments, sample=sample, ids=ids):
            batch = sample(*arguments)
            ids.append(batch.ids.tolist())
            return batch

        run.memories["replay"].sample = noted
        execute(run)
    assert drawn["replay"] == drawn["replay+agem"] and len(drawn["replay"]) == 25


def test_reference_passes_are_counted(run_of, small):
    plain, run = run_of(*small), run_of(*small, strategy=around("agem", buffer_size=30, reference_batch=12))
    execute(plain), execute(run)
    assert run.cost.forward_passes == plain.cost.forward_passes + 16 * 12
    assert run.cost.backward_passes == plain.cost.backward_passes + 16 * 12
