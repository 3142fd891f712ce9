"""Corpora by name: which files or generator a name stands for, its documents and its identity.

Names: `python_reference`, `python_library`, `NAME` for `text/NAME.txt` (or `.txt.xz`, `.txt.gz`) where data is looked for,
`file:PATH[?field=FIELD]`, `hf:NAME[:CONFIGURATION][?field=FIELD]`, `synthetic:SEED[:CHANGED]`; each may have a shard
behind it, `#k/n`: the documents whose hash falls into the k-th of n equal ranges.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ...errors import MissingData, UsageError, unknown
from ..cache import cached_text, file_key
from ..places import search_roots
from . import embedded, synthetic
from .documents import BLOCKS, KNOWN_RULES, ROWS, RULES, Document, Rule, split, unique
from .reading import TEXT_ENDINGS, chunks_of, ending, is_rows
from .token_files import TOKEN_ENDINGS, token_documents

TITLES = {
    "python_reference": "language reference of Python",
    "python_library": "source code of Python's standard library",
    "english_novels": "five English novels",
    "german_drama": "German plays",
    "german_law": "German federal statutes",
    "latex_algebraic_geometry": "LaTeX source on algebraic geometry",
    "latin_prose": "Latin prose",
    "medical_abstracts": "biomedical abstracts",
    "tiny_shakespeare": "Shakespeare's plays, an excerpt",
    "wikitext2_test": "WikiText-2, test file",
    "wikitext2_valid": "WikiText-2, validation file",
}
_EMBEDDED: dict[str, tuple[Callable[[], list[Path]], Callable[[], Iterator[bytes | None]]]] = {
    "python_reference": (embedded.reference_files, embedded.reference),
    "python_library": (embedded.library_files, embedded.library),
}
_FORMS = ["file:PATH", "hf:NAME", "synthetic:SEED"]
_TEXT = (".txt", ".txt.xz", ".txt.gz")


class Ids(Protocol):
    """What a corpus of tokens must know of its tokenizer."""

    size: int
    end_of_text: int


@dataclass(frozen=True)
class Text:
    """A named text: `key` changes when its files do; `pieces` gives documents before duplicates and shards are sorted out."""

    name: str
    title: str
    key: str
    pieces: Callable[[Ids | None], Iterator[Document]]
    tokenised: bool = False
    entropy: float | None = None
    shard: tuple[int, int] = (0, 1)

    def documents(self, ids: Ids | None = None) -> Iterator[tuple[Document, bytes]]:
        """Documents with their SHA-256, in the text's order. Raises `UsageError` when there is none."""
        if self.tokenised and ids is None:
            raise UsageError(f"corpus '{self.name}' is tokens already: it needs the tokenizer that made it")
        empty = True
        for found in unique(self.pieces(ids), self.shard):
            empty = False
            yield found
        if empty:
            raise UsageError(f"corpus '{self.name}' is empty: it holds no text{' in this shard' if self.shard[1] > 1 else ''}")

    def cache_key(self, ids: Ids | None = None) -> str:
        """What the documents depend on."""
        depends = (RULES, self.key, *self.shard, *((ids.size, ids.end_of_text) if self.tokenised and ids else ()))
        return hashlib.sha256(repr(depends).encode()).hexdigest()[:24]

    def identity(self, ids: Ids | None = None) -> str:
        """SHA-256 over the documents' SHA-256, the same for every layout of the same text; kept in the cache."""

        def compute() -> str:
            h = hashlib.sha256()
            for _, digest in self.documents(ids):
                h.update(digest)
            return h.hexdigest()

        return cached_text("identity", self.cache_key(ids), "[0-9a-f]{64}", compute)


def open_text(name: str, data_root: str | None = None) -> Text:
    """The text of that name; nothing is read yet. Raises `UsageError` for an unknown name, `MissingData` for absent files."""
    whole, k, n = _without_shard(name)
    text = _open(whole, data_root)
    if n > 1:
        text = replace(text, title=f"{text.title}, shard {k} of {n}")
    return replace(text, name=name, shard=(k, n))


def _without_shard(name: str) -> tuple[str, int, int]:
    whole, mark, shard = name.rpartition("#")
    if not mark or (whole.startswith("file:") and not re.fullmatch(r"\d+/\d+", shard)):
        return name, 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    k, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= k < n <= 1000:
        raise UsageError(f"corpus '{name}': shard '{shard}' is out of range: expected k/n with k = 0..n-1 and n at most 1000, for example #0/2")
    return whole, k, n


def _open(name: str, data_root: str | None) -> Text:
    kind, mark, rest = name.partition(":")
    if mark and kind == "file":
        path, field = _with_field(rest)
        return _from_path(name, Path(path).expanduser().absolute(), field)
    if mark and kind == "hf":
        return _from_hub(name, rest)
    if mark and kind == "synthetic":
        return _synthetic(name, rest)
    if name in _EMBEDDED:
        files, chunks = _EMBEDDED[name]
        return Text(name, TITLES[name], file_key(files(), name), lambda _: split(chunks()))
    return _named(name, data_root)


def _named(name: str, data_root: str | None) -> Text:
    roots = search_roots(data_root)
    if re.fullmatch(r"[\w.-]+", name):
        for root in roots:
            for folder in (root / "text", root):
                for tail in _TEXT:
                    if (file := folder / f"{name}{tail}").is_file():
                        return _from_files(name, [file], KNOWN_RULES.get(name, BLOCKS))
    if name in TITLES:
        places = ", ".join(map(str, roots))
        raise MissingData(
            f"corpus '{name}' not found: looked for text/{name}.txt, .txt.xz and .txt.gz, and the same without text/, in {places}; "
            f"give --data-root or CLSUITE_DATA, or a file of your own as file:PATH"
        )
    there = {
        file.name.removesuffix(tail)
        for root in roots
        for folder in (root / "text", root)
        for tail in _TEXT
        for file in folder.glob(f"*{tail}")
        if not file.name.startswith(("LICENSE", "README", "."))
    }
    raise unknown("corpus", name, [*there.union(TITLES), *_FORMS])


def _with_field(rest: str) -> tuple[str, str | None]:
    path, mark, field = rest.partition("?field=")
    return path, field if mark else None


def _from_path(name: str, path: Path, field: str | None) -> Text:
    if path.is_dir():
        known = TEXT_ENDINGS | TOKEN_ENDINGS | {".jsonl", ".parquet"}
        files = sorted(file for file in path.iterdir() if file.is_file() and ending(file) in known and not file.name.startswith("."))
        if not files:
            raise UsageError(f"corpus '{name}': {path} holds no file to read (valid endings: {', '.join(sorted(known))})")
    elif path.is_file():
        files = [path]
    else:
        raise MissingData(f"corpus '{name}': {path} is no file and no folder")
    if field is not None and not any(map(is_rows, files)):
        raise UsageError(f"corpus '{name}': field '{field}' is for .jsonl and .parquet files, {files[0]} is neither")
    rule = ROWS if all(map(is_rows, files)) else BLOCKS if path.is_dir() else KNOWN_RULES.get(path.name.partition(".")[0], BLOCKS)
    return _from_files(name, files, rule, field or "text")


def _from_files(name: str, files: list[Path], rule: Rule, field: str = "text") -> Text:
    title, key = TITLES.get(name, name), file_key(files, field, repr(rule))
    tokens = [file for file in files if file.suffix.lower() in TOKEN_ENDINGS]
    if tokens and len(tokens) < len(files):
        other = next(file for file in files if file not in tokens)
        raise UsageError(f"corpus '{name}' mixes tokens ({tokens[0].name}) and text ({other.name}): expected one or the other")
    if tokens:
        return Text(name, title, key, lambda ids: token_documents(tokens, ids.size, ids.end_of_text) if ids else iter(()), tokenised=True)

    def chunks() -> Iterator[bytes | None]:
        for file in files:
            yield from chunks_of(file, field)
            yield None

    return Text(name, title, key, lambda _: split(chunks(), rule))


def _from_hub(name: str, rest: str) -> Text:
    from .hub import fetched

    path, field = _with_field(rest)
    repository, _, configuration = path.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
        raise UsageError(f"corpus '{name}' is no data set of the hub: expected hf:NAME, hf:OWNER/NAME or hf:NAME:CONFIGURATION")
    return _from_files(name, [fetched(repository, configuration or None, field or "text")], ROWS, field or "text")


def _synthetic(name: str, rest: str) -> Text:
    match = re.fullmatch(r"(\d{1,9})(?::(\d*\.?\d+))?", rest)
    changed = float(match[2] or 0) if match else -1.0
    if match is None or not 0 <= changed <= 1:
        raise UsageError(f"corpus '{name}' is no synthetic source: expected synthetic:SEED or synthetic:SEED:CHANGED with CHANGED in 0..1")
    seed = int(match[1])
    key = f"synthetic {synthetic.REVISION} {seed} {changed!r}"
    pieces = functools.partial(synthetic.documents, seed, changed)
    title = f"Markov source {seed}" + (f", {changed:.0%} of its states changed" if changed else "")
    return Text(name, title, key, lambda _: split(pieces()), entropy=synthetic.chain(seed, changed).entropy)
