"""Plain fine-tuning on every experience: the lower reference of every table."""

from __future__ import annotations

from clsuite.strategy import Strategy


class Naive(Strategy):
    """Sequential fine-tuning: nothing is done against forgetting."""
