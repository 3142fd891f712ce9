"""Token arrays on disk: one folder a corpus, tokenizer and split, with a file of tokens and a file of digests a part.

All parts of a split are written in one pass over the text, of which a few megabytes are in memory at a time. The folder
gets its name when it is whole, so that processes may build it at once; one that is damaged is built again. Where the cache
cannot be written, the arrays lie in a temporary folder for as long as the process, and where that fails too, in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..cache import cache_root, cached_text
from .documents import SPLITS, Document, part_of
from .names import Text
from .tokenizer import Tokenizer

_FORMAT = 1
"""Raised when the stored form of the same documents changes."""
_BATCH = 1 << 20
"""Bytes (or tokens) of documents that are encoded together."""
_STALE_SECONDS = 86400
_CHECKED, _SAMPLE = 1 << 28, 1 << 16


@dataclass
class Tokens:
    """One part: token ids [N], sorted uint64 digests of its documents, and the UTF-8 bytes these documents have."""

    tokens: np.ndarray
    digests: np.ndarray
    bytes: int


@dataclass
class Stored:
    """All parts of a split, and the identity of the whole text."""

    parts: dict[str, Tokens]
    identity: str


def open_tokens(text: Text, tokenizer: Tokenizer, split: str, dtype: np.dtype) -> Stored:
    """The parts of a split, from the cache or built now, tokens read-only. Raises `UsageError` when a part would be empty."""
    key = repr((_FORMAT, text.cache_key(tokenizer), tokenizer.identity, split, dtype.str))
    folder = cache_root() / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:24]
    found = _open(folder)
    if found is None:
        found = _built(text, tokenizer, split, dtype, folder)
        identity = found.identity
        cached_text("identity", text.cache_key(tokenizer), "[0-9a-f]{64}", lambda: identity)
    return found


def _built(text: Text, tokenizer: Tokenizer, split: str, dtype: np.dtype, folder: Path) -> Stored:
    with contextlib.suppress(OSError):  # an error of the source is a UsageError: this is the cache
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        try:
            _write(text, tokenizer, split, dtype, temporary)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        if (found := _open(folder)) is not None:
            return found
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="clsuite-tokens-", ignore_cleanup_errors=True) as temporary_folder:
        _write(text, tokenizer, split, dtype, Path(temporary_folder))
        if (found := _open(Path(temporary_folder))) is not None:
            return found  # the maps outlive the files' names
    return _in_memory(text, tokenizer, split, dtype)


@dataclass
class _Part:
    """What is counted of a part while it is written."""

    sink: Any
    tokens: int = 0
    bytes: int = 0
    digests: array = field(default_factory=lambda: array("Q"))

    def sorted_digests(self) -> np.ndarray:
        return np.sort(np.frombuffer(self.digests, dtype=np.uint64)).astype("<u8")


def _pass(text: Text, tokenizer: Tokenizer, split: str, dtype: np.dtype, sinks: dict[str, Any]) -> tuple[dict[str, _Part], str]:
    """Read the text once, hand every part's tokens to its sink; counts of the parts and the text's identity."""
    parts = {part: _Part(sinks[part]) for part in SPLITS[split]}
    identity = hashlib.sha256()
    count = 0
    for batch in _batches(text, tokenizer):
        for _, digest in batch:
            identity.update(digest)
        count += len(batch)
        members: dict[str, list[Document]] = {part: [] for part in parts}
        for document, digest in batch:
            part = part_of(digest, split)
            members[part].append(document)
            parts[part].digests.append(int.from_bytes(digest[:8], "big"))
        for part, documents in members.items():
            if documents:
                ids, length = _encoded(documents, tokenizer, dtype)
                parts[part].sink(ids)
                parts[part].tokens += len(ids)
                parts[part].bytes += length
    for name, found in parts.items():
        if not found.tokens:
            raise UsageError(
                f"corpus '{text.name}' is too small: its part '{name}' would be empty, as it has only {count} document{'s' * (count > 1)}; give a longer text"
            )
    return parts, identity.hexdigest()


def _batches(text: Text, tokenizer: Tokenizer) -> Iterator[list[tuple[Document, bytes]]]:
    batch: list[tuple[Document, bytes]] = []
    size = 0
    for found in text.documents(tokenizer):
        batch.append(found)
        size += len(found[0])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(documents: list[Document], tokenizer: Tokenizer, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Ids of documents one after another, an end of text behind each; and the documents' bytes."""
    texts = [document for document in documents if isinstance(document, bytes)]
    if texts:
        encoded, length = tokenizer.encode(texts), sum(map(len, texts))
    else:
        encoded = [document for document in documents if isinstance(document, np.ndarray)]
        length = sum(int(tokenizer.byte_lengths[ids].sum()) for ids in encoded)
    ids = np.empty(sum(map(len, encoded)) + len(encoded), dtype=dtype)
    at = 0
    for found in encoded:
        ids[at : at + len(found)] = found
        ids[at + len(found)] = tokenizer.end_of_text
        at += len(found) + 1
    return ids, length


def _write(text: Text, tokenizer: Tokenizer, split: str, dtype: np.dtype, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context((folder / f"{part}.tokens").open("wb")) for part in SPLITS[split]}
        parts, identity = _pass(text, tokenizer, split, dtype, {part: lambda ids, file=file: file.write(ids.data) for part, file in files.items()})
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    index: dict[str, Any] = {"corpus": text.name, "tokenizer": tokenizer.name, "dtype": dtype.str, "identity": identity, "parts": {}}
    for name, part in parts.items():
        digests = part.sorted_digests()
        digests.tofile(folder / f"{name}.documents")
        check = _checksum(np.memmap(folder / f"{name}.tokens", dtype, mode="r")), _checksum(digests)
        index["parts"][name] = {"tokens": part.tokens, "documents": len(digests), "bytes": part.bytes, "crc": check}
    (folder / "index.json").write_text(_sealed(index), encoding="utf-8")


def _publish(temporary: Path, folder: Path) -> None:
    """Give a whole folder its name; another process's whole one stays, a damaged one goes."""
    try:
        os.rename(temporary, folder)
    except OSError:
        if _open(folder) is not None:
            return
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        os.rename(folder, aside / "damaged")
        os.rename(temporary, folder)
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what a killed process left a day ago or longer."""
    for left in parent.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _open(folder: Path) -> Stored | None:
    """What lies in a folder, if lengths and checksums agree."""
    try:
        index = _unsealed((folder / "index.json").read_text(encoding="utf-8"))
        dtype, parts = np.dtype(index["dtype"]), {}
        for name, facts in index["parts"].items():
            tokens = np.memmap(folder / f"{name}.tokens", dtype, mode="r")
            digests = np.fromfile(folder / f"{name}.documents", dtype="<u8")
            if (len(tokens), len(digests)) != (facts["tokens"], facts["documents"]) or [_checksum(tokens), _checksum(digests)] != facts["crc"]:
                return None
            digests.flags.writeable = False
            parts[name] = Tokens(tokens, digests, facts["bytes"])
        return Stored(parts, index["identity"])
    except Exception:  # whatever is wrong with a cached folder, it can be built again
        return None


def _in_memory(text: Text, tokenizer: Tokenizer, split: str, dtype: np.dtype) -> Stored:
    kept: dict[str, list[np.ndarray]] = {part: [] for part in SPLITS[split]}
    parts, identity = _pass(text, tokenizer, split, dtype, {part: arrays.append for part, arrays in kept.items()})
    stored = {}
    for name, part in parts.items():
        stored[name] = Tokens(np.concatenate(kept.pop(name)), part.sorted_digests(), part.bytes)
        stored[name].tokens.flags.writeable = stored[name].digests.flags.writeable = False
    return Stored(stored, identity)


def _checksum(values: np.ndarray) -> int:
    """CRC-32 of an array; above 256 MB of 4,096 evenly spaced samples of 64 kB, so that opening stays quick."""
    content = values.view(np.uint8)
    if len(content) <= _CHECKED:
        return zlib.crc32(content.data)
    crc = 0
    for start in np.linspace(0, len(content) - _SAMPLE, _CHECKED // _SAMPLE).astype(np.int64).tolist():
        crc = zlib.crc32(content[start : start + _SAMPLE].data, crc)
    return crc


def _sealed(index: dict[str, Any]) -> str:
    content = json.dumps(index)
    return json.dumps({"index": json.loads(content), "crc": zlib.crc32(content.encode())})


def _unsealed(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if zlib.crc32(json.dumps(found["index"]).encode()) != found["crc"]:
        raise ValueError("damaged")
    return found["index"]
