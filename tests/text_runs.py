"""What tests of runs over text share: a run that is stopped and goes on, and a loop over the bare network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clsuite.errors import Interrupted
from clsuite.experiment.cell import Cell, Options, run_cell
from clsuite.training.run import Run


def weights_digest(network: torch.nn.Module) -> str:
    """As `Run.weights_digest` has it: SHA-256 over names and bytes of all weights and running statistics."""
    h = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        h.update(name.encode())
        h.update(tensor.detach().contiguous().numpy().tobytes())
    return h.hexdigest()


def gone_on(make: Callable[[], Cell], out: Path, asked: int | Callable[[Run], bool], weights: Path | None = None) -> dict[str, Any]:
    """The result of a cell that was asked to leave after update `asked`, or after a step of which `asked(run)` is true, and then went on."""

    def stop(run: Run) -> None:
        run.stop_requested = asked(run) if callable(asked) else run.step == asked

    with pytest.raises(Interrupted):
        run_cell(make(), Options(out, on_step=stop, weights=weights))
    return run_cell(make(), Options(out, weights=weights))


def train_bare(model: torch.nn.Module, stream: Any, ids: np.ndarray) -> None:
    """Batches of 8 windows in this order, with AdamW at 3e-3, decay of matrices alone and clipping: what the engine does, in a plain loop."""
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == big] for big in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others, "weight_decay": 0.0}], 3e-3, (0.9, 0.95), weight_decay=0.1)
    for part in torch.from_numpy(ids).split(8):
        x, y = stream.gather(part)
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
