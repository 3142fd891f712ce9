"""Training on the last experience alone, as if there had been nothing before."""

from __future__ import annotations

from clsuite.plan import Plan
from clsuite.strategy import Strategy


class DownstreamOnly(Strategy):
    """Downstream only: initial weights trained on the last experience; nothing is trained or measured before it.

    What the last experience gains from those before it (or loses) is seen against this line.
    """

    offers = frozenset()

    def plan(self, plan: Plan) -> Plan:
        if plan.experience.index < len(self.run.stream) - 1:
            return plan.replace(epochs=0, measured=False)
        return plan.replace(fresh_model=True)
