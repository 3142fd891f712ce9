"""`selected.yaml`: what the tuning phase chose, sealed, and the check that nobody changed it before the evaluation.

An entry a strategy: the chosen values, every trial with its scores, the hash of the search space and the fingerprint of the tuning
data. The seal finds a slip of the hand; that the entry equals what the stored trials give finds everything else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from .folder import put, writing
from .overrides import parse_yaml
from .space import Space
from .tuning import Trial, Tuning, finalists, incomplete, winner

FILE = "selected.yaml"
HEAD = "# What the tuning phase chose. Written by clsuite; the evaluation phase refuses a file that was changed by hand.\n"


def entry(tuning: Tuning, space: Space, fingerprint: str, done: list[Trial]) -> dict[str, Any]:
    """The sealed entry of one strategy."""
    chosen, missing = winner(tuning, done), incomplete(done)
    found: dict[str, Any] = {
        "status": "failed" if chosen is None else "incomplete" if missing else "complete",
        "trial": None if chosen is None else chosen.number,
        "values": None if chosen is None else chosen.values,
        "sampler": {"name": tuning.sampler, "seed": tuning.sampler_seed, "trials": tuning.trials},
        "selected_on": tuning.select_on,
        "space": {"hash": space.digest, "ranges": {d.path: d.described() for d in space.dimensions}},
        "tuning_data": fingerprint,
        "finalists": [t.number for t in finalists(tuning, done)],
        "not_completed": missing,
        "trials": [
            {"trial": t.number, "values": t.values, "scores": {str(s): _plain(v) for s, v in sorted(t.scores.items())}, "statuses": _texts(t.statuses)}
            for t in done
        ],
    }
    found = json.loads(json.dumps(found))
    return {**found, "seal": seal(found)}


def seal(values: Mapping[str, Any]) -> str:
    """SHA-256 over everything in an entry but the seal itself."""
    content = {key: value for key, value in values.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the file at once."""
    with writing(folder / FILE):
        put(folder / FILE, (HEAD + yaml.safe_dump(dict(entries), sort_keys=False, width=160)).encode(), replace=True)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries as they stand, each with an unbroken seal; nothing when there is no file yet. Raises `UsageError` otherwise."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        found = parse_yaml(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; {_mend(path)}") from error
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise UsageError(f"{path} is no selection; {_mend(path)}")
    for label, values in found.items():
        if values.get("seal") != seal(values):
            raise UsageError(f"{path}: the entry of '{label}' was edited after it was sealed; {_mend(path)}")
    return found


def check(folder: Path, expected: Mapping[str, Mapping[str, Any]], complete: bool = False) -> None:
    """Refuse a selection that is edited or foreign; with `complete` also one that is missing.

    `expected` is what the trials in the store give now. An entry over fewer trials than now is an older one of the same search,
    which the caller seals anew. Raises `UsageError`.
    """
    found, path = read(folder), folder / FILE
    for label, values in expected.items():
        there = found.get(label)
        if there is None:
            if complete:
                raise UsageError(f"{path} holds no selection for '{label}': run the tuning phase first")
            continue
        for key, meaning in (("space", "another search space"), ("tuning_data", "other tuning data"), ("selected_on", "another metric")):
            if there.get(key) != values[key]:
                raise UsageError(f"{path}: the entry of '{label}' comes from {meaning}; {_mend(path)}")
        if not _older(there, values) and there != values:
            raise UsageError(f"{path}: the entry of '{label}' is not what the trials in this folder give; {_mend(path)}")


def _older(there: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an entry rests on the first of the trials there are now (more may have been asked for since, or fewer)."""
    a, b = (e["trials"] if isinstance(e.get("trials"), list) else [] for e in (there, now))
    shared = min(len(a), len(b))
    return len(a) != len(b) and [t.get("values") for t in a[:shared]] == [t.get("values") for t in b[:shared]]


def _mend(path: Path) -> str:
    return f"remove {path.name} to choose again from the stored trials"


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _texts(values: Mapping[int, str]) -> dict[str, str]:
    return {str(seed): status for seed, status in sorted(values.items())}
