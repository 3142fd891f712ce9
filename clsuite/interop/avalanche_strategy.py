"""A strategy of Avalanche as a base strategy of clsuite: it trains each experience by Avalanche's own loop."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import json
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import interop
from ..errors import UsageError
from ..plan import Plan
from ..randomness import torch_seed
from ..settings import Span, setting
from ..strategy import Strategy
from ..stream import Experience
from ..training.images import ImageWorkload
from . import avalanche_tables as tables
from .avalanche_checks import refuse
from .avalanche_meter import Meter, memory_of
from .avalanche_models import View, pairs
from .avalanche_signatures import hint
from .avalanche_state import Lender, from_bytes, to_bytes


class _Asked:
    """Stands for the experience whose samples are predicted."""

    task_labels = (0,)

    def logging(self) -> _Asked:
        return self


@dataclasses.dataclass
class _Live:
    """An Avalanche strategy in memory: as it was after `trained` experiences, or `used` since."""

    strategy: Any
    trained: int
    used: bool = False


class AvalancheStrategy(Strategy):
    """Base of the classes that `strategy_class` makes of the catalogue's rows."""

    needs = frozenset({"classifier", "borders"})
    claims = frozenset({"owns_predict"})
    offers = frozenset()
    transient = frozenset({"_kept", "_live"})
    resumes = "experience_borders"
    imports = ("avalanche.benchmarks", "avalanche.training", "avalanche.models")

    row: ClassVar[dict[str, Any]]
    version: ClassVar[str]

    border: Tensor | None = None
    """What Avalanche's strategy was at the last border, as bytes: every experience begins from there, whether the run was stopped or not."""
    trained = 0
    """Experiences that are behind it."""
    remembered = (0, 0)
    """Samples that it remembers, and their bytes."""
    _live: _Live | None = None

    # -- fitting in ---------------------------------------------------------------------------------------------------

    @classmethod
    def sources(cls) -> dict[str, str]:
        """What makes the numbers besides this package: goes into the record of a result."""
        return {"avalanche-lib": cls.version}

    @property
    def kind(self) -> str:
        """The name of Avalanche's class."""
        return str(self.row["class"].rpartition(":")[2])

    def label(self) -> str:
        if self.kind == "StreamingLDA" and hasattr(self, "run"):  # its features are never trained
            return f"{self.name} (encoder: {'pretrained' if self.run.pretrained else 'random'})"
        return self.name

    def plan(self, plan: Plan) -> Plan:
        """No steps of the engine's loop; also where what cannot act here is refused, since this is the first thing a run asks."""
        if plan.experience.index == 0:
            refuse(self)
        last = plan.experience.index == len(self.run.stream) - 1
        return plan.replace(epochs=0, measured=last or self.kind not in tables.ONCE)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        interop.avalanche()
        self._kept: dict[str, Any] = {}
        with self._at_work(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.run.seed, "avalanche", "build"))
            self._live = _Live(self._build(), 0)

    def _build(self) -> Any:
        from .avalanche_recipes import Kit, build

        values: dict[str, dict[str, Any]] = {"strategy": {}, "model": {}, "extra": {}}
        for spec in self.row["settings"]:
            values[spec["of"]][spec["argument"]] = getattr(self, spec["name"])
        try:
            return build(self.row, Kit(self.run, values, self._lender().objects["meter"]))
        except (AssertionError, TypeError, ValueError, NotImplementedError) as error:
            raise UsageError(f"strategy '{self.name}' cannot be built here: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error

    def after_experience(self, experience: Experience) -> None:
        i = experience.index
        if self.kind in tables.ONCE and i < len(self.run.stream) - 1:
            return
        with self._at_work():
            strategy = self._strategy(for_training=True)
            self._seed("experience", i)
            if i > 0 and not self.run.keeps("optimizer") and getattr(strategy, "optimizer", None) is not None:
                strategy.optimizer.state = defaultdict(dict)
            meter: Meter = self._lender().objects["meter"]
            with meter.running():
                for trained in self._experiences(i):
                    strategy.train(trained, eval_streams=[])
            if self.kind in tables.ONCE:
                strategy._experiences = []  # it holds the whole stream, and is done with it
            self.remembered = memory_of(strategy, tuple(self.run.stream.source.shape))
            self.border = to_bytes(strategy, self._lender())
        self.trained, self._live = i + 1, None
        with torch.no_grad(), self._at_work():
            for ours, theirs in pairs(self._strategy().model, self.run.model):
                ours.copy_(theirs)

    def predict(self, x: Tensor) -> Tensor:
        if self.trained == 0:
            return self.model(x)
        with self._at_work(), torch.inference_mode(False), torch.no_grad():  # what it keeps of a prediction must be usable elsewhere
            x = x.clone()
            strategy = self._strategy()
            strategy.model.eval()
            strategy.is_training = False
            found = self._by_task(strategy, x) if self.kind in tables.MULTI_TASK else self._answer(strategy, x)
        scores = torch.full((len(x), self.run.classes), -torch.inf, device=x.device)
        scores[:, : found.shape[1]] = found[:, : self.run.classes]
        return scores

    def _answer(self, strategy: Any, x: Tensor) -> Tensor:
        """The steps of Avalanche's own evaluation, from the batch to its output."""
        zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        strategy.experience, strategy.mbatch = _Asked(), [x, zeros, zeros]
        strategy._before_eval_iteration()
        strategy._before_eval_forward()
        strategy.mb_output = strategy.forward()
        strategy._after_eval_forward()
        strategy._after_eval_iteration()
        found: Tensor = strategy.mb_output
        strategy.experience = strategy.mbatch = strategy.mb_output = None
        return found.to(x.device)

    def _by_task(self, strategy: Any, x: Tensor) -> Tensor:
        """Scores of every class as the task it belongs to gives them: within a task they are what Avalanche answers when told the task."""
        scores = torch.full((len(x), self.run.classes), -torch.inf, device=x.device)
        for e in self.run.stream.experiences[: self.trained]:
            classes = list(e.classes)
            labels = torch.full((len(x),), e.tasks[0], dtype=torch.int64, device=x.device)
            scores[:, classes] = strategy.model(x, labels)[:, classes]
        return scores

    def report(self) -> dict[str, Any]:
        return {"avalanche": self.version, "class": self.row["class"], "remembered_samples": self.remembered[0]}

    def memory_bytes(self) -> int:
        """What Avalanche's strategy remembers of samples; see `avalanche_meter.memory_of`."""
        return self.remembered[1]

    # -- Avalanche's side ---------------------------------------------------------------------------------------------

    def _strategy(self, for_training: bool = False) -> Any:
        """The strategy as the last border left it; one that has evaluated is never trained on."""
        live = self._live
        if live is None or live.trained != self.trained or (for_training and live.used):
            from .avalanche_recipes import mend

            assert self.border is not None
            mend(self.kind)
            live = self._live = _Live(from_bytes(self.border, self._lender()), self.trained)
            for module in live.strategy.model.modules():  # a pickle forgets hooks of parameters
                if hasattr(module, "_remove_gradient_hook"):
                    module.wrappee.weight.register_hook(module._remove_gradient_hook)
        live.used = True
        return live.strategy

    def _lender(self) -> Any:
        """What the strategy's bytes leave out, made once."""
        if "lender" not in self._kept:
            run = self.run
            own = dataclasses.replace(run.stream)
            own.load("cpu")
            assert isinstance(run.workload, ImageWorkload)
            views = ImageWorkload(own, run.training, torch.device("cpu"), run.workload.normalisation)
            self._kept["lender"] = Lender(own, {"meter": Meter(run), "views": views})
        return self._kept["lender"]

    def _experiences(self, i: int) -> Iterator[Any]:
        """What is trained on in experience i, as Avalanche's experiences."""
        if "benchmark" not in self._kept:
            from .avalanche_streams import to_avalanche

            lender = self._lender()
            self._kept["benchmark"] = benchmark = to_avalanche(lender.stream, task_labels=self.kind in tables.MULTI_TASK)
            utils = interop.part("benchmarks.utils")
            for e in benchmark.train_stream:
                views = {group: (View(lender.objects["views"], group == "train"), None) for group in ("train", "eval")}
                e.dataset = type(e.dataset)([e.dataset], transform_groups=utils.TransformGroups(views))
        stream = self._kept["benchmark"].train_stream
        if self.kind in tables.ONCE:
            yield list(stream)
        elif self.kind in tables.ONLINE:
            yield from self._batches(stream[i])
        else:
            yield stream[i]

    def _batches(self, experience: Any) -> Iterator[Any]:
        """An experience in batches, each an experience of its own, over all epochs."""
        for _ in range(int(self.run.training.epochs or 1)):
            for chosen in torch.randperm(len(experience.dataset)).split(self.run.batch_size):
                batch = copy.copy(experience)
                batch.dataset = experience.dataset.subset(chosen.tolist())
                yield batch

    def _seed(self, *name: str | int) -> None:
        """Avalanche draws from the default generators: seeded at every border, so that nothing depends on what was drawn before."""
        seed = torch_seed(self.run.seed, "avalanche", *name)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Avalanche prints and warns; neither is for the user of a cell."""
        with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield


@functools.cache
def strategy_class(name: str, row: str, version: str) -> type[AvalancheStrategy]:
    """The class of a catalogue's row (as JSON): its settings are those of Avalanche's constructor."""
    content = json.loads(row)
    space: dict[str, Any] = {"__module__": __name__, "__annotations__": {}, "name": name, "row": content, "version": version}
    space["__doc__"] = f"{content['summary']}\n\nAvalanche's own class, trained by its own loop.\nSource: Avalanche {version}, {content['class']}\n"
    if content["class"].rpartition(":")[2] in tables.MULTI_TASK:
        space["needs"] = AvalancheStrategy.needs | {"task_ids"}
    for spec in content["settings"]:
        taken = hasattr(AvalancheStrategy, spec["name"])
        spec["name"] += "_" if taken else ""
        searched = spec.get("search")
        search = Span(searched["low"], searched["high"], log=True) if isinstance(searched, dict) else searched
        help_ = "; ".join(filter(None, (spec.get("help", "").rstrip("."), "search space: ours" if search is not None else "")))
        space[spec["name"]] = setting(spec["default"], ge=spec.get("ge"), search=search, help=help_)
        space["__annotations__"][spec["name"]] = hint(spec)
    title = "".join(word.capitalize() for word in name.partition("/")[2].split("_"))
    return type(f"Avalanche{title}", (AvalancheStrategy,), space)


__all__ = ["AvalancheStrategy", "strategy_class"]
