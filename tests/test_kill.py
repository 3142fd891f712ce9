"""A run that is killed, asked to leave, or robbed of its newest checkpoint ends with the numbers of one that was left alone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clsuite import cli

pytestmark = [pytest.mark.kill, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]

CELL = ("scenario.dataset=digits", "scenario.samples_per_class=60", "strategy=derpp", "training.epochs=2", "training.batch_size=16")
"""80 steps, each of which leaves a checkpoint."""
RUN = ("run", *CELL, "--json", "--checkpoint-seconds", "0")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CLSUITE_OFFLINE": "1"}


def start(folder: Path, out: str = "runs", **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "clsuite", *RUN, "--out", out],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def here(folder: Path, out: str = "runs") -> tuple[object, str, str]:
    """The same command in this process, for another takes longer to start than to run: exit code, standard output, standard error."""
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        patch.chdir(folder)
        with pytest.raises(SystemExit) as left:
            cli.main([*RUN, "--out", out])
    return left.value.code or 0, said.getvalue(), complained.getvalue()


def finish(folder: Path) -> tuple[dict, str]:
    code, out, err = here(folder)
    assert code == 0, err
    return json.loads(out), err


def wait_for_checkpoints(process: subprocess.Popen, folder: Path, number: int) -> None:
    """Until the run has written its checkpoint of that number."""
    until = time.monotonic() + 120
    while not any(int(p.parent.name.rpartition("-")[2]) >= number for p in folder.glob("runs/cells/*/*/checkpoints/[!.]*/manifest.json")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)


def numbers(result: dict) -> dict:
    return {name: result[name] for name in ("status", "metrics", "matrix", "matrix_known_task", "weights_sha256", "resume", "stream", "reports")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    return finish(tmp_path_factory.mktemp("undisturbed"))[0]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of a run that was asked to leave after at least 20 checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(folder)
    wait_for_checkpoints(process, folder, 20)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (75, ""), err
    assert time.monotonic() - asked < 30
    assert "run the same command to go on" in err.splitlines()[-1]
    assert not list(folder.glob("runs/cells/*/*/result.json"))
    return folder


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, undisturbed):
    number, moment = random.SystemRandom().randint(3, 40), random.SystemRandom().uniform(0, 0.05)
    process = start(tmp_path)
    wait_for_checkpoints(process, tmp_path, number)
    time.sleep(moment)  # within a step, or while a checkpoint is written
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it was done {moment} s after checkpoint {number}"
    process = start(tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert numbers(json.loads(out)) == numbers(undisturbed), f"killed {moment} s after checkpoint {number}"
    assert any(json.loads(line)["event"] == "resumed" for line in next(tmp_path.glob("runs/cells/*/*/metrics.jsonl")).read_text().splitlines())
    assert not list(tmp_path.glob("runs/cells/*/*/checkpoints"))


def test_a_run_that_was_asked_to_leave_goes_on_to_the_same_numbers(tmp_path, stopped, undisturbed):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    result, err = finish(tmp_path)
    assert numbers(result) == numbers(undisturbed)
    assert "warning" not in err


@pytest.mark.filterwarnings("default:checkpoint .* is damaged")
@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, stopped, undisturbed, damage):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    newest = max(tmp_path.glob("runs/cells/*/*/checkpoints/[!.]*"), key=lambda p: int(p.name.rpartition("-")[2]))
    file = newest / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-100] ^= 1
        file.write_bytes(content)
    else:
        (newest / "manifest.json").unlink()
    result, err = finish(tmp_path)
    assert numbers(result) == numbers(undisturbed)
    warned = [line for line in err.splitlines() if line.startswith("clsuite: warning: ")]
    assert len(warned) == 1 and newest.name in warned[0] and "damaged" in warned[0]


def _small_files_only() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_full_disk_is_one_line(tmp_path):
    process = start(tmp_path, preexec_fn=_small_files_only)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (2, ""), err
    *progress, said = err.splitlines()
    assert all(line.startswith("clsuite: experience 1 of 5, ") for line in progress), err  # a slow machine says how far it is
    assert "a checkpoint could not be written" in said and "runs" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = here(tmp_path, "file/below")
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1 and "file/below" in err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
