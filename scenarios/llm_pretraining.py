"""Continual pre-training of language models: corpora one after another, each with a budget of tokens."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from clsuite.data.windows import TextSource
from clsuite.errors import UsageError
from clsuite.scenario import Phase
from clsuite.settings import setting
from clsuite.stream import Experience, Segment
from clsuite.text import TextScenario, TextStream

EMBEDDED = ("python_reference", "python_library")
"""Corpora that every Python carries: English, then code."""
SHIFTS = {
    "none": ("english_novels#0/2", "english_novels#1/2"),
    "weak": ("german_drama", "german_law"),
    "strong": ("english_novels", "german_law"),
    "sequence": ("english_novels", "german_drama", "latex_algebraic_geometry", "latin_prose", "german_law"),
    "synthetic": ("synthetic:0", "synthetic:0:0.5"),
}
MOST_PASSES = 4
"""Times a corpus may be gone through before a budget is refused."""


class LLMPretraining(TextScenario):
    """Corpora in order, one an experience; every seed has an order of windows of its own."""

    name = "llm_pretraining"

    corpora: list[str] | None = setting(
        None, help="names, file:PATH (text, JSONL, Parquet, token files), hf:NAME, synthetic:SEED; '#k/n' takes a share (null: what `shift` names)"
    )
    shift: Literal["none", "weak", "strong", "sequence", "synthetic"] | None = setting(
        None, help="corpora by how far they lie apart; none: two halves of one (null: English and code that every Python carries)"
    )
    tokens: int | list[int] = setting(600_000, ge=1, help="budget of every experience, or of each")

    def validate(self) -> None:
        """Refuse settings that contradict one another."""
        if self.corpora is not None and self.shift is not None:
            raise UsageError("scenario.corpora and scenario.shift exclude each other; give one")
        if self.corpora is not None and not self.corpora:
            raise UsageError("scenario.corpora = [] is empty: expected at least one corpus")
        if isinstance(self.tokens, list) and len(self.tokens) != len(self.corpora_names):
            raise UsageError(
                f"scenario.tokens = {self.tokens} has {len(self.tokens)} budgets for {len(self.corpora_names)} corpora; give one each, or one for all"
            )

    @property
    def corpora_names(self) -> list[str]:
        return list(self.corpora or (SHIFTS[self.shift] if self.shift else EMBEDDED))

    def content(self) -> dict[str, dict[str, Any]]:
        self.validate()
        found = super().content()
        found["scenario"]["shift"] = None  # the corpora say it
        return found

    def stream(self, phase: Phase, seed: int) -> TextStream:
        self.validate()
        source = self.source(phase)
        budgets = self.tokens if isinstance(self.tokens, list) else [self.tokens] * len(source.corpora)
        experiences = [Experience(k, (Segment(k, self._order(source, phase, seed, k, budget)),), (), ordered=True) for k, budget in enumerate(budgets)]
        sets = [self.validation_set(source, k, k) for k in range(len(source.corpora))]
        floors = {c.name: c.entropy for c in source.corpora if c.entropy is not None}
        passes = [len(e) / count for e, count in zip(experiences, source.counts("train"), strict=True)]
        return self.make(source, phase, seed, experiences, sets, facts={"passes": passes, **({"entropy": floors} if floors else {})})

    def _order(self, source: TextSource, phase: Phase, seed: int, corpus: int, budget: int) -> np.ndarray:
        """The windows of an experience in training order: the whole corpus shuffled, again and again until the budget is used."""
        name, first, count = source.corpora[corpus].name, source.starts("train")[corpus], source.counts("train")[corpus]
        wanted = budget // self.context
        if wanted < 1:
            raise UsageError(f"scenario.tokens = {budget} is less than one window (scenario.context = {self.context})")
        if wanted > MOST_PASSES * count:
            there = f"the {count * self.context:,} tokens that corpus '{name}' has here"
            raise UsageError(
                f"scenario.tokens = {budget} goes more than {MOST_PASSES} times through {there}; valid: up to {MOST_PASSES * count * self.context}"
            )
        passes = [self.generator(phase, seed, "windows", corpus, k).permutation(count) for k in range(-(-wanted // count))]
        return first + np.concatenate(passes)[:wanted]
