"""From a cell's specification to a live run: stream, model and parts, put together and checked against each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import UsageError
from ..models.base import Normalisation
from ..randomness import torch_seed
from ..stream import Stream
from ..training.images import ImageWorkload
from ..training.processes import Processes, check, spread
from ..training.run import Run
from ..training.text import TextWorkload
from ..training.workload import Workload
from .spec import Cell, check_pairing, check_world


def make_run(cell: Cell, device: torch.device, processes: Processes | None = None) -> Run:
    """Stream, model and parts of a cell, put together and checked against each other."""
    stream = cell.scenario.stream(cell.spec["phase"], cell.seed)
    processes = processes or Processes()
    check_world(cell, stream)
    check(processes, stream.world, cell.training.sharding, cell.parts)
    with _fixed_random_state(torch_seed(cell.seed, "initial_weights")):
        network = cell.model.build(stream.source.shape, stream.classes, cell.data_root)
    check_pairing(cell, stream, network, cell.model.pretrained)
    stream.load(device)
    if cell.training.compile:
        network.compile()
    network = network.to(device=device, dtype=torch.float64 if cell.training.precision == "float64" else torch.float32)
    run = Run(
        stream,
        spread(network, cell.training.sharding, processes),
        cell.parts,
        cell.training,
        cell.schedule,
        cell.seed,
        device,
        _workload(cell, stream, device),
        pretrained=cell.model.pretrained,
        evaluation_mask=cell.evaluation.mask,
        memory_settings=memory_settings(cell),
        probe_tokens=getattr(cell.scenario, "probe_tokens", None),
        processes=processes,
    )
    run.check_schedule()
    return run


def _workload(cell: Cell, stream: Stream, device: torch.device) -> Workload:
    if stream.world == "text":
        return TextWorkload(stream, cell.training, device)
    return ImageWorkload(stream, cell.training, device, normalisation_of(cell, stream.source))


def memory_settings(cell: Cell) -> dict[str, Any] | None:
    """Size, policy and filling of the memory that the parts of a cell share; None without one."""
    remembering = [p for p in cell.parts if "memory" in p.needs]
    if not remembering:
        return None
    # attributes, not settings: parts that declare none of them still share the data set's default
    defaults = {"size": ("buffer_size", 500), "policy": ("buffer", "reservoir"), "insert": ("insert", "first_epoch")}
    return {key: next((v for p in remembering if (v := getattr(p, name, None)) is not None), default) for key, (name, default) in defaults.items()}


def normalisation_of(cell: Cell, source: Any) -> Normalisation | None:
    """Mean and standard deviation by channel that images of a cell are normalised with; None: they stay in 0..1."""
    wanted = cell.training.normalise
    if wanted == "auto" and cell.model.pretrained and cell.model.normalisation is not None:
        return cell.model.normalisation
    if wanted == "dataset" or (wanted == "auto" and not source.grey):
        return source.mean, source.std
    return None


def device_of(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device = 'cuda' is not available on this machine (valid: auto, cpu)")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _fixed_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
