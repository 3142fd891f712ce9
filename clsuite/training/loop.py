"""The loop: experiences, steps, borders, measurements, and going on exactly where a killed run was.

A run is a sequence of stages: for every experience `begin`, `steps`, `after` (the `after_experience` hooks), `end` (after the last
one only) and `evaluate`. A checkpoint may stand before each of them and between any two steps; a stage that was
interrupted runs again from the checkpoint before it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Batch
from ..errors import Interrupted
from ..plan import Plan
from ..strategy import ParameterGroup
from .checkpoint import Checkpoints
from .image_measurements import ImageMeasurements
from .losses import Losses
from .progress import Cost, Position
from .run import Run
from .sampling import batches, table
from .state import Decoder, Encoder
from .text_measurements import TextMeasurements
from .workload import Measurements

Report = Callable[[dict[str, Any]], None]
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
        self.losses = Losses(run.workload.logging_interval)
        self._listener = report or (lambda record: None)
        self.reported = 0
        self._on_step = on_step or (lambda run: None)
        self.seconds = {"training": 0.0, "deployment": 0.0, "evaluation": 0.0}
        self.exact = True
        self._checked = False

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
            position.step = 0
            self._border()
        return None

    def _stages(self, i: int) -> list[str]:
        last = i == len(self.run.stream) - 1
        return ["begin", "steps", "after", *(["end"] if last else []), "evaluate"]

    def _border(self) -> None:
        if self.run.stop_requested or self.checkpoints.due(border=True):
            self.save()
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self.run.stop_requested:
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
        run, position = self.run, self.run.progress.position
        plan = run.plan_of(run.experience)
        started = time.monotonic()
        for batch, first_epoch in batches(run, plan, position.step):
            self._train_on(batch, first_epoch)
            position.step += 1
            if self.losses.full():
                self._log()
            started += self._probe(plan)
            self._on_step(run)
            if run.stop_requested or self.checkpoints.due():
                self.seconds["training"] += time.monotonic() - started
                self.save()
                self._leave_if_asked()
                started = time.monotonic()
        if run.insert == "experience_end":
            self._fill_memories_from(plan)
        self._log()
        self.seconds["training"] += time.monotonic() - started

    def _train_on(self, batch: Batch, first_epoch: bool) -> None:
        run = self.run
        for change in run._hooks["batch"]:
            batch = change(batch)
        run.workload.begin_step()
        run.workload.note_labels(batch.ids)
        for hook in run._hooks["before_step"]:
            hook(batch)
        loss = run.base.training_step(batch)
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
        started = time.monotonic()
        run.cost = run.costs["deployment"]
        random_state = torch.get_rng_state()  # what is drawn to deploy a model leaves training as it would have been
        device_state = torch.cuda.get_rng_state_all() if run.device.type == "cuda" else []
        for part in run.parts:
            part.before_evaluation()
        run.check_own_losses()
        self.seconds["deployment"] += time.monotonic() - started
        row = self._timed(self.measurements.row, i)
        started = time.monotonic()
        for part in reversed(run.parts):
            part.after_evaluation()
        torch.set_rng_state(random_state)
        if device_state:
            torch.cuda.set_rng_state_all(device_state)
        run.cost = run.costs["training"]
        self.seconds["deployment"] += time.monotonic() - started
        self._report({"event": "experience", "experience": i, "step": run.step, **row})

    def _timed(self, measure: Callable[..., Any], *arguments: Any) -> Any:
        started = time.monotonic()
        found = measure(*arguments)
        self.seconds["evaluation"] += time.monotonic() - started
        return found

    def _log(self) -> None:
        loss = self.losses.close()
        if loss is not None:
            self._report({"event": "loss", "experience": self.run.experience, "step": self.run.step, "loss": loss, "learning_rate": self.run.learning_rate})

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
        encoder = Encoder(run.model)
        parts = [{k: v for k, v in vars(p).items() if k not in ("run", "name") and k not in p.transient and k not in p.declared()} for p in run.parts]
        own = {
            "position": asdict(run.progress.position),
            "step": run.progress.step,
            "experience_step": run.progress.experience_step,
            "pending_backward": run._pending_backward,
            "costs": {name: asdict(cost) for name, cost in run.costs.items()},
            "losses": self.losses.state(),
            "seconds": self.seconds,
            "measurements": self.measurements.state(),
            "exact": self.exact,
            "started": self.started,
            "reported": self.reported,
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if run.device.type == "cuda" else [],
        }
        tree = {
            "model": encoder.encode(run.model, "model"),
            "optimizer": None if run.optimizer is None else encoder.encode(run.optimizer, "optimizer"),
            "groups": encoder.encode(run.optimizer_groups(), "groups"),
            "generators": encoder.encode(run.generators, "generators"),
            "memories": encoder.encode(run.memories, "memories"),
            "parts": [
                [[name, encoder.encode(value, f"strategy part '{part.name}': attribute '{name}'")] for name, value in state.items()]
                for part, state in zip(run.parts, parts, strict=True)
            ],
            "loop": encoder.encode(own, "loop"),
        }
        return tree, encoder.tensors

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        if self.checkpoints.folder is not None:
            self.checkpoints.save(*self._encode())

    def _resume(self) -> bool:
        run = self.run
        found, kept = self.checkpoints.load(), range(len(run.parts))
        if found is None and self.start is not None:
            found, kept = self.start.checkpoints.load(), self.start.kept  # type: ignore[assignment]
            self.started = found is not None
        if found is None:
            return False
        tree, tensors, exact = found
        decoder = Decoder(tensors, run)
        decoder.decode(tree["model"], run.model)
        own = decoder.decode(tree["loop"])
        run.progress.position = Position(**own["position"])
        run.progress.step, run.progress.experience_step = own["step"], own["experience_step"]
        run._pending_backward = own["pending_backward"]
        run.costs.update({name: Cost(**cost) for name, cost in own["costs"].items()})
        run.cost = run.costs["training"]
        run.generators.update(decoder.decode(tree["generators"], run.generators))
        decoder.decode(tree["memories"], run.memories)
        for part, state in zip([run.parts[k] for k in kept], tree["parts"], strict=True):
            for name, value in state:
                setattr(part, name, decoder.decode(value, getattr(part, name, None)))
        if tree["optimizer"] is not None:
            # the groups it had, not those the parts would make now: a hook may have frozen weights since
            run.make_optimizer([ParameterGroup(**group) for group in decoder.decode(tree["groups"])] or run.parameter_groups())
            decoder.decode(tree["optimizer"], run.optimizer)
        self.measurements.restore(own["measurements"])
        self.losses.restore(own["losses"])
        self.seconds, self.exact = own["seconds"], own["exact"] and exact
        self.started = self.started or own["started"]
        random.setstate(own["python"])
        np.random.set_state(own["numpy"])
        torch.set_rng_state(own["torch"].cpu())
        if own["cuda"]:
            torch.cuda.set_rng_state_all([s.cpu() for s in own["cuda"]])
        self.reported = own["reported"]
        self._report({"event": "resumed", "experience": run.experience, "step": run.step, "line": self.reported})
        return True
