"""What tests of replay and sampling over corpora share: cells of three corpora, and which window every step saw."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import make_run, run_cell
from clsuite.experiment.spec import resolve
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.loop import Loop

from .text_runs import gone_on

CORPORA = [f"synthetic:0#{k}/3" for k in range(3)]
TOKENS = [6400, 2560, 2560]
"""200, 80 and 80 windows: 25, 10 and 10 steps of 8."""
IMAGES = ["scenario.dataset=digits", "scenario.experiences=3", "scenario.first_classes=4", "scenario.samples_per_class=20", "model.hidden=[8]", "device=cpu"]


def cell(strategy, tokens=None, count=3, **more):
    scenario = {"name": "llm_pretraining", "corpora": CORPORA[:count], "tokens": (tokens or TOKENS)[:count], "context": 32}
    return resolve(
        {
            "scenario": {**scenario, "validation_tokens": 640, "probe_tokens": 320},
            "model": {"name": "gpt_neox", "layers": 1, "width": 16, "heads": 2},
            "training": {"batch_size": 8},
            "device": "cpu",
            "strategy": strategy,
            **more,
        }
    )


def watched(run, monkeypatch):
    """Train the run; ids, whether current, and origin of every batch, by experience; and the loop."""
    seen = [[] for _ in run.stream.experiences]
    with monkeypatch.context() as patch:
        owner = next(c for c in type(run.base).__mro__ if "training_step" in vars(c))
        real = owner.training_step

        def step(self, batch):
            seen[run.experience].append((batch.ids.tolist(), batch.current.tolist(), batch.experience.tolist()))
            return real(self, batch)

        patch.setattr(owner, "training_step", step)
        loop = Loop(run, Checkpoints(None, "", {}, math.inf))
        loop.execute()
    return seen, loop


def text_run(strategy, **more):
    return make_run(cell(strategy, **more), torch.device("cpu"))


def tables(run):
    return [run.stream.ids(e.segments).tolist() for e in run.stream.experiences]


def replayed(batches):
    """By step: (origin, id) of every replayed sample."""
    return [[(e, i) for i, c, e in zip(*batch, strict=True) if not c] for batch in batches]


def counts(batches, origins):
    return [tuple(sum(e == k for e, _ in step) for k in origins) for step in replayed(batches)]


def refused(strategy, **more):
    with pytest.raises(UsageError) as error:
        run_cell(cell(strategy, **more))
    assert "\n" not in str(error.value)
    return str(error.value)


def check_stopped(tmp_path, strategy):
    """Stopped after its second update, half-way and before its last, a run ends as the one that was not."""

    def make():
        return cell(strategy, tokens=[1280, 768, 512])

    whole = run_cell(make())
    total = whole["cost"]["gradient_steps"]
    for at in {2, total // 2, total - 1}:
        steps = itertools.count(1)
        again = gone_on(make, tmp_path / str(at), lambda run, steps=steps, at=at: next(steps) == at)
        assert again["resume"] == "exact"
        for key in ("weights_sha256", "matrix", "loss_curve", "reports"):
            assert again[key] == whole[key]
        for key in ("gradient_steps", "forward_passes", "backward_passes"):
            assert again["cost"][key] == whole["cost"][key]
