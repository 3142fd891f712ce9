"""The weights a cell ends with, written where the user wants them (`clsuite run --weights`)."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..training.checkpoint import writable
from ..training.loop import Loop
from ..training.processes import whole
from .assembly import normalisation_of
from .spec import Cell


def check_place(cell: Cell, path: Path) -> None:
    """Refuse, before anything is trained, a place the weights cannot be written to."""
    wanted = f"a file that ends in {cell.model.suffix}" if cell.model.suffix else "a new folder"
    if path.suffix != cell.model.suffix and cell.model.suffix:
        raise UsageError(f"--weights = '{path}' is not valid with model '{cell.model.name}': expected {wanted}")
    if path.exists():
        raise UsageError(f"--weights = '{path}' exists already: expected {wanted} that does not")
    writable(path.parent, "--weights")


def save_weights(cell: Cell, loop: Loop, path: Path) -> None:
    """Write the model as deployed, readable by the model's own setting for weights; every process of the run must call this."""
    run = loop.run
    with loop.deployed():
        tensors = {name: whole(tensor) for name, tensor in cell.model.tensors(run.model).items()}
        if run.processes.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
            normalisation = normalisation_of(cell, run.stream.source) if run.stream.world == "images" else None
            cell.model.write(run.model, tensors, path, normalisation)
