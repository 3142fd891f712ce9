"""Text that every Python carries: the language reference, and the source code of the standard library.

Both differ between versions of Python, and with them the corpora's identity.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ...errors import UsageError

_LIBRARY_BYTES = 4_000_000


def reference_files() -> list[Path]:
    """The file that holds the language reference."""
    try:
        spec = importlib.util.find_spec("pydoc_data.topics")
    except ImportError:
        spec = None
    if spec is None or not spec.origin:
        raise UsageError("corpus 'python_reference': this Python does not carry pydoc_data.topics; choose another corpus, for example 'python_library'")
    return [Path(spec.origin)]


def reference() -> Iterator[bytes | None]:
    """One document a topic, the longest first; a paragraph that an earlier one has is left out, as a chapter's topic repeats those of its sections."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = []
        for paragraph in topics[name].split("\n\n"):
            if paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                paragraphs.append(paragraph)
        yield "\n\n".join(paragraphs).encode()
        yield None


def library_files() -> list[Path]:
    """Top-level modules of the standard library in name order, as many as fit into 4 MB."""
    files, total = [], 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        total += file.stat().st_size
        if total > _LIBRARY_BYTES:
            break
        files.append(file)
    return files


def library() -> Iterator[bytes | None]:
    """One document a module; one that is not UTF-8 is skipped."""
    for file in library_files():
        content = file.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            continue
        yield content
        yield None
