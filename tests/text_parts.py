"""What tests of parts on language models share: cells of three experiences at most, checkpoints, and runs that are stopped."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from clsuite.errors import UsageError
from clsuite.experiment.cell import make_run, run_cell
from clsuite.experiment.spec import resolve
from clsuite.models.language import GPTNeoX, Llama
from clsuite.models.language_checkpoint import save_checkpoint

from .text_runs import gone_on

CORPORA = [f"synthetic:0#{k}/3" for k in range(3)]
SHAPE = {"layers": 3, "width": 16, "heads": 2}
CONTEXT = 16
DIGITS = ["scenario.dataset=digits", "scenario.experiences=2", "scenario.samples_per_class=20", "model.hidden=[8]", "training.batch_size=16", "device=cpu"]
HALF = {"name": "naive+half_fine_tuning", "half_fine_tuning": {"first": "masked"}}
SEARCHING = {"name": "naive+autolrs", "autolrs": {"candidates": 3, "least_trial": 3, "first_stage": 4}}
DROPPING = {"name": "gpt_neox", **SHAPE, "dropout": 0.1}


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
        again = gone_on(make, tmp_path / str(stop_at), lambda run, steps=steps, stop_at=stop_at: next(steps) == stop_at)
        assert again["resume"] == "exact"
        for key in ("weights_sha256", "matrix", "loss_curve", "reports"):
            assert again[key] == whole[key], key
        for key in ("gradient_steps", "forward_passes", "backward_passes"):
            assert again["cost"][key] == whole["cost"][key]
    return whole


def see_before(monkeypatch, run, hook, see):
    """Call `see(run)` before a hook of the part in second place."""
    real = getattr(run.parts[1], hook)

    def called(*arguments):
        see(run)
        real(*arguments)

    if hook in run._hooks:
        run._hooks[hook] = [called if h == real else h for h in run._hooks[hook]]
    else:
        monkeypatch.setattr(type(run.parts[1]), hook, lambda self, *arguments: called(*arguments))


def write_checkpoints(root: Path) -> dict[str, str]:
    """A base, its instruct form (with zeros of both signs), and models that do not go with it. Bytes have 256 tokens and an end of document."""
    tokens, made = text_run("naive").classes, {}
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


def instructed(checkpoints, instruct="instruct", base="base", **more):
    """Settings of a cell with an instruction residual; `instruct` is a name of a checkpoint, or a path."""
    model = {"name": "gpt_neox", "checkpoint": checkpoints[base]} if base else None
    return {
        "strategy": {"name": "naive+instruction_residual", "instruction_residual": {"instruct": checkpoints.get(instruct, instruct)}},
        "model": model,
        **more,
    }
