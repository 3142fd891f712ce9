"""A run at one moment: everything that decides which numbers come next, encoded and put back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..strategy import ParameterGroup
from .run import Run
from .state import Decoder, Encoder


def encode(run: Run, more: Any = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A JSON tree and the tensors it refers to, which are copies; `more` is kept beside what the run holds."""
    encoder = Encoder(run.model)
    parts = [{k: v for k, v in vars(p).items() if k not in ("run", "name") and k not in p.transient and k not in p.declared()} for p in run.parts]
    line = {
        "step": run.progress.step,
        "experience_step": run.progress.experience_step,
        "pending_backward": run._pending_backward,
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if run.device.type == "cuda" else [],
    }
    tree = {
        "model": encoder.encode(run.model, "model"),
        "optimizer": None if run.optimizer is None else encoder.encode(run.optimizer, "optimizer"),
        "groups": encoder.encode(run.optimizer_groups(), "groups"),
        "generators": encoder.encode(run.generators, "generators"),
        "memories": encoder.encode(run.memories, "memories"),
        "parts": [
            [[name, encoder.encode(value, f"strategy part '{part.name}': attribute '{name}'")] for name, value in state.items()]
            for part, state in zip(run.parts, parts, strict=True)
        ],
        "line": encoder.encode(line, "line"),
        "more": encoder.encode(more, "loop"),
    }
    return tree, encoder.tensors


def restore(run: Run, tree: dict[str, Any], tensors: dict[str, Tensor], kept: Sequence[int] | None = None) -> Any:
    """Make the run what it was and give back `more`; the tree's parts stand at the places `kept` of the run's (None: all)."""
    decoder = Decoder(tensors, run)
    decoder.decode(tree["model"], run.model)
    line, more = decoder.decode(tree["line"]), decoder.decode(tree["more"])
    run.progress.step, run.progress.experience_step = line["step"], line["experience_step"]
    run._pending_backward = line["pending_backward"]
    run.generators.update(decoder.decode(tree["generators"], run.generators))
    decoder.decode(tree["memories"], run.memories)
    for part, state in zip([run.parts[k] for k in kept] if kept is not None else run.parts, tree["parts"], strict=True):
        for name, value in state:
            setattr(part, name, decoder.decode(value, getattr(part, name, None)))
    if tree["optimizer"] is not None:
        # the groups it had, not those the parts would make now: a hook may have frozen weights since
        run.make_optimizer([ParameterGroup(**group) for group in decoder.decode(tree["groups"])] or run.parameter_groups())
        decoder.decode(tree["optimizer"], run.optimizer)
    random.setstate(line["python"])
    np.random.set_state(line["numpy"])
    torch.set_rng_state(line["torch"].cpu())
    if line["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in line["cuda"]])
    return more
