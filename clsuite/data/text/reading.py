"""Files of text as streams of chunks: plain, xz, gzip, JSON lines, Parquet; None marks a border between documents.

Nothing holds more than a few megabytes, and every fault is one `UsageError` that names the file and the place in it.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ...errors import UsageError
from ..layouts import readable
from ..places import one_line

_CHUNK = 1 << 20
_PACKED = (".xz", ".gz")
TEXT_ENDINGS = frozenset({".txt", ".text", ".md", ".rst", ".tex", ".py", ".csv", ".html", ".xml"})
"""Taken from a folder of files; a single file may have any ending."""
_ROWS = frozenset({".jsonl", ".parquet"})

_HEAD = 1 << 16
_FRAME = re.compile(rb"\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG EBOOK[^\n]{0,160}\n?")
_MARK = 256
"""An e-book's mark is shorter than this."""


def ending(path: Path) -> str:
    """The ending that says what a file holds: of `a.jsonl.gz` it is `.jsonl`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _PACKED else path.suffix.lower()


def is_rows(path: Path) -> bool:
    """Whether a file has a field to choose (JSON lines, Parquet)."""
    return ending(path) in _ROWS


def chunks_of(path: Path, field: str = "text") -> Iterator[bytes | None]:
    """A file's text as UTF-8, in chunks; borders between the rows of `.jsonl` and `.parquet`, whose text is in `field`."""
    kind = ending(path)
    if kind == ".parquet":
        return _parquet(path, field)
    if kind == ".jsonl":
        return _json_lines(path, field)
    return _without_frame(_plain(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked content of a file."""
    packed = path.suffix.lower()
    opened: Any = path.open
    if packed == ".gz":
        opened = functools.partial(gzip.open, path)
    if packed != ".xz":
        with readable(path), opened("rb") as file:
            yield file
        return
    import lzma

    try:
        with readable(path), lzma.open(path) as file:
            yield file
    except lzma.LZMAError as error:
        raise UsageError(f"{path} cannot be read, it may be damaged: {one_line(error)}") from error


def _plain(path: Path) -> Iterator[bytes]:
    """Chunks of a text file, each whole characters; a byte-order mark is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, at, rest = 0, 0, b""
    with _opened(path) as file:
        while True:
            chunk = file.read(_CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = before - pending + error.start
                raise UsageError(f"{path} is not UTF-8 text: byte {offset} ({error.reason}); convert it to UTF-8 first") from error
            before += len(chunk)
            chunk = rest + chunk
            kept = len(chunk) - len(decoder.getstate()[0])
            chunk, rest = chunk[:kept], chunk[kept:]
            if not chunk and not rest:
                return
            yield chunk.removeprefix(codecs.BOM_UTF8) if not at else chunk
            at += len(chunk)


def _without_frame(chunks: Iterator[bytes]) -> Iterator[bytes | None]:
    """The text without what Project Gutenberg puts before and behind a book; books one after another have borders between them."""
    held = b""
    for chunk in chunks:
        held += chunk
        if len(held) >= _HEAD:
            break
    first = _FRAME.search(held, 0, _HEAD)
    inside = first is None or first[1] == b"END"
    ended = False
    while True:
        mark = _FRAME.search(held)
        if mark and (ended or mark.start() < len(held) - _MARK):
            if inside:
                yield held[: mark.start()]
                yield None
            inside = mark[1] == b"START"
            held = held[mark.end() :]
            continue
        keep = 0 if ended else _MARK
        if inside:
            yield held[: len(held) - keep]
        held = held[max(len(held) - keep, 0) :]
        if ended:
            return
        more = next(chunks, None)
        ended = more is None
        held += more or b""


def _json_lines(path: Path, field: str) -> Iterator[bytes | None]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # also what is not UTF-8
                raise UsageError(f"{place} is not valid JSON: {one_line(error)}") from error
            if not isinstance(row, dict) or field not in row:
                there = f"it has {', '.join(map(repr, row)) or 'none'}" if isinstance(row, dict) else f"it is {type(row).__name__}"
                raise UsageError(f"{place} has no field '{field}' ({there}): choose one with file:PATH?field=NAME")
            yield _encoded(row[field], place, field)
            yield None


def _encoded(value: Any, place: str, field: str) -> bytes:
    if not isinstance(value, str):
        raise UsageError(f"{place}: field '{field}' is {type(value).__name__}, expected text")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{place}: field '{field}' holds half a surrogate pair at character {error.start}, which is no text") from error


def _parquet(path: Path, field: str) -> Iterator[bytes | None]:
    with readable(path):
        try:
            import pyarrow as arrow
            import pyarrow.parquet
        except ImportError as error:
            raise UsageError(f"{path} needs the package 'pyarrow': pip install pyarrow") from error
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow
            if field not in columns.names:
                raise UsageError(f"{path} has no column '{field}' (it has {', '.join(columns.names) or 'none'}): choose one with file:PATH?field=NAME")
            kind = columns.field(field).type
            kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise UsageError(f"{path}: column '{field}' is {kind}, expected strings")
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[field], use_threads=False):
                    for text in batch.column(0).to_pylist():
                        if text is not None:
                            yield text.encode()
                            yield None
