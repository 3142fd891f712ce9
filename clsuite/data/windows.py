"""Windows of tokens as samples: several corpora, one after another, cut into pieces of one length."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from .text.corpus import Corpus, windows
from .text.tokenizer import Tokenizer


class TextSource:
    """The windows of several corpora, numbered through: the sample numbers a stream of text is made of.

    Window w of a corpus is its tokens [w * context, w * context + context]: inputs are all but the last, targets all but the first, so
    every token is a target once. `parts` names the part of the corpora that "train" and "test" stand for. `labels` are corpus numbers.
    """

    def __init__(self, corpora: Sequence[Corpus], tokenizer: Tokenizer, context: int, parts: Mapping[str, str]):
        self.corpora, self.tokenizer, self.context, self.parts = tuple(corpora), tokenizer, context, dict(parts)
        self.name = " -> ".join(c.name for c in corpora)
        self.shape = (context,)
        self.classes = tokenizer.size

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 over the content of the corpora, the tokenizer, the length of a window and the parts."""
        content = [[c.identity for c in self.corpora], self.tokenizer.identity, self.context, self.parts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def open(self) -> None:
        """Read what has to be read of every corpus now; raises `UsageError` for text that cannot be used."""
        for split in self.parts:
            self.counts(split)

    def length(self, corpus: int, split: str) -> int:
        """Tokens of one corpus."""
        return len(self.corpora[corpus].tokens(self.parts[split]))

    def counts(self, split: str) -> list[int]:
        """Windows of each corpus."""
        return [windows(self.length(k, split), self.context) for k in range(len(self.corpora))]

    @functools.cache  # noqa: B019  # sources live as long as the process
    def starts(self, split: str) -> np.ndarray:
        """The number of each corpus' first window, and the number of all: int64 [corpora + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts(split))]).astype(np.int64)

    def size(self, split: str) -> int:
        """Windows in a split."""
        return int(self.starts(split)[-1])

    def labels(self, split: str) -> np.ndarray:
        """The corpus of every window: int64 [windows]."""
        return np.repeat(np.arange(len(self.corpora)), self.counts(split))

    def corpus_of(self, indices: np.ndarray, split: str) -> np.ndarray:
        """The corpus of some windows: int64, as many as there are indices."""
        return np.searchsorted(self.starts(split), indices, side="right") - 1

    def digests(self, split: str) -> np.ndarray:
        """Digests of the documents in a split: uint64, sorted."""
        return np.unique(np.concatenate([c.documents(self.parts[split]) for c in self.corpora]))

    def gather(self, indices: np.ndarray, split: str) -> np.ndarray:
        """Tokens of windows: int64 [len(indices), context + 1], read from the mapped files."""
        starts, corpus = self.starts(split), self.corpus_of(indices, split)
        offsets = np.arange(self.context + 1)
        found = np.empty((len(indices), self.context + 1), np.int64)
        for c in np.unique(corpus):
            rows = np.flatnonzero(corpus == c)
            first = (indices[rows] - starts[c]) * self.context
            found[rows] = self.corpora[c].tokens(self.parts[split])[first[:, None] + offsets]
        return found

    def bytes_of(self, targets: np.ndarray) -> int:
        """UTF-8 bytes that target tokens stand for."""
        return int(self.tokenizer.byte_lengths[targets].sum())
