"""Processes that train one model together, under `torchrun`: PyTorch's own DDP and FSDP2 around the same loop.

Every process draws the same batches, trains on its part of each and measures everything; the first one alone writes. Losses and gradients
are means over the tokens of the whole batch, so that the numbers are those of one process up to the order of additions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..errors import UsageError
from ..strategy import Part

if TYPE_CHECKING:
    from torch import Tensor

    from ..batch import Batch
    from ..models.base import Network

WHOLE_BATCH_HOOKS = ("before_step",)
"""Hooks that run the network on their own before a step, which the bookkeeping of gradients over processes does not allow."""
WHOLE_WEIGHT_HOOKS = ("before_step", "penalty", "on_gradients", "after_step", "after_experience", "before_evaluation", "end")
"""Hooks that look at weights, which are not whole in any process when they are sharded."""


class Processes:
    """The processes of a run: how many, and which of them this is."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if not self.alone:
            torch.distributed.all_reduce(values)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process: what all of them go by."""
        if self.alone:
            return flags
        return tuple(bool(v) for v in self.sum(torch.tensor([float(f) for f in flags], device=self._device)))

    def wait(self) -> None:
        """Until all processes are here."""
        if not self.alone:
            torch.distributed.barrier()

    def own(self, batch: Batch) -> tuple[Batch, float]:
        """This process' part of a batch and the share of the batch's mean that it stands for; all of it where there are too few samples."""
        if self.alone:
            return batch, 1.0
        if len(batch) < self.count:
            return batch, 1 / self.count
        part = batch.split(self.count)[self.rank]
        return part, len(part) / len(batch)

    @property
    def _device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes `torchrun` started, joined for as long as the block lasts; this one alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count)
    finally:
        torch.distributed.destroy_process_group()


def spread(network: Network, way: Literal["replicate", "shard"], processes: Processes) -> Network:
    """The network for several processes: its gradients are averaged in each backward pass; `shard`: each keeps a part of every weight."""
    if processes.alone:
        return network
    if way == "replicate":
        from torch.distributed._composable.replicate import replicate

        replicate(network)
        return network
    from torch.distributed.fsdp import fully_shard

    body: Any = network.body
    for layer in body.layers:
        fully_shard(layer)
    fully_shard(network, reshard_after_forward=True)  # else `parameters()` are copies after a pass without a backward one
    return network


def check(processes: Processes, world: str, way: str, parts: list[Part]) -> None:
    """Refuse, in one line, what several processes cannot train."""
    if processes.alone:
        return
    if world != "text":
        raise UsageError(f"{processes.count} processes train one model together only on text, not on {world}: run cells side by side instead (clsuite grid)")
    for part in parts:
        for hook in WHOLE_WEIGHT_HOOKS if way == "shard" else WHOLE_BATCH_HOOKS:
            if part.defines(hook):
                valid = " (valid: training.sharding = replicate)" if way == "shard" and hook not in WHOLE_BATCH_HOOKS else ""
                raise UsageError(
                    f"strategy '{part.name}' cannot be used with {processes.count} processes and training.sharding = {way}: it has a {hook}{valid}"
                )
        if "memory" in part.needs:
            raise UsageError(f"strategy '{part.name}' cannot be used with {processes.count} processes: each would fill a memory of its own")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts, where it is spread over processes; all of them must ask."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def put(into: Tensor, whole_value: Tensor) -> Tensor:
    """Copy a whole tensor into one that may be spread over processes."""
    if hasattr(into, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        place: Any = into
        return into.copy_(distribute_tensor(whole_value.to(into.device), place.device_mesh, place.placements))
    return into.copy_(whole_value)
