"""Tokenizers: text to ids and back, and how many bytes each id stands for.

    tokenizer = load_tokenizer("bytes")
    tokenizer.encode(["Grüße"])       # [array([71, 114, 195, 188, 195, 159, 101], dtype=uint16)]

Names: `bytes`, `bpe` (trained on a corpus), `file:PATH/tokenizer.json`, `hf:NAME`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingData, UsageError, unknown
from ..layouts import readable
from ..places import one_line

END_OF_TEXT = "<|endoftext|>"
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
_PROBE = "Grüße – „Vírgínia“ \\begin{proof}\r\n\t$x \\to y$   naïve 数学 🙂\n\n  def f(x):  return x\n" + END_OF_TEXT


class Tokenizer:
    """What every tokenizer has.

    `size` is the vocabulary including the end of text, whose id is `end_of_text`. `byte_lengths` (int32 [size]) are the
    UTF-8 bytes each id stands for, 0 for the end of text and other special tokens: with it, a loss in nats per token
    becomes bits per byte for any set of targets. `identity` is the SHA-256 of what the tokenizer is made of.
    """

    name: str
    size: int
    end_of_text: int
    identity: str
    byte_lengths: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        """The smallest type its ids fit in: uint16 or uint32."""
        return np.dtype("<u2" if self.size <= 1 << 16 else "<u4")

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Ids of each text (`bytes`: UTF-8), without an end of text; what looks like a special token is text."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens give nothing, parts of a character the replacement character."""
        raise NotImplementedError


class ByteTokenizer(Tokenizer):
    """Ids 0..255 are bytes, 256 is the end of text."""

    name = "bytes"
    size = 257
    end_of_text = 256
    identity = hashlib.sha256(b"bytes 0..255, end of text 256").hexdigest()
    byte_lengths = np.array([1] * 256 + [0], dtype=np.int32)

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype("<u2") for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in np.asarray(ids).tolist() if i < 256).decode(errors="replace")


class FileTokenizer(Tokenizer):
    """A byte-level tokenizer of the `tokenizers` library, from the content of its `tokenizer.json`.

    Its end of text is the first it has of `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`; if it has none, the first
    is added behind its vocabulary. Refused unless a sample text comes back whole and has as many bytes as its tokens: bits
    per byte would be wrong.
    """

    def __init__(self, name: str, content: str):
        self.name = name
        library = tokenizers_library()
        try:
            self._tokenizer = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises Exception itself
            raise UsageError(f"tokenizer '{name}' is damaged or no tokenizer.json: {one_line(error)}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        ends = [text for text in _ENDS_OF_TEXT if text in vocabulary]
        if not ends:
            ends = [END_OF_TEXT]
            self._tokenizer.add_special_tokens(ends)
            vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokenizer.encode_special_tokens = True  # as text
        self.end_of_text = vocabulary[ends[0]]
        self.size = max(vocabulary.values()) + 1
        self.identity = hashlib.sha256(f"{self.end_of_text}\n{content}".encode()).hexdigest()
        self.byte_lengths = self._lengths(vocabulary, set(library.pre_tokenizers.ByteLevel.alphabet()))
        ids = self.encode([_PROBE])[0]
        if self.decode(ids) != _PROBE or int(self.byte_lengths[ids].sum()) != len(_PROBE.encode()):
            raise UsageError(f"tokenizer '{name}' does not give a sample text back byte for byte: expected a byte-level tokenizer, such as GPT-2's")

    def _lengths(self, vocabulary: dict[str, int], alphabet: set[str]) -> np.ndarray:
        """A byte-level token has one character of the alphabet a byte; an added token is its own text, a special one nothing."""
        lengths = np.zeros(self.size, dtype=np.int32)
        added = self._tokenizer.get_added_tokens_decoder()
        for text, i in vocabulary.items():
            if i in added:
                lengths[i] = 0 if added[i].special else len(text.encode())
            elif i != self.end_of_text:
                if not alphabet.issuperset(text):
                    raise UsageError(
                        f"tokenizer '{self.name}' has the token {text!r}, which is no byte-level token: expected a byte-level tokenizer, such as GPT-2's"
                    )
                lengths[i] = len(text)
        return lengths

    def encode(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        strings = [text if isinstance(text, str) else text.decode() for text in texts]
        return [np.array(found.ids, dtype=self.dtype) for found in self._tokenizer.encode_batch_fast(strings, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        kept = [i for i in np.asarray(ids).tolist() if i != self.end_of_text]
        return self._tokenizer.decode(kept, skip_special_tokens=True)


def tokenizers_library() -> Any:
    """The `tokenizers` package, on one thread unless the environment says otherwise: its threads would not survive a fork."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError as error:
        raise UsageError("tokenizers other than 'bytes' need the package 'tokenizers': pip install tokenizers") from error
    return tokenizers


def load_tokenizer(name: str, vocabulary: int = 4096, trained_on: str | None = None, part: str = "train", data_root: str | None = None) -> Tokenizer:
    """The tokenizer of that name; `vocabulary`, `trained_on` (a corpus) and `part` (of its documents) are for `bpe`.

    Raises `UsageError` for an unknown name, a damaged file, a tokenizer that is not byte-level, or a vocabulary below 257.
    """
    if name == "bytes":
        return ByteTokenizer()
    if name == "bpe":
        from .bpe import trained

        return FileTokenizer("bpe", trained(vocabulary, trained_on, part, data_root))
    if name.startswith("file:"):
        path = Path(name.removeprefix("file:")).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise MissingData(f"tokenizer '{name}': {path.absolute()} is no file; expected a tokenizer.json, or a folder that holds one")
        with readable(path):
            return FileTokenizer(name, path.read_text(encoding="utf-8"))
    if name.startswith("hf:"):
        from .hub import tokenizer_file

        path = tokenizer_file(name.removeprefix("hf:"))
        with readable(path):
            return FileTokenizer(name, path.read_text(encoding="utf-8"))
    raise unknown("tokenizer", name, ["bytes", "bpe", "file:PATH/tokenizer.json", "hf:NAME"])
