"""The machine a cell runs on: what its numbers depend on, and what it used."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import torch

PROCESS = Path("/proc/self")


def platform_of(device: torch.device, threads: int) -> dict[str, Any]:
    """What bit-for-bit equality depends on besides the cell: versions, machine type, device type, threads."""
    import numpy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
    }


def _processor() -> str:
    try:
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()


def forget_peak_memory(device: torch.device) -> None:
    """Start measuring anew, so that a cell is not charged for what its process did before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's
        return


def peak_memory_mb() -> float:
    """Peak resident memory since `forget_peak_memory`, where the system tells; else of the process."""
    try:
        line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def private_memory_mb(pid: int) -> float:
    """Private memory of a process and its descendants, in MB: pages that no other process maps. 0 where the kernel does not tell."""
    total, pending = 0, [pid]
    while pending:
        here = Path(f"/proc/{pending.pop()}")
        try:
            lines = (here / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
            for thread in (here / "task").iterdir():  # a child is listed with the thread that started it
                pending += [int(child) for child in (thread / "children").read_text().split()]
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return total / 1024
