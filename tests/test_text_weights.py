"""Methods that act on weights, on language models."""

from __future__ import annotations

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import make_run, run_cell
from clsuite.experiment.spec import resolve

from .test_llm_pretraining import tiny
from .text_runs import gone_on

pytestmark = pytest.mark.unit

REFRESH = {"name": "naive+refresh", "refresh": {"unlearn_step": 1e-3, "fisher_samples": 3}}


def test_the_fisher_information_of_a_window_weighs_its_squared_gradient_with_its_mean_token_probability():
    run = make_run(resolve(tiny(strategy=REFRESH)), torch.device("cpu"))
    part = run.parts[1]
    run.model.eval()
    ids = run.stream.experiences[0].segments[0].indices[:2]
    x, y = run.stream.gather(torch.from_numpy(ids))
    expected = 0.0
    for k in range(2):
        run.model.zero_grad()
        loss = torch.nn.functional.cross_entropy(run.model(x[k : k + 1])[0], y[k])  # minus the mean log-probability
        loss.backward()
        expected = expected + torch.exp(-loss.detach()) * run.model.head.weight.grad**2 / 2
    place = next(n for n, p in enumerate(run.model.parameters()) if p is run.model.head.weight)
    torch.testing.assert_close(part.estimate(ids)[place], expected, rtol=1e-4, atol=1e-12)


def test_the_slow_learner_moves_the_backbone_slowly_after_the_first_experience():
    run = make_run(resolve(tiny(strategy={"name": "naive+slow_learner", "slow_learner": {"backbone_rate": 1e-5}})), torch.device("cpu"))
    assert {g.learning_rate for g in run.parameter_groups()} == {3e-3}
    run.progress.position.experience = 1
    groups = {g.name: g for g in run.parameter_groups()}
    assert {name: g.learning_rate for name, g in groups.items()} == {"all, backbone": 1e-5, "all, head": 3e-3}
    assert [id(p) for p in groups["all, head"].parameters] == [id(p) for p in run.model.head.parameters()]


@pytest.mark.parametrize("strategy", [REFRESH, {"name": "naive+slow_learner"}], ids=lambda s: s["name"])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, strategy):
    raw = tiny(scenario={"tokens": 2560}, strategy=strategy)
    whole = run_cell(resolve(raw))
    assert whole["cost"]["gradient_steps"] == 20
    for at in (5, 11, 16):
        again = gone_on(lambda: resolve(raw), tmp_path / str(at), at)
        assert again["weights_sha256"] == whole["weights_sha256"] and again["matrix"] == whole["matrix"]


def test_old_heads_cannot_be_kept_on_text():
    with pytest.raises(UsageError, match="keep_old_heads"):
        run_cell(resolve(tiny(strategy={"name": "naive+slow_learner", "slow_learner": {"keep_old_heads": True}})))
