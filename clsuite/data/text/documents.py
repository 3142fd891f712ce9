"""Documents: where a text is cut, which are kept, and the part each belongs to.

A text is cut by the rule of its corpus (chapter, play, abstract), else into blocks. What is longer than two blocks is cut
into blocks too, each ending at a paragraph: a play of 200 kB would make a validation share of 5 % a matter of luck. A block
is 16 kB; a text below 8 MB has smaller ones, a 512th of it, at least 1 kB, for the same reason.

Blank lines around a document are left out, and of documents with the same content only the first is kept. The SHA-256 of
the content decides everything else: its first 8 bytes are the document's digest, the next 8 its part, the next 8 its shard.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import unknown

Document = bytes | np.ndarray
"""UTF-8 text, or token ids (little-endian uint32) where a corpus is tokens already."""

RULES = 1
"""Raised when the same files give other documents."""

SPLITS = {"none": ("train", "validation"), "two-phase": ("tuning-train", "tuning-validation", "evaluation-train", "evaluation-validation")}
PARTS = tuple(part for parts in SPLITS.values() for part in parts)
_ENDS = {"train": 95, "validation": 100, "tuning-train": 45, "tuning-validation": 50, "evaluation-train": 95, "evaluation-validation": 100}
"""The percentile of the hash at which a part ends; it begins where the one before it in its split ends."""

_BLOCK, _SMALLEST_BLOCK, _BLOCKS = 16384, 1024, 512
_HEADING = 4096
"""A heading that starts a document is a line shorter than this."""


@dataclass(frozen=True)
class Rule:
    """Regular expressions for one corpus: where a document starts (looking back at most two bytes), what is dropped from it.

    A piece shorter than `smallest` bytes goes with the one behind it: headings without text, tables of contents. Documents
    somebody else has marked (rows of a file) are cut at full blocks only, however short the text: `scaled=False`.
    """

    starts: str | None = None
    drop: str | None = None
    smallest: int = 256
    scaled: bool = True


BLOCKS, ROWS = Rule(), Rule(scaled=False)
_BLANK_LINE = r"(?<=\n\n)"
KNOWN_RULES = {
    "english_novels": Rule(
        r"^(?:(?:CHAPTER|Chapter) [IVXLC\d]+\b|BOOK [A-Z]+: \d|(?:FIRST|SECOND) EPILOGUE|Epilogue|PRELUDE|FINALE|ETYMOLOGY|EXTRACTS"
        r"|WAR AND PEACE$|DAVID COPPERFIELD$|Middlemarch$|MOBY-DICK;$|GREAT EXPECTATIONS$|PREFACE TO )",
        r"^(?:Produced by .*|An Anonymous Volunteer, and David Widger|this work etext98.*)$\n?",
        smallest=1024,
    ),
    "german_drama": Rule(
        _BLANK_LINE,
        r"^(?:Copyright \d{4}.*|Alle Rechte vorbehalten\..*\n.*Copyright \d{4}.*|Den Bühnen gegenüber als Manuskript gedruckt\.)$\n?",
    ),
    "german_law": Rule(r"^#+ "),
    "latex_algebraic_geometry": Rule(
        r"^\\(?:section\{|input\{preamble\})", r"^\\begin\{verbatim\}\nCopyright \(C\)[\s\S]*?^\\end\{verbatim\}$\n?", smallest=512
    ),
    "latin_prose": Rule(_BLANK_LINE, r"^The (?:Latin Library|Classics Page)$\n?"),
    "medical_abstracts": Rule(_BLANK_LINE),
    "wikitext2_test": Rule(r"^ = [^=\n]+ = $"),
    "wikitext2_valid": Rule(r"^ = [^=\n]+ = $"),
}


def block_size(total: int) -> int:
    """Length of a block in a text of `total` bytes (or tokens)."""
    return min(max(total // _BLOCKS, _SMALLEST_BLOCK), _BLOCK)


def split(chunks: Iterable[bytes | None], rule: Rule = BLOCKS) -> Iterator[bytes]:
    """Documents of a text that comes in chunks of any size; None is a border that no document crosses."""
    chunks = iter(chunks)
    head, total = [], 0
    for chunk in chunks:
        head.append(chunk)
        total += len(chunk or b"")
        if total >= _BLOCKS * _BLOCK:
            break
    block = block_size(total) if rule.scaled else _BLOCK
    chunks = itertools.chain(head, chunks)
    del head
    starts = re.compile(rule.starts.encode(), re.MULTILINE) if rule.starts else None
    drop = re.compile(rule.drop.encode(), re.MULTILINE) if rule.drop else None
    more = True
    while more:
        section = _Section(chunks)
        held = b""
        for piece in section.pieces(block, starts):
            held = held + piece if held else piece
            if len(held) < rule.smallest and not section.ended:
                continue
            held = (drop.sub(b"", held) if drop else held).strip(b"\r\n")
            if held and not held.isspace():
                yield held
            held = b""
        more = not section.last


class _Section:
    """The chunks up to the next border, cut into pieces; where they are cut does not depend on the chunks' sizes."""

    def __init__(self, chunks: Iterator[bytes | None]):
        self._chunks = chunks
        self.ended = False  # nothing is left behind the piece just given
        self.last = False  # nothing is left at all

    def _next(self) -> bytes | None:
        try:
            return next(self._chunks)
        except StopIteration:
            self.last = True
            return None

    def pieces(self, block: int, starts: re.Pattern[bytes] | None) -> Iterator[bytes]:
        buffer, start, whole, limit = b"", 0, False, 2 * block
        while True:
            while not whole and len(buffer) - start < limit + _HEADING:
                chunk = self._next()
                whole = chunk is None
                if chunk:
                    buffer, start = buffer[start:] + chunk, 0
            found = starts.search(buffer, start + 2, start + limit + _HEADING) if starts else None
            if found and found.start() - start <= limit:
                end = found.start()
            elif whole and len(buffer) - start <= limit:
                end = len(buffer)
            else:
                end = _paragraph_end(buffer, start, start + block)
            self.ended = whole and end == len(buffer)
            if end > start:
                yield buffer[start:end]
            if self.ended:
                return
            start = end


def _paragraph_end(text: bytes, start: int, end: int) -> int:
    """The last paragraph end in the second half of text[start:end]; else line end, else blank, else whole character."""
    middle = (start + end) // 2
    for ends in ((b"\n\n", b"\n\r\n"), (b"\n",), (b" ",)):
        at = max(text.rfind(mark, middle, end) + len(mark) for mark in ends)
        if at > middle:
            return at
    while text[end] & 0xC0 == 0x80:
        end -= 1
    return end


def digest_of(document: Document) -> bytes:
    """SHA-256 of a document's content."""
    return hashlib.sha256(document if isinstance(document, bytes) else document.astype("<u4").tobytes()).digest()


def split_of(part: str) -> str:
    """The split a part belongs to; `UsageError` for an unknown part."""
    for name, parts in SPLITS.items():
        if part in parts:
            return name
    raise unknown("part", part, PARTS)


def part_of(digest: bytes, split: str) -> str:
    """The part a document belongs to."""
    percent = int.from_bytes(digest[8:16], "big") * 100 >> 64
    return next(part for part in SPLITS[split] if percent < _ENDS[part])


def unique(documents: Iterable[Document], shard: tuple[int, int] = (0, 1)) -> Iterator[tuple[Document, bytes]]:
    """The first document of every content that falls into shard (k, n), with its SHA-256."""
    k, n = shard
    seen: set[bytes] = set()
    for document in documents:
        digest = digest_of(document)
        if n > 1 and int.from_bytes(digest[16:24], "big") * n >> 64 != k:
            continue
        if digest[:8] not in seen:
            seen.add(digest[:8])
            yield document, digest
