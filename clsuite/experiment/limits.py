"""What a cell may use, and how many run at once. None of it changes a number, so none of it is part of a cell's identity."""

from __future__ import annotations

import os

from ..errors import UsageError
from ..settings import Configurable, setting


class Limits(Configurable):
    """What a cell may use before it is ended (`limits.*` of an experiment file)."""

    timeout: float | None = setting(None, gt=0, help="seconds an attempt at a cell may take (null: any); it is tried again from its checkpoint, at most twice")
    memory_mb: float | None = setting(None, gt=0, help="private memory of a cell's processes, in MB (null: any)")
    cells_per_gpu: int = setting(1, ge=1, help="cells that run on one GPU at once")


def checked_workers(workers: int | None, threads: int, oversubscribe: bool = False) -> int:
    """The number of workers: as many as the cores carry, or what was asked for; raises `UsageError` for more than that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    valid = max(cores // threads, 1)
    if workers is not None and not 1 <= workers <= (workers if oversubscribe else valid):
        raise UsageError(
            f"--workers = {workers} with training.threads = {threads} is not valid on {cores} cores (valid: 1 to {valid}; --oversubscribe allows more)"
        )
    return workers or valid


def gpu_slots(each: int) -> list[str]:
    """The GPUs this process may use, every one as often as cells may share it."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(k) for k in range(torch.cuda.device_count())]
    return [name for name in names if name] * each
