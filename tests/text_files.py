"""What tests of text data share: texts, files of them, and what is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clsuite.data.text.tokenizer import load_tokenizer
from clsuite.errors import UsageError

BYTES = load_tokenizer("bytes")
WORDS = ["der", "Fluß", "and", "rosa-ae", "α≤β", "{x}", "\\frac12", "naïve", "数学", "🙂", "if", "return:", "Größe", "it", "was", "the", "best"]


def prose(size: int, seed: int = 0) -> str:
    """About `size` bytes of paragraphs, none twice."""
    rng = np.random.default_rng(seed)
    paragraphs: list[str] = []
    total = 0
    while total < size:
        words = rng.choice(WORDS, rng.integers(5, 80)).tolist()
        paragraphs.append(f"{len(paragraphs)} " + " ".join(words))
        total += len(paragraphs[-1].encode()) + 2
    return "\n\n".join(paragraphs) + "\n"


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"file:{path}"


def documents_in(corpus, part: str) -> list[bytes]:
    """The documents of a part, read back from its tokens."""
    tokens = corpus.tokens(part)
    assert tokens[-1] == corpus.tokenizer.end_of_text
    ends = np.flatnonzero(np.asarray(tokens) == corpus.tokenizer.end_of_text)
    return [corpus.tokenizer.decode(ids[ids != corpus.tokenizer.end_of_text]).encode() for ids in np.split(np.asarray(tokens), ends[:-1] + 1)]


def refusal(call, error=UsageError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(count: int = 300) -> list[str]:
    return [f"row {k}\n" + "Größe 数 " * (k % 7) + "\nend" for k in range(count)]


def parquet(path: Path, table: dict, **kwargs) -> str:
    import pyarrow as arrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(table), path, **kwargs)
    return f"file:{path}"
