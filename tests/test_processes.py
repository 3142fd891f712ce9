"""Several processes train one model: the numbers of one process, and exactly on after a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clsuite.errors import UsageError
from clsuite.experiment.cell import Options, run_cell
from clsuite.experiment.overrides import parse_overrides
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.models.language import Llama
from clsuite.training.processes import Processes, check

from .text_runs import weights_digest

SETTINGS = [
    "scenario=llm_pretraining",
    "scenario.corpora=[synthetic:0,synthetic:0:0.5]",
    "scenario.context=32",
    "scenario.validation_tokens=1600",
    "scenario.probe_tokens=320",
    "model.name=llama",
    "model.layers=2",
    "model.width=16",
    "model.heads=2",
    "training.batch_size=10",
    "training.border=wsd",
    "device=cpu",
]

TOKENS = "scenario.tokens=6400"


def together(out: Path, *more: str) -> subprocess.Popen[str]:
    """Two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m", "clsuite", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*command, *SETTINGS, *(more if any(m.startswith("scenario.tokens") for m in more) else (*more, TOKENS)), "--out", str(out), "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-2000:]
    return dict(json.loads(out))


def losses(out: Path, cell: str) -> list[float]:
    lines = (out / "cells" / cell[:2] / cell / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if r["event"] in ("loss", "branch_loss")]


@pytest.mark.processes
@pytest.mark.parametrize(("sharding", "accumulation"), [("replicate", 2), ("shard", 1)])
def test_two_processes_give_the_losses_of_one(tmp_path, sharding, accumulation):
    alone = run_cell(resolve(parse_overrides([*SETTINGS, TOKENS], COMPONENTS)), Options(tmp_path / "one"))
    two = finished(together(tmp_path / "two", f"training.sharding={sharding}", f"training.accumulation={accumulation}", "--weights", str(tmp_path / "weights")))
    assert losses(tmp_path / "two", two["cell"]) == pytest.approx(losses(tmp_path / "one", alone["cell"]), rel=1e-5)
    for ours, theirs in zip(two["matrix"], alone["matrix"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    kept = Llama(checkpoint=str(tmp_path / "weights")).build((32,), 257, None)
    assert weights_digest(kept) == two["weights_sha256"]
    for name in ("gradient_steps", "forward_passes", "backward_passes", "deployment", "parameters"):
        assert two["cost"][name] == alone["cost"][name]
    assert two["environment"]["processes"] == 2 and two["resume"] == "exact"


@pytest.mark.processes
def test_two_processes_that_were_killed_go_on_exactly(tmp_path):
    more = ("training.sharding=shard", "scenario.tokens=64000")
    whole = finished(together(tmp_path / "whole", *more))
    process = together(tmp_path / "cut", *more, "--checkpoint-seconds", "0.2")
    deadline = time.monotonic() + 150
    while not list(tmp_path.glob("cut/cells/*/*/checkpoints/*/manifest.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "it must be killed in the middle"
    for worker in children(process.pid):  # the launcher's own death would leave them running
        os.kill(worker, signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("cut/cells/*/*/result.json"))
    again = finished(together(tmp_path / "cut", *more))
    lines = next(tmp_path.glob("cut/cells/*/*/metrics.jsonl")).read_text()
    assert '"resumed"' in lines
    assert again["resume"] == "exact"
    for key in ("weights_sha256", "matrix", "loss_curve"):
        assert again[key] == whole[key]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("world", "way", "strategy", "words"),
    [
        ("images", "replicate", "naive", "only on text"),
        ("text", "replicate", "naive+refresh", "before_step"),
        ("text", "shard", "naive+fpf", "training.sharding = replicate|fill a memory"),
        ("text", "replicate", "replay", "memory of its own"),
    ],
)
def test_what_several_processes_cannot_train_is_refused_in_one_line(world, way, strategy, words):
    parts = resolve({"strategy": strategy}).parts
    with pytest.raises(UsageError, match=words):
        check(Processes(0, 2), world, way, parts)
    check(Processes(), world, way, parts)
