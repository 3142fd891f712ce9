"""Corpora and tokenizers of the Hugging Face hub, fetched once into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from ...errors import MissingData, UsageError
from ..cache import cache_root
from ..places import one_line

_MOST_BYTES = 512_000_000
"""A fetched corpus ends at the first row that reaches this many bytes of text."""


def must_answer(name: str, revision: str | None = None) -> None:
    """Ask the hub for a model and raise, within seconds, what its client raises: a download tries again for half a minute first."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, revision=revision, timeout=PATIENCE)


def _offline() -> bool:
    return os.environ.get("CLSUITE_OFFLINE") == "1"


PATIENCE = 5.0
"""Seconds for an answer about what there is; downloads have the hub client's own."""


def fetched(name: str, configuration: str | None, field: str) -> Path:
    """The `train` split of a data set as JSON lines, streamed from the hub on first use, at most 512 MB of text.

    Raises `UsageError` without the package `datasets` or the field, `MissingData` when the hub cannot be reached.
    """
    corpus = f"corpus 'hf:{name}{f':{configuration}' if configuration else ''}'"
    key = hashlib.sha256(json.dumps([name, configuration, field, _MOST_BYTES]).encode()).hexdigest()[:12]
    target = cache_root() / "hub" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}-{key}.jsonl"
    if target.is_file():
        return target
    instead = "save its text as JSON lines and give file:PATH.jsonl"
    if _offline():
        raise MissingData(f"{corpus} was not fetched before and downloads are off (CLSUITE_OFFLINE=1): {instead}")
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{corpus} needs the package 'datasets': pip install datasets, or {instead}") from error
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, prefix=".writing-", delete=False) as file:
            temporary, total = file.name, 0
            for row in datasets.load_dataset(name, configuration, split="train", streaming=True):
                if not isinstance(row.get(field), str):
                    raise UsageError(f"{corpus} has no text in field '{field}' (it has {', '.join(map(repr, row))}): choose one with hf:NAME?field=NAME")
                file.write(json.dumps({field: row[field]}) + "\n")
                total += len(row[field].encode(errors="replace"))
                if total >= _MOST_BYTES:
                    break
        os.replace(temporary, target)
        temporary = None
    except UsageError:
        raise
    except Exception as error:  # network, disk, an unknown name, a gated set: the line says what to do instead
        raise MissingData(f"{corpus} cannot be fetched: {one_line(error)}; {instead}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    print(f"fetched {name} ({total / 1e6:.0f} MB of text) to {target}", file=sys.stderr)
    return target


def tokenizer_file(name: str) -> Path:
    """`tokenizer.json` of a model of the hub; only from the hub's own cache when downloads are off."""
    instead = "save its tokenizer.json and give file:PATH/tokenizer.json"
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"tokenizer 'hf:{name}' needs the package 'huggingface_hub': pip install huggingface_hub, or {instead}") from error
    try:
        with contextlib.suppress(Exception):
            return Path(huggingface_hub.hf_hub_download(name, "tokenizer.json", local_files_only=True))
        if not _offline():
            must_answer(name)
        return Path(huggingface_hub.hf_hub_download(name, "tokenizer.json", local_files_only=_offline()))
    except Exception as error:  # network, an unknown or gated name: the line says what to do instead
        raise MissingData(f"tokenizer 'hf:{name}' cannot be fetched: {one_line(error)}; {instead}") from error
