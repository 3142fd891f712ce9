"""What methods share that train no classifier: features of an encoder that is frozen, and where it comes from."""

from __future__ import annotations

from typing import Any, Literal

from clsuite.errors import UsageError
from clsuite.plan import Plan
from clsuite.settings import setting
from clsuite.strategy import Strategy


class FrozenEncoder(Strategy):
    """Base of strategies that predict from features of an encoder trained at most on experience 0."""

    needs = frozenset({"classifier"})
    claims = frozenset({"owns_predict"})
    offers = frozenset()

    encoder: Literal["pretrained", "first_experience", "random"] | None = setting(None, help="null: pretrained if the model is, else first_experience")

    @property
    def features_from(self) -> str:
        return self.encoder or ("pretrained" if self.run.pretrained else "first_experience")

    def label(self) -> str:
        return f"{self.name} (encoder: {self.features_from})"

    def setup(self) -> None:
        if self.encoder == "pretrained" and not self.run.pretrained:
            raise UsageError("strategy.encoder = 'pretrained', but the model has no pretrained weights (valid here: first_experience, random)")
        if self.encoder == "random" and self.run.pretrained:
            raise UsageError("strategy.encoder = 'random', but the model has pretrained weights (valid here: pretrained, first_experience)")

    def plan(self, plan: Plan) -> Plan:
        learns = self.features_from == "first_experience" and plan.experience.index == 0
        return plan if learns else plan.replace(epochs=0)

    def report(self) -> dict[str, Any]:
        return {"encoder": self.features_from}
