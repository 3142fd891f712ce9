"""Byte-level BPE, trained on one part of one corpus and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ...errors import UsageError
from ..cache import cached_text
from .documents import part_of, split_of
from .names import open_text
from .tokenizer import END_OF_TEXT, tokenizers_library

_REVISION = 1
"""Raised when training gives another tokenizer from the same text."""
SMALLEST = 257


def trained(vocabulary: int, corpus: str | None, part: str, data_root: str | None = None) -> str:
    """The content of `tokenizer.json` for a vocabulary of `vocabulary` ids: end of text, 256 bytes, and merges.

    A text with fewer merges than asked for gives a smaller vocabulary. The same text and the same version of the
    `tokenizers` package give the same tokenizer.
    """
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < SMALLEST:
        raise UsageError(
            f"vocabulary = {vocabulary!r} is too small for tokenizer 'bpe': expected an integer of at least {SMALLEST}, 256 bytes and the end of text"
        )
    if corpus is None:
        raise UsageError("tokenizer 'bpe' needs a corpus to be trained on (trained_on)")
    split = split_of(part)
    text = open_text(corpus, data_root)
    if text.tokenised:
        raise UsageError(f"tokenizer 'bpe' cannot be trained on corpus '{corpus}', which is tokens already; give the tokenizer that made it")
    library = tokenizers_library()

    def documents() -> Iterator[str]:
        for document, digest in text.documents():
            if isinstance(document, bytes) and part_of(digest, split) == part:
                yield document.decode()

    def train() -> str:
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        trainer = library.trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(documents(), trainer)
        return _sealed(tokenizer.to_str())

    key = f"{_REVISION} {library.__version__} {vocabulary} {part} {text.identity()}"
    return cached_text("tokenizers", hashlib.sha256(key.encode()).hexdigest()[:24], _whole, train).partition("\n")[2]


def _sealed(content: str) -> str:
    return f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}"


def _whole(stored: str) -> bool:
    return stored == _sealed(stored.partition("\n")[2])
