"""The loop: experiences, steps, borders, measurements, and going on exactly where a killed run was.

A run is a sequence of stages: for every experience `begin`, `steps`, `after` (the `after_experience` hooks), `end` (after the last
one only) and `evaluate`. Where a branch is annealed to be measured (`borders.Timeline`) they are `begin`, `steps` up to it, `branch`,
`evaluate`, `main`, which goes on from where the branch left, and `after`. A checkpoint may stand before each of them and between
any two steps; a stage that was interrupted runs again from the checkpoint before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..errors import Interrupted
from ..plan import Plan
from . import snapshot
from .checkpoint import Checkpoints
from .image_measurements import ImageMeasurements
from .losses import Losses
from .portions import train_on
from .progress import Cost, Position
from .run import Run
from .sampling import batches, table
from .text_measurements import TextMeasurements
from .workload import Measurements

Report = Callable[[dict[str, Any]], None]
TRUNK = "trunk "
"""Before the names of tensors of the line that a branch left."""
MEASUREMENTS: dict[str, Callable[[Run], Measurements]] = {"images": ImageMeasurements, "text": TextMeasurements}


@dataclass(frozen=True)
class Start:
    """The checkpoint of another run to begin from, which had the parts at the places `kept` of this one's."""

    checkpoints: Checkpoints
    kept: Sequence[int]


class Loop:
    """Trains and measures one run.

    `report` is told what happens (losses, rows of the matrix) as plain dictionaries; `on_step(run)` is called after every
    step, for progress. `SIGTERM` handlers set `run.stop_requested`. `started` says whether it began from `start`.
    """

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        report: Report | None = None,
        on_step: Callable[[Run], None] | None = None,
        start: Start | None = None,
    ):
        self.run, self.checkpoints, self.start = run, checkpoints, start
        self.started = False
        self.measurements = MEASUREMENTS[run.stream.world](run)
        self.losses = Losses(run.workload.logging_interval, run.processes.sum)
        self._listener = report or (lambda record: None)
        self.reported = 0
        self._on_step = on_step or (lambda run: None)
        self.seconds = {"training": 0.0, "deployment": 0.0, "evaluation": 0.0}
        self.exact = True
        self._checked = False
        self._trunk: tuple[Any, dict[str, Tensor]] | None = None
        """The line that goes on, as it was where the branch left it; while there is a branch."""

    def _report(self, record: dict[str, Any]) -> None:
        self.reported += 1
        self._listener(record)

    # -- the run ------------------------------------------------------------------------------------------------

    def execute(self, until: int | None = None) -> None:
        """Run to the end, from the newest checkpoint if there is one; raises `Diverged` or `Interrupted`.

        With `until`, to the end of the training steps of experience `until` - 1, where a checkpoint is left.
        """
        run = self.run
        run.seed_default_generators()
        run.model.train()
        for part in run.parts:
            part.setup()
        if not self._resume():
            self._timed(self.measurements.begin)
        position = run.progress.position
        while position.experience < len(run.stream):
            if until is not None and (position.experience, position.stage) == (until - 1, "after"):
                return self.save()
            stages = self._stages(position.experience)
            run.workload.begin_step()  # no stage sees labels that the one before has drawn: a resumed run would not either
            getattr(self, f"_{position.stage}")()
            at = stages.index(position.stage) + 1
            if at < len(stages):
                position.stage = stages[at]
            else:
                position.experience, position.stage = position.experience + 1, "begin"
            position.step = self._first_step(position)
            self._border()
        return None

    def _stages(self, i: int) -> list[str]:
        last = i == len(self.run.stream) - 1
        if self.run.timeline.branch_from(i) is not None:
            return ["begin", "steps", "branch", "evaluate", "main", "after"]
        return ["begin", "steps", "after", *(["end"] if last else []), "evaluate"]

    def _first_step(self, position: Position) -> int:
        """Where a stage begins in the batches of its experience."""
        return (self.run.timeline.branch_from(position.experience) or 0) if position.stage in ("branch", "main") else 0

    def _border(self) -> None:
        if self._asked(border=True):
            self.save()
        self._leave_if_asked()

    def _asked(self, step: int = 0, border: bool = False) -> bool:
        """Whether a checkpoint is to be written now, to leave or because it is due; several processes agree on it, and do so now and then."""
        run = self.run
        if not run.processes.alone and step % self.losses.every:
            return False
        run.stop_requested, due = run.processes.any(run.stop_requested, self.checkpoints.due(border))
        return run.stop_requested or due

    def _leave_if_asked(self) -> None:
        if self.run.stop_requested:
            self.run.processes.wait()  # for the checkpoint
            raise Interrupted

    def _begin(self) -> None:
        run = self.run
        i = run.experience
        if run.plan_of(i).fresh_model:
            run.reset_model()
        run.model.train()
        run.begin_optimizer()
        for part in run.parts:
            part.before_experience(run.stream.experiences[i])

    def _steps(self) -> None:
        self._train("training", self.run.timeline.branch_from(self.run.experience))

    def _branch(self) -> None:
        """Anneal to be measured: like evaluation, this leaves no trace in the line that goes on."""
        if self._trunk is None:
            self._trunk = snapshot.encode(self.run)
        self.run.cost = self.run.costs["deployment"]
        self._train("deployment", None)
        self.run.cost = self.run.costs["training"]

    def _main(self) -> None:
        if self._trunk is not None:
            snapshot.restore(self.run, *self._trunk)
            self._trunk = None
        self._train("training", None)

    def _train(self, charged_to: str, until: int | None) -> None:
        """The batches of this experience from where it stands, up to `until` (None: all)."""
        run, position = self.run, self.run.progress.position
        plan = run.plan_of(run.experience)
        started = time.monotonic()
        ahead = batches(run, plan, position.step)
        for batch, first_epoch in ahead if until is None else itertools.islice(ahead, max(0, until - position.step)):
            self._train_on(batch, first_epoch)
            position.step += 1
            if self.losses.full():
                self._log()
            if not run.on_branch:
                started += self._probe(plan)
            self._on_step(run)
            if self._asked(position.step):
                self.seconds[charged_to] += time.monotonic() - started
                self.save()
                self._leave_if_asked()
                started = time.monotonic()
        if run.insert == "experience_end" and until is None and not run.on_branch:
            self._fill_memories_from(plan)
        self._log()
        self.seconds[charged_to] += time.monotonic() - started

    def _train_on(self, batch: Batch, first_epoch: bool) -> None:
        run = self.run
        for change in run._hooks["batch"]:
            batch = change(batch)
        run.workload.begin_step()
        run.workload.note_labels(batch.ids)
        for hook in run._hooks["before_step"]:
            hook(batch)
        loss = train_on(run, batch)
        if loss is not None:
            self.losses.add(loss)
        if run.memories and (run.insert == "always" or (run.insert == "first_epoch" and first_epoch)):
            run.fill_memories(batch.current_only())
        if not self._checked:
            self._encode()  # what cannot be kept fails now, not at the first checkpoint hours later
            self._checked = True

    def _fill_memories_from(self, plan: Plan) -> None:
        run = self.run
        ids, origin = table(run, plan.content)
        for start in range(0, len(ids), 1000):
            part = slice(start, start + 1000)
            run.fill_memories(run.current_batch(torch.from_numpy(ids[part]), torch.from_numpy(origin[part]), None))

    def _after(self) -> None:
        self._hooked("after_experience", self.run.stream.experiences[self.run.experience])

    def _end(self) -> None:
        self._hooked("end")

    def _hooked(self, hook: str, *arguments: Any) -> None:
        started = time.monotonic()
        for part in self.run.parts:
            getattr(part, hook)(*arguments)
        self.run.check_own_losses()
        self.seconds["training"] += time.monotonic() - started

    def _evaluate(self) -> None:
        run = self.run
        i = run.experience
        if not self.measurements.wanted(i) or not run.plan_of(i).measured:
            return
        with self.deployed():
            row = self._timed(self.measurements.row, i)
        self._report({"event": "experience", "experience": i, "step": run.step, **row})

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """The model as one would deploy it now, put back as it was at the end of the block."""
        run = self.run
        started = time.monotonic()
        run.cost = run.costs["deployment"]
        random_state = torch.get_rng_state()  # what is drawn to deploy a model leaves training as it would have been
        device_state = torch.cuda.get_rng_state_all() if run.device.type == "cuda" else []
        for part in run.parts:
            part.before_evaluation()
        run.check_own_losses()
        self.seconds["deployment"] += time.monotonic() - started
        yield
        started = time.monotonic()
        for part in reversed(run.parts):
            part.after_evaluation()
        torch.set_rng_state(random_state)
        if device_state:
            torch.cuda.set_rng_state_all(device_state)
        run.cost = run.costs["training"]
        self.seconds["deployment"] += time.monotonic() - started

    def _timed(self, measure: Callable[..., Any], *arguments: Any) -> Any:
        started = time.monotonic()
        found = measure(*arguments)
        self.seconds["evaluation"] += time.monotonic() - started
        return found

    def _log(self) -> None:
        loss = self.losses.close()
        if loss is not None:
            event = "branch_loss" if self.run.on_branch else "loss"  # who fits laws to losses reads one line
            self._report({"event": event, "experience": self.run.experience, "step": self.run.step, "loss": loss, "learning_rate": self.run.learning_rate})

    def _probe(self, plan: Plan) -> float:
        """Look at the model along the way, where that is wanted; the seconds it took."""
        before = self.seconds["evaluation"]
        event = self._timed(self.measurements.probe, self.run.progress.position.step, plan.steps)
        if event is not None:
            self._report(event)
        return self.seconds["evaluation"] - before

    # -- state --------------------------------------------------------------------------------------------------

    def _encode(self) -> tuple[Any, dict[str, Tensor]]:
        run = self.run
        more = {
            "position": asdict(run.progress.position),
            "costs": {name: asdict(cost) for name, cost in run.costs.items()},
            "losses": self.losses.state(),
            "seconds": self.seconds,
            "measurements": self.measurements.state(),
            "exact": self.exact,
            "started": self.started,
            "reported": self.reported,
        }
        tree, tensors = snapshot.encode(run, more)
        if self._trunk is not None:
            tensors |= {TRUNK + name: tensor for name, tensor in self._trunk[1].items()}
        return {**tree, "trunk": None if self._trunk is None else self._trunk[0]}, tensors

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        if self.checkpoints.folder is not None:
            self.checkpoints.save(*self._encode(), write=self.run.processes.leads)

    def _resume(self) -> bool:
        run = self.run
        found, kept = self.checkpoints.load(), None
        if found is None and self.start is not None:
            found, kept = self.start.checkpoints.load(), self.start.kept
            self.started = found is not None
        if found is None:
            return False
        tree, tensors, exact = found
        if tree["trunk"] is not None:
            self._trunk = (tree["trunk"], {name[len(TRUNK) :]: t for name, t in tensors.items() if name.startswith(TRUNK)})
        more = snapshot.restore(run, tree, tensors, kept)
        run.progress.position = Position(**more["position"])
        run.costs.update({name: Cost(**cost) for name, cost in more["costs"].items()})
        run.cost = run.costs["training"]
        self.measurements.restore(more["measurements"])
        self.losses.restore(more["losses"])
        self.seconds, self.exact = more["seconds"], more["exact"] and exact
        self.started = self.started or more["started"]
        self.reported = more["reported"]
        self._report({"event": "resumed", "experience": run.experience, "step": run.step, "line": self.reported})
        return True
