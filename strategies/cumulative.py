"""Going on with the same model on all data so far."""

from __future__ import annotations

from clsuite.plan import Plan
from clsuite.strategy import Strategy


class Cumulative(Strategy):
    """Cumulative training: the model goes on, on all data seen so far; an unlimited memory."""

    def plan(self, plan: Plan) -> Plan:
        return plan.replace(content=tuple(self.run.stream.experiences[: plan.experience.index + 1]))
