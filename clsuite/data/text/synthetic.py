"""A synthetic source with known entropy: a first-order Markov chain over 64 printable bytes.

State i has a row of transition probabilities: 99 % a Dirichlet draw (concentration 0.1), 1 % uniform, so that every
transition is possible; rounded to multiples of 2^-16, so that sampling is exact. Of `synthetic:SEED:CHANGED` the share
CHANGED of the states, the same ones for a larger share, have a row of their own; all other rows are those of
`synthetic:SEED`. A document is 4,095 symbols, the first from the stationary distribution (rounded as well), and an
end-of-text token; there are 4,096 documents. Each corpus draws its own documents.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...randomness import generator

SYMBOLS, LENGTH, DOCUMENTS = 64, 4095, 4096
REVISION = 1
"""Raised when the same name gives other text."""
_FIRST = 48
"""The byte of symbol 0; symbols are the bytes '0' to 'o', none of them a blank."""
_SCALE = 1 << 16
_CONCENTRATION, _UNIFORM = 0.1, 0.01
_TOGETHER = 512


@dataclass(frozen=True, eq=False)
class Chain:
    """Transition counts [states, states] and start counts [states] out of 2^16, and the symbols of a document."""

    transitions: np.ndarray
    start: np.ndarray
    length: int = LENGTH

    @functools.cached_property
    def entropy(self) -> float:
        """Nats per token, exactly: the least mean loss over all tokens that any predictor can reach.

        With p_1 the start distribution and p_t = p_{t-1} P, a document has H(p_1) + sum_{t=1}^{length-1} sum_i p_t(i) H(P_i)
        nats. Its end-of-text token is certain for whoever has seen the whole document, so it adds nothing, but it is a
        token: the sum is divided by length + 1. A predictor that knows only the token before cannot tell the position; it
        pays (log(length) + (length-1) log(length / (length-1))) / (length+1) more, 0.0023 at 4,095 symbols.
        """
        rows = np.array([_entropy(row) for row in self.transitions / _SCALE])
        p = self.start / _SCALE
        total = _entropy(p)
        for _ in range(self.length - 1):
            total += float(p @ rows)
            p = p @ (self.transitions / _SCALE)
        return total / (self.length + 1)

    def sample(self, documents: int, rng: np.random.Generator) -> np.ndarray:
        """Symbols, uint8 [documents, length]."""
        states = len(self.start)
        symbols = np.arange(states, dtype=np.uint8)
        start = np.repeat(symbols, self.start)
        following = np.stack([np.repeat(symbols, row) for row in self.transitions])
        found = np.empty((self.length, documents), dtype=np.uint8)
        for t in range(self.length):
            drawn = rng.integers(0, _SCALE, documents, dtype=np.uint16)
            found[t] = following[found[t - 1], drawn] if t else start[drawn]
        return found.T


@functools.lru_cache(maxsize=16)
def chain(seed: int, changed: float = 0.0) -> Chain:
    """The chain of `synthetic:SEED:CHANGED`."""
    own = set(generator(seed, "synthetic", "changed states").permutation(SYMBOLS)[: round(changed * SYMBOLS)].tolist())
    rows = []
    for state in range(SYMBOLS):
        draw = generator(seed, "synthetic", "row", state, *(["own"] if state in own else [])).dirichlet(np.full(SYMBOLS, _CONCENTRATION))
        rows.append(_counts((1 - _UNIFORM) * draw + _UNIFORM / SYMBOLS))
    transitions = np.stack(rows)
    return Chain(transitions, _counts(stationary(transitions / _SCALE)))


def stationary(matrix: np.ndarray) -> np.ndarray:
    """The distribution p with p = p matrix, for an irreducible chain."""
    states = len(matrix)
    equations = np.vstack([matrix.T - np.eye(states), np.ones(states)])
    return np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0), rcond=None)[0]


def documents(seed: int, changed: float = 0.0) -> Iterator[bytes | None]:
    """The text, with a border behind every document."""
    source = chain(seed, changed)
    rng = generator(seed, "synthetic", "documents", repr(changed))
    for first in range(0, DOCUMENTS, _TOGETHER):
        for row in source.sample(min(_TOGETHER, DOCUMENTS - first), rng):
            yield (row + np.uint8(_FIRST)).tobytes()
            yield None


def _counts(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as counts out of 2^16, each at least 1; what rounding leaves goes to the largest."""
    counts = np.maximum(np.rint(probabilities * _SCALE).astype(np.int64), 1)
    counts[np.argmax(counts)] += _SCALE - counts.sum()
    return counts


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
