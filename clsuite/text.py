"""Streams of text: windows of tokens as samples, corpora as tasks.

    class TwoCorpora(TextScenario):
        def stream(self, phase, seed):
            source = self.source(phase, ["file:a.txt", "file:b.txt"])
            ...
            return self.make(source, phase, seed, experiences, evaluation_sets)

What the phase may see is decided by `source`: the documents of the tuning and of the evaluation phase are different ones.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .data.text.corpus import Corpus, load_corpus
from .data.text.tokenizer import Tokenizer, load_tokenizer
from .data.windows import TextSource
from .errors import UsageError
from .scenario import Phase, Scenario
from .settings import setting
from .stream import EvaluationSet, Experience, Stream

if TYPE_CHECKING:
    from torch import Tensor

PARTS: dict[tuple[str, str], dict[str, str]] = {
    ("none", "evaluation"): {"train": "train", "test": "validation"},
    ("samples", "tuning"): {"train": "tuning-train", "test": "tuning-validation"},
    ("samples", "evaluation"): {"train": "evaluation-train", "test": "evaluation-validation"},
}


@contextlib.contextmanager
def naming(setting: str) -> Iterator[None]:
    """Put the setting that is to blame before an error that knows only what it read."""
    try:
        yield
    except UsageError as error:
        if str(error).startswith("scenario."):
            raise
        raise type(error)(f"{setting}: {error}") from error


class TextStream(Stream):
    """A stream whose samples are windows of tokens; `labels_of` gives the corpus of a window."""

    world = "text"
    source: TextSource  # type: ignore[assignment]

    @property
    def classes(self) -> int:
        """Tokens of the vocabulary: outputs of the head."""
        return self.source.classes

    def outputs(self, split: Literal["train", "test"] = "train") -> np.ndarray:
        """The corpus of every window of a split."""
        return self.source.labels(split)

    def labels_of(self, ids: np.ndarray) -> np.ndarray:
        """The corpus of training windows; a table of all windows would outgrow what training needs."""
        return self.source.corpus_of(ids, "train")

    def load(self, device: Any) -> None:
        """Tokens stay mapped; windows go to the device as they are gathered."""
        self._device = device

    def gather(self, ids: Tensor, split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [batch, context] each, on the device."""
        import torch

        tokens = torch.from_numpy(self.source.gather(ids.numpy(), split)).to(self._device, non_blocking=True)
        return tokens[:, :-1], tokens[:, 1:]

    def describe(self) -> dict[str, Any]:
        context = self.source.context
        found = super().describe()
        del found["classes_per_experience"]
        return {**found, "context": context, "tokens_per_experience": [n * context for n in found["samples_per_experience"]]}


class TextScenario(Scenario):
    """Base of scenarios over corpora of text."""

    world = "text"
    model = "gpt_neox"
    columns = ("final_loss", "loss_first_corpus", "loss_last_corpus", "forgetting", "bump")
    select_on = "final_loss"
    splits: ClassVar[tuple[str, ...]] = ("none", "samples")

    context: int = setting(128, ge=1, help="tokens of a window")
    tokenizer: str = setting("bytes", help="bytes, bpe (trained on the first corpus), file:PATH of a tokenizer.json, or hf:NAME")
    vocabulary: int = setting(4096, ge=257, help="tokens of a bpe that is trained here")
    token_type: Literal["auto", "uint16", "uint32"] = setting("auto", help="how tokens are stored; auto: the smallest that holds the vocabulary")
    validation_tokens: int = setting(262_144, ge=1, help="tokens of each corpus that losses are measured on (or all its validation part has)")
    probe_tokens: int | None = setting(
        None, ge=0, help="tokens of each corpus that are looked at along the way (null: 32,768, or a hundredth of what is trained on; 0: none)"
    )

    @property
    def corpora_names(self) -> list[str]:
        """The corpora, in the order in which they are trained on."""
        raise UsageError(f"scenario {type(self).__name__} names no corpora")

    @property
    def defaults(self) -> dict[str, Any]:
        return {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "buffer_size": 1000}

    @property
    def training_defaults(self) -> dict[str, Any]:
        """AdamW, clipping and the re-warmed cosine of the sources (Ibrahim et al. 2024, arXiv 2403.08763)."""
        return {
            "optimizer": "adamw",
            "betas": [0.9, 0.95],
            "weight_decay": 0.1,
            "decayed": "matrices",
            "clip_norm": 1.0,
            "schedule": {"name": "cosine", "minimum": 0.1, "warmup": 0.01},
        }

    def content(self) -> dict[str, dict[str, Any]]:
        tokenizer = self._tokenizer
        with naming("scenario.corpora"):
            corpora = [c.identity for c in self._corpora(self.corpora_names)]
        return {"scenario": {"corpora": corpora, "tokenizer": tokenizer.identity}, "protocol": {}}

    @property
    def title(self) -> str:
        return " -> ".join(self.corpora_names)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        part = "train" if self.split.split == "none" else "evaluation-train"
        with naming("scenario.tokenizer"):
            return load_tokenizer(self.tokenizer, self.vocabulary, trained_on=self.corpora_names[0], part=part, data_root=self.data_root)

    def _corpora(self, names: Sequence[str]) -> list[Corpus]:
        size = self._tokenizer.size
        if self.token_type == "uint16" and size > 1 << 16:
            raise UsageError(
                f"scenario.token_type = 'uint16' holds no more than 65,536 token ids, scenario.tokenizer = '{self.tokenizer}' has {size:,}; valid: auto, uint32"
            )
        dtype = None if self.token_type == "auto" else self.token_type
        return [load_corpus(name, self._tokenizer, self.data_root, dtype) for name in names]

    def source(self, phase: Phase, names: Sequence[str] | None = None) -> TextSource:
        """The windows this phase may see."""
        self.check_split(phase)
        if self.split.held_out is not None:
            raise UsageError("protocol.held_out applies to images; text is always measured on a validation part of its own")
        parts = PARTS[self.split.split, phase if not self.split.swap else "tuning" if phase == "evaluation" else "evaluation"]
        tokenizer = self._tokenizer
        with naming("scenario.corpora"):
            source = TextSource(self._corpora(self.corpora_names if names is None else names), tokenizer, self.context, parts)
            source.open()
        return source

    def validation_set(self, source: TextSource, corpus: int, learned_in: int) -> EvaluationSet:
        """The fixed windows that losses on a corpus are measured on: evenly spread over its validation part."""
        first, last = source.starts("test")[corpus : corpus + 2]
        count = min(last - first, max(1, self.validation_tokens // self.context))
        if count < 1:
            there = source.length(corpus, "test")
            raise UsageError(
                f"scenario.context = {self.context} is longer than the validation part of corpus '{source.corpora[corpus].name}', "
                f"which has {there:,} tokens; valid: up to {max(there - 1, 1)}"
            )
        chosen = first + np.arange(count) * (last - first) // count
        return EvaluationSet(source.corpora[corpus].name, chosen, learned_in, ())

    def make(
        self, source: TextSource, phase: Phase, seed: int, experiences: Sequence[Experience], evaluation_sets: Sequence[EvaluationSet], **properties: Any
    ) -> TextStream:
        """The finished stream; `properties` are the remaining fields of `Stream`."""
        return TextStream(self.name or type(self).__name__, phase, seed, source, experiences, evaluation_sets, np.zeros(0, np.int64), **properties)  # type: ignore[arg-type]
