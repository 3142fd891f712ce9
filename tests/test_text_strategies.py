"""Methods that act on weights, gradients and rates of language models: exact resuming of all of them, and batches in parts."""

from __future__ import annotations

import pytest
import torch

from .strategy_runs import weights
from .text_parts import DROPPING, SEARCHING, cell, check_resume, instructed, text_run

pytestmark = pytest.mark.unit

BOTH = {"name": "naive+half_fine_tuning+dynamic_ema", "half_fine_tuning": {"first": "masked"}, "dynamic_ema": {"start": "first_experience"}}
STOPPED = {
    "both": (BOTH, {"border_optimizer": "keep"}),
    "from the border": ({"name": "naive+half_fine_tuning+dynamic_ema", "dynamic_ema": {"form": "paper"}}, {}),
    "search": (SEARCHING, {"border_optimizer": "keep", "model": DROPPING, "schedule": {"name": "constant", "warmup": 3}}),
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, case):
    strategy, more = STOPPED[case]
    check_resume(tmp_path, lambda: cell(strategy, **more), (2, 10, 13))


def test_a_residual_run_that_was_stopped_ends_with_the_same_bits(tmp_path, checkpoints):
    found = check_resume(tmp_path, lambda: cell(**instructed(checkpoints)), (4, 15))
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
