"""Generators by name: what is drawn depends on who draws and why, never on what was drawn before.

A generator is seeded by the SHA-256 of its name, for example `(run seed, "order", experience, epoch)`. Two strategies
that ask for the same name see the same draws, so they are compared in pairs; adding a part that draws under its own
name changes nobody else's numbers.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

Name = str | int


def seed_of(*name: Name) -> int:
    """A 128-bit seed for a name (strings and integers)."""
    text = json.dumps([n if isinstance(n, str) else int(n) for n in name])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def generator(*name: Name) -> np.random.Generator:
    """A fresh NumPy generator for a name."""
    return np.random.Generator(np.random.PCG64(seed_of(*name)))


def torch_seed(*name: Name) -> int:
    """A seed for `torch.manual_seed` (63 bits)."""
    return seed_of(*name) >> 65
