"""What never leaves the machine: passwords, tokens, keys, credentials in addresses, values of secret environment variables, home folders."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"
_KINDS = (
    "access|api|app|auth|aws|azure|bearer|bot|client|deploy|encryption|gcp|gh|github|gitlab|hf|hub|huggingface"
    "|id|personal|private|refresh|secret|session|signing|ssh|wandb"
)
_WHOLE = "password|passwd|passphrase|secrets?|credentials?|authorization|cookie"
NAME = re.compile(rf"(?:.*[_\-])?(?:{_WHOLE}|(?:{_KINDS})[_\-]?(?:tokens?|keys?))|token|auth", re.IGNORECASE)
"""A setting that is a secret by its name. Text models have `tokens`, `tokenizer` and `pad_token`, which are none."""
VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
SHORTEST = 8
"""Values of secret variables that are shorter would hide half of every text."""
SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}|sk-[\w\-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|xox[abprs]-[\w\-]{10,}|AIza[\w\-]{30,}|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]+)",
    re.DOTALL,
)
"""Secrets that can be told by their look."""
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY = re.compile(r"(?<=[?&])([\w\-]*(?:token|key|secret|passw|signature|sig|credential)[\w\-]*)=[^&\s#]+", re.IGNORECASE)


def clean(value: Any) -> Any:
    """A plain value without secrets: entries with a secret's name are left out, within texts they are replaced."""
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(v) for key, v in value.items() if not secret(str(key))}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return text(value) if isinstance(value, str) else value


def secret(path: str) -> bool:
    """Whether a part of a dotted path is the name of a secret."""
    return any(NAME.fullmatch(part) for part in path.split("."))


def text(value: str) -> str:
    """A text without secrets, with `~` for the home folder."""
    for found in _values(tuple(sorted((k, v) for k, v in os.environ.items() if VARIABLE.search(k)))):
        value = value.replace(found, HIDDEN)
    value = _QUERY.sub(rf"\1={HIDDEN}", _LOGIN.sub("", SHAPES.sub(HIDDEN, value)))
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w.\-/]){re.escape(home)}(?=/|$)", "~", value) if home else value


@functools.lru_cache(maxsize=1)
def _values(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Longer ones first, so that of a secret that holds another nothing stays."""
    return tuple(sorted({value for _, value in variables if len(value) >= SHORTEST}, key=len, reverse=True))
