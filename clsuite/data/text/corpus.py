"""A corpus under a tokenizer: token arrays by part, the documents in each, bytes, identity.

corpus = load_corpus("english_novels", load_tokenizer("bytes"))
corpus.tokens("train")            # uint16 [N], read-only, mapped from the cache
corpus.documents("validation")    # uint64 digests, to check that two phases share no document
"""

from __future__ import annotations

import functools

import numpy as np

from ...errors import UsageError, unknown
from .documents import PARTS, SPLITS, split_of
from .names import Text, open_text
from .store import Stored, Tokens, open_tokens
from .tokenizer import ByteTokenizer, Tokenizer

__all__ = ["PARTS", "SPLITS", "Corpus", "load_corpus", "windows"]

_TYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class Corpus:
    """A text's documents as tokens, divided into parts by the hash of their content.

    Parts: `train` and `validation` (95/5) of the whole text, or `tuning-train`, `tuning-validation`, `evaluation-train`,
    `evaluation-validation` (45/5/45/5), which share no document. The two divisions are built apart, each on first use.
    """

    def __init__(self, text: Text, tokenizer: Tokenizer, dtype: np.dtype):
        self.name = text.name
        self.title = text.title
        self.tokenizer = tokenizer
        self._text = text
        self._dtype = dtype
        self._splits: dict[str, Stored] = {}

    def __repr__(self) -> str:
        return f"Corpus({self.name!r}, tokenizer={self.tokenizer.name!r})"

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 over the documents, the same for every file layout of the same text and for every tokenizer."""
        for stored in self._splits.values():
            return stored.identity
        return self._text.identity(self.tokenizer)

    @property
    def entropy(self) -> float | None:
        """The floor of the loss in nats per token, end-of-text tokens included, where it is known: synthetic sources under `bytes`.

        For what a predictor with a short context pays above it see `synthetic.Chain.entropy`.
        """
        return self._text.entropy if isinstance(self.tokenizer, ByteTokenizer) else None

    def tokens(self, part: str) -> np.ndarray:
        """Token ids of a part: the documents in the text's order, an end-of-text token behind each; read-only."""
        return self._part(part).tokens

    def documents(self, part: str) -> np.ndarray:
        """Digests of a part's documents: uint64, sorted, each once."""
        return self._part(part).digests

    def bytes(self, part: str) -> int:
        """UTF-8 bytes of a part's documents, without end-of-text tokens."""
        return self._part(part).bytes

    def _part(self, part: str) -> Tokens:
        split = split_of(part)
        if split not in self._splits:
            self._splits[split] = open_tokens(self._text, self.tokenizer, split, self._dtype)
        return self._splits[split].parts[part]


_LOADED: dict[tuple[str, str, str, str], Corpus] = {}


def load_corpus(name: str, tokenizer: Tokenizer, data_root: str | None = None, dtype: str | None = None) -> Corpus:
    """The corpus of that name (`names` lists the forms), once per process, state of its files and tokenizer.

    Tokens are uint16 where the vocabulary allows, else uint32; `dtype` asks for one of them. Text is read when tokens,
    documents, bytes or identity are first asked for. Raises `UsageError` for an unknown name, an array type too small for
    the vocabulary, and later text that cannot be read or is too small to be divided; `MissingData` when it is nowhere.
    """
    if dtype is not None and dtype not in _TYPES:
        raise unknown("dtype", dtype, _TYPES)
    chosen = tokenizer.dtype if dtype is None else _TYPES[dtype]
    if tokenizer.size - 1 > np.iinfo(chosen).max:
        raise UsageError(f"dtype = '{dtype}': tokenizer larger than its array type: {tokenizer.size} ids need uint32 (or leave dtype out)")
    text = open_text(name, data_root)
    key = (name, text.key, tokenizer.identity, chosen.str)
    if key not in _LOADED:
        _LOADED[key] = Corpus(text, tokenizer, chosen)
    return _LOADED[key]


def windows(tokens_length: int, context: int) -> int:
    """Windows of `context` targets in an array of `tokens_length` tokens.

    Window w is tokens[w * context : w * context + context + 1]: its inputs are all but the last, its targets all but the
    first. Neighbours share one token, as target of the one and input of the next, so every target is counted once.
    """
    if context < 1:
        raise UsageError(f"context = {context}: expected at least 1")
    return max(tokens_length - 1, 0) // context
