"""Training from scratch on all data so far: the upper reference."""

from __future__ import annotations

from clsuite.plan import Plan
from clsuite.strategy import Strategy

LONG_STREAM = 50
"""Streams of more experiences than this are trained jointly only once, at the end."""


class Joint(Strategy):
    """Joint training: after every experience a fresh model, trained on all data seen so far.

    On streams of more than 50 experiences only the last model is trained (the rows before it stay empty).
    """

    offers = frozenset()

    def plan(self, plan: Plan) -> Plan:
        experiences, i = self.run.stream.experiences, plan.experience.index
        if len(experiences) > LONG_STREAM and i < len(experiences) - 1:
            return plan.replace(epochs=0, measured=False)
        return plan.replace(content=tuple(experiences[: i + 1]), fresh_model=True)
