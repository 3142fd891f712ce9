"""What tests of killed runs share: who kills them and where, when checkpoints are due, and that a run ends as if it had been left alone."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import torch

from clsuite.experiment.cell import Options, run_cell
from clsuite.training.checkpoint import Checkpoints
from clsuite.training.evaluation import Evaluator
from clsuite.training.loop import Loop
from clsuite.training.run import Run


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


@dataclass
class Killer:
    """Sees everything that happens in a run, and kills at the events in `kills`, each once."""

    kills: set = field(default_factory=set)
    seen: list = field(default_factory=list)

    def event(self, *what):
        self.seen.append(what)
        if what in self.kills:
            self.kills.remove(what)
            raise Killed(what)


def watching(monkeypatch) -> Killer:
    """A killer that is told of every step, update, measurement and stage of all runs of a test."""
    found = Killer()
    monkeypatch.setattr("os.fsync", lambda handle: None)  # a killed process loses no write; only a machine without power does

    def after(stage):
        real = getattr(Loop, f"_{stage}")

        def run_and_tell(loop):
            i = loop.run.experience
            real(loop)
            found.event(stage, i)

        monkeypatch.setattr(Loop, f"_{stage}", run_and_tell)

    for stage in ("begin", "steps", "after", "end", "evaluate"):
        after(stage)
    real_measure, real_update = Evaluator.measure, Run.update

    def measure(self, *arguments, **named):
        found.event("measure", self.run.experience, self.run.progress.position.stage)
        return real_measure(self, *arguments, **named)

    def update(run, *arguments):
        found.event("update", sum(cost.gradient_steps for cost in run.costs.values()))
        real_update(run, *arguments)

    monkeypatch.setattr(Evaluator, "measure", measure)
    monkeypatch.setattr(Run, "update", update)
    return found


RHYTHMS = {"every step": lambda calls: True, "rare": lambda calls: calls % 9 == 0, "never": lambda calls: False}
"""When a checkpoint is due; kills come more often than checkpoints in the second."""


def keep_rhythm(monkeypatch, rhythm):
    calls = [0]

    def due(self, border=False):
        calls[0] += 1
        return self.folder is not None and RHYTHMS[rhythm](calls[0])

    monkeypatch.setattr(Checkpoints, "due", due)


def check_restored_state(monkeypatch):
    """After every resume, the state as it is now equals the state in the checkpoint. Returns the list of resumes."""
    real = Loop._resume
    resumed = []

    def resume(loop):
        stored = loop.checkpoints.load()
        if not real(loop):
            return False
        loop.reported -= 1  # the line that says it resumed
        tree, tensors = loop._encode()
        loop.reported += 1
        assert json.loads(json.dumps(tree)) == stored[0]
        assert tensors.keys() == stored[1].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor.nan_to_num(nan=7.0), stored[1][name].nan_to_num(nan=7.0)), name
        resumed.append(loop.run.step)
        return True

    monkeypatch.setattr(Loop, "_resume", resume)
    return resumed


def run_killed(make_cell, out, killer, kills, seconds=0.0):
    """Run a cell that is killed at every event in `kills`, going on in the same folder until it finishes."""
    killer.kills = set(kills)
    deaths = 0
    while True:
        options = Options(out, seconds, on_step=lambda run: killer.event("step", run.experience, run.progress.position.step))
        try:
            return run_cell(make_cell(), options), deaths
        except Killed:
            deaths += 1


def numbers(result):
    """Everything but seconds, memory and the environment."""
    cost = {k: v for k, v in result["cost"].items() if "seconds" not in k and not k.startswith("peak")}
    metrics = {k: v for k, v in result["metrics"].items() if k not in ("tokens_per_second", "model_flop_utilisation")}
    of_world = ("matrix_bits_per_byte", "initial_loss", "loss_curve") if "loss_curve" in result else ("matrix_known_task", "initial_accuracy")
    return {k: result[k] for k in ("status", "matrix", *of_world, "reports", "weights_sha256", "resume", "cell")} | {"metrics": metrics} | cost


def seeded_kills(seen, seed, steps=5, updates=3):
    """Some steps, some updates (most in the middle of a step or hook), and every border."""
    rng = random.Random(seed)
    events = list(dict.fromkeys(seen))
    some = []
    for kind, count in (("step", steps), ("update", updates)):
        of_kind = [e for e in events if e[0] == kind]
        some += rng.sample(of_kind, min(count, len(of_kind)))
    return some + [e for e in events if e[0] not in ("step", "update")]


def check_killed(make_cell, tmp_path, killer, monkeypatch, rhythm, **amounts):
    """Killed at every border and at some steps and updates, with checkpoints in a rhythm, a cell ends as one that was left alone and wrote nothing."""
    whole, _ = run_killed(make_cell, None, killer, ())
    kills = seeded_kills(killer.seen, rhythm, **amounts)
    keep_rhythm(monkeypatch, rhythm)
    resumed = check_restored_state(monkeypatch)
    killed, deaths = run_killed(make_cell, tmp_path, killer, kills)
    assert deaths == len(kills) >= 3 * 3  # three stages of three experiences at least
    assert bool(resumed) == (rhythm != "never")
    expected, found = numbers(whole), numbers(killed)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == expected[key], key
    assert killed["resume"] == "exact"
    assert not list(tmp_path.rglob("checkpoints"))
