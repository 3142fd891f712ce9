"""A scenario turns settings, a phase and a seed into a stream.

    class Halves(ImageScenario):
        \"\"\"Two experiences: the lower half of the classes, then the upper half.\"\"\"

        def stream(self, phase, seed):
            pool = self.pool(phase)
            ...
            return self.make(pool, phase, seed, experiences, evaluation_sets)

What the phase may see is decided here, not by the scenario: `pool(phase)` holds only the samples and classes of that
phase, so the tuning and the evaluation stream of one scenario cannot share a sample. Scenarios of text derive from
`clsuite.text.TextScenario`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from .data.source import ImageSource, load_source
from .errors import UsageError
from .randomness import generator
from .settings import Configurable, setting
from .stream import EvaluationSet, Experience, Stream
from .transforms import Transforms

Phase = Literal["tuning", "evaluation"]
PHASES = ("tuning", "evaluation")


class Split(Configurable):
    """How the two phases divide the data (`protocol.*`); a function of `split_seed` alone, never of the run seed."""

    split: Literal["none", "classes", "datasets", "experiences", "samples"] = setting(
        "none",
        help="none: a plain run on the full official sets; classes, samples: disjoint halves; datasets: a second data set; "
        "experiences: the first few of one stream for tuning, the others for evaluation",
    )
    split_seed: int = setting(0, ge=0, help="the partition depends on this alone")
    halves: Literal["random", "in_order"] = setting(
        "random", since=2, help="with split=classes: a seeded division, or the first half of the labels for tuning and the second for evaluation"
    )
    tuning_dataset: str | None = setting(None, help="with split=datasets: the data set of the tuning phase")
    swap: bool = setting(False, help="exchange the two halves (the control for their difficulty)")
    first: int = setting(3, ge=1, since=2, help="with split=experiences: experiences of the tuning phase")
    held_out: float | None = setting(
        None, gt=0, lt=1, since=2, help="measure on this share of the training samples, left out of training, and not on the test set"
    )


@dataclass(frozen=True)
class Pool:
    """What a phase may see: a source, the classes in use and the data indices of each, for both splits."""

    source: ImageSource
    class_labels: np.ndarray
    indices: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.class_labels)

    def of_class(self, output: int, split: Literal["train", "test"] = "train") -> np.ndarray:
        """Data indices of one class (by output number), ascending."""
        indices = self.indices[split]
        return indices[self.source.labels(split)[indices] == self.class_labels[output]]

    def by_class(self, split: Literal["train", "test"] = "train") -> list[np.ndarray]:
        """Data indices of every class."""
        return [self.of_class(c, split) for c in range(self.classes)]


class Scenario(Configurable):
    """Base of every scenario: settings in, `stream(phase, seed)` out.

    `world` is what samples are ("images", "text"); `model` the network that is trained when none is named.
    """

    world: ClassVar[str] = ""
    model: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ()
    """Ways to divide the data between the phases (`protocol.split`) that there are here."""
    columns: ClassVar[tuple[str, ...]] = ("final_accuracy", "average_incremental_accuracy", "task_incremental_accuracy", "forgetting")
    """Metrics an experiment's table shows; the first is what expectations compare."""
    select_on: ClassVar[str] = "average_incremental_accuracy"
    """The metric that decides a search."""

    name: str = ""

    def __init__(self, split: Split | None = None, data_root: str | None = None, **values: Any):
        super().__init__(**values)
        self.split = split or Split()
        self.data_root = data_root

    def stream(self, phase: Phase, seed: int) -> Stream:
        """The table for one phase and seed."""
        raise UsageError(f"scenario {type(self).__name__} defines no stream(phase, seed)")

    @property
    def defaults(self) -> dict[str, Any]:
        """What the data suggests where a setting is left null: epochs, batch_size, learning_rate, buffer_size."""
        raise NotImplementedError

    @property
    def training_defaults(self) -> dict[str, Any]:
        """Settings of the training that are usual in this world; what an alias or a user gives goes before."""
        return {}

    def content(self) -> dict[str, dict[str, Any]]:
        """Settings that name data, by group ("scenario", "protocol"), with the data's content in place of its name: what a cell is hashed over."""
        return {"scenario": {}, "protocol": {}}

    @property
    def title(self) -> str:
        """The data in words, for tables."""
        return ""

    def generator(self, phase: Phase, seed: int, *purpose: str | int) -> np.random.Generator:
        """A named generator; the two phases draw from different ones, unless they are parts of one stream."""
        if self.split.split == "experiences":
            return generator(self.split.split_seed, "stream", "evaluation", *purpose)
        return generator(seed, "stream", phase, *purpose)

    def check_split(self, phase: Phase) -> None:
        """Refuse a phase or a split that is not there; raises `UsageError`."""
        if phase not in PHASES:
            raise UsageError(f"phase = {phase!r} is not valid: expected one of {', '.join(PHASES)}")
        if self.split.split not in self.splits:
            raise UsageError(f"protocol.split = '{self.split.split}' is not possible for {self.world}; valid: {', '.join(self.splits)}")
        if self.split.split == "none" and phase == "tuning":
            raise UsageError(f"protocol.split = 'none' has no tuning phase; valid with one: {', '.join(s for s in self.splits if s != 'none')}")

    def part_of(
        self, phase: Phase, experiences: Sequence[Experience], evaluation_sets: Sequence[EvaluationSet], properties: dict[str, Any]
    ) -> tuple[Sequence[Experience], Sequence[EvaluationSet], dict[str, Any]]:
        """With `split = experiences` those of a phase and the sets first learned in them, counted from 0; otherwise all.

        The head keeps all its outputs.
        """
        if self.split.split != "experiences":
            return experiences, evaluation_sets, properties
        k, total = self.split.first, len(experiences)
        if not k < total:
            raise UsageError(f"protocol.first = {k} leaves nothing to evaluate of the stream's {total} experiences (valid: 1 to {total - 1})")
        start, end = (0, k) if phase == "tuning" else (k, total)
        own = [dataclasses.replace(e, index=e.index - start) for e in experiences[start:end]]
        sets = [dataclasses.replace(e, learned_in=e.learned_in - start) for e in evaluation_sets if start <= e.learned_in < end]
        if not sets:
            raise UsageError(f"protocol.split = 'experiences': no evaluation set is first learned in experiences {start} to {end - 1}")
        return own, sets, {**properties, "facts": {**properties.get("facts", {}), "part": f"experiences {start} to {end - 1} of {total}"}}


class ImageScenario(Scenario):
    """Base of scenarios over images of classes."""

    world = "images"
    model = "mlp"
    splits = ("none", "classes", "datasets", "experiences", "samples")

    dataset: str = setting("digits", help="a data set by name, 'folder:PATH' for images by class")
    keep_classes: int | None = setting(None, ge=2, help="keep only so many classes (null: all), the same for every seed")
    samples_per_class: int | None = setting(None, ge=1, help="keep only so many training samples of each class (null: all), the same for every seed")

    @property
    def defaults(self) -> dict[str, Any]:
        return load_source(self.dataset, self.data_root).defaults

    def content(self) -> dict[str, dict[str, Any]]:
        other = self.split.tuning_dataset
        identities = {name: load_source(name, self.data_root).identity for name in filter(None, (self.dataset, other))}
        return {"scenario": {"dataset": identities[self.dataset]}, "protocol": {"tuning_dataset": identities.get(other or "")}}

    @property
    def title(self) -> str:
        return self.dataset

    def pool(self, phase: Phase) -> Pool:
        """The samples and classes this phase may see (`Split`), reduced to `keep_classes` and `samples_per_class`."""
        pool = self._fewer_samples(self._fewer_classes(self._divided(phase), phase), phase)
        return pool if self.split.held_out is None else self._held_out(pool, self.split.held_out)

    def _held_out(self, pool: Pool, share: float) -> Pool:
        """A stratified share of the training samples takes the place of the test set."""
        rng = generator(self.split.split_seed, "held out")
        members = [rng.permutation(indices) for indices in pool.by_class()]
        counts = [max(1, round(share * len(m))) for m in members]
        if any(count >= len(m) for count, m in zip(counts, members, strict=True)):
            raise UsageError(f"protocol.held_out = {share} leaves a class of {pool.source.name} without training samples")
        test, train = ([m[part] for m, part in zip(members, parts, strict=True)] for parts in zip(*((slice(c), slice(c, None)) for c in counts), strict=True))
        indices = {"train": np.sort(np.concatenate(train)), "test": np.sort(np.concatenate(test))}
        return Pool(pool.source.measured_on_train(), pool.class_labels, indices)

    def _fewer_classes(self, pool: Pool, phase: Phase) -> Pool:
        if self.keep_classes is None:
            return pool
        if self.keep_classes > pool.classes:
            raise UsageError(f"scenario.keep_classes = {self.keep_classes} is more than the {pool.classes} classes of {pool.source.name} there are here")
        rng = generator(self.split.split_seed, "keep_classes", self._drawn_for(phase))
        kept = np.sort(rng.choice(pool.class_labels, self.keep_classes, replace=False))
        return Pool(pool.source, kept, {s: i[np.isin(pool.source.labels(s)[i], kept)] for s, i in pool.indices.items()})  # type: ignore[arg-type]

    def _fewer_samples(self, pool: Pool, phase: Phase) -> Pool:
        if self.samples_per_class is None:
            return pool
        kept = []
        for c, indices in enumerate(pool.by_class()):
            if len(indices) < self.samples_per_class:
                where = f"class {int(pool.class_labels[c])} of {pool.source.name} has here"
                raise UsageError(f"scenario.samples_per_class = {self.samples_per_class} is more than the {len(indices)} samples that {where}")
            chosen = generator(self.split.split_seed, "samples_per_class", self._drawn_for(phase), int(pool.class_labels[c]))
            kept.append(chosen.choice(indices, self.samples_per_class, replace=False))
        return Pool(pool.source, pool.class_labels, {**pool.indices, "train": np.sort(np.concatenate(kept))})

    def _drawn_for(self, phase: Phase) -> Phase:
        return "evaluation" if self.split.split == "experiences" else phase

    def _divided(self, phase: Phase) -> Pool:
        self.check_split(phase)
        kind = self.split.split
        if kind == "datasets":
            return self._of_second_data_set(phase)
        source = load_source(self.dataset, self.data_root)
        classes = np.arange(source.classes)
        everything = {split: np.arange(source.size(split)) for split in ("train", "test")}
        if kind in ("none", "experiences"):
            return Pool(source, classes, everything)
        first = (phase == "tuning") != self.split.swap
        rng = generator(self.split.split_seed, "split", kind)
        if kind == "classes":
            half = source.classes // 2
            order = rng.permutation(source.classes) if self.split.halves == "random" else classes
            chosen = np.sort(order[:half] if first else order[half : 2 * half])
            return Pool(source, chosen, {s: i[np.isin(source.labels(s), chosen)] for s, i in everything.items()})  # type: ignore[arg-type]
        halves: dict[str, np.ndarray] = {}
        for split, indices in everything.items():
            labels = source.labels(split)  # type: ignore[arg-type]
            parts = []
            for c in classes:
                members = rng.permutation(indices[labels == c])
                parts.append(members[: len(members) // 2] if first else members[len(members) // 2 :])
            halves[split] = np.sort(np.concatenate(parts))
        return Pool(source, classes, halves)

    def _of_second_data_set(self, phase: Phase) -> Pool:
        other = self.split.tuning_dataset
        if other is None:
            raise UsageError("protocol.split = 'datasets' needs protocol.tuning_dataset, the data set of the tuning phase")
        evaluation, tuning = load_source(self.dataset, self.data_root), load_source(other, self.data_root)
        if evaluation.identity == tuning.identity:
            raise UsageError(f"protocol.tuning_dataset = {other!r} is the same data as scenario.dataset; give a second data set")
        source = tuning if (phase == "tuning") != self.split.swap else evaluation
        classes = min(evaluation.classes, tuning.classes)
        return Pool(source, np.arange(classes), {s: np.flatnonzero(source.labels(s) < classes) for s in ("train", "test")})

    def make(
        self,
        pool: Pool,
        phase: Phase,
        seed: int,
        experiences: Sequence[Experience],
        evaluation_sets: Sequence[EvaluationSet],
        transforms: Transforms | None = None,
        **properties: Any,
    ) -> Stream:
        """The finished stream; `properties` are the remaining fields of `Stream`."""
        experiences, evaluation_sets, properties = self.part_of(phase, experiences, evaluation_sets, properties)
        return Stream(
            self.name or type(self).__name__,
            phase,
            seed,
            pool.source,
            experiences,
            evaluation_sets,
            pool.class_labels,
            transforms or Transforms(),
            **properties,
        )
